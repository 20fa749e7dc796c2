//! The trials that a kernel's mutations are tried on, and what each of them executes.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use sdpa_core::{Attention, Interpreter, Specialisation};
use sdpa_toolchain::KernelTexts;

use super::{MutateError, Mutation};
use crate::check::{Trial, prove_question, prove_question_once, trials};
use crate::first_runs::{FirstRun, FirstRuns};
use crate::verify::{Failure, MATCHES_REFERENCE, Question, Thoroughness};

/// A trial, and what is the same for every mutation: its numbers, the oracle's answer, made when first asked for, and which
/// statements it executes.
pub(super) struct Tried {
    pub(super) trial: Trial,
    kernel: Specialisation,
    question: OnceLock<Question>,
    first: Arc<FirstRun>,
}

/// The trials that take a kernel, each run once as the kernel is unless that is known; the cheapest first, since most mutations are seen in the
/// first that executes them.
pub(super) fn all(
    generation: &'static dyn Attention,
    kernel: &Specialisation,
    texts: &KernelTexts,
    first_runs: &FirstRuns,
) -> Result<Vec<Tried>, MutateError> {
    let takes = |trial: &Trial| trial.kernels(generation).is_ok_and(|kernels| kernels.contains(kernel));
    let trials: Vec<Trial> = trials(generation).into_iter().filter(takes).collect();
    if trials.is_empty() {
        return Err(MutateError::NotRun { kernel: kernel.to_string() });
    }
    let tried = trials.into_par_iter().map(|trial| Tried::new(generation, kernel, trial, texts, first_runs));
    let mut tried: Vec<Tried> = tried.collect::<Result<_, MutateError>>()?;
    tried.sort_by_key(|trial| trial.first.instructions);
    Ok(tried)
}

impl Tried {
    /// Proves the kernel as it is, unless it was proven on this trial before.
    fn new(
        generation: &'static dyn Attention,
        kernel: &Specialisation,
        trial: Trial,
        texts: &KernelTexts,
        first_runs: &FirstRuns,
    ) -> Result<Self, MutateError> {
        let question = OnceLock::new();
        let first = match first_runs.of(&trial) {
            Some(first) => first,
            None => {
                let device = texts.interpreter();
                device.cover(true);
                prove(&device, generation, &trial, &question, false).map_err(MutateError::Wrong)?;
                first_runs.add(&trial, 1, &device.take_reports())
            }
        };
        Ok(Self { trial, kernel: *kernel, question, first })
    }

    /// True if some thread comes to the mutated statement.
    pub(super) fn executes(&self, mutation: &Mutation) -> bool {
        self.first.executes(&self.kernel, mutation.ptx_line)
    }

    /// How many instructions a block of a mutation may take before it counts as one that does not end: as many as all blocks
    /// of the kernel as it is in all runs, so that mutations that only do more work have room for it.
    pub(super) fn longest(&self) -> u64 {
        self.first.instructions.max(10_000)
    }

    /// Verifies once; under two schedules what concerns order.
    pub(super) fn prove(
        &self,
        device: &Interpreter,
        generation: &'static dyn Attention,
        twice: bool,
    ) -> Result<(), Box<Failure>> {
        prove(device, generation, &self.trial, &self.question, twice)
    }
}

/// Verifies a trial, whose question is made when it is first asked.
fn prove(
    device: &Interpreter,
    generation: &'static dyn Attention,
    trial: &Trial,
    question: &OnceLock<Question>,
    twice: bool,
) -> Result<(), Box<Failure>> {
    let case = &trial.case;
    let question = match question.get() {
        Some(question) => question,
        None => {
            let made = Question::new(case.clone(), Thoroughness::for_problem(&case.problem));
            let made = made.map_err(|error| Failure::new(device, generation, case, MATCHES_REFERENCE, error))?;
            // Two may make it at once: both made the same.
            question.get_or_init(|| made)
        }
    };
    match twice {
        true => Ok(prove_question(device, generation, trial, question)?),
        false => Ok(prove_question_once(device, generation, trial, question)?),
    }
}
