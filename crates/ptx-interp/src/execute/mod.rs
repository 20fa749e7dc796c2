//! Executes a warp for a turn: picks the split that is furthest behind, and carries out its instructions.

mod atomics;
mod barrier;
mod cluster;
mod exit;
mod global;
mod load;
mod places;
mod store;
mod warp_wide;

use std::collections::HashMap;

pub(crate) use atomics::combine;
pub(crate) use barrier::NamedBarrier;
pub(crate) use exit::has_exited;
pub(crate) use places::{Lanes, SharedPlace, addresses, is_in_space, rebased};

use crate::alu::Execute;
use crate::counters::{Counters, Executions};
use crate::decode::Operation;
use crate::diagnostics::{FindingKind, Findings, Site};
use crate::global_view::GlobalView;
use crate::happens_before::{Clock, HappensBefore, Participant, Past};
use crate::launch::LaunchContext;
use crate::mbarrier::{MAX_COUNT, MbarrierState};
use crate::registers::LANES;
use crate::schedule::Random;
use crate::shared_memory::{Accessor, Conflict, SharedMemory};
use crate::tma::{BulkGroups, Transfer};
use crate::warp::{Split, Wait, Warp};

/// The unit cannot go on: the finding has been reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

pub(crate) enum Turn {
    Over,
    Stopped,
}

pub(crate) struct Block {
    pub rank: u32,
    pub shared: SharedMemory,
    pub warps: Vec<Warp>,
    pub barriers: [NamedBarrier; 16],
}

/// Blocks that share their shared memory and the order of their accesses.
pub(crate) struct Cluster {
    pub index: u64,
    pub order: HappensBefore,
    pub blocks: Vec<Block>,
    /// By block and offset.
    pub mbarriers: HashMap<(u32, u32), MbarrierState>,
    /// Copies under way.
    pub transfers: Vec<Transfer>,
    pub bulk_groups: HashMap<Participant, BulkGroups>,
    /// What atomics and releases published, by block (or `u32::MAX` for global memory) and address.
    pub published: HashMap<(u32, u64), Clock>,
    pub cluster_barrier: barrier::ClusterBarrier,
    /// What is known of other clusters that share a view of global memory.
    pub foreign: HashMap<u32, Past>,
}

impl Cluster {
    pub(crate) fn new(index: u64, order: HappensBefore, blocks: Vec<Block>) -> Self {
        Self {
            index,
            order,
            blocks,
            mbarriers: HashMap::new(),
            transfers: Vec::new(),
            bulk_groups: HashMap::new(),
            published: HashMap::new(),
            cluster_barrier: Default::default(),
            foreign: HashMap::new(),
        }
    }
}

/// Lines of a fragment in shared memory, as far as their bank conflicts depend on them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FragmentLines {
    /// First byte, counted from the first bank.
    pub start: u32,
    pub stride: u64,
    pub lines: u32,
    pub line_bytes: u32,
}

/// What all warps of a unit share.
pub(crate) struct Machine<'l> {
    pub context: &'l LaunchContext<'l>,
    pub global: GlobalView<'l>,
    pub findings: Findings,
    pub counters: Counters,
    pub executions: Executions,
    /// What clusters have published at global addresses, by cluster.
    pub published: HashMap<u64, HashMap<u32, Past>>,
    pub runnable: Vec<(u32, u32)>,
    /// What fragments' lines seen so far take: passes, and the fewest possible.
    pub fragment_passes: Vec<(FragmentLines, (u64, u64))>,
    execute_lanes: Execute,
    tensor: crate::tensor::Engine,
    instructions_left: u64,
}

/// Who is executing what.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub rank: u32,
    /// Warp among those of the cluster.
    pub warp: u32,
    pub pc: u32,
}

impl At {
    #[inline(always)]
    pub(crate) fn participant(&self, lane: usize) -> Participant {
        self.warp * LANES as u32 + lane as u32
    }

    #[inline(always)]
    pub(crate) fn accessor(&self, lane: usize, atomic: bool) -> Accessor {
        Accessor { participant: self.participant(lane), pc: self.pc, atomic }
    }
}

/// How an instruction that is not lane-wise ends.
pub(crate) enum Step {
    /// On to the next instruction.
    Next,
    /// Some lanes go elsewhere.
    Branch {
        target: u32,
        lanes: u32,
    },
    /// Lanes go to different places.
    Scatter(Vec<(u32, u32)>),
    Exit(u32),
    /// Wait, then execute this instruction again.
    Retry(Wait),
    /// Wait, then go on after it.
    Park(Wait),
    /// Go on, but let others run first.
    Yield,
}

impl<'l> Machine<'l> {
    pub(crate) fn new(
        context: &'l LaunchContext<'l>,
        global: GlobalView<'l>,
        findings: Findings,
        executions: Executions,
        execute_lanes: Execute,
    ) -> Self {
        Self {
            context,
            global,
            findings,
            counters: Counters::default(),
            executions,
            published: HashMap::new(),
            runnable: Vec::new(),
            fragment_passes: Vec::new(),
            execute_lanes,
            tensor: crate::tensor::Engine::fastest(),
            instructions_left: context.launch.limits.instructions,
        }
    }

