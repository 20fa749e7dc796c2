//! What ranks compute is what one GPU computes; what is wrong on purpose is rejected.

use std::ops::Range;

use harness::regime::{Data, ExtensionData, Regime};
use proptest::prelude::*;
use sdpa_core::{Device as _, Dtype, Interpreter, Layout, Mask, Packing, PageTable, Paging, Problem, Sequence, Window};
use sdpa_parallel::{ContextParallel, Partition, Way, merge};

use crate::ranks::{data_of, judge, judge_as, run, run_on, shared};

/// What is asked of ranks, small enough for the interpreter.
#[derive(Clone, Debug)]
struct Asked {
    problem: Problem,
    ranks: usize,
    way: Way,
    /// Uneven shares, if any: where the sequences are cut, and who gets each piece.
    uneven: Option<[Vec<(u8, u8)>; 2]>,
    regime: Regime,
    seed: u64,
}

impl Asked {
    fn context(&self, data: &Data) -> ContextParallel {
        let context = shared(&self.problem, data, self.ranks).unwrap().with_way(self.way);
        let Some([queries, keys]) = &self.uneven else { return context };
        let of = |pieces: &[(u8, u8)], length| uneven(pieces, length, self.ranks);
        context.with_partitions(of(queries, self.problem.len_q()), of(keys, self.problem.len_kv())).unwrap()
    }
}

/// Pieces between cuts, each given to some rank. Ranks may get none.
fn uneven(pieces: &[(u8, u8)], length: usize, ranks: usize) -> Partition {
    let mut cuts: Vec<usize> = pieces.iter().map(|(cut, _)| usize::from(*cut) * length / 255).collect();
    cuts.extend([0, length]);
    cuts.sort_unstable();
    let mut chunks: Vec<Vec<Range<usize>>> = vec![Vec::new(); ranks];
    for (index, piece) in cuts.windows(2).enumerate() {
        let owner = pieces.get(index).map_or(0, |(_, owner)| usize::from(*owner));
        chunks[owner % ranks].push(piece[0]..piece[1]);
    }
    Partition::new(length, chunks).unwrap()
}

fn asked() -> impl Strategy<Value = Asked> {
    let heads = (1..=2_usize, 1..=2_usize, 1..=4_usize);
    let lengths = prop_oneof![
        3 => (1..140_usize).prop_map(|length| (length, length)),
        1 => (1..80_usize, 1..160_usize),
    ];
    let head_dim = prop::sample::select(vec![8, 64, 64, 72, 128]);
    let mask = prop_oneof![2 => Just(Mask::Full), 3 => Just(Mask::Causal), 1 => Just(Mask::CausalTopLeft)];
    let window = prop_oneof![
        3 => Just(Window::ALL),
        1 => (0..90_usize).prop_map(Window::left),
        1 => (0..90_usize, 0..40_usize).prop_map(|(left, right)| Window { left: Some(left), right: Some(right) }),
    ];
    // Rows of vast logits take the interpreter a hundred times as long.
    let regimes: Vec<Regime> = Regime::ALL.into_iter().filter(|regime| *regime != Regime::VastLogits).collect();
    let pieces = || prop::collection::vec((any::<u8>(), any::<u8>()), 0..12);
    let uneven = prop::option::of((pieces(), pieces()).prop_map(|(queries, keys)| [queries, keys]));
    let dtype = prop::sample::select(vec![Dtype::F16, Dtype::Bf16]);
    let problem = (heads, lengths, head_dim, dtype, mask, window, extras());
    let ranks = (1..=8_usize, prop::sample::select(vec![Way::Ring, Way::Heads]), uneven);
    (problem, ranks, prop::sample::select(regimes), 0..100_000_u64).prop_map(|(problem, ranks, regime, seed)| {
        let ((batch, heads_kv, group), (len_q, len_kv), head_dim, dtype, mask, window, extras) = problem;
        let (ranks, way, uneven) = ranks;
        let heads = heads_kv * group;
        let builder = match extras.lengths {
            Lengths::Packed(sequences) => {
                let packing = Packing { sequences, longest_q: len_q, longest_kv: len_kv };
                Problem::packed(packing, heads, len_q, head_dim).layout(Layout::Bhld)
            }
            Lengths::OfKeys => Problem::new(batch, heads, len_q, head_dim).key_lengths(),
            Lengths::Same => Problem::new(batch, heads, len_q, head_dim),
        };
        let mut builder = builder.heads_kv(heads_kv).len_kv(len_kv).dtype(dtype).mask(mask).window(window);
        builder = builder.sinks_if(extras.sinks);
        if let Some(cap) = extras.softcap {
            builder = builder.softcap(cap);
        }
        if extras.slopes {
            builder = builder.slopes();
        }
        // Heads go around only if there are enough, and slopes need them.
        let ranks = if extras.slopes { ranks.min(heads) } else { ranks };
        let way = match () {
            () if extras.slopes => Way::Heads,
            () if heads < ranks => Way::Ring,
            () => way,
        };
        Asked { problem: builder.build().unwrap(), ranks, way, uneven, regime, seed }
    })
}

