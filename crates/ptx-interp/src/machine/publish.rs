//! What accesses and fences publish and learn.

use super::{At, Cluster, Lanes, Machine, Step, is_in_space, places::rebased};
use crate::address_space::SHARED_WINDOW;
use crate::decode::{Access, FenceKind, Ordering, Space};
use crate::registers::each_lane;

/// Key of global memory among the blocks of a cluster.
const GLOBAL: u32 = u32::MAX;

impl Machine<'_> {
    /// A release makes the thread's past visible to whoever acquires from the address.
    pub(crate) fn before_access(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            let (in_shared, address) = place_of(access.space, places[lane]);
            self.publish_before(cluster, at, lane, in_shared, address, access.ordering);
        });
    }

    pub(crate) fn after_access(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            let (in_shared, address) = place_of(access.space, places[lane]);
            self.learn_after(cluster, at, lane, in_shared, address, access.ordering);
        });
    }

    pub(crate) fn publish_before(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        in_shared: bool,
        address: u64,
        ordering: Ordering,
    ) {
        let thread = at.participant(lane);
        let key = key(at, in_shared, address);
        let message = cluster.published.entry(key).or_default();
        if ordering.releases() {
            cluster.order.release(thread, message);
        } else {
            cluster.order.release_relaxed(thread, message);
        }
        if !in_shared {
            let known = self.published.entry(address).or_default();
            for (&other, past) in &cluster.foreign {
                known.entry(other).or_default().join(past);
            }
            let own = known.entry(cluster.index as u32 + 1).or_default();
            own.join(&cluster.order.past(thread, ordering.releases()));
        }
    }

    pub(crate) fn learn_after(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        in_shared: bool,
        address: u64,
        ordering: Ordering,
    ) {
        let thread = at.participant(lane);
        let key = key(at, in_shared, address);
        if let Some(message) = cluster.published.get(&key) {
            if ordering.acquires() {
                cluster.order.acquire(thread, message);
            } else {
                cluster.order.acquire_relaxed(thread, message);
            }
        }
        if !in_shared && let Some(known) = self.published.get(&address) {
            // Blocks learn as a whole: finer than that would miss nothing that a barrier does not repair.
            for (&other, past) in known {
                cluster.foreign.entry(other).or_default().join(past);
            }
        }
    }

    pub(crate) fn fence(&mut self, cluster: &mut Cluster, at: At, kind: FenceKind, mask: u32) -> Step {
        each_lane!(mask, lane, {
            match kind {
                FenceKind::Memory => cluster.order.memory_fence(at.participant(lane)),
                FenceKind::ProxyAsync | FenceKind::MbarrierInit => cluster.order.proxy_fence(at.participant(lane)),
                FenceKind::Other => {}
            }
        });
        Step::Next
    }
}

fn place_of(space: Space, address: u64) -> (bool, u64) {
    match space {
        Space::Shared | Space::SharedCluster => (true, address),
        Space::Generic if is_in_space(Space::Shared, address) => (true, rebased(&[address; 32], SHARED_WINDOW)[0]),
        _ => (false, address),
    }
}

/// The block whose shared memory it is, or global memory; and the address.
fn key(at: At, in_shared: bool, address: u64) -> (u32, u64) {
    if in_shared {
        let (rank, offset) = crate::address_space::split_shared(address as u32, at.rank);
        (rank, u64::from(offset))
    } else {
        (GLOBAL, address)
    }
}
