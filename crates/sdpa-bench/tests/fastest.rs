//! The crate `sdpa` chooses well: as fast as anything measured, for every problem that a generation takes, and right.

use std::path::Path;

use harness::case::Case;
use harness::strategies::{Size, cases};
use harness::suite::isolated;
use harness::verify::verify;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use sdpa::generations;
use sdpa_bench::timing::{Figure, Record, Regime, Sittings, Timing};
use sdpa_core::{DeviceLimits, Problem};

/// How much longer than the fastest the choice may take: as much as a verdict needs, since two runs of the same kernels
/// differ by as much.
const SLACK: f64 = 1.03;
const SLACK_US: f64 = 0.4;

/// Whether a contender is a generation that takes a problem: it may have come to decline since it was measured.
fn takes(contender: &str, problem: &Problem) -> bool {
    generations::find(contender).is_some_and(|found| found.plan(problem, &DeviceLimits::H200).is_ok())
}

/// A figure of each problem of a file; lengths of packed sequences make another problem. If a problem has figures of sustained
/// turns, these decide, and those of short ones are passed over.
fn problems(sittings: &[Record]) -> Vec<Figure> {
    let figures = || sittings.iter().flat_map(|sitting| &sitting.figures);
    let mut found: Vec<Figure> = Vec::new();
    for figure in figures().filter(|figure| figure.problem().is_some()) {
        let sustained = Figure { regime: Regime::Sustained, ..figure.clone() };
        let decides = figure.regime == Regime::Sustained || !figures().any(|other| other.is_beside(&sustained));
        if decides && !found.iter().any(|other| other.is_beside(figure)) {
            found.push(figure.clone());
        }
    }
    found
}

/// Of the generations with a figure of the problem that `of` is of, the choice. A generation that was not measured there yet is
/// passed over: the file says nothing of it.
fn choice(sittings: &[Record], of: &Figure) -> Option<&'static str> {
    let problem = of.problem()?;
    let mut candidates = sdpa::candidates(&problem, &DeviceLimits::H200).map(|found| found.generation().id);
    candidates.find(|id| sittings.iter().any(|sitting| sitting.beside(id, of).is_some()))
}

/// How many times as long as another generation the choice takes: the least of all sittings that have both, if all say that
/// it is slower.
fn slower(sittings: &[Record], of: &Figure, choice: &str, other: &str) -> Option<f64> {
    let mut least: Option<f64> = None;
    for sitting in sittings {
        let (Some(choice), Some(other)) = (sitting.beside(choice, of), sitting.beside(other, of)) else { continue };
        let ratio = choice.median_us / other.median_us;
        if ratio <= SLACK || choice.median_us <= other.median_us + SLACK_US {
            return None;
        }
        least = Some(least.map_or(ratio, |least| least.min(ratio)));
    }
    least
}

/// What is wrong with the choices on a file's problems, and how many problems it has.
fn slow_choices(sittings: &[Record]) -> (usize, Vec<String>) {
    let problems = problems(sittings);
    let slow = problems.iter().filter_map(|of| {
        let (problem, choice) = (of.problem()?, choice(sittings, of)?);
        let figures = sittings.iter().flat_map(|sitting| &sitting.figures).filter(|figure| figure.is_beside(of));
        let others = figures.map(|figure| figure.contender.as_str()).filter(|other| takes(other, &problem));
        let slow = others.filter_map(|other| Some((slower(sittings, of, choice, other)?, other)));
        let (ratio, other) = slow.max_by(|(left, _), (right, _)| left.total_cmp(right))?;
        let problem = of.case().expect("read before");
        Some(format!("{problem}, {} turns: {choice} takes {ratio:.3} times as long as {other}", of.regime))
    });
    let slow = slow.collect();
    (problems.len(), slow)
}

#[test]
fn on_every_recorded_problem_the_choice_is_within_three_percent_of_the_fastest() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results");
    let mut records = 0;
    let mut all_slow = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let Some(file) = Sittings::read(&path).ok().filter(|_| path.extension().is_some_and(|name| name == "json"))
        else {
            continue; // notes, and records of something else
        };
        let device = file.device().unwrap_or_default();
        assert!(device.contains("H200"), "{}: the table was made on an H200", path.display());
        let (problems, slow) = slow_choices(&file.sittings);
        assert!(problems > 0, "{}", path.display());
        all_slow.extend(slow);
        records += 1;
    }
    assert!(all_slow.is_empty(), "{}", all_slow.join("\n"));
    assert!(records >= 4, "acceptance, targets, short, decode: only {records} found");
}

