//! Probes of whole blocks: what four warps do together, or what other units do for them.
//!
//! A block copies its part of the first input, the image, to shared memory. A thread then reads 16 bytes of the second
//! input (`%r10` to `%r13`) and writes some words from `%r30` on. `%r1` is the thread, `%r2` the address of the image,
//! `%r3` the block, `%r4` the address of eight mbarriers, `%r5` the block's rank in its cluster, `%rd10` to `%rd14`
//! the three inputs, the block's part of the first one, and the thread's place in the output.

use crate::inputs::bytes;
use crate::{BLOCK, Bound, Probe, ProbeMap};

/// Bytes that the block's threads copy at a time.
const STEP: usize = BLOCK as usize * 16;

/// What [`build`] makes a probe of.
pub(crate) struct Parts<'p> {
    pub name: String,
    pub body: &'p str,
    pub blocks: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Bytes of shared memory that are filled, a multiple of 2 KiB; the rest up to `shared` is not.
    pub image_bytes: usize,
    /// Bytes of shared memory.
    pub shared: usize,
    /// Words for every block's image, or empty for zeros.
    pub image: Vec<u32>,
    /// Four words for every thread, or empty for zeros.
    pub second: Vec<u32>,
    /// Bytes of the third input after its tensor maps.
    pub third: Vec<u8>,
    pub maps: Vec<ProbeMap>,
    /// See [`Probe::map_parameter`].
    pub map_parameter: Option<ProbeMap>,
    /// Words of a thread: 1 to 4, or a multiple of 4; 0 where the body writes the output.
    pub results: usize,
    /// A thread writes one number that changes with every word and its place, instead of the words: for results that
    /// are exact, and too many for a repository.
    pub folded: bool,
    /// Bytes of the output where `results` is 0.
    pub output_bytes: usize,
    pub bound: Bound,
    pub magnitudes: Vec<f32>,
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Self {
            name: String::new(),
            body: "",
            blocks: 1,
            cluster: 1,
            image_bytes: STEP,
            shared: STEP,
            image: Vec::new(),
            second: Vec::new(),
            third: Vec::new(),
            maps: Vec::new(),
            map_parameter: None,
            results: 1,
            folded: false,
            output_bytes: 0,
            bound: Bound::Exact,
            magnitudes: Vec::new(),
        }
    }
}

/// Puts a body between filling shared memory and storing its results.
pub(crate) fn build(parts: Parts<'_>) -> Probe {
    let threads = (parts.blocks * BLOCK) as usize;
    let written = if parts.folded { 1 } else { parts.results };
    let cluster = match parts.cluster {
        1 => String::new(),
        size => format!(".explicitcluster\n.reqnctapercluster {size}, 1, 1\n"),
    };
    let map = if parts.map_parameter.is_some() { ",\n.param .align 64 .b8 map[128]" } else { "" };
    let mut text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n\n.visible .entry probe(\n.param .u64 a,\n.param .u64 b,\n.param .u64 c,\n\
         .param .u64 out,\n.param .u32 count{map}\n)\n.reqntid {BLOCK}, 1, 1\n{cluster}{{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n\
         .reg .f32 %f<160>;\n.reg .b32 %r<240>;\n.reg .b64 %rd<32>;\n.shared .align 1024 .b8 cells[{}];\n\
         .shared .align 8 .b8 barriers[64];\n\
         mov.u32 %r1, %tid.x;\nmov.u32 %r2, cells;\nmov.u32 %r3, %ctaid.x;\nmov.u32 %r4, barriers;\nmov.u32 %r5, %cluster_ctarank;\n\
         ld.param.u64 %rd10, [a];\nld.param.u64 %rd11, [b];\nld.param.u64 %rd12, [c];\nld.param.u64 %rd14, [out];\n\
         mad.lo.s32 %r6, %r3, {BLOCK}, %r1;\nmul.wide.u32 %rd15, %r6, {};\nadd.s64 %rd14, %rd14, %rd15;\n\
         mul.wide.u32 %rd15, %r3, {};\nadd.s64 %rd13, %rd10, %rd15;\nmul.wide.u32 %rd15, %r1, 16;\nadd.s64 %rd16, %rd13, %rd15;\n\
         shl.b32 %r7, %r1, 4;\nadd.s32 %r7, %r2, %r7;\n",
        parts.shared.max(parts.image_bytes),
        4 * written,
        parts.image_bytes,
    );
    for at in (0..parts.image_bytes).step_by(STEP) {
        text += &format!(
            "ld.global.v4.u32 {{%r200, %r201, %r202, %r203}}, [%rd16+{at}];\nst.shared.v4.u32 [%r7+{at}], {{%r200, %r201, %r202, %r203}};\n"
        );
    }
    if !parts.second.is_empty() {
        text += "mul.wide.u32 %rd15, %r6, 16;\nadd.s64 %rd16, %rd11, %rd15;\nld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd16];\n";
    }
    text += "fence.proxy.async;\nbar.sync 0;\n";
    text += parts.body;
    text += "\n";
    if parts.folded {
        for word in 1..parts.results {
            text += &format!("mad.lo.s32 %r30, %r30, 31, %r{};\n", 30 + word);
        }
    }
    match written {
        0 => {}
        1 => text += "st.global.u32 [%rd14], %r30;\n",
        2 => text += "st.global.v2.u32 [%rd14], {%r30, %r31};\n",
        results => {
            for word in (0..results).step_by(4) {
                let [a, b, c, d] = [0, 1, 2, 3].map(|index| 30 + word + index);
                text += &format!("st.global.v4.u32 [%rd14+{}], {{%r{a}, %r{b}, %r{c}, %r{d}}};\n", 4 * word);
            }
        }
    }
    text += "ret;\n}\n";
    let filled = |words: Vec<u32>, length: usize| {
        let words = if words.is_empty() { vec![0; length] } else { words };
        assert_eq!(words.len(), length, "{}: an input has another size", parts.name);
        bytes(&words)
    };
    let mut third = vec![0; 128 * parts.maps.len()];
    third.extend(parts.third);
    third.resize(third.len().max(16), 0);
    Probe {
        inputs: [
            filled(parts.image, parts.blocks as usize * parts.image_bytes / 4),
            filled(parts.second, threads * 4),
            third,
        ],
        name: parts.name,
        ptx: text,
        output_bytes: if parts.results == 0 { parts.output_bytes } else { threads * written * 4 },
        threads: threads as u32,
        bound: parts.bound,
        magnitudes: parts.magnitudes,
        maps: parts.maps,
        map_parameter: parts.map_parameter,
    }
}
