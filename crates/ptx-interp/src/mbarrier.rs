//! mbarriers: arrivals, expected bytes, phases, and the order that a completed phase carries.

use crate::address_space::SHARED_WINDOW;
use crate::decode::{Mbarrier, MbarrierAction, Space};
use crate::diagnostics::FindingKind;
use crate::execute::{At, Cluster, Machine, SharedPlace, Step, Stopped, addresses, is_in_space};
use crate::happens_before::{Clock, Participant, join};
use crate::registers::{LANES, each_lane};
use crate::shared_memory::Conflict;
use crate::warp::{Wait, Warp};

/// Bits of a count of arrivals.
const COUNT_BITS: u32 = 20;
/// Arrivals that the hardware can count.
pub(crate) const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;

#[derive(Debug)]
pub(crate) struct MbarrierState {
    /// Arrivals of each phase.
    count: u32,
    pending: u32,
    /// Bytes announced and not yet copied; negative while copies are ahead of their announcement.
    bytes: i64,
    phase: u64,
    /// Order carried by the arrivals of this phase.
    gathering: Clock,
    /// Order carried by the phase that completed last: a wait gets this and nothing newer.
    completed: Clock,
    /// Stands for the copies that complete here.
    pub participant: Participant,
}

impl MbarrierState {
    /// What `mbarrier.arrive` hands out: the phase, and the arrivals that it still waits for.
    fn token(&self) -> u64 {
        self.phase << COUNT_BITS | u64::from(self.pending)
    }

    /// Starts the next phase if this one is complete.
    fn advance(&mut self) -> bool {
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
        if let Some(Conflict::ReadAfterWrite { by: writer, pc }) = conflict {
            self.report(cluster, FindingKind::SharedRace, at.pc, by, Some((pc, writer)), || {
                format!("uses the mbarrier at {:#x}, and nothing orders that after its initialisation", place.offset)
            });
        }
        Ok(())
    }

