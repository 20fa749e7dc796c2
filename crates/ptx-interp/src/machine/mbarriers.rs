//! mbarriers: their phases, and the order that a completed phase carries.

use super::{At, Cluster, Machine, SharedPlace, Stopped, Wait, Warp, is_in_space};
use crate::address_space::SHARED_WINDOW;
use crate::decode::{Manner, Scope, Space};
use crate::diagnostics::{FindingKind, Missing};
use crate::order::{Conflict, Messages, Origin, Participant, Stamp};
use crate::registers::LANES;

const MBARRIER_BYTES: u32 = 8;
/// Bits of a count of arrivals.
pub(crate) const COUNT_BITS: u32 = 20;
/// Arrivals that the hardware can count.
pub(crate) const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;

/// A thread that has seen the phase before this one complete.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    /// 0 for none.
    stamp: Stamp,
    pc: u32,
}

/// Who has looked at an mbarrier, and what must have happened before its phases end.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The newest look of each thread of the block since the last phase ended; empty if there was none.
    looks: Vec<Look>,
    /// What must have happened before this phase can end.
    causes: Messages,
    /// What must have happened before the phase that ended last.
    completed: Messages,
    /// The newest arrival.
    arrival: Option<(u32, Participant)>,
    /// By thread of the block: one more than the phase after the last one that it has seen complete; 0 where it has not looked,
    /// empty if none has.
    next: Vec<u64>,
}

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
    pub watch: Watch,
}

impl MbarrierState {
    /// What `mbarrier.arrive` hands out: the phase, and the arrivals that it still waits for.
    pub(crate) fn token(&self) -> u64 {
        self.phase << COUNT_BITS | u64::from(self.pending)
    }

    /// How many phases have completed since the one of this parity that a thread waits for, if other lanes of its warp have seen
    /// that one.
    pub(crate) fn missed_by(&self, thread: u32, parity: Option<u32>) -> u64 {
        let first = thread as usize / LANES * LANES;
        let Some(warp) = self.watch.next.get(first..first + LANES) else { return 0 };
        let own = warp[thread as usize % LANES];
        if warp.iter().all(|other| *other <= own) {
            return 0;
        }
        // A thread's first wait may be for the phase before a fresh mbarrier's first one, or for that one.
        let skips = parity.is_some_and(|parity| (own + 1) & 1 != u64::from(parity));
        (self.phase - own).saturating_sub(u64::from(skips))
    }

    fn is_complete(&self) -> bool {
        self.pending == 0 && self.bytes == 0
    }

    /// Starts the next phase.
    fn advance(&mut self) {
        self.phase += 1;
        self.pending = self.count;
        self.completed = std::mem::take(&mut self.gathering);
        self.watch.completed = std::mem::take(&mut self.watch.causes);
        self.watch.looks.clear();
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
        let watch = Watch::default();
        let state =
            MbarrierState { count, pending: count, bytes: 0, phase: 0, gathering, completed, participant, watch };
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
        if self.begin_phase(cluster, key) {
            wake_waiters(cluster);
            current.wake(|wait| wait == Wait::Mbarrier);
        }
    }

    /// Starts an mbarrier's next phase if this one is complete.
    fn begin_phase(&mut self, cluster: &mut Cluster, key: (u32, u32)) -> bool {
        if !cluster.mbarriers.get(&key).is_some_and(MbarrierState::is_complete) {
            return false;
        }
        if cluster.causality.is_some() {
            self.check_looks(cluster, key);
        }
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            state.advance();
        }
        true
    }

    /// A thread waits for a phase that is complete.
    pub(crate) fn note_look(&mut self, cluster: &mut Cluster, at: At, lane: usize, key: (u32, u32)) {
        let threads = self.context.warps as usize * LANES;
        let Some(state) = cluster.mbarriers.get_mut(&key) else { return };
        let index = at.participant(lane) as usize % threads;
        state.watch.next.resize(threads, 0);
        state.watch.next[index] = state.phase + 1;
        let Some(causality) = &mut cluster.causality else { return };
        let thread = at.participant(lane);
        causality.learn(thread, &state.watch.completed);
        state.watch.looks.resize(threads, Look::default());
        state.watch.looks[index] = Look { stamp: causality.look(thread), pc: at.pc };
    }

    /// A thread looks for a phase behind which so many others have ended.
    #[cold]
    pub(crate) fn report_missed(&mut self, cluster: &Cluster, at: At, lane: usize, key: (u32, u32), since: u64) {
        let mistake = (FindingKind::MissedPhase, Missing::Meeting);
        self.report(cluster, mistake, at.pc, at.participant(lane), None, || {
            format!(
                "looks late at the mbarrier at {:#x}: after the phase that it waits for {since} more have completed while it had \
                 not looked, and a parity tells only the last one from those before",
                key.1
            )
        });
    }

    /// A thread arrives, or starts a copy that will: the phase cannot end before it has.
    pub(crate) fn note_cause(&mut self, cluster: &mut Cluster, at: At, lane: usize, key: (u32, u32), arrives: bool) {
        let (Some(causality), Some(state)) = (&mut cluster.causality, cluster.mbarriers.get_mut(&key)) else { return };
        let thread = at.participant(lane);
        if arrives {
            state.watch.arrival = Some((at.pc, thread));
            causality.arrive(thread, at.pc, &mut state.watch.causes);
        } else {
            causality.publish(thread, &mut state.watch.causes);
        }
    }

    /// A phase ends: those that have seen the one before must have looked by now, whatever the schedule. From now on they would
    /// find a parity that is not the one they wait for.
    fn check_looks(&mut self, cluster: &mut Cluster, key: (u32, u32)) {
        let (rank, offset) = key;
        let threads = self.context.warps * LANES as u32;
        let (Some(causality), Some(state)) = (&cluster.causality, cluster.mbarriers.get(&key)) else { return };
        let mut missed = Vec::new();
        for (index, look) in state.watch.looks.iter().enumerate().filter(|(_, look)| look.stamp > 0) {
            let thread = rank * threads + index as u32;
            if state.watch.causes.know(thread, look.stamp) {
                continue;
            }
            let own = causality.first_arrival(thread, look.stamp, &state.watch.causes);
            missed.push((thread, *look, own.map(|arrival| (arrival.pc, arrival.thread))));
        }
        let (phase, last) = (state.phase, state.watch.arrival);
        for (thread, look, own) in missed {
            // Where its own warp let the phase begin, meeting there is enough.
            let missing = if own.is_some() { Missing::Meeting } else { Missing::Barrier };
            let message = || {
                let (waits_for, name) = (phase.wrapping_sub(1) & 1, self.context.thread_name(cluster, thread, thread));
                format!(
                    "waits for parity {waits_for} of the mbarrier at {offset:#x}, and nothing keeps the next phase from \
                     completing before {name} has looked: if it lags behind, it finds the other parity and waits for a phase \
                     that is past"
                )
            };
            let context = self.context;
            let index = cluster.index as u32;
            let other = own.or(last).map(|(pc, by)| context.site(index, by, pc));
            let at = context.site(index, thread, look.pc);
            let mistake = (FindingKind::MissedPhase, missing);
            self.findings.report(context.program, context.launch.seed, mistake, at, other, message);
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
        }
        if self.begin_phase(cluster, key) {
            wake_waiters(cluster);
        }
    }
}
