//! V2l: half the bytes: e4m3 caches. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, KvScales, KvStorage, Problem};
//!
//! let cache = KvStorage::E4m3(KvScales::Tensor);
//! let problem = Problem::new(16, 32, 1, 128).heads_kv(8).len_kv(4096).kv_storage(cache).build()?;
//! let plan = sdpa_v2l::V2l.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2l`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2l", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// Kernels of a dtype: for each head dimension one that has a multiprocessor to itself, and one for devices with less shared
/// memory.
const KERNELS: usize = 2 * HEAD_DIMS.len();

/// Query rows a tile, those of the heads that share a key head counted together.
const TILE_ROWS: usize = 16;

/// Queries of a sequence at most: more are work for kernels with wider tiles.
const MOST_QUERIES: usize = 128;

/// Keys of a part are a multiple of this (`PART_STEP` in `kernels/v2l.cu`).
const PART_STEP: usize = 128;

/// Keys a part at least has, where there are several (`LEAST_KEYS` of the kernels).
const LEAST_KEYS: usize = 256;

/// Parts of a row at most: what a warp merges at once (`MOST_PARTS` in `kernels/v2l.cu`).
const MOST_PARTS: usize = 16;

/// Queries of a sequence that have so many parts (`FEW_QUERIES` in `kernels/v2l.cu`).
const FEW_QUERIES: usize = 4;

