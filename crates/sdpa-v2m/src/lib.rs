//! V2m: operands straight from global memory, for decoding. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(16, 32, 1, 128).heads_kv(8).len_kv(4096).build()?;
//! let plan = sdpa_v2m::V2m.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2m`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2m", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 2] = [64, 128];

/// Query rows of a tile, those of the heads that share a key head counted together: as few as there are kernels for.
const TILE_ROWS: [usize; 2] = [8, 16];

/// Kernels of a dtype: for each head dimension and each of the tiles one whose blocks take a part, and one whose warps do.
const KERNELS: usize = 2 * HEAD_DIMS.len() * TILE_ROWS.len();

/// Queries of a sequence at most: more are work for kernels with wider tiles.
const MOST_QUERIES: usize = 128;

/// Keys of a part are a multiple of this (`PART_STEP` in `kernels/v2m.cu`).
const PART_STEP: usize = 128;

/// Keys a part at least has, where there are several (`LEAST_KEYS` of the kernels).
const LEAST_KEYS: usize = 256;

/// Parts of a row at most: what a warp merges at once (`MOST_PARTS` in `kernels/v2m.cu`).
const MOST_PARTS: usize = 16;

/// Queries of a sequence that have so many parts (`FEW_QUERIES` in `kernels/v2m.cu`).
const FEW_QUERIES: usize = 4;

