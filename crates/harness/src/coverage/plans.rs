//! Features of plans: what `plan` can decide, and whether a trial makes it decide so.

use std::collections::BTreeSet;

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use sdpa_core::{Attention, DeviceKind, DeviceLimits, LaunchPlan, Problem};
use serde::Serialize;

use crate::acceptance;
use crate::check::Trial;
use crate::needs::as_needed;
use crate::strategies::{Size, cases};

/// Something that a generation's plans can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanFeature {
    /// In words.
    pub name: String,
    /// Whether a trial's plan has it.
    pub seen: bool,
}

/// Problems, large ones and random ones, that a generation is asked to plan for.
fn problems() -> Vec<Problem> {
    const RANDOM: usize = 400;
    let mut runner = TestRunner::deterministic();
    let strategy = cases(Size::Large);
    let random = (0..RANDOM).filter_map(|_| strategy.new_tree(&mut runner).ok()).map(|tree| tree.current().problem);
    let accepted = acceptance::cases(DeviceKind::Cuda).into_iter().map(|case| case.case);
    let decoded = acceptance::decoding_cases(DeviceKind::Cuda);
    random.chain(accepted.chain(decoded).map(|case| case.problem)).collect()
}

/// The features that a plan has.
fn features(plan: &LaunchPlan, multiprocessors: u32) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for launch in &plan.launches {
        found.insert(format!("kernel {}", launch.kernel.name));
        let blocks: u64 = launch.grid.iter().map(|side| u64::from(*side)).product();
        let waves = if blocks > u64::from(multiprocessors) { "more blocks than" } else { "at most as many blocks as" };
        found.insert(format!("{waves} multiprocessors"));
        let several = if blocks > 1 { "several blocks" } else { "one block" };
        found.insert(several.to_owned());
    }
    found.insert(match plan.launches.len() {
        0 => "no launch".to_owned(),
        1 => "one launch".to_owned(),
        more => format!("{more} launches"),
    });
    let with = |has, what: &str| format!("{} {what}", if has { "with" } else { "without" });
    found.insert(with(plan.workspace_bytes > 0, "a workspace"));
    found.insert(with(plan.tickets > 0, "counters"));
    found
}

/// Everything that plans of this generation have for ordinary and unusual problems, on one multiprocessor, on two, and on as
/// many as an H200 has.
pub fn plan_features(generation: &'static dyn Attention, trials: &[Trial]) -> Vec<PlanFeature> {
    let plan = |problem: &Problem, multiprocessors| {
        let limits = DeviceLimits { multiprocessors, ..DeviceLimits::H200 };
        generation.plan(problem, &limits).ok().map(|plan| features(&plan, multiprocessors))
    };
    let all = DeviceLimits::H200.multiprocessors;
    let mut possible = BTreeSet::new();
    for problem in problems().iter().map(|problem| as_needed(generation, problem)) {
        possible.extend([1, 2, all].into_iter().filter_map(|count| plan(&problem, count)).flatten());
    }
    let mut seen = BTreeSet::new();
    for trial in trials {
        seen.extend(plan(&trial.case.problem, trial.multiprocessors.unwrap_or(all)).unwrap_or_default());
    }
    possible.extend(seen.iter().cloned());
    possible.into_iter().map(|name| PlanFeature { seen: seen.contains(&name), name }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::trials;
    use sdpa::generations;

    #[test]
    fn a_feature_without_a_trial_is_missed() {
        let generation = generations::find("v2f").expect("a generation");
        let missed = |trials: &[Trial]| {
            let features = plan_features(generation, trials).into_iter();
            features.filter(|feature| !feature.seen).map(|feature| feature.name).collect::<Vec<_>>()
        };
        assert_eq!(missed(&trials(generation)), [] as [String; 0]);
        let one = [Trial::new("q1 kv100 d64 f16 full".parse().expect("a case"))];
        assert!(missed(&one).contains(&"2 launches".to_owned()), "{:?}", missed(&one));
    }
}
