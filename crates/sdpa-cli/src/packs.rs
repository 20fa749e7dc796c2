//! Every pack that the workspace commits.

use harness::mutants;
use sdpa::{Attention as _, generations};
use sdpa_toolchain::Pack;

/// The name of the pack of all mutants.
pub const MUTANTS: &str = "mutants";

/// The name of the pack that merges the results of several ranks.
pub const PARALLEL: &str = "parallel";

/// The packs of all generations, oldest first, that of the ranks, and that of the mutants.
pub fn all() -> Vec<Pack> {
    let generations = generations::ALL.iter().map(|generation| Pack::of(generation.generation()));
    let kernels = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations).copied().collect();
    let parallel = Pack {
        id: PARALLEL,
        path: "crates/sdpa-parallel/parallel.ptx.zst".into(),
        kernels: sdpa_parallel::merge::kernels(),
    };
    let mutants = Pack { id: MUTANTS, path: "crates/harness/mutants.ptx.zst".into(), kernels };
    generations.chain([parallel, mutants]).collect()
}
