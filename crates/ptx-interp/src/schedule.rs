//! A unit of execution: one cluster of blocks, or all blocks of a launch if they talk to each other. Warps take
//! turns of random length in an order that the seed chooses; asynchronous copies complete at random moments.

use std::ops::Range;

use crate::address_space::{SHARED_WINDOW, split_shared};
use crate::alu;
use crate::counters::{Counters, Executions};
use crate::coverage::CoverageCounts;
use crate::decode::{Constant, LaneRegister, MbarrierAction, Operation, Space};
use crate::diagnostics::{FindingKind, Findings, Missing, Mistake};
use crate::machine::{
    Block, Cluster, InFlight, LaunchContext, Machine, MbarrierState, Split, Stragglers, Wait, Warp, addresses,
    wake_stragglers,
};
use crate::memory::Memory;
use crate::order::{Causality, Changes, GlobalView, HappensBefore, SharedMemory};
use crate::random::Random;
use crate::registers::{LANES, Registers};
use crate::turn::Turn;

pub(crate) struct UnitOutcome {
    pub findings: Findings,
    pub counters: Counters,
    pub executions: Executions,
    pub coverage: Option<CoverageCounts>,
    pub changes: Changes,
    pub completed: bool,
}

pub(crate) struct Unit<'l> {
    context: &'l LaunchContext<'l>,
    machine: Machine<'l>,
    /// Clusters that have not started.
    waiting: Range<u64>,
    active: Vec<Cluster>,
    random: Random,
}

/// Instructions of a turn: usually long, for speed; sometimes short, so that orders vary.
fn turn_length(random: &mut Random) -> u32 {
    let draw = random.next();
    if draw.is_multiple_of(4) { 1 + (draw >> 8) as u32 % 16 } else { 64 + (draw >> 8) as u32 % 512 }
}

impl<'l> Unit<'l> {
    pub(crate) fn new(context: &'l LaunchContext<'l>, memory: &'l Memory, clusters: Range<u64>) -> Self {
        let launch = context.launch;
        let checks = &launch.checks;
        let global = GlobalView::new(
            memory,
            context.program.global_granule,
            context.warps * LANES as u32,
            checks.global_races,
            checks.uninitialized_global,
        );
        let seed = launch.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ clusters.start;
        let machine = Machine::new(
            context,
            global,
            Findings::new(checks.max_findings),
            Executions::new(context.program.instructions.len()),
            alu::fastest(),
            launch.stragglers.then(|| Stragglers::new(seed)),
        );
        let random = Random::new(seed);
        Self { context, machine, waiting: clusters, active: Vec::new(), random }
    }

