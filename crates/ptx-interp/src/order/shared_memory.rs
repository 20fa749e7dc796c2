//! Shared memory of one block, with a shadow that remembers who touched what.

use std::cell::Cell;

use super::happens_before::{FencedMemory, HappensBefore, Participant, Stamp};
use crate::decode::{Manner, Scope};
use crate::registers::{LANES, each_lane};

/// State of a cell of shadow.
mod state {
    /// A thread or a copy has written it.
    pub(super) const WRITTEN: u8 = 1;
    /// An asynchronous copy is under way.
    pub(super) const IN_FLIGHT: u8 = 2;
    /// The last write came through the asynchronous proxy.
    pub(super) const ASYNC: u8 = 4;
    /// The last access that writes was atomic in its block.
    pub(super) const ATOMIC: u8 = 8;
    /// It was atomic in its cluster.
    pub(super) const ATOMIC_IN_CLUSTER: u8 = 16;
}

#[derive(Clone, Copy, Default)]
struct Writer {
    participant: Participant,
    stamp: Stamp,
    pc: u32,
    state: u8,
}

/// Reads of one cell by one warp since that warp last met.
#[derive(Clone, Copy, Default)]
struct WarpReads {
    lanes: u32,
    interval: Stamp,
    pc: u32,
}

#[derive(Clone, Copy)]
struct Reader {
    participant: Participant,
    stamp: Stamp,
    pc: u32,
    /// As a writer's.
    state: u8,
}

/// Who accesses, and where in the program.
#[derive(Clone, Copy)]
pub(crate) struct Accessor {
    pub participant: Participant,
    pub pc: u32,
    pub manner: Manner,
}

impl Accessor {
    /// The bits of [`state`] for its strength.
    #[inline(always)]
    fn strength(self) -> u8 {
        match self.manner.scope() {
            None => 0,
            Some(Scope::Block) => state::ATOMIC,
            Some(_) => state::ATOMIC | state::ATOMIC_IN_CLUSTER,
        }
    }
}

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conflict {
    Uninitialized,
    InFlight { by: Participant, pc: u32 },
    ReadAfterWrite { by: Participant, pc: u32, stamp: Stamp },
    WriteAfterWrite { by: Participant, pc: u32, stamp: Stamp },
    WriteAfterRead { by: Participant, pc: u32, stamp: Stamp },
    Unfenced { by: Participant, pc: u32 },
}

pub(crate) struct SharedMemory {
    pub bytes: Vec<u8>,
    granule: u32,
    warps: usize,
    /// First warp of the block among its cluster's.
    first_warp: u32,
    writers: Vec<Writer>,
    /// `cell * warps + warp`, used when no clocks are kept.
    warp_reads: Vec<WarpReads>,
    /// Used when clocks are kept.
    readers: Vec<Vec<Reader>>,
    check: bool,
    check_uninitialized: bool,
}

thread_local! {
    /// Empty lists that an earlier block of this thread had, with the memory that they hold.
    static SPARE_READERS: Cell<Vec<Vec<Reader>>> = const { Cell::new(Vec::new()) };
}

/// As many empty lists, if possible those of an earlier block: the next one reads much of the same places.
fn spare_readers(cells: usize) -> Vec<Vec<Reader>> {
    let mut readers = SPARE_READERS.take();
    readers.resize_with(cells, Vec::new);
    readers
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        /// Longer lists are rare, and their memory would be held for nothing.
        const LONGEST: usize = 16;
        let mut readers = std::mem::take(&mut self.readers);
        if readers.is_empty() {
            return;
        }
        for list in &mut readers {
            list.clear();
            list.shrink_to(LONGEST);
        }
        // A thread that ends keeps none.
        let _ = SPARE_READERS.try_with(|spare| spare.set(readers));
    }
}

impl SharedMemory {
    pub(crate) fn new(
        bytes: u32,
        granule: u32,
        warps: usize,
        first_warp: u32,
        precise: bool,
        check: bool,
        check_uninitialized: bool,
    ) -> Self {
        let cells = if check { (bytes as usize >> granule) + 1 } else { 0 };
        Self {
            // Not zeros: a value that was never written should look wrong.
            bytes: vec![0xcb; bytes as usize],
            granule,
            warps,
            first_warp,
            writers: vec![Writer::default(); cells],
            warp_reads: if precise { Vec::new() } else { vec![WarpReads::default(); cells * warps] },
            readers: if precise { spare_readers(cells) } else { Vec::new() },
            check,
            check_uninitialized,
        }
    }

