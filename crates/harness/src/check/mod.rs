//! Runs a generation on the interpreter over a fixed set of shapes and schedules, under every check there is.

mod render;
mod trials;

use std::sync::{Mutex, PoisonError};

use ptx_interp::FindingKind;
use rayon::prelude::*;
use sdpa_core::{Attention, Device, Finding, Reports};
use sdpa_ref::Judged;
use sdpa_toolchain::KernelTexts;

use crate::case::Case;
use crate::coverage::Executed;
use crate::execute::{Stage, Surroundings, execute_into_unwritten};
use crate::first_runs::FirstRuns;
use crate::regime::Data;
use crate::verify::{Failure, MATCHES_REFERENCE, Question, verify};

pub use render::{SHOWN, render};
pub(crate) use trials::beyond;
pub use trials::{Resized, Trial, trials};

/// What a check found.
#[derive(Debug)]
pub struct Checked {
    /// Which generation or mutant.
    pub generation: &'static str,
    /// Cases run, each schedule counted.
    pub runs: usize,
    /// Rows of them that were compared with the oracle.
    pub judged: Judged,
    /// Different faults, in the order of the trials.
    pub faults: Vec<Fault>,
    /// What the runs executed of each kernel.
    pub executed: Vec<Executed>,
    /// What each trial executed; of those in which nothing was wrong.
    pub first_runs: FirstRuns,
}

/// Something wrong, as it first showed.
#[derive(Debug)]
pub struct Fault {
    /// What.
    pub what: What,
    /// Where it showed first, with the schedule that showed it.
    pub trial: Trial,
    /// Later runs that showed the same.
    pub again: usize,
}

/// The two ways to be wrong.
#[derive(Debug)]
pub enum What {
    /// The interpreter saw the kernel do what it must not.
    Finding(Box<Finding>),
    /// The interpreter saw nothing, and the result is wrong.
    Wrong(Box<Failure>),
}

/// Runs each trial under `seeds` schedules, on one interpreter per trial, side by side. The kernels are those of `texts`;
/// `progress` hears of each trial that is done.
///
/// # Errors
/// The first [`Failure`] that is no verdict: a kernel that does not load, or a trial that the generation declines.
pub fn check(
    generation: &'static dyn Attention,
    trials: &[Trial],
    seeds: u64,
    texts: &KernelTexts,
    progress: impl Fn() + Sync,
) -> Result<Checked, Box<Failure>> {
    // Put together at once: what a trial executed holds on to its kernels' programs.
    let executed = Mutex::new(Vec::new());
    let first_runs = FirstRuns::default();
    let outcomes = trials.par_iter().map(|trial| {
        let (found, judged, covered) = try_trial(generation, trial, seeds, texts, &first_runs)?;
        let mut executed = executed.lock().unwrap_or_else(PoisonError::into_inner);
        covered.into_iter().for_each(|one| one.add_to(&mut executed));
        drop(executed);
        progress();
        Ok((found, judged))
    });
    let outcomes: Vec<(Vec<Fault>, Judged)> = outcomes.collect::<Result<_, Box<Failure>>>()?;
    let judged = outcomes.iter().map(|(_, judged)| *judged).sum();
    let executed = executed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut faults: Vec<Fault> = Vec::new();
    for fault in outcomes.into_iter().flat_map(|(faults, _)| faults) {
        match faults.iter_mut().find(|known| known.is_like(&fault)) {
            Some(known) => known.again += 1 + fault.again,
            None => faults.push(fault),
        }
    }
    let runs = trials.len() * usize::try_from(seeds).unwrap_or(usize::MAX);
    Ok(Checked { generation: generation.generation().id, runs, judged, faults, executed, first_runs })
}

/// What is found if a trial's output was never written before: a kernel that reads what its last call left there. `None` if nothing
/// is found.
///
/// # Errors
/// A [`Failure`] that is no verdict: a kernel that does not load, or a trial that the generation declines.
pub fn reads_output(
    generation: &'static dyn Attention,
    trial: &Trial,
    texts: &KernelTexts,
) -> Result<Option<Checked>, Box<Failure>> {
    let device = texts.interpreter();
    let case = &trial.case;
    device.set_schedule(case.schedule);
    let subject = trial.subject(generation);
    let ran = execute_into_unwritten(&device, &subject, &case.problem, &case.data());
    let is_read = |finding: &Finding| {
        let written_by_it = ["`output`", "`lse`"].iter().any(|name| finding.message.contains(name));
        finding.kind == FindingKind::UninitializedRead && written_by_it
    };
    let mut findings = device.take_reports().findings;
    let others = findings.len();
    findings.retain(is_read);
    if findings.is_empty() && others > 0 {
        // What else is found is for the checks of a whole run.
        return Ok(None);
    }
    if findings.is_empty() {
        let failed = |error| Box::new(Failure::new(&device, generation, case, MATCHES_REFERENCE, error));
        return ran.map(|()| None).map_err(failed);
    }
    let fault = |finding| Fault { what: What::Finding(Box::new(finding)), trial: trial.clone(), again: 0 };
    Ok(Some(Checked {
        generation: generation.generation().id,
        runs: 1,
        judged: Judged::default(),
        faults: findings.into_iter().map(fault).collect(),
        executed: Vec::new(),
        first_runs: FirstRuns::default(),
    }))
}

