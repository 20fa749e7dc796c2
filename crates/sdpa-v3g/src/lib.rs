//! V3g: many short packed sequences on Hopper: each tile a block of one warpgroup. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3g::V3g.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, TileBoxes, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3g`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3g", "sm_90a");

/// Query rows of a block's tile, and keys of a tile of keys (`TILE_ROWS` and `TILE_KEYS` in the kernel).
const TILE_ROWS: usize = 64;

/// Head dimensions that have a kernel; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// Blocks along the second axis of a grid, on every device.
const MOST_TILES: usize = 65_535;

const fn kernel(name: &'static str, defines: &'static [&'static str], shared_bytes: u32) -> Specialisation {
    const ROWS: u32 = TILE_ROWS as u32;
    Specialisation {
        source: "v3g.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute90a,
        defines,
        threads: 128,
        shared_bytes,
        // The warps store the output; no box of it is ever asked for.
        boxes: Some(TileBoxes { query: ROWS, key: ROWS, value: ROWS, output: ROWS }),
    }
}

static GENERATION: Generation = Generation {
    id: "v3g",
    title: "many short packed sequences on Hopper: each tile a block of one warpgroup",
    parent: Some("v3f"),
    // In the order that `decide` counts in: dtype, then head dimension.
    specialisations: for_both_dtypes![kernel:
        "d32", ["HEAD_DIM=32", "STAGES=2", "BLOCKS_PER_SM=4"], 41_984;
        "d64", ["HEAD_DIM=64", "STAGES=2", "BLOCKS_PER_SM=5"], 41_984;
        "d128", ["HEAD_DIM=128", "STAGES=2", "BLOCKS_PER_SM=2"], 82_944;
    ],
    budget: Budget { registers: 255, shared_bytes: 113 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { softcap: false, slopes: false, paged: false, ..Extensions::ALL },
};

/// A block of one warpgroup for each 64 rows of a sequence.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3g;

impl Attention for V3g {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v3g", problem, HEAD_DIMS[HEAD_DIMS.len() - 1])?;
        require::tensor_maps("v3g", problem)?;
        let (heads, tiles) = (problem.heads_q(), tiles(problem));
        let most = SizeRange::UpTo(MOST_TILES);
        require::size("v3g", "64-row query tiles", tiles, most, "a grid has no more rows; its parent takes them")?;
        let width = HEAD_DIMS.partition_point(|width| *width < problem.head_dim());
        let first = HEAD_DIMS.len() * usize::from(problem.dtype() == Dtype::Bf16);
        let launch = Launch::new("v3g", GENERATION.specialisations[first + width], (tiles * heads) as u64, limits)?;
        // Both fit: their product does.
        let grid = [heads as u32, tiles as u32, 1];
        Ok(LaunchPlan::single(Launch { grid, ..launch }))
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "STAGES", values: &["1", "2", "3"] },
            Tunable { define: "BLOCKS_PER_SM", values: &["2", "3", "4", "5", "6"] },
        ]
    }

    /// Q, and each stage's K and V, in boxes of 64 columns, and a box row of barriers.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        let number = |name| kernel.number(name);
        let columns = number("HEAD_DIM")?.next_multiple_of(TileBoxes::COLUMNS);
        let shared_bytes = 2 * columns * TILE_ROWS as u32 * (1 + 2 * number("STAGES")?) + 1024;
        (shared_bytes <= GENERATION.budget.shared_bytes).then_some(Specialisation { shared_bytes, ..kernel })
    }
}

/// Tiles of rows of all sequences; of a packed problem up to one a sequence has no rows. There the kernel numbers the tiles of
/// sequence `s` from `cu_seqlens[s] / 64 + s` on.
fn tiles(problem: &Problem) -> usize {
    match (problem.packing(), problem.len_q()) {
        (_, 0) => 0,
        (Some(packing), total) => total / TILE_ROWS + packing.sequences,
        (None, length) => length.div_ceil(TILE_ROWS) * problem.batch(),
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
            assert_eq!(V3g.resized(*kernel), Some(*kernel));
        }
    }

    #[test]
    fn head_dimensions_get_the_next_kernel() {
        for (head_dim, name) in [(8, "f16_d32"), (32, "f16_d32"), (40, "f16_d64"), (72, "f16_d128"), (128, "f16_d128")]
        {
            let problem = Problem::new(1, 2, 100, head_dim).build().unwrap();
            assert_eq!(V3g.plan(&problem, &DeviceLimits::H200).unwrap().launches[0].kernel.name, name);
        }
        let bf16 = Problem::new(1, 2, 100, 64).dtype(Dtype::Bf16).build().unwrap();
        assert_eq!(V3g.plan(&bf16, &DeviceLimits::H200).unwrap().launches[0].kernel.name, "bf16_d64");
    }

    /// Every tile of every sequence has a number in the grid, wherever sequences begin.
    #[test]
    fn the_grid_holds_every_tile() {
        for lengths in [vec![1_usize; 70], vec![0, 63, 64, 65, 0, 1, 200], vec![5, 0, 0]] {
            let (mut begin, mut next) = (0, 0);
            for (sequence, length) in lengths.iter().enumerate() {
                let first = begin / TILE_ROWS + sequence;
                assert!(first >= next, "tiles of two sequences share a number");
                next = first + length.div_ceil(TILE_ROWS);
                begin += length;
            }
            let longest = *lengths.iter().max().unwrap();
            let packing = Packing { sequences: lengths.len(), longest_q: longest, longest_kv: longest };
            let problem = Problem::packed(packing, 3, begin, 64).build().unwrap();
            assert!(tiles(&problem) >= next);
            assert_eq!(
                V3g.plan(&problem, &DeviceLimits::H200).unwrap().launches[0].grid,
                [3, tiles(&problem) as u32, 1]
            );
        }
    }

    #[test]
    fn more_tiles_than_a_grid_has_rows_are_declined() {
        let problem = |sequences: usize| {
            let packing = Packing { sequences, longest_q: 1, longest_kv: 1 };
            Problem::packed(packing, 1, sequences, 64).build().unwrap()
        };
        assert!(V3g.plan(&problem(60_000), &DeviceLimits::H200).is_ok());
        assert!(V3g.plan(&problem(65_000), &DeviceLimits::H200).is_err());
    }
}