    #[inline(always)]
    fn cells(&self, offset: u32, bytes: u32) -> std::ops::RangeInclusive<usize> {
        (offset >> self.granule) as usize..=((offset + bytes - 1) >> self.granule) as usize
    }

    /// A read through the generic proxy.
    #[inline(always)]
    pub(crate) fn note_read(
        &mut self,
        order: &HappensBefore,
        who: Accessor,
        offset: u32,
        bytes: u32,
    ) -> Option<Conflict> {
        if !self.check {
            return None;
        }
        let mut conflict = None;
        for cell in self.cells(offset, bytes) {
            let writer = self.writers[cell];
            // The usual case first: a finished write that is ordered.
            if writer.state & (state::WRITTEN | state::IN_FLIGHT) != state::WRITTEN
                || !order.ordered(writer.participant, writer.stamp, who.participant)
            {
                conflict = conflict.or(self.read_conflict(order, writer, who));
            }
            self.record_read(order, who, cell);
        }
        conflict
    }

    /// Reads of many lanes of one warp; the first conflict and its lane. Places have been checked.
    pub(crate) fn note_reads(
        &mut self,
        order: &HappensBefore,
        first: Accessor,
        offsets: &[u32; LANES],
        mask: u32,
        bytes: u32,
    ) -> Option<(usize, Conflict)> {
        if !self.check {
            return None;
        }
        let mut found = None;
        let base = order.block_interval(order.block_of(first.participant));
        let warp = first.participant / LANES as u32;
        let interval = order.warp_interval(warp);
        let own_warp = (warp.wrapping_sub(self.first_warp)) as usize;
        let fast = self.readers.is_empty() && own_warp < self.warps;
        let span = (bytes - 1) >> self.granule;
        if fast && span == 0 && self.read_settled(offsets, mask, base, own_warp, interval, first.pc) {
            return None;
        }
        each_lane!(mask, lane, {
            let who = Accessor { participant: first.participant + lane as u32, ..first };
            let start = offsets[lane] >> self.granule;
            for cell in start as usize..=(start + span) as usize {
                let writer = self.writers[cell];
                // Written before the block last met: the usual case. Without clocks every writer is of this block.
                let settled = fast
                    && writer.state & (state::WRITTEN | state::IN_FLIGHT) == state::WRITTEN
                    && writer.stamp <= base;
                if !settled
                    && (writer.state & (state::WRITTEN | state::IN_FLIGHT) != state::WRITTEN
                        || !order.ordered(writer.participant, writer.stamp, who.participant))
                    && found.is_none()
                {
                    found = self.read_conflict(order, writer, who).map(|conflict| (lane, conflict));
                }
                if fast {
                    let reads = &mut self.warp_reads[cell * self.warps + own_warp];
                    if reads.interval == interval && reads.lanes != 0 {
                        reads.lanes |= 1 << lane;
                    } else {
                        *reads = WarpReads { lanes: 1 << lane, interval, pc: who.pc };
                    }
                } else {
                    self.record_read(order, who, cell);
                }
            }
        });
        found
    }

    /// The usual case of [`Self::note_reads`]: one cell a lane, all written before the block last met. False, and
    /// nothing done, if one of them was not.
    #[inline(always)]
    fn read_settled(
        &mut self,
        offsets: &[u32; LANES],
        mask: u32,
        base: Stamp,
        own_warp: usize,
        interval: Stamp,
        pc: u32,
    ) -> bool {
        let mut settled = true;
        each_lane!(mask, lane, {
            let writer = &self.writers[(offsets[lane] >> self.granule) as usize];
            settled &= writer.state & (state::WRITTEN | state::IN_FLIGHT) == state::WRITTEN && writer.stamp <= base;
        });
        if !settled {
            return false;
        }
        each_lane!(mask, lane, {
            let cell = (offsets[lane] >> self.granule) as usize;
            let reads = &mut self.warp_reads[cell * self.warps + own_warp];
            let known = if reads.interval == interval { reads.lanes } else { 0 };
            *reads = WarpReads { lanes: known | 1 << lane, interval, pc };
        });
        true
    }