/// What a problem may ask for besides.
#[derive(Clone, Debug)]
struct Extras {
    lengths: Lengths,
    softcap: Option<f32>,
    sinks: bool,
    slopes: bool,
}

#[derive(Clone, Debug)]
enum Lengths {
    Same,
    /// So many packed sequences.
    Packed(usize),
    OfKeys,
}

fn extras() -> impl Strategy<Value = Extras> {
    let lengths = prop_oneof![
        3 => Just(Lengths::Same),
        1 => (1..6_usize).prop_map(Lengths::Packed),
        1 => Just(Lengths::OfKeys),
    ];
    let softcap = prop_oneof![4 => Just(None), 1 => Just(Some(20.0_f32))];
    (lengths, softcap, prop::bool::weighted(0.4), prop::bool::weighted(0.2))
        .prop_map(|(lengths, softcap, sinks, slopes)| Extras { lengths, softcap, sinks, slopes })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random shapes on 1 to 8 ranks, uneven shares and ranks with nothing to see among them.
    #[test]
    fn ranks_compute_attention(asked in asked()) {
        let data = data_of(&asked.problem, asked.regime, asked.seed);
        let context = asked.context(&data);
        let outcome = run(&context, &data).map_err(|error| TestCaseError::fail(error.to_string()))?;
        judge(&context, &data, &outcome).map_err(TestCaseError::fail)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// Threads come in another order each time, and the bits are the same.
    #[test]
    fn bits_are_the_same_in_every_run(asked in asked()) {
        let data = data_of(&asked.problem, asked.regime, asked.seed);
        let context = asked.context(&data);
        let ran = || run(&context, &data).map_err(|error| TestCaseError::fail(error.to_string()));
        let first = ran()?;
        for _ in 0..2 {
            let again = ran()?;
            prop_assert_eq!(&first.out, &again.out);
            // By their bits, since a NaN is not itself.
            let bits = |lse: &[f32]| lse.iter().map(|lse| lse.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&first.lse), bits(&again.lse));
        }
    }
}

/// Every rank count on a plain problem of both masks, both ways: what the random cases rest on.
#[test]
fn equal_shares_on_one_to_eight_ranks() {
    for mask in [Mask::Full, Mask::Causal] {
        let problem = Problem::new(1, 8, 130, 64).heads_kv(2).mask(mask).dtype(Dtype::Bf16).build().unwrap();
        let data = data_of(&problem, Regime::Normal, 7);
        for ranks in 1..=8 {
            for way in [Way::Ring, Way::Heads] {
                let context = ContextParallel::new(problem.clone(), ranks).unwrap().with_way(way);
                let said = |error: String| -> ! { panic!("{problem} by {way} on {ranks}: {error}") };
                let outcome = run(&context, &data).unwrap_or_else(|error| said(error.to_string()));
                judge(&context, &data, &outcome).unwrap_or_else(|error| said(error));
            }
        }
    }
}

