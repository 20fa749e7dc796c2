//! Probes of whole warps: matrices between lanes and shared memory, asynchronous copies, accesses to shared memory.
//!
//! A lane reads 32 bytes of the first input (registers `%r10` to `%r17`), 64 bytes of the second (its part of its
//! warp's 2048 bytes of shared memory, the image), and 32 bytes of the third (`%r20` to `%r27`). It writes one to
//! eight words, from `%r30` on. `%r1` is the lane, `%r2` the address of the image.

use crate::inputs::{Numbers, bytes};
use crate::{BLOCK, Bound, Probe};

/// Words of the first input that a lane reads.
pub(crate) const FIRST: usize = 8;
/// Words of a warp's image.
pub(crate) const IMAGE: usize = 512;
/// Words of the third input that a lane reads.
pub(crate) const THIRD: usize = 8;

/// What [`build`] makes a probe of.
pub(crate) struct Parts<'p> {
    pub name: String,
    pub target: &'p str,
    pub body: &'p str,
    /// A multiple of the four warps of a block.
    pub warps: usize,
    /// Words for every lane, or empty for zeros.
    pub first: Vec<u32>,
    /// Words for every warp, or empty for zeros.
    pub image: Vec<u32>,
    /// Words for every lane, or empty for zeros.
    pub third: Vec<u32>,
    /// Words that a lane writes: 1, 2, 4 or 8.
    pub results: usize,
    pub bound: Bound,
    pub magnitudes: Vec<f32>,
}

/// Puts a body between loading its inputs and storing its results.
pub(crate) fn build(parts: Parts<'_>) -> Probe {
    let lanes = parts.warps * 32;
    let filled = |words: Vec<u32>, length: usize| {
        let words = if words.is_empty() { vec![0; length] } else { words };
        assert_eq!(words.len(), length, "{}: an input has another size", parts.name);
        bytes(&words)
    };
    let load = |registers: u32, place: &str| {
        format!(
            "ld.global.v4.u32 {{%r{}, %r{}, %r{}, %r{}}}, [{place}];\n",
            registers,
            registers + 1,
            registers + 2,
            registers + 3
        )
    };
    let mut text = format!(
        ".version 8.0\n.target {}\n.address_size 64\n\n.visible .entry probe(\n.param .u64 a,\n.param .u64 b,\n.param .u64 c,\n\
         .param .u64 out,\n.param .u32 count\n)\n{{\n.reg .pred %p<4>;\n.reg .b16 %h<8>;\n.reg .f32 %f<32>;\n.reg .b32 %r<64>;\n\
         .reg .b64 %rd<24>;\n.shared .align 128 .b8 cells[8192];\n\
         mov.u32 %r50, %ctaid.x;\nmov.u32 %r51, %ntid.x;\nmov.u32 %r52, %tid.x;\nmad.lo.s32 %r53, %r50, %r51, %r52;\n\
         and.b32 %r1, %r52, 31;\nshr.u32 %r54, %r52, 5;\nshl.b32 %r54, %r54, 11;\nmov.u32 %r2, cells;\nadd.s32 %r2, %r2, %r54;\n\
         ld.param.u64 %rd11, [a];\nld.param.u64 %rd12, [b];\nld.param.u64 %rd13, [c];\nld.param.u64 %rd14, [out];\n\
         mul.wide.u32 %rd15, %r53, 32;\nadd.s64 %rd11, %rd11, %rd15;\nadd.s64 %rd13, %rd13, %rd15;\n\
         mul.wide.u32 %rd15, %r53, 64;\nadd.s64 %rd12, %rd12, %rd15;\nmul.wide.u32 %rd15, %r53, {};\nadd.s64 %rd14, %rd14, %rd15;\n\
         shl.b32 %r3, %r1, 6;\nadd.s32 %r3, %r2, %r3;\n",
        parts.target,
        4 * parts.results,
    );
    for (registers, place) in [(10, "%rd11"), (14, "%rd11+16"), (20, "%rd13"), (24, "%rd13+16")] {
        text += &load(registers, place);
    }
    for piece in [0, 16, 32, 48] {
        text += &load(40, &format!("%rd12+{piece}"));
        text += &format!("st.shared.v4.u32 [%r3+{piece}], {{%r40, %r41, %r42, %r43}};\n");
    }
    text += "bar.warp.sync -1;\n";
    text += parts.body;
    text += "\n";
    text += match parts.results {
        1 => "st.global.u32 [%rd14], %r30;\n",
        2 => "st.global.v2.u32 [%rd14], {%r30, %r31};\n",
        4 => "st.global.v4.u32 [%rd14], {%r30, %r31, %r32, %r33};\n",
        _ => {
            "st.global.v4.u32 [%rd14], {%r30, %r31, %r32, %r33};\nst.global.v4.u32 [%rd14+16], {%r34, %r35, %r36, %r37};\n"
        }
    };
    text += "ret;\n}\n";
    Probe {
        inputs: [
            filled(parts.first, lanes * FIRST),
            filled(parts.image, parts.warps * IMAGE),
            filled(parts.third, lanes * THIRD),
        ],
        name: parts.name,
        ptx: text,
        output_bytes: lanes * parts.results * 4,
        threads: (lanes as u32).next_multiple_of(BLOCK),
        bound: parts.bound,
        magnitudes: parts.magnitudes,
        maps: Vec::new(),
        map_parameter: None,
    }
}

