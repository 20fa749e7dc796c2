//! Happens-before inside a cluster of blocks (usually one block): which accesses are ordered, whatever the schedule.
//!
//! Every access carries a stamp, the value of a counter that moves at each synchronisation. Barriers of a whole
//! block or warp then cost one number: all stamps up to it are ordered. What is left (mbarriers, partial barriers,
//! clusters, asynchronous copies, atomics) uses one sparse vector clock a thread, where a clock's entry for a
//! participant is the newest stamp of its that is known to have happened.

use std::collections::HashMap;

use crate::registers::LANES;

/// A point in the order of a cluster's synchronisations. 0 is before everything.
pub(crate) type Stamp = u32;

/// A thread, or something asynchronous that acts for one: a warp's wgmma reads, the copies that complete on an mbarrier.
pub(crate) type Participant = u32;

/// Newest known stamp of each participant; missing entries are 0.
pub(crate) type Clock = Vec<Stamp>;

pub(crate) fn join(into: &mut Clock, from: &[Stamp]) {
    if into.len() < from.len() {
        into.resize(from.len(), 0);
    }
    for (known, stamp) in into.iter_mut().zip(from) {
        *known = (*known).max(*stamp);
    }
}

/// What has happened in a cluster, as others know it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Past {
    /// Of its threads.
    threads: Clock,
    /// Of everything asynchronous.
    others: Stamp,
}

impl Past {
    pub(crate) fn contains(&self, participant: Participant, stamp: Stamp) -> bool {
        *self.threads.get(participant as usize).unwrap_or(&self.others) >= stamp
    }

    pub(crate) fn join(&mut self, other: &Self) {
        join(&mut self.threads, &other.threads);
        self.others = self.others.max(other.others);
    }
}

#[derive(Debug)]
pub(crate) struct HappensBefore {
    threads_per_block: u32,
    threads: u32,
    now: Stamp,
    block_base: Vec<Stamp>,
    warp_base: Vec<Stamp>,
    clocks: Vec<Clock>,
    /// Stamp of a thread's newest memory fence: what its relaxed atomics publish.
    fences: Vec<Stamp>,
    fence_clocks: HashMap<u32, Clock>,
    /// What relaxed reads have seen, waiting for a fence to count.
    pending: HashMap<u32, Clock>,
    /// Stamp of a thread's newest `fence.proxy.async`, and what was ordered for its block by then.
    proxy_fences: Vec<(Stamp, Stamp)>,
    extra: u32,
    /// Keeps clocks; without it block and warp barriers are all there is.
    precise: bool,
}