/// A rank whose keys lie outside of every other rank's windows sends nothing, and ranks may have no rows at all.
#[test]
fn what_no_query_sees_does_not_travel() {
    let problem = Problem::new(1, 1, 160, 64).mask(Mask::Causal).window(Window::left(10)).build().unwrap();
    let contiguous = Partition::contiguous(160, 8);
    let context = ContextParallel::new(problem.clone(), 8).unwrap();
    let context = context.with_partitions(contiguous.clone(), contiguous).unwrap();
    // Ten positions of the rank before, keys and values, f16; the first rank needs none.
    let received: Vec<usize> = (0..8).map(|rank| context.plan(rank).unwrap().bytes_received()).collect();
    assert_eq!(received, [0, 2560, 2560, 2560, 2560, 2560, 2560, 2560]);
    let data = data_of(&problem, Regime::Peaked, 4);
    judge(&context, &data, &run(&context, &data).unwrap()).unwrap();

    let one_has_all = Partition::new(160, vec![vec![], vec![0..160], vec![]]).unwrap();
    let context = ContextParallel::new(problem.clone(), 3).unwrap();
    let context = context.with_partitions(one_has_all.clone(), one_has_all).unwrap();
    judge(&context, &data, &run(&context, &data).unwrap()).unwrap();
}

/// Packed sequences, an empty one among them, rows behind the last one too: ranks hold pieces of several.
#[test]
fn packed_sequences_are_shared_both_ways() {
    let lengths = [17, 0, 64, 5, 40];
    let total: usize = lengths.iter().sum();
    for (mask, behind) in [(Mask::Causal, 0), (Mask::Full, 9)] {
        let packing = Packing { sequences: lengths.len(), longest_q: 64, longest_kv: 64 };
        let problem = Problem::packed(packing, 4, total + behind, 64)
            .layout(Layout::Bhld)
            .heads_kv(2)
            .mask(mask)
            .dtype(Dtype::Bf16)
            .build()
            .unwrap();
        let mut data = data_of(&problem, Regime::Normal, 11);
        let mut sequences = Vec::new();
        let mut begins = vec![0_u32];
        for length in lengths {
            let start = *begins.last().unwrap() as usize;
            sequences.push(Sequence { queries: start..start + length, keys: start..start + length });
            begins.push((start + length) as u32);
        }
        data.extension.cu_seqlens_q = begins.clone();
        data.extension.cu_seqlens_k = begins.clone();
        for ranks in [1, 2, 3, 4] {
            for way in [Way::Ring, Way::Heads] {
                let context = ContextParallel::packed(problem.clone(), sequences.clone(), ranks).unwrap();
                let context = context.with_way(way);
                let outcome = run(&context, &data).unwrap_or_else(|error| panic!("{way} {ranks}: {error}"));
                judge(&context, &data, &outcome).unwrap_or_else(|error| panic!("{way} {ranks}: {error}"));
            }
        }
    }
}

/// Data of a problem, with what `change` makes of it.
fn changed(data: &Data, change: impl FnOnce(&mut ExtensionData)) -> Data {
    let mut other = data.clone();
    change(&mut other.extension);
    other
}

/// That ranks compute a problem both ways, on so many of them; the way that is declined is not asked.
fn computes(problem: &Problem, data: &Data, ranks: Range<usize>, ways: &[Way]) {
    for ranks in ranks {
        for way in ways {
            let context = shared(problem, data, ranks).unwrap().with_way(*way);
            let said = |error: String| -> ! { panic!("{problem} by {way} on {ranks}: {error}") };
            let outcome = run(&context, data).unwrap_or_else(|error| said(error.to_string()));
            judge(&context, data, &outcome).unwrap_or_else(|error| said(error));
        }
    }
}

/// That the oracle's verdict on what ranks compute of `data` rejects what they compute of `other`.
fn rejects(problem: &Problem, [data, other]: [&Data; 2], way: Way, fault: &str) {
    let outcome = run(&shared(problem, other, 2).unwrap().with_way(way), other).unwrap();
    let context = shared(problem, data, 2).unwrap().with_way(way);
    assert!(judge(&context, data, &outcome).is_err(), "{problem} by {way}: {fault} passes");
}

