//! The shapes that every kernel is checked on.

use std::collections::HashMap;
use std::fmt;

use sdpa_core::{
    Attention, DeviceLimits, Extensions, Generation, LaunchPlan, MAX_HEAD_DIM, Operand, Problem, Specialisation,
    Unsupported,
};

use crate::case::Case;
use crate::far::{near, stretched};
use crate::needs::case_as_needed;

/// Lengths, heads, masks, layouts and numbers; every width below is put in for the head dimension.
const GEOMETRIES: [&str; 20] = [
    // Four key tiles, the last one ragged.
    "L200 full normal seed=1",
    // Key tiles that only the lower half of a query tile sees, and several tiles for a block that stays.
    "h3 q120 kv421 causal normal seed=15",
    // Rows of two query tiles, several heads to a key head, the diagonal at the end.
    "h4/2 q70 kv193 causal normal seed=2",
    // The first rows see no key.
    "h2 q150 kv130 causal ascending seed=3",
    "b2 h2 q37 kv150 causal-top-left blhd peaked seed=4",
    // Many tiles, the last with a single key, under a negative scale.
    "q65 kv577 full scale=-0.25 outliers seed=5",
    // Rows far apart, and other strides for each operand.
    "h2 q35 kv131 causal query=18480,9240,264 key=69168,34584,264 value=69168,264,528 output=18480,264,528 integers seed=6",
    "q1 kv257 causal normal seed=7",
    // Heads that share a tile, and keys enough for several blocks, whose last ones only some rows see.
    "h8/2 q5 kv515 causal-top-left normal seed=13",
    // The same with several blocks to each of two tiles, and the last keys the last rows' alone.
    "h8/2 q5 kv771 causal normal seed=15",
    // Enough rows for the largest tiles, several of whose key tiles need a mask; and a negative scale over keys that fit
    // kernels which hold them all.
    "h8/2 q100 kv197 causal scale=-0.125 normal seed=11",
    // Rows and keys enough for a ring of stages to come round while tiles need a mask.
    "h2 q200 kv450 causal normal seed=13",
    "q150 kv300 full normal seed=14",
    "h5 L1 full normal seed=8",
    // Tiles without any work, several in a row for a block that stays.
    "h5 q5 kv0 full normal seed=9",
    // Long enough for the kernels with a third stage, and few queries, since somebody waits. The last row alone sees
    // the last key.
    "q33 kv2113 causal normal seed=10",
    // Logits so large that rows are computed once more, exactly: some rows see no key, several heads and sequences, a
    // negative scale, and parts of the keys that are merged.
    "b2 h2/1 q5 kv3 causal vast-logits seed=16",
    "h3 q2 kv5 full scale=-0.5 vast-logits seed=17",
    "h2/1 q1 kv513 full vast-logits seed=18",
    "q0 kv5 full normal seed=19",
];

/// Head dimensions that fill a kernel's width and that do not, for each kernel that there is so far.
const WIDTHS: [&str; 14] = [
    "d64 f16",
    "d8 f16",
    "d128 f16",
    "d72 f16",
    "d96 f16",
    "d104 f16",
    "d192 f16",
    "d256 f16",
    "d200 f16",
    "d64 bf16",
    "d128 bf16",
    "d88 bf16",
    "d192 bf16",
    "d256 bf16",
];

/// Enough rows for every part of a warp's, and few enough for every head dimension in steps of 8: each is the only one
/// that some guard of some column is for.
const EVERY_WIDTH: &str = "L33 full normal seed=12";

