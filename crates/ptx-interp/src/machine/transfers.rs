//! Bulk copies under way, and the groups that a thread waits for them by.

use std::collections::VecDeque;

use super::{Cluster, SharedPlace};
use crate::decode::{AtomicKind, Scalar};
use crate::order::Participant;

/// A piece of a box: where it lies in shared memory, and the part of it that lies inside the tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub shared: u32,
    /// The buffer of global memory.
    pub buffer: usize,
    /// Offset in the buffer of the first byte that exists.
    pub global: usize,
    pub start: u8,
    pub length: u8,
}

/// A block that gets a copy, and its mbarrier by block and offset.
pub(crate) type Target = (u32, (u32, u32));

#[derive(Debug)]
pub(crate) enum Action {
    /// Global to shared memory of some blocks.
    Load { pieces: Vec<Piece>, fill: [u8; 16], targets: Vec<Target>, bytes: u32 },
    /// Bytes known when it was issued.
    Deliver { place: SharedPlace, data: Vec<u8>, mbarrier: (u32, u32) },
    /// Shared memory to shared memory of another block.
    Forward { from: SharedPlace, to: SharedPlace, bytes: u32, mbarrier: (u32, u32) },
    /// Shared to global memory.
    Store { rank: u32, pieces: Vec<Piece>, reduction: Option<(AtomicKind, Scalar)> },
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub id: u64,
    pub pc: u32,
    pub action: Action,
}

impl Transfer {
    pub(crate) fn pc(&self) -> u32 {
        self.pc
    }

    /// Whether it will write a block's shared memory.
    pub(crate) fn writes_to(&self, rank: u32) -> bool {
        match &self.action {
            Action::Load { targets, .. } => targets.iter().any(|(target, _)| *target == rank),
            Action::Deliver { place, .. } => place.rank == rank,
            Action::Forward { to, .. } => to.rank == rank,
            Action::Store { .. } => false,
        }
    }
}

/// Bulk groups of one thread.
#[derive(Debug)]
pub(crate) struct BulkGroups {
    /// Stands for the copies' reads of shared memory.
    pub participant: Participant,
    pub open: Vec<u64>,
    pub committed: VecDeque<(Vec<u64>, u32)>,
    pub next: u64,
}

impl BulkGroups {
    /// Whether there are copies from shared memory that no wait has covered.
    pub(crate) fn has_pending(&self) -> bool {
        !self.open.is_empty() || self.committed.iter().any(|(group, _)| !group.is_empty())
    }
}

pub(crate) fn groups_of(cluster: &mut Cluster, thread: Participant) -> &mut BulkGroups {
    let order = &mut cluster.order;
    cluster.bulk_groups.entry(thread).or_insert_with(|| BulkGroups {
        participant: order.new_participant(),
        open: Vec::new(),
        committed: VecDeque::new(),
        next: 0,
    })
}
