//! V2j: decoding for servers: parts are fixed, who computes them follows the load; caches in pages. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(16, 32, 1, 128).heads_kv(8).len_kv(4096).build()?;
//! let plan = sdpa_v2j::V2j.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2j`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2j", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Kernels of a dtype: for each head dimension one whose blocks take a part, and one whose warps do. At the last a warp has no
/// registers for that: there the second is for devices with less shared memory, whose bits differ.
const KERNELS: usize = 2 * HEAD_DIMS.len();

/// Query rows a tile, those of the heads that share a key head counted together.
const TILE_ROWS: usize = 16;

/// Queries of a sequence at most: more are work for kernels with wider tiles.
const MOST_QUERIES: usize = 128;

/// Keys of a part are a multiple of this (`PART_STEP` in `kernels/v2j.cu`).
const PART_STEP: usize = 128;

/// Keys a part at least has, where there are several (`LEAST_KEYS` of the kernels).
const LEAST_KEYS: usize = 256;

/// Parts of a row at most: what a warp merges at once (`MOST_PARTS` in `kernels/v2j.cu`).
const MOST_PARTS: usize = 16;

/// Queries of a sequence that have so many parts (`FEW_QUERIES` in `kernels/v2j.cu`).
const FEW_QUERIES: usize = 4;