    pub(crate) fn tensor(&self) -> crate::tensor::Engine {
        self.tensor
    }

    /// Reports a finding and goes on.
    #[cold]
    pub(crate) fn report(
        &mut self,
        cluster: &Cluster,
        kind: FindingKind,
        pc: u32,
        by: Participant,
        other: Option<(u32, Participant)>,
        message: impl FnOnce() -> String,
    ) {
        let index = cluster.index as u32;
        let at = self.context.site(index, by, pc);
        let other: Option<Site> = other.map(|(pc, by)| self.context.site(index, by, pc));
        self.findings.report(self.context.program, self.context.launch.seed, kind, at, other, message);
    }

    /// Reports a finding after which the unit cannot go on.
    #[cold]
    pub(crate) fn stop(
        &mut self,
        cluster: &Cluster,
        kind: FindingKind,
        pc: u32,
        by: Participant,
        message: impl FnOnce() -> String,
    ) -> Stopped {
        self.report(cluster, kind, pc, by, None, message);
        Stopped
    }

    /// Reports what the shadow of shared memory has against an access.
    #[cold]
    pub(crate) fn report_conflict(
        &mut self,
        cluster: &Cluster,
        conflict: Conflict,
        pc: u32,
        by: Participant,
        offset: u32,
        bytes: u32,
    ) {
        let (kind, other, what) = match conflict {
            Conflict::Uninitialized => (FindingKind::UninitializedRead, None, "reads"),
            Conflict::InFlight { by, pc } => (FindingKind::AsyncReadBeforeWait, Some((pc, by)), "touches"),
            Conflict::ReadAfterWrite { by, pc } => (FindingKind::SharedRace, Some((pc, by)), "reads"),
            Conflict::WriteAfterWrite { by, pc } | Conflict::WriteAfterRead { by, pc } => {
                (FindingKind::SharedRace, Some((pc, by)), "writes")
            }
            Conflict::Unfenced { by, pc } => (FindingKind::MissingProxyFence, Some((pc, by)), "reads asynchronously"),
        };
        let reason = match conflict {
            Conflict::Uninitialized => "that nobody has written",
            Conflict::InFlight { .. } => {
                "while an asynchronous copy into them is under way: its wait is missing or too weak"
            }
            Conflict::ReadAfterWrite { .. } => "and nothing orders that after the write",
            Conflict::WriteAfterWrite { .. } => "and nothing orders that after an earlier write",
            Conflict::WriteAfterRead { .. } => "and nothing orders that after an earlier read",
            Conflict::Unfenced { .. } => "that were written by ordinary stores without `fence.proxy.async` in between",
        };
        self.report(cluster, kind, pc, by, other, || {
            format!("{what} {bytes} bytes at shared address {offset:#x} {reason}")
        });
    }

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
                self.executions.threads[pc as usize] += u64::from(mask.count_ones());
                warp.clock += 1;
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
                    (self.execute_lanes)(&instruction.operation, &mut warp.registers, mask);
                    current.pc += 1;
                    if !warp.splits.is_empty() && behind(&warp.splits, current.pc) {
                        warp.splits.push(current);
                        continue 'pick;
                    }
                    continue;
                }
                let at = At { rank, warp: global_warp, pc };
                let step = match self.instruction(cluster, warp, at, &instruction.operation, mask, current.mask) {
                    Ok(step) => step,
                    Err(Stopped) => {
                        warp.splits.push(current);
                        return Turn::Stopped;
                    }
                };
                match step {
                    Step::Next => current.pc += 1,
                    Step::Branch { target, lanes } => {
                        if lanes == current.mask {
                            current.pc = target;
                        } else {
                            warp.splits.push(Split { pc: target, mask: lanes, wait: Wait::Nothing });
                            current.mask &= !lanes;
                            current.pc += 1;
                        }
                    }
                    Step::Scatter(targets) => {
                        for (target, lanes) in targets {
                            warp.splits.push(Split { pc: target, mask: lanes, wait: Wait::Nothing });
                            current.mask &= !lanes;
                        }
                        current.pc += 1;
                        if current.mask == 0 {
                            continue 'pick;
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
        together: u32,
    ) -> Result<Step, Stopped> {
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
            Operation::Fence(kind) => Ok(self.fence(cluster, at, *kind, mask)),
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

/// Whether all live lanes execute this. A guard that keeps lanes out keeps the instruction from ever completing.
pub(crate) fn is_whole_warp(warp: &Warp, mask: u32) -> bool {
    mask == warp.live()
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
        if other.pc == current.pc && matches!(other.wait, Wait::Nothing | Wait::Lanes) {
            current.mask |= other.mask;
            splits.swap_remove(index);
        } else {
            index += 1;
        }
    }
}
