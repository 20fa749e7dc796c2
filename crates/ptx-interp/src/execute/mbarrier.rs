//! mbarriers: arrivals, expected bytes, phases, and the order that a completed phase carries.

use crate::decode::{Mbarrier, MbarrierAction, Scope};
use crate::diagnostics::FindingKind;
use crate::machine::{
    At, COUNT_BITS, Cluster, MAX_COUNT, Machine, MbarrierState, Step, Stopped, Unseen, Wait, Warp, addresses,
};
use crate::order::Origin;
use crate::registers::{LANES, each_lane};

impl Machine<'_> {
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
                self.check_own_mbarrier(cluster, at, lane, place, "initialises")?;
                self.begin_mbarrier(cluster, at, lane, place, count);
                continue;
            }
            self.check_mbarrier(cluster, at, lane, place)?;
            match mbarrier.action {
                MbarrierAction::Invalidate => {
                    self.check_own_mbarrier(cluster, at, lane, place, "invalidates")?;
                    cluster.mbarriers.remove(&key);
                }
                MbarrierAction::ExpectTransactions { bytes } => {
                    let bytes = warp.registers.word(bytes)[lane];
                    self.announce_bytes(cluster, at, lane, key, bytes)?;
                }
                MbarrierAction::CompleteTransactions { bytes } => {
                    let bytes = warp.registers.word(bytes)[lane];
                    self.note_cause(cluster, at, lane, key, true);
                    self.change_bytes(cluster, key, -i64::from(bytes));
                    self.complete_phase(cluster, key, warp);
                }
                MbarrierAction::Arrive { count, expect, drop } => {
                    let arrivals = count.map_or(1, |count| warp.registers.word(count)[lane]);
                    if let Some(state) = mbarrier.state {
                        self.check_own_mbarrier(cluster, at, lane, place, "takes the state of")?;
                        let token = cluster.mbarriers.get(&key).map_or(0, MbarrierState::token);
                        warp.registers.doubles[usize::from(state.0)][lane] = token;
                    }
                    if let Some(bytes) = expect {
                        let bytes = warp.registers.word(bytes)[lane];
                        self.announce_bytes(cluster, at, lane, key, bytes)?;
                    }
                    self.arrive(cluster, warp, at, lane, key, mbarrier, arrivals)?;
                    if drop && let Some(state) = cluster.mbarriers.get_mut(&key) {
                        state.count = state.count.saturating_sub(1);
                    }
                }
                MbarrierAction::ArriveAfterCopies { increment } => {
                    // The copies are the mbarrier's: only threads that wait for the phase see them.
                    let participant = cluster.mbarriers.get(&key).map_or(0, |state| state.participant);
                    self.hand_copies_over(cluster, warp, lane, participant);
                    let stamp = cluster.order.tick();
                    if let Some(state) = cluster.mbarriers.get_mut(&key) {
                        let origin = Origin { cluster: cluster.index as u32, rank: key.0 };
                        state.gathering.of(origin, Scope::Device).mark(participant, stamp);
                        state.pending += u32::from(increment);
                    }
                    self.arrive(cluster, warp, at, lane, key, mbarrier, 1)?;
                }
                _ => {}
            }
        });
        Ok(Step::Next)
    }

    fn arrive(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        lane: usize,
        key: (u32, u32),
        mbarrier: &Mbarrier,
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
        self.note_cause(cluster, at, lane, key, true);
        let Some(state) = cluster.mbarriers.get_mut(&key) else { return Ok(()) };
        let mut message = std::mem::take(&mut state.gathering);
        cluster.order.publish(by, !mbarrier.relaxed, mbarrier.scope, &mut message);
        if let Some(state) = cluster.mbarriers.get_mut(&key) {
            state.gathering = message;
        }
        self.complete_phase(cluster, key, warp);
        Ok(())
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
        let (mut complete, mut again) = (0u32, 0u32);
        let mut keys = [(0, 0); LANES];
        each_lane!(mask, lane, {
            let place = self.mbarrier_place(cluster, at, lane, places[lane], mbarrier.space)?;
            self.check_own_mbarrier(cluster, at, lane, place, "waits for")?;
            self.check_mbarrier(cluster, at, lane, place)?;
            keys[lane] = (place.rank, place.offset);
            let phase = cluster.mbarriers.get(&keys[lane]).map_or(0, |state| state.phase);
            let done = match mbarrier.action {
                MbarrierAction::WaitParity { parity, .. } => {
                    phase & 1 != u64::from(warp.registers.word(parity)[lane] & 1)
                }
                MbarrierAction::WaitState { state, .. } => {
                    let of_token = warp.registers.double(state)[lane] >> COUNT_BITS;
                    if phase > of_token + 1 {
                        self.report_missed(cluster, at, lane, keys[lane], phase - of_token - 1);
                    }
                    phase > of_token
                }
                _ => true,
            };
            complete |= u32::from(done) << lane;
            let unseen = self.stragglers.as_mut().and_then(|stragglers| stragglers.looks_again(at.participant(lane)));
            if let Some(unseen) = unseen {
                again |= 1 << lane;
                if unseen.mbarrier == keys[lane] && phase > unseen.phase {
                    self.report_missed(cluster, at, lane, keys[lane], phase - unseen.phase);
                }
            }
        });
        // Lanes that have lagged do not lag again here: each comes by some time.
        let lag = self.stragglers.as_mut().map_or(0, |stragglers| stragglers.choose(complete & !again));
        each_lane!(complete, lane, {
            let Some(state) = cluster.mbarriers.get(&keys[lane]) else { continue };
            let thread = at.participant(lane);
            if lag >> lane & 1 == 1 {
                let unseen = Unseen { mbarrier: keys[lane], phase: state.phase };
                self.stragglers.iter_mut().for_each(|stragglers| stragglers.leave_behind(thread, unseen));
                continue;
            }
            cluster.order.learn(thread, !mbarrier.relaxed, mbarrier.scope, &state.completed);
            self.note_look(cluster, at, lane, keys[lane]);
        });
        complete &= !lag;
        if lag != 0 {
            warp.registers.set_predicate(to, mask & !lag, complete);
            return Ok(Step::RetrySome(lag, Wait::Lagging));
        }
        if complete == 0 && blocking {
            return Ok(Step::Retry(Wait::Mbarrier));
        }
        warp.registers.set_predicate(to, mask, complete);
        Ok(if complete & mask == mask { Step::Next } else { Step::Yield })
    }
}
