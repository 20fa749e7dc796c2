//! mbarriers: their phases, and the order that a completed phase carries.

use super::{At, Cluster, Machine, SharedPlace, Stopped, Wait, Warp, is_in_space};
use crate::address_space::SHARED_WINDOW;
use crate::decode::{Manner, Scope, Space};
use crate::diagnostics::FindingKind;
use crate::order::{Conflict, Messages, Origin, Participant};

const MBARRIER_BYTES: u32 = 8;
/// Bits of a count of arrivals.
pub(crate) const COUNT_BITS: u32 = 20;
/// Arrivals that the hardware can count.
pub(crate) const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;

#[derive(Debug)]
pub(crate) struct MbarrierState {
    /// Arrivals of each phase.
    pub count: u32,
    pub pending: u32,
    /// Bytes announced and not yet copied; negative while copies are ahead of their announcement.
    pub bytes: i64,
    pub phase: u64,
    /// Order carried by the arrivals of this phase.
    pub gathering: Messages,
    /// Order carried by the phase that completed last: a wait gets this and nothing newer.
    pub completed: Messages,
    /// Stands for the copies that complete here.
    pub participant: Participant,
}

impl MbarrierState {
    /// What `mbarrier.arrive` hands out: the phase, and the arrivals that it still waits for.
    pub(crate) fn token(&self) -> u64 {
        self.phase << COUNT_BITS | u64::from(self.pending)
    }

    /// Starts the next phase if this one is complete.
    pub(crate) fn advance(&mut self) -> bool {
        if self.pending != 0 || self.bytes != 0 {
            return false;
        }
        self.phase += 1;
        self.pending = self.count;
        self.completed = std::mem::take(&mut self.gathering);
        true
    }
}

fn wake_waiters(cluster: &mut Cluster) {
    for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps) {
        warp.wake(|wait| wait == Wait::Mbarrier);
    }
}

impl Machine<'_> {
    /// The mbarrier's place, aligned and inside shared memory.
    pub(crate) fn mbarrier_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        space: Space,
    ) -> Result<SharedPlace, Stopped> {
        if space == Space::Generic {
            if !is_in_space(Space::Shared, address) {
                let message = || format!("an mbarrier at {address:#x}, which is not in shared memory");
                return Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, at.participant(lane), message));
            }
            return self.shared_place(cluster, at, lane, address - SHARED_WINDOW, 8, Space::SharedCluster);
        }
        self.shared_place(cluster, at, lane, address, 8, space)
    }

    /// Refuses mbarriers that are not initialised, and reports initialisations that nothing orders before this use.
    pub(crate) fn check_mbarrier(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        place: SharedPlace,
    ) -> Result<(), Stopped> {
        let by = at.participant(lane);
        if !cluster.mbarriers.contains_key(&(place.rank, place.offset)) {
            let message = || format!("the mbarrier at {:#x} has not been initialised", place.offset);
            return Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, by, message));
        }
        let conflict = cluster.blocks[place.rank as usize].shared.visible_to(&cluster.order, by, place.offset);
        if let Some(Conflict::ReadAfterWrite { by: writer, pc, .. }) = conflict {
            self.report(cluster, FindingKind::SharedRace, at.pc, by, Some((pc, writer)), || {
                format!("uses the mbarrier at {:#x}, and nothing orders that after its initialisation", place.offset)
            });
        }
        Ok(())
    }

    /// Makes an mbarrier; one that is there already must have been invalidated.
    pub(crate) fn begin_mbarrier(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        place: SharedPlace,
        count: u32,
    ) {
        let key = (place.rank, place.offset);
        if cluster.mbarriers.remove(&key).is_some() {
            self.report(cluster, FindingKind::BadMbarrier, at.pc, at.participant(lane), None, || {
                format!("initialises the mbarrier at {:#x} again without mbarrier.inval in between", place.offset)
            });
        }
        self.write_shared(cluster, at, lane, place, &[0; 8], Manner::Weak);
        let participant = cluster.order.new_participant();
        let (gathering, completed) = (Messages::default(), Messages::default());
        let state = MbarrierState { count, pending: count, bytes: 0, phase: 0, gathering, completed, participant };
        cluster.mbarriers.insert(key, state);
        let span = &mut cluster.mbarrier_span;
        let start = if span.end == 0 { place.offset } else { span.start.min(place.offset) };
        *span = start..span.end.max(place.offset + MBARRIER_BYTES);
    }

    /// Reports a write over an mbarrier that is in use.
    #[inline(always)]
    pub(crate) fn check_overwriting(&mut self, cluster: &Cluster, at: At, lane: usize, place: SharedPlace, bytes: u32) {
        let end = place.offset + bytes;
        if place.offset < cluster.mbarrier_span.end && end > cluster.mbarrier_span.start {
            self.find_overwritten(cluster, at, lane, place, end);
        }
    }

    #[cold]
    fn find_overwritten(&mut self, cluster: &Cluster, at: At, lane: usize, place: SharedPlace, end: u32) {
        let mut offsets = (place.offset / MBARRIER_BYTES * MBARRIER_BYTES..end).step_by(MBARRIER_BYTES as usize);
        if let Some(offset) = offsets.find(|offset| cluster.mbarriers.contains_key(&(place.rank, *offset))) {
            self.report(cluster, FindingKind::BadMbarrier, at.pc, at.participant(lane), None, || {
                format!("writes over the mbarrier at {offset:#x}, which has not been invalidated")
            });
        }
    }

    /// Only the block that an mbarrier lies in may do this.
    pub(crate) fn check_own_mbarrier(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        place: SharedPlace,
        does: &str,
    ) -> Result<(), Stopped> {
        if place.rank == at.rank {
            return Ok(());
        }
        let message =
            || format!("{does} an mbarrier of block {} of the cluster, which only that block may", place.rank);
        Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, at.participant(lane), message))
    }

    /// `expect_tx`
    pub(crate) fn announce_bytes(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        key: (u32, u32),
        bytes: u32,
    ) -> Result<(), Stopped> {
        self.change_bytes(cluster, key, i64::from(bytes));
        let awaited = cluster.mbarriers.get(&key).map_or(0, |state| state.bytes);
        if i64::from(bytes).max(awaited) <= i64::from(MAX_COUNT) {
            return Ok(());
        }
        let message =
            || format!("announces {bytes} bytes, and {awaited} are awaited then: an mbarrier counts up to {MAX_COUNT}");
        Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, at.participant(lane), message))
    }

    pub(crate) fn change_bytes(&mut self, cluster: &mut Cluster, key: (u32, u32), change: i64) {
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            state.bytes += change;
        }
    }

    pub(crate) fn complete_phase(&mut self, cluster: &mut Cluster, key: (u32, u32), current: &mut Warp) {
        if cluster.mbarriers.get_mut(&key).is_some_and(MbarrierState::advance) {
            wake_waiters(cluster);
            current.wake(|wait| wait == Wait::Mbarrier);
        }
    }

    /// Bytes that a copy has delivered; the copy's writes carry the mbarrier's participant at this stamp.
    pub(crate) fn deliver_bytes(&mut self, cluster: &mut Cluster, key: (u32, u32), bytes: u32) {
        let stamp = cluster.order.tick();
        let origin = Origin { cluster: cluster.index as u32, rank: key.0 };
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            let participant = state.participant;
            state.gathering.of(origin, Scope::Device).mark(participant, stamp);
            state.bytes -= i64::from(bytes);
            if state.advance() {
                wake_waiters(cluster);
            }
        }
    }
}