    /// A read by a whole warp whose lanes share the bytes out as they like: it counts as every lane's.
    pub(crate) fn note_warp_read(
        &mut self,
        order: &HappensBefore,
        first: Accessor,
        offset: u32,
        bytes: u32,
    ) -> Option<Conflict> {
        if !self.check {
            return None;
        }
        let second = Accessor { participant: first.participant + 1, ..first };
        let base = order.block_interval(order.block_of(first.participant));
        let warp = first.participant / LANES as u32;
        let interval = order.warp_interval(warp);
        let own_warp = warp.wrapping_sub(self.first_warp) as usize;
        let fast = self.readers.is_empty() && own_warp < self.warps;
        if fast {
            let cells = self.cells(offset, bytes);
            let (from, to) = (cells.start() * self.warps + own_warp, cells.end() * self.warps + own_warp);
            for reads in self.warp_reads[from..=to].iter_mut().step_by(self.warps) {
                *reads = WarpReads { lanes: u32::MAX, interval, pc: first.pc };
            }
            let mut settled = true;
            for writer in &self.writers[cells] {
                settled &= writer.state & (state::WRITTEN | state::IN_FLIGHT) == state::WRITTEN && writer.stamp <= base;
            }
            if settled {
                return None;
            }
        }
        let mut conflict = None;
        for cell in self.cells(offset, bytes) {
            let writer = self.writers[cell];
            let written = writer.state & (state::WRITTEN | state::IN_FLIGHT) == state::WRITTEN;
            if !(written && fast && writer.stamp <= base) {
                // What is ordered for two lanes of a warp has been ordered by more than belonging to one of them.
                let ordered = |who: Accessor| order.ordered(writer.participant, writer.stamp, who.participant);
                if !written || !ordered(first) || !ordered(second) {
                    conflict = conflict.or(self.read_conflict(order, writer, first));
                }
            }
            if !fast {
                self.record_read(order, first, cell);
                self.record_read(order, second, cell);
            }
        }
        conflict
    }

    /// Lanes that read the same place: checked once.
    pub(crate) fn note_broadcast(
        &mut self,
        order: &HappensBefore,
        first: Accessor,
        offset: u32,
        mask: u32,
        bytes: u32,
    ) -> Option<(usize, Conflict)> {
        if !self.readers.is_empty() || !self.check {
            return self.note_reads(order, first, &[offset; LANES], mask, bytes);
        }
        // A lane's own write is ordered for itself only, so all lanes must be asked unless the block has met since.
        let base = order.block_interval(order.block_of(first.participant));
        let settled = self.cells(offset, bytes).all(|cell| {
            let writer = self.writers[cell];
            writer.state & (state::WRITTEN | state::IN_FLIGHT) == state::WRITTEN && writer.stamp <= base
        });
        if !settled {
            return self.note_reads(order, first, &[offset; LANES], mask, bytes);
        }
        let interval = order.warp_interval(first.participant / LANES as u32);
        let own_warp = (first.participant / LANES as u32 - self.first_warp) as usize;
        for cell in self.cells(offset, bytes) {
            let reads = &mut self.warp_reads[cell * self.warps + own_warp];
            let lanes = if reads.interval == interval { reads.lanes | mask } else { mask };
            *reads = WarpReads { lanes, interval, pc: first.pc };
        }
        None
    }

    #[cold]
    fn read_conflict(&self, order: &HappensBefore, writer: Writer, who: Accessor) -> Option<Conflict> {
        let by = writer.participant;
        if writer.state & state::IN_FLIGHT != 0 {
            return Some(Conflict::InFlight { by, pc: writer.pc });
        }
        if writer.state & state::WRITTEN == 0 {
            return self.check_uninitialized.then_some(Conflict::Uninitialized);
        }
        if self.both_atomic(order, who, by, writer.state) {
            return None;
        }
        Some(Conflict::ReadAfterWrite { by, pc: writer.pc, stamp: writer.stamp })
    }

    /// Whether two accesses are atomic in a scope that holds both: they do not race.
    #[inline(always)]
    fn both_atomic(&self, order: &HappensBefore, who: Accessor, other: Participant, other_state: u8) -> bool {
        let common = who.strength() & other_state;
        common & state::ATOMIC_IN_CLUSTER != 0
            || common & state::ATOMIC != 0 && order.block_of(who.participant) == order.block_of(other)
    }

    #[inline(always)]
    fn record_read(&mut self, order: &HappensBefore, who: Accessor, cell: usize) {
        if self.readers.is_empty() {
            let warp = who.participant / LANES as u32;
            let lane = 1 << (who.participant % LANES as u32);
            let interval = order.warp_interval(warp);
            let reads = &mut self.warp_reads[cell * self.warps + (warp - self.first_warp) as usize];
            if reads.interval == interval && reads.lanes != 0 {
                reads.lanes |= lane;
            } else {
                *reads = WarpReads { lanes: lane, interval, pc: who.pc };
            }
        } else {
            self.record_reader(order, who, cell, order.now());
        }
    }

