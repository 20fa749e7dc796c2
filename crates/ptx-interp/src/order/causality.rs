//! What cannot happen before what, whatever the schedule: may a thread still be on its way to an instruction when
//! something else happens?
//!
//! Order of memory ([`HappensBefore`]) is not enough for that question, and not needed. A shuffle orders no memory, but no
//! lane leaves it before all have come. A relaxed arrival publishes nothing, but a wait that it completes comes after it.
//! So here every instruction that lets lanes wait for each other counts, with any semantics and any scope.

use std::collections::VecDeque;

use super::clock::{Clock, Messages};
use super::happens_before::{HappensBefore, Participant, Stamp};
use crate::decode::Scope;
use crate::registers::LANES;

/// An arrival at an mbarrier by a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub thread: Participant,
    pub stamp: Stamp,
    pub pc: u32,
}

/// Arrivals of a warp that are remembered, to be named in a finding.
const ARRIVALS_KEPT: usize = 16;

#[derive(Debug)]
pub(crate) struct Causality {
    order: HappensBefore,
    /// By warp: whether a lane has looked or learned something since all of them met.
    apart: Vec<bool>,
    /// The newest arrivals of each warp, oldest first.
    arrivals: Vec<VecDeque<Arrival>>,
}

impl Causality {
    /// `threads_per_block` is a whole number of warps.
    pub(crate) fn new(cluster: u32, threads_per_block: u32, blocks: u32) -> Self {
        let warps = (threads_per_block * blocks) as usize / LANES;
        Self {
            order: HappensBefore::new(cluster, threads_per_block, blocks, true),
            apart: vec![false; warps],
            arrivals: vec![VecDeque::new(); warps],
        }
    }

    /// A thread has seen that a phase is complete: what must come after that knows this stamp of it.
    pub(crate) fn look(&mut self, thread: Participant) -> Stamp {
        self.apart[thread as usize / LANES] = true;
        self.order.now()
    }

    /// A thread lets those go on that will learn from these messages.
    pub(crate) fn publish(&mut self, thread: Participant, messages: &mut Messages) {
        self.order.publish(thread, true, Scope::Device, messages);
    }

    /// A thread arrives at an mbarrier.
    pub(crate) fn arrive(&mut self, thread: Participant, pc: u32, messages: &mut Messages) {
        let kept = &mut self.arrivals[thread as usize / LANES];
        if kept.len() == ARRIVALS_KEPT {
            kept.pop_front();
        }
        kept.push_back(Arrival { thread, stamp: self.order.now(), pc });
        self.publish(thread, messages);
    }

    /// A thread could only get here because these messages were published.
    pub(crate) fn learn(&mut self, thread: Participant, messages: &Messages) {
        self.apart[thread as usize / LANES] = true;
        self.order.learn(thread, true, Scope::Device, messages);
    }

    /// These lanes of a warp have waited for each other; `all` if no other lane is left.
    #[inline(always)]
    pub(crate) fn warp_met(&mut self, warp: u32, lanes: u32, all: bool) {
        // Where no lane knows more than another, there is nothing to share.
        if self.apart[warp as usize] {
            self.share(warp, lanes, all);
        }
    }

    #[cold]
    fn share(&mut self, warp: u32, lanes: u32, all: bool) {
        self.order.warp_barrier(warp, lanes, all);
        self.apart[warp as usize] = !all;
    }

    /// All threads of a block have waited for each other.
    pub(crate) fn block_met(&mut self, block: u32) {
        self.order.block_barrier(block);
        let warps = self.apart.len() / self.order.blocks();
        self.apart[block as usize * warps..][..warps].fill(false);
    }

    /// Some threads have waited for these, which have arrived.
    pub(crate) fn met(&mut self, arrived: &[Participant], waiting: &[Participant]) {
        self.order.meeting(arrived, waiting);
        for &thread in waiting {
            self.apart[thread as usize / LANES] = true;
        }
    }

    /// Threads arrive at the cluster's barrier.
    pub(crate) fn release_all(&mut self, threads: &[Participant], message: &mut Clock) {
        self.order.release_all(threads, message);
    }

    /// A thread leaves the cluster's barrier.
    pub(crate) fn acquire(&mut self, thread: Participant, message: &Clock) {
        self.apart[thread as usize / LANES] = true;
        self.order.acquire(thread, message);
    }

    /// The first arrival by a thread's warp, not before a stamp, without which these messages were not complete.
    pub(crate) fn first_arrival(&self, thread: Participant, since: Stamp, messages: &Messages) -> Option<Arrival> {
        let arrivals = self.arrivals[thread as usize / LANES].iter();
        arrivals.copied().find(|arrival| arrival.stamp >= since && messages.know(arrival.thread, arrival.stamp))
    }
}