impl HappensBefore {
    /// `threads_per_block` is a whole number of warps.
    pub(crate) fn new(threads_per_block: u32, blocks: u32, precise: bool) -> Self {
        let threads = threads_per_block * blocks;
        let kept = if precise { threads as usize } else { 0 };
        Self {
            threads_per_block,
            threads,
            now: 1,
            block_base: vec![0; blocks as usize],
            warp_base: vec![0; threads as usize / LANES],
            clocks: vec![Vec::new(); kept],
            fences: vec![0; threads as usize],
            fence_clocks: HashMap::new(),
            pending: HashMap::new(),
            proxy_fences: vec![(0, 0); threads as usize],
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

    #[inline(always)]
    pub(crate) fn block_of(&self, thread: Participant) -> u32 {
        // The division is slow, and clusters of more than one block are rare.
        if self.threads_per_block == self.threads { 0 } else { thread / self.threads_per_block }
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
        self.precise && self.clocks[to as usize].get(from as usize).is_some_and(|known| *known >= stamp)
    }

    /// Whether order between two warps is the same for all pairs of their lanes: nothing but barriers orders.
    #[inline(always)]
    pub(crate) fn warps_are_alike(&self) -> bool {
        !self.precise
    }

    /// All that a thread knows, its own past included.
    fn knowledge(&self, thread: Participant) -> Clock {
        let mut clock = if self.precise { self.clocks[thread as usize].clone() } else { Vec::new() };
        if clock.len() < self.threads as usize {
            clock.resize(self.threads as usize, 0);
        }
        let block = thread / self.threads_per_block;
        let first = (block * self.threads_per_block) as usize;
        let base = self.block_base[block as usize];
        for known in &mut clock[first..first + self.threads_per_block as usize] {
            *known = (*known).max(base);
        }
        let warp = thread as usize / LANES;
        let base = self.warp_base[warp];
        for known in &mut clock[warp * LANES..(warp + 1) * LANES] {
            *known = (*known).max(base);
        }
        clock[thread as usize] = self.now;
        clock
    }

    /// Adds to a message everything that a thread has done and knows; its later accesses are not in it.
    pub(crate) fn release(&mut self, thread: Participant, message: &mut Clock) {
        let clock = self.knowledge(thread);
        join(message, &clock);
        self.now += 1;
    }

    /// The same for many threads at once, more cheaply where they belong to one warp.
    pub(crate) fn release_all(&mut self, threads: &[Participant], message: &mut Clock) {
        for &thread in threads {
            let clock = self.knowledge(thread);
            join(message, &clock);
        }
        self.now += 1;
    }

    pub(crate) fn acquire(&mut self, thread: Participant, message: &[Stamp]) {
        if self.precise {
            join(&mut self.clocks[thread as usize], message);
        }
    }

    /// All threads of a block have met.
    pub(crate) fn block_barrier(&mut self, block: u32) {
        self.block_base[block as usize] = self.now;
        let first = block * self.threads_per_block;
        let range = first..first + self.threads_per_block;
        self.share(range.clone());
        // A fence of any thread, met at the barrier, publishes for all of them.
        if range.clone().any(|thread| self.fences[thread as usize] > 0) {
            for thread in range.clone() {
                self.fences[thread as usize] = self.now;
            }
        }
        self.settle(range);
        self.now += 1;
    }

    /// These lanes of a warp have met; `all` if no other lane is left.
    pub(crate) fn warp_barrier(&mut self, warp: u32, lanes: u32, all: bool) {
        let first = warp * LANES as u32;
        if all {
            self.warp_base[warp as usize] = self.now;
            self.share(first..first + LANES as u32);
            self.settle(first..first + LANES as u32);
            self.now += 1;
            return;
        }
        let members: Vec<_> =
            (0..LANES as u32).filter(|lane| lanes >> lane & 1 == 1).map(|lane| first + lane).collect();
        self.meeting(&members);
    }

    /// These threads have met.
    pub(crate) fn meeting(&mut self, threads: &[Participant]) {
        let mut message = Vec::new();
        self.release_all(threads, &mut message);
        for &thread in threads {
            self.acquire(thread, &message);
        }
        for &thread in threads {
            self.settle(thread..thread + 1);
        }
    }

    /// What one of these threads has learned, all of them know.
    fn share(&mut self, range: std::ops::Range<u32>) {
        if !self.precise {
            return;
        }
        let mut all = Vec::new();
        for thread in range.clone() {
            join(&mut all, &self.clocks[thread as usize]);
        }
        if !all.is_empty() {
            for thread in range {
                self.clocks[thread as usize].clone_from(&all);
            }
        }
    }

    /// A meeting also completes relaxed reads.
    fn settle(&mut self, range: std::ops::Range<u32>) {
        if self.pending.is_empty() {
            return;
        }
        for thread in range {
            if let Some(seen) = self.pending.remove(&thread) {
                self.acquire(thread, &seen);
            }
        }
    }

    /// `fence.acq_rel`, `membar`
    pub(crate) fn memory_fence(&mut self, thread: Participant) {
        self.settle(thread..thread + 1);
        if self.precise {
            let clock = self.knowledge(thread);
            self.fence_clocks.insert(thread, clock);
        }
        self.fences[thread as usize] = self.now;
        self.now += 1;
    }

    /// What an atomic of this thread publishes to other clusters: what the thread knows if it releases, what was before
    /// its newest fence if not.
    pub(crate) fn past(&self, thread: Participant, releases: bool) -> Past {
        if releases {
            return Past { threads: self.knowledge(thread), others: self.now };
        }
        let fence = self.fences[thread as usize];
        Past { threads: vec![fence; self.threads as usize], others: fence }
    }

    /// What a relaxed write publishes: the thread's past up to its newest fence.
    pub(crate) fn release_relaxed(&mut self, thread: Participant, message: &mut Clock) {
        if let Some(clock) = self.fence_clocks.get(&thread) {
            join(message, clock);
        }
    }

    /// What a relaxed read sees counts from the next fence or barrier on.
    pub(crate) fn acquire_relaxed(&mut self, thread: Participant, message: &[Stamp]) {
        join(self.pending.entry(thread).or_default(), message);
    }

    /// `fence.proxy.async`
    pub(crate) fn proxy_fence(&mut self, thread: Participant) {
        let base = self.warp_interval(thread / LANES as u32);
        self.proxy_fences[thread as usize] = (self.now, base);
        self.now += 1;
    }

    /// Whether a generic write is visible to an asynchronous access that `issuer` starts.
    pub(crate) fn proxy_fenced(&self, writer: Participant, stamp: Stamp, issuer: Participant) -> bool {
        if writer >= self.threads {
            return true;
        }
        self.proxy_fences[writer as usize].0 >= stamp
            || self.proxy_fences[issuer as usize].1 >= stamp
            || writer == issuer && self.proxy_fences[issuer as usize].0 >= stamp
    }
}