/// Sizes beyond those above, each with what a kernel that fails it has not thought of; and the multiprocessors that it is
/// planned for, if it is about persistent blocks. Few rows, so that many keys, heads and sequences stay fast.
const BEYOND: [(&str, &str, Option<u32>); 50] = [
    ("groups that are no power of two", "h6/2 L65 d64 f16 full normal seed=20", None),
    ("groups that are no power of two", "h5/1 q9 kv129 d64 bf16 causal normal seed=21", None),
    ("groups that are no power of two", "h3/1 q5 kv700 d64 f16 full normal seed=22", None),
    ("groups that are no power of two", "h14/2 q3 kv577 d128 f16 causal normal seed=23", None),
    ("groups that are no power of two", "h12/1 q16 kv70 d64 f16 causal-top-left normal seed=24", None),
    ("more than four sequences", "b5 h2 L65 d64 f16 full blhd normal seed=25", None),
    ("more than four sequences", "b70 h2 q1 kv5 d64 f16 causal normal seed=26", None),
    // More parts, too, than any kernel merges at once.
    ("more than 4096 keys", "q1 kv4300 d64 f16 full normal seed=27", None),
    ("more than 4096 keys", "h2/1 q2 kv8923 d40 f16 causal normal seed=28", None),
    ("more than 4096 keys", "q1 kv4200 d128 f16 full normal seed=29", None),
    // In kernels that only longer rows take.
    ("logits beyond 2^24", "b2 h2/1 q3 kv300 d64 bf16 causal vast-logits seed=46", None),
    ("logits beyond 2^24", "h2 q3 kv300 d64 f16 full scale=-0.5 vast-logits seed=47", None),
    ("logits beyond 2^24", "q1 kv2113 d64 f16 full vast-logits seed=48", None),
    ("logits beyond 2^24", "q1 kv2113 d128 f16 causal vast-logits seed=49", None),
    ("logits beyond 2^24", "q17 kv1030 d64 f16 full vast-logits seed=50", None),
    // Both halves of a warp's rows, of several warps.
    ("logits beyond 2^24", "h2 q40 kv33 d64 f16 full vast-logits seed=51", None),
    // Enough causal tiles for the largest kernels on one multiprocessor.
    ("logits beyond 2^24", "h8/2 q5 kv3 d64 f16 causal vast-logits seed=84", None),
    // One query in one part, and several queries that see different keys of several parts.
    ("logits beyond 2^24", "q1 kv40 d64 f16 full vast-logits seed=52", None),
    ("logits beyond 2^24", "b2 h2/1 q3 kv515 d64 f16 causal vast-logits seed=53", None),
    // Several keys of a row have its largest logit: of vast ones drawn by chance one has all the weight.
    ("logits beyond 2^24", "h2 q40 kv33 d64 f16 full scale=1e8 integers seed=78", None),
    ("logits beyond 2^24", "b2 h2/1 q3 kv515 d64 f16 causal scale=1e8 integers seed=79", None),
    // A single key, so that the largest logit of half of the rows is negative.
    ("logits beyond 2^24", "h4/2 q3 kv1 d64 f16 full vast-logits seed=67", None),
    // Long tiles, then short ones, and the other way round, for one block or for several.
    ("tiles in another order", "h2 q384 kv256 d64 f16 causal normal seed=30", Some(1)),
    ("tiles in another order", "h3 q400 kv300 d64 f16 causal-top-left normal seed=31", Some(2)),
    ("tiles in another order", "h2 q260 kv200 d64 f16 causal normal seed=32", Some(3)),
    ("tiles in another order", "h2 q384 kv256 d128 f16 causal normal seed=33", Some(1)),
    ("tiles in another order", "h2 q300 kv70 d64 f16 full scale=-0.125 normal seed=34", Some(1)),
    ("tiles in another order", "h3 q128 kv0 d64 f16 full normal seed=35", Some(2)),
    ("tiles in another order", "b2 h2 q130 kv129 d64 bf16 causal normal seed=36", Some(1)),
    // So many keys that two of three heads fill the L2 cache, of which the first rows see few: the third head's tiles
    // come after all of theirs. Heads share keys and values, so that there is little to draw.
    (
        "more heads than a section has",
        "h3 q260 kv50000 d64 f16 causal-top-left key=0,0,64 value=0,0,64 normal seed=54",
        Some(1),
    ),
    (
        "more heads than a section has",
        "h3 q260 kv50000 d64 f16 causal-top-left key=0,0,64 value=0,0,64 normal seed=55",
        Some(2),
    ),
    ("a last tile that is full", "h2 q130 kv256 d64 f16 full normal seed=56", None),
    ("a last tile that is full", "q70 kv256 d128 bf16 full normal seed=57", None),
    ("a last tile that is full", "h2 q150 kv256 d64 f16 full huge-logits seed=77", None),
    // Of two passes the second has the ragged tile, for one query and for several; and more tiles than its ring holds.
    ("a ragged tile in a later pass", "h2 q1 kv345 d64 f16 full normal seed=58", Some(1)),
    ("a ragged tile in a later pass", "h4/2 q3 kv345 d64 f16 full normal seed=59", Some(1)),
    ("more tiles in a pass than stages", "q1 kv6200 d96 f16 full normal seed=60", Some(1)),
    // More slices of the parts than a row sees parts.
    ("parts that some rows do not see", "h2/1 q3 kv1100 d64 f16 causal-top-left normal seed=61", None),
    // Of the last tile's keys different numbers, so that each of the rows that a thread copies is once the first beyond them.
    ("ragged tiles of other lengths", "q1 kv404 d64 f16 full normal seed=68", Some(1)),
    ("ragged tiles of other lengths", "q2 kv316 d64 f16 causal normal seed=69", Some(1)),
    ("ragged tiles of other lengths", "q1 kv456 d128 f16 full normal seed=70", Some(1)),
    ("ragged tiles of other lengths", "q2 kv366 d64 f16 full normal seed=71", None),
    ("a negative scale for few queries", "h4/2 q5 kv300 d64 f16 causal scale=-0.25 normal seed=72", None),
    ("a negative scale for few queries", "q1 kv530 d128 bf16 full scale=-0.125 normal seed=73", None),
    ("huge logits for few queries", "h2/1 q3 kv400 d64 f16 full huge-logits seed=80", None),
    // A masked score times a scale of 0 must not be NaN.
    ("a scale of 0", "h2 q40 kv33 d64 f16 causal scale=0 normal seed=83", None),
    ("few queries, of which some see no key", "h2/1 q9 kv5 d64 f16 causal normal seed=81", None),
    ("as many queries as fill their tiles", "h2 q128 kv70 d64 f16 causal normal seed=82", None),
    // The tile of the first two queries sees whole parts, and nothing of the next.
    ("rows that see whole parts", "h8/1 q5 kv771 d64 f16 causal normal seed=74", None),
    ("three tiles with a mask", "q64 kv1086 d256 f16 causal normal seed=62", None),
];