    pub(crate) fn mbarrier(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        mbarrier: &Mbarrier,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, mbarrier.address);
        if let MbarrierAction::WaitParity { to, blocking, .. } | MbarrierAction::WaitState { to, blocking, .. } =
            mbarrier.action
        {
            return self.mbarrier_wait(cluster, warp, at, mbarrier, &places, to, blocking, mask);
        }
        each_lane!(mask, lane, {
            let place = self.mbarrier_place(cluster, at, lane, places[lane], mbarrier.space)?;
            let key = (place.rank, place.offset);
            let by = at.participant(lane);
            if let MbarrierAction::Init { count } = mbarrier.action {
                let count = warp.registers.word(count)[lane];
                if count == 0 || count > MAX_COUNT {
                    let message = || format!("an mbarrier of {count} arrivals");
                    return Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, by, message));
                }
                self.write_shared(cluster, at, lane, place, &[0; 8], false);
                let participant = cluster.order.new_participant();
                let (gathering, completed) = (Clock::new(), Clock::new());
                let state =
                    MbarrierState { count, pending: count, bytes: 0, phase: 0, gathering, completed, participant };
                cluster.mbarriers.insert(key, state);
                continue;
            }
            self.check_mbarrier(cluster, at, lane, place)?;
            match mbarrier.action {
                MbarrierAction::Invalidate => {
                    cluster.mbarriers.remove(&key);
                }
                MbarrierAction::ExpectTransactions { bytes } => {
                    let bytes = warp.registers.word(bytes)[lane];
                    self.change_bytes(cluster, key, i64::from(bytes));
                }
                MbarrierAction::CompleteTransactions { bytes } => {
                    let bytes = warp.registers.word(bytes)[lane];
                    self.change_bytes(cluster, key, -i64::from(bytes));
                    self.complete_phase(cluster, key, warp);
                }
                MbarrierAction::Arrive { count, expect, drop } => {
                    let arrivals = count.map_or(1, |count| warp.registers.word(count)[lane]);
                    if let Some(state) = mbarrier.state {
                        let token = cluster.mbarriers.get(&key).map_or(0, MbarrierState::token);
                        warp.registers.doubles[usize::from(state.0)][lane] = token;
                    }
                    if let Some(bytes) = expect {
                        let bytes = warp.registers.word(bytes)[lane];
                        self.change_bytes(cluster, key, i64::from(bytes));
                    }
                    self.arrive(cluster, warp, at, lane, key, arrivals)?;
                    if drop && let Some(state) = cluster.mbarriers.get_mut(&key) {
                        state.count = state.count.saturating_sub(1);
                    }
                }
                MbarrierAction::ArriveAfterCopies { increment } => {
                    // The copies are seen by whoever waits for the phase, and by nobody else: they are the mbarrier's.
                    let participant = cluster.mbarriers.get(&key).map_or(0, |state| state.participant);
                    self.hand_copies_over(cluster, warp, lane, participant);
                    let stamp = cluster.order.tick();
                    if let Some(state) = cluster.mbarriers.get_mut(&key) {
                        mark(&mut state.gathering, participant, stamp);
                        state.pending += u32::from(increment);
                    }
                    self.arrive(cluster, warp, at, lane, key, 1)?;
                }
                _ => {}
            }
        });
        Ok(Step::Next)
    }

    fn change_bytes(&mut self, cluster: &mut Cluster, key: (u32, u32), change: i64) {
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            state.bytes += change;
        }
    }

    fn complete_phase(&mut self, cluster: &mut Cluster, key: (u32, u32), current: &mut Warp) {
        if cluster.mbarriers.get_mut(&key).is_some_and(MbarrierState::advance) {
            wake_waiters(cluster);
            current.wake(|wait| wait == Wait::Mbarrier);
        }
    }

    fn arrive(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        lane: usize,
        key: (u32, u32),
        arrivals: u32,
    ) -> Result<(), Stopped> {
        self.counters.mbarrier_arrivals += 1;
        let by = at.participant(lane);
        let Some(state) = cluster.mbarriers.get_mut(&key) else { return Ok(()) };
        if arrivals == 0 || state.pending < arrivals {
            let (pending, count) = (state.pending, state.count);
            let message = || format!("{arrivals} arrivals at an mbarrier that expects {pending} more of {count}");
            return Err(self.stop(cluster, FindingKind::BadMbarrier, at.pc, by, message));
        }
        state.pending -= arrivals;
        let mut message = std::mem::take(&mut state.gathering);
        cluster.order.release(by, &mut message);
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            state.gathering = message;
        }
        self.complete_phase(cluster, key, warp);
        Ok(())
    }

    /// Bytes that a copy has delivered; the copy's writes carry the mbarrier's participant at this stamp.
    pub(crate) fn deliver_bytes(&mut self, cluster: &mut Cluster, key: (u32, u32), bytes: u32) {
        let stamp = cluster.order.tick();
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            let participant = state.participant;
            mark(&mut state.gathering, participant, stamp);
            state.bytes -= i64::from(bytes);
            if state.advance() {
                wake_waiters(cluster);
            }
        }
    }

    fn mbarrier_wait(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        mbarrier: &Mbarrier,
        places: &[u64; LANES],
        to: crate::decode::PredicateRegister,
        blocking: bool,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let mut complete = 0u32;
        each_lane!(mask, lane, {
            let place = self.mbarrier_place(cluster, at, lane, places[lane], mbarrier.space)?;
            self.check_mbarrier(cluster, at, lane, place)?;
            let key = (place.rank, place.offset);
            let phase = cluster.mbarriers.get(&key).map_or(0, |state| state.phase);
            let done = match mbarrier.action {
                MbarrierAction::WaitParity { parity, .. } => {
                    phase & 1 != u64::from(warp.registers.word(parity)[lane] & 1)
                }
                MbarrierAction::WaitState { state, .. } => phase > warp.registers.double(state)[lane] >> COUNT_BITS,
                _ => true,
            };
            if done {
                complete |= 1 << lane;
                if let Some(state) = cluster.mbarriers.get(&key) {
                    let completed = &state.completed;
                    cluster.order.acquire(at.participant(lane), completed);
                }
            }
        });
        if complete == 0 && blocking {
            return Ok(Step::Retry(Wait::Mbarrier));
        }
        warp.registers.set_predicate(to, mask, complete);
        Ok(if complete & mask == mask { Step::Next } else { Step::Yield })
    }
}

fn mark(clock: &mut Clock, participant: Participant, stamp: u32) {
    let mut one = vec![0; participant as usize + 1];
    one[participant as usize] = stamp;
    join(clock, &one);
}
