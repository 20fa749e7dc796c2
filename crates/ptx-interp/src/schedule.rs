//! A unit of execution: one cluster of blocks, or all blocks of a launch if they talk to each other. Warps take
//! turns of random length in an order that the seed chooses; asynchronous copies complete at random moments.

use std::ops::Range;

use crate::alu;
use crate::counters::{Counters, Executions};
use crate::coverage::CoverageCounts;
use crate::decode::{Constant, LaneRegister, Operation};
use crate::diagnostics::{FindingKind, Findings};
use crate::machine::{Block, Cluster, InFlight, LaunchContext, Machine, Wait, Warp};
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
        let machine = Machine::new(
            context,
            global,
            Findings::new(checks.max_findings),
            Executions::new(context.program.instructions.len()),
            alu::fastest(),
        );
        let random = Random::new(launch.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ clusters.start);
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
            !cluster.transfers.is_empty()
                || cluster.blocks.iter().any(|block| block.warps.iter().any(Warp::is_runnable))
        })
    }

    /// One turn of one warp, or the end of one asynchronous copy.
    fn step(&mut self, chosen: usize) -> Progress {
        let cluster = &mut self.active[chosen];
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
        let program = self.context.program;
        for cluster in &self.active {
            // Lanes that wait for lanes of their own warp are the cause where there are any.
            let stuck = cluster.blocks.iter().flat_map(|block| {
                block.warps.iter().flat_map(move |warp| warp.splits.iter().map(move |split| (block.rank, warp, split)))
            });
            let mut stuck: Vec<_> = stuck.collect();
            stuck.sort_by_key(|(_, _, split)| split.wait != Wait::Lanes);
            let Some(&(rank, warp, split)) = stuck.first() else { continue };
            let thread = (rank * self.context.warps + warp.index) * LANES as u32 + split.mask.trailing_zeros();
            let at = self.context.site(cluster.index as u32, thread, split.pc);
            let operation = &program.instructions[split.pc as usize].operation;
            let kind = match (split.wait, operation) {
                (Wait::Lanes, Operation::Barrier(_) | Operation::WarpBarrier { .. }) => FindingKind::DivergentBarrier,
                (Wait::Lanes, _) => FindingKind::DivergentShuffle,
                _ => FindingKind::Deadlock,
            };
            let other = stuck
                .iter()
                .find(|(_, other_warp, other)| {
                    other.pc != split.pc && (split.wait != Wait::Lanes || other_warp.index == warp.index)
                })
                .map(|&(rank, warp, split)| {
                    let thread = (rank * self.context.warps + warp.index) * LANES as u32 + split.mask.trailing_zeros();
                    self.context.site(cluster.index as u32, thread, split.pc)
                });
            let message = || describe_wait(self.context, split.wait, split.mask, warp, cluster, rank);
            self.machine.findings.report(program, self.context.launch.seed, kind, at, other, message);
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
            .map(|rank| Block {
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
                warps: (0..context.warps).map(|warp| self.new_warp(index, rank, warp)).collect(),
                barriers: Default::default(),
                free_registers: 0,
            })
            .collect();
        Cluster::new(index, order, causality, blocks)
    }

    fn new_warp(&self, cluster: u64, rank: u32, warp: u32) -> Warp {
        let program = self.context.program;
        let mut registers = Registers {
            words: vec![[0; LANES]; program.words],
            doubles: vec![[0; LANES]; program.doubles],
            predicates: vec![0; program.predicates],
        };
        for &(register, constant) in &program.constants {
            if matches!(constant, Constant::Bits(_) | Constant::ModuleVariable(_) | Constant::Parameter { .. }) {
                // The same in every lane.
                let value = self.constant(constant, cluster, rank, warp, 0);
                match register {
                    LaneRegister::Word(register) => registers.words[usize::from(register.0)] = [value as u32; LANES],
                    LaneRegister::Double(register) => registers.doubles[usize::from(register.0)] = [value; LANES],
                }
                continue;
            }
            for lane in 0..LANES {
                let value = self.constant(constant, cluster, rank, warp, lane as u32);
                match register {
                    LaneRegister::Word(register) => registers.words[usize::from(register.0)][lane] = value as u32,
                    LaneRegister::Double(register) => registers.doubles[usize::from(register.0)][lane] = value,
                }
            }
        }
        for &(register, holds) in &program.predicate_constants {
            registers.predicates[usize::from(register.0)] = if holds { u32::MAX } else { 0 };
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

enum Progress {
    Made,
    Finished,
    Stuck,
    Stopped,
}

fn describe_wait(
    context: &LaunchContext<'_>,
    wait: Wait,
    mask: u32,
    warp: &Warp,
    cluster: &Cluster,
    rank: u32,
) -> String {
    match wait {
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
        Wait::Mbarrier => "an mbarrier's phase never completes: arrivals or bytes are missing".into(),
        Wait::Registers => format!(
            "setmaxnreg.inc waits for registers: warps of this block begin with {} per thread, this one has {}, and \
             {} are free for a whole warp: other warps must give back more, or this one ask for less",
            context.program.registers_per_thread.unwrap_or(0),
            warp.register_share,
            cluster.blocks[rank as usize].free_registers,
        ),
        Wait::Bulk => "bulk copies never complete".into(),
        Wait::Nothing => "no warp can move".into(),
    }
}
