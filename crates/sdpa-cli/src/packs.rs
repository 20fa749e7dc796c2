//! Every pack that the workspace commits.

use harness::mutants;
use sdpa::{Attention as _, generations};
use sdpa_toolchain::Pack;

/// The name of the pack of all mutants.
pub const MUTANTS: &str = "mutants";

/// The packs of all generations, oldest first, and the one of the mutants.
pub fn all() -> Vec<Pack> {
    let generations = generations::ALL.iter().map(|generation| Pack::of(generation.generation()));
    let kernels = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations).copied().collect();
    generations.chain([Pack { id: MUTANTS, path: "crates/harness/mutants.ptx.zst".into(), kernels }]).collect()
}
