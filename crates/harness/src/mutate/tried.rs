//! The trials that a kernel's mutations are tried on, and what each of them executes.

use std::sync::OnceLock;

use rayon::prelude::*;
use sdpa_core::{Attention, Interpreter, Specialisation};
use sdpa_toolchain::KernelTexts;

use super::{MutateError, Mutation};
use crate::check::{Trial, prove_question, prove_question_once, trials};
use crate::verify::{Failure, MATCHES_REFERENCE, Question, Thoroughness};

/// A trial, and what is the same for every mutation: its numbers, the oracle's answer, made when first asked for, and which
/// statements it executes.
pub(super) struct Tried {
    pub(super) trial: Trial,
    question: OnceLock<Question>,
    /// Warp instructions of all blocks.
    instructions: u64,
    /// One bit a line of the PTX.
    lines: Vec<u64>,
}

/// The trials that take a kernel, each run once as the kernel is; the cheapest first, since most mutations are seen in the
/// first that executes them.
pub(super) fn all(
    generation: &'static dyn Attention,
    kernel: &Specialisation,
    texts: &KernelTexts,
) -> Result<Vec<Tried>, MutateError> {
    let takes = |trial: &Trial| trial.kernels(generation).is_ok_and(|kernels| kernels.contains(kernel));
    let trials: Vec<Trial> = trials(generation).into_iter().filter(takes).collect();
    if trials.is_empty() {
        return Err(MutateError::NotRun { kernel: kernel.to_string() });
    }
    let tried = trials.into_par_iter().map(|trial| Tried::new(generation, kernel, trial, texts));
    let mut tried: Vec<Tried> = tried.collect::<Result<_, MutateError>>()?;
    tried.sort_by_key(|trial| trial.instructions);
    Ok(tried)
}

impl Tried {
    /// Proves the kernel as it is.
    fn new(
        generation: &'static dyn Attention,
        kernel: &Specialisation,
        trial: Trial,
        texts: &KernelTexts,
    ) -> Result<Self, MutateError> {
        let mut tried = Self { trial, question: OnceLock::new(), instructions: 0, lines: Vec::new() };
        let device = texts.interpreter();
        device.cover(true);
        tried.prove(&device, generation, false).map_err(MutateError::Wrong)?;
        let reports = device.take_reports();
        tried.instructions = reports.counters.total_warp_instructions();
        for executed in reports.coverage.iter().filter(|executed| executed.kernel == *kernel) {
            for line in executed.coverage.executed_lines() {
                let word = line as usize / 64;
                tried.lines.resize(tried.lines.len().max(word + 1), 0);
                tried.lines[word] |= 1 << (line % 64);
            }
        }
        Ok(tried)
    }

    /// True if some thread comes to the mutated statement.
    pub(super) fn executes(&self, mutation: &Mutation) -> bool {
        let line = mutation.ptx_line;
        self.lines.get(line / 64).is_some_and(|word| word >> (line % 64) & 1 == 1)
    }

    /// How many instructions a block of a mutation may take before it counts as one that does not end: as many as all blocks
    /// of the kernel as it is in all runs, so that mutations that only do more work have room for it.
    pub(super) fn longest(&self) -> u64 {
        self.instructions.max(10_000)
    }

    /// Verifies once; under two schedules what concerns order.
    pub(super) fn prove(
        &self,
        device: &Interpreter,
        generation: &'static dyn Attention,
        twice: bool,
    ) -> Result<(), Box<Failure>> {
        let case = &self.trial.case;
        let question = match self.question.get() {
            Some(question) => question,
            None => {
                let made = Question::new(case.clone(), Thoroughness::for_problem(&case.problem));
                let made = made.map_err(|error| Failure::new(device, generation, case, MATCHES_REFERENCE, error))?;
                // Two may make it at once: both made the same.
                self.question.get_or_init(|| made)
            }
        };
        match twice {
            true => Ok(prove_question(device, generation, &self.trial, question)?),
            false => Ok(prove_question_once(device, generation, &self.trial, question)?),
        }
    }
}
