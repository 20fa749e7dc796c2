//! Mutates a generation's own PTX, one statement at a time, and the harness must notice: what orders or guards is taken out,
//! what computes computes otherwise, and what orders promises less.

mod alone;
mod equivalent;
mod evaluate;
mod find;
mod kind;
mod record;
mod render;
mod sample;
mod semantics;
mod statement;
mod tried;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::prelude::*;
use sdpa_core::{Attention, Device as _, Error, Interpreter, Specialisation};
use sdpa_toolchain::KernelTexts;
use serde::Serialize;

use crate::check::trials;
use crate::first_runs::FirstRuns;
use crate::verify::{Failure, Reason};

pub use alone::mutate_alone;
pub use find::{Mutation, mutations};
pub use kind::MutationKind;
pub use record::MutationRecord;
pub use render::render;
pub use sample::Choice;
pub use statement::Origin;

use tried::Tried;

/// Which mutations to try, and how long.
#[derive(Clone, Debug)]
pub struct Options {
    /// Kinds of mutations.
    pub kinds: Vec<MutationKind>,
    /// Which of them.
    pub choice: Choice,
    /// Begins no further mutation after this time.
    pub time_limit: Option<Duration>,
    /// Where ptxas is: what survives is the same kernel if it assembles to the same machine code.
    pub ptxas: Option<PathBuf>,
    /// Only mutations that change the same statements of the source as these; all where `None`.
    pub like: Option<Vec<Mutation>>,
}

impl Default for Options {
    fn default() -> Self {
        Self { kinds: MutationKind::all(), choice: Choice::All, time_limit: None, ptxas: None, like: None }
    }
}

/// Which mutations of one kernel were noticed.
#[derive(Clone, Debug, Serialize)]
pub struct Score {
    /// `v2b/f16_d64_s2`.
    pub kernel: String,
    /// What the kernel was made of.
    pub fingerprint: String,
    /// Mutations that there are, tried or not.
    pub possible: usize,
    /// Each mutation that was tried.
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
    /// Why it is no other kernel, or none at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub equivalent: Option<String>,
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
        self.mutants.iter().filter(|mutant| mutant.killed.is_some()).count()
    }

    /// Mutations that are other kernels: those that could be noticed.
    pub fn total(&self) -> usize {
        self.mutants.len() - self.equivalent()
    }

    /// Mutations that change nothing.
    pub fn equivalent(&self) -> usize {
        self.mutants.iter().filter(|mutant| mutant.equivalent.is_some()).count()
    }

    /// Those that were not noticed: each is a missing test, or something that the kernel does not need.
    pub fn survivors(&self) -> impl Iterator<Item = &Mutation> {
        let survived = |mutant: &&Mutant| mutant.killed.is_none() && mutant.equivalent.is_none();
        self.mutants.iter().filter(survived).map(|mutant| &mutant.mutation)
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

/// The kernels that mutations are drawn from unless others are asked for: a generation's first, and those that plans launch
/// together with it.
pub fn representative(generation: &'static dyn Attention) -> Vec<Specialisation> {
    let who = generation.generation();
    let Some(first) = who.specialisations.first() else { return Vec::new() };
    let together = trials(generation).into_iter().filter_map(|trial| trial.kernels(generation).ok());
    let together: Vec<Specialisation> = together.filter(|kernels| kernels.contains(first)).flatten().collect();
    who.specialisations.iter().filter(|kernel| *kernel == first || together.contains(kernel)).copied().collect()
}

/// Tries mutations of one of a generation's kernels on the trials that execute the statement, side by side and each until
/// the first trial that notices. The kernels are those of `texts`; of trials in `first_runs` it is known what they execute,
/// the others are run and added. `progress` hears how many mutations there are, then of each that is done.
///
/// # Errors
/// [`MutateError`].
pub fn mutate(
    generation: &'static dyn Attention,
    kernel: &Specialisation,
    options: &Options,
    texts: &KernelTexts,
    first_runs: &FirstRuns,
    progress: impl Fn(Step) + Sync,
) -> Result<Score, MutateError> {
    let (ptx, fingerprint) = (texts.of(kernel)?, texts.fingerprint(kernel)?);
    let mut mutations = mutations(ptx);
    mutations.retain(|mutation| options.kinds.contains(&mutation.kind));
    if let Some(like) = &options.like {
        mutations.retain(|mutation| like.iter().any(|other| mutation.is_like(other, kernel.source)));
    }
    let all = mutations.clone();
    let mutations = options.choice.of(mutations);
    progress(Step::Mutations(mutations.len()));

    let started = Instant::now();
    let tried = tried::all(generation, kernel, texts, first_runs)?;
    let late = || options.time_limit.is_some_and(|limit| started.elapsed() > limit);
    // Taken in their order, one after the other, so that what a time limit leaves out are the last ones.
    let (next, workers) = (AtomicUsize::new(0), rayon::current_num_threads());
    let work = |_| {
        let mut mutants = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(mutation) = mutations.get(index).filter(|_| !late()) else { return Ok(mutants) };
            let subject = Subject { generation, kernel, texts, ptx, trials: &tried, ptxas: options.ptxas.as_deref() };
            let mut mutant = subject.judge(mutation)?;
            // Someone who makes this change to the source makes it to all copies: one that is noticed suffices.
            let copies = all.iter().filter(|other| mutation.is_copy_of(other) && *other != mutation);
            for copy in copies.take(MOST_COPIES) {
                if mutant.killed.is_some() || mutant.equivalent.is_some() {
                    break;
                }
                mutant.killed = subject.judge(copy)?.killed;
            }
            mutants.push((index, mutant));
            progress(Step::Done);
        }
    };
    let found = (0..workers).into_par_iter().map(work).collect::<Result<Vec<_>, MutateError>>()?;
    let mut found: Vec<(usize, Mutant)> = found.into_iter().flatten().collect();
    found.sort_by_key(|(_, mutant)| mutant.mutation.ptx_line);
    let mutants = found.into_iter().map(|(_, mutant)| mutant).collect();
    Ok(Score { kernel: kernel.to_string(), fingerprint, possible: all.len(), mutants })
}

