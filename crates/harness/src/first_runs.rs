//! What trials execute of the kernels as they are, kept so that nobody runs them again to know.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sdpa_core::{Executed, Reports, Specialisation};

use crate::check::Trial;

/// The first runs of trials: of one generation, and of one text of each of its kernels. Nothing was wrong in any of them.
#[derive(Debug, Default)]
pub struct FirstRuns(Mutex<HashMap<String, Arc<FirstRun>>>);

/// One trial of kernels in which nothing was wrong.
#[derive(Debug)]
pub(crate) struct FirstRun {
    /// Warp instructions of all blocks.
    pub(crate) instructions: u64,
    /// One bit per line of each kernel's PTX that was executed.
    lines: Vec<(Specialisation, Vec<u64>)>,
}

impl FirstRuns {
    /// Adds a trial that was run so many times, and what the interpreter reports of all of them.
    pub(crate) fn add(&self, trial: &Trial, runs: u64, reports: &Reports) -> Arc<FirstRun> {
        let bits = |executed: &Executed| {
            let mut bits: Vec<u64> = Vec::new();
            for line in executed.coverage.executed_lines() {
                let word = line as usize / 64;
                bits.resize(bits.len().max(word + 1), 0);
                bits[word] |= 1 << (line % 64);
            }
            (executed.kernel, bits)
        };
        let first = Arc::new(FirstRun {
            instructions: reports.counters.total_warp_instructions() / runs.max(1),
            lines: reports.coverage.iter().map(bits).collect(),
        });
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(trial.to_string(), Arc::clone(&first));
        first
    }

    /// The first run of this trial, if there was one.
    pub(crate) fn of(&self, trial: &Trial) -> Option<Arc<FirstRun>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&trial.to_string()).cloned()
    }

    /// How many trials were run.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// True if none was.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FirstRun {
    /// True if some thread executed this line of a kernel's PTX.
    pub(crate) fn executes(&self, kernel: &Specialisation, line: usize) -> bool {
        let bits = self.lines.iter().find(|(other, _)| other == kernel).map(|(_, bits)| bits);
        bits.and_then(|bits| bits.get(line / 64)).is_some_and(|word| word >> (line % 64) & 1 == 1)
    }
}
