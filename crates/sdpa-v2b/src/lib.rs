//! V2b: one warp owns a row, so the softmax needs no barrier; legal cp.async; padded shared memory; still scalar. See
//! this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2b::V2b.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Unsupported, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2b`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2b", "sm_80", "sm_90");

/// Query rows a block (`TILE_ROWS` in the kernel).
const TILE_ROWS: usize = 64;

/// Keys from which on a third stage of K and V tiles is worth its shared memory.
const LONG: usize = 2048;

const fn specialisation(name: &'static str, defines: &'static [&'static str], shared_bytes: u32) -> Specialisation {
    Specialisation {
        source: "v2b.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: 256,
        shared_bytes,
        boxes: None,
    }
}

static GENERATION: Generation = Generation {
    id: "v2b",
    title: "one warp owns a row; legal cp.async; padded shared memory",
    parent: Some("v1"),
    // In the order that `plan` counts in: head dimension, then stages.
    specialisations: &[
        specialisation("f16_d64_s2", &["HEAD_DIM=64", "STAGES=2"], 64_000),
        specialisation("f16_d64_s3", &["HEAD_DIM=64", "STAGES=3"], 82_432),
        specialisation("f16_d128_s2", &["HEAD_DIM=128", "STAGES=2"], 61_952),
        specialisation("f16_d128_s3", &["HEAD_DIM=128", "STAGES=3"], 79_360),
    ],
    // What leaves room for two blocks on an L4's multiprocessor in registers, and for one in its shared memory.
    budget: Budget { registers: 72, shared_bytes: 96 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// Correctness first: the generation that mended V2's race.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2b;

impl Attention for V2b {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::dtype("v2b", problem, &[Dtype::F16])?;
        require::head_dim_up_to("v2b", problem, 128)?;
        require::strides_multiple_of("v2b", problem, 8)?;
        let (wide, long) = (problem.head_dim() > 64, problem.len_kv() >= LONG);
        let kernel = GENERATION.specialisations[2 * usize::from(wide) + usize::from(long)];
        Launch::per_query_tile("v2b", kernel, problem, TILE_ROWS, limits).map(LaunchPlan::single)
    }
}
