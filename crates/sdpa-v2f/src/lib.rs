//! V2f: keys split over blocks, so that a few queries use the whole chip. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 1, 64).len_kv(4096).build()?;
//! let plan = sdpa_v2f::V2f.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2f`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2f", "sm_80", "sm_90");

/// Head dimensions that have kernels; others are padded with zeros to the next.
const HEAD_DIMS: [usize; 4] = [64, 96, 128, 256];

/// Kernels of a dtype: for each head dimension one for few queries and one for more, then what merges either's parts.
const KERNELS: usize = 2 * HEAD_DIMS.len() + 2;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    threads: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v2f.cu",
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
    id: "v2f",
    title: "keys split over blocks, query heads packed, for decoding",
    parent: Some("v2e"),
    // In the order that `plan` counts in.
    specialisations: for_both_dtypes![kernel:
        "d64_m16", ["HEAD_DIM=64", "ROW_WARPS=1", "KEY_GROUPS=4", "TILE_KEYS=32",
            "STAGES=2", "BLOCKS_PER_SM=3"], 128, 67_584;
        "d64_m64", ["HEAD_DIM=64", "ROW_WARPS=4", "KEY_GROUPS=1", "TILE_KEYS=64",
            "STAGES=2", "BLOCKS_PER_SM=2"], 128, 40_960;
        "d96_m16", ["HEAD_DIM=96", "ROW_WARPS=1", "KEY_GROUPS=4", "TILE_KEYS=16",
            "STAGES=2", "BLOCKS_PER_SM=3"], 128, 52_224;
        "d96_m64", ["HEAD_DIM=96", "ROW_WARPS=4", "KEY_GROUPS=1", "TILE_KEYS=64",
            "STAGES=2", "BLOCKS_PER_SM=2"], 128, 61_440;
        "d128_m16", ["HEAD_DIM=128", "ROW_WARPS=1", "KEY_GROUPS=4", "TILE_KEYS=16",
            "STAGES=2", "BLOCKS_PER_SM=3"], 128, 69_632;
        "d128_m64", ["HEAD_DIM=128", "ROW_WARPS=4", "KEY_GROUPS=1", "TILE_KEYS=64",
            "STAGES=2", "BLOCKS_PER_SM=2"], 128, 81_920;
        "d256_m16", ["HEAD_DIM=256", "ROW_WARPS=1", "KEY_GROUPS=4", "TILE_KEYS=16",
            "STAGES=1", "BLOCKS_PER_SM=2"], 128, 76_288;
        "d256_m64", ["HEAD_DIM=256", "ROW_WARPS=4", "KEY_GROUPS=1", "TILE_KEYS=32",
            "STAGES=2", "BLOCKS_PER_SM=2"], 128, 100_864;
        "merge_m16", ["MERGE", "ROW_WARPS=1"], 256, 4160;
        "merge_m64", ["MERGE", "ROW_WARPS=4"], 256, 4160;
    ],
    budget: Budget { registers: 255, shared_bytes: 100 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// How a kernel's problems are cut.
struct Cut {
    /// Query rows a tile, those of the heads that share a key head counted together.
    tile_rows: usize,
    /// Keys a part at least has: fewer are not worth the second launch.
    least_keys: usize,
    /// Parts at most.
    most_parts: usize,
}

/// Flash decoding: thousands of keys for a few queries.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2f;

impl Attention for V2f {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2f", problem, 256)?;
        require::strides_multiple_of("v2f", problem, 8)?;
        let multiprocessors = limits.multiprocessors as usize;
        // What a row's bits depend on, the kernel and the parts, depends on the lengths and the device, never on how
        // many heads and sequences there are: a request's result does not change with the others in its batch.
        let few = problem.len_q() <= 16;
        let cut = match few {
            // Four key heads fill the device twice over.
            true => Cut { tile_rows: 16, least_keys: 128, most_parts: multiprocessors / 2 },
            false => Cut { tile_rows: 64, least_keys: 512, most_parts: 16 },
        };
        let rows = problem.heads_q() / problem.heads_kv() * problem.len_q();
        let tiles = rows.div_ceil(cut.tile_rows) * problem.batch() * problem.heads_kv();
        if !few {
            require_long(problem, tiles, multiprocessors)?;
        }
        let parts = (problem.len_kv() / cut.least_keys).clamp(1, cut.most_parts.max(1));

        let bf16 = usize::from(problem.dtype() == Dtype::Bf16);
        let width = HEAD_DIMS.iter().position(|width| problem.head_dim() <= *width).unwrap_or(HEAD_DIMS.len() - 1);
        let kernels = &GENERATION.specialisations[KERNELS * bf16..][..KERNELS];
        let attend = kernels[2 * width + usize::from(!few)];
        let merge = kernels[2 * HEAD_DIMS.len() + usize::from(!few)];
        let blocks = (tiles * parts) as u64;
        let attend = Launch::new("v2f", attend, blocks, limits)?;
        if parts == 1 || blocks == 0 {
            return Ok(LaunchPlan::single(attend));
        }
        let merge = Launch::new("v2f", merge, blocks, limits)?;
        let workspace_bytes = workspace_bytes(problem, parts);
        Ok(LaunchPlan { launches: vec![attend, merge], workspace_bytes, ..LaunchPlan::default() })
    }
}

