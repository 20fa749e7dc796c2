//! V2g: one launch for decoding: the last block to finish merges the parts. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 1, 64).len_kv(4096).build()?;
//! let plan = sdpa_v2g::V2g.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2g`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2g", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Kernels of a dtype: for each head dimension one of eight warps, which has a multiprocessor to itself, and one of four,
/// of which several share one; for the widest no other.
const KERNELS: usize = 2 * HEAD_DIMS.len() - 1;

/// Query rows a tile, those of the heads that share a key head counted together.
const TILE_ROWS: usize = 16;

/// Queries a head at most: more are too many rows for one block to merge.
const MOST_QUERIES: usize = 16;

/// Keys of a part are a multiple of this (`PART_STEP` in the kernels' `split_keys.cuh`).
const PART_STEP: usize = 128;

/// Keys a part at least has: fewer are not worth the merging.
const LEAST_KEYS: usize = 256;

/// Parts of a row at most: what a warp merges at once (`BATCH_PARTS` in `kernels/v2g.cu`).
const MOST_PARTS: usize = 16;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2g.cu",
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
    id: "v2g",
    title: "one launch for decoding: the last block to finish merges the parts",
    parent: Some("v2f"),
    // In the order that `plan` counts in.
    specialisations: for_both_dtypes![kernel:
        "d64_g8", ["ROW_WARPS=1", "HEAD_DIM=64", "KEY_GROUPS=8", "TILE_KEYS=16",
            "STAGES=4", "BLOCKS_PER_SM=1"], 256, 133_120;
        "d64_g4", ["ROW_WARPS=1", "HEAD_DIM=64", "KEY_GROUPS=4", "PASSES=2", "TILE_KEYS=16",
            "STAGES=4", "BLOCKS_PER_SM=3"], 128, 67_584;
        "d96_g8", ["ROW_WARPS=1", "HEAD_DIM=96", "KEY_GROUPS=8", "TILE_KEYS=16",
            "STAGES=3", "BLOCKS_PER_SM=1"], 256, 150_528;
        "d96_g4", ["ROW_WARPS=1", "HEAD_DIM=96", "KEY_GROUPS=4", "PASSES=2", "TILE_KEYS=16",
            "STAGES=3", "BLOCKS_PER_SM=2"], 128, 76_800;
        "d128_g8", ["ROW_WARPS=1", "HEAD_DIM=128", "KEY_GROUPS=8", "TILE_KEYS=16",
            "STAGES=2", "BLOCKS_PER_SM=1"], 256, 135_168;
        "d128_g4", ["ROW_WARPS=1", "HEAD_DIM=128", "KEY_GROUPS=4", "PASSES=2", "TILE_KEYS=16",
            "STAGES=2", "BLOCKS_PER_SM=2"], 128, 74_752;
        "d256_g8", ["ROW_WARPS=1", "HEAD_DIM=256", "KEY_GROUPS=8", "TILE_KEYS=16",
            "STAGES=1", "BLOCKS_PER_SM=1"], 256, 144_384;
    ],
    budget: Budget { registers: 255, shared_bytes: 160 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// Flash decoding in one launch.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2g;

impl Attention for V2g {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2g", problem, 256)?;
        require::strides_multiple_of("v2g", problem, 8)?;
        let (queries, most) = (problem.len_q(), SizeRange::UpTo(MOST_QUERIES));
        require::size("v2g", "queries per head", queries, most, "one block merges their rows; its parent takes more")?;
        let bf16 = usize::from(problem.dtype() == Dtype::Bf16);
        let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);

        let rows = problem.heads_q() / problem.heads_kv() * problem.len_q();
        let tiles = rows.div_ceil(TILE_ROWS) * problem.batch() * problem.heads_kv();
        let parts = parts(problem.len_kv());
        let blocks = (tiles * parts) as u64;
        // INSIGHT: blocks of four warps add up the same keys in the same order as one of eight, in two passes, so that the
        // choice may follow the batch. What starts and ends in one of them hides behind the others; where all run at once
        // there is nothing to hide behind, and eight warps are done sooner.
        let kernels = &GENERATION.specialisations[KERNELS * bf16..][..KERNELS][2 * width..];
        let wide = kernels[0];
        let narrow = if width == HEAD_DIMS.len() - 1 { wide } else { kernels[1] };
        let at_once = blocks <= u64::from(limits.multiprocessors);
        let fits = wide.shared_bytes <= limits.shared_bytes_per_block;
        let plan = LaunchPlan::single(Launch::new("v2g", if at_once && fits { wide } else { narrow }, blocks, limits)?);
        if parts == 1 || blocks == 0 {
            return Ok(plan);
        }
        let workspace_bytes = workspace_bytes(problem, parts);
        LaunchPlan { workspace_bytes, ..plan }.counting_arrivals("v2g", tiles)
    }
}

