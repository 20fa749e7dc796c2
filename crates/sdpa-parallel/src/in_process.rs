//! Ranks that are threads of one process, over any devices: bytes go through the host's memory.
//!
//! With interpreters it proves the whole of the crate without a GPU. Several ranks may share one GPU, each with its own
//! device; it is not made to be fast.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sdpa_core::{Device, Transfer};

use crate::communicator::{Communicator, Control, Failure, Failures};
use crate::error::{Error, Result};

/// One rank of a group of threads. Its end, by a panic too, is noticed by the others.
pub struct InProcess {
    rank: usize,
    ranks: usize,
    deadline: Duration,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    failures: Failures,
}

#[derive(Default)]
struct State {
    /// What is under way, by sender and receiver.
    mail: HashMap<(usize, usize), VecDeque<Vec<u8>>>,
    /// How often each rank came to the barrier.
    arrivals: Vec<u64>,
    gone: Vec<bool>,
}

impl InProcess {
    /// All ranks of a group, one for each thread. No call waits longer than `deadline`.
    pub fn group(ranks: usize, deadline: Duration) -> Vec<Self> {
        let state = State { arrivals: vec![0; ranks], gone: vec![false; ranks], ..State::default() };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), failures: Failures::default() });
        (0..ranks).map(|rank| Self { rank, ranks, deadline, shared: Arc::clone(&shared) }).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Mail and counters are changed whole.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an answer, which `ask` gives once it is there; `missing` says whose part it still needs.
    fn wait<T>(
        &self,
        doing: &'static str,
        mut ask: impl FnMut(&mut State) -> Option<T>,
        missing: impl Fn(&State) -> Vec<usize>,
    ) -> Result<T> {
        let end = Instant::now() + self.deadline;
        let mut state = self.state();
        loop {
            if let Some(answer) = ask(&mut state) {
                return Ok(answer);
            }
            if let Some(error) = self.shared.failures.of_others(self.rank) {
                return Err(error);
            }
            let silent = missing(&state);
            if let Some(lost) = silent.iter().copied().find(|rank| state.gone[*rank]) {
                self.shared.failures.note(Failure::Lost { rank: lost });
                return Err(Error::RankLost { rank: self.rank, lost });
            }
            let now = Instant::now();
            if now >= end {
                return Err(Error::Silent { rank: self.rank, doing, silent, waited: self.deadline });
            }
            let waited = self.shared.changed.wait_timeout(state, end - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Communicator for InProcess {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn exchange(&self, device: &dyn Device, sends: &[Transfer<'_>], receives: &[Transfer<'_>]) -> Result<()> {
        for send in sends {
            let mut bytes = vec![0; send.bytes];
            device.read(send.buffer, send.offset, &mut bytes)?;
            self.state().mail.entry((self.rank, send.peer)).or_default().push_back(bytes);
            self.shared.changed.notify_all();
        }
        for receive in receives {
            let from = (receive.peer, self.rank);
            let bytes = self.wait(
                "a block of keys or heads",
                |state| state.mail.get_mut(&from)?.pop_front(),
                |_| vec![receive.peer],
            )?;
            if bytes.len() != receive.bytes {
                let what = "bytes of a transfer";
                return Err(Error::Disagreement { what, found: bytes.len(), expected: receive.bytes });
            }
            device.write(receive.buffer, receive.offset, &bytes)?;
        }
        Ok(())
    }

    /// Transfers are over when [`exchange`](Self::exchange) returns, and reading waits for the device.
    fn transfers_follow_compute(&self, _device: &dyn Device) -> Result<()> {
        Ok(())
    }

    /// As there: writing is queued behind what the device does.
    fn compute_follows_transfers(&self, _device: &dyn Device) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self, device: &dyn Device) -> Result<()> {
        Ok(device.synchronize()?)
    }

    fn barrier(&self) -> Result<()> {
        let round = {
            let mut state = self.state();
            state.arrivals[self.rank] += 1;
            state.arrivals[self.rank]
        };
        self.shared.changed.notify_all();
        let late = |state: &State| -> Vec<usize> {
            (0..state.arrivals.len()).filter(|rank| state.arrivals[*rank] < round).collect()
        };
        self.wait("the barrier", |state| late(state).is_empty().then_some(()), late)
    }

    fn fail(&self, reason: &str) {
        self.shared.failures.note(Failure::Failed { rank: self.rank, reason: reason.to_owned() });
        // Taken, so that a rank that has just looked hears of it.
        drop(self.state());
        self.shared.changed.notify_all();
    }
}

impl Control for InProcess {
    fn barrier(&self) -> Result<()> {
        Communicator::barrier(self)
    }

    fn fail(&self, reason: &str) {
        Communicator::fail(self, reason);
    }

    fn failed(&self) -> Option<Error> {
        self.shared.failures.of_others(self.rank)
    }

    /// Threads of one process are stopped together.
    fn unheard(&self) -> Vec<usize> {
        Vec::new()
    }
}

/// Ranks that still wait for this one learn that it is gone; if it ends by a panic, all do.
impl Drop for InProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.failures.note(Failure::Lost { rank: self.rank });
        }
        self.state().gone[self.rank] = true;
        self.shared.changed.notify_all();
    }
}