/// Values of another width than keys: the widths of each kernel and of what is padded to them, with what any of them may get wrong.
const VALUE_WIDTHS: [&str; 26] = [
    "h2 L200 d192 f16 causal value_dim=128 normal seed=140",
    "q65 kv577 d192 bf16 full value_dim=128 scale=-0.25 outliers seed=141",
    "h3 q120 kv421 d192 f16 causal value_dim=128 normal seed=142",
    "h2 q150 kv130 d192 bf16 causal value_dim=128 ascending seed=143",
    "h4/2 q70 kv193 d128 f16 causal value_dim=64 normal seed=144",
    "q150 kv300 d128 bf16 full value_dim=64 peaked seed=145",
    "h2 q200 kv450 d128 f16 causal value_dim=64 blhd normal seed=146",
    "q37 kv150 d64 f16 full value_dim=32 normal seed=147",
    "q70 kv200 d96 bf16 causal value_dim=128 normal seed=148",
    "q33 kv150 d64 f16 causal value_dim=192 normal seed=149",
    "h2 L33 d256 bf16 full value_dim=8 normal seed=150",
    "q40 kv70 d8 f16 causal value_dim=256 normal seed=151",
    "L33 d40 f16 full value_dim=24 normal seed=152",
    "L33 d192 f16 full value_dim=72 one-hot seed=153",
    "L33 d136 bf16 full value_dim=120 normal seed=154",
    // Values that lie in rows of another width, and outputs with room between theirs.
    "h2 q35 kv131 d192 f16 causal value_dim=128 value=69168,264,528 output=18480,264,528 integers seed=155",
    "h2 q1 kv257 d192 f16 full value_dim=128 normal seed=156",
    "h2 q5 kv0 d192 f16 full value_dim=128 normal seed=157",
    "h2 q40 kv33 d192 f16 full value_dim=128 vast-logits seed=158",
    "b2 h2/1 q3 kv70 d64 bf16 causal value_dim=128 vast-logits seed=159",
    "h2 q20 kv70 d128 f16 full value_dim=40 sinks vast-logits seed=160",
    "h2 q200 kv300 d192 f16 causal value_dim=128 packed=3,150,200 blhd normal seed=161",
    "h4/2 q100 kv330 d128 bf16 full value_dim=64 packed=40,9,70 sinks normal seed=162",
    "h2 q150 kv260 d192 bf16 causal value_dim=128 window=64,all sinks normal seed=163",
    "b3 h2/1 q37 kv193 d192 f16 full value_dim=128 key-lengths window=70,66 normal seed=164",
    "h2 q33 kv150 d192 bf16 causal value_dim=128 softcap=30 slopes normal seed=165",
];

