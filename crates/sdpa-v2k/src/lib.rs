//! V2k: values of another width than keys. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 192).value_dim(128).build()?;
//! let plan = sdpa_v2k::V2k.plan(&problem, &DeviceLimits::A100)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Architecture, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan,
    PackedPtx, Problem, Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v2k`.
pub static PTX: PackedPtx = sdpa_core::packed!("v2k", "sm_80", "sm_90");

/// Widths of keys and of values that kernels have for scores as they are, the narrowest first; others are padded with zeros to
/// the first that holds both. The last is that of kernels for scores of another shape, too.
const WIDTHS: [(usize, usize); 5] = [(64, 64), (128, 64), (128, 128), (192, 128), (256, 256)];

const OF_EACH_DTYPE: usize = WIDTHS.len() + 2;

/// Query rows of a block's tile.
const TILE_ROWS: usize = 64;

const fn kernel(name: &'static str, defines: &'static [&'static str], shared_bytes: u32) -> Specialisation {
    Specialisation {
        source: "v2k.cu",
        ptx: &PTX,
        name,
        architecture: Architecture::Compute80,
        defines,
        threads: 128,
        shared_bytes,
        boxes: None,
    }
}

static GENERATION: Generation = Generation {
    id: "v2k",
    title: "values of another width than keys",
    parent: Some("v2i"),
    // In the order that `decide` counts in: dtype, widths, shape of the scores. All key tiles have 64 keys, so that a row has the
    // same bits whichever kernel computes it, in a batch or alone.
    specialisations: for_both_dtypes![kernel:
        "d64_v64", ["HEAD_DIM=64", "VALUE_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=4"], 40_960;
        "d128_v64", ["HEAD_DIM=128", "VALUE_DIM=64", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 65_536;
        "d128_v128", ["HEAD_DIM=128", "VALUE_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=2", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 81_920;
        "d192_v128", ["HEAD_DIM=192", "VALUE_DIM=128", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 65_536;
        "d256_v256", ["HEAD_DIM=256", "VALUE_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=PLAIN", "BLOCKS_PER_SM=2"], 98_304;
        "d256_v256_sloped", ["HEAD_DIM=256", "VALUE_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=SLOPED", "BLOCKS_PER_SM=2"], 98_304;
        "d256_v256_capped", ["HEAD_DIM=256", "VALUE_DIM=256", "WARPS=4", "ROW_BLOCKS=1", "TILE_KEYS=64", "STAGES=1", "SHAPE=CAPPED", "BLOCKS_PER_SM=2"], 98_304;
    ],
    // Eight warps a multiprocessor leave each thread the most that there is; two blocks of 98304 bytes fit a
    // multiprocessor of an A100 or an H200, and one an L4's.
    // The kernels of 64 columns, with four blocks a multiprocessor, spill 8 bytes for sm_80 and 16 for Hopper.
    budget: Budget { registers: 255, shared_bytes: 96 * 1024, spill_bytes: 16 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { paged: false, value_dim: true, ..Extensions::ALL },
};

/// Scores as deep as keys are wide, and an output as wide as values.
#[derive(Clone, Copy, Debug, Default)]
pub struct V2k;

impl Attention for V2k {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn tunables(&self) -> &'static [Tunable] {
        &[Tunable { define: "STAGES", values: &["1", "2"] }]
    }

    /// Q, and each stage's K and V, in two bytes an element.
    fn resized(&self, kernel: Specialisation) -> Option<Specialisation> {
        let number = |name| kernel.number(name);
        let (width, value_width) = (number("HEAD_DIM")?, number("VALUE_DIM")?);
        let rows = 16 * number("WARPS")? * number("ROW_BLOCKS")?;
        let stages = number("STAGES")? * number("TILE_KEYS")?;
        let shared_bytes = 2 * (width * rows + (width + value_width) * stages);
        (shared_bytes <= GENERATION.budget.shared_bytes).then_some(Specialisation { shared_bytes, ..kernel })
    }

    fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        require::head_dim_up_to("v2k", problem, 256)?;
        require::strides_multiple_of("v2k", problem, 8)?;
        let bf16 = problem.dtype() == Dtype::Bf16;
        let kernels = &GENERATION.specialisations[usize::from(bf16) * OF_EACH_DTYPE..][..OF_EACH_DTYPE];
        let kernel = match (problem.softcap(), problem.slopes()) {
            // A capped kernel has slopes, too, of 0 where there are none.
            (Some(_), _) => kernels[WIDTHS.len() + 1],
            (None, true) => kernels[WIDTHS.len()],
            (None, false) => {
                let holds = |(key, value): &(usize, usize)| *key >= problem.head_dim() && *value >= problem.value_dim();
                kernels[WIDTHS.iter().position(holds).unwrap_or(WIDTHS.len() - 1)]
            }
        };
        match problem.packing() {
            Some(_) => Launch::new("v2k", kernel, blocks(problem), limits),
            None => Launch::per_query_tile("v2k", kernel, problem, TILE_ROWS, limits),
        }
        .map(LaunchPlan::single)
    }
}

/// Blocks of a packed problem: the kernel numbers the tiles of sequence `s` from `cu_seqlens[s] / TILE_ROWS + s` on.
fn blocks(problem: &Problem) -> u64 {
    match problem.len_q() {
        0 => 0,
        total => (total / TILE_ROWS + problem.sequence_count()) as u64 * problem.heads_q() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The law that a search goes by gives what the table says.
    #[test]
    fn the_tables_kernels_are_as_large_as_the_law_says() {
        for kernel in GENERATION.specialisations {
            assert_eq!(V2k.resized(*kernel), Some(*kernel));
        }
    }

    #[test]
    fn the_narrowest_kernel_that_holds_both_is_taken() {
        assert_eq!(GENERATION.specialisations.len(), 2 * OF_EACH_DTYPE);
        let chosen = |head_dim, value_dim| {
            let problem = Problem::new(1, 2, 100, head_dim).value_dim(value_dim).build().unwrap();
            V2k.plan(&problem, &DeviceLimits::A100).unwrap().launches[0].kernel.name
        };
        for (head_dim, value_dim, name) in [
            (64, 32, "f16_d64_v64"),
            (128, 64, "f16_d128_v64"),
            (96, 128, "f16_d128_v128"),
            (64, 128, "f16_d128_v128"),
            (192, 128, "f16_d192_v128"),
            (192, 64, "f16_d192_v128"),
            (64, 192, "f16_d256_v256"),
            (256, 8, "f16_d256_v256"),
        ] {
            assert_eq!(chosen(head_dim, value_dim), name);
        }
    }

    /// Whatever runs DeepSeek's prompts on an A100 runs them on an L4.
    #[test]
    fn every_kernel_fits_the_smallest_blocks() {
        let most = DeviceLimits::L4.shared_bytes_per_block;
        assert!(GENERATION.specialisations.iter().all(|kernel| kernel.shared_bytes <= most));
    }
}
