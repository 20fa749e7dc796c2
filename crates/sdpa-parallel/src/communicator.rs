//! What ranks need of one another: one trait, and what all implementations share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sdpa_core::{Device, Transfer};

use crate::error::{Error, Result};

/// One rank's way to the others. Its transfers are queued beside the device's work, and ordered with it by
/// [`transfers_follow_compute`](Self::transfers_follow_compute) and [`compute_follows_transfers`](Self::compute_follows_transfers).
///
/// No call waits without an end. What waits longer than [`deadline`](Self::deadline), or learns that another rank has
/// failed, returns an error, and the communicator is of no more use.
pub trait Communicator: Send {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn ranks(&self) -> usize;

    /// How long a call waits for other ranks.
    fn deadline(&self) -> Duration;

    /// Queues sends and receives that belong together. Between two ranks they are matched in their order, and have the same
    /// lengths on both sides. The buffers stay as they are until they are waited for.
    ///
    /// # Errors
    /// [`Error::Silent`], [`Error::RankFailed`], [`Error::RankLost`], or the device's.
    fn exchange(&self, device: &dyn Device, sends: &[Transfer<'_>], receives: &[Transfer<'_>]) -> Result<()>;

    /// Transfers queued from now on wait for the device's work queued by now.
    ///
    /// # Errors
    /// The device's.
    fn transfers_follow_compute(&self, device: &dyn Device) -> Result<()>;

    /// The device's work queued from now on waits for the transfers queued by now.
    ///
    /// # Errors
    /// The device's.
    fn compute_follows_transfers(&self, device: &dyn Device) -> Result<()>;

    /// Waits for the device's work and all transfers, at most until the deadline.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    fn synchronize(&self, device: &dyn Device) -> Result<()>;

    /// Waits until every rank has come here, at most until the deadline.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange).
    fn barrier(&self) -> Result<()>;

    /// Tells the other ranks that this one failed, so that they need not wait for the deadline.
    fn fail(&self, reason: &str);

    /// Every rank sends a part to every rank, itself included: the `i`-th send goes to rank `i`, and the `i`-th receive
    /// comes from there; each is as many pieces as both sides agree on.
    ///
    /// # Errors
    /// As [`exchange`](Self::exchange), and [`Error::Disagreement`] if there is not one part for each rank.
    fn all_to_all(
        &self,
        device: &dyn Device,
        sends: &[Vec<Transfer<'_>>],
        receives: &[Vec<Transfer<'_>>],
    ) -> Result<()> {
        for found in [sends.len(), receives.len()] {
            if found != self.ranks() {
                let what = "parts of an all-to-all";
                return Err(Error::Disagreement { what, found, expected: self.ranks() });
            }
        }
        self.exchange(device, &sends.concat(), &receives.concat())
    }
}

/// How ranks meet and hear of failures, beside what carries their blocks.
pub(crate) trait Control: Send {
    fn barrier(&self) -> Result<()>;
    fn fail(&self, reason: &str);
    /// What another rank has failed with, if one has.
    fn failed(&self) -> Option<Error>;
    /// Other ranks that were not heard of for some time, as a stopped process is not.
    fn unheard(&self) -> Vec<usize>;
}

/// What is known of the ranks' failures, shared by all that can know: the first one stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures(Arc<Mutex<Option<Failure>>>);

#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// It said so itself.
    Failed { rank: usize, reason: String },
    /// It is gone.
    Lost { rank: usize },
}

impl Failures {
    /// Notes a failure, if it is the first. True if it was.
    pub(crate) fn note(&self, failure: Failure) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = known.is_none();
        if is_first {
            *known = Some(failure);
        }
        is_first
    }

    pub(crate) fn known(&self) -> Option<Failure> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The failure of another rank as `rank` reports it.
    pub(crate) fn of_others(&self, rank: usize) -> Option<Error> {
        match self.known()? {
            Failure::Failed { rank: failed, reason } if failed != rank => {
                Some(Error::RankFailed { rank, failed, reason })
            }
            Failure::Lost { rank: lost } if lost != rank => Some(Error::RankLost { rank, lost }),
            _ => None,
        }
    }
}
