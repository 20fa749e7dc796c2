//! A generation for tests: two kernels, tensor maps, a workspace and tickets.

use std::sync::OnceLock;

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Extensions, Generation, Launch, LaunchPlan, PackedPtx,
    Problem, Specialisation, TileBoxes, Unsupported,
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
        ptx: pack(),
        name,
        architecture,
        defines: &[],
        threads: 128,
        shared_bytes: 1024,
        boxes,
    }
}

/// A zstd frame of one raw block (RFC 8878).
fn pack() -> &'static PackedPtx {
    static PACK: OnceLock<PackedPtx> = OnceLock::new();
    PACK.get_or_init(|| {
        let text = "// kernel: parts.sm_90a\n.version 9.0\n// kernel: merge.sm_90a\n.version 9.0\n";
        let size = text.len() as u32;
        let header = [&[0x28, 0xb5, 0x2f, 0xfd, 0xa0][..], &size.to_le_bytes()].concat();
        let block = (size << 3 | 1).to_le_bytes();
        PackedPtx::new("v0", Vec::leak([&header, &block[..3], text.as_bytes()].concat()))
    })
}
