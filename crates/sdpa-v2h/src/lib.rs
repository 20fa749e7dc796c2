//! V2h: keys by range and scores by shape: windows, key lengths, sinks, slopes, soft caps. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2h::V2h.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2h`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2h", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Kernels for scores as they are: two of each head dimension but the widest, which has one.
const PLAIN: usize = 2 * HEAD_DIMS.len() - 1;

/// Head dimensions that have kernels for scores with slopes, and for capped ones.
const SHAPED_HEAD_DIMS: [usize; 3] = [64, 128, 256];

const OF_EACH_DTYPE: usize = PLAIN + 2 * SHAPED_HEAD_DIMS.len();

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2h.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads,
        shared_bytes,
        boxes: None,
    }
}

static GENERATION: Generation = Generation {
    id: "v2h",
    title: "keys by range and scores by shape: windows, key lengths, sinks, slopes, soft caps",
    parent: Some("v2d"),
    // In the order that `decide` counts in: dtype, shape of the scores, head dimension, tiles of 128 or of 64 query rows.
    // All key tiles have 64 keys, so that a row has the same bits whichever kernel computes it.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 49_152;
        "d64_m64", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 40_960;
        "d96_m128", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 73_728;
        "d96_m64", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 61_440;
        "d128_m128", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 98_304;
        "d128_m64", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN"], 128, 81_920;
        "d256_m64", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN"], 128, 98_304;
        "d64_sloped", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=SLOPED"], 128, 40_960;
        "d128_sloped", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=SLOPED"], 128, 81_920;
        "d256_sloped", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=SLOPED"], 128, 98_304;
        "d64_capped", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=CAPPED"], 128, 40_960;
        "d128_capped", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=CAPPED"], 128, 81_920;
        "d256_capped", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=CAPPED"], 128, 98_304;
    ],
    // Eight warps a multiprocessor leave each thread the most that there is; two blocks of 98304 bytes fit a
    // multiprocessor of an A100 or an H200, and one an L4's.
    budget: Budget { registers: 255, shared_bytes: 96 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { packed: false, paged: false, ..Extensions::ALL },
};

/// So far what v2d is.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2h;

impl Attention for V2h {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2h", problem, 256)?;
        require::strides_multiple_of("v2h", problem, 8)?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let kernels = &GENERATION.specialisations[usize::from(bf16) * OF_EACH_DTYPE..][..OF_EACH_DTYPE];
        let (plain, shaped) = kernels.split_at(PLAIN);
        let (sloped, capped) = shaped.split_at(SHAPED_HEAD_DIMS.len());
        let place = |widths: &[usize]| widths.partition_point(|width| *width < problem.head_dim());
        let (kernel, rows) = match (problem.softcap(), problem.slopes()) {
            // A capped kernel has slopes, too, of 0 where there are none.
            (Some(_), _) => (capped[place(&SHAPED_HEAD_DIMS)], 64),
            (None, true) => (sloped[place(&SHAPED_HEAD_DIMS)], 64),
            (None, false) => match &plain[2 * place(&HEAD_DIMS)..] {
                [large, _, ..] if large_tiles_pay(problem, limits) => (*large, 128),
                [_, small, ..] => (*small, 64),
                _ => (plain[PLAIN - 1], 64),
            },
        };
        Launch::per_query_tile("v2h", kernel, problem, rows, limits).map(LaunchPlan::single)
    }
}

/// Large tiles load every key half as often, small ones leave fewer multiprocessors idle. As V2d has it, from which these
/// numbers are: large ones as soon as they give every multiprocessor one, and of tiles that differ in length eight.
fn large_tiles_pay(problem: &Problem, limits: &DeviceLimits) -> bool {
    let tiles = problem.len_q().div_ceil(128) * problem.batch() * problem.heads_q();
    tiles >= limits.multiprocessors as usize * if problem.mask().is_causal() { 8 } else { 1 }
}
