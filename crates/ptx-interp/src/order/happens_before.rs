//! Happens-before inside a cluster of blocks (usually one block), and what the cluster knows of others: which accesses
//! are ordered, whatever the schedule.
//!
//! Every access carries a stamp, the value of a counter that moves at each synchronisation. Barriers of a whole
//! block or warp then cost one number: all stamps up to it are ordered. What is left (mbarriers, partial barriers,
//! clusters, asynchronous copies, atomics) uses one sparse vector clock per thread, where a clock's entry for a
//! participant is the newest stamp of that participant that is known to have happened.
//!
//! Releases and acquires follow PTX's memory model. A release is an operation that says so, or a fence and a later
//! relaxed write; an acquire is an operation that says so, or a relaxed read and a later fence. Both sides' scopes must
//! hold both threads. One thing is looser than the manual, as devices are: the fence and the access may belong to
//! different threads if a barrier stands between them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::clock::{Clock, Messages, Origin};
use crate::decode::Scope;
use crate::registers::LANES;

/// A point in the order of a cluster's synchronisations. 0 is before everything.
pub(crate) type Stamp = u32;

/// A thread, or something asynchronous that acts for one: a warp's wgmma reads, the copies that complete on an mbarrier.
pub(crate) type Participant = u32;

/// What a thread's newest fences published, by scope: a fence at a wide scope counts at the narrower ones.
type Fences = [Option<Arc<Clock>>; 3];

/// What a thread knew at its newest `fence.proxy.async`.
#[derive(Clone, Debug, Default)]
struct ProxyFence {
    stamp: Stamp,
    /// What was ordered for its block and its warp by then.
    base: Stamp,
    known: Clock,
}

/// The memory that a proxy fence is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FencedMemory {
    Shared = 0,
    Global = 1,
}

/// Why something that was seen orders nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InVain {
    /// The read was relaxed, and no fence has followed.
    Unfenced,
    /// A scope does not hold both threads.
    Narrow,
}

#[derive(Debug)]
pub(crate) struct HappensBefore {
    cluster: u32,
    threads_per_block: u32,
    threads: u32,
    now: Stamp,
    block_base: Vec<Stamp>,
    warp_base: Vec<Stamp>,
    clocks: Vec<Clock>,
    fences: Vec<Fences>,
    /// What relaxed reads have seen, by the scope that holds reader and writer, waiting for a fence to count.
    pending: HashMap<Participant, [Clock; 3]>,
    /// What reads have seen in scopes that do not hold reader and writer: it orders nothing, and explains findings.
    narrow: HashMap<Participant, Clock>,
    /// By thread and [`FencedMemory`].
    proxy_fences: HashMap<(Participant, u8), ProxyFence>,
    extra: u32,
    /// Keeps clocks; without it block and warp barriers are all there is.
    precise: bool,
}

impl HappensBefore {
    /// `threads_per_block` is a whole number of warps.
    pub(crate) fn new(cluster: u32, threads_per_block: u32, blocks: u32, precise: bool) -> Self {
        let threads = threads_per_block * blocks;
        let kept = if precise { threads as usize } else { 0 };
        Self {
            cluster,
            threads_per_block,
            threads,
            now: 1,
            block_base: vec![0; blocks as usize],
            warp_base: vec![0; threads as usize / LANES],
            clocks: vec![Clock::new(); kept],
            fences: vec![Fences::default(); kept],
            pending: HashMap::new(),
            narrow: HashMap::new(),
            proxy_fences: HashMap::new(),
            extra: 0,
            precise,
        }
    }

    #[inline(always)]
    pub(crate) fn now(&self) -> Stamp {
        self.now
    }

    #[inline(always)]
    pub(crate) fn threads(&self) -> u32 {
        self.threads
    }

    pub(super) fn blocks(&self) -> usize {
        self.block_base.len()
    }

