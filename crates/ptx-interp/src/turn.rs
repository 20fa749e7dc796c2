//! A warp's turn: picks the split that is furthest behind and carries out its instructions, each by its family.

use crate::decode::Operation;
use crate::diagnostics::FindingKind;
use crate::execute::{share_registers, transpose};
use crate::machine::{
    At, Cluster, MAX_COUNT, Machine, Split, Step, Stopped, Stragglers, Wait, Warp, is_in_space, is_whole_warp,
};
use crate::random::Random;
use crate::registers::LANES;

pub(crate) enum Turn {
    Over,
    Stopped,
}

impl Machine<'_> {
    /// One turn: at most `quantum` instructions of one warp.
    pub(crate) fn run_warp(
        &mut self,
        cluster: &mut Cluster,
        rank: u32,
        warp: &mut Warp,
        quantum: u32,
        random: &mut Random,
    ) -> Turn {
        if self.instructions_left == 0 {
            let limit = self.context.launch.limits.instructions;
            let split = warp.splits.iter().find(|split| split.wait == Wait::Nothing);
            let (pc, lane) = split.map_or((0, 0), |split| (split.pc, split.mask.trailing_zeros()));
            let by = (rank * self.context.warps + warp.index) * LANES as u32 + lane;
            self.report(cluster, FindingKind::Livelock, pc, by, None, || {
                format!("still running after the limit of {limit} instructions")
            });
            return Turn::Stopped;
        }
        let before = warp.clock;
        let turn = self.turn(cluster, rank, warp, quantum, random);
        self.instructions_left = self.instructions_left.saturating_sub(warp.clock - before);
        turn
    }

    fn turn(&mut self, cluster: &mut Cluster, rank: u32, warp: &mut Warp, quantum: u32, random: &mut Random) -> Turn {
        let program = self.context.program;
        let mut left = quantum;
        let global_warp = rank * self.context.warps + warp.index;
        // After polling, a split that is not the furthest behind may go first: lanes may wait for each other.
        let mut any_split = std::mem::take(&mut warp.polled) && warp.splits.len() > 1;
        'pick: loop {
            let runnable = |split: &&(usize, Split)| split.1.wait == Wait::Nothing;
            let indexed: Option<(usize, Split)> = if any_split {
                any_split = false;
                let ready: Vec<_> = warp.splits.iter().copied().enumerate().filter(|split| runnable(&split)).collect();
                if ready.is_empty() { None } else { Some(ready[random.below(ready.len())]) }
            } else {
                let mut best: Option<(usize, Split)> = None;
                for (index, split) in warp.splits.iter().enumerate() {
                    if split.wait == Wait::Nothing && best.is_none_or(|(_, known)| split.pc < known.pc) {
                        best = Some((index, *split));
                    }
                }
                best
            };
            let Some((index, mut current)) = indexed else { return Turn::Over };
            warp.splits.swap_remove(index);
            loop {
                if !warp.splits.is_empty() {
                    merge(&mut warp.splits, &mut current);
                }
                if left == 0 {
                    warp.splits.push(current);
                    return Turn::Over;
                }
                left -= 1;
                let pc = current.pc;
                let instruction = &program.instructions[pc as usize];
                let mut mask = current.mask;
                if let Some(guard) = instruction.guard {
                    mask &= warp.registers.holds(guard);
                }
                self.executions.warps[pc as usize] += 1;
                // Without the instruction for it, counting bits is slow.
                let lanes = if mask == u32::MAX { LANES as u32 } else { mask.count_ones() };
                self.executions.threads[pc as usize] += u64::from(lanes);
                warp.clock += 1;
                if let Some(coverage) = &mut self.coverage {
                    coverage.note(program, &mut warp.turns, pc, current.mask, mask);
                }
                if mask == 0 {
                    current.pc += 1;
                    if behind(&warp.splits, current.pc) {
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    continue;
                }
                if !program.mentions.is_empty() {
                    self.touch_registers(cluster, warp, At { rank, warp: global_warp, pc }, mask);
                }
                if instruction.lane_wise {
                    if !instruction.settled {
                        (self.execute_lanes)(&instruction.operation, &mut warp.registers, mask);
                    }
                    current.pc += 1;
                    if !warp.splits.is_empty() && behind(&warp.splits, current.pc) {
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    continue;
                }
                let at = At { rank, warp: global_warp, pc };
                let step = match self.instruction(cluster, warp, at, &instruction.operation, mask, &current) {
                    Ok(step) => step,
                    Err(Stopped) => {
                        warp.splits.push(current);
                        return Turn::Stopped;
                    }
                };
                match step {
                    Step::Next => {
                        if waits_for_the_warp(&instruction.operation) {
                            cluster.warp_met(global_warp, mask, true);
                        }
                        current.pc += 1;
                    }
                    Step::Branch { target, lanes } => {
                        if lanes == current.mask {
                            current.pc = target;
                        } else {
                            let mut taken = Split { pc: target, mask: lanes, wait: Wait::Nothing, ..current };
                            current.mask &= !lanes;
                            current.pc += 1;
                            match self.stragglers.as_mut().and_then(Stragglers::choose_side) {
                                Some(true) => taken.wait = Wait::Lagging,
                                Some(false) => {
                                    current.wait = Wait::Lagging;
                                    warp.splits.extend([taken, current]);
                                    continue 'pick;
                                }
                                None => {}
                            }
                            warp.splits.push(taken);
                        }
                    }
                    Step::Scatter(targets) => {
                        for (target, lanes) in targets {
                            warp.splits.push(Split {
                                pc: target,
                                mask: lanes,
                                wait: Wait::Nothing,
                                stack: current.stack,
                            });
                            current.mask &= !lanes;
                        }
                        current.pc += 1;
                        if current.mask == 0 {
                            continue 'pick;
                        }
                    }
                    Step::Call { target, lanes, stack } => {
                        if lanes == current.mask {
                            current.pc = target;
                            current.stack = stack;
                        } else {
                            warp.splits.push(Split { pc: target, mask: lanes, wait: Wait::Nothing, stack });
                            current.mask &= !lanes;
                            current.pc += 1;
                        }
                    }
                    Step::Exit(lanes) => {
                        warp.exited |= lanes;
                        self.check_exit(cluster, warp, At { rank, warp: global_warp, pc }, lanes);
                        current.mask &= !lanes;
                        current.pc += 1;
                        warp.wake(|wait| wait == Wait::Lanes);
                        if current.mask != 0 {
                            warp.splits.push(current);
                        }
                        self.lanes_exited(cluster, warp, at);
                        continue 'pick;
                    }
                    Step::Retry(wait) => {
                        // It counts when it is carried out.
                        self.executions.warps[pc as usize] -= 1;
                        self.executions.threads[pc as usize] -= u64::from(mask.count_ones());
                        current.wait = wait;
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    Step::RetrySome(waiting, wait) => {
                        self.executions.warps[pc as usize] -= u64::from(waiting == mask);
                        self.executions.threads[pc as usize] -= u64::from(waiting.count_ones());
                        warp.splits.push(Split { pc, mask: waiting, wait, stack: current.stack });
                        current.mask &= !waiting;
                        current.pc += 1;
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    Step::Park(wait) => {
                        current.pc += 1;
                        current.wait = wait;
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    Step::Yield => {
                        current.pc += 1;
                        warp.polled = true;
                        warp.splits.push(current);
                        return Turn::Over;
                    }
                }
                if !warp.splits.is_empty() && behind(&warp.splits, current.pc) {
                    warp.splits.push(current);
                    continue 'pick;
                }
            }
        }
    }

    /// One instruction that is more than lane-wise arithmetic.
    fn instruction(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        operation: &Operation,
        mask: u32,
        split: &Split,
    ) -> Result<Step, Stopped> {
        let together = split.mask;
        match operation {
            Operation::Load(access) => self.load(cluster, warp, at, access, mask),
            Operation::Store(access) => self.store(cluster, warp, at, access, mask),
            Operation::Atomic(atomic) => self.atomic(cluster, warp, at, atomic, mask),
            Operation::Branch { target } => Ok(Step::Branch { target: *target, lanes: mask }),
            Operation::BranchIndexed { targets, index } => {
                let index = *warp.registers.word(*index);
                let mut scattered: Vec<(u32, u32)> = Vec::new();
                for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
                    let Some(&target) = targets.get(index[lane] as usize) else {
                        let message = || format!("branch to entry {} of {}", index[lane], targets.len());
                        return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), message));
                    };
                    match scattered.iter_mut().find(|(known, _)| *known == target) {
                        Some((_, lanes)) => *lanes |= 1 << lane,
                        None => scattered.push((target, 1 << lane)),
                    }
                }
                Ok(Step::Scatter(scattered))
            }
            Operation::Exit => Ok(Step::Exit(mask)),
            Operation::Trap => {
                let by = at.participant(mask.trailing_zeros() as usize);
                Err(self.stop(cluster, FindingKind::Trap, at.pc, by, || "the kernel stopped itself".into()))
            }
            Operation::Call(call) => self.call(cluster, warp, at, call, split.stack, mask),
            Operation::Return => Ok(self.return_from_call(warp, split.stack, mask)),
            Operation::IgnoredCall(call) => Ok(self.ignored_call(warp, call, mask)),
            Operation::AssertionFailed => {
                let by = at.participant(mask.trailing_zeros() as usize);
                Err(self.stop(cluster, FindingKind::Trap, at.pc, by, || "an assertion of the kernel failed".into()))
            }
            Operation::Unsupported { index } => {
                let by = at.participant(mask.trailing_zeros() as usize);
                let program = self.context.program;
                let message = || program.unsupported[*index as usize].message.clone();
                Err(self.stop(cluster, FindingKind::Unsupported, at.pc, by, message))
            }
            Operation::Shuffle(_)
            | Operation::Vote(_)
            | Operation::Match { .. }
            | Operation::Redux { .. }
            | Operation::Elect { .. }
            | Operation::ActiveMask { .. } => self.warp_wide(cluster, warp, at, operation, mask, together),
            Operation::Barrier(barrier) => self.block_barrier(cluster, warp, at, barrier, mask, together),
            Operation::WarpBarrier { members } => self.warp_barrier(cluster, warp, at, *members, mask, together),
            Operation::ClusterArrive { release } => self.cluster_arrive(cluster, warp, at, *release, mask, together),
            Operation::ClusterWait => self.cluster_wait(cluster, warp, at, mask),
            Operation::Fence(kind) => {
                self.fence(cluster, at, *kind, mask);
                Ok(Step::Next)
            }
            Operation::Clock { to } => {
                for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
                    warp.registers.set_lane(*to, lane, warp.clock);
                }
                Ok(Step::Next)
            }
            Operation::TestSpace { space, to, a } => {
                let a = *warp.registers.double(*a);
                let mut result = 0;
                for (lane, address) in a.iter().enumerate() {
                    result |= u32::from(is_in_space(*space, *address)) << lane;
                }
                warp.registers.set_predicate(*to, mask, result);
                Ok(Step::Next)
            }
            Operation::CopyAsync(copy) => self.copy_async(cluster, warp, at, copy, mask),
            Operation::CopyAsyncCommit => {
                warp.copies.commit(mask);
                Ok(Step::Next)
            }
            Operation::CopyAsyncWait { keep } => self.copy_async_wait(cluster, warp, at, Some(*keep), mask),
            Operation::CopyAsyncWaitAll => self.copy_async_wait(cluster, warp, at, None, mask),
            Operation::MatrixMove(matrix) => self.matrix_move(cluster, warp, at, matrix, mask),
            Operation::MatrixTranspose { to, value } => Ok(transpose(warp, *to, *value, mask)),
            Operation::MatrixMultiply(multiply) => self.matrix_multiply(cluster, warp, at, multiply, mask),
            Operation::FragmentMove(fragment) => self.fragment_move(cluster, warp, at, fragment, mask),
            Operation::FragmentMultiply(multiply) => self.fragment_multiply(cluster, warp, at, multiply, mask),
            Operation::Wgmma(wgmma) => self.wgmma(cluster, warp, at, wgmma, mask),
            Operation::WgmmaFence => {
                if is_whole_warp(warp, mask) {
                    warp.in_flight.fence();
                    Ok(Step::Next)
                } else {
                    Ok(Step::Retry(Wait::Lanes))
                }
            }
            Operation::WgmmaCommit => self.wgmma_commit(cluster, warp, mask),
            Operation::WgmmaWait { keep } => self.wgmma_wait(cluster, warp, at, *keep, mask),
            Operation::ShareRegisters { count, more } => Ok(share_registers(cluster, warp, at, *count, *more, mask)),
            Operation::Mbarrier(mbarrier) => self.mbarrier(cluster, warp, at, mbarrier, mask),
            Operation::BulkCopy(copy) => self.bulk_copy(cluster, warp, at, copy, mask),
            Operation::TensorCopy(copy) => self.tensor_copy(cluster, warp, at, copy, mask),
            Operation::BulkCommit => Ok(self.bulk_commit(cluster, at, mask)),
            Operation::BulkWait { keep, read_only } => Ok(self.bulk_wait(cluster, at, *keep, *read_only, mask)),
            Operation::StoreAsync(store) => self.store_async(cluster, warp, at, store, mask),
            Operation::MapShared { to, address, rank, generic } => {
                self.map_shared(cluster, warp, at, *to, *address, *rank, *generic, mask)
            }
            Operation::BlockRank { to, address, generic } => {
                Ok(self.block_rank(warp, at, *to, *address, *generic, mask))
            }
            Operation::PendingCount { to, state } => {
                let counts = warp.registers.double(*state).map(|state| state as u32 & MAX_COUNT);
                warp.registers.set_words(*to, mask, &counts);
                Ok(Step::Next)
            }
            // Lane-wise operations never get here.
            _ => Ok(Step::Next),
        }
    }
}

/// Whether an instruction is carried out once all lanes of the warp have come to it.
#[inline(always)]
fn waits_for_the_warp(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::MatrixMove(_)
            | Operation::MatrixTranspose { .. }
            | Operation::MatrixMultiply(_)
            | Operation::FragmentMove(_)
            | Operation::FragmentMultiply(_)
            | Operation::Wgmma(_)
            | Operation::WgmmaFence
            | Operation::WgmmaCommit
            | Operation::WgmmaWait { .. }
            | Operation::ShareRegisters { .. }
    )
}

/// Whether a split that can run is behind this place.
#[inline(always)]
fn behind(splits: &[Split], pc: u32) -> bool {
    splits.iter().any(|split| split.wait == Wait::Nothing && split.pc < pc)
}

/// Takes in every split that is at the same instruction and waits for nothing but lanes.
#[inline(always)]
fn merge(splits: &mut Vec<Split>, current: &mut Split) {
    let mut index = 0;
    while index < splits.len() {
        let other = splits[index];
        if other.pc == current.pc && other.stack == current.stack && matches!(other.wait, Wait::Nothing | Wait::Lanes) {
            current.mask |= other.mask;
            splits.swap_remove(index);
        } else {
            index += 1;
        }
    }
}