    fn record_reader(&mut self, order: &HappensBefore, who: Accessor, cell: usize, stamp: Stamp) {
        let readers = &mut self.readers[cell];
        let entry = Reader { participant: who.participant, stamp, pc: who.pc, state: who.strength() };
        if let Some(known) = readers.iter_mut().find(|known| known.participant == who.participant) {
            *known = entry;
            return;
        }
        // A later write that is ordered after this read is ordered after whatever this read is ordered after. Looked for each time
        // that the list has doubled, since many threads may read a place with nothing that orders them.
        if readers.len() >= 8 && readers.len().is_power_of_two() && who.participant < order.threads() {
            readers.retain(|known| !order.ordered(known.participant, known.stamp, who.participant));
        }
        readers.push(entry);
    }

    /// A write through the generic proxy. `unchanged` if it stores the bytes that are there already: two such
    /// writes give the same memory in either order.
    #[inline(always)]
    pub(crate) fn note_write(
        &mut self,
        order: &HappensBefore,
        who: Accessor,
        offset: u32,
        bytes: u32,
        unchanged: impl Fn(&[u8]) -> bool,
    ) -> Option<Conflict> {
        if !self.check {
            return None;
        }
        let mut conflict = None;
        for cell in self.cells(offset, bytes) {
            let found = self.write_conflict(order, who, cell);
            if let Some(found) = found {
                let benign = matches!(found, Conflict::WriteAfterWrite { .. })
                    && unchanged(&self.bytes[offset as usize..(offset + bytes) as usize]);
                if !benign {
                    conflict = conflict.or(Some(found));
                }
            }
            let state = state::WRITTEN | who.strength();
            self.writers[cell] = Writer { participant: who.participant, stamp: order.now(), pc: who.pc, state };
        }
        conflict
    }

    /// Whether any lane of a warp may write all of this range, each lane places of its own of at least `piece` bytes.
    /// False does not mean that it may not, only that the caller must look closer.
    pub(crate) fn is_free(&self, order: &HappensBefore, warp: u32, offset: u32, bytes: u32, piece: u32) -> bool {
        let own_warp = warp.wrapping_sub(self.first_warp) as usize;
        if !self.check {
            return true;
        }
        if !self.readers.is_empty() || own_warp >= self.warps || piece >> self.granule == 0 {
            return false;
        }
        let base = order.block_interval(order.block_of(warp * LANES as u32));
        let interval = order.warp_interval(warp);
        let cells = self.cells(offset, bytes);
        let mut free = true;
        for writer in &self.writers[cells.clone()] {
            let since = if writer.participant / LANES as u32 == warp { interval } else { base };
            let settled = writer.participant < order.threads() && writer.stamp <= since;
            free &= writer.state & state::IN_FLIGHT == 0 && (writer.state == 0 || settled);
        }
        let reads = &self.warp_reads[cells.start() * self.warps..(cells.end() + 1) * self.warps];
        for cell in reads.chunks_exact(self.warps) {
            for (warp, read) in cell.iter().enumerate() {
                let since = if warp == own_warp { interval } else { base };
                free &= read.lanes == 0 || read.interval < since;
            }
        }
        free
    }

    /// A write of a place that [`Self::is_free`].
    #[inline(always)]
    pub(crate) fn note_free_write(&mut self, order: &HappensBefore, who: Accessor, offset: u32, bytes: u32) {
        if !self.check {
            return;
        }
        let entry = Writer { participant: who.participant, stamp: order.now(), pc: who.pc, state: state::WRITTEN };
        let cells = self.cells(offset, bytes);
        self.writers[cells].fill(entry);
    }

