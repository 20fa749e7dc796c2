//! Block barriers, warp barriers and cluster barriers.

use crate::decode::{Barrier, BarrierAction, BooleanOperation, Scope, WordRegister};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Group, Machine, Split, Step, Stopped, Wait, Warp};
use crate::registers::{LANES, each_lane};

impl Machine<'_> {
    pub(crate) fn block_barrier(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        barrier: &Barrier,
        mask: u32,
        together: u32,
    ) -> Result<Step, Stopped> {
        if barrier.aligned && mask != warp.live() {
            return if mask == together {
                Ok(Step::Retry(Wait::Lanes))
            } else {
                // A guard let only some lanes through: they can never be joined by the others.
                let by = at.participant(mask.trailing_zeros() as usize);
                let message = || format!("only lanes {mask:#010x} of {together:#010x} execute this barrier");
                Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message))
            };
        }
        let present = self.present(warp);
        if barrier.aligned && mask != present {
            let by = at.participant(mask.trailing_zeros() as usize);
            let gone = present & !mask;
            let message = || format!("lanes {gone:#010x} of the warp have exited, the others wait for a barrier");
            self.report(cluster, FindingKind::DivergentBarrier, at.pc, by, None, message);
        }
        if barrier.aligned {
            // It waits for the warp's own lanes, also where it is only an arrival.
            cluster.warp_met(at.warp, mask, true);
        }
        self.counters.block_barriers += 1;
        let first_lane = mask.trailing_zeros() as usize;
        let by = at.participant(first_lane);
        let index = warp.registers.uniform(barrier.index, mask);
        if index > 15 {
            let message = || format!("barrier {index}; a block has 16");
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
        }
        let expected = barrier.threads.map_or(0, |threads| warp.registers.uniform(threads, mask));
        if !expected.is_multiple_of(LANES as u32) || barrier.threads.is_some() && expected == 0 {
            let message = || format!("a barrier of {expected} threads; it must be a multiple of 32");
            return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
        }
        let state = &mut cluster.blocks[at.rank as usize].barriers[index as usize];
        if state.counted > 0 && state.expected != expected {
            let known = state.expected;
            let message = || format!("barrier {index} is used with {expected} threads while others expect {known}");
            return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
        }
        state.expected = expected;
        // An aligned barrier counts whole warps.
        state.counted += if barrier.aligned && expected != 0 { LANES as u32 } else { mask.count_ones() };
        let waits = barrier.action != BarrierAction::Arrive;
        each_lane!(mask, lane, {
            state.participants.push(at.participant(lane));
            if waits {
                state.waiting.push(at.participant(lane));
            }
        });
        if let Some(predicate) = barrier.predicate {
            state.held += (warp.registers.holds(predicate) & mask).count_ones();
        }
        let generation = state.generation;
        if state.expected != 0 && state.counted > state.expected {
            let counted = state.counted;
            let message = || format!("{counted} threads arrive at barrier {index}, which expects {expected}");
            return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
        }
        let complete = self.complete_barrier(cluster, warp, at.rank, index);
        if !waits {
            return Ok(Step::Next);
        }
        if barrier.to_word.is_some() || barrier.to_predicate.is_some() {
            return Ok(self.reduction(cluster, warp, at, barrier, index, generation, complete, mask));
        }
        Ok(if complete { Step::Next } else { Step::Park(Wait::Barrier { index, generation }) })
    }

    /// The result of `bar.red`, which every waiting warp gets when the barrier completes.
    fn reduction(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        barrier: &Barrier,
        index: u32,
        generation: u64,
        complete: bool,
        mask: u32,
    ) -> Step {
        if complete {
            let result = cluster.blocks[at.rank as usize].barriers[index as usize].result;
            deliver_reduction(warp, barrier, mask, result);
            return Step::Next;
        }
        Step::Park(Wait::Barrier { index, generation })
    }

    /// Lanes that the warp began with.
    fn present(&self, warp: &Warp) -> u32 {
        let first = warp.index * LANES as u32;
        match self.context.threads - first {
            0..=31 => (1 << (self.context.threads - first)) - 1,
            _ => u32::MAX,
        }
    }

    /// Completes a barrier if all threads have arrived; `current` is out of its block.
    fn complete_barrier(&mut self, cluster: &mut Cluster, current: &mut Warp, rank: u32, index: u32) -> bool {
        let program = self.context.program;
        let block = &mut cluster.blocks[rank as usize];
        let live: u32 =
            block.warps.iter().map(|warp| warp.live().count_ones()).sum::<u32>() + current.live().count_ones();
        let state = &mut block.barriers[index as usize];
        let needed = if state.expected == 0 { live } else { state.expected };
        if state.counted == 0 || state.counted < needed {
            return false;
        }
        let participants = std::mem::take(&mut state.participants);
        let waiting = std::mem::take(&mut state.waiting);
        if !self.questions.is_empty() {
            self.close_questions(cluster, &participants);
        }
        let block = &mut cluster.blocks[rank as usize];
        let state = &mut block.barriers[index as usize];
        let all_wait = participants.len() as u32 >= live && waiting.len() == participants.len();
        let generation = state.generation;
        state.generation += 1;
        state.counted = 0;
        state.expected = 0;
        state.result = (state.held, participants.len() as u32);
        state.held = 0;
        let result = state.result;
        if all_wait {
            cluster.order.block_barrier(rank);
        } else {
            cluster.order.meeting(&participants, &waiting);
        }
        if let Some(causality) = &mut cluster.causality {
            if all_wait {
                causality.block_met(rank);
            } else {
                causality.met(&participants, &waiting);
            }
        }
        let done = Wait::Barrier { index, generation };
        for warp in cluster.blocks[rank as usize].warps.iter_mut().chain(std::iter::once(current)) {
            for split in &mut warp.splits {
                if split.wait == done {
                    split.wait = Wait::Nothing;
                    // The instruction before the one it goes on with is the barrier.
                    let instruction = &program.instructions[split.pc as usize - 1];
                    if let crate::decode::Operation::Barrier(barrier) = &instruction.operation {
                        let mask = split.mask;
                        deliver_reduction_to(&mut warp.registers, barrier, mask, result);
                    }
                }
            }
        }
        true
    }

    /// Lanes that have exited no longer count: barriers that waited for them may complete.
    pub(crate) fn lanes_exited(&mut self, cluster: &mut Cluster, warp: &mut Warp, at: At) {
        for index in 0..16 {
            let state = &cluster.blocks[at.rank as usize].barriers[index];
            if state.counted > 0 && state.expected == 0 {
                self.complete_barrier(cluster, warp, at.rank, index as u32);
            }
        }
        self.complete_cluster(cluster, warp);
    }

    pub(crate) fn warp_barrier(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        members: WordRegister,
        mask: u32,
        together: u32,
    ) -> Result<Step, Stopped> {
        let mut done = 0;
        for group in Group::all(*warp.registers.word(members), mask) {
            let outside = group.lanes & !group.members;
            if outside != 0 {
                let by = at.participant(outside.trailing_zeros() as usize);
                let message = || {
                    format!("a lane executes a warp barrier for lanes {:#010x} and is not one of them", group.members)
                };
                return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
            }
            let needed = group.members & warp.live();
            let elsewhere = needed & mask & !group.lanes;
            if elsewhere != 0 {
                let by = at.participant(elsewhere.trailing_zeros() as usize);
                let message = || format!("lanes {elsewhere:#010x} name another mask than {:#010x}", group.members);
                return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
            }
            // Other lanes may wait for the same barrier at another place of the program.
            if needed & !group.lanes == 0 || self.join_elsewhere(warp, needed, group.lanes) {
                self.counters.warp_barriers += 1;
                cluster.order.warp_barrier(at.warp, needed, needed == warp.live());
                cluster.warp_met(at.warp, needed, needed == warp.live());
                done |= group.lanes;
            } else if needed & !together == 0 {
                // They are here, but a guard keeps them out.
                let missing = needed & !group.lanes;
                let by = at.participant(missing.trailing_zeros() as usize);
                let message = || format!("lanes {missing:#010x} are named by a warp barrier but do not take part");
                return Err(self.stop(cluster, FindingKind::DivergentBarrier, at.pc, by, message));
            }
        }
        Ok(Step::of_lanes(done, mask, together))
    }

    /// Lets lanes that wait for the same warp barrier at other instructions go on, if all that are needed are there.
    fn join_elsewhere(&mut self, warp: &mut Warp, needed: u32, here: u32) -> bool {
        let program = self.context.program;
        let live = warp.live();
        let registers = &warp.registers;
        // The lanes of a split that wait for the barrier of the lanes that are needed.
        let waiting = |split: &Split| match &program.instructions[split.pc as usize].operation {
            crate::decode::Operation::WarpBarrier { members } if split.wait == Wait::Lanes => {
                let groups = Group::all(*registers.word(*members), split.mask);
                groups.filter(|group| group.members & live == needed).fold(0, |lanes, group| lanes | group.lanes)
            }
            _ => 0,
        };
        let found = warp.splits.iter().fold(here, |found, split| found | waiting(split));
        if found & needed != needed {
            return false;
        }
        let mut moved = Vec::new();
        for split in &mut warp.splits {
            let lanes = waiting(split) & needed;
            if lanes != 0 {
                moved.push(Split { pc: split.pc + 1, mask: lanes, wait: Wait::Nothing, ..*split });
                split.mask &= !lanes;
            }
        }
        warp.splits.retain(|split| split.mask != 0);
        warp.splits.extend(moved);
        true
    }

    pub(crate) fn cluster_arrive(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        release: bool,
        mask: u32,
        _together: u32,
    ) -> Result<Step, Stopped> {
        self.counters.cluster_barriers += 1;
        let threads: Vec<_> =
            (0..LANES).filter(|lane| mask >> lane & 1 == 1).map(|lane| at.participant(lane)).collect();
        if release {
            let mut message = std::mem::take(&mut cluster.cluster_barrier.message);
            cluster.order.release_all(&threads, &mut message);
            cluster.cluster_barrier.message = message;
        } else {
            for &thread in &threads {
                cluster.order.release_by_fence(thread, Scope::Cluster, &mut cluster.cluster_barrier.message);
            }
        }
        if let Some(causality) = &mut cluster.causality {
            causality.release_all(&threads, &mut cluster.cluster_barrier.causes);
        }
        cluster.cluster_barrier.arrived += threads.len() as u32;
        warp.cluster_generation = cluster.cluster_barrier.generation;
        self.complete_cluster(cluster, warp);
        Ok(Step::Next)
    }

    fn complete_cluster(&mut self, cluster: &mut Cluster, current: &mut Warp) {
        let live: u32 =
            cluster.blocks.iter().flat_map(|block| &block.warps).map(|warp| warp.live().count_ones()).sum::<u32>()
                + current.live().count_ones();
        let state = &mut cluster.cluster_barrier;
        if state.arrived == 0 || state.arrived < live {
            return;
        }
        state.arrived = 0;
        let generation = state.generation;
        state.generation += 1;
        state.completed = std::mem::take(&mut state.message);
        state.completed_causes = std::mem::take(&mut state.causes);
        for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps).chain(std::iter::once(current)) {
            warp.wake(|wait| wait == Wait::Cluster { generation });
        }
    }

    pub(crate) fn cluster_wait(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let generation = warp.cluster_generation;
        if cluster.cluster_barrier.generation <= generation {
            return Ok(Step::Retry(Wait::Cluster { generation }));
        }
        let message = std::mem::take(&mut cluster.cluster_barrier.completed);
        each_lane!(mask, lane, {
            cluster.order.acquire(at.participant(lane), &message);
            if let Some(causality) = &mut cluster.causality {
                causality.acquire(at.participant(lane), &cluster.cluster_barrier.completed_causes);
            }
        });
        cluster.cluster_barrier.completed = message;
        Ok(Step::Next)
    }
}

fn deliver_reduction(warp: &mut Warp, barrier: &Barrier, mask: u32, result: (u32, u32)) {
    deliver_reduction_to(&mut warp.registers, barrier, mask, result);
}

fn deliver_reduction_to(
    registers: &mut crate::registers::Registers,
    barrier: &Barrier,
    mask: u32,
    (held, of): (u32, u32),
) {
    if let Some(to) = barrier.to_word {
        registers.set_words(to, mask, &[held; LANES]);
    }
    if let Some(to) = barrier.to_predicate {
        let value = match barrier.action {
            BarrierAction::Reduce(BooleanOperation::And) => held == of,
            _ => held > 0,
        };
        registers.set_predicate(to, mask, if value { u32::MAX } else { 0 });
    }
}