/// A sink enters once: into rows of one part, of several and of none, and nowhere a second time.
#[test]
fn sinks_enter_once_both_ways() {
    // With more queries than keys the first rows see nothing: their log-sum-exp is the sink.
    let shape = |mask| Problem::new(2, 4, 48, 64).heads_kv(2).len_kv(40).mask(mask).dtype(Dtype::Bf16);
    for mask in [Mask::Full, Mask::Causal] {
        let problem = shape(mask).sinks().build().unwrap();
        let data = data_of(&problem, Regime::Normal, 7);
        let data = changed(&data, |extension| extension.sinks = vec![1.5, f32::NEG_INFINITY, -30.0, 4.0]);
        computes(&problem, &data, 1..4, &[Way::Ring, Way::Heads]);
        if mask == Mask::Full {
            continue;
        }
        let twice = changed(&data, |extension| extension.sinks.iter_mut().for_each(|sink| *sink += 2_f32.ln()));
        let never = changed(&data, |extension| extension.sinks.fill(f32::NEG_INFINITY));
        let turned = changed(&data, |extension| extension.sinks.rotate_left(1));
        for way in [Way::Ring, Way::Heads] {
            for (other, fault) in [(&twice, "twice"), (&never, "never"), (&turned, "another head's")] {
                rejects(&problem, [&data, other], way, fault);
            }
        }
        // NaN and +∞ make rows NaN, those that see nothing, too.
        let undefined = changed(&data, |extension| extension.sinks = vec![f32::NAN, f32::INFINITY, 0.0, f32::NAN]);
        computes(&problem, &undefined, 2..3, &[Way::Ring, Way::Heads]);
    }
}

/// Rows behind the last packed sequence have no sink: they belong to none.
#[test]
fn rows_behind_the_last_sequence_have_no_sink() {
    let packing = Packing { sequences: 2, longest_q: 20, longest_kv: 20 };
    let problem = Problem::packed(packing, 4, 40, 64).layout(Layout::Bhld).mask(Mask::Causal).sinks().build().unwrap();
    let mut data = data_of(&problem, Regime::Normal, 3);
    for begins in [&mut data.extension.cu_seqlens_q, &mut data.extension.cu_seqlens_k] {
        *begins = vec![0, 20, 31];
    }
    data.extension.sinks = vec![0.5; 4];
    for ranks in [1, 3] {
        for way in [Way::Ring, Way::Heads] {
            let context = shared(&problem, &data, ranks).unwrap().with_way(way);
            let mut outcome = run(&context, &data).unwrap();
            for head in 0..4 {
                let (rows, elements) = (head * 40 + 31..head * 40 + 40, (head * 40 + 31) * 64..(head * 40 + 40) * 64);
                let lse = &mut outcome.lse[rows];
                assert!(lse.iter().all(|lse| *lse == f32::NEG_INFINITY), "{way} on {ranks}");
                assert!(outcome.out[elements].iter().all(|bits| *bits == 0), "{way} on {ranks}");
                // The oracle has an answer for rows that nobody asks about.
                lse.fill(0.5);
            }
            judge(&context, &data, &outcome).unwrap();
        }
    }
}

/// By heads each rank takes the slopes of its own heads; over the keys of another rank alone distances would be others.
#[test]
fn slopes_are_taken_by_heads_and_declined_in_a_ring() {
    for mask in [Mask::Full, Mask::Causal] {
        let problem = Problem::new(1, 4, 64, 64).mask(mask).slopes().build().unwrap();
        let data = data_of(&problem, Regime::Normal, 7);
        let data = changed(&data, |extension| extension.slopes = vec![0.5, 0.25, 0.125, 0.0]);
        assert_eq!(shared(&problem, &data, 2).unwrap().way(), Way::Heads);
        computes(&problem, &data, 2..5, &[Way::Heads]);
        let turned = changed(&data, |extension| extension.slopes.rotate_left(1));
        rejects(&problem, [&data, &turned], Way::Heads, "another head's slope");
        // Alone a rank has the whole diagonal.
        computes(&problem, &data, 1..2, &[Way::Ring]);
        for ranks in 2..9 {
            let ring = shared(&problem, &data, ranks).unwrap().with_way(Way::Ring);
            for rank in 0..ranks {
                let declined = ring.plan(rank).unwrap_err().to_string();
                assert_eq!(
                    declined,
                    "ring does not take slopes, whose distances are those of whole sequences; take heads, on as many \
                     ranks as there are query heads at most"
                );
            }
        }
    }
}

