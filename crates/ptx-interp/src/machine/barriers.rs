//! State of block barriers and of the cluster's.

use crate::order::{Clock, Participant};

/// One of a block's sixteen barriers.
#[derive(Debug, Default)]
pub(crate) struct NamedBarrier {
    /// Threads that complete it; 0 for all that live.
    pub expected: u32,
    /// How often it has completed.
    pub generation: u64,
    /// Threads counted so far: whole warps where the barrier is aligned.
    pub counted: u32,
    pub participants: Vec<Participant>,
    /// Those that wait, and not only arrive.
    pub waiting: Vec<Participant>,
    /// Predicates of a reduction: how many held, of how many.
    pub held: u32,
    /// The last completed reduction.
    pub result: (u32, u32),
}

impl NamedBarrier {
    pub(crate) fn arrived(&self) -> u32 {
        self.counted
    }
}

/// A cluster's barrier.
#[derive(Debug, Default)]
pub(crate) struct ClusterBarrier {
    pub generation: u64,
    pub arrived: u32,
    pub message: Clock,
    pub completed: Clock,
    /// What must have happened before the arrivals, and before those of the barrier that completed last.
    pub causes: Clock,
    pub completed_causes: Clock,
}