    pub(crate) fn run(mut self) -> UnitOutcome {
        let resident = (self.context.launch.limits.resident_blocks / self.context.blocks_per_cluster()).max(1) as usize;
        let mut completed = true;
        'run: loop {
            while self.active.len() < resident
                && let Some(next) = self.waiting.next()
            {
                let cluster = self.start(next);
                self.active.push(cluster);
            }
            if self.active.is_empty() {
                break;
            }
            // A cluster keeps its turn for some warps, so that the caches stay warm.
            let chosen = self.random.below(self.active.len());
            for _ in 0..16 {
                match self.step(chosen) {
                    Progress::Made => {}
                    Progress::Finished => {
                        let cluster = self.active.swap_remove(chosen);
                        self.machine.counters.blocks += cluster.blocks.len() as u64;
                        break;
                    }
                    Progress::Stuck => {
                        // Another cluster may still wake this one, but only through memory, and then it spins.
                        if self.active.len() == 1 && self.waiting.is_empty() || !self.any_can_move() {
                            self.report_deadlock();
                            completed = false;
                            break 'run;
                        }
                        break;
                    }
                    Progress::Stopped => {
                        completed = false;
                        break 'run;
                    }
                }
            }
        }
        let Machine { findings, counters, executions, coverage, global, .. } = self.machine;
        UnitOutcome { findings, counters, executions, coverage, changes: global.into_changes(), completed }
    }

    fn any_can_move(&self) -> bool {
        self.active.iter().any(|cluster| {
            !cluster.transfers.is_empty() || cluster.blocks.iter().any(|block| block.warps.iter().any(Warp::can_move))
        })
    }

    /// One turn of one warp, or the end of one asynchronous copy.
    fn step(&mut self, chosen: usize) -> Progress {
        let cluster = &mut self.active[chosen];
        if let Some(stragglers) = &mut self.machine.stragglers {
            stragglers.pass_time(cluster);
        }
        let mut runnable = std::mem::take(&mut self.machine.runnable);
        runnable.clear();
        let mut alive = false;
        for (rank, block) in cluster.blocks.iter().enumerate() {
            for (index, warp) in block.warps.iter().enumerate() {
                alive |= !warp.splits.is_empty();
                if warp.is_runnable() {
                    runnable.push((rank as u32, index as u32));
                }
            }
        }
        let pick = if runnable.is_empty() { None } else { Some(runnable[self.random.below(runnable.len())]) };
        self.machine.runnable = runnable;
        let transfers = cluster.transfers.len();
        if transfers > 0 && (pick.is_none() || self.random.next().is_multiple_of(8)) {
            let which = self.random.below(transfers);
            return match self.machine.complete_transfer(cluster, which) {
                Ok(()) => Progress::Made,
                Err(_) => Progress::Stopped,
            };
        }
        let Some((rank, index)) = pick else {
            if self.machine.stragglers.is_some() && wake_stragglers(cluster) {
                return Progress::Made;
            }
            return if alive { Progress::Stuck } else { Progress::Finished };
        };
        let quantum = turn_length(&mut self.random);
        let mut warp = std::mem::replace(&mut cluster.blocks[rank as usize].warps[index as usize], Warp::placeholder());
        let turn = self.machine.run_warp(cluster, rank, &mut warp, quantum, &mut self.random);
        cluster.blocks[rank as usize].warps[index as usize] = warp;
        match turn {
            Turn::Over => Progress::Made,
            Turn::Stopped => Progress::Stopped,
        }
    }

    fn report_deadlock(&mut self) {
        let (program, context) = (self.context.program, self.context);
        for cluster in &self.active {
            // Lanes that have missed a phase are the cause where there are any, and then lanes that wait for lanes of their own
            // warp.
            let stuck = cluster.blocks.iter().flat_map(|block| {
                block.warps.iter().flat_map(move |warp| warp.splits.iter().map(move |split| (block.rank, warp, split)))
            });
            let missed = |rank: u32, warp: &Warp, split: &Split| {
                let awaited = Awaited::find(context, split, warp, cluster, rank);
                awaited.filter(|awaited| awaited.missed > 0)
            };
            let mut stuck: Vec<_> = stuck.collect();
            stuck.sort_by_key(|(rank, warp, split)| match split.wait {
                Wait::Lanes => 1,
                _ if missed(*rank, warp, split).is_some() => 0,
                _ => 2,
            });
            let Some(&(rank, warp, split)) = stuck.first() else { continue };
            let thread = (rank * context.warps + warp.index) * LANES as u32 + split.mask.trailing_zeros();
            let at = context.site(cluster.index as u32, thread, split.pc);
            let operation = &program.instructions[split.pc as usize].operation;
            let missed = missed(rank, warp, split);
            let mistake: Mistake = match (split.wait, operation) {
                (Wait::Lanes, Operation::Barrier(_) | Operation::WarpBarrier { .. }) => {
                    FindingKind::DivergentBarrier.into()
                }
                (Wait::Lanes, _) => FindingKind::DivergentShuffle.into(),
                _ if missed.is_some() => (FindingKind::MissedPhase, Missing::Meeting).into(),
                _ => FindingKind::Deadlock.into(),
            };
            let other = stuck
                .iter()
                .find(|(_, other_warp, other)| {
                    other.pc != split.pc && (split.wait != Wait::Lanes || other_warp.index == warp.index)
                })
                .map(|&(rank, warp, split)| {
                    let thread = (rank * context.warps + warp.index) * LANES as u32 + split.mask.trailing_zeros();
                    context.site(cluster.index as u32, thread, split.pc)
                });
            let message = || match &missed {
                Some(awaited) => format!(
                    "lanes {:#010x} wait{} for ever: others of their warp have seen that phase complete, and {} more have completed \
                     since while these had not looked",
                    split.mask,
                    awaited.name(),
                    awaited.missed,
                ),
                None => describe_wait(context, split, warp, cluster, rank),
            };
            self.machine.findings.report(program, context.launch.seed, mistake, at, other, message);
        }
    }

    fn start(&self, index: u64) -> Cluster {
        let context = self.context;
        let program = context.program;
        let checks = &context.launch.checks;
        let blocks = context.blocks_per_cluster();
        let precise = program.features.precise_ordering || blocks > 1;
        let order = HappensBefore::new(index as u32, context.warps * LANES as u32, blocks, precise);
        let causality = (program.features.phases && checks.missed_phases)
            .then(|| Causality::new(index as u32, context.warps * LANES as u32, blocks));
        let blocks = (0..blocks)
            .map(|rank| (rank, self.first_registers(index, rank)))
            .map(|(rank, first)| Block {
                rank,
                shared: SharedMemory::new(
                    context.shared_end,
                    program.shared_granule,
                    context.warps as usize,
                    rank * context.warps,
                    precise,
                    checks.shared_races,
                    checks.uninitialized_shared,
                ),
                warps: (0..context.warps).map(|warp| self.new_warp(index, rank, warp, &first)).collect(),
                barriers: Default::default(),
                free_registers: 0,
            })
            .collect();
        Cluster::new(index, order, causality, blocks)
    }

    /// Registers as all warps of a block begin with them; those that tell lanes or warps apart are left.
    fn first_registers(&self, cluster: u64, rank: u32) -> Registers {
        let program = self.context.program;
        let mut registers = Registers {
            words: vec![[0; LANES]; program.words],
            doubles: vec![[0; LANES]; program.doubles],
            predicates: vec![0; program.predicates],
        };
        for &(register, constant) in program.constants.iter().filter(|(_, constant)| !is_of_lane_or_warp(constant)) {
            let value = self.constant(constant, cluster, rank, 0, 0);
            match register {
                LaneRegister::Word(register) => registers.words[usize::from(register.0)] = [value as u32; LANES],
                LaneRegister::Double(register) => registers.doubles[usize::from(register.0)] = [value; LANES],
            }
        }
        for &(register, holds) in &program.predicate_constants {
            registers.predicates[usize::from(register.0)] = if holds { u32::MAX } else { 0 };
        }
        registers
    }

    fn new_warp(&self, cluster: u64, rank: u32, warp: u32, first: &Registers) -> Warp {
        let program = self.context.program;
        let mut registers = first.clone();
        for &(register, constant) in program.constants.iter().filter(|(_, constant)| is_of_lane_or_warp(constant)) {
            for lane in 0..LANES {
                let value = self.constant(constant, cluster, rank, warp, lane as u32);
                match register {
                    LaneRegister::Word(register) => registers.words[usize::from(register.0)][lane] = value as u32,
                    LaneRegister::Double(register) => registers.doubles[usize::from(register.0)][lane] = value,
                }
            }
        }
        let present = (self.context.threads - warp * LANES as u32).min(LANES as u32);
        let lanes = if present == 32 { u32::MAX } else { (1 << present) - 1 };
        let mut warp = Warp::new(warp, registers, program.entry, lanes, program.local_bytes as usize);
        warp.in_flight = InFlight::new(program);
        warp.register_share = program.registers_per_thread.unwrap_or(0);
        warp
    }

    fn constant(&self, constant: Constant, cluster: u64, rank: u32, warp: u32, lane: u32) -> u64 {
        let context = self.context;
        let thread = warp * LANES as u32 + lane;
        let [width, height, _] = context.launch.block;
        let value = match constant {
            Constant::Bits(bits) => return bits,
            Constant::ModuleVariable(index) => return context.variables[usize::from(index)],
            Constant::Parameter { offset, bytes, signed } => {
                let mut value = [0; 8];
                let (offset, bytes) = (usize::from(offset), usize::from(bytes));
                value[..bytes].copy_from_slice(&context.launch.params[offset..offset + bytes]);
                let value = u64::from_le_bytes(value);
                let unused = 64 - bytes as u32 * 8;
                return if signed { ((value << unused) as i64 >> unused) as u64 } else { value };
            }
            Constant::ThreadIndex(0) => thread % width,
            Constant::ThreadIndex(1) => thread / width % height,
            Constant::ThreadIndex(_) => thread / width / height,
            Constant::BlockSize(axis) => context.launch.block[usize::from(axis)],
            Constant::BlockIndex(axis) => context.block_position(cluster, rank)[usize::from(axis)],
            Constant::GridSize(axis) => context.launch.grid[usize::from(axis)],
            Constant::ClusterIndex(axis) => context.cluster_position(cluster)[usize::from(axis)],
            Constant::ClusterCount(axis) => context.clusters[usize::from(axis)],
            Constant::BlockInCluster(axis) => context.rank_position(rank)[usize::from(axis)],
            Constant::ClusterSize(axis) => context.cluster[usize::from(axis)],
            Constant::BlockRank => rank,
            Constant::BlocksInCluster => context.blocks_per_cluster(),
            Constant::Lane => lane,
            Constant::WarpIndex => warp,
            Constant::WarpCount => context.warps,
            Constant::LanesEqual => 1 << lane,
            Constant::LanesLess => (1 << lane) - 1,
            Constant::LanesLessEqual => u32::MAX >> (31 - lane),
            Constant::LanesGreater => !(u32::MAX >> (31 - lane)),
            Constant::LanesGreaterEqual => !((1 << lane) - 1),
            Constant::DynamicSharedBytes => context.launch.dynamic_shared,
            Constant::TotalSharedBytes => context.shared_end,
        };
        u64::from(value)
    }
}

