//! A generation for tests: two kernels, tensor maps, a workspace and tickets.

use std::collections::BTreeMap;
use std::sync::Mutex;

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Extensions, Generation, Launch, LaunchPlan, PackedCode,
    PackedPtx, Problem, Specialisation, TileBoxes, Unsupported,
};

/// Takes every problem.
pub(crate) struct V0;

static GENERATION: Generation = Generation {
    id: "v0",
    title: "a stand-in",
    parent: None,
    specialisations: &[],
    budget: Budget { registers: 255, shared_bytes: 0, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

impl Attention for V0 {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let launch = |name, boxes| Launch::per_query_tile("v0", kernel(name, boxes), problem, 64, limits);
        let boxes = TileBoxes { query: 64, key: 64, value: 64, output: 64 };
        let launches = vec![launch("parts", Some(boxes))?, launch("merge", None)?];
        LaunchPlan { launches, workspace_bytes: 1024, tickets: 0 }.counting_arrivals("v0", 1)
    }
}

/// One of the two.
pub(crate) fn kernel(name: &'static str, boxes: Option<TileBoxes>) -> Specialisation {
    let architecture = Architecture::Compute90a;
    Specialisation {
        source: "v0.cu",
        ptx: pack(""),
        name,
        architecture,
        defines: &[],
        threads: 128,
        shared_bytes: 1024,
        boxes,
    }
}

/// A kernel with machine code for Hopper beside its PTX.
pub(crate) fn kernel_with_code() -> Specialisation {
    Specialisation { ptx: pack("kernel merge.sm_90a 0 5\n\x7fELF!"), ..kernel("merge", None) }
}

/// The PTX of both kernels, and machine code.
fn pack(code: &'static str) -> &'static PackedPtx {
    static PACKS: Mutex<BTreeMap<&str, &PackedPtx>> = Mutex::new(BTreeMap::new());
    let mut packs = PACKS.lock().unwrap();
    packs.entry(code).or_insert_with(|| {
        let text = "// kernel: parts.sm_90a\n.version 9.0\n// kernel: merge.sm_90a\n.version 9.0\n";
        let code = Vec::leak(vec![PackedCode::new("sm_90a", frame(code))]);
        Box::leak(Box::new(PackedPtx::with_machine_code("v0", frame(text), code)))
    })
}

/// A zstd frame of one raw block (RFC 8878).
fn frame(text: &str) -> &'static [u8] {
    let size = text.len() as u32;
    let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes()].concat();
    let block = (size << 3 | 1).to_le_bytes();
    Vec::leak([&header, &block[..3], text.as_bytes()].concat())
}
