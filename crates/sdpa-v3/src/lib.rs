//! V3: Hopper's machinery: TMA, mbarriers, wgmma, a warpgroup that only loads. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3::V3.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    Specialisation, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3", "sm_90a");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 5] = [64, 96, 128, 192, 256];

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3.cu", &PTX, name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3",
    title: "Hopper's machinery: TMA, mbarriers, wgmma, a warpgroup that only loads",
    parent: Some("v2d"),
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

/// The first generation that needs Hopper.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3;

impl Attention for V3 {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v3", problem, 256)?;
        require::tensor_maps("v3", problem)?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
        let kernel = GENERATION.specialisations[HEAD_DIMS.len() * usize::from(bf16) + width];
        Launch::per_query_tile("v3", kernel, problem, kernel.query_rows(), limits).map(LaunchPlan::single)
    }
}
