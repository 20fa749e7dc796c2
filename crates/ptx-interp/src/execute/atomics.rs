//! Atomics, reductions, and what acquires and releases publish.

use super::places::{addresses, is_in_space, rebased};
use super::{At, Cluster, Lanes, Machine, Step, Stopped};
use crate::address_space::SHARED_WINDOW;
use crate::alu::float::{bf16_to_f32, f16_to_f32, max_f32, min_f32, narrow_f64};
use crate::decode::{Access, Atomic, AtomicKind, FenceKind, HalfFormat, Ordering, Scalar, Space};
use crate::registers::each_lane;
use crate::warp::Warp;

/// Key of global memory among the blocks of a cluster.
const GLOBAL: u32 = u32::MAX;

/// The new value of one element.
pub(crate) fn combine(kind: AtomicKind, scalar: Scalar, old: u64, value: u64, replacement: u64) -> u64 {
    match kind {
        AtomicKind::Exchange => value,
        AtomicKind::CompareExchange => {
            if old == value {
                replacement
            } else {
                old
            }
        }
        AtomicKind::And => old & value,
        AtomicKind::Or => old | value,
        AtomicKind::Xor => old ^ value,
        AtomicKind::Increment => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        AtomicKind::Add | AtomicKind::Min | AtomicKind::Max => arithmetic(kind, scalar, old, value),
    }
}

fn arithmetic(kind: AtomicKind, scalar: Scalar, old: u64, value: u64) -> u64 {
    match scalar {
        Scalar::F32 => {
            let (a, b) = (f32::from_bits(old as u32), f32::from_bits(value as u32));
            u64::from(match kind {
                AtomicKind::Add => crate::alu::float::canonical(a + b),
                AtomicKind::Min => min_f32(a, b),
                _ => max_f32(a, b),
            })
        }
        Scalar::F64 => {
            let (a, b) = (f64::from_bits(old), f64::from_bits(value));
            match kind {
                AtomicKind::Add => a + b,
                AtomicKind::Min => a.min(b),
                _ => a.max(b),
            }
            .to_bits()
        }
        Scalar::F16 | Scalar::BF16 => {
            let (format, widen): (_, fn(u16) -> f32) = match scalar {
                Scalar::F16 => (HalfFormat::F16, f16_to_f32),
                _ => (HalfFormat::BF16, bf16_to_f32),
            };
            let (a, b) = (widen(old as u16), widen(value as u16));
            let result = match kind {
                AtomicKind::Add => f64::from(a) + f64::from(b),
                AtomicKind::Min => f64::from(f32::from_bits(min_f32(a, b))),
                _ => f64::from(f32::from_bits(max_f32(a, b))),
            };
            u64::from(narrow_f64(result, format))
        }
        Scalar::Signed(bytes) => {
            let unused = 64 - u32::from(bytes) * 8;
            let (a, b) = ((old << unused) as i64 >> unused, (value << unused) as i64 >> unused);
            match kind {
                AtomicKind::Add => a.wrapping_add(b) as u64,
                AtomicKind::Min => a.min(b) as u64,
                _ => a.max(b) as u64,
            }
        }
        Scalar::Unsigned(_) => match kind {
            AtomicKind::Add => old.wrapping_add(value),
            AtomicKind::Min => old.min(value),
            _ => old.max(value),
        },
    }
}

impl Machine<'_> {
    pub(super) fn atomic(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        atomic: &Atomic,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, atomic.address);
        let element = if atomic.packed { 4 } else { atomic.scalar.bytes() };
        let total = usize::from(element) * atomic.values.len();
        self.counters.atomics += u64::from(mask.count_ones());
        each_lane!(mask, lane, {
            let generic_shared = atomic.space == Space::Generic && is_in_space(Space::Shared, places[lane]);
            let in_shared = generic_shared || matches!(atomic.space, Space::Shared | Space::SharedCluster);
            let address = if generic_shared { places[lane] - SHARED_WINDOW } else { places[lane] };
            let space = if generic_shared { Space::SharedCluster } else { atomic.space };
            self.publish_before(cluster, at, lane, in_shared, address, atomic.ordering);
            let mut data = [0; 32];
            let data = &mut data[..total];
            let shared_place = if in_shared {
                let place = self.shared_place(cluster, at, lane, address, total as u32, space)?;
                let block = &mut cluster.blocks[place.rank as usize];
                let who = at.accessor(lane, true);
                let conflict = block.shared.note_read(&cluster.order, who, place.offset, total as u32);
                data.copy_from_slice(&block.shared.bytes[place.offset as usize..place.offset as usize + total]);
                if let Some(conflict) = conflict {
                    self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, total as u32);
                }
                Some(place)
            } else {
                self.read_global(cluster, at, lane, address, data, true)?;
                None
            };
            let replacement = atomic.replacement.map_or(0, |register| warp.registers.lane(register, lane));
            let mut first_old = 0;
            for (index, register) in atomic.values.iter().enumerate() {
                let slot = &mut data[index * usize::from(element)..(index + 1) * usize::from(element)];
                let mut bits = [0; 8];
                bits[..slot.len()].copy_from_slice(slot);
                let old = u64::from_le_bytes(bits);
                let mut value = warp.registers.lane(*register, lane);
                let mut wanted = replacement;
                if element < 8 {
                    value &= (1 << (element * 8)) - 1;
                    wanted &= (1 << (element * 8)) - 1;
                }
                let new = if atomic.packed {
                    let low = combine(atomic.kind, atomic.scalar, old & 0xffff, value & 0xffff, 0) & 0xffff;
                    let high = combine(atomic.kind, atomic.scalar, old >> 16, value >> 16, 0) & 0xffff;
                    high << 16 | low
                } else {
                    combine(atomic.kind, atomic.scalar, old, value, wanted)
                };
                slot.copy_from_slice(&new.to_le_bytes()[..slot.len()]);
                if index == 0 {
                    first_old = old;
                }
            }
            match shared_place {
                Some(place) => self.write_shared(cluster, at, lane, place, data, true),
                None => self.write_global(cluster, at, lane, address, data, true)?,
            }
            if let Some(to) = atomic.to {
                warp.registers.set_lane(to, lane, first_old);
            }
            self.learn_after(cluster, at, lane, in_shared, address, atomic.ordering);
        });
        Ok(Step::Yield)
    }

    /// A release makes the thread's past visible to whoever acquires from the address.
    pub(super) fn before_access(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            let (in_shared, address) = place_of(access.space, places[lane]);
            self.publish_before(cluster, at, lane, in_shared, address, access.ordering);
        });
    }

    pub(super) fn after_access(&mut self, cluster: &mut Cluster, at: At, access: &Access, places: &Lanes, mask: u32) {
        if access.ordering == Ordering::Weak {
            return;
        }
        each_lane!(mask, lane, {
            let (in_shared, address) = place_of(access.space, places[lane]);
            self.learn_after(cluster, at, lane, in_shared, address, access.ordering);
        });
    }

    fn publish_before(
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

    fn learn_after(
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

    pub(super) fn fence(&mut self, cluster: &mut Cluster, at: At, kind: FenceKind, mask: u32) -> Step {
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