/// Queries of a sequence at most that have several parts (`MERGED_QUERIES` in `kernels/v2m.cu`).
const MERGED_QUERIES: usize = FEW_QUERIES * MOST_PARTS / 2;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2m.cu",
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
    id: "v2m",
    title: "operands straight from global memory, for decoding",
    parent: Some("v2j"),
    // In the order that `kernels_of` counts in.
    specialisations: for_both_dtypes![kernel:
        "d64_block", ["HEAD_DIM=64", "ROW_BLOCKS=1", "STRIPS=8", "WARPS=8", "BLOCKS_PER_SM=1", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 256, 18_688;
        "d64_warp", ["HEAD_DIM=64", "ROW_BLOCKS=1", "STRIPS=8", "WARPS=1", "BLOCKS_PER_SM=12", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 32, 2944;
        "d64_r16_block", ["HEAD_DIM=64", "ROW_BLOCKS=2", "STRIPS=8", "WARPS=8", "BLOCKS_PER_SM=1", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 256, 36_608;
        "d64_r16_warp", ["HEAD_DIM=64", "ROW_BLOCKS=2", "STRIPS=8", "WARPS=1", "BLOCKS_PER_SM=12", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 32, 5248;
        "d128_block", ["HEAD_DIM=128", "ROW_BLOCKS=1", "STRIPS=8", "WARPS=8", "BLOCKS_PER_SM=1", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 256, 35_072;
        "d128_warp", ["HEAD_DIM=128", "ROW_BLOCKS=1", "STRIPS=8", "WARPS=1", "BLOCKS_PER_SM=10", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 32, 4992;
        "d128_r16_block", ["HEAD_DIM=128", "ROW_BLOCKS=2", "STRIPS=8", "WARPS=8", "BLOCKS_PER_SM=1", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 256, 69_376;
        "d128_r16_warp", ["HEAD_DIM=128", "ROW_BLOCKS=2", "STRIPS=8", "WARPS=1", "BLOCKS_PER_SM=8", "LEAST_KEYS=256",
            "UNIT_OVERHEAD=4"], 32, 9344;
    ],
    // Where warps work alone at head dimension 128, a few numbers are kept in memory; the other kernels spill nothing.
    budget: Budget { registers: 255, shared_bytes: 227 * 1024, spill_bytes: 64 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { slopes: false, ..Extensions::ALL },
};

/// So far what v2j is.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2m;

impl Attention for V2m {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        /// Parts for each multiprocessor from which on warps take them alone: then each has warps enough to keep its
        /// memory busy.
        const FULL: usize = 6;

        let [of_block, of_warp] = kernels_of(problem);
        let is_full = units(problem, &of_block) >= FULL * limits.multiprocessors as usize;
        // Both have the same bits.
        let kernel = if is_full { of_warp } else { of_block };
        plan(problem, limits, kernel, even_blocks(problem, &kernel, limits))
    }

    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        let mut plans = Vec::new();
        for kernel in kernels_of(problem) {
            let most = kernel.number("BLOCKS_PER_SM").unwrap_or(1);
            for blocks in [most.div_ceil(2), most, 2 * most] {
                plans.extend(plan(problem, limits, kernel, (blocks * limits.multiprocessors) as usize));
            }
        }
        plans.dedup();
        plans
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "LEAST_KEYS", values: &["256", "512", "1024"] },
            Tunable { define: "UNIT_OVERHEAD", values: &["0", "4", "16"] },
        ]
    }

    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        /// `Walk`, a word and eight of `Unit` in `kernels/v2m.cu`.
        const WORK_BYTES: u32 = 56 + 4 + 8 * 76;
        let number = |name| kernel.number(name);
        let (width, rows, warps) = (number("HEAD_DIM")?, 8 * number("ROW_BLOCKS")?, number("WARPS")?);
        let parts = warps * rows * (4 * (width + 4) + 8);
        let shared_bytes = (parts + WORK_BYTES).next_multiple_of(128);
        let fits = shared_bytes <= GENERATION.budget.shared_bytes;
        fits.then_some(Specialisation { shared_bytes, threads: 32 * warps, ..kernel })
    }
}

/// The kernels for a problem, that of blocks which take a part first.
fn kernels_of(problem: &Problem) -> [Specialisation; 2] {
    let rows = rows(problem);
    let width = HEAD_DIMS.partition_point(|width| *width < problem.head_dim()).min(HEAD_DIMS.len() - 1);
    let tile = TILE_ROWS.partition_point(|most| *most < rows).min(TILE_ROWS.len() - 1);
    let first = KERNELS * usize::from(problem.dtype() == Dtype::Bf16) + 2 * (TILE_ROWS.len() * width + tile);
    [GENERATION.specialisations[first], GENERATION.specialisations[first + 1]]
}

/// How many blocks share the problem out: of the numbers from half of what the device holds at once, that which leaves the fewest
/// places empty while the last units are worked on; the more the better.
fn even_blocks(problem: &Problem, kernel: &Specialisation, limits: &DeviceLimits) -> usize {
    let most = kernel.number("BLOCKS_PER_SM").unwrap_or(1) as usize;
    let units = units(problem, kernel).max(1);
    // A device without any is declined where the launch is made.
    let blocks = |per_multiprocessor: usize| per_multiprocessor * limits.multiprocessors.max(1) as usize;
    // Units for each place that is taken until the longest share is done.
    let use_of = |per_multiprocessor: usize| {
        let places = blocks(per_multiprocessor);
        units as f64 / (units.div_ceil(places) * places) as f64
    };
    let best = (most.div_ceil(2)..=most).max_by(|a, b| use_of(*a).total_cmp(&use_of(*b)));
    blocks(best.unwrap_or(1))
}

fn plan(
    problem: &Problem,
    limits: &DeviceLimits,
    kernel: Specialisation,
    most_blocks: usize,
) -> Result<LaunchPlan, Unsupported> {
    require::head_dim_up_to("v2m", problem, 128)?;
    require::strides_multiple_of("v2m", problem, 8)?;
    let (sequences, heads) = (problem.sequence_count(), problem.heads_kv());
    let queries = longest_queries(problem);
    let why = "a tile has 16 rows at most, and more tiles read the keys too often";
    require::size("v2m", "queries per sequence", queries, SizeRange::UpTo(MOST_QUERIES), why)?;

    // The host knows the longest lengths alone. What there is of them the blocks share out evenly.
    let blocks = units(problem, &kernel).min(most_blocks);
    let plan = LaunchPlan::single(Launch::new("v2m", kernel, blocks as u64, limits)?);
    if parts(problem) == 1 || blocks == 0 {
        return Ok(plan);
    }
    // Of every part of every row an unnormalised output, its maximum and its sum, in f32 (`Workspace` in the kernels).
    let group = problem.heads_q() / heads;
    let slots = sequences * heads * group * queries.min(FEW_QUERIES) * MOST_PARTS;
    let workspace_bytes = slots * (problem.head_dim() + 2) * size_of::<f32>();
    let counters = sequences * heads * (group * queries.min(MERGED_QUERIES)).div_ceil(tile_rows(&kernel));
    LaunchPlan { workspace_bytes, ..plan }.counting_arrivals("v2m", counters)
}

/// Queries of the longest sequence.
fn longest_queries(problem: &Problem) -> usize {
    problem.packing().map_or(problem.len_q(), |packing| packing.longest_q)
}

/// Parts of a row of the longest sequence.
fn parts(problem: &Problem) -> usize {
    // Packed sequences may have fewer queries than the longest, and so more parts.
    let most = if problem.packing().is_some() { MOST_PARTS } else { parts_of(longest_queries(problem)) };
    let part_keys = problem.len_kv().div_ceil(most).next_multiple_of(PART_STEP).max(LEAST_KEYS);
    problem.len_kv().div_ceil(part_keys).max(1)
}

/// Query rows of a key head in the longest sequence.
fn rows(problem: &Problem) -> usize {
    problem.heads_q() / problem.heads_kv().max(1) * longest_queries(problem)
}

fn tile_rows(kernel: &Specialisation) -> usize {
    kernel.number("ROW_BLOCKS").map_or(TILE_ROWS[0], |blocks| 8 * blocks as usize)
}

/// Parts of all sequences together, for each tile of rows, if all are as long as the longest.
fn units(problem: &Problem, kernel: &Specialisation) -> usize {
    let tiles = rows(problem).div_ceil(tile_rows(kernel));
    (problem.sequence_count() * problem.heads_kv()).saturating_mul(tiles * parts(problem))
}

/// Into how many parts the keys of so many queries may be cut. Heads that share keys make no difference to it, since they have
/// the bits of heads that do not.
fn parts_of(queries: usize) -> usize {
    (MOST_PARTS / queries.div_ceil(FEW_QUERIES).next_power_of_two()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(problem: sdpa_core::ProblemBuilder) -> LaunchPlan {
        V2m.plan(&problem.build().unwrap(), &DeviceLimits::H200).unwrap()
    }

    #[test]
    fn blocks_stay_where_there_are_more_parts_than_multiprocessors() {
        assert_eq!(
            plan(Problem::new(1, 32, 1, 128).heads_kv(4).len_kv(65_536)).to_string(),
            "v2m/f16_d128_block grid 64 block 256 shared 35072 workspace 266240 tickets 4"
        );
        let batch = plan(Problem::new(64, 32, 1, 128).heads_kv(4).len_kv(65_536));
        // 4096 parts: seven blocks a multiprocessor take 4.4 each, so that places are empty during the fifth; eight 3.9.
        assert_eq!(batch.launches[0].grid, [8 * 132, 1, 1]);
    }

    #[test]
    fn warps_take_parts_alone_in_full_batches() {
        let name = |batch, heads_kv| {
            plan(Problem::new(batch, 32, 1, 128).heads_kv(heads_kv).len_kv(4096)).launches[0].kernel.name
        };
        assert_eq!(
            [1, 6, 7, 200].map(|batch| name(batch, 8)),
            ["f16_d128_block", "f16_d128_block", "f16_d128_warp", "f16_d128_warp"]
        );
        assert_eq!([6, 200].map(|batch| name(batch, 2)), ["f16_d128_r16_block", "f16_d128_r16_warp"]);
    }

    #[test]
    fn every_row_has_room_for_its_parts() {
        for queries in 1..=MOST_QUERIES {
            let (parts, slots) = (parts_of(queries), queries.min(FEW_QUERIES) * MOST_PARTS);
            assert!(parts == 1 || queries * parts <= slots && queries <= MERGED_QUERIES, "{queries} queries");
        }
    }

    #[test]
    fn shared_memory_follows_from_the_numbers() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V2m.resized(*kernel), Some(*kernel), "{}", kernel.name);
        }
    }

    #[test]
    fn more_queries_are_for_others() {
        let problem = Problem::new(1, 8, 129, 64).len_kv(9000).build().unwrap();
        let error = V2m.plan(&problem, &DeviceLimits::H200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "v2m takes queries per sequence up to 128; this problem has 129: a tile has 16 rows at most, and more tiles read \
             the keys too often"
        );
    }
}
