//! The gate that a generation passes, step by step, until the first that fails: what a person, or a program that writes
//! kernels, runs after each edit.
//!
//! | step | asks | without its tool |
//! |---|---|---|
//! | compiles | does every specialisation have PTX made from its source? | NVRTC is needed only if a kernel was edited |
//! | acceptance | right on the gate's shapes? | shortened on the interpreter |
//! | real input | right on a real model's tensors? | |
//! | properties | does everything hold that must hold of attention? | |
//! | races | nothing unordered, out of bounds, uninitialised? | compute-sanitizer where there is a GPU, too |
//! | coverage | do the trials reach all of the kernels and of the plans? | |
//! | mutants | would the harness notice if a barrier or a wait were missing? | |
//! | mutation | would it notice if the kernel computed or ordered otherwise? a sample | |
//! | resources | registers, shared memory and spills within the budget? | not run without ptxas or a GPU |
//! | speed | faster than its parent? | not run without a GPU |
//!
//! The cheapest question of right and wrong comes first, and cost after all of them.

mod advice;
mod coverage;
mod missed;
mod mutation;
mod record;
mod sanitizer;
mod speed;
mod steps;
mod unnoticed;

pub use advice::what_changed;
pub use coverage::coverage;
pub use missed::{Sample, mutants, mutants_of};
pub use mutation::{mutation, mutation_of};
pub use record::{GateRecord, StepRecord, render_line};
pub use sanitizer::sanitizer;
pub use speed::judge_speed;
pub use steps::{
    Explain, Outcome, Progress, Seen, acceptance, compiles, findings, properties, races, real_input, resources,
    speed_shapes,
};

use serde::{Deserialize, Serialize};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It holds.
    Passed,
    /// It does not.
    Failed,
    /// This machine cannot tell.
    NotRun,
    /// A step before it failed.
    NotReached,
}

/// What became of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every step passed.
    Passed,
    /// A step failed.
    Failed,
    /// No step failed, and some could not be run here.
    Incomplete,
}

impl Verdict {
    /// Of steps in their order.
    pub fn of(steps: &[StepRecord]) -> Self {
        let any = |status| steps.iter().any(|step| step.status == status);
        match (any(Status::Failed), any(Status::NotRun) || any(Status::NotReached) || steps.is_empty()) {
            (true, _) => Self::Failed,
            (false, true) => Self::Incomplete,
            (false, false) => Self::Passed,
        }
    }

    /// Of several generations: failed if one failed, incomplete if one is incomplete.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let rank = |verdict: &Self| match verdict {
            Self::Passed => 0,
            Self::Incomplete => 1,
            Self::Failed => 2,
        };
        verdicts.into_iter().max_by_key(rank).unwrap_or(Self::Incomplete)
    }

    /// For scripts: 0 passed, 1 failed, 3 incomplete. 2 is every verb's for bad input and unusable machines.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Passed => 0,
            Self::Failed => 1,
            Self::Incomplete => 3,
        }
    }
}