/// 16-bit element i of every warp's image holds i + 1.
fn counting(warps: usize) -> Vec<u32> {
    (0..warps * IMAGE).map(|index| (index % IMAGE * 2) as u32).map(|low| (low + 2) << 16 | (low + 1)).collect()
}

fn random(count: usize, seed: u32) -> Vec<u32> {
    let mut numbers = Numbers::new(seed);
    (0..count).map(|_| numbers.bits()).collect()
}

/// The lane's 32 bytes of the image's first half.
const READ_BACK: &str = "bar.warp.sync -1;\nshl.b32 %r4, %r1, 5;\nadd.s32 %r4, %r2, %r4;\nld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r4];\n\
                         ld.shared.v4.u32 {%r34, %r35, %r36, %r37}, [%r4+16];";

pub(crate) fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    matrix_moves(&mut all);
    copies(&mut all);
    accesses(&mut all);
    all
}

/// ldmatrix and stmatrix, plain and transposed; each lane names a row anywhere in the image.
fn matrix_moves(all: &mut Vec<Probe>) {
    const WARPS: usize = 8;
    for count in [1, 2, 4] {
        for trans in ["", ".trans"] {
            let list = ["%r30", "%r30, %r31", "", "%r30, %r31, %r32, %r33"][count - 1];
            let mut numbers = Numbers::new(11);
            // Rows of 16 bytes: no two lanes' are the same, so that stores do not race.
            let mut rows = |rows: u32| {
                let mut first = vec![0; WARPS * 32 * FIRST];
                for warp in 0..WARPS {
                    let mut places: Vec<u32> = (0..rows).collect();
                    numbers.shuffle(&mut places);
                    for lane in 0..32 {
                        // The first warp's rows lie in order.
                        let row = if warp == 0 { lane as u32 } else { places[lane] };
                        first[(warp * 32 + lane) * FIRST] = 16 * row;
                    }
                }
                first
            };
            let spelling = format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            all.push(build(Parts {
                name: spelling.clone(),
                target: "sm_80",
                body: &format!("add.s32 %r5, %r2, %r10;\n{spelling} {{{list}}}, [%r5];"),
                warps: WARPS,
                first: rows(128),
                image: counting(WARPS),
                third: Vec::new(),
                results: count,
                bound: Bound::Exact,
                magnitudes: Vec::new(),
            }));
            let spelling = format!("stmatrix.sync.aligned.m8n8.x{count}{trans}.shared.b16");
            let list = list.replace("%r3", "%r2");
            all.push(build(Parts {
                name: spelling.clone(),
                target: "sm_90",
                body: &format!("add.s32 %r5, %r2, %r10;\n{spelling} [%r5], {{{list}}};\n{READ_BACK}"),
                warps: WARPS,
                first: rows(64),
                image: counting(WARPS),
                third: random(WARPS * 32 * THIRD, 12),
                results: 8,
                bound: Bound::Exact,
                magnitudes: Vec::new(),
            }));
        }
    }
}

