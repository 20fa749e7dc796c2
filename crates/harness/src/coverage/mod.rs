//! What of a generation's kernels the trials never execute: places of the source, directions of their conditions, and
//! features of plans.
//!
//! A *place* is a line of the source with the calls that it was inlined through. Unrolling and inlining make several copies of
//! it in a kernel; a place is reached if one of them is. A comment `// UNREACHED: reason` in or above a line, or in or above a
//! call that it was inlined through, says why nothing can reach it.

mod place;
mod plans;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use sdpa_core::{Attention, Device as _};
use sdpa_toolchain::KernelTexts;
use serde::Serialize;

use crate::check::Trial;
use crate::execute::{Stage, Surroundings};
use crate::verify::{Failure, MATCHES_REFERENCE};

pub use place::{Event, Missed, Place};
pub use plans::{PlanFeature, plan_features};
pub use render::render;
pub use sdpa_core::Executed;

/// How much of one kernel the trials reach.
#[derive(Clone, Debug, Serialize)]
pub struct KernelCoverage {
    /// `v2b/f16_d64_s2`.
    pub kernel: String,
    /// What the kernel was made of.
    pub fingerprint: String,
    /// Places of the source, and directions of their conditions.
    pub places: usize,
    /// Those that a trial reaches.
    pub reached: usize,
    /// Those that a comment says nothing can reach.
    pub explained: usize,
    /// Loops that turned never, once, twice, and more often, of how many.
    pub loops: [usize; 5],
    /// Those that no trial reaches, with the reason if there is one.
    pub missed: Vec<Missed>,
    /// Those that a trial reaches.
    #[serde(skip)]
    seen: BTreeSet<(Place, Event)>,
}

/// How much of a generation the trials reach.
#[derive(Clone, Debug, Serialize)]
pub struct GenerationCoverage {
    /// Which.
    pub generation: &'static str,
    /// Its kernels.
    pub kernels: Vec<KernelCoverage>,
    /// Different places of all kernels together.
    pub distinct: usize,
    /// Places that no trial reaches in any of the kernels: those that are missed in some and reached in others differ in
    /// their sizes only.
    pub nowhere: Vec<Missed>,
    /// What its plans can have.
    pub plans: Vec<PlanFeature>,
}

impl GenerationCoverage {
    /// Of what the trials executed.
    ///
    /// # Errors
    /// [`sdpa_core::Error`] if a kernel has no PTX.
    pub fn new(
        generation: &'static dyn Attention,
        trials: &[Trial],
        executed: &[Executed],
        texts: &KernelTexts,
    ) -> sdpa_core::Result<Self> {
        let who = generation.generation();
        let kernels = who.specialisations.iter().map(|kernel| {
            let fingerprint = texts.fingerprint(kernel)?;
            let found = executed.iter().find(|executed| executed.kernel == *kernel);
            Ok(place::judge(kernel.to_string(), fingerprint, found.map(|found| &found.coverage)))
        });
        let kernels: Vec<KernelCoverage> = kernels.collect::<sdpa_core::Result<_>>()?;
        let seen: BTreeSet<&(Place, Event)> = kernels.iter().flat_map(|kernel| &kernel.seen).collect();
        let nowhere = nowhere(&kernels, &seen);
        let distinct = seen.len() + nowhere.len();
        Ok(Self { generation: who.id, kernels, distinct, nowhere, plans: plan_features(generation, trials) })
    }

    /// `(reached, explained, all)` of all kernels together.
    pub fn totals(&self) -> (usize, usize, usize) {
        self.kernels.iter().fold((0, 0, 0), |(reached, explained, all), kernel| {
            (reached + kernel.reached, explained + kernel.explained, all + kernel.places)
        })
    }

    /// Places that no trial reaches in any kernel, and no comment explains.
    pub fn unexplained(&self) -> usize {
        self.nowhere.iter().filter(|missed| missed.reason.is_none()).count()
    }

    /// True if trials reach in some kernel all that no comment explains, and all features of plans.
    pub fn is_complete(&self) -> bool {
        self.unexplained() == 0 && self.plans.iter().all(|feature| feature.seen)
    }
}

/// What is missed in every kernel that has it, once; `seen` is what some kernel reaches.
fn nowhere(kernels: &[KernelCoverage], seen: &BTreeSet<&(Place, Event)>) -> Vec<Missed> {
    let mut found: BTreeMap<(Place, Event), Missed> = BTreeMap::new();
    for missed in kernels.iter().flat_map(|kernel| &kernel.missed) {
        let event = (missed.place.clone(), missed.event);
        if !seen.contains(&event) {
            found.entry(event).or_insert_with(|| missed.clone());
        }
    }
    found.into_values().collect()
}

/// Runs each trial once on an interpreter of its own, side by side, and puts together what they executed.
///
/// # Errors
/// [`Failure`] of the first trial that does not run to its end.
pub fn execute(
    generation: &'static dyn Attention,
    trials: &[Trial],
    texts: &KernelTexts,
    progress: impl Fn() + Sync,
) -> Result<Vec<Executed>, Box<Failure>> {
    // Put together at once: what a trial executed holds on to its kernels' programs.
    let all = Mutex::new(Vec::new());
    trials.par_iter().try_for_each(|trial| {
        let executed = execute_one(generation, trial, texts)?;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        executed.into_iter().for_each(|one| one.add_to(&mut all));
        drop(all);
        progress();
        Ok::<(), Box<Failure>>(())
    })?;
    Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What one trial executes, with and without a log-sum-exp.
pub(crate) fn execute_one(
    generation: &'static dyn Attention,
    trial: &Trial,
    texts: &KernelTexts,
) -> Result<Vec<Executed>, Box<Failure>> {
    let device = texts.interpreter();
    device.cover(true);
    device.set_schedule(trial.case.schedule);
    let subject = trial.subject(generation);
    let (problem, data) = (&trial.case.problem, trial.case.data());
    let run = || {
        let stage = Stage::new(&device, problem, &data, Surroundings::Exact)?;
        stage.run(&subject)?;
        if problem.len_q() <= crate::check::FEW_ROWS { stage.run_without_lse(&subject) } else { Ok(()) }
    };
    run().map_err(|error| Box::new(Failure::new(&device, generation, &trial.case, MATCHES_REFERENCE, error)))?;
    Ok(device.take_reports().coverage)
}