/// What problems ask for beyond dense attention, for each kernel that takes it: edges of windows before, at and behind those of
/// tiles, sequences of no row and of one, more of them than a warp has lanes.
const EXTENDED: [(&str, &str); 63] = [
    ("a window", "L200 d64 f16 causal window=64,all normal seed=80"),
    ("a window", "q70 kv300 d128 f16 full window=63,1 normal seed=81"),
    ("a window", "h2 q150 kv130 d96 bf16 full window=0,0 normal seed=82"),
    ("a window", "q130 kv260 d256 f16 causal-top-left window=128,all normal seed=83"),
    ("a window", "h4/2 L257 d64 bf16 full window=all,65 ascending seed=84"),
    ("a window", "q200 kv3 d64 f16 full window=2,2 normal seed=85"),
    ("key lengths", "b4 h2/1 q37 kv193 d64 f16 causal key-lengths normal seed=86"),
    ("key lengths", "b3 q70 kv70 d128 bf16 full key-lengths window=9,200 normal seed=87"),
    ("sinks", "h3 q65 kv130 d64 f16 causal sinks normal seed=88"),
    ("sinks", "h2 q5 kv0 d128 f16 full sinks normal seed=89"),
    ("sinks", "h2 q9 kv70 d64 f16 full sinks vast-logits seed=90"),
    ("sinks", "L150 d32 bf16 full sinks normal seed=109"),
    // Logits whose exponents of 2 leave f32, beside which a sink has no weight; few of these rows can be judged.
    ("sinks", "q8 kv9 d8 bf16 full sinks scale=6e37 integers seed=6"),
    ("sinks", "q20 kv70 d40 bf16 causal sinks normal seed=110"),
    ("sinks", "q150 kv40 d40 bf16 full sinks normal seed=111"),
    ("slopes", "h8/2 L130 d64 f16 causal slopes normal seed=91"),
    ("slopes", "h4 q70 kv200 d128 bf16 full slopes sinks scale=-0.25 normal seed=92"),
    ("slopes", "h2 q33 kv150 d256 f16 full slopes window=70,70 normal seed=93"),
    ("slopes", "h2 q33 kv70 d200 bf16 causal slopes normal seed=94"),
    ("slopes", "q17 kv70 d72 f16 full slopes vast-logits seed=95"),
    ("slopes", "q17 kv70 d8 bf16 full slopes peaked seed=96"),
    ("a soft cap", "h2 L130 d64 f16 causal softcap=8 peaked seed=97"),
    ("a soft cap", "q70 kv200 d128 bf16 full softcap=50 slopes normal seed=98"),
    ("a soft cap", "q33 kv150 d256 f16 causal softcap=30 sinks normal seed=99"),
    ("a soft cap", "q33 kv70 d256 bf16 full softcap=1 huge-logits seed=100"),
    ("a soft cap", "q33 kv70 d64 bf16 full softcap=1000 window=20,20 normal seed=101"),
    ("a soft cap", "q33 kv70 d128 f16 full softcap=30 scale=-0.5 normal seed=102"),
    // The last tile of keys is full, all of them are in some rows' sight, and the diagonal begins at the top left.
    ("scores of another shape", "h2 q40 kv256 d128 f16 full slopes normal seed=125"),
    ("scores of another shape", "h2 q300 kv128 d256 f16 causal-top-left slopes normal seed=126"),
    ("scores of another shape", "h2 q300 kv128 d64 bf16 causal-top-left slopes normal seed=127"),
    ("scores of another shape", "h2 q256 kv256 d128 bf16 causal-top-left slopes window=100,all normal seed=128"),
    ("scores of another shape", "h2 q40 kv256 d256 f16 full softcap=2 peaked seed=129"),
    ("scores of another shape", "h2 q40 kv256 d64 f16 full softcap=30 slopes normal seed=130"),
    ("scores of another shape", "h2 q300 kv128 d256 bf16 causal-top-left softcap=30 normal seed=131"),
    (
        "scores of another shape",
        "h2 q256 kv256 d128 f16 causal-top-left softcap=30 slopes window=100,all normal seed=132",
    ),
    ("scores of another shape", "h2 q256 kv300 d64 bf16 causal softcap=30 window=90,all normal seed=133"),
    ("scores of another shape", "h2 q256 kv300 d64 f16 full softcap=30 window=90,20 normal seed=134"),
    ("scores of another shape", "h2 q256 kv300 d64 f16 causal softcap=30 slopes window=40,all normal seed=141"),
    ("half of a tile", "h2 q256 kv256 d128 f16 causal-top-left window=100,all normal seed=135"),
    ("half of a tile", "h2 q256 kv256 d64 f16 causal-top-left window=100,all sinks normal seed=136"),
    ("logits beyond 2^24", "h2/1 q40 kv100 d256 f16 full window=30,20 sinks vast-logits seed=137"),
    ("logits beyond 2^24", "h2/1 q70 kv100 d256 bf16 causal-top-left window=30,all sinks vast-logits seed=138"),
    ("logits beyond 2^24", "h2/1 q70 kv100 d64 f16 causal-top-left window=30,all sinks vast-logits seed=139"),
    // Few rows, for the smallest tiles: everything once more.
    ("few rows", "h3 L33 d32 f16 causal sinks slopes normal seed=112"),
    ("few rows", "h3 q33 kv200 d24 f16 full window=70,66 sinks normal seed=113"),
    ("few rows", "h3 q20 kv150 d32 f16 causal-top-left scale=-0.25 window=1,all normal seed=114"),
    ("few rows", "b3 h4/2 q20 kv150 d32 f16 full key-lengths window=all,9 blhd sinks normal seed=115"),
    ("few rows", "h2 q40 kv70 d32 f16 full vast-logits sinks seed=116"),
    ("few rows", "h2 q40 kv130 d32 f16 causal vast-logits window=65,all seed=117"),
    ("few rows", "b2 h2 q9 kv130 d16 f16 full key-lengths peaked seed=118"),
    ("few rows", "h4/2 q100 kv330 d32 f16 causal packed=40,9,70 blhd sinks normal seed=119"),
    ("few rows", "h2 q70 kv200 d32 f16 full packed=3,40,100 window=9,70 scale=-0.5 blhd normal seed=120"),
    ("few rows", "h2 q100 kv100 d32 f16 full packed=70,40,40 vast-logits sinks seed=121"),
    ("few rows", "h6/3 q300 kv200 d24 f16 causal-top-left packed=35,33,20 blhd normal seed=122"),
    ("few rows", "h2 q96 kv128 d32 f16 full packed=3,32,64 blhd normal seed=123"),
    ("few rows", "h2 q64 kv90 d32 f16 full packed=2,33,90 blhd ascending seed=124"),
    ("packed sequences", "h2 L230 d64 f16 causal packed=5,100,100 blhd normal seed=103"),
    ("packed sequences", "h2 L33 d64 f16 causal packed=1,33,33 blhd normal seed=140"),
    ("packed sequences", "h4/2 q100 kv330 d32 bf16 full packed=40,9,70 blhd normal seed=104"),
    ("packed sequences", "q90 kv140 d64 f16 causal packed=70,5,9 window=3,all sinks blhd normal seed=105"),
    ("packed sequences", "h2 q200 kv300 d128 f16 full packed=3,150,200 normal seed=106"),
    ("packed sequences", "h2 q150 kv100 d256 bf16 causal packed=4,64,64 slopes blhd normal seed=107"),
    ("packed sequences", "L300 d96 f16 full packed=2,170,170 softcap=30 blhd normal seed=108"),
];

