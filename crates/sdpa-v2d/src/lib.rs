//! V2d: fragments in registers; mma.sync and ldmatrix on swizzled shared memory. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2d::V2d.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choices;

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Tunable, TunedChoice, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2d`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2d", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// The head dimension that has one kernel; the others have two.
const WIDEST: usize = HEAD_DIMS.len() - 1;
const OF_EACH_DTYPE: usize = 2 * WIDEST + 1;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2d.cu",
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
    id: "v2d",
    title: "fragments in registers: mma.sync, ldmatrix, swizzled shared memory",
    parent: Some("v2c"),
    // In the order that `plan` counts in: dtype, head dimension, then tiles of 128 or of 64 query rows; at head dimension
    // 256 only the small ones, since 128 rows leave no registers or load each key for one use. The key tiles are the
    // fastest of those measured on an H200 that keep every thread within its registers.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2"], 128, 49_152;
        "d64_m64", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=128", "STAGES=2"], 128, 73_728;
        "d96_m128", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2"], 128, 73_728;
        "d96_m64", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2"], 128, 61_440;
        "d128_m128", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2"], 128, 98_304;
        "d128_m64", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2"], 128, 81_920;
        "d256_m64", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1"], 128, 98_304;
    ],
    // Eight warps a multiprocessor leave each thread the most that there is; two blocks of 98304 bytes fit a
    // multiprocessor of an A100 or an H200, and one an L4's.
    budget: Budget { registers: 255, shared_bytes: 96 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// Tensor cores as the portable hardware wants them.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2d;

impl Attention for V2d {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        plan_with(problem, limits, large_tiles_pay(problem, limits))
    }

    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        let mut plans: Vec<_> = [true, false].into_iter().flat_map(|large| plan_with(problem, limits, large)).collect();
        plans.dedup();
        plans
    }

    fn choices(&self) -> &'static [TunedChoice] {
        choices::CHOICES
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[Tunable { define: "TILE_KEYS", values: &["32", "64", "128"] }]
    }

    /// Q, and each stage's K and V, in two bytes an element.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        let number = |name| kernel.number(name);
        let rows = 16 * number("WARPS")? * number("ROW_BLOCKS")?;
        let shared_bytes = 2 * number("HEAD_DIM")? * (rows + 2 * number("STAGES")? * number("TILE_KEYS")?);
        (shared_bytes <= GENERATION.budget.shared_bytes).then_some(Specialisation { shared_bytes, ..kernel })
    }
}

/// The plan with tiles of 128 query rows, or of 64; at head dimension 256 there are only small ones.
fn plan_with(problem: &Problem, limits: &DeviceLimits, large_tiles: bool) -> Result<LaunchPlan, Unsupported> {
    require::head_dim_up_to("v2d", problem, 256)?;
    require::strides_multiple_of("v2d", problem, 8)?;
    let bf16 = problem.dtype() == Dtype::Bf16;
    let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
    let kernels = &GENERATION.specialisations[usize::from(bf16) * OF_EACH_DTYPE..][..OF_EACH_DTYPE];
    let launch = |kernel, rows| Launch::per_query_tile("v2d", kernel, problem, rows, limits);
    match &kernels[2 * width..] {
        [large, _, ..] if width < WIDEST && large_tiles => launch(*large, 128),
        [_, small, ..] if width < WIDEST => launch(*small, 64),
        _ => launch(kernels[OF_EACH_DTYPE - 1], 64),
    }
    .map(LaunchPlan::single)
}

/// Large tiles load every key half as often, small ones leave fewer multiprocessors idle. Measured on an H200: large
/// ones win as soon as they give every multiprocessor one. Causal tiles differ in length, so it takes eight to even
/// out.
fn large_tiles_pay(problem: &Problem, limits: &DeviceLimits) -> bool {
    let tiles = problem.len_q().div_ceil(128) * problem.batch() * problem.heads_q();
    tiles >= limits.multiprocessors as usize * if problem.mask().is_causal() { 8 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law that a search goes by gives what the table says.
    #[test]
    fn the_tables_kernels_are_as_large_as_the_law_says() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V2d.resized(*kernel), Some(*kernel));
        }
    }
}
