//! The state of what runs, and what every instruction does with it: report, find an address, touch memory.
//!
//! Nothing in this module knows an instruction; `execute` has one file for each family of them, and each sees this
//! module only.

mod barriers;
mod calls;
mod cluster;
mod context;
mod copies;
mod global;
mod in_flight;
mod local;
mod mbarriers;
mod places;
mod publish;
mod shared;
mod transfers;
mod variables;
mod warp;

use std::collections::HashMap;

pub(crate) use barriers::{ClusterBarrier, NamedBarrier};
pub(crate) use calls::CallStacks;
pub(crate) use cluster::{Block, Cluster, has_exited};
pub(crate) use context::LaunchContext;
pub(crate) use copies::{CopyQueue, PendingCopy};
pub(crate) use in_flight::{Flight, InFlight, Role};
pub(crate) use local::LocalMemory;
pub(crate) use mbarriers::{COUNT_BITS, MAX_COUNT, MbarrierState};
pub(crate) use places::{Lanes, SharedPlace, addresses, for_each_space, is_in_space, is_side_by_side, rebased};
pub(crate) use transfers::{Action, BulkGroups, Piece, Target, Transfer, groups_of};
pub(crate) use variables::load_variables;
pub(crate) use warp::{Group, Split, Wait, Warp, is_whole_warp};

use crate::alu::Execute;
use crate::counters::{Counters, Executions};
use crate::coverage::CoverageCounts;
use crate::decode::{Manner, Operation};
use crate::diagnostics::{FindingKind, Findings, Site};
use crate::order::{Accessor, Conflict, GlobalView, Messages, Participant};
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
    pub counters: Counters,
    pub executions: Executions,
    /// Kept only if the launch asks for it.
    pub coverage: Option<CoverageCounts>,
    /// What writes of global memory have published, by address.
    pub published: HashMap<u64, Messages>,
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
    /// These lanes wait for others and then execute this instruction again; the rest goes on.
    RetrySome(u32),
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
            waiting => Self::RetrySome(waiting),
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
    ) -> Self {
        Self {
            context,
            global,
            findings,
            counters: Counters::default(),
            executions,
            coverage: context.launch.coverage.then(|| CoverageCounts::new(context.program.instructions.len())),
            published: HashMap::new(),
            runnable: Vec::new(),
            fragment_passes: Vec::new(),
            execute_lanes,
            instructions_left: context.launch.limits.instructions,
        }
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
        let (kind, other) = match conflict {
            Conflict::Uninitialized => (FindingKind::UninitializedRead, None),
            Conflict::InFlight { by, pc } => (FindingKind::AsyncReadBeforeWait, Some((pc, by))),
            Conflict::ReadAfterWrite { by, pc }
            | Conflict::WriteAfterWrite { by, pc }
            | Conflict::WriteAfterRead { by, pc } => (FindingKind::SharedRace, Some((pc, by))),
            Conflict::Unfenced { by, pc } => (FindingKind::MissingProxyFence, Some((pc, by))),
        };
        let what = self.describe_conflict(cluster, conflict, by);
        self.report(cluster, kind, pc, by, other, || {
            let verb = match conflict {
                Conflict::Uninitialized | Conflict::ReadAfterWrite { .. } => "reads",
                Conflict::InFlight { .. } => "touches",
                Conflict::WriteAfterWrite { .. } | Conflict::WriteAfterRead { .. } => "writes",
                Conflict::Unfenced { .. } => "reads asynchronously",
            };
            format!("{verb} {bytes} bytes at shared address {offset:#x} {what}")
        });
    }

    /// What is missing between two accesses, in words.
    #[cold]
    fn describe_conflict(&self, cluster: &Cluster, conflict: Conflict, here: Participant) -> String {
        let threads = cluster.order.threads();
        let is_copy =
            |pc: u32| matches!(self.context.program.instructions[pc as usize].operation, Operation::CopyAsync(_));
        let name = |thread: Participant| self.context.thread_name(cluster, thread, here);
        let me = name(here);
        match conflict {
            Conflict::Uninitialized => "that no thread has written".into(),
            Conflict::InFlight { by, pc } if is_copy(pc) && by == here => {
                format!("while {me}'s own cp.async into them is under way: no wait of it covers that copy")
            }
            Conflict::InFlight { by, pc } if is_copy(pc) => {
                let by = name(by);
                format!(
                    "while a cp.async of {by} into them is under way: {by} must wait for it, and a barrier must stand \
                     between that wait and {me}'s access"
                )
            }
            Conflict::InFlight { .. } => {
                format!("while a bulk copy into them is under way: {me} must wait for the phase of its mbarrier")
            }
            Conflict::ReadAfterWrite { by, .. } | Conflict::WriteAfterWrite { by, .. } if by >= threads => {
                format!(
                    "that an asynchronous copy has written: no wait for its mbarrier's phase is ordered before {me}"
                )
            }
            Conflict::ReadAfterWrite { by, pc } if is_copy(pc) => {
                let by = name(by);
                format!(
                    "that a cp.async of {by} has written: {by}'s wait covers its own copies; between it and {me}'s read \
                     stands no barrier"
                )
            }
            Conflict::ReadAfterWrite { by, .. } => {
                format!(
                    "that {} has written: no barrier and nothing else orders the write before {me}'s read",
                    name(by)
                )
            }
            Conflict::WriteAfterWrite { by, .. } => {
                format!("that {} has written: no barrier and nothing else orders the two writes", name(by))
            }
            Conflict::WriteAfterRead { by, .. } if by >= threads => {
                format!("that an asynchronous unit reads: no wait for its reads is ordered before {me}'s write")
            }
            Conflict::WriteAfterRead { by, .. } => {
                format!("that {} reads: no barrier and nothing else orders that read before {me}'s write", name(by))
            }
            Conflict::Unfenced { by, .. } => format!(
                "that {} has written by an ordinary store, without `fence.proxy.async` for shared memory in between",
                name(by)
            ),
        }
    }
}
