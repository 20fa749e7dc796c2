//! What accesses and fences publish and learn.

use super::{At, Cluster, Lanes, Machine, is_in_space};
use crate::address_space::{SHARED_WINDOW, split_shared};
use crate::decode::{Access, FenceKind, Ordering, Scope, Space};
use crate::order::{FencedMemory, Messages};
use crate::registers::each_lane;

/// Where in memory threads synchronise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum SyncPlace {
    /// A block of the cluster, and the offset in its shared memory.
    Shared(u32, u32),
    Global(u64),
}

fn place_of(at: At, space: Space, address: u64) -> SyncPlace {
    let shared = |address: u64| {
        let (rank, offset) = split_shared(address as u32, at.rank);
        SyncPlace::Shared(rank, offset)
    };
    match space {
        Space::Shared | Space::SharedCluster => shared(address),
        Space::Generic if is_in_space(Space::Shared, address) => shared(address - SHARED_WINDOW),
        _ => SyncPlace::Global(address),
    }
}

impl Machine<'_> {
    /// A strong store publishes what its thread knows, in place of what earlier writes published.
    pub(crate) fn after_store(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            self.wrote(cluster, at, lane, access.space, places[lane], access.ordering, access.scope, true);
        });
    }

    /// A strong load learns what the writes of its place have published.
    pub(crate) fn after_load(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            self.has_read(cluster, at, lane, access.space, places[lane], access.ordering, access.scope);
        });
    }

    pub(crate) fn wrote(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        space: Space,
        address: u64,
        ordering: Ordering,
        scope: Scope,
        replaces: bool,
    ) {
        let mut local = None;
        let messages = match place_of(at, space, address) {
            SyncPlace::Shared(rank, offset) => {
                let known = cluster.published.remove(&(rank, offset)).unwrap_or_default();
                &mut local.insert(((rank, offset), known)).1
            }
            SyncPlace::Global(address) => self.published.entry(address).or_default(),
        };
        if replaces {
            messages.clear();
        }
        cluster.order.publish(at.participant(lane), ordering.releases(), scope, messages);
        if let Some((key, messages)) = local {
            cluster.published.insert(key, messages);
        }
        if let Some(causality) = &mut cluster.causality {
            let messages = match place_of(at, space, address) {
                SyncPlace::Shared(rank, offset) => cluster.causes.entry((rank, offset)).or_default(),
                SyncPlace::Global(address) => self.causes.entry(address).or_default(),
            };
            if replaces {
                messages.clear();
            }
            causality.publish(at.participant(lane), messages);
        }
    }

    pub(crate) fn has_read(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        space: Space,
        address: u64,
        ordering: Ordering,
        scope: Scope,
    ) {
        let messages: Option<&Messages> = match place_of(at, space, address) {
            SyncPlace::Shared(rank, offset) => cluster.published.get(&(rank, offset)),
            SyncPlace::Global(address) => self.published.get(&address),
        };
        if let Some(messages) = messages {
            cluster.order.learn(at.participant(lane), ordering.acquires(), scope, messages);
        }
        if let Some(causality) = &mut cluster.causality {
            let messages: Option<&Messages> = match place_of(at, space, address) {
                SyncPlace::Shared(rank, offset) => cluster.causes.get(&(rank, offset)),
                SyncPlace::Global(address) => self.causes.get(&address),
            };
            if let Some(messages) = messages {
                causality.learn(at.participant(lane), messages);
            }
        }
    }

    pub(crate) fn fence(&mut self, cluster: &mut Cluster, at: At, kind: FenceKind, mask: u32) {
        each_lane!(mask, lane, {
            let thread = at.participant(lane);
            match kind {
                FenceKind::Memory(scope) => cluster.order.memory_fence(thread, scope),
                FenceKind::ProxyAsync { shared, global } => {
                    if shared {
                        cluster.order.proxy_fence(thread, FencedMemory::Shared);
                    }
                    if global {
                        cluster.order.proxy_fence(thread, FencedMemory::Global);
                    }
                }
                FenceKind::MbarrierInit => {
                    cluster.order.memory_fence(thread, Scope::Cluster);
                    cluster.order.proxy_fence(thread, FencedMemory::Shared);
                }
                FenceKind::Other => {}
            }
        });
    }
}
