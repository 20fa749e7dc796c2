//! What each generation would launch for the acceptance shapes, and what it takes.

use harness::snapshots::Snapshot;
use sdpa::generations;
use sdpa_toolchain::KernelTexts;

/// A file per generation: `sdpa gate ID --accept` accepts what is new.
#[test]
fn every_generation_plans_as_it_did() {
    for generation in generations::ALL {
        let plans = Snapshot::Plans.now(*generation, &KernelTexts::packed()).expect("plans need no kernel");
        insta::assert_snapshot!(Snapshot::Plans.title(generation.generation().id), plans);
    }
}
