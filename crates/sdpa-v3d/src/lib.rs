//! V3d: causal tiles in even shares: empty halves left out, rows traded among warpgroups. See this crate's README.

use sdpa_core::{
    Accuracy, Attention, Budget, DeviceLimits, Generation, LaunchPlan, Problem, Specialisation, Unsupported,
    for_both_dtypes, require,
};

const fn kernel(
    name: &'static str,
    defines: &'static [&'static str],
    consumers: u32,
    tile_keys: u32,
    shared_bytes: u32,
) -> Specialisation {
    Specialisation::of_warpgroups("v3d.cu", name, defines, consumers, tile_keys, shared_bytes)
}

static GENERATION: Generation = Generation {
    id: "v3d",
    title: "causal tiles in even shares: empty halves left out, rows traded among warpgroups",
    parent: Some("v3c"),
    // As in V3c; where the wait stands is the fastest of those measured on an H200.
    specialisations: for_both_dtypes![kernel:
        "d64_m128", ["HEAD_DIM=64", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8"], 2, 128, 148_480;
        "d64_m192", ["HEAD_DIM=64", "CONSUMERS=3", "TILE_KEYS=128", "KEY_STAGES=3",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6"], 3, 128, 173_056;
        "d64_m256", ["HEAD_DIM=64", "CONSUMERS=4", "TILE_KEYS=64", "KEY_STAGES=6",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=UNLESS_CAUSAL", "EIGHTHS_BEFORE_WAIT=2"], 4, 64, 197_632;
        "d96_m128", ["HEAD_DIM=96", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=6"], 2, 128, 230_400;
        "d96_m192", ["HEAD_DIM=96", "CONSUMERS=3", "TILE_KEYS=112", "KEY_STAGES=2",
            "QUERY_STAGES=1", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8"], 3, 112, 214_016;
        "d128", ["HEAD_DIM=128", "CONSUMERS=2", "TILE_KEYS=128", "KEY_STAGES=2",
            "QUERY_STAGES=2", "STAGED_OUTPUT=1", "TURNS=ALWAYS", "EIGHTHS_BEFORE_WAIT=8"], 2, 128, 230_400;
    ],
    // What a launch of 384 threads gives each; the kernel hands them out anew. One block fills a multiprocessor.
    budget: Budget { registers: 168, shared_bytes: 225 * 1024, spill_bytes: 0 },
    accuracy: Accuracy::Standard,
    alignment: 16,
};

/// The work of a causal tile shared out evenly.
#[derive(Clone, Copy, Debug, Default)]
pub struct V3d;

impl Attention for V3d {
    fn generation(&self) -> &Generation {
        &GENERATION
    }

    fn plan(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        /// Wider tiles have no half to leave out, and lose more to rows that change than they gain.
        const LARGEST: usize = 128;
        /// Without a mask this is V3c, as fast at 64. At 128 it is faster where a block has one tile, whose warpgroups
        /// would otherwise run in step, and up to 6 % slower where it has several.
        const LARGEST_UNMASKED: usize = 64;
        require::head_dim_up_to("v3d", problem, LARGEST)?;
        let plan = sdpa_v3c::plan_persistent_blocks(&GENERATION, problem, limits)?;
        let wide = problem.head_dim() > LARGEST_UNMASKED;
        if wide && !problem.mask().is_causal() && plan.tickets > 0 {
            let (found, largest) = (problem.head_dim(), LARGEST_UNMASKED);
            return Err(Unsupported::Unmasked { generation: "v3d", found, largest });
        }
        Ok(plan)
    }
}