/// True if it may differ between two threads of a block.
fn is_of_lane_or_warp(constant: &Constant) -> bool {
    match constant {
        Constant::ThreadIndex(_)
        | Constant::Lane
        | Constant::WarpIndex
        | Constant::LanesEqual
        | Constant::LanesLess
        | Constant::LanesLessEqual
        | Constant::LanesGreater
        | Constant::LanesGreaterEqual => true,
        Constant::Bits(_)
        | Constant::ModuleVariable(_)
        | Constant::Parameter { .. }
        | Constant::BlockSize(_)
        | Constant::BlockIndex(_)
        | Constant::GridSize(_)
        | Constant::ClusterIndex(_)
        | Constant::ClusterCount(_)
        | Constant::BlockInCluster(_)
        | Constant::ClusterSize(_)
        | Constant::BlockRank
        | Constant::BlocksInCluster
        | Constant::WarpCount
        | Constant::DynamicSharedBytes
        | Constant::TotalSharedBytes => false,
    }
}

enum Progress {
    Made,
    Finished,
    Stuck,
    Stopped,
}

/// The mbarrier that the first of some lanes waits for.
struct Awaited<'c> {
    state: &'c MbarrierState,
    offset: u32,
    /// Of the phase; none where a token names it.
    parity: Option<u32>,
    /// How many phases have completed since the one that it waits for and other lanes have seen.
    missed: u64,
}