    #[inline(always)]
    pub(crate) fn block_of(&self, thread: Participant) -> u32 {
        // The division is slow, and clusters of more than one block are rare.
        if self.threads_per_block == self.threads { 0 } else { thread / self.threads_per_block }
    }

    fn origin(&self, thread: Participant) -> Origin {
        Origin { cluster: self.cluster, rank: self.block_of(thread) }
    }

    /// The participant for the asynchronous reads of a warp.
    pub(crate) fn warp_participant(&self, warp: u32) -> Participant {
        self.threads + warp
    }

    pub(crate) fn new_participant(&mut self) -> Participant {
        self.extra += 1;
        self.threads + self.threads / LANES as u32 + self.extra - 1
    }

    /// Moves time on, so that later accesses are told from earlier ones.
    pub(crate) fn tick(&mut self) -> Stamp {
        self.now += 1;
        self.now - 1
    }

    /// The newest stamp that is ordered for all lanes of a warp by block and warp barriers.
    #[inline(always)]
    pub(crate) fn warp_interval(&self, warp: u32) -> Stamp {
        let block = self.block_of(warp * LANES as u32);
        self.warp_base[warp as usize].max(self.block_base[block as usize])
    }

    #[inline(always)]
    pub(crate) fn block_interval(&self, block: u32) -> Stamp {
        self.block_base[block as usize]
    }

    /// Whether what `from` did at `stamp` happened before what thread `to` does now.
    #[inline(always)]
    pub(crate) fn ordered(&self, from: Participant, stamp: Stamp, to: Participant) -> bool {
        if from == to {
            return true;
        }
        if from < self.threads {
            let (from_block, to_block) = (self.block_of(from), self.block_of(to));
            if from_block == to_block && stamp <= self.block_base[to_block as usize] {
                return true;
            }
            if from / LANES as u32 == to / LANES as u32 && stamp <= self.warp_base[to as usize / LANES] {
                return true;
            }
        }
        self.precise && self.clocks[to as usize].knows(from, stamp)
    }

    /// Whether what a thread of another cluster did at a stamp happened before what thread `to` does now.
    pub(crate) fn ordered_foreign(&self, cluster: u32, from: Participant, stamp: Stamp, to: Participant) -> bool {
        self.precise && self.clocks[to as usize].knows_foreign(cluster, from, stamp)
    }

    /// Why what a thread has read does not order an earlier access, which it has seen something published behind.
    #[cold]
    pub(crate) fn seen_in_vain(&self, thread: Participant, access: (u32, Participant, Stamp)) -> Option<InVain> {
        let (cluster, from, stamp) = access;
        let knows = |clock: &Clock| {
            if cluster == self.cluster { clock.knows(from, stamp) } else { clock.knows_foreign(cluster, from, stamp) }
        };
        if self.pending.get(&thread).is_some_and(|pending| pending.iter().any(knows)) {
            return Some(InVain::Unfenced);
        }
        self.narrow.get(&thread).is_some_and(knows).then_some(InVain::Narrow)
    }

    /// Whether order between two warps is the same for all pairs of their lanes: nothing but barriers orders.
    #[inline(always)]
    pub(crate) fn warps_are_alike(&self) -> bool {
        !self.precise
    }

    /// All that a thread knows, its own past included.
    fn knowledge(&self, thread: Participant) -> Clock {
        let mut clock = Clock::new();
        self.tell(thread, &mut clock);
        clock
    }

    /// Adds it to a message.
    fn tell(&self, thread: Participant, message: &mut Clock) {
        self.tell_of_its_block(thread, message);
        self.tell_of_itself(thread, message);
    }

    fn tell_of_its_block(&self, thread: Participant, message: &mut Clock) {
        let block = self.block_of(thread);
        let first = (block * self.threads_per_block) as usize;
        message.raise(first..first + self.threads_per_block as usize, self.block_base[block as usize]);
    }

