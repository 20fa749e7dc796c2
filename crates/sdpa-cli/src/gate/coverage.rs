//! Do the trials reach every place of the kernels, and every feature of the plans?

use harness::check::trials;
use harness::coverage::{Executed, GenerationCoverage, render};
use sdpa_core::Attention;
use sdpa_toolchain::KernelTexts;

use super::steps::Outcome;

/// Of the different places of a generation's kernels, so many must be reached or explained.
const REACHED: f64 = 0.95;

/// Lines, directions of conditions and features of plans are reached, in some kernel of the generation, by what the step `races`
/// ran, or a comment beside a line says why it cannot be: all features, and all but a twentieth of the places, which are counted.
pub fn coverage(generation: &'static dyn Attention, executed: &[Executed], texts: &KernelTexts) -> Outcome {
    match GenerationCoverage::new(generation, &trials(generation), executed, texts) {
        Ok(coverage) => judge(&coverage),
        Err(error) => Outcome::not_run(&format!("a kernel has no text: {error}")),
    }
}

fn judge(coverage: &GenerationCoverage) -> Outcome {
    let (reached, explained, all) = coverage.totals();
    let features = coverage.plans.len();
    let text = format!(
        "{reached} of {all} places of {} kernels reached, {explained} explained; of {} different ones {} are reached in no kernel and not explained; {features} features of plans",
        coverage.kernels.len(),
        coverage.distinct,
        coverage.unexplained()
    );
    let most = (coverage.distinct as f64 * (1.0 - REACHED)).floor() as usize;
    if coverage.unexplained() <= most && coverage.plans.iter().all(|feature| feature.seen) {
        return Outcome::passed(&text);
    }
    let look_at = "each place named: a trial that reaches it belongs into crates/harness/src/check/trials.rs, or, if nothing \
                   can, `// UNREACHED: reason` beside it";
    Outcome::failed(&format!("{text}\n{}", render(&unexplained(coverage))), look_at)
}

/// The same without what is explained, or reached in another kernel, which nobody needs to look at.
fn unexplained(coverage: &GenerationCoverage) -> GenerationCoverage {
    let mut coverage = coverage.clone();
    coverage.nowhere.retain(|missed| missed.reason.is_none());
    let nowhere = &coverage.nowhere;
    for kernel in &mut coverage.kernels {
        kernel.missed.retain(|one| nowhere.iter().any(|missed| missed.place == one.place && missed.event == one.event));
    }
    coverage.kernels.retain(|kernel| !kernel.missed.is_empty());
    coverage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;
    use harness::coverage::execute;
    use sdpa::generations;

    /// A generation's first trial alone leaves most of its kernels unseen.
    #[test]
    fn what_no_trial_reaches_fails() {
        let generation = generations::find("v1").expect("a generation");
        let texts = KernelTexts::packed();
        let executed = execute(generation, &trials(generation)[..1], &texts, || ()).expect("runs");
        let found = coverage(generation, &executed, &texts);
        assert_eq!(found.status, Status::Failed);
        assert!(found.detail.contains("large_logits.cuh:") && found.detail.contains("never runs"), "{}", found.detail);
    }
}