/// Queries of a sequence at most that have several parts (`MERGED_QUERIES` in `kernels/v2l.cu`).
const MERGED_QUERIES: usize = FEW_QUERIES * MOST_PARTS / 2;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2l.cu",
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
    id: "v2l",
    title: "half the bytes: e4m3 caches",
    parent: Some("v2j"),
    // In the order that `kernels_of` counts in.
    specialisations: for_both_dtypes![kernel:
        "d64_g8", ["HEAD_DIM=64", "KEY_GROUPS=8", "TILE_KEYS=16", "STAGES=8",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 256, 175_872;
        "d64_g4", ["HEAD_DIM=64", "KEY_GROUPS=4", "TILE_KEYS=16", "STAGES=8",
            "BLOCKS_PER_SM=2", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 128, 89_344;
        "d128_g8", ["HEAD_DIM=128", "KEY_GROUPS=8", "TILE_KEYS=16", "STAGES=4",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 256, 210_688;
        "d128_g4", ["HEAD_DIM=128", "KEY_GROUPS=4", "TILE_KEYS=16", "STAGES=2",
            "BLOCKS_PER_SM=2", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 128, 75_008;
        "d256_g4", ["HEAD_DIM=256", "KEY_GROUPS=4", "TILE_KEYS=16", "STAGES=4",
            "BLOCKS_PER_SM=1", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 128, 210_176;
        "d256_g2", ["HEAD_DIM=256", "KEY_GROUPS=2", "TILE_KEYS=16", "STAGES=2",
            "BLOCKS_PER_SM=2", "LEAST_KEYS=256", "UNIT_OVERHEAD=4"], 64, 76_800;
    ],
    // The kernels of the last head dimension in bf16 keep a few addresses in memory; the others spill nothing.
    budget: Budget { registers: 255, shared_bytes: 227 * 1024, spill_bytes: 32 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { slopes: false, kv_e4m3: true, ..Extensions::ALL },
};

/// Flash decoding over keys and values in e4m3, in pages or without.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2l;

impl Attention for V2l {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    /// Its kernels read bytes.
    fn needs(&self) -> Extensions {
        Extensions { kv_e4m3: true, ..Extensions::NONE }
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let [large, small] = kernels_of(problem);
        // The device alone decides: a sequence's bits must not change with its batch.
        let kernel = if large.shared_bytes <= limits.shared_bytes_per_block { large } else { small };
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
            Tunable { define: "STAGES", values: &["1", "2", "4", "8"] },
            Tunable { define: "LEAST_KEYS", values: &["256", "512", "1024"] },
            Tunable { define: "UNIT_OVERHEAD", values: &["0", "4", "16"] },
        ]
    }

    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        /// `Walk`, a word and eight of `Unit` in `kernels/v2l.cu`.
        const WORK_BYTES: u32 = 56 + 4 + 8 * 76;
        let number = |name| kernel.number(name);
        let (width, groups, stages) = (number("HEAD_DIM")?, number("KEY_GROUPS")?, number("STAGES")?);
        let rows = TILE_ROWS as u32;
        // Queries of 2 bytes; keys and values of 1.
        let tiles = 2 * width * rows * (1 + groups * stages);
        let parts = groups * rows * (4 * (width + 16) + 8);
        let shared_bytes = (tiles + parts + WORK_BYTES).next_multiple_of(128);
        let fits = shared_bytes <= GENERATION.budget.shared_bytes;
        fits.then_some(Specialisation { shared_bytes, threads: 32 * groups, ..kernel })
    }
}

/// The kernels for a problem, the one that fills a multiprocessor first.
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
    require::head_dim_up_to("v2l", problem, 256)?;
    require::strides_multiple_of("v2l", problem, 8)?;
    require::kv_strides_multiple_of("v2l", problem, 16)?;
    let (sequences, heads) = (problem.sequence_count(), problem.heads_kv());
    let queries = problem.packing().map_or(problem.len_q(), |packing| packing.longest_q);
    let why = "a tile has 16 rows, and more of them read the keys too often";
    require::size("v2l", "queries per sequence", queries, SizeRange::UpTo(MOST_QUERIES), why)?;

    let group = problem.heads_q() / heads;
    let tiles = (group * queries).div_ceil(TILE_ROWS);
    // Packed sequences may have fewer queries than the longest, and so more parts.
    let most_parts = if problem.packing().is_some() { MOST_PARTS } else { parts_of(queries) };
    let part_keys = problem.len_kv().div_ceil(most_parts).next_multiple_of(PART_STEP).max(LEAST_KEYS);
    let parts = problem.len_kv().div_ceil(part_keys).max(1);
    // The host knows the longest lengths alone. What there is of them the blocks share out evenly.
    let blocks = (sequences * heads).saturating_mul(tiles * parts).min(most_blocks);
    let plan = LaunchPlan::single(Launch::new("v2l", kernel, blocks as u64, limits)?);
    if parts == 1 || blocks == 0 {
        return Ok(plan);
    }
    // Of every part of every row an unnormalised output, its maximum and its sum, in f32 (`Workspace` in the kernels).
    let slots = sequences * heads * group * queries.min(FEW_QUERIES) * MOST_PARTS;
    let workspace_bytes = slots * (problem.head_dim() + 2) * size_of::<f32>();
    let counters = sequences * heads * (group * queries.min(MERGED_QUERIES)).div_ceil(TILE_ROWS);
    LaunchPlan { workspace_bytes, ..plan }.counting_arrivals("v2l", counters)
}

/// Into how many parts the keys of so many queries may be cut. Heads that share keys make no difference to it, since they have
/// the bits of heads that do not.
fn parts_of(queries: usize) -> usize {
    (MOST_PARTS / queries.div_ceil(FEW_QUERIES).next_power_of_two()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa_core::{KvScales, KvStorage};

    fn stored(problem: sdpa_core::ProblemBuilder) -> Problem {
        problem.kv_storage(KvStorage::E4m3(KvScales::Head)).build().unwrap()
    }

    fn plan(problem: sdpa_core::ProblemBuilder) -> LaunchPlan {
        V2l.plan(&stored(problem), &DeviceLimits::H200).unwrap()
    }

    #[test]
    fn blocks_stay_where_there_are_more_parts_than_multiprocessors() {
        assert_eq!(
            plan(Problem::new(1, 32, 1, 128).heads_kv(4).len_kv(65_536)).to_string(),
            "v2l/f16_d128_g8 grid 64 block 256 shared 210688 workspace 266240 tickets 4"
        );
        let batch = plan(Problem::new(64, 32, 1, 128).heads_kv(4).len_kv(65_536));
        assert_eq!(batch.launches[0].grid, [132, 1, 1]);
    }

    #[test]
    fn the_kernel_follows_from_the_device_and_not_from_the_batch() {
        let name = |batch, limits: &DeviceLimits| {
            let problem = stored(Problem::new(batch, 32, 1, 128).heads_kv(8).len_kv(4096));
            V2l.plan(&problem, limits).unwrap().launches[0].kernel.name
        };
        assert_eq!([1, 7, 200].map(|batch| name(batch, &DeviceLimits::H200)), ["f16_d128_g8"; 3]);
        assert_eq!([1, 7, 200].map(|batch| name(batch, &DeviceLimits::L4)), ["f16_d128_g4"; 3]);
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
            assert_eq!(V2l.resized(*kernel), Some(*kernel), "{}", kernel.name);
        }
    }

    #[test]
    fn more_queries_are_for_others() {
        let problem = stored(Problem::new(1, 8, 129, 64).len_kv(9000));
        let error = V2l.plan(&problem, &DeviceLimits::H200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "v2l takes queries per sequence up to 128; this problem has 129: a tile has 16 rows, and more of them read the \
             keys too often"
        );
    }

    #[test]
    fn keys_of_two_bytes_and_rows_that_no_copy_begins_at_are_declined() {
        let error = |problem: &Problem| V2l.plan(problem, &DeviceLimits::H200).unwrap_err().to_string();
        let halves = Problem::new(1, 8, 1, 64).len_kv(900).build().unwrap();
        assert_eq!(error(&halves), "v2l takes only problems with keys and values in e4m3");
        let odd = stored(Problem::new(1, 8, 1, 72).len_kv(900));
        assert_eq!(
            error(&odd),
            "v2l copies 16 bytes at a time: key's row stride is 72 elements and must be a multiple of 16"
        );
        let wide = stored(Problem::new(1, 8, 1, 64).len_kv(900).value_dim(32));
        assert_eq!(error(&wide), "v2l does not take values of another width than keys");
    }
}