/// Copies of a statement that are tried besides the one that was drawn.
const MOST_COPIES: usize = 4;

/// What [`mutate`] tells of its progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There are so many mutations.
    Mutations(usize),
    /// One more is done.
    Done,
}

/// What is mutated, and what it is tried on.
struct Subject<'s> {
    generation: &'static dyn Attention,
    kernel: &'s Specialisation,
    texts: &'s KernelTexts,
    ptx: &'s str,
    trials: &'s [Tried],
    ptxas: Option<&'s Path>,
}

impl Subject<'_> {
    /// Tries one mutation.
    fn judge(&self, mutation: &Mutation) -> Result<Mutant, MutateError> {
        let &Self { generation, kernel, texts, ptx, trials, ptxas } = self;
        let mutant = |killed, equivalent: Option<&str>| {
            Ok(Mutant { mutation: mutation.clone(), killed, equivalent: equivalent.map(str::to_owned) })
        };
        if equivalent::is_dead(mutation, ptx) {
            return mutant(None, Some("nothing reads what the statement writes"));
        }
        let mutated = mutation.apply(ptx);
        let device = texts.interpreter();
        device.substitute(kernel, &mutated)?;
        match kill(&device, generation, mutation, trials) {
            // What a compiler would refuse is no kernel that anything could notice.
            Err(MutateError::Device(Error::Load { .. })) if MutationKind::CHANGES.contains(&mutation.kind) => {
                return mutant(None, Some("no valid PTX"));
            }
            Err(error) => return Err(error),
            Ok(Some(kill)) => return mutant(Some(kill), None),
            Ok(None) => {}
        }
        let executed = trials.iter().any(|trial| trial.executes(mutation));
        if let Some(reason) = equivalent::listed(mutation, executed) {
            return mutant(None, Some(reason));
        }
        if evaluate::is_same_for_all(mutation, ptx, kernel.threads) {
            return mutant(None, Some("the same value for every thread and head dimension"));
        }
        if mutation.kind == MutationKind::NonCoherent && executed {
            return mutant(None, Some("the kernel writes nothing that the load reads"));
        }
        let same = ptxas.is_some_and(|ptxas| equivalent::assembles_alike(ptxas, kernel, ptx, &mutated));
        mutant(None, same.then_some("ptxas makes the same machine code of it"))
    }
}

/// What notices the kernel that the device now runs in place of the generation's.
fn kill(
    device: &Interpreter,
    generation: &'static dyn Attention,
    mutation: &Mutation,
    trials: &[Tried],
) -> Result<Option<Kill>, MutateError> {
    for trial in trials.iter().filter(|trial| trial.executes(mutation)) {
        device.limit_instructions(trial.longest());
        let Err(failure) = trial.prove(device, generation, mutation.kind.orders()) else { continue };
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