/// Keys and values in pages, for blocks that stay: how many multiprocessors it is planned for, and whether their blocks have little
/// shared memory.
const PAGED: [(&str, Option<u32>, bool); 34] = [
    ("b3 h4/2 q1 kv700 d64 f16 causal pages=16 normal seed=130", None, false),
    ("b2 h4/2 q3 kv700 d128 bf16 causal pages=8 normal seed=131", Some(1), false),
    ("b3 h2/1 q9 kv600 d256 f16 full pages=32 blhd normal seed=132", Some(2), false),
    ("h4/2 q30 kv300 d64 bf16 causal packed=7,9,300 pages=64 sinks blhd normal seed=133", Some(2), false),
    // More sequences than a warp adds up at once, in lists; short ones, which a warp's ring runs ahead of.
    ("b40 h2/1 q2 kv40 d64 f16 causal page-lists=8 normal seed=134", Some(3), false),
    ("b2 h4/1 q5 kv1500 d128 f16 causal window=200,all pages=16 softcap=30 normal seed=135", Some(1), false),
    ("b2 h2/1 q40 kv600 d64 f16 causal pages=256 window=70,3 normal seed=136", Some(2), false),
    ("b2 h2/1 q3 kv515 d64 f16 causal pages=128 vast-logits seed=137", Some(1), false),
    ("b3 h4/2 q3 kv0 d64 f16 causal pages=16 sinks normal seed=138", Some(1), false),
    ("b2 h4/2 q3 kv700 d64 f16 causal pages=16 normal seed=139", None, true),
    ("b2 h4/2 q3 kv700 d128 f16 causal pages=16 normal seed=140", Some(1), true),
    ("b2 h4/2 q3 kv600 d256 f16 causal pages=8 normal seed=141", None, true),
    ("b2 h4/2 q3 kv700 d64 bf16 full pages=16 scale=-0.2 normal seed=142", None, true),
    ("b2 h4/2 q3 kv700 d128 bf16 full pages=16 normal seed=143", None, true),
    ("b2 h4/2 q3 kv600 d256 bf16 full pages=16 normal seed=144", Some(1), true),
    // From sequence to sequence in lists, empty ones and ones without queries among them, with windows and several parts; more
    // units than twelve blocks describe ahead.
    ("b70 h2/1 q3 kv600 d64 bf16 causal window=150,all sinks page-lists=16 normal seed=190", Some(1), false),
    ("b70 h4/1 q3 kv600 d64 f16 causal-top-left window=9,all page-lists=8 normal seed=191", Some(1), false),
    ("b70 h2/1 q2 kv40 d128 f16 causal page-lists=8 normal seed=199", Some(1), false),
    ("h4/2 q160 kv700 d64 f16 causal packed=70,9,300 sinks blhd normal seed=192", Some(1), false),
    ("h2/1 q160 kv400 d64 f16 full packed=70,5,400 page-lists=16 sinks blhd normal seed=193", Some(1), false),
    // The same for few blocks, some of whose warps have nothing to do in a sequence.
    ("b11 h2/1 q2 kv250 d64 f16 causal window=100,all page-lists=8 normal seed=200", Some(2), false),
    ("b11 h2/1 q2 kv250 d128 bf16 causal page-lists=8 sinks normal seed=201", Some(2), false),
    // Tiles of rows that see other parts, and more parts than are merged at once.
    ("b40 h12/1 q4 kv700 d64 f16 causal window=300,all pages=8 normal seed=202", Some(1), false),
    ("b40 h2/1 q32 kv600 d64 bf16 causal pages=16 normal seed=203", Some(1), false),
    ("b8 h2/1 q1 kv1500 d64 f16 full pages=16 normal seed=204", Some(1), false),
    // A row whose first keys' logits lie below -2^24, and whose next ones do not: of one tile and the next, one strip and the next,
    // one part and the next.
    ("h40/1 q128 kv128 d8 f16 causal window=1,0 scale=1e8 integers seed=205", None, false),
    ("h40/1 q128 kv128 d8 f16 causal window=1,0 scale=1e8 integers seed=206", Some(1), false),
    ("b6 h40/1 q4 kv257 d8 f16 causal window=1,0 scale=1e8 integers seed=207", Some(1), false),
    ("b6 h40/1 q4 kv257 d8 f16 causal window=1,0 scale=1e8 integers seed=208", None, false),
    // Parts that a block merges while it goes on, of large and of capped logits, with sinks.
    ("b40 h2/1 q3 kv600 d64 f16 causal sinks vast-logits seed=194", Some(1), false),
    ("b40 h2/1 q3 kv600 d64 f16 causal softcap=30 sinks normal seed=195", Some(1), false),
    ("b40 h12/1 q2 kv600 d64 f16 causal-top-left pages=8 vast-logits seed=196", Some(1), false),
    ("b40 h2/1 q2 kv600 d64 f16 full sinks scale=1e37 integers seed=197", Some(1), false),
    ("b40 h2 q1 kv600 d64 bf16 full pages=16 normal seed=198", Some(1), false),
];

