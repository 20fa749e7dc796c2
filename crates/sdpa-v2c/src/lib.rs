//! V2c: V2b with tensor cores, through WMMA 16×16×16, for both matrix products. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2c::V2c.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Unsupported, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2c`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2c", "sm_80", "sm_90");

/// Query rows a block (`TILE_ROWS` in the kernel).
const TILE_ROWS: usize = 64;

/// Keys from which on a third stage of K and V tiles is worth its shared memory.
const LONG: usize = 2048;

const fn specialisation(name: &'static str, defines: &'static [&'static str], shared_bytes: u32) -> Specialisation {
    Specialisation {
        source: "v2c.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: 128,
        shared_bytes,
        boxes: None,
    }
}

static GENERATION: Generation = Generation {
    id: "v2c",
    title: "tensor cores (WMMA) for both matrix products",
    parent: Some("v2b"),
    // In the order that `plan` counts in: dtype, head dimension, then stages.
    specialisations: &[
        specialisation("f16_d64_s2", &["HEAD_DIM=64", "STAGES=2"], 73_728),
        specialisation("f16_d64_s3", &["HEAD_DIM=64", "STAGES=3"], 92_160),
        specialisation("f16_d128_s2", &["HEAD_DIM=128", "STAGES=2"], 67_584),
        specialisation("f16_d128_s3", &["HEAD_DIM=128", "STAGES=3"], 84_992),
        specialisation("bf16_d64_s2", &["HEAD_DIM=64", "STAGES=2", "DTYPE_BF16"], 73_728),
        specialisation("bf16_d64_s3", &["HEAD_DIM=64", "STAGES=3", "DTYPE_BF16"], 92_160),
        specialisation("bf16_d128_s2", &["HEAD_DIM=128", "STAGES=2", "DTYPE_BF16"], 67_584),
        specialisation("bf16_d128_s3", &["HEAD_DIM=128", "STAGES=3", "DTYPE_BF16"], 84_992),
    ],
    budget: Budget { registers: 184, shared_bytes: 96 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// The first generation on tensor cores, and the first that takes bf16.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2c;

impl Attention for V2c {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2c", problem, 128)?;
        require::strides_multiple_of("v2c", problem, 8)?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let (wide, long) = (problem.head_dim() > 64, problem.len_kv() >= LONG);
        let kernel = GENERATION.specialisations[4 * usize::from(bf16) + 2 * usize::from(wide) + usize::from(long)];
        Launch::per_query_tile("v2c", kernel, problem, TILE_ROWS, limits).map(LaunchPlan::single)
    }
}