/// A sitting in which another generation than the choice is 4 % and half a microsecond faster on every problem.
fn with_slow_choices(sitting: &Record) -> Record {
    let mut slow = sitting.clone();
    for of in problems(std::slice::from_ref(sitting)) {
        let problem = of.problem().unwrap();
        let id = choice(std::slice::from_ref(sitting), &of).unwrap();
        let us = sitting.beside(id, &of).unwrap().median_us;
        let other = slow
            .figures
            .iter_mut()
            .find(|figure| figure.is_beside(&of) && takes(&figure.contender, &problem) && figure.contender != id);
        other.unwrap().median_us = (us / 1.04).min(us - 0.5);
    }
    slow
}

fn short_sitting() -> Record {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../results/nvidia-h200-short-f16.json");
    let mut sitting = Sittings::read(&path).unwrap().sittings.remove(0);
    // Problems beyond dense attention, too.
    let case: Case = "h2 L42 d64 bf16 causal window=7,all".parse().unwrap();
    sitting.figures.extend(["v2h", "v2i"].map(|id| Figure::of_case(id, &case, &Timing::new(vec![9.0]))));
    sitting
}

/// The test above would notice.
#[test]
fn a_slow_choice_is_noticed() {
    let sitting = short_sitting();
    let slow = with_slow_choices(&sitting);
    let (problems, found) = slow_choices(std::slice::from_ref(&slow));
    assert_eq!(found.len(), problems, "{found:?}");
    // A sitting that says otherwise is enough for doubt, one that lacks the faster one is not.
    let (_, doubted) = slow_choices(&[slow.clone(), sitting]);
    assert_eq!(doubted, [""; 0]);
    let mut without = slow.clone();
    without.figures.retain(|figure| choice(std::slice::from_ref(&slow), figure) == Some(&figure.contender));
    assert_eq!(slow_choices(&[slow, without]), (problems, found));
}

#[test]
fn sustained_turns_decide() {
    let sitting = short_sitting();
    let (slow, mut fine) = (with_slow_choices(&sitting), sitting);
    for figure in &mut fine.figures {
        figure.regime = Regime::Sustained;
    }
    let both = |short: &Record, sustained: &Record| {
        let figures = short.figures.iter().chain(&sustained.figures).cloned().collect();
        [Record { figures, ..short.clone() }]
    };
    assert_eq!(slow_choices(&both(&slow, &fine)).1, [""; 0]);
    let mut long = slow.clone();
    for figure in &mut long.figures {
        figure.regime = Regime::Sustained;
    }
    let (problems, found) = slow_choices(&both(&slow, &long));
    assert_eq!((problems, found.len()), (slow_choices(std::slice::from_ref(&slow)).0, problems));
}

fn random_cases(count: usize) -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    let strategy = cases(Size::Small);
    (0..count).map(|_| strategy.new_tree(&mut runner).expect("no case is rejected").current()).collect()
}

#[test]
fn whatever_any_generation_takes_is_taken() {
    let mut taken = 0;
    for case in random_cases(2000) {
        for limits in [DeviceLimits::A100, DeviceLimits::L4, DeviceLimits::H200] {
            let takes: Vec<&str> = generations::ALL
                .iter()
                .filter(|generation| generation.plan(&case.problem, &limits).is_ok())
                .map(|generation| generation.generation().id)
                .collect();
            let choice = sdpa::fastest(&case.problem, &limits);
            assert_eq!(choice.is_ok(), !takes.is_empty(), "{} is taken by {takes:?}", case.problem);
            taken += usize::from(choice.is_ok());
        }
    }
    assert!(taken > 5000, "{taken} of 6000");
}

#[test]
fn what_it_computes_is_right() {
    isolated(concat!(module_path!(), "::what_it_computes_is_right"), |device| {
        let mut ids: Vec<&str> = Vec::new();
        for case in random_cases(24) {
            match sdpa::fastest(&case.problem, device.limits()) {
                Ok(choice) => ids.push(choice.generation().id),
                Err(_) => continue,
            }
            verify(device, &sdpa::Fastest, &case).map_err(|failure| failure.to_string())?;
        }
        let ran = ids.len();
        ids.sort_unstable();
        ids.dedup();
        if ids.len() < 3 {
            Err(format!("only {ids:?} were chosen"))
        } else {
            Ok(format!("{ran} cases, by {}", ids.join(", ")))
        }
    });
}