/// What the parts leave to the block that merges them (`Workspace` in the kernels' `split_keys.cuh`): of every part of
/// every row an unnormalised output, its maximum and its sum, in f32.
fn workspace_bytes(problem: &Problem, parts: usize) -> usize {
    let part_bytes = (problem.head_dim() + 2) * size_of::<f32>();
    problem.batch() * problem.heads_q() * problem.len_q() * parts * part_bytes
}

/// Into how many parts the keys are cut, none of them empty. By their number alone: what a row's bits depend on must not
/// change with how many heads and sequences there are, or a request's result would depend on the others in its batch.
fn parts(len_kv: usize) -> usize {
    let wanted = (len_kv / LEAST_KEYS).clamp(1, MOST_PARTS);
    let keys = len_kv.div_ceil(wanted).next_multiple_of(PART_STEP).max(PART_STEP);
    len_kv.div_ceil(keys).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(problem: sdpa_core::ProblemBuilder) -> LaunchPlan {
        V2g.plan(&problem.build().unwrap(), &DeviceLimits::H200).unwrap()
    }

    #[test]
    fn grouped_heads_share_a_tile_and_a_tile_has_a_counter() {
        assert_eq!(
            plan(Problem::new(1, 32, 1, 128).heads_kv(4).len_kv(65_536)).to_string(),
            "v2g/f16_d128_g8 grid 64 block 256 shared 135168 workspace 266240 tickets 4"
        );
        assert_eq!(plan(Problem::new(2, 32, 3, 128).heads_kv(4).len_kv(1024)).tickets, 2 * 4 * 2);
    }

    #[test]
    fn no_part_is_empty_as_the_kernel_counts_their_keys() {
        for len_kv in (0..70_000).step_by(7) {
            let parts = parts(len_kv);
            let keys = len_kv.div_ceil(parts).next_multiple_of(PART_STEP);
            assert!(len_kv <= parts * keys, "{len_kv} keys in {parts} parts");
            assert!(parts == 1 || len_kv > (parts - 1) * keys, "{len_kv} keys in {parts} parts");
        }
    }

    #[test]
    fn parts_depend_on_the_lengths_alone() {
        let parts = |batch, heads_q, heads_kv| {
            let plan = plan(Problem::new(batch, heads_q, 1, 64).heads_kv(heads_kv).len_kv(4000));
            plan.launches[0].grid[0] as usize / (batch * heads_kv)
        };
        assert_eq!([parts(1, 1, 1), parts(1, 8, 1), parts(64, 8, 8)], [11; 3]);
    }

    #[test]
    fn few_keys_are_not_cut() {
        let plan = plan(Problem::new(4, 8, 1, 64).len_kv(511));
        assert_eq!((plan.workspace_bytes, plan.tickets), (0, 0));
        assert!(self::plan(Problem::new(4, 8, 0, 64).len_kv(9000)).launches.is_empty());
    }

    #[test]
    fn less_shared_memory_has_kernels_of_fewer_warps() {
        let problem = Problem::new(1, 8, 1, 128).len_kv(4096).build().unwrap();
        let limits = DeviceLimits { shared_bytes_per_block: 99 * 1024, ..DeviceLimits::H200 };
        assert_eq!(V2g.plan(&problem, &limits).unwrap().launches[0].kernel.name, "f16_d128_g4");
        assert_eq!(V2g.plan(&problem, &DeviceLimits::H200).unwrap().launches[0].kernel.name, "f16_d128_g8");
    }

    #[test]
    fn blocks_that_wait_for_one_another_share_multiprocessors() {
        let kernel = |heads, head_dim| plan(Problem::new(1, heads, 1, head_dim).len_kv(4096)).launches[0].kernel.name;
        assert_eq!([kernel(8, 64), kernel(9, 64)], ["f16_d64_g8", "f16_d64_g4"]);
        assert_eq!([kernel(9, 256), kernel(90, 256)], ["f16_d256_g8"; 2]);
    }

    #[test]
    fn more_queries_are_its_parents() {
        let problem = Problem::new(1, 8, 17, 64).len_kv(9000).build().unwrap();
        let error = V2g.plan(&problem, &DeviceLimits::H200).unwrap_err();
        assert_eq!(
            error.to_string(),
            "v2g takes queries per head up to 16; this problem has 17: one block merges their rows; its parent takes more"
        );
    }
}
