//! What can go wrong between ranks, typed, and worded for the person who has to act on it.

use std::time::Duration;

use thiserror::Error;

/// Result of anything that several ranks do.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong. Every rank gets an error if one rank does: the one that failed its own, the others
/// [`Error::RankFailed`], [`Error::RankLost`] or, where nothing was heard, [`Error::Silent`].
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// A device, a kernel, the driver or NCCL itself.
    #[error(transparent)]
    Device(#[from] sdpa_core::Error),
    /// The positions that ranks hold do not make up the sequence.
    #[error("rank {rank} holds positions {start}..{end}: {reason}")]
    Partition {
        /// Whose chunk it is.
        rank: usize,
        /// Its first position.
        start: usize,
        /// One past its last.
        end: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// Two parts of one request disagree about a number.
    #[error("{what}: {found}, but {expected} expected")]
    Disagreement {
        /// What they disagree about.
        what: &'static str,
        /// What was found.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// The way that was chosen does not do this problem.
    #[error("{way} does not take {what}; {advice}")]
    Unsupported {
        /// `ring` or `heads`.
        way: &'static str,
        /// What the problem asks for.
        what: String,
        /// What would.
        advice: &'static str,
    },
    /// Another rank says that it failed.
    #[error("rank {failed} failed, so rank {rank} gave up: {reason}")]
    RankFailed {
        /// Who says this.
        rank: usize,
        /// Who failed.
        failed: usize,
        /// In its words.
        reason: String,
    },
    /// Another rank is gone: its process or its thread ended.
    #[error("rank {lost} is gone, so rank {rank} gave up: look at what rank {lost} printed last")]
    RankLost {
        /// Who says this.
        rank: usize,
        /// Who is gone.
        lost: usize,
    },
    /// Nothing was heard until the deadline.
    #[error(
        "rank {rank} waited {:.1} s for {doing}: {} and did not answer; it may be stuck, or the deadline too short",
        waited.as_secs_f64(),
        suspects(silent)
    )]
    Silent {
        /// Who says this.
        rank: usize,
        /// What it waited for.
        doing: &'static str,
        /// Who should have answered; empty if any of the others.
        silent: Vec<usize>,
        /// For how long.
        waited: Duration,
    },
    /// The ranks could not find one another.
    #[error("{doing}: {reason}")]
    Rendezvous {
        /// What was being done.
        doing: String,
        /// Why it failed.
        reason: String,
    },
}

fn suspects(silent: &[usize]) -> String {
    match silent {
        [] => "another rank was expected".to_owned(),
        [one] => format!("rank {one} was expected"),
        many => {
            let names: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("ranks {} were expected", names.join(", "))
        }
    }
}