    fn tell_of_itself(&self, thread: Participant, message: &mut Clock) {
        if self.precise {
            message.join(&self.clocks[thread as usize]);
        }
        let warp = thread as usize / LANES;
        message.raise(warp * LANES..(warp + 1) * LANES, self.warp_base[warp]);
        message.mark(thread, self.now);
    }

    /// Adds to a message everything that a thread has done and knows; its later accesses are not in it.
    pub(crate) fn release(&mut self, thread: Participant, message: &mut Clock) {
        self.tell(thread, message);
        self.now += 1;
    }

    /// The same for many threads at once.
    pub(crate) fn release_all(&mut self, threads: &[Participant], message: &mut Clock) {
        let mut told = None;
        for &thread in threads {
            let block = self.block_of(thread);
            if told.replace(block) != Some(block) {
                self.tell_of_its_block(thread, message);
            }
            self.tell_of_itself(thread, message);
        }
        self.now += 1;
    }

    pub(crate) fn acquire(&mut self, thread: Participant, message: &Clock) {
        if self.precise {
            self.clocks[thread as usize].join(message);
        }
    }

    /// A write at a scope, by a thread, of the place that these messages belong to.
    pub(crate) fn publish(&mut self, thread: Participant, releases: bool, scope: Scope, messages: &mut Messages) {
        if !self.precise {
            return;
        }
        let origin = self.origin(thread);
        if releases {
            self.release(thread, messages.of(origin, scope));
            return;
        }
        let fences = &self.fences[thread as usize];
        let mut wider: Option<&Arc<Clock>> = None;
        for level in Scope::ALL.into_iter().rev().filter(|level| *level <= scope) {
            if let Some(clock) = &fences[level as usize]
                && wider.is_none_or(|wider| !Arc::ptr_eq(wider, clock))
            {
                messages.of(origin, level).join(clock);
                wider = Some(clock);
            }
        }
    }

    /// A read at a scope, by a thread, of the place that these messages belong to.
    pub(crate) fn learn(&mut self, thread: Participant, acquires: bool, scope: Scope, messages: &Messages) {
        if !self.precise {
            return;
        }
        let reader = self.origin(thread);
        let (clocks, pending, narrow) = (&mut self.clocks, &mut self.pending, &mut self.narrow);
        messages.seen(reader, scope, |needed, join| match needed {
            None => join(narrow.entry(thread).or_default()),
            Some(_) if acquires => join(&mut clocks[thread as usize]),
            Some(needed) => join(&mut pending.entry(thread).or_default()[needed as usize]),
        });
    }

    /// All threads of a block have met.
    pub(crate) fn block_barrier(&mut self, block: u32) {
        self.block_base[block as usize] = self.now;
        let first = block * self.threads_per_block;
        self.share(first..first + self.threads_per_block);
        self.now += 1;
    }

    /// These lanes of a warp have met; `all` if no other lane is left.
    pub(crate) fn warp_barrier(&mut self, warp: u32, lanes: u32, all: bool) {
        let first = warp * LANES as u32;
        if all {
            self.warp_base[warp as usize] = self.now;
            self.share(first..first + LANES as u32);
            self.now += 1;
            return;
        }
        let members: Vec<_> =
            (0..LANES as u32).filter(|lane| lanes >> lane & 1 == 1).map(|lane| first + lane).collect();
        let mut message = Clock::new();
        self.release_all(&members, &mut message);
        for &thread in &members {
            self.acquire(thread, &message);
        }
        self.share_fences(members.iter().copied(), members.iter().copied());
    }

    /// Some threads have arrived at a barrier, and those that wait go on.
    pub(crate) fn meeting(&mut self, arrived: &[Participant], waiting: &[Participant]) {
        let mut message = Clock::new();
        self.release_all(arrived, &mut message);
        for &thread in waiting {
            self.acquire(thread, &message);
        }
        self.share_fences(arrived.iter().copied(), waiting.iter().copied());
    }