/// Keys and values in e4m3: rows that fill no copy, scales of each head and of all, every kernel.
const STORED: [(&str, Option<u32>, bool); 19] = [
    ("h4/2 q3 kv700 d64 f16 causal kv=e4m3-per-head normal seed=170", None, false),
    ("b2 h4/4 q1 kv300 d64 bf16 full kv=e4m3 outliers seed=171", Some(1), false),
    (
        "h4/2 q2 kv200 d40 f16 causal kv=e4m3-per-head key=19200,9600,48 value=19200,9600,48 normal seed=172",
        None,
        false,
    ),
    ("h2 q9 kv130 d8 bf16 full kv=e4m3 key=4160,2080,16 value=4160,2080,16 ascending seed=173", None, false),
    ("h4/2 q1 kv900 d128 bf16 causal kv=e4m3-per-head pages=16 normal seed=174", Some(2), false),
    (
        "b2 h4/2 q5 kv300 d128 f16 causal softcap=30 kv=e4m3-per-head window=100,all sinks pages=8 peaked seed=175",
        None,
        false,
    ),
    ("h2 q3 kv300 d256 f16 full kv=e4m3-per-head integers seed=176", None, false),
    (
        "h2 q3 kv300 d200 bf16 causal kv=e4m3 key=124800,62400,208 value=124800,62400,208 normal seed=177",
        Some(1),
        false,
    ),
    ("h2/1 q20 kv257 d64 f16 causal kv=e4m3 scale=-0.2 normal seed=178", None, true),
    ("h2/1 q2 kv515 d128 bf16 causal kv=e4m3 scale=-0.2 normal seed=179", None, true),
    ("h2/1 q2 kv300 d256 bf16 causal kv=e4m3-per-head one-hot seed=180", None, true),
    ("h2 q3 kv515 d64 f16 causal kv=e4m3-per-head vast-logits seed=181", None, false),
    ("h2/1 q2 kv300 d128 bf16 full kv=e4m3 huge-logits seed=182", None, false),
    ("b40 h2/1 q2 kv40 d64 f16 causal kv=e4m3-per-head page-lists=8 normal seed=183", Some(3), false),
    // Blocks that go from sequence to sequence, empty ones among them, with windows; and from part to part, with large logits.
    (
        "h4/2 q40 kv300 d64 f16 causal packed=12,9,300 pages=16 window=70,3 sinks kv=e4m3-per-head blhd normal seed=184",
        Some(3),
        false,
    ),
    ("h2 q60 kv400 d64 bf16 full packed=9,30,200 window=40,50 kv=e4m3 blhd normal seed=185", Some(2), false),
    ("b40 h2/1 q2 kv40 d64 f16 causal-top-left window=5,all kv=e4m3 page-lists=8 normal seed=186", Some(3), false),
    ("h2 q3 kv900 d64 f16 causal kv=e4m3-per-head sinks vast-logits seed=187", Some(1), false),
    ("b9 h2/1 q3 kv600 d64 bf16 causal window=150,all kv=e4m3-per-head pages=8 normal seed=188", Some(2), false),
];

/// Cases whose tensors are stretched until their last row lies this many elements behind the first.
const FAR: [(&str, i64); 12] = [
    ("b2 h2 q9 kv70 d64 f16 causal normal seed=40", 1 << 32),
    ("h2 q9 kv70 d64 f16 full normal seed=41", 1 << 31),
    ("h2/1 q9 kv70 d64 f16 full normal seed=42", 1 << 32),
    ("q9 kv70 d64 f16 causal normal seed=43", 1 << 31),
    ("b3 h2 q20 kv300 d64 f16 causal normal seed=44", 1 << 31),
    ("q5 kv600 d64 f16 full normal seed=45", 1 << 32),
    // Neighbouring rows 2^31 elements and more apart.
    ("q9 kv200 d64 f16 causal normal seed=63", 200 << 31),
    // The same for rows that are computed once more, and for their heads and sequences.
    ("q12 kv3 d64 f16 full vast-logits seed=64", 1 << 36),
    ("h2 q3 kv3 d64 f16 full vast-logits seed=65", 1 << 32),
    ("b2 h2 q3 kv3 d64 f16 full vast-logits seed=66", 1 << 32),
    ("h2 q1 kv520 d64 f16 full vast-logits seed=75", 1 << 32),
    ("b2 q1 kv520 d64 f16 full vast-logits seed=76", 1 << 32),
];

