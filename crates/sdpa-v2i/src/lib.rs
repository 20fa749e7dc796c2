//! V2i: packed sequences: each block finds its tile from the cumulative lengths. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v2i::V2i.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2i`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2i", "sm_80", "sm_90");

/// Query rows of the tiles that kernels have for scores as they are, by head dimension; others are padded with zeros to the
/// next.
const TILES: [(usize, &[usize]); 5] =
    [(32, &[32, 64, 128]), (64, &[32, 64, 128]), (96, &[64, 128]), (128, &[64, 128]), (256, &[64])];

/// Head dimensions that have a kernel for scores with slopes, and one for capped ones, all with tiles of 64 rows.
const SHAPED_HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Kernels for scores as they are.
const PLAIN: usize = 11;
const OF_EACH_DTYPE: usize = PLAIN + 2 * SHAPED_HEAD_DIMS.len();

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2i.cu",
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
    id: "v2i",
    title: "packed sequences: each block finds its tile from the cumulative lengths",
    parent: Some("v2h"),
    // In the order that `decide` counts in: dtype, shape of the scores, then as in the tables above. All key tiles have 64
    // keys, so that a row has the same bits whichever kernel computes it, in a batch or alone.
    specialisations: for_both_dtypes![kernel:
        "d32_m32", ["HEAD_DIM=32", "WARPS=2", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN", "BLOCKS_PER_SM=10"], 64, 10_240;
        "d32_m64", ["HEAD_DIM=32", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=5"], 128, 20_480;
        "d32_m128", ["HEAD_DIM=32", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 24_576;
        "d64_m32", ["HEAD_DIM=64", "WARPS=2", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN", "BLOCKS_PER_SM=10"], 64, 20_480;
        "d64_m64", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=5"], 128, 40_960;
        "d64_m128", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 49_152;
        "d96_m64", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 61_440;
        "d96_m128", ["HEAD_DIM=96", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 73_728;
        "d128_m64", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 81_920;
        "d128_m128", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=2", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 98_304;
        "d256_m64", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 128, 98_304;
        "d64_sloped", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=SLOPED", "BLOCKS_PER_SM=2"], 128, 40_960;
        "d128_sloped", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=SLOPED", "BLOCKS_PER_SM=2"], 128, 81_920;
        "d256_sloped", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=SLOPED", "BLOCKS_PER_SM=2"], 128, 98_304;
        "d64_capped", ["HEAD_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=CAPPED", "BLOCKS_PER_SM=2"], 128, 40_960;
        "d128_capped", ["HEAD_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=CAPPED", "BLOCKS_PER_SM=2"], 128, 81_920;
        "d256_capped", ["HEAD_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=CAPPED", "BLOCKS_PER_SM=2"], 128, 98_304;
    ],
    // Eight warps a multiprocessor leave each thread the most that there is; two blocks of 98304 bytes fit a
    // multiprocessor of an A100 or an H200, and one an L4's.
    budget: Budget { registers: 255, shared_bytes: 96 * 1024, spill_bytes: 64 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { paged: false, ..Extensions::ALL },
};

/// Packed sequences without a preparing launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2i;

impl Attention for V2i {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        plan_with(problem, limits, |rows| tile(rows, problem, limits))
    }

    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        let mut plans: Vec<_> =
            (0..3).flat_map(|tile| plan_with(problem, limits, |rows| tile.min(rows.len() - 1))).collect();
        plans.dedup();
        plans
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "STAGES", values: &["1", "2"] },
            Tunable { define: "BLOCKS_PER_SM", values: &["2", "3", "4", "5", "6", "8", "10"] },
        ]
    }

    /// Q, and each stage's K and V, in two bytes an element.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        let number = |name| kernel.number(name);
        let rows = 16 * number("WARPS")? * number("ROW_BLOCKS")?;
        let shared_bytes = 2 * number("HEAD_DIM")? * (rows + 2 * number("STAGES")? * number("TILE_KEYS")?);
        (shared_bytes <= GENERATION.budget.shared_bytes).then_some(Specialisation { shared_bytes, ..kernel })
    }
}