/// Keys that a sequence does not use are seen by nobody, and do not travel if no sequence uses them.
#[test]
fn key_lengths_are_shared_both_ways() {
    for mask in [Mask::Full, Mask::Causal] {
        let builder = Problem::new(4, 4, 40, 64).heads_kv(2).len_kv(64).mask(mask).dtype(Dtype::Bf16);
        let problem = builder.key_lengths().build().unwrap();
        let data = data_of(&problem, Regime::Normal, 9);
        let data = changed(&data, |extension| extension.key_lengths = vec![64, 0, 30, 30]);
        computes(&problem, &data, 2..4, &[Way::Ring, Way::Heads]);
        let longer = changed(&data, |extension| extension.key_lengths = vec![64, 0, 30, 31]);
        let others = changed(&data, |extension| extension.key_lengths = vec![64, 30, 0, 30]);
        for way in [Way::Ring, Way::Heads] {
            rejects(&problem, [&data, &longer], way, "one key more");
            rejects(&problem, [&data, &others], way, "another sequence's keys");
        }
    }
    let problem = Problem::new(2, 2, 16, 64).len_kv(64).key_lengths().build().unwrap();
    let context = ContextParallel::of_key_lengths(problem, &[20, 9], 4).unwrap().with_way(Way::Ring);
    let received = |rank: usize| context.plan(rank).unwrap().bytes_received();
    // Keys and values in f16 of both sequences: 16 of rank 0, 4 of rank 1, none of the others.
    let bytes = |keys: usize| 2 * 2 * 2 * keys * 64 * 2;
    assert_eq!([0, 1, 2, 3].map(received), [bytes(4), bytes(16), bytes(20), bytes(20)]);
}

/// Two problems with large logits, one of each element type: what mutants are tried on.
fn hard() -> Problem {
    Problem::new(1, 2, 96, 64).mask(Mask::Causal).dtype(Dtype::Bf16).build().unwrap()
}

/// The merging kernel with one line of its PTX exchanged.
fn mutant(named: &str, exchange: impl Fn(&str) -> Option<String>) -> impl Fn(&Interpreter) {
    let kernel = *merge::KERNELS.iter().find(|kernel| kernel.name == named).unwrap();
    let text = kernel.packed_ptx().unwrap();
    let mut exchanged = 0;
    let lines = text.lines().map(|line| match exchange(line) {
        Some(other) => {
            exchanged += 1;
            other
        }
        None => line.to_owned(),
    });
    let mutated = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(exchanged, 1, "the mutant is made by one line of the PTX");
    move |device: &Interpreter| device.substitute(&kernel, &mutated).unwrap()
}

/// The words of an instruction and its operands.
fn words(line: &str) -> Vec<&str> {
    line.split([' ', '\t', ',', ';']).filter(|word| !word.is_empty()).collect()
}

#[test]
fn merging_without_a_maximum_is_rejected() {
    let no_maximum = mutant("bf16_add", |line| match words(line)[..] {
        ["max.f32", to, ..] => Some(format!("mov.f32 {to}, 0f00000000;")),
        _ => None,
    });
    is_rejected(Regime::HugeLogits, &no_maximum);
}

#[test]
fn merging_that_forgets_a_part_is_rejected() {
    // Whatever was merged before counts as nothing.
    let forgetful = mutant("bf16_add", |line| match words(line)[..] {
        ["setp.neu.f32", to, before, "0fFF800000"] => Some(format!("setp.neu.f32 {to}, {before}, {before};")),
        _ => None,
    });
    is_rejected(Regime::Normal, &forgetful);
}