    /// What one of these threads has learned, all of them know.
    fn share(&mut self, range: Range<u32>) {
        if !self.precise {
            return;
        }
        let mut all = Clock::new();
        for thread in range.clone() {
            all.join(&self.clocks[thread as usize]);
        }
        if !all.is_empty() {
            for thread in range.clone() {
                self.clocks[thread as usize].clone_from(&all);
            }
        }
        self.share_fences(range.clone(), range);
    }

    /// Fences and relaxed reads of threads that have arrived at a barrier count for those that go on from it.
    fn share_fences(
        &mut self,
        arrived: impl Iterator<Item = Participant> + Clone,
        waiting: impl Iterator<Item = Participant> + Clone,
    ) {
        if !self.precise {
            return;
        }
        for level in 0..Scope::ALL.len() {
            let mut all: Option<Arc<Clock>> = None;
            for thread in arrived.clone() {
                let Some(clock) = &self.fences[thread as usize][level] else { continue };
                match &mut all {
                    None => all = Some(Arc::clone(clock)),
                    Some(all) if Arc::ptr_eq(all, clock) => {}
                    Some(all) => Arc::make_mut(all).join(clock),
                }
            }
            if all.is_some() {
                for thread in waiting.clone() {
                    self.fences[thread as usize][level].clone_from(&all);
                }
            }
        }
        if self.pending.is_empty() {
            return;
        }
        let mut seen: [Clock; 3] = Default::default();
        for thread in arrived {
            if let Some(pending) = self.pending.get(&thread) {
                seen.iter_mut().zip(pending).for_each(|(all, pending)| all.join(pending));
            }
        }
        if seen.iter().any(|clock| !clock.is_empty()) {
            for thread in waiting {
                self.pending.insert(thread, seen.clone());
            }
        }
    }

    /// `fence.acq_rel`, `fence.sc`, `membar`
    pub(crate) fn memory_fence(&mut self, thread: Participant, scope: Scope) {
        if !self.precise {
            return;
        }
        if let Some(pending) = self.pending.get_mut(&thread) {
            for level in Scope::ALL.into_iter().filter(|level| *level <= scope) {
                self.clocks[thread as usize].join(&std::mem::take(&mut pending[level as usize]));
            }
            if pending.iter().all(Clock::is_empty) {
                self.pending.remove(&thread);
            }
        }
        let known = Arc::new(self.knowledge(thread));
        for level in Scope::ALL.into_iter().filter(|level| *level <= scope) {
            self.fences[thread as usize][level as usize] = Some(Arc::clone(&known));
        }
        self.now += 1;
    }

    /// What a thread's newest fence at this scope published.
    pub(crate) fn release_by_fence(&self, thread: Participant, scope: Scope, message: &mut Clock) {
        if let Some(clock) = self.fences.get(thread as usize).and_then(|fences| fences[scope as usize].as_ref()) {
            message.join(clock);
        }
    }

    /// `fence.proxy.async`
    pub(crate) fn proxy_fence(&mut self, thread: Participant, memory: FencedMemory) {
        let base = self.warp_interval(thread / LANES as u32);
        let known = if self.precise { self.knowledge(thread) } else { Clock::new() };
        self.proxy_fences.insert((thread, memory as u8), ProxyFence { stamp: self.now, base, known });
        self.now += 1;
    }

    /// Whether a generic write is visible to an asynchronous access that `issuer` starts.
    pub(crate) fn proxy_fenced(
        &self,
        writer: Participant,
        stamp: Stamp,
        issuer: Participant,
        memory: FencedMemory,
    ) -> bool {
        if writer >= self.threads {
            return true;
        }
        let fence_of = |thread| self.proxy_fences.get(&(thread, memory as u8));
        if fence_of(writer).is_some_and(|fence| fence.stamp >= stamp) {
            return true;
        }
        let same_block = self.block_of(writer) == self.block_of(issuer);
        fence_of(issuer).is_some_and(|fence| same_block && fence.base >= stamp || fence.known.knows(writer, stamp))
    }
}