/// The plan with the tile that `choose` takes out of those of a head dimension, where there are several.
fn plan_with(
    problem: &Problem,
    limits: &DeviceLimits,
    choose: impl Fn(&[usize]) -> usize,
) -> Result<LaunchPlan, Unsupported> {
    require::head_dim_up_to("v2i", problem, 256)?;
    require::strides_multiple_of("v2i", problem, 8)?;
    let bf16 = problem.dtype() == Dtype::Bf16;
    let kernels = &GENERATION.specialisations[usize::from(bf16) * OF_EACH_DTYPE..][..OF_EACH_DTYPE];
    let (plain, shaped) = kernels.split_at(PLAIN);
    let (sloped, capped) = shaped.split_at(SHAPED_HEAD_DIMS.len());
    let shaped_width = SHAPED_HEAD_DIMS.partition_point(|width| *width < problem.head_dim());
    let (kernel, rows) = match (problem.softcap(), problem.slopes()) {
        // A capped kernel has slopes, too, of 0 where there are none.
        (Some(_), _) => (capped[shaped_width], 64),
        (None, true) => (sloped[shaped_width], 64),
        (None, false) => {
            let width = TILES.partition_point(|(width, _)| *width < problem.head_dim());
            let narrower: usize = TILES[..width].iter().map(|(_, tiles)| tiles.len()).sum();
            let choice = choose(TILES[width].1);
            (plain[narrower + choice], TILES[width].1[choice])
        }
    };
    match problem.packing() {
        Some(_) => Launch::new("v2i", kernel, blocks(problem, rows), limits),
        None => Launch::per_query_tile("v2i", kernel, problem, rows, limits),
    }
    .map(LaunchPlan::single)
}

/// Blocks of a packed problem, for tiles of `rows` queries: the kernel numbers the tiles of sequence `s` from
/// `cu_seqlens[s] / rows + s` on.
fn blocks(problem: &Problem, rows: usize) -> u64 {
    match problem.len_q() {
        0 => 0,
        total => (total / rows + problem.sequence_count()) as u64 * problem.heads_q() as u64,
    }
}

/// Which of a head dimension's tiles suits: the smallest where sequences are hardly longer than it, and the largest where it
/// fills the chip. Measured on an H200 at both ends; where one turns into the other is V2d's.
fn tile(rows: &[usize], problem: &Problem, limits: &DeviceLimits) -> usize {
    /// Rows of the average sequence up to which half of a tile of 64 rows would be empty.
    const SHORT: usize = 48;

    let average = problem.len_q() * problem.batch() / problem.sequence_count().max(1);
    let large = rows.len() - 1;
    let tiles = average.div_ceil(rows[large]) * problem.sequence_count() * problem.heads_q();
    let waves = if problem.mask().is_causal() || problem.packing().is_some() { 8 } else { 1 };
    if rows[0] == 32 && average <= SHORT {
        0
    } else if large > 0 && tiles >= limits.multiprocessors as usize * waves && average >= rows[large] {
        large
    } else {
        large.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use sdpa_core::Packing;

    use super::*;

    /// The law that a search goes by gives what the table says.
    #[test]
    fn the_tables_kernels_are_as_large_as_the_law_says() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V2i.resized(*kernel), Some(*kernel));
        }
    }

    #[test]
    fn the_tables_say_how_many_kernels_there_are() {
        assert_eq!(TILES.iter().map(|(_, tiles)| tiles.len()).sum::<usize>(), PLAIN);
        assert_eq!(GENERATION.specialisations.len(), 2 * OF_EACH_DTYPE);
        for (kernel, (width, rows)) in GENERATION
            .specialisations
            .iter()
            .zip(TILES.iter().flat_map(|(width, tiles)| tiles.iter().map(move |rows| (width, rows))))
        {
            assert_eq!(kernel.name, format!("f16_d{width}_m{rows}"));
        }
    }

    /// Every tile of every sequence has a number in the grid, wherever sequences begin.
    #[test]
    fn the_grid_holds_every_tile() {
        for (rows, lengths) in [(32, vec![1_usize; 70]), (64, vec![0, 63, 64, 65, 0, 1, 200]), (128, vec![5, 0, 0])] {
            let (mut begin, mut next) = (0, 0);
            for (sequence, length) in lengths.iter().enumerate() {
                let first = begin / rows + sequence;
                assert!(first >= next, "tiles of two sequences share a number");
                next = first + length.div_ceil(rows);
                begin += length;
            }
            let longest = *lengths.iter().max().unwrap();
            let packing = Packing { sequences: lengths.len(), longest_q: longest, longest_kv: longest };
            let problem = Problem::packed(packing, 3, begin, 64).build().unwrap();
            assert!(blocks(&problem, rows) >= 3 * next as u64);
        }
    }

    #[test]
    fn short_sequences_get_small_tiles() {
        let chosen = |sequences: usize, length: usize, head_dim: usize| {
            let packing = Packing { sequences, longest_q: length, longest_kv: length };
            let problem = Problem::packed(packing, 12, sequences * length, head_dim).build().unwrap();
            V2i.plan(&problem, &DeviceLimits::H200).unwrap().launches[0].kernel.name
        };
        assert_eq!(chosen(512, 32, 64), "f16_d64_m32");
        assert_eq!(chosen(64, 115, 64), "f16_d64_m64");
        assert_eq!(chosen(8, 2048, 128), "f16_d128_m128");
        assert_eq!(chosen(64, 115, 32), "f16_d32_m64");
    }
}