fn try_trial(
    generation: &'static dyn Attention,
    trial: &Trial,
    seeds: u64,
    texts: &KernelTexts,
    first_runs: &FirstRuns,
) -> Result<(Vec<Fault>, Judged, Vec<Executed>), Box<Failure>> {
    let device = texts.interpreter();
    device.cover(true);
    let (mut faults, mut judged, mut executed) = (Vec::new(), Judged::default(), Vec::new());
    let key = trial;
    for seed in 0..seeds {
        // Verifying runs a case under its schedule and under the next.
        let schedule = trial.case.schedule.wrapping_add(2 * seed);
        let trial = Trial { case: Case { schedule, ..trial.case.clone() }, ..trial.clone() };
        let verdict = prove(&device, generation, &trial);
        let reports = device.take_reports();
        if seed == 0 && verdict.is_ok() && reports.findings.is_empty() {
            // Verifying runs a case twice.
            first_runs.add(key, 2, &reports);
        }
        let Reports { findings, coverage: covered, .. } = reports;
        covered.into_iter().for_each(|one| one.add_to(&mut executed));
        match verdict {
            Ok(rows) => judged += rows,
            Err(failure) if !failure.is_verdict() => return Err(Box::new(failure)),
            Err(failure) => {
                if findings.is_empty() {
                    faults.push(Fault { what: What::Wrong(Box::new(failure)), trial: trial.clone(), again: 0 });
                }
            }
        }
        let found = findings.into_iter().map(|finding| What::Finding(Box::new(finding)));
        faults.extend(found.map(|what| Fault { what, trial: trial.clone(), again: 0 }));
    }
    Ok((faults, judged, executed))
}

/// Verifies a trial: of how many rows. Where it has few rows, also runs it for a caller who does not want the log-sum-exp.
///
/// # Errors
/// [`Failure`], as [`verify`] has it.
pub fn prove(device: &dyn Device, generation: &dyn Attention, trial: &Trial) -> Result<Judged, Failure> {
    let measured = verify(device, &trial.subject(generation), &trial.case)?;
    prove_without_lse(device, generation, trial, &trial.case.data())?;
    Ok(measured.judged)
}

/// [`prove`], without drawing and computing anew what many kernels are asked.
///
/// # Errors
/// As there.
pub fn prove_question(
    device: &dyn Device,
    generation: &dyn Attention,
    trial: &Trial,
    question: &Question,
) -> Result<(), Failure> {
    question.ask(device, &trial.subject(generation))?;
    prove_without_lse(device, generation, trial, question.data())
}

/// [`prove_question`] under one schedule, with nothing around the tensors.
///
/// # Errors
/// As there.
pub fn prove_question_once(
    device: &dyn Device,
    generation: &dyn Attention,
    trial: &Trial,
    question: &Question,
) -> Result<(), Failure> {
    question.ask_once(device, &trial.subject(generation))?;
    prove_without_lse(device, generation, trial, question.data())
}

/// A whole warp's rows, and no more: whether a pointer is looked at does not depend on the tile.
pub(crate) const FEW_ROWS: usize = 40;

/// Only what the device finds counts: the values are those that [`verify`] has seen.
fn prove_without_lse(
    device: &dyn Device,
    generation: &dyn Attention,
    trial: &Trial,
    data: &Data,
) -> Result<(), Failure> {
    let case = &trial.case;
    if case.problem.len_q() > FEW_ROWS {
        return Ok(());
    }
    device.set_schedule(case.schedule);
    let run =
        || Stage::new(device, &case.problem, data, Surroundings::Exact)?.run_without_lse(&trial.subject(generation));
    run().map_err(|error| Failure::new(device, generation, case, MATCHES_REFERENCE, error))
}

impl Fault {
    /// The same kind of fault at the same lines.
    fn is_like(&self, other: &Self) -> bool {
        match (&self.what, &other.what) {
            (What::Finding(left), What::Finding(right)) => {
                let lines = |finding: &Finding| {
                    [Some(&finding.place), finding.other.as_ref()].map(|place| {
                        place.map(|place| (place.source.clone(), place.source.is_none().then_some(place.ptx_line)))
                    })
                };
                left.kind == right.kind && lines(left) == lines(right)
            }
            (What::Wrong(_), What::Wrong(_)) => true,
            _ => false,
        }
    }
}
