//! The state of what runs, and what every instruction does with it: report, find an address, touch memory.
//!
//! Nothing in this module knows an instruction; `execute` has one file for each family of them, and each sees this
//! module only.

mod barriers;
mod calls;
mod cluster;
mod conflicts;
mod context;
mod copies;
mod global;
mod in_flight;
mod local;
mod mbarriers;
mod places;
mod publish;
mod shared;
mod stragglers;
mod transfers;
mod variables;
mod warp;

use std::collections::HashMap;

pub(crate) use barriers::{ClusterBarrier, NamedBarrier};
pub(crate) use calls::CallStacks;
pub(crate) use cluster::{Block, Cluster, has_exited};
pub(crate) use conflicts::Question;
pub(crate) use context::LaunchContext;
pub(crate) use copies::{CopyQueue, PendingCopy};
pub(crate) use in_flight::{Flight, InFlight, Role};
pub(crate) use local::LocalMemory;
pub(crate) use mbarriers::{COUNT_BITS, MAX_COUNT, MbarrierState};
pub(crate) use places::{Lanes, SharedPlace, addresses, for_each_space, is_in_space, is_side_by_side, rebased};
pub(crate) use stragglers::{Stragglers, Unseen, wake_stragglers};
pub(crate) use transfers::{Action, BulkGroups, Piece, Target, Transfer, groups_of};
pub(crate) use variables::load_variables;
pub(crate) use warp::{Group, Split, Wait, Warp, is_whole_warp};

use crate::alu::Execute;
use crate::counters::{Counters, Executions};
use crate::coverage::CoverageCounts;
use crate::decode::Manner;
use crate::diagnostics::{FindingKind, Findings, Mistake, Site};
use crate::order::{Accessor, GlobalView, Messages, Participant};
use crate::registers::LANES;

/// The unit cannot go on: the finding has been reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopped;

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
    /// Findings whose cause a later wait, write or barrier shows.
    pub questions: Vec<Question>,
    pub counters: Counters,
    pub executions: Executions,
    /// Only if the launch asks for them.
    pub stragglers: Option<Stragglers>,
    /// Kept only if the launch asks for it.
    pub coverage: Option<CoverageCounts>,
    /// What writes of global memory have published, by address.
    pub published: HashMap<u64, Messages>,
    /// The same for causality.
    pub causes: HashMap<u64, Messages>,
    pub runnable: Vec<(u32, u32)>,
    /// What fragments' lines seen so far take: passes, and the fewest possible.
    pub fragment_passes: Vec<(FragmentLines, (u64, u64))>,
    pub execute_lanes: Execute,
    pub instructions_left: u64,
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
    pub(crate) fn accessor(&self, lane: usize, manner: Manner) -> Accessor {
        Accessor { participant: self.participant(lane), pc: self.pc, manner }
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
    /// Some lanes go elsewhere, with these calls behind them.
    Call {
        target: u32,
        lanes: u32,
        stack: u32,
    },
    Exit(u32),
    /// Wait, then execute this instruction again.
    Retry(Wait),
    /// These lanes wait, usually for others, and then execute this instruction again; the rest goes on.
    RetrySome(u32, Wait),
    /// Wait, then go on after it.
    Park(Wait),
    /// Go on, but let others run first.
    Yield,
}

impl Step {
    /// After an instruction that waits for lanes and is done for some of those in `mask`.
    pub(crate) fn of_lanes(done: u32, mask: u32, together: u32) -> Self {
        match mask & !done {
            0 => Self::Next,
            // Lanes that a guard keeps out wait, too: they may be who is waited for.
            _ if done == 0 && mask == together => Self::Retry(Wait::Lanes),
            waiting => Self::RetrySome(waiting, Wait::Lanes),
        }
    }
}

impl<'l> Machine<'l> {
    pub(crate) fn new(
        context: &'l LaunchContext<'l>,
        global: GlobalView<'l>,
        findings: Findings,
        executions: Executions,
        execute_lanes: Execute,
        stragglers: Option<Stragglers>,
    ) -> Self {
        Self {
            stragglers,
            context,
            global,
            findings,
            questions: Vec::new(),
            counters: Counters::default(),
            executions,
            coverage: context.launch.coverage.then(|| CoverageCounts::new(context.program.instructions.len())),
            published: HashMap::new(),
            causes: HashMap::new(),
            runnable: Vec::new(),
            fragment_passes: Vec::new(),
            execute_lanes,
            instructions_left: context.launch.limits.instructions,
        }
    }

    /// Reports a finding and goes on; its number if it is a new one.
    #[cold]
    pub(crate) fn report(
        &mut self,
        cluster: &Cluster,
        mistake: impl Into<Mistake>,
        pc: u32,
        by: Participant,
        other: Option<(u32, Participant)>,
        message: impl FnOnce() -> String,
    ) -> Option<usize> {
        let index = cluster.index as u32;
        let at = self.context.site(index, by, pc);
        let other: Option<Site> = other.map(|(pc, by)| self.context.site(index, by, pc));
        self.findings.report(self.context.program, self.context.launch.seed, mistake, at, other, message)
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
}
