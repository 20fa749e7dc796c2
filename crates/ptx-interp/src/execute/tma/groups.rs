//! Bulk groups: what a thread's copies from shared memory are waited for by.

use crate::machine::{At, Cluster, Machine, Step, Wait, groups_of};
use crate::order::Clock;
use crate::registers::each_lane;

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
                let mut message = Clock::new();
                message.mark(groups.participant, stamp);
                cluster.order.acquire(thread, &message);
            }
        });
        Step::Next
    }
}
