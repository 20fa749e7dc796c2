//! Every pack that the workspace commits.

use harness::mutants;
use sdpa::{
    Accuracy, Attention, DeviceLimits, Extensions, Generation, LaunchPlan, Problem, SizeRange, Unsupported, generations,
};
use sdpa_parallel::merge;
use sdpa_toolchain::Pack;

/// The name of the pack of all mutants.
pub const MUTANTS: &str = "mutants";

/// The name of the pack that merges the results of several ranks.
pub const PARALLEL: &str = "parallel";

/// The packs of all generations, oldest first, that of the ranks, and that of the mutants.
pub fn all() -> Vec<Pack> {
    let generations = generations::ALL.iter().map(|generation| Pack::of(generation.generation()));
    let kernels = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations).copied().collect();
    let parallel =
        Pack { id: PARALLEL, path: "crates/sdpa-parallel/parallel.ptx.zst".into(), kernels: merge::KERNELS.to_vec() };
    let mutants = Pack { id: MUTANTS, path: "crates/harness/mutants.ptx.zst".into(), kernels };
    generations.chain([parallel, mutants]).collect()
}

/// The kernels that merge the results of several ranks, as verbs take them that ask what kernels cost.
pub static MERGING: &dyn Attention = &Merging;

/// No generation: it attends to nothing.
struct Merging;

impl Attention for Merging {
    fn generation(&self) -> &Generation {
        static MERGING: Generation = Generation {
            id: PARALLEL,
            title: "merges the results of several ranks",
            parent: None,
            specialisations: &merge::KERNELS,
            budget: merge::BUDGET,
            accuracy: Accuracy::Standard,
            alignment: 16,
            takes: Extensions::NONE,
        };
        &MERGING
    }

    fn decide(&self, _: &Problem, _: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
        let reason = "it merges results of other kernels";
        Err(Unsupported::Size {
            generation: PARALLEL,
            quantity: "problems",
            found: 1,
            range: SizeRange::UpTo(0),
            reason,
        })
    }
}
