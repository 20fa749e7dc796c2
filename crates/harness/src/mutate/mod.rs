//! Mutates a generation's own PTX: whatever orders or guards goes, one statement at a time, and the harness must notice.

mod find;
mod record;
mod render;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use rayon::prelude::*;
use sdpa_core::{Attention, Device as _, Error, Interpreter, Specialisation};
use sdpa_toolchain::KernelTexts;
use serde::Serialize;

use crate::check::{Trial, prove_question, trials};
use crate::verify::{Failure, MATCHES_REFERENCE, Question, Reason, Thoroughness};

pub use find::{Mutation, MutationKind, Origin, mutations};
pub use record::MutationRecord;
pub use render::render;

/// Which mutations to try.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kinds of mutations.
    pub kinds: Vec<MutationKind>,
    /// At most so many, spread evenly over the text; all where `None`.
    pub limit: Option<usize>,
    /// Only mutations that take out the same statements of the source as these; all where `None`.
    pub like: Option<Vec<Mutation>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { kinds: MutationKind::ALL.to_vec(), limit: None, like: None }
    }
}

/// Which mutations of one kernel were noticed.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// `v2b/f16_d64_s2`.
    pub kernel: String,
    /// What the kernel was made of.
    pub fingerprint: String,
    /// Each mutation, in the order of the PTX.
    pub mutants: Vec<Mutant>,
}

/// One mutation and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Mutant {
    /// What was changed.
    #[serde(flatten)]
    pub mutation: Mutation,
    /// What noticed it; `None` where nothing did.
    pub killed: Option<Kill>,
}

/// How a mutation was noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Kill {
    /// The kind of finding, or of wrong result.
    pub by: String,
    /// The case in which it showed.
    pub case: String,
}

impl Score {
    /// Mutations that were noticed.
    pub fn killed(&self) -> usize {
        self.mutants.len() - self.survivors().count()
    }

    /// Those that were not: each is a missing test, or something that the kernel does not need.
    pub fn survivors(&self) -> impl Iterator<Item = &Mutation> {
        self.mutants.iter().filter(|mutant| mutant.killed.is_none()).map(|mutant| &mutant.mutation)
    }

    /// How many were killed by what.
    pub fn killers(&self) -> BTreeMap<&str, usize> {
        let mut killers = BTreeMap::new();
        for kill in self.mutants.iter().filter_map(|mutant| mutant.killed.as_ref()) {
            *killers.entry(kill.by.as_str()).or_default() += 1;
        }
        killers
    }
}

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum MutateError {
    /// The kernel as it is, or a mutation of it, could not be run.
    #[error(transparent)]
    Device(#[from] Error),
    /// The kernel is wrong as it is, so that it says nothing when a mutation of it is.
    #[error("the kernel is wrong before anything is changed: {0}")]
    Wrong(Box<Failure>),
    /// No trial takes the kernel.
    #[error("no case of `sdpa check` runs {kernel}")]
    NotRun {
        /// The kernel.
        kernel: String,
    },
}

/// Tries every mutation of one of a generation's kernels on the trials that take it, side by side and each until the
/// first trial that notices. The kernels are those of `texts`; `progress` hears how many there are, then of each that is done.
///
/// # Errors
/// [`MutateError`].
pub fn mutate(
    generation: &'static dyn Attention,
    kernel: &Specialisation,
    options: &Options,
    texts: &KernelTexts,
    progress: impl Fn(Step) + Sync,
) -> Result<Score, MutateError> {
    let takes = |trial: &Trial| trial.kernels(generation).is_ok_and(|kernels| kernels.contains(kernel));
    let mut trials: Vec<Trial> = trials(generation).into_iter().filter(takes).collect();
    // Most mutations are seen in the first trial, so the cheap ones come first.
    trials.sort_by(|left, right| left.case.problem.flops().total_cmp(&right.case.problem.flops()));
    if trials.is_empty() {
        return Err(MutateError::NotRun { kernel: kernel.to_string() });
    }
    let (ptx, fingerprint) = (texts.of(kernel)?, texts.fingerprint(kernel)?);
    let mut mutations = mutations(ptx);
    mutations.retain(|mutation| options.kinds.contains(&mutation.kind));
    if let Some(like) = &options.like {
        mutations.retain(|mutation| like.iter().any(|other| mutation.is_like(other, kernel.source)));
    }
    if let Some(limit) = options.limit.filter(|limit| *limit < mutations.len()) {
        mutations = (0..limit).map(|index| mutations[index * mutations.len() / limit].clone()).collect();
    }
    progress(Step::Mutations(mutations.len()));

    let trials: Vec<Asked> = trials.into_iter().map(Asked::new).collect();
    let most = longest(generation, &trials, texts)?;
    let mutants = mutations.into_par_iter().map(|mutation| {
        let device = texts.interpreter();
        device.limit_instructions(most);
        device.substitute(kernel, &mutation.apply(ptx))?;
        let killed = kill(&device, generation, &trials)?;
        progress(Step::Done);
        Ok(Mutant { mutation, killed })
    });
    Ok(Score { kernel: kernel.to_string(), fingerprint, mutants: mutants.collect::<Result<_, MutateError>>()? })
}

/// A trial, and what is the same for every mutation: its numbers and the oracle's answer, made when first asked for.
struct Asked {
    trial: Trial,
    question: OnceLock<Question>,
}

impl Asked {
    fn new(trial: Trial) -> Self {
        Self { trial, question: OnceLock::new() }
    }

    fn prove(&self, device: &Interpreter, generation: &'static dyn Attention) -> Result<(), Box<Failure>> {
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
        Ok(prove_question(device, generation, &self.trial, question)?)
    }
}

/// What [`mutate`] tells of its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There are so many mutations.
    Mutations(usize),
    /// One more is done.
    Done,
}

/// Proves the kernel as it is, and says how many instructions a block of a mutation may take before it counts as one
/// that does not end.
fn longest(generation: &'static dyn Attention, trials: &[Asked], texts: &KernelTexts) -> Result<u64, MutateError> {
    let taken = trials.par_iter().map(|trial| {
        let device = texts.interpreter();
        trial.prove(&device, generation).map_err(MutateError::Wrong)?;
        Ok(device.take_reports().counters.total_warp_instructions())
    });
    let taken: Vec<u64> = taken.collect::<Result<_, MutateError>>()?;
    // Both runs of all blocks, where the limit is one block's: mutations that only do more work have room for it.
    Ok(taken.into_iter().max().unwrap_or(0).max(10_000))
}

/// What notices the kernel that the device now runs in place of the generation's.
fn kill(
    device: &Interpreter,
    generation: &'static dyn Attention,
    trials: &[Asked],
) -> Result<Option<Kill>, MutateError> {
    for trial in trials {
        let Err(failure) = trial.prove(device, generation) else { continue };
        let judged = failure.is_verdict();
        let by = match *failure.reason {
            Reason::Device(error) if !judged => return Err(error.into()),
            Reason::Device(_) => match device.take_reports().findings.first() {
                Some(finding) => finding.kind.name(),
                None => "a block that does not end",
            },
            // No verdict is no kill.
            Reason::Unjudged { .. } => continue,
            Reason::Memory(_) => "memory around the result",
            Reason::Differs { .. } => "two runs that differ",
            Reason::Mismatch(_) | Reason::Row { .. } | Reason::Reference(_) => "a wrong result",
        };
        return Ok(Some(Kill { by: by.to_owned(), case: trial.trial.to_string() }));
    }
    Ok(None)
}
