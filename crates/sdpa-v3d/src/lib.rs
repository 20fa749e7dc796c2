//! V3d: causal tiles in even shares: empty halves left out, rows traded among warpgroups. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3d::V3d.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choices;

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    SizeRange, Specialisation, TileBoxes, Tunable, TunedChoice, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3d`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3d", "sm_90a");

/// Query rows of a kernel's tile, and how much longer a row takes than in the best kernel of the head dimension, in
/// percent: with few keys a row and with many.
type Tile = (usize, [usize; 2]);

/// Head dimensions that have kernels, with their tiles; others are padded with zeros to the next. Measured with V3c
/// on an H200 with the chip full: three warpgroups hide the most, two and four lose the least to short rows.
const HEAD_DIMS: [(usize, &[Tile]); 3] = [
    (64, &[(128, [114, 116]), (192, [107, 100]), (256, [100, 105])]),
    (96, &[(128, [100, 109]), (192, [102, 100])]),
    (128, &[(128, [100, 100])]),
];

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3d.cu", &PTX, name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3d",
    title: "causal tiles in even shares: empty halves left out, rows traded among warpgroups",
    parent: Some("v3c"),
    // In the order that `plan` counts in: dtype, then head dimension and tile as in `HEAD_DIMS`. EIGHTHS_BEFORE_WAIT is the
    // fastest of those measured on an H200.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6"], 2, 128, 148_480;
        "d64_m192", ["HEAD_DIM=64", "CONSUMERS=3", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8"], 3, 128, 173_056;
        "d64_m256", ["HEAD_DIM=64", "CONSUMERS=4", "TILE_KEYS=64", "KEY_STAGES=6",
            "QUERY_STAGES=2", "TURNS=UNLESS_CAUSAL", "EIGHTHS_BEFORE_WAIT=5"], 4, 64, 197_632;
        "d96_m128", ["HEAD_DIM=96", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6"], 2, 128, 230_400;
        "d96_m192", ["HEAD_DIM=96", "CONSUMERS=3", "TILE_KEYS=112", "KEY_STAGES=2",
            "QUERY_STAGES=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8"], 3, 112, 214_016;
        "d128", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6"], 2, 128, 230_400;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 225 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// The work of a causal tile shared out evenly.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3d;

impl Attention for V3d {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        plan_with(problem, limits, |tiles| fastest_tile(tiles, problem, limits))
    }

    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        let mut plans: Vec<_> =
            (0..3).flat_map(|tile| plan_with(problem, limits, |tiles| tile.min(tiles.len() - 1))).collect();
        plans.dedup();
        plans
    }

    fn choices(&self) -> &'static [TunedChoice] {
        choices::CHOICES
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "EIGHTHS_BEFORE_WAIT", values: &["2", "3", "4", "5", "6", "7", "8"] },
            Tunable { define: "TURNS", values: &["NEVER", "UNLESS_CAUSAL", "ALWAYS"] },
            Tunable { define: "TILE_KEYS", values: &["64", "80", "96", "112", "128"] },
            Tunable { define: "KEY_STAGES", values: &["2", "3", "4", "6"] },
        ]
    }

    /// Queries, the output, and each stage's keys and values in boxes of 64 columns, and a box row of barriers.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        let number = |name| kernel.number(name);
        let columns = number("HEAD_DIM")?.next_multiple_of(TileBoxes::COLUMNS);
        let (rows, tile_keys) = (64 * number("CONSUMERS")?, number("TILE_KEYS")?);
        let tiles = (number("QUERY_STAGES")? + 1) * rows + 2 * number("KEY_STAGES")? * tile_keys;
        let (key, value) = (tile_keys, tile_keys);
        let boxes = kernel.boxes.map(|boxes| TileBoxes { key, value, ..boxes });
        let shared_bytes = 2 * columns * tiles + 1024;
        (shared_bytes <= GENERATION.budget.shared_bytes).then_some(Specialisation { shared_bytes, boxes, ..kernel })
    }
}

/// The plan with the tile that `choose` takes out of those of a head dimension.
fn plan_with(
    problem: &Problem,
    limits: &DeviceLimits,
    choose: impl Fn(&[Tile]) -> usize,
) -> Result<LaunchPlan, Unsupported> {
    /// Wider tiles have no half to leave out, and lose more to rows that change than they gain.
    const LARGEST: usize = 128;
    /// Without a mask this is V3c, as fast at 64. At 128 it is faster where a block has one tile, whose warpgroups
    /// would otherwise run in step, and up to 6 % slower where it has several.
    const LARGEST_UNMASKED: usize = 64;
    require::head_dim_up_to("v3d", problem, LARGEST)?;
    require::tensor_maps("v3d", problem)?;
    let of_each_dtype = GENERATION.specialisations.len() / 2;
    let first = of_each_dtype * usize::from(problem.dtype() == Dtype::Bf16);
    let kernels = &GENERATION.specialisations[first..][..of_each_dtype];
    let width = HEAD_DIMS.iter().position(|(width, _)| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
    let narrower: usize = HEAD_DIMS[..width].iter().map(|(_, tiles)| tiles.len()).sum();
    let kernel = kernels[narrower + choose(HEAD_DIMS[width].1)];
    // Tiles are numbered in 32 bits, so there may be no more than a grid holds.
    let tiles = Launch::per_query_tile("v3d", kernel, problem, kernel.query_rows(), limits)?.grid[0];
    let blocks = tiles.min(limits.multiprocessors);
    let plan = LaunchPlan::single(Launch::new("v3d", kernel, u64::from(blocks), limits)?);
    let plan = if tiles > blocks { plan.drawing_tickets() } else { plan };
    if !problem.mask().is_causal() && plan.tickets > 0 {
        let (width, narrow) = (problem.head_dim(), SizeRange::UpTo(LARGEST_UNMASKED));
        let reason = "without a mask and with several tiles per block its parent is faster on wider ones";
        require::size("v3d", "head_dim", width, narrow, reason)?;
    }
    Ok(plan)
}

/// Which of a head dimension's kernels is done first, by the work of the multiprocessor that has most.
fn fastest_tile(tiles: &[Tile], problem: &Problem, limits: &DeviceLimits) -> usize {
    /// Where the one turns into the other, in keys that a row sees on average.
    const MANY_KEYS: usize = 1024;

    let causal = problem.mask().is_causal();
    let keys = problem.len_kv() / if causal { 2 } else { 1 };
    let heads = problem.batch() * problem.heads_q();
    // Without any, `Launch::new` declines.
    let multiprocessors = limits.multiprocessors.max(1) as usize;
    let cost = |&(rows, percent): &Tile| {
        let tiles = problem.len_q().div_ceil(rows) * heads;
        // In rows. Alike tiles come in waves; unlike ones even out, but the longest takes twice the average.
        let most = match causal {
            true => (tiles * rows / multiprocessors).max(2 * rows),
            false => tiles.div_ceil(multiprocessors) * rows,
        };
        most * percent[usize::from(keys > MANY_KEYS)]
    };
    (0..tiles.len()).min_by_key(|kernel| cost(&tiles[*kernel])).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law that a search goes by gives what the table says.
    #[test]
    fn the_tables_kernels_are_as_large_as_the_law_says() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V3d.resized(*kernel), Some(*kernel));
        }
    }
}