/// Queries of a sequence at most that have several parts (`MERGED_QUERIES` in `kernels/v2j.cu`).
const MERGED_QUERIES: usize = FEW_QUERIES * MOST_PARTS / 2;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2j.cu",
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
    id: "v2j",
    title: "decoding for servers: parts are fixed, who computes them follows the load; caches in pages",
    parent: Some("v2g"),
    // In the order that `kernels_of` counts in.
    specialisations: for_both_dtypes![kernel:
        "d64_block", ["HEAD_DIM=64", "STRIPS=8", "WARPS=8", "TILE_KEYS=16", "STAGES=4",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 256, 171_776;
        "d64_warp", ["HEAD_DIM=64", "STRIPS=8", "WARPS=1", "TILE_KEYS=16", "STAGES=4",
            "BLOCKS_PER_SM=8", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 32, 21_888;
        "d128_block", ["HEAD_DIM=128", "STRIPS=8", "WARPS=8", "TILE_KEYS=16", "STAGES=2",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 256, 206_592;
        "d128_warp", ["HEAD_DIM=128", "STRIPS=8", "WARPS=1", "TILE_KEYS=16", "STAGES=2",
            "BLOCKS_PER_SM=8", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 32, 25_984;
        "d256_block", ["HEAD_DIM=256", "STRIPS=4", "WARPS=4", "TILE_KEYS=16", "STAGES=2",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 128, 208_128;
        "d256_small", ["HEAD_DIM=256", "STRIPS=2", "WARPS=2", "TILE_KEYS=16", "STAGES=1",
            "BLOCKS_PER_SM=2", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 64, 75_776;
    ],
    // At the last head dimension a few addresses are kept in memory; the other kernels spill nothing.
    budget: Budget { registers: 255, shared_bytes: 227 * 1024, spill_bytes: 24 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { slopes: false, ..Extensions::ALL },
};

/// Flash decoding by blocks or warps that stay, over caches in pages or without.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2j;

impl Attention for V2j {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        /// Parts for each multiprocessor from which on warps take them alone: then each has warps enough to keep its
        /// memory busy.
        const FULL: usize = 6;

        let [of_block, other] = kernels_of(problem);
        let is_full = units(problem) >= FULL * limits.multiprocessors as usize;
        // Where strips are the same, so are the bits, and the load may decide. Otherwise the device alone does.
        let same_bits = of_block.number("STRIPS") == other.number("STRIPS");
        let fits = of_block.shared_bytes <= limits.shared_bytes_per_block;
        let kernel = if !fits || is_full && same_bits { other } else { of_block };
        plan(problem, limits, kernel, resident_blocks(&kernel, limits))
    }

    fn alternatives(&self, problem: &Problem, limits: &DeviceLimits) -> Vec<LaunchPlan> {
        let mut plans = Vec::new();
        for kernel in kernels_of(problem) {
            for waves in [1, 2, 4] {
                plans.extend(plan(problem, limits, kernel, waves * resident_blocks(&kernel, limits)));
            }
        }
        plans.dedup();
        plans
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[
            Tunable { define: "STAGES", values: &["1", "2", "3", "4"] },
            Tunable { define: "LEAST_KEYS", values: &["256", "512", "1024"] },
            Tunable { define: "UNIT_OVERHEAD", values: &["0", "4", "16"] },
        ]
    }

    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        /// `Walk`, a word and eight of `Unit` in `kernels/v2j.cu`.
        const WORK_BYTES: u32 = 56 + 4 + 8 * 76;
        let number = |name| kernel.number(name);
        let (width, warps, stages) = (number("HEAD_DIM")?, number("WARPS")?, number("STAGES")?);
        let rows = TILE_ROWS as u32;
        let tile = 2 * width * rows;
        // A warp that is alone and has its queries in registers needs no room of their own.
        let queries = if warps == 1 && width <= 128 { 0 } else { tile };
        let parts = warps * rows * (4 * (width + 8) + 8);
        let shared_bytes = (queries + parts + 2 * tile * warps * stages + WORK_BYTES).next_multiple_of(128);
        let fits = shared_bytes <= GENERATION.budget.shared_bytes;
        fits.then_some(Specialisation { shared_bytes, threads: 32 * warps, ..kernel })
    }
}

/// The kernels for a problem, that of blocks which take a part first.
fn kernels_of(problem: &Problem) -> [Specialisation; 2] {
    let width = HEAD_DIMS.partition_point(|width| *width < problem.head_dim()).min(HEAD_DIMS.len() - 1);
    let first = KERNELS * usize::from(problem.dtype() == Dtype::Bf16) + 2 * width;
    [GENERATION.specialisations[first], GENERATION.specialisations[first + 1]]
}

/// How many blocks of a kernel the device holds at once.
fn resident_blocks(kernel: &Specialisation, limits: &DeviceLimits) -> usize {
    /// What a block takes beside what it asks for.
    const RESERVED_BYTES: u32 = 1024;
    let by_memory = limits.shared_bytes_per_multiprocessor / (kernel.shared_bytes + RESERVED_BYTES);
    let blocks = kernel.number("BLOCKS_PER_SM").unwrap_or(1).min(by_memory).max(1);
    (blocks * limits.multiprocessors) as usize
}

fn plan(
    problem: &Problem,
    limits: &DeviceLimits,
    kernel: Specialisation,
    most_blocks: usize,
) -> Result<LaunchPlan, Unsupported> {
    require::head_dim_up_to("v2j", problem, 256)?;
    require::strides_multiple_of("v2j", problem, 8)?;
    let (sequences, heads) = (problem.sequence_count(), problem.heads_kv());
    let queries = longest_queries(problem);
    let why = "a tile has 16 rows, and more of them read the keys too often";
    require::size("v2j", "queries per sequence", queries, SizeRange::UpTo(MOST_QUERIES), why)?;

    // The host knows the longest lengths alone. What there is of them the blocks share out evenly.
    let blocks = units(problem).min(most_blocks);
    let plan = LaunchPlan::single(Launch::new("v2j", kernel, blocks as u64, limits)?);
    if parts(problem) == 1 || blocks == 0 {
        return Ok(plan);
    }
    // Of every part of every row an unnormalised output, its maximum and its sum, in f32 (`Workspace` in the kernels).
    let group = problem.heads_q() / heads;
    let slots = sequences * heads * group * queries.min(FEW_QUERIES) * MOST_PARTS;
    let workspace_bytes = slots * (problem.head_dim() + 2) * size_of::<f32>();
    let counters = sequences * heads * (group * queries.min(MERGED_QUERIES)).div_ceil(TILE_ROWS);
    LaunchPlan { workspace_bytes, ..plan }.counting_arrivals("v2j", counters)
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

/// Parts of all sequences together, for each tile of rows, if all are as long as the longest.
fn units(problem: &Problem) -> usize {
    let heads = problem.heads_kv();
    let tiles = (problem.heads_q() / heads.max(1) * longest_queries(problem)).div_ceil(TILE_ROWS);
    (problem.sequence_count() * heads).saturating_mul(tiles * parts(problem))
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
        V2j.plan(&problem.build().unwrap(), &DeviceLimits::H200).unwrap()
    }

    #[test]
    fn blocks_stay_where_there_are_more_parts_than_multiprocessors() {
        assert_eq!(
            plan(Problem::new(1, 32, 1, 128).heads_kv(4).len_kv(65_536)).to_string(),
            "v2j/f16_d128_block grid 64 block 256 shared 206592 workspace 266240 tickets 4"
        );
        let batch = plan(Problem::new(64, 32, 1, 128).heads_kv(4).len_kv(65_536));
        assert_eq!(batch.launches[0].grid, [8 * 132, 1, 1]);
    }

    #[test]
    fn warps_take_parts_alone_in_full_batches_and_on_small_devices() {
        let name = |batch, limits: &DeviceLimits| {
            let problem = Problem::new(batch, 32, 1, 128).heads_kv(8).len_kv(4096).build().unwrap();
            V2j.plan(&problem, limits).unwrap().launches[0].kernel.name
        };
        let of_h200 = [1, 6, 7, 200].map(|batch| name(batch, &DeviceLimits::H200));
        assert_eq!(of_h200, ["f16_d128_block", "f16_d128_block", "f16_d128_warp", "f16_d128_warp"]);
        assert_eq!([1, 200].map(|batch| name(batch, &DeviceLimits::L4)), ["f16_d128_warp"; 2]);
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
            assert_eq!(V2j.resized(*kernel), Some(*kernel), "{}", kernel.name);
        }
    }

    #[test]
    fn more_queries_are_for_others() {
        let problem = Problem::new(1, 8, 129, 64).len_kv(9000).build().unwrap();
        let error = V2j.plan(&problem, &DeviceLimits::H200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "v2j takes queries per sequence up to 128; this problem has 129: a tile has 16 rows, and more of them read the \
             keys too often"
        );
    }
}
