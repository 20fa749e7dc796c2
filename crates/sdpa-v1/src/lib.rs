//! V1: scalar, streaming softmax, no pipeline. The plainest kernel that is right; see this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v1::V1.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Unsupported, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v1`.
pub static PTX: PackedPtx = sdpa_core::packed!("v1", "sm_80", "sm_90");

/// Rows a block: one for each of its 8 warps (`TILE_ROWS` in the kernel).
const TILE_ROWS: usize = 8;

const fn specialisation(name: &'static str, defines: &'static [&'static str]) -> Specialisation {
    Specialisation {
        source: "v1.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: 256,
        shared_bytes: 0,
        boxes: None,
    }
}

static GENERATION: Generation = Generation {
    id: "v1",
    title: "scalar, streaming softmax, no pipeline",
    parent: None,
    specialisations: &[specialisation("f16_d64", &["HEAD_DIM=64"]), specialisation("f16_d128", &["HEAD_DIM=128"])],
    budget: Budget { registers: 64, shared_bytes: 0, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    // Loads and stores single elements.
    alignment: 2,
    takes: Extensions::NONE,
};

/// The first generation.
#[derive(Clone, Copy, Debug, Default)]
pub struct V1;

impl Attention for V1 {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::dtype("v1", problem, &[Dtype::F16])?;
        require::head_dim_up_to("v1", problem, 128)?;
        let kernel = GENERATION.specialisations[usize::from(problem.head_dim() > 64)];
        Launch::per_query_tile("v1", kernel, problem, TILE_ROWS, limits).map(LaunchPlan::single)
    }
}
