//! V3b: the softmax under the products. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3b::V3b.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    Specialisation, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3b`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3b", "sm_90a");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 5] = [64, 96, 128, 192, 256];

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3b.cu", &PTX, name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3b",
    title: "the softmax under the products; the output rescaled only when it must be",
    parent: Some("v3"),
    // In the order that `plan` counts in: dtype, then head dimension.
    specialisations: for_both_dtypes![kernel:
        "d64", ["HEAD_DIM=64", "CONSUMERS=3", "TILE_KEYS=128"], 3, 128, 91_136;
        "d96", ["HEAD_DIM=96", "CONSUMERS=2", "TILE_KEYS=128"], 2, 128, 164_864;
        "d128", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128"], 2, 128, 164_864;
        "d192", ["HEAD_DIM=192", "CONSUMERS=2", "TILE_KEYS=96"], 2, 96, 197_632;
        "d256", ["HEAD_DIM=256", "CONSUMERS=2", "TILE_KEYS=64"], 2, 64, 197_632;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 194 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// Products of neighbouring tiles run while a tile's softmax is computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3b;

impl Attention for V3b {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v3b", problem, 256)?;
        require::tensor_maps("v3b", problem)?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
        let kernel = GENERATION.specialisations[HEAD_DIMS.len() * usize::from(bf16) + width];
        Launch::per_query_tile("v3b", kernel, problem, kernel.query_rows(), limits).map(LaunchPlan::single)
    }
}