/// A case, and the device that it is planned for.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// The case.
    pub case: Case,
    /// Plans as for a device with so many multiprocessors: some kernels are only taken where a problem fills the
    /// device, and a problem that fills an H200 takes long to interpret. `None` plans for the device as it is.
    pub multiprocessors: Option<u32>,
    /// Plans as for a device whose blocks have no more shared memory than an L4's.
    pub small_blocks: bool,
    /// What is unusual about its sizes.
    pub size: Option<&'static str>,
}

impl Trial {
    /// A case of ordinary sizes, planned for the device as it is.
    pub fn new(case: Case) -> Self {
        Self { case, multiprocessors: None, small_blocks: false, size: None }
    }

    /// The generation as this trial plans with it.
    pub fn subject<'g>(&self, generation: &'g dyn Attention) -> Resized<'g> {
        Resized { generation, multiprocessors: self.multiprocessors, small_blocks: self.small_blocks }
    }

    /// True if its tensors' rows lie gigabytes apart.
    pub fn is_far(&self) -> bool {
        near(&self.case.problem).as_ref() != &self.case.problem
    }

    /// The kernels that a generation takes for this trial.
    ///
    /// # Errors
    /// [`Unsupported`] where it declines.
    pub fn kernels(&self, generation: &dyn Attention) -> Result<Vec<Specialisation>, Unsupported> {
        let plan = self.subject(generation).plan(&self.case.problem, &DeviceLimits::H200)?;
        Ok(plan.launches.iter().map(|launch| launch.kernel).collect())
    }

    /// The command that repeats this trial for a generation.
    pub fn repeat_command(&self, generation: &str) -> String {
        let mut device = self.multiprocessors.map(|count| format!(" --multiprocessors {count}")).unwrap_or_default();
        device += if self.small_blocks { " --small-blocks" } else { "" };
        format!("cargo run --release -- check {generation} --case \"{}\" --seeds 1{device}", self.case)
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let planned = self.multiprocessors.map(|count| match count {
            1 => "planned for one multiprocessor".to_owned(),
            _ => format!("planned for {count} multiprocessors"),
        });
        let small = self.small_blocks.then_some("planned for little shared memory");
        let notes: Vec<&str> = self.size.into_iter().chain(planned.as_deref()).chain(small).collect();
        write!(f, "{}", self.case)?;
        if notes.is_empty() { Ok(()) } else { write!(f, " ({})", notes.join(", ")) }
    }
}

/// Every shape that a generation takes, planned for the device as it is; and for a single multiprocessor, where that
/// makes it take other kernels, or makes a kernel's blocks draw tickets: twice with a mask and twice without one. Then sizes
/// that few callers have.
pub fn trials(generation: &dyn Attention) -> Vec<Trial> {
    let shapes = GEOMETRIES.iter().flat_map(|geometry| WIDTHS.iter().map(move |width| format!("{geometry} {width}")));
    let every_width = (1..=MAX_HEAD_DIM / 8).map(|width| format!("{EVERY_WIDTH} d{} f16", 8 * width));
    let (mut trials, mut drawing) = (Vec::new(), HashMap::<_, usize>::new());
    for line in shapes.chain(every_width) {
        let case = case_as_needed(generation, &line.parse().expect("the lists make valid cases"));
        let [as_it_is, small] =
            [None, Some(1)].map(|multiprocessors| Trial { multiprocessors, ..Trial::new(case.clone()) });
        let (kernels, others) = (as_it_is.kernels(generation), small.kernels(generation));
        let plan = |trial: &Trial| trial.subject(generation).plan(&case.problem, &DeviceLimits::H200).ok();
        let draws = plan(&small).is_some_and(|plan| plan.tickets > 0) && plan(&small) != plan(&as_it_is);
        let drew = drawing.entry((others.clone().ok(), case.problem.mask().is_causal())).or_default();
        *drew += usize::from(draws);
        let differs = others.is_ok() && (others != kernels || draws && *drew <= 2);
        if kernels.is_ok() {
            trials.push(as_it_is);
        }
        if differs {
            trials.push(small);
        }
    }
    let needed = |trial: Trial| Trial { case: case_as_needed(generation, &trial.case), ..trial };
    trials.extend(beyond().into_iter().flat_map(|trial| taken(generation, needed(trial))));
    trials
}

