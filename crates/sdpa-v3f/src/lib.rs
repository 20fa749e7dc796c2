//! V3f: ragged work on Hopper: packed sequences, windows, key lengths, scores by shape. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3f::V3f.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3f`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3f", "sm_90a");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Kernels for scores as they are: two for the first head dimension, one for each other. Of other shapes of scores one each.
const PLAIN: usize = 1 + HEAD_DIMS.len();
const OF_EACH_DTYPE: usize = PLAIN + 2 * HEAD_DIMS.len();

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3f.cu", &PTX, name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3f",
    title: "ragged work on Hopper: packed sequences, windows, key lengths, scores by shape",
    parent: Some("v3d"),
    // In the order that `decide` counts in: dtype, shape of the scores, head dimension. All kernels of a head dimension have
    // as many keys in a tile, so that a row has the same bits whichever computes it, in a batch or alone.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=3", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=PLAIN"], 2, 128, 164_864;
        "d64_m192", ["HEAD_DIM=64", "CONSUMERS=3", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=PLAIN"], 3, 128, 173_056;
        "d128", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=PLAIN"], 2, 128, 230_400;
        "d256", ["HEAD_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=NEVER", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=PLAIN"], 2, 64, 197_632;
        "d64_sloped", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=3", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=SLOPED"], 2, 128, 164_864;
        "d128_sloped", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=SLOPED"], 2, 128, 230_400;
        "d256_sloped", ["HEAD_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=NEVER", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=SLOPED"], 2, 64, 197_632;
        "d64_capped", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=3", "STAGED_OUTPUT=1", "TURNS=IF_CAUSAL", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=CAPPED"], 2, 128, 164_864;
        "d128_capped", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=CAPPED"], 2, 128, 230_400;
        "d256_capped", ["HEAD_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=CAPPED"], 2, 64, 197_632;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 225 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { paged: false, ..Extensions::ALL },
};

/// Persistent blocks over sequences of any lengths.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3f;

impl Attention for V3f {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "EIGHTHS_BEFORE_WAIT", values: &["5", "6", "7", "8"] },
            Tunable { define: "TURNS", values: &["NEVER", "IF_CAUSAL", "ALWAYS"] },
        ]
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v3f", problem, 256)?;
        require::tensor_maps("v3f", problem)?;
        let first = OF_EACH_DTYPE * usize::from(problem.dtype() == Dtype::Bf16);
        let (plain, shaped) = GENERATION.specialisations[first..][..OF_EACH_DTYPE].split_at(PLAIN);
        let (sloped, capped) = shaped.split_at(HEAD_DIMS.len());
        let width = HEAD_DIMS.partition_point(|width| *width < problem.head_dim());
        let kernel = match (problem.softcap(), problem.slopes()) {
            // A capped kernel has slopes, too, of 0 where there are none.
            (Some(_), _) => capped[width],
            (None, true) => sloped[width],
            (None, false) if width == 0 => plain[rows_choice(problem, limits)],
            (None, false) => plain[1 + width],
        };
        // Tiles are numbered in 32 bits, so there may be no more than a grid holds.
        let tiles = Launch::new("v3f", kernel, tiles(problem, kernel.query_rows()), limits)?.grid[0];
        let blocks = tiles.min(limits.multiprocessors);
        let plan = LaunchPlan::single(Launch::new("v3f", kernel, u64::from(blocks), limits)?);
        Ok(if tiles > blocks { plan.drawing_tickets() } else { plan })
    }
}

/// How many tiles of `rows` queries the kernel counts; of a packed problem up to one a sequence and head has no rows. There
/// the kernel numbers the tiles of sequence `s` from `cu_seqlens[s] / rows + s` on.
fn tiles(problem: &Problem, rows: usize) -> u64 {
    let of_a_head = match (problem.packing(), problem.len_q()) {
        (_, 0) => 0,
        (Some(packing), total) => total / rows + packing.sequences,
        (None, length) => length.div_ceil(rows) * problem.batch(),
    };
    of_a_head as u64 * problem.heads_q() as u64
}