impl<'c> Awaited<'c> {
    fn find(
        context: &LaunchContext<'_>,
        split: &Split,
        warp: &Warp,
        cluster: &'c Cluster,
        rank: u32,
    ) -> Option<Awaited<'c>> {
        let operation = &context.program.instructions.get(split.pc as usize)?.operation;
        let (Wait::Mbarrier, Operation::Mbarrier(mbarrier)) = (split.wait, operation) else { return None };
        let lane = split.mask.trailing_zeros() as usize & 31;
        let mut address = addresses(&warp.registers, mbarrier.address)[lane];
        if mbarrier.space == Space::Generic {
            address = address.checked_sub(SHARED_WINDOW)?;
        }
        let (_, offset) = split_shared(address as u32, rank);
        let parity = match mbarrier.action {
            MbarrierAction::WaitParity { parity, .. } => Some(warp.registers.word(parity)[lane] & 1),
            _ => None,
        };
        let state = cluster.mbarriers.get(&(rank, offset))?;
        let missed = state.missed_by(warp.index * LANES as u32 + lane as u32, parity);
        Some(Self { state, offset, parity, missed })
    }

    /// What it waits for, behind a verb.
    fn name(&self) -> String {
        let offset = self.offset;
        match self.parity {
            Some(parity) => format!(" for parity {parity} of the mbarrier at {offset:#x}"),
            None => format!(" for the mbarrier at {offset:#x}"),
        }
    }
}

fn describe_wait(context: &LaunchContext<'_>, split: &Split, warp: &Warp, cluster: &Cluster, rank: u32) -> String {
    let mask = split.mask;
    match split.wait {
        Wait::Lanes => {
            let missing = warp.live() & !mask;
            if missing == 0 {
                format!("lanes {mask:#010x} wait for lanes that have exited")
            } else {
                format!("lanes {mask:#010x} wait here; lanes {missing:#010x} of the warp never come")
            }
        }
        Wait::Barrier { index, .. } => {
            let barrier = &cluster.blocks[rank as usize].barriers[index as usize & 15];
            let wanted = if barrier.expected == 0 { "all".to_string() } else { barrier.expected.to_string() };
            format!(
                "barrier {index} waits for {wanted} threads; {} have arrived and no warp can move",
                barrier.arrived()
            )
        }
        Wait::Cluster { .. } => "a cluster barrier waits for threads that never arrive".into(),
        Wait::Mbarrier => match Awaited::find(context, split, warp, cluster, rank) {
            Some(awaited) => {
                let MbarrierState { phase, pending, count, bytes, .. } = awaited.state;
                format!(
                    "an mbarrier's phase never completes: lanes {mask:#010x} wait{}, whose phase {phase} awaits {pending} of \
                     {count} arrivals and {bytes} bytes",
                    awaited.name()
                )
            }
            None => "an mbarrier's phase never completes: arrivals or bytes are missing".into(),
        },
        Wait::Registers => format!(
            "setmaxnreg.inc waits for registers: warps of this block begin with {} per thread, this one has {}, and \
             {} are free for a whole warp: other warps must give back more, or this one ask for less",
            context.program.registers_per_thread.unwrap_or(0),
            warp.register_share,
            cluster.blocks[rank as usize].free_registers,
        ),
        Wait::Bulk => "bulk copies never complete".into(),
        Wait::Nothing | Wait::Lagging => "no warp can move".into(),
    }
}