fn is_rejected(regime: Regime, prepare: &(dyn Fn(&Interpreter) + Sync)) {
    let problem = hard();
    let context = ContextParallel::new(problem.clone(), 2).unwrap().with_way(Way::Ring);
    let data = data_of(&problem, regime, 5);
    let verdict = |prepare| {
        let outcome = run_on(&context, &context, &data, prepare).map_err(|error| error.to_string())?;
        judge(&context, &data, &outcome).map(drop)
    };
    verdict(&|_: &Interpreter| {}).unwrap();
    assert!(verdict(prepare).is_err(), "the mutant passes");
}

/// The ranks' chunks are not where the plan takes them to be: one position further.
#[test]
fn a_wrong_offset_of_a_chunk_is_rejected() {
    let problem = hard();
    let data = data_of(&problem, Regime::Normal, 5);
    let context = ContextParallel::new(problem.clone(), 2).unwrap().with_way(Way::Ring);
    let shifted = Partition::new(96, vec![vec![0..23, 71..96], vec![23..71]]).unwrap();
    let shifted = context.clone().with_partitions(context.queries().clone(), shifted).unwrap();
    let outcome = run_on(&shifted, &context, &data, &|_| {}).unwrap();
    assert!(judge(&context, &data, &outcome).is_err(), "the mutant passes");
}

/// Where parts cancel, their roundings show: one element is further off than any single kernel's could be, and no further than
/// the bound for merged results.
#[test]
fn parts_that_cancel_need_the_bound_for_merged_results() {
    let problem = Problem::new(1, 1, 44, 64).mask(Mask::Causal).build().unwrap();
    let context = ContextParallel::new(problem.clone(), 5).unwrap().with_way(Way::Ring);
    let data = data_of(&problem, Regime::Integers, 42741);
    let outcome = run(&context, &data).unwrap();
    judge_as(&context, &data, &outcome, true).unwrap();
    assert!(judge_as(&context, &data, &outcome, false).is_err(), "no bound of its own is needed any more");
}

/// What is not taken is declined in words.
#[test]
fn what_ranks_do_not_take_is_said() {
    let said = |problem: sdpa_core::ProblemBuilder, ranks| {
        let context = ContextParallel::new(problem.build().unwrap(), ranks);
        match context.and_then(|context| context.with_way(Way::Heads).plan(0).map(drop)) {
            Ok(()) => panic!("it is taken"),
            Err(error) => error.to_string(),
        }
    };
    let dense = || Problem::new(1, 4, 32, 64);
    let lengths = said(dense().key_lengths(), 2);
    assert!(
        lengths.ends_with("not take key lengths; give their numbers: ContextParallel::of_key_lengths"),
        "{lengths}"
    );
    let paging = Paging { page: 16, pages: 4, table: PageTable::Rows { width: 2 } };
    let paged = said(dense().paged(paging), 2);
    assert_eq!(paged, "context parallelism does not take keys and values in pages; compute such a problem on one GPU");
    assert_eq!(said(dense(), 5), "heads does not take 4 query heads on 5 ranks; take the ring, or fewer ranks");
    let packing = Packing { sequences: 2, longest_q: 16, longest_kv: 16 };
    assert!(said(Problem::packed(packing, 4, 32, 64), 2).ends_with("give their lengths: ContextParallel::packed"));
    // Nothing of a dense problem would be computed.
    let unasked = ContextParallel::packed(dense().build().unwrap(), Vec::new(), 2).unwrap_err().to_string();
    assert!(unasked.ends_with("take ContextParallel::new"), "{unasked}");
    let of_lengths = |problem: sdpa_core::ProblemBuilder, lengths: &[usize]| {
        ContextParallel::of_key_lengths(problem.build().unwrap(), lengths, 2).unwrap_err().to_string()
    };
    assert!(of_lengths(dense(), &[]).ends_with("take ContextParallel::new"));
    assert_eq!(of_lengths(dense().key_lengths(), &[1, 2]), "key lengths: 2, but 1 expected");
    assert_eq!(of_lengths(dense().key_lengths(), &[33]), "the longest key length: 33, but 32 expected");
}
