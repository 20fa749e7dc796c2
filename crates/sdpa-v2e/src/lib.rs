//! V2e: keys split over the warps of a block, for problems too short to fill the chip with query tiles. See this
//! crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2e::V2e.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Unsupported, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2e`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2e", "sm_80", "sm_90");

/// Query rows a block: two warps of 16 rows in each group (`TILE_ROWS` in the kernel).
const TILE_ROWS: usize = 32;

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

const fn split(name: &'static str, defines: &'static [&'static str], shared_bytes: u32) -> Specialisation {
    Specialisation {
        source: "v2e.cu",
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
    id: "v2e",
    title: "keys split over the warps of a block, for short problems",
    parent: Some("v2d"),
    // In the order that `plan` counts in: dtype, then head dimension. Four groups of keys, 128 or two
    // tiles each under way; at 64 columns one tile of 128 keys measured up to 5 % faster than two of 64.
    specialisations: &[
        split("f16_d64_m32_g4", &["HEAD_DIM=64", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=128", "STAGES=1"], 135_168),
        split("f16_d96_m32_g4", &["HEAD_DIM=96", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=32", "STAGES=2"], 104_448),
        split("f16_d128_m32_g4", &["HEAD_DIM=128", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=32", "STAGES=2"], 139_264),
        split("f16_d256_m32_g4", &["HEAD_DIM=256", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=16", "STAGES=2"], 152_576),
        split(
            "bf16_d64_m32_g4",
            &["DTYPE_BF16", "HEAD_DIM=64", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=128", "STAGES=1"],
            135_168,
        ),
        split(
            "bf16_d96_m32_g4",
            &["DTYPE_BF16", "HEAD_DIM=96", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=32", "STAGES=2"],
            104_448,
        ),
        split(
            "bf16_d128_m32_g4",
            &["DTYPE_BF16", "HEAD_DIM=128", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=32", "STAGES=2"],
            139_264,
        ),
        split(
            "bf16_d256_m32_g4",
            &["DTYPE_BF16", "HEAD_DIM=256", "ROW_WARPS=2", "KEY_GROUPS=4", "TILE_KEYS=16", "STAGES=2"],
            152_576,
        ),
    ],
    budget: Budget { registers: 255, shared_bytes: 160 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// The first generation below cuDNN's time at (1, 8, 512, 64).
#[derive(Clone, Copy, Debug, Default)]
pub struct V2e;

impl Attention for V2e {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2e", problem, 256)?;
        require::strides_multiple_of("v2e", problem, 8)?;
        // One block fills a multiprocessor's shared memory: what does not run at once had better not be split.
        let tiles = problem.len_q().div_ceil(TILE_ROWS) * problem.batch() * problem.heads_q();
        let limit = limits.multiprocessors as usize;
        let at_once = SizeRange::UpTo(limit);
        require::size(
            "v2e",
            "32-row query tiles",
            tiles,
            at_once,
            "no more run at once on this device; its parent takes them",
        )?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
        let kernel = GENERATION.specialisations[HEAD_DIMS.len() * usize::from(bf16) + width];
        Launch::per_query_tile("v2e", kernel, problem, TILE_ROWS, limits).map(LaunchPlan::single)
    }
}
