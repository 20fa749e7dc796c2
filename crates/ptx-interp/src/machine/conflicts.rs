//! What the shadow of shared memory has against an access, in words: which order is missing, and whose.

use super::{At, Cluster, Machine, PendingCopy, Warp};
use crate::decode::Operation;
use crate::diagnostics::{FindingKind, Missing, Mistake, describe};
use crate::order::{Conflict, Participant};
use crate::registers::LANES;

/// A finding whose cause shows only later.
pub(crate) struct Question {
    /// Number of the finding.
    finding: usize,
    cluster: u64,
    /// Who touched or read something too early, and where in the program.
    toucher: Participant,
    pc: u32,
    /// What it did.
    access: String,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// A copy of another thread was touched while it was under way. If its thread waits for it before the two meet at a
    /// barrier, the barrier is what is missing; otherwise it is the wait.
    Copy { copier: Participant, pc: u32 },
    /// Something was read that no thread had written. If a thread writes it with nothing in between, it is the order of
    /// the two that is missing.
    Unwritten,
    /// That was so, and this is where the write stands.
    WrittenAt(u32),
}

impl Machine<'_> {
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
        if let Conflict::WriteAfterRead { by: reader, pc: read_at, .. } = conflict
            && !self.questions.is_empty()
            && self.answer_unwritten(cluster, reader, read_at, by, pc)
        {
            return;
        }
        let verb = match conflict {
            Conflict::Uninitialized | Conflict::ReadAfterWrite { .. } => "reads",
            Conflict::InFlight { .. } => "touches",
            Conflict::WriteAfterWrite { .. } | Conflict::WriteAfterRead { .. } => "writes",
            Conflict::Unfenced { .. } => "reads asynchronously",
        };
        let access = format!("{verb} {bytes} bytes at shared address {offset:#x}");
        let (mistake, what) = self.explain(cluster, conflict, by);
        let other = match conflict {
            Conflict::Uninitialized => None,
            Conflict::InFlight { by, pc }
            | Conflict::ReadAfterWrite { by, pc, .. }
            | Conflict::WriteAfterWrite { by, pc, .. }
            | Conflict::WriteAfterRead { by, pc, .. }
            | Conflict::Unfenced { by, pc } => Some((pc, by)),
        };
        let Some(finding) = self.report(cluster, mistake, pc, by, other, || format!("{access} {what}")) else { return };
        let about = match conflict {
            Conflict::InFlight { by: copier, pc } if copier != by && self.is_copy(pc) => About::Copy { copier, pc },
            Conflict::Uninitialized => About::Unwritten,
            _ => return,
        };
        self.questions.push(Question { finding, cluster: cluster.index, toucher: by, pc, access, about });
    }

    /// A write of what was read before: whether that read was of nothing, which makes it the one that came too early.
    fn answer_unwritten(
        &mut self,
        cluster: &Cluster,
        reader: Participant,
        read_at: u32,
        writer: Participant,
        written_at: u32,
    ) -> bool {
        let warp = |thread: Participant| thread / LANES as u32;
        let fits = |question: &&mut Question| {
            let same = question.cluster == cluster.index && question.pc == read_at;
            same && match question.about {
                About::Unwritten => warp(question.toucher) == warp(reader),
                About::WrittenAt(pc) => pc == written_at,
                About::Copy { .. } => false,
            }
        };
        let Some(question) = self.questions.iter_mut().find(fits) else { return false };
        if question.about != About::Unwritten {
            return true;
        }
        question.about = About::WrittenAt(written_at);
        let (context, toucher) = (self.context, question.toucher);
        let (by, me) = (context.thread_name(cluster, writer, toucher), context.thread_name(cluster, toucher, toucher));
        let mistake: Mistake = if context.program.instructions[written_at as usize].operation.is_bulk_copy() {
            (FindingKind::SharedRace, Missing::Wait).into()
        } else {
            (FindingKind::SharedRace, barrier_between(cluster, writer, toucher)).into()
        };
        let order = match mistake.missing {
            Some(Missing::Wait) => "no wait for its mbarrier's phase is ordered before",
            _ => "no barrier and nothing else orders that write before",
        };
        let message = format!("{} before {by} writes them: {order} {me}'s read", question.access);
        let site = context.site(cluster.index as u32, writer, written_at);
        self.findings.amend(context.program, question.finding, mistake, Some(site), message);
        true
    }

    fn is_copy(&self, pc: u32) -> bool {
        matches!(self.context.program.instructions[pc as usize].operation, Operation::CopyAsync(_))
    }

    /// What kind of mistake it is, and what is missing between two accesses in words.
    fn explain(&self, cluster: &Cluster, conflict: Conflict, here: Participant) -> (Mistake, String) {
        let threads = cluster.order.threads();
        let name = |thread: Participant| self.context.thread_name(cluster, thread, here);
        let me = name(here);
        match conflict {
            Conflict::Uninitialized => (FindingKind::UninitializedRead.into(), "that no thread has written".into()),
            Conflict::InFlight { by, pc } => {
                let what = if !self.is_copy(pc) {
                    format!("while a bulk copy into them is under way: {me} must wait for the phase of its mbarrier")
                } else if by == here {
                    format!("while {me}'s own cp.async into them is under way: no wait of it covers that copy")
                } else {
                    let by = name(by);
                    format!(
                        "while a cp.async of {by} into them is under way: {by} must wait for it, and a barrier must \
                         stand between that wait and {me}'s access"
                    )
                };
                (FindingKind::AsyncReadBeforeWait.into(), what)
            }
            Conflict::ReadAfterWrite { by, stamp, .. } | Conflict::WriteAfterWrite { by, stamp, .. }
                if by >= threads =>
            {
                let access = if matches!(conflict, Conflict::ReadAfterWrite { .. }) { "read" } else { "write" };
                let (missing, what) = match self.who_waited(cluster, by, stamp, here) {
                    Some(other) => (
                        Missing::Barrier,
                        format!(
                            "{}'s wait for its mbarrier's phase covers it; between that wait and {me}'s {access} stands \
                             no barrier",
                            name(other)
                        ),
                    ),
                    None => {
                        (Missing::Wait, format!("no wait for its mbarrier's phase is ordered before {me}'s {access}"))
                    }
                };
                ((FindingKind::SharedRace, missing).into(), format!("that an asynchronous copy has written: {what}"))
            }
            Conflict::ReadAfterWrite { by, pc, .. } if self.is_copy(pc) => {
                let (by, missing) = (name(by), barrier_between(cluster, by, here));
                let what = format!(
                    "that a cp.async of {by} has written: {by}'s wait covers its own copies; between it and {me}'s read \
                     stands no barrier"
                );
                ((FindingKind::SharedRace, missing).into(), what)
            }
            Conflict::ReadAfterWrite { by, .. } => {
                let what = format!(
                    "that {} has written: no barrier and nothing else orders the write before {me}'s read",
                    name(by)
                );
                ((FindingKind::SharedRace, barrier_between(cluster, by, here)).into(), what)
            }
            Conflict::WriteAfterWrite { by, .. } => {
                let what = format!("that {} has written: no barrier and nothing else orders the two writes", name(by));
                ((FindingKind::SharedRace, barrier_between(cluster, by, here)).into(), what)
            }
            Conflict::WriteAfterRead { by, stamp, .. } if by >= threads => {
                self.explain_late_reads(cluster, by, stamp, here)
            }
            Conflict::WriteAfterRead { by, .. } => {
                let what = format!(
                    "that {} reads: no barrier and nothing else orders that read before {me}'s write",
                    name(by)
                );
                ((FindingKind::SharedRace, barrier_between(cluster, by, here)).into(), what)
            }
            Conflict::Unfenced { by, .. } => {
                let what = format!(
                    "that {} has written by an ordinary store, without `fence.proxy.async` for shared memory in between",
                    name(by)
                );
                (FindingKind::MissingProxyFence.into(), what)
            }
        }
    }

    /// A write of what multiplications or copies still read.
    fn explain_late_reads(
        &self,
        cluster: &Cluster,
        by: Participant,
        stamp: u32,
        here: Participant,
    ) -> (Mistake, String) {
        let me = self.context.thread_name(cluster, here, here);
        let warp = by - cluster.order.threads();
        let (reader, wait) = if warp < cluster.order.threads() / LANES as u32 {
            let warps = self.context.warps;
            (format!("a wgmma of warp {}", warp % warps), "`wgmma.wait_group`")
        } else {
            ("a copy from shared memory".into(), "`cp.async.bulk.wait_group`")
        };
        let (missing, what) = match self.who_waited(cluster, by, stamp, here) {
            Some(other) => {
                let other = self.context.thread_name(cluster, other, here);
                let what = format!("{other}'s {wait} covers it; between that wait and {me}'s write stands no barrier");
                (Missing::Barrier, what)
            }
            None => (Missing::Wait, format!("no {wait} that covers it is ordered before {me}'s write")),
        };
        ((FindingKind::SharedRace, missing).into(), format!("that {reader} reads: {what}"))
    }

    /// A thread of the same block that knows that something asynchronous is done.
    fn who_waited(&self, cluster: &Cluster, by: Participant, stamp: u32, here: Participant) -> Option<Participant> {
        let per_block = self.context.warps * LANES as u32;
        let first = here / per_block * per_block;
        (first..first + per_block).find(|thread| cluster.order.ordered(by, stamp, *thread))
    }

    /// A thread's wait is about to cover copies: those that were touched too early lack a barrier behind this wait.
    pub(crate) fn answer_questions(
        &mut self,
        cluster: &Cluster,
        warp: &Warp,
        at: At,
        covers: impl Fn(&PendingCopy) -> bool,
    ) {
        let questions = std::mem::take(&mut self.questions);
        for question in questions {
            let Question { finding, toucher, about, .. } = question;
            let About::Copy { copier, pc } = about else {
                self.questions.push(question);
                continue;
            };
            let covered =
                |copy: &PendingCopy| covers(copy) && copy.pc == pc && at.participant(usize::from(copy.lane)) == copier;
            if question.cluster != cluster.index || !warp.copies.pending.iter().any(covered) {
                self.questions.push(question);
                continue;
            }
            let context = self.context;
            let name = |thread| context.thread_name(cluster, thread, toucher);
            let wait = describe(context.program, context.site(cluster.index as u32, copier, at.pc));
            let wait = wait.kernel_line();
            let (by, me) = (name(copier), name(toucher));
            let message = format!(
                "{} that a cp.async of {by} writes: {by}'s wait, at {wait}, covers its own copies; between it and {me}'s \
                 access stands no barrier",
                question.access
            );
            let mistake = (FindingKind::SharedRace, barrier_between(cluster, copier, toucher)).into();
            self.findings.amend(context.program, finding, mistake, None, message);
        }
    }

    /// These threads have met: what they have not waited for by now lacks the wait, and what they write from now on comes
    /// after what has been read.
    pub(crate) fn close_questions(&mut self, cluster: &Cluster, met: &[Participant]) {
        self.questions.retain(|question| {
            let thread = match question.about {
                About::Copy { copier, .. } => copier,
                About::Unwritten => question.toucher,
                About::WrittenAt(_) => return true,
            };
            question.cluster != cluster.index || !met.contains(&thread)
        });
    }
}

/// The narrowest barrier that both threads can take part in.
fn barrier_between(cluster: &Cluster, a: Participant, b: Participant) -> Missing {
    let threads = cluster.order.threads();
    let same_warp = a < threads && b < threads && a / LANES as u32 == b / LANES as u32;
    if same_warp { Missing::WarpBarrier } else { Missing::Barrier }
}
