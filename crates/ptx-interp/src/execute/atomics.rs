//! Atomics and reductions.

use crate::address_space::SHARED_WINDOW;
use crate::alu::atomic::combine;
use crate::decode::{Atomic, AtomicKind, Manner, Space};
use crate::machine::{At, Cluster, Machine, Step, Stopped, Warp, addresses, is_in_space};
use crate::registers::each_lane;

impl Machine<'_> {
    pub(crate) fn atomic(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        atomic: &Atomic,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let manner = Manner::Strong(atomic.scope);
        let places = addresses(&warp.registers, atomic.address);
        let element = if atomic.packed { 4 } else { atomic.scalar.bytes() };
        let total = usize::from(element) * atomic.values.len();
        self.counters.atomics += u64::from(mask.count_ones());
        each_lane!(mask, lane, {
            let generic_shared = atomic.space == Space::Generic && is_in_space(Space::Shared, places[lane]);
            let in_shared = generic_shared || matches!(atomic.space, Space::Shared | Space::SharedCluster);
            let address = if generic_shared { places[lane] - SHARED_WINDOW } else { places[lane] };
            let space = if generic_shared { Space::SharedCluster } else { atomic.space };
            let mut data = [0; 32];
            let data = &mut data[..total];
            let shared_place = if in_shared {
                let place = self.shared_place(cluster, at, lane, address, total as u32, space)?;
                let block = &mut cluster.blocks[place.rank as usize];
                let who = at.accessor(lane, manner);
                let conflict = block.shared.note_read(&cluster.order, who, place.offset, total as u32);
                data.copy_from_slice(&block.shared.bytes[place.offset as usize..place.offset as usize + total]);
                if let Some(conflict) = conflict {
                    self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, total as u32);
                }
                Some(place)
            } else {
                self.read_global(cluster, at, lane, address, data, manner)?;
                None
            };
            let replacement = atomic.replacement.map_or(0, |register| warp.registers.lane(register, lane));
            let mut first_old = 0;
            let mut writes = true;
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
                // A compare-and-swap that fails writes nothing, and publishes nothing.
                writes &= atomic.kind != AtomicKind::CompareExchange || old == value;
                slot.copy_from_slice(&new.to_le_bytes()[..slot.len()]);
                if index == 0 {
                    first_old = old;
                }
            }
            match shared_place {
                _ if !writes => {}
                Some(place) => self.write_shared(cluster, at, lane, place, data, manner),
                None => self.write_global(cluster, at, lane, address, data, manner)?,
            }
            if let Some(to) = atomic.to {
                warp.registers.set_lane(to, lane, first_old);
            }
            self.has_read(cluster, at, lane, space, address, atomic.ordering, atomic.scope);
            if writes {
                self.wrote(cluster, at, lane, space, address, atomic.ordering, atomic.scope, false);
            }
        });
        Ok(Step::Yield)
    }
}