/// cp.async of every size, whole and with a rest of zeros over what was there.
fn copies(all: &mut Vec<Probe>) {
    const WARPS: usize = 4;
    for (cache, prefetch, size) in
        [("cg", "", 16), ("cg", ".L2::128B", 16), ("ca", "", 4), ("ca", "", 8), ("ca", "", 16)]
    {
        for fill in [false, true] {
            let spelling = format!("cp.async.{cache}.shared.global{prefetch}");
            let (rest, note) = if fill { (", %r20", " zero fill") } else { ("", "") };
            let wait = if fill { "cp.async.commit_group;\ncp.async.wait_group 0;" } else { "cp.async.wait_all;" };
            all.push(build(Parts {
                name: format!("{spelling} {size}{note}"),
                target: "sm_80",
                body: &format!(
                    "{spelling} [%r3], [%rd11], {size}{rest};\n{wait}\nld.shared.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r3];"
                ),
                warps: WARPS,
                first: random(WARPS * 32 * FIRST, 13),
                image: random(WARPS * IMAGE, 14),
                // Bytes to copy: every number up to the size.
                third: (0..WARPS * 32 * THIRD).map(|index| (index / THIRD) as u32 % (size + 1)).collect(),
                results: 4,
                bound: Bound::Exact,
                magnitudes: Vec::new(),
            }));
        }
    }
}

/// Loads and stores of shared memory by width, and an atomic.
const ACCESS_PROBES: &[(&str, &str)] = &[
    ("ld.shared.v2.u32", "ld.shared.v2.u32 {%r30, %r31}, [%r3+8];\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;"),
    ("ld.shared.v4.u32", "ld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r3+32];"),
    (
        "ld.shared.v4.u16",
        "ld.shared.v4.u16 {%h1, %h2, %h3, %h4}, [%r3+24];\nmov.b32 %r30, {%h1, %h2};\nmov.b32 %r31, {%h3, %h4};\n\
         mov.u32 %r32, 0;\nmov.u32 %r33, 0;",
    ),
    (
        "ld.shared narrow",
        "ld.shared.u8 %r30, [%r3+5];\nld.shared.s8 %r31, [%r3+6];\nld.shared.u16 %h1, [%r3+10];\ncvt.u32.u16 %r32, %h1;\n\
         ld.shared.s16 %r33, [%r3+14];",
    ),
    (
        "st.shared narrow",
        "st.shared.u8 [%r3+1], %r10;\nmov.b32 {%h1, %h2}, %r11;\nst.shared.u16 [%r3+6], %h2;\nst.shared.v2.u32 [%r3+8], {%r12, %r13};\n\
         ld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r3];",
    ),
    (
        "ld generic",
        "cvt.u64.u32 %rd16, %r3;\ncvta.shared.u64 %rd16, %rd16;\nld.v4.u32 {%r30, %r31, %r32, %r33}, [%rd16+16];",
    ),
    (
        "atom.shared.add.u32",
        "atom.shared.add.u32 %r4, [%r2], %r10;\nbar.warp.sync -1;\nld.shared.u32 %r30, [%r2];\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\n\
         mov.u32 %r33, 0;",
    ),
];

fn accesses(all: &mut Vec<Probe>) {
    const WARPS: usize = 4;
    for &(name, body) in ACCESS_PROBES {
        all.push(build(Parts {
            name: name.into(),
            target: "sm_80",
            body,
            warps: WARPS,
            first: random(WARPS * 32 * FIRST, 15),
            image: random(WARPS * IMAGE, 16),
            third: Vec::new(),
            results: 4,
            bound: Bound::Exact,
            magnitudes: Vec::new(),
        }));
    }
}