/// What the parts leave to the launch that merges them (`Workspace` in the kernels' `split_keys.cuh`): of every part of every
/// row an unnormalised output, its maximum and its sum, in f32.
fn workspace_bytes(problem: &Problem, parts: usize) -> usize {
    let part_bytes = (problem.head_dim() + 2) * size_of::<f32>();
    problem.batch() * problem.heads_q() * problem.len_q() * parts * part_bytes
}

/// More than sixteen queries are worth a second launch where they leave multiprocessors idle for long.
fn require_long(problem: &Problem, tiles: usize, multiprocessors: usize) -> Result<(), Unsupported> {
    const LEAST_KEYS: usize = 1024;
    let (keys, enough) = (problem.len_kv(), SizeRange::From(LEAST_KEYS));
    require::size(
        "v2f",
        "keys",
        keys,
        enough,
        "with fewer, and more than 16 queries, splitting costs more than it saves",
    )?;
    let at_once = SizeRange::UpTo(multiprocessors);
    require::size("v2f", "64-row query tiles", tiles, at_once, "more keep this device busy without splitting keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(problem: sdpa_core::ProblemBuilder) -> LaunchPlan {
        V2f.plan(&problem.build().unwrap(), &DeviceLimits::H200).unwrap()
    }

    #[test]
    fn grouped_heads_share_a_tile_and_parts_fill_the_device() {
        let plan = plan(Problem::new(1, 32, 1, 128).heads_kv(4).len_kv(65_536));
        assert_eq!(
            plan.to_string(),
            "v2f/f16_d128_m16 grid 264 block 128 shared 69632 then v2f/f16_merge_m16 grid 264 block 256 shared 4160 \
             workspace 1098240"
        );
    }

    #[test]
    fn parts_depend_on_the_lengths_alone() {
        let parts = |batch, heads_q, heads_kv| {
            let plan = plan(Problem::new(batch, heads_q, 1, 64).heads_kv(heads_kv).len_kv(4000));
            plan.launches[0].grid[0] as usize / (batch * heads_kv)
        };
        assert_eq!([parts(1, 1, 1), parts(1, 8, 1), parts(64, 8, 8)], [31; 3]);
    }

    #[test]
    fn few_keys_are_one_launch() {
        assert_eq!(plan(Problem::new(4, 8, 1, 64).len_kv(255)).launches.len(), 1);
        assert_eq!(plan(Problem::new(4, 8, 0, 64).len_kv(9000)).launches.len(), 0);
    }
}
