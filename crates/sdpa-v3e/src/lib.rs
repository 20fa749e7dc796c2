//! V3e: short problems in even shares, fetched by the copy engine. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 64).build()?;
//! let plan = sdpa_v3e::V3e.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, SizeRange, Specialisation, TileBoxes, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3e`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3e", "sm_90a");

/// Query rows of a warp, and of a box (`STRIP_ROWS` in the kernel); a block has two such strips.
const STRIP_ROWS: usize = 16;

/// Groups of warps that share a block's keys (`KEY_GROUPS` in the kernel), each with a tile of its own.
const KEY_GROUPS: usize = 4;

/// Keys of a group's tile, as the kernels are listed. The smaller one measured faster where it holds all keys.
const TILE_KEYS: [usize; 2] = [64, 128];

/// The only head dimension that has kernels: one box of the copy engine is one row of a tile. Narrower ones are padded
/// with zeros; wider ones would take several boxes, and a block could hold fewer keys.
const HEAD_DIM: usize = 64;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation {
        source: "v3e.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute90a,
        defines,
        threads: 256,
        shared_bytes,
        boxes: Some(TileBoxes {
            query: STRIP_ROWS as u32,
            key: tile_keys,
            value: tile_keys,
            // Stored by the warps; no box of the output is ever asked for.
            output: STRIP_ROWS as u32,
        }),
    }
}

static GENERATION: Generation = Generation {
    id: "v3e",
    title: "short problems in even shares, fetched by the copy engine",
    parent: Some("v2e"),
    // In the order that `plan` counts in: dtype, then keys a tile.
    specialisations: for_both_dtypes![kernel:
        "d64_k64", ["HEAD_DIM=64", "TILE_KEYS=64"], 64, 104_448;
        "d64_k128", ["HEAD_DIM=64", "TILE_KEYS=128"], 128, 169_984;
    ],
    budget: Budget { registers: 255, shared_bytes: 168 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions::NONE,
};

/// The lowest latency at (1, 8, 512, 64), with a causal mask and without.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3e;

impl Attention for V3e {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v3e", problem, HEAD_DIM)?;
        require::tensor_maps("v3e", problem)?;
        let fits = TILE_KEYS.iter().position(|keys| problem.len_kv() <= KEY_GROUPS * keys);
        let tile = fits.unwrap_or(TILE_KEYS.len() - 1);
        let (keys, most) = (problem.len_kv(), SizeRange::UpTo(KEY_GROUPS * TILE_KEYS[tile]));
        require::size("v3e", "keys", keys, most, "a block holds no more at once; its parent takes them")?;
        // One block fills most of a multiprocessor's shared memory: what does not run at once had better not be split.
        let pairs = problem.len_q().div_ceil(STRIP_ROWS).div_ceil(2);
        let heads = problem.batch() * problem.heads_q();
        let (tiles, limit) = (pairs * heads, limits.multiprocessors as usize);
        let at_once = SizeRange::UpTo(limit);
        require::size(
            "v3e",
            "32-row query tiles",
            tiles,
            at_once,
            "no more run at once on this device; its parent takes them",
        )?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let kernel = GENERATION.specialisations[TILE_KEYS.len() * usize::from(bf16) + tile];
        let launch = Launch::new("v3e", kernel, tiles as u64, limits)?;
        // Both fit: their product is no more than `limit`.
        let grid = [pairs as u32, heads as u32, 1];
        Ok(LaunchPlan::single(Launch { grid, ..launch }))
    }
}