/// The trials of unusual sizes.
pub(crate) fn beyond() -> Vec<Trial> {
    let case = |line: &str| -> Case { line.parse().expect("the lists make valid cases") };
    let sizes = BEYOND.iter().map(|(size, line, multiprocessors)| Trial {
        case: case(line),
        multiprocessors: *multiprocessors,
        size: Some(size),
        small_blocks: false,
    });
    let far = FAR.iter().map(|(line, distance)| {
        let case = case(line);
        let size = if *distance > 1 << 31 { "offsets beyond 2^32 elements" } else { "offsets beyond 2^31 elements" };
        let problem = stretched(&case.problem, &Operand::ALL, *distance);
        Trial { size: Some(size), ..Trial::new(Case { problem, ..case }) }
    });
    let extended = EXTENDED.iter().map(|(what, line)| Trial { size: Some(what), ..Trial::new(case(line)) });
    let widths = VALUE_WIDTHS
        .iter()
        .map(|line| Trial { size: Some("values of another width than keys"), ..Trial::new(case(line)) });
    let paged = PAGED.iter().map(|(line, multiprocessors, small_blocks)| Trial {
        case: case(line),
        multiprocessors: *multiprocessors,
        small_blocks: *small_blocks,
        size: Some("keys in pages"),
    });
    let stored = STORED.iter().map(|(line, multiprocessors, small_blocks)| Trial {
        case: case(line),
        multiprocessors: *multiprocessors,
        small_blocks: *small_blocks,
        size: Some("keys and values in e4m3"),
    });
    sizes.chain(far).chain(extended).chain(paged).chain(widths).chain(stored).collect()
}

/// The trial as a generation takes it: planned for one multiprocessor, too, where it declines it on the device as it is, or
/// takes other kernels and there are few keys; and none where the number of multiprocessors that it is about changes
/// nothing.
fn taken(generation: &dyn Attention, trial: Trial) -> Vec<Trial> {
    /// With more the second trial takes longer than what it may find is worth.
    const FEW_KEYS: usize = 600;
    let plan = |trial: &Trial| trial.subject(generation).plan(&trial.case.problem, &DeviceLimits::H200).ok();
    let other = |multiprocessors| Trial { multiprocessors, ..trial.clone() };
    if trial.multiprocessors.is_some() {
        let differs = plan(&trial).is_some_and(|own| plan(&other(None)) != Some(own));
        return if differs { vec![trial] } else { Vec::new() };
    }
    let [as_it_is, small] = [None, Some(1)].map(other);
    let [kernels, others] = [&as_it_is, &small].map(|trial| trial.kernels(generation).ok());
    let both = trial.case.problem.len_kv() <= FEW_KEYS && others != kernels;
    let is_taken = [kernels.is_some(), others.is_some() && (kernels.is_none() || both)];
    [as_it_is, small].into_iter().zip(is_taken).filter_map(|(trial, taken)| taken.then_some(trial)).collect()
}

/// A generation that plans as though its device had another number of multiprocessors, or less shared memory.
pub struct Resized<'g> {
    generation: &'g dyn Attention,
    multiprocessors: Option<u32>,
    small_blocks: bool,
}

impl Attention for Resized<'_> {
    fn generation(&self) -> &Generation {
        self.generation.generation()
    }

    fn needs(&self) -> Extensions {
        self.generation.needs()
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let multiprocessors = self.multiprocessors.unwrap_or(limits.multiprocessors);
        let mut limits = DeviceLimits { multiprocessors, ..limits.clone() };
        if self.small_blocks {
            limits.shared_bytes_per_block = limits.shared_bytes_per_block.min(DeviceLimits::L4.shared_bytes_per_block);
        }
        self.generation.plan(problem, &limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    #[test]
    fn every_kernel_of_every_generation_is_taken_by_some_trial() {
        for generation in generations::ALL {
            let trials = trials(*generation);
            let taken: Vec<Specialisation> = trials
                .iter()
                .flat_map(|trial| trial.kernels(*generation).expect("declined ones are left out"))
                .collect();
            for kernel in generation.generation().specialisations {
                assert!(taken.contains(kernel), "no trial takes {kernel}");
            }
        }
    }

    #[test]
    fn large_logits_come_to_the_kernels_of_a_device_that_is_full_too() {
        let generation = generations::find("v2d").expect("a generation");
        let trials = trials(generation).into_iter().filter(|trial| trial.size == Some("logits beyond 2^24"));
        let kernels: Vec<_> = trials.flat_map(|trial| trial.kernels(generation).expect("taken")).collect();
        for name in ["f16_d64_m64", "f16_d64_m128"] {
            assert!(kernels.iter().any(|kernel| kernel.name == name), "{name}: {kernels:?}");
        }
    }

    #[test]
    fn a_trial_repeats_itself_in_one_line() {
        let case = "q3 kv2113 d64 f16 full normal seed=10 schedule=4".parse().unwrap();
        let trial = Trial { multiprocessors: Some(1), ..Trial::new(case) };
        assert_eq!(
            trial.repeat_command("v2d"),
            "cargo run --release -- check v2d --case \"b1 h1 q3 kv2113 d64 f16 full normal seed=10 schedule=4\" \
             --seeds 1 --multiprocessors 1"
        );
    }
}