/// Which of the two kernels for scores as they are, up to head dimension 64: 0 or 1, for tiles of 128 or 192 queries. The one
/// whose busiest multiprocessor is done first.
fn rows_choice(problem: &Problem, limits: &DeviceLimits) -> usize {
    /// Query rows, and how much longer a row takes than in V3c's best kernel, in percent: with few keys a row and with many.
    const TILES: [(usize, [usize; 2]); 2] = [(128, [114, 116]), (192, [107, 100])];
    /// Where the one turns into the other, in keys that a row sees on average.
    const MANY_KEYS: usize = 1024;

    let (sequences, causal) = (problem.sequence_count().max(1), problem.mask().is_causal());
    let keys = problem.len_kv() * problem.batch() / sequences / if causal { 2 } else { 1 };
    let window = problem.window();
    let side = |keys: Option<usize>| keys.unwrap_or(usize::MAX);
    let seen = keys.min(side(window.left).saturating_add(side(window.right)));
    let multiprocessors = limits.multiprocessors.max(1) as usize;
    let cost = |(rows, percent): (usize, [usize; 2])| {
        // Of lengths that only the device knows, the last tile is half full on average.
        let tiles = match problem.packing() {
            Some(_) => (problem.len_q() / rows + sequences.div_ceil(2)) * problem.heads_q(),
            None => tiles(problem, rows) as usize,
        };
        // In rows. Alike tiles come in waves; unlike ones even out, but the longest takes twice the average.
        let most = match causal || problem.packing().is_some() {
            true => (tiles * rows / multiprocessors).max(2 * rows),
            false => tiles.div_ceil(multiprocessors) * rows,
        };
        most * percent[usize::from(seen > MANY_KEYS)]
    };
    usize::from(cost(TILES[1]) < cost(TILES[0]))
}

#[cfg(test)]
mod tests {
    use sdpa_core::{Packing, Window};

    use super::*;

    fn kernel_of(problem: &Problem) -> &'static str {
        V3f.plan(problem, &DeviceLimits::H200).unwrap().launches[0].kernel.name
    }

    #[test]
    fn the_tables_say_how_many_kernels_there_are() {
        assert_eq!(GENERATION.specialisations.len(), 2 * OF_EACH_DTYPE);
        for (width, next) in [(8, 64), (64, 64), (72, 128), (128, 128), (136, 256), (256, 256)] {
            let problem = Problem::new(1, 2, 100, width);
            assert!(kernel_of(&problem.clone().build().unwrap()).starts_with(&format!("f16_d{next}")));
            assert_eq!(kernel_of(&problem.clone().slopes().build().unwrap()), format!("f16_d{next}_sloped"));
            assert_eq!(kernel_of(&problem.slopes().softcap(9.0).build().unwrap()), format!("f16_d{next}_capped"));
        }
    }

    /// Which bits a row has depends on the keys of a tile alone.
    #[test]
    fn kernels_of_a_head_dimension_have_the_same_tiles_of_keys() {
        for width in HEAD_DIMS {
            let define = format!("HEAD_DIM={width}");
            let mut tiles = GENERATION.specialisations.iter().filter(|kernel| kernel.defines.contains(&&*define));
            let first = tiles.next().unwrap().boxes.unwrap();
            assert!(tiles.all(|kernel| kernel.boxes.unwrap().key == first.key));
        }
    }

    /// Every tile of every sequence has a number in the grid, wherever sequences begin.
    #[test]
    fn the_grid_holds_every_tile() {
        for (rows, lengths) in
            [(128, vec![1_usize; 70]), (128, vec![0, 127, 128, 129, 0, 1, 400]), (192, vec![5, 0, 0])]
        {
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
            assert!(tiles(&problem, rows) >= 3 * next as u64);
        }
    }

    #[test]
    fn long_sequences_that_fill_the_chip_get_large_tiles() {
        let packed = |sequences: usize, length: usize| {
            let packing = Packing { sequences, longest_q: length, longest_kv: length };
            kernel_of(&Problem::packed(packing, 12, sequences * length, 64).build().unwrap())
        };
        assert_eq!(packed(512, 32), "f16_d64_m128");
        assert_eq!(packed(64, 115), "f16_d64_m128");
        assert_eq!(packed(16, 2048), "f16_d64_m192");
        assert_eq!(packed(1, 512), "f16_d64_m128");
        let windowed = Problem::new(2, 64, 8192, 64).window(Window::left(128)).build().unwrap();
        assert_eq!(kernel_of(&windowed), "f16_d64_m192");
    }
}
