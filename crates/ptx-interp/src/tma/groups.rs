//! Bulk groups: what a thread's copies from shared memory are waited for by.

use std::collections::VecDeque;

use crate::execute::{At, Cluster, Machine, Step};
use crate::happens_before::{Clock, Participant};
use crate::registers::each_lane;
use crate::warp::Wait;

/// Bulk groups of one thread.
#[derive(Debug)]
pub(crate) struct BulkGroups {
    /// Stands for the copies' reads of shared memory.
    pub(super) participant: Participant,
    pub(super) open: Vec<u64>,
    committed: VecDeque<(Vec<u64>, u32)>,
    pub(super) next: u64,
}

impl BulkGroups {
    /// Whether there are copies from shared memory that no wait has covered.
    pub(crate) fn has_pending(&self) -> bool {
        !self.open.is_empty() || self.committed.iter().any(|(group, _)| !group.is_empty())
    }
}

impl Machine<'_> {
    pub(crate) fn bulk_commit(&mut self, cluster: &mut Cluster, at: At, mask: u32) -> Step {
        each_lane!(mask, lane, {
            let stamp = cluster.order.tick();
            let groups = groups_of(cluster, at.participant(lane));
            let group = std::mem::take(&mut groups.open);
            groups.committed.push_back((group, stamp));
        });
        Step::Next
    }

    pub(crate) fn bulk_wait(&mut self, cluster: &mut Cluster, at: At, keep: u32, _read_only: bool, mask: u32) -> Step {
        let mut waits = false;
        each_lane!(mask, lane, {
            let thread = at.participant(lane);
            let Some(groups) = cluster.bulk_groups.get(&thread) else { continue };
            let due = groups.committed.len().saturating_sub(keep as usize);
            let busy =
                groups.committed.iter().take(due).any(|(group, _)| {
                    group.iter().any(|id| cluster.transfers.iter().any(|transfer| transfer.id == *id))
                });
            waits |= busy;
        });
        if waits {
            return Step::Retry(Wait::Bulk);
        }
        each_lane!(mask, lane, {
            let thread = at.participant(lane);
            let Some(groups) = cluster.bulk_groups.get_mut(&thread) else { continue };
            let due = groups.committed.len().saturating_sub(keep as usize);
            let newest = groups.committed.drain(..due).map(|(_, stamp)| stamp).max();
            if let Some(stamp) = newest {
                let mut message: Clock = vec![0; groups.participant as usize + 1];
                message[groups.participant as usize] = stamp;
                cluster.order.acquire(thread, &message);
            }
        });
        Step::Next
    }
}

pub(super) fn groups_of(cluster: &mut Cluster, thread: Participant) -> &mut BulkGroups {
    let order = &mut cluster.order;
    cluster.bulk_groups.entry(thread).or_insert_with(|| BulkGroups {
        participant: order.new_participant(),
        open: Vec::new(),
        committed: VecDeque::new(),
        next: 0,
    })
}
