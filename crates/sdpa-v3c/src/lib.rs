//! V3c: persistent blocks: tickets, longest tiles first, the next tile loaded early. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3c::V3c.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod choices;

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    Specialisation, TileBoxes, Tunable, TunedChoice, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3c`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3c", "sm_90a");

/// Query rows of a kernel's tile, and how much longer a row takes than in the best kernel of the head dimension, in
/// percent: with few keys a row and with many.
type Tile = (usize, [usize; 2]);

/// Head dimensions that have kernels, with their tiles; others are padded with zeros to the next. Measured on an H200 with
/// the chip full: three warpgroups hide the most, two and four lose the least to short rows.
const HEAD_DIMS: [(usize, &[Tile]); 5] = [
    (64, &[(128, [114, 116]), (192, [107, 100]), (256, [100, 105])]),
    (96, &[(128, [100, 109]), (192, [102, 100])]),
    (128, &[(128, [100, 100])]),
    (192, &[(128, [100, 100])]),
    (256, &[(128, [100, 100])]),
];

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3c.cu", &PTX, name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3c",
    title: "persistent blocks: tickets, longest tiles first, the next tile loaded early",
    parent: Some("v3b"),
    // In the order that `plan` counts in: dtype, then head dimension and tile as in `HEAD_DIMS`.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS"], 2, 128, 148_480;
        "d64_m192", ["HEAD_DIM=64", "CONSUMERS=3", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS"], 3, 128, 173_056;
        "d64_m256", ["HEAD_DIM=64", "CONSUMERS=4", "TILE_KEYS=64", "KEY_STAGES=6",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=UNLESS_CAUSAL"], 4, 64, 197_632;
        "d96_m128", ["HEAD_DIM=96", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS"], 2, 128, 230_400;
        "d96_m192", ["HEAD_DIM=96", "CONSUMERS=3", "TILE_KEYS=112", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=1", "TURNS=ALWAYS"], 3, 112, 214_016;
        "d128", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=NEVER"], 2, 128, 230_400;
        "d192", ["HEAD_DIM=192", "CONSUMERS=2", "TILE_KEYS=96", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=NEVER"], 2, 96, 197_632;
        "d256", ["HEAD_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=NEVER"], 2, 64, 197_632;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 225 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// One block a multiprocessor, which stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3c;

impl Attention for V3c {
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
        let tiles = (number("QUERY_STAGES")? + number("STAGED_OUTPUT")?) * rows + 2 * number("KEY_STAGES")? * tile_keys;
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
    require::head_dim_up_to("v3c", problem, 256)?;
    require::tensor_maps("v3c", problem)?;
    let of_each_dtype = GENERATION.specialisations.len() / 2;
    let first = of_each_dtype * usize::from(problem.dtype() == Dtype::Bf16);
    let kernels = &GENERATION.specialisations[first..][..of_each_dtype];
    let width = HEAD_DIMS.iter().position(|(width, _)| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
    let narrower: usize = HEAD_DIMS[..width].iter().map(|(_, tiles)| tiles.len()).sum();
    let kernel = kernels[narrower + choose(HEAD_DIMS[width].1)];
    // Tiles are numbered in 32 bits, so there may be no more than a grid holds.
    let tiles = Launch::per_query_tile("v3c", kernel, problem, kernel.query_rows(), limits)?.grid[0];
    let blocks = tiles.min(limits.multiprocessors);
    let plan = LaunchPlan::single(Launch::new("v3c", kernel, u64::from(blocks), limits)?);
    Ok(if tiles > blocks { plan.drawing_tickets() } else { plan })
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
    use sdpa_core::Mask;

    use super::*;

    /// The law that a search goes by gives what the table says.
    #[test]
    fn the_tables_kernels_are_as_large_as_the_law_says() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V3c.resized(*kernel), Some(*kernel));
        }
    }

    fn rows(shape: (usize, usize, usize), head_dim: usize, mask: Mask) -> usize {
        let (batch, heads, len) = shape;
        let problem = Problem::new(batch, heads, len, head_dim).mask(mask).build().unwrap();
        let plan = V3c.plan(&problem, &DeviceLimits::H200).unwrap();
        plan.launches[0].kernel.query_rows()
    }

    /// The fastest as measured, where they lie more than 2 % apart.
    #[test]
    fn tiles_are_those_that_were_measured_fastest() {
        for (shape, head_dim, full, causal) in [
            ((1, 8, 512), 64, 128, 128),
            ((2, 8, 2048), 64, 256, 128),
            ((32, 32, 512), 64, 256, 256),
            ((16, 32, 1024), 64, 256, 256),
            ((4, 32, 4096), 64, 192, 192),
            ((1, 32, 16384), 64, 192, 192),
            ((2, 8, 2048), 96, 128, 128),
            ((16, 16, 1024), 96, 128, 128),
            // With a mask 1 % apart.
            ((4, 16, 4096), 96, 192, 192),
        ] {
            assert_eq!(rows(shape, head_dim, Mask::Full), full, "{shape:?}, {head_dim}");
            assert_eq!(rows(shape, head_dim, Mask::Causal), causal, "{shape:?}, {head_dim}, causal");
        }
        assert_eq!(rows((8, 32, 2048), 64, Mask::Full), 192);
        assert_eq!(rows((1, 16, 16384), 96, Mask::Causal), 192);
    }

    /// What `plan` takes for a kernel's rows are its rows.
    #[test]
    fn kernels_have_the_tiles_that_they_are_chosen_by() {
        let tiles = HEAD_DIMS.iter().flat_map(|(width, tiles)| tiles.iter().map(move |(rows, _)| (*width, *rows)));
        let of_both_dtypes: Vec<_> = tiles.clone().chain(tiles).collect();
        let built = GENERATION.specialisations.iter().map(|kernel| {
            let width = kernel.defines.iter().find_map(|define| define.strip_prefix("HEAD_DIM="));
            (width.unwrap().parse().unwrap(), kernel.query_rows())
        });
        assert_eq!(built.collect::<Vec<(usize, usize)>>(), of_both_dtypes);
    }

    #[test]
    fn only_blocks_that_have_more_than_one_tile_draw_tickets() {
        let draws = |heads| {
            let problem = Problem::new(1, heads, 128, 128).build().unwrap();
            V3c.plan(&problem, &DeviceLimits::H200).unwrap().tickets > 0
        };
        assert_eq!([draws(132), draws(133)], [false, true]);
    }
}