    /// What a write of a cell by this thread would collide with; reads are forgotten, the write stands for them.
    #[inline(always)]
    fn write_conflict(&mut self, order: &HappensBefore, who: Accessor, cell: usize) -> Option<Conflict> {
        let writer = self.writers[cell];
        if writer.state != 0 {
            if writer.state & state::IN_FLIGHT != 0 {
                return Some(Conflict::InFlight { by: writer.participant, pc: writer.pc });
            }
            let both_atomic = self.both_atomic(order, who, writer.participant, writer.state);
            if !both_atomic && !order.ordered(writer.participant, writer.stamp, who.participant) {
                return Some(Conflict::WriteAfterWrite { by: writer.participant, pc: writer.pc, stamp: writer.stamp });
            }
        }
        if self.readers.is_empty() {
            let own_warp = (who.participant / LANES as u32).wrapping_sub(self.first_warp) as usize;
            let lane = who.participant % LANES as u32;
            let base = order.block_interval(order.block_of(who.participant));
            let reads = &self.warp_reads[cell * self.warps..(cell + 1) * self.warps];
            for (warp, read) in reads.iter().enumerate() {
                // Reads of this warp count until it meets, those of other warps until the block does.
                if read.interval < base {
                    continue;
                }
                let own = warp == own_warp;
                let others = if own { read.lanes & !(1 << lane) } else { read.lanes };
                if others != 0 && (!own || read.interval == order.warp_interval(who.participant / LANES as u32)) {
                    let by = (self.first_warp + warp as u32) * LANES as u32 + others.trailing_zeros();
                    return Some(Conflict::WriteAfterRead { by, pc: read.pc, stamp: read.interval });
                }
            }
            return None;
        }
        let unordered = self.readers[cell].iter().find(|reader| {
            let both_atomic = self.both_atomic(order, who, reader.participant, reader.state);
            !both_atomic && !order.ordered(reader.participant, reader.stamp, who.participant)
        });
        let conflict = unordered.map(|reader| {
            let Reader { participant, stamp, pc, .. } = *reader;
            Conflict::WriteAfterRead { by: participant, pc, stamp }
        });
        self.readers[cell].clear();
        conflict
    }

    /// An asynchronous copy into this range begins: until it ends no thread may touch it.
    pub(crate) fn begin_copy(
        &mut self,
        order: &HappensBefore,
        who: Accessor,
        offset: u32,
        bytes: u32,
    ) -> Option<Conflict> {
        if !self.check || bytes == 0 {
            return None;
        }
        let mut conflict = None;
        for cell in self.cells(offset, bytes) {
            conflict = conflict.or(self.write_conflict(order, who, cell));
            self.writers[cell] = Writer {
                participant: who.participant,
                stamp: order.now(),
                pc: who.pc,
                state: state::IN_FLIGHT | state::WRITTEN,
            };
        }
        conflict
    }

    /// The copy has ended; its bytes count as written by `who`, at this moment.
    pub(crate) fn end_copy(
        &mut self,
        order: &HappensBefore,
        who: Accessor,
        offset: u32,
        bytes: u32,
        async_proxy: bool,
    ) {
        if !self.check || bytes == 0 {
            return;
        }
        let state = state::WRITTEN | if async_proxy { state::ASYNC } else { 0 };
        for cell in self.cells(offset, bytes) {
            self.writers[cell] = Writer { participant: who.participant, stamp: order.now(), pc: who.pc, state };
        }
    }

    /// A read through the asynchronous proxy that `issuer` starts and `reader` finishes.
    pub(crate) fn note_async_read(
        &mut self,
        order: &HappensBefore,
        issuer: Accessor,
        reader: Participant,
        offset: u32,
        bytes: u32,
    ) -> Option<Conflict> {
        if !self.check || bytes == 0 {
            return None;
        }
        let mut conflict = None;
        for cell in self.cells(offset, bytes) {
            let writer = self.writers[cell];
            let by = writer.participant;
            let found = if writer.state & (state::WRITTEN | state::IN_FLIGHT) != state::WRITTEN
                || !order.ordered(by, writer.stamp, issuer.participant)
            {
                self.read_conflict(order, writer, issuer)
            } else if writer.state & state::ASYNC == 0
                && !order.proxy_fenced(by, writer.stamp, issuer.participant, FencedMemory::Shared)
            {
                Some(Conflict::Unfenced { by, pc: writer.pc })
            } else {
                None
            };
            conflict = conflict.or(found);
            if !self.readers.is_empty() {
                let who = Accessor { participant: reader, ..issuer };
                self.record_reader(order, who, cell, order.now());
            }
        }
        conflict
    }

    /// For a generic write after which an mbarrier lives here: whether `who` may use it.
    pub(crate) fn visible_to(&self, order: &HappensBefore, who: Participant, offset: u32) -> Option<Conflict> {
        if !self.check {
            return None;
        }
        let writer = *self.writers.get((offset >> self.granule) as usize)?;
        if writer.state & state::WRITTEN == 0 || order.ordered(writer.participant, writer.stamp, who) {
            return None;
        }
        Some(Conflict::ReadAfterWrite { by: writer.participant, pc: writer.pc, stamp: writer.stamp })
    }
}
