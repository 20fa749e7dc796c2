//! V3h: values of another width than keys, on Hopper. See this crate's README.
//!
//! ```
//! use sdpa_core::{Attention, DeviceLimits, Problem};
//!
//! let problem = Problem::new(1, 8, 512, 192).value_dim(128).build()?;
//! let plan = sdpa_v3h::V3h.plan(&problem, &DeviceLimits::H200)?;
//! assert!(plan.launches[0].kernel.packed_ptx()?.contains(".version 9.0"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Dtype, Extensions, Generation, Launch, LaunchPlan, PackedPtx, Problem,
    Specialisation, Tunable, Unsupported, for_both_dtypes, require,
};

/// The PTX of its kernels, and their machine code if asked for, made by `sdpa build-ptx v3h`.
pub static PTX: PackedPtx = sdpa_core::packed!("v3h", "sm_90a");

/// Widths of keys and of values that kernels have for scores as they are, the narrowest first; others are padded with zeros to
/// the first that holds both. The last is that of kernels for scores of another shape, too.
const WIDTHS: [(usize, usize); 5] = [(64, 64), (128, 64), (128, 128), (192, 128), (256, 256)];

const OF_EACH_DTYPE: usize = WIDTHS.len() + 2;

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3h.cu", &PTX, name, defines, 2, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3h",
    title: "values of another width than keys, on Hopper",
    parent: Some("v3f"),
    // In the order that `decide` counts in: dtype, widths, shape of the scores. Widths and shape of a problem decide which
    // kernel runs, so that a row has the same bits in a batch and alone.
    specialisations: for_both_dtypes![kernel:
        "d64_v64", ["HEAD_DIM=64", "VALUE_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3", "QUERY_STAGES=3",
            "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=PLAIN"], 128, 164_864;
        "d128_v64", ["HEAD_DIM=128", "VALUE_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2", "QUERY_STAGES=2",
            "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8", "SHAPE=PLAIN"], 128, 181_248;
        "d128_v128", ["HEAD_DIM=128", "VALUE_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2", "QUERY_STAGES=2",
            "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=PLAIN"], 128, 230_400;
        "d192_v128", ["HEAD_DIM=192", "VALUE_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2", "QUERY_STAGES=1",
            "STAGED_OUTPUT=0", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=PLAIN"], 128, 214_016;
        "d256_v256", ["HEAD_DIM=256", "VALUE_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2", "QUERY_STAGES=1",
            "STAGED_OUTPUT=0", "TURNS=NEVER", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=PLAIN"], 64, 197_632;
        "d256_v256_sloped", ["HEAD_DIM=256", "VALUE_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=NEVER", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=SLOPED"], 64, 197_632;
        "d256_v256_capped", ["HEAD_DIM=256", "VALUE_DIM=256", "CONSUMERS=2", "TILE_KEYS=64", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=0", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6", "SHAPE=CAPPED"], 64, 197_632;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 225 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
    takes: Extensions { paged: false, value_dim: true, ..Extensions::ALL },
};

/// Boxes of values as wide as values are.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3h;

impl Attention for V3h {
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
        require::head_dim_up_to("v3h", problem, 256)?;
        require::tensor_maps("v3h", problem)?;
        let first = OF_EACH_DTYPE * usize::from(problem.dtype() == Dtype::Bf16);
        let kernels = &GENERATION.specialisations[first..][..OF_EACH_DTYPE];
        let kernel = match (problem.softcap(), problem.slopes()) {
            // A capped kernel has slopes, too, of 0 where there are none.
            (Some(_), _) => kernels[WIDTHS.len() + 1],
            (None, true) => kernels[WIDTHS.len()],
            (None, false) => {
                let holds = |(key, value): &(usize, usize)| *key >= problem.head_dim() && *value >= problem.value_dim();
                kernels[WIDTHS.iter().position(holds).unwrap_or(WIDTHS.len() - 1)]
            }
        };
        // Tiles are numbered in 32 bits, so there may be no more than a grid holds.
        let tiles = Launch::new("v3h", kernel, tiles(problem, kernel.query_rows()), limits)?.grid[0];
        let blocks = tiles.min(limits.multiprocessors);
        let plan = LaunchPlan::single(Launch::new("v3h", kernel, u64::from(blocks), limits)?);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_kernel_that_holds_both_is_taken() {
        assert_eq!(GENERATION.specialisations.len(), 2 * OF_EACH_DTYPE);
        let problem = |head_dim, value_dim| Problem::new(1, 2, 100, head_dim).value_dim(value_dim);
        let chosen = |problem: sdpa_core::ProblemBuilder| {
            V3h.plan(&problem.build().unwrap(), &DeviceLimits::H200).unwrap().launches[0].kernel.name
        };
        for (head_dim, value_dim, name) in [
            (64, 32, "f16_d64_v64"),
            (128, 64, "f16_d128_v64"),
            (96, 128, "f16_d128_v128"),
            (192, 128, "f16_d192_v128"),
            (192, 64, "f16_d192_v128"),
            (64, 192, "f16_d256_v256"),
        ] {
            assert_eq!(chosen(problem(head_dim, value_dim)), name);
            assert_eq!(chosen(problem(head_dim, value_dim).slopes()), "f16_d256_v256_sloped");
            assert_eq!(chosen(problem(head_dim, value_dim).slopes().softcap(9.0)), "f16_d256_v256_capped");
        }
    }
}
