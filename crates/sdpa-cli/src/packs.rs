//! Every pack that the workspace commits.

use harness::mutants;
use sdpa::generations;
use sdpa_cache::kernels;
use sdpa_core::Attention as _;
use sdpa_parallel::merge;
use sdpa_toolchain::Pack;
use sdpa_toolchain::resources::KernelSet;

/// The name of the pack of all mutants.
pub const MUTANTS: &str = "mutants";

/// The kernels that belong to no generation: those that merge the results of several ranks, and those that append to a cache.
pub static OTHERS: [KernelSet<'static>; 2] = [
    KernelSet { id: "parallel", kernels: &merge::KERNELS, budget: merge::BUDGET },
    KernelSet { id: "cache", kernels: &kernels::KERNELS, budget: kernels::BUDGET },
];

/// The packs of all generations, oldest first, those of kernels that belong to none, and that of the mutants.
pub fn all() -> Vec<Pack> {
    let generations = generations::ALL.iter().map(|generation| Pack::of(generation.generation()));
    let kernels = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations).copied().collect();
    let others =
        OTHERS.iter().map(|set| Pack { id: set.id, path: Pack::path_of(set.id), kernels: set.kernels.to_vec() });
    let mutants = Pack { id: MUTANTS, path: "crates/harness/mutants.ptx.zst".into(), kernels };
    generations.chain(others).chain([mutants]).collect()
}
