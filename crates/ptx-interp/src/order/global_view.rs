//! Global memory as one unit of execution sees it: what was there at launch, plus its own writes.
//!
//! Units that cannot talk to each other run in parallel on views of their own, whose writes are merged in order
//! afterwards: the result does not depend on threads, and what two units both touched is a race that the merge
//! sees. Units that may talk (atomics, acquire, volatile) share one view and run side by side on one thread.

use std::collections::HashMap;

use super::page::{GlobalConflict, LINE_BYTES, LINES, LineRead, LineReads, PAGE_BYTES, Page, Record};
use crate::memory::{Memory, Written, words_of};
use crate::registers::LANES;

pub(crate) struct GlobalView<'m> {
    pub memory: &'m Memory,
    granule: u32,
    threads_per_block: u32,
    check: bool,
    check_uninitialized: bool,
    /// For each buffer: page number to page + 1, made when first needed.
    tables: Vec<Vec<u32>>,
    pages: Vec<Page>,
    last_buffer: usize,
}

impl<'m> GlobalView<'m> {
    /// `threads_per_block` is a whole number of warps.
    pub(crate) fn new(
        memory: &'m Memory,
        granule: u32,
        threads_per_block: u32,
        check: bool,
        check_uninitialized: bool,
    ) -> Self {
        let tables = vec![Vec::new(); memory.buffers().len()];
        Self {
            memory,
            granule,
            threads_per_block,
            check,
            check_uninitialized,
            tables,
            pages: Vec::new(),
            last_buffer: 0,
        }
    }

    /// The buffer that holds a range, and the offset in it.
    #[inline(always)]
    pub(crate) fn resolve(&mut self, address: u64, bytes: usize) -> Option<(usize, usize)> {
        if let Some(buffer) = self.memory.buffers().get(self.last_buffer) {
            let offset = address.wrapping_sub(buffer.base);
            if !buffer.freed && offset < buffer.length as u64 && buffer.length as u64 - offset >= bytes as u64 {
                return Some((self.last_buffer, offset as usize));
            }
        }
        let found = self.memory.resolve(address, bytes)?;
        self.last_buffer = found.0;
        Some(found)
    }

    #[inline(always)]
    fn page(&self, buffer: usize, offset: usize) -> Option<&Page> {
        match self.tables[buffer].get(offset / PAGE_BYTES) {
            None | Some(0) => None,
            Some(&page) => Some(&self.pages[page as usize - 1]),
        }
    }

    #[inline(always)]
    fn page_mut(&mut self, buffer: usize, offset: usize) -> &mut Page {
        let index = offset / PAGE_BYTES;
        let page = match self.tables[buffer].get(index) {
            None | Some(0) => self.new_page(buffer, index),
            Some(&page) => page,
        };
        &mut self.pages[page as usize - 1]
    }

    #[cold]
    fn new_page(&mut self, buffer: usize, index: usize) -> u32 {
        let table = &mut self.tables[buffer];
        if table.is_empty() {
            table.resize(self.memory.buffers()[buffer].length.div_ceil(PAGE_BYTES), 0);
        }
        self.pages.push(Page::new(buffer as u32, index as u32));
        table[index] = self.pages.len() as u32;
        table[index]
    }

    /// Reads bytes that lie inside a buffer.
    #[inline(always)]
    pub(crate) fn read(&self, buffer: usize, offset: usize, into: &mut [u8]) {
        if offset % PAGE_BYTES + into.len() <= PAGE_BYTES {
            let bytes = match self.page(buffer, offset) {
                Some(Page { data: Some(data), .. }) => &data[offset % PAGE_BYTES..][..into.len()],
                _ => &self.memory.buffers()[buffer].bytes[offset..offset + into.len()],
            };
            into.copy_from_slice(bytes);
            return;
        }
        let split = PAGE_BYTES - offset % PAGE_BYTES;
        let (head, tail) = into.split_at_mut(split);
        self.read(buffer, offset, head);
        self.read(buffer, offset + split, tail);
    }

    pub(crate) fn write(&mut self, buffer: usize, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let within = offset % PAGE_BYTES;
        if within + data.len() > PAGE_BYTES {
            let split = PAGE_BYTES - within;
            self.write(buffer, offset, &data[..split]);
            self.write(buffer, offset + split, &data[split..]);
            return;
        }
        let memory = self.memory;
        let page = self.page_mut(buffer, offset);
        let contents = page.data.get_or_insert_with(|| {
            let start = offset - within;
            let source = &memory.buffers()[buffer].bytes;
            let end = source.len().min(start + PAGE_BYTES);
            source[start..end].into()
        });
        contents[within..within + data.len()].copy_from_slice(data);
        if page.written.is_empty() {
            page.written.resize(PAGE_BYTES / 64, 0);
        }
        // An aligned access of at most 64 bytes lies in one word of bits.
        if within / 64 == (within + data.len() - 1) / 64 {
            let bits = if data.len() == 64 { u64::MAX } else { (1 << data.len()) - 1 };
            page.written[within / 64] |= bits << (within % 64);
        } else {
            for byte in within..within + data.len() {
                page.written[byte / 64] |= 1 << (byte % 64);
            }
        }
    }

    /// Whether these bytes have been written, at launch or since.
    #[inline(always)]
    pub(crate) fn is_written(&self, buffer: usize, offset: usize, bytes: usize) -> bool {
        if !self.check_uninitialized {
            return true;
        }
        let source = &self.memory.buffers()[buffer];
        if matches!(source.written, Written::All) {
            return true;
        }
        words_of(offset, bytes).all(|(word, needed)| {
            let own = self.page(buffer, word * 64).and_then(|page| page.written.get(word % (PAGE_BYTES / 64)));
            needed & !own.copied().unwrap_or_default() & !source.written_word(word) == 0
        })
    }

    /// Notes a read and finds the write that it races with. `ordered` tells whether a record is before the access.
    #[inline(always)]
    pub(crate) fn note_read(
        &mut self,
        buffer: usize,
        offset: usize,
        bytes: usize,
        record: Record,
        ordered: impl Fn(Record) -> bool,
    ) -> Option<GlobalConflict> {
        if !self.check {
            return None;
        }
        let (granule, threads_per_block) = (self.granule, self.threads_per_block);
        let page = self.page_mut(buffer, offset);
        page.note_read(offset % PAGE_BYTES, bytes, granule, threads_per_block, record, ordered)
    }

    /// Notes that several lanes of a warp read the same bytes: see `Page::note_common_read`.
    #[inline(always)]
    pub(crate) fn note_common_read(
        &mut self,
        buffer: usize,
        offset: usize,
        bytes: usize,
        lanes: u32,
        record: Record,
        alike: bool,
        ordered: impl Fn(Record, u32) -> bool,
    ) -> bool {
        if !self.check {
            return true;
        }
        let granule = self.granule;
        let page = self.page_mut(buffer, offset);
        page.note_common_read(offset % PAGE_BYTES, bytes, granule, lanes, record, alike, ordered)
    }

    /// Whether accesses to a buffer that are aligned, of at most 16 bytes, each lie in one page, all of whose bytes were
    /// written before the launch.
    #[inline(always)]
    pub(crate) fn is_plain(&self, buffer: usize) -> bool {
        let source = &self.memory.buffers()[buffer];
        source.base.is_multiple_of(16) && (!self.check_uninitialized || matches!(source.written, Written::All))
    }

    /// Lanes read a [plain](Self::is_plain) buffer, each at an aligned place of its own: gives each lane's bytes to `deliver`
    /// and notes the read. The first lane's record is `first`, `ordered` as in [`note_line_read`](Self::note_line_read). Gives
    /// back the reads that race, in the order of lanes.
    #[inline(always)]
    pub(crate) fn read_lanes(
        &mut self,
        buffer: usize,
        offsets: &[usize; LANES],
        mask: u32,
        bytes: usize,
        first: Record,
        ordered: impl Fn(Record, u32) -> bool,
        mut deliver: impl FnMut(usize, &[u8]),
    ) -> Vec<(usize, GlobalConflict)> {
        let mut conflicts = Vec::new();
        let (memory, granule, threads_per_block, check) =
            (self.memory, self.granule, self.threads_per_block, self.check);
        let mut remaining = mask;
        while remaining != 0 {
            // Lanes that follow one another are mostly in the same page.
            let index = offsets[remaining.trailing_zeros() as usize] / PAGE_BYTES;
            let page = self.page_mut(buffer, index * PAGE_BYTES);
            while remaining != 0 {
                let lane = remaining.trailing_zeros() as usize;
                if offsets[lane] / PAGE_BYTES != index {
                    break;
                }
                remaining &= remaining - 1;
                let within = offsets[lane] % PAGE_BYTES;
                deliver(lane, page.bytes(memory, within, bytes));
                if !check {
                    continue;
                }
                let record = Record { participant: first.participant + lane as u32, ..first };
                let before = |other: Record| ordered(other, record.participant);
                if let Some(conflict) = page.note_read(within, bytes, granule, threads_per_block, record, before) {
                    conflicts.push((lane, conflict));
                }
            }
        }
        conflicts
    }

    /// Notes that lanes side by side read one line, `record` the lane at its start, if that needs no look at its
    /// granules: false, and nothing done, if it does. `ordered` tells whether a record is before a thread's access;
    /// `alike` that it says the same for all pairs of lanes of two warps.
    #[inline(always)]
    pub(crate) fn note_line_read(
        &mut self,
        buffer: usize,
        offset: usize,
        lane_shift: u8,
        record: Record,
        alike: bool,
        ordered: impl Fn(Record, u32) -> bool,
    ) -> bool {
        if !self.check {
            return true;
        }
        if u32::from(lane_shift) < self.granule {
            return false;
        }
        let granule = self.granule;
        let page = self.page_mut(buffer, offset);
        if !page.writers.is_empty() {
            return false;
        }
        if page.lines.is_empty() {
            page.lines.resize(LINES, LineReads::None);
        }
        let read = LineRead { record, lane_shift };
        let line = &mut page.lines[offset % PAGE_BYTES / LINE_BYTES];
        let first = match line {
            LineReads::None => read,
            LineReads::Whole([_, first]) => {
                let same = first.record.cluster == record.cluster
                    && first.record.participant == record.participant
                    && first.lane_shift == lane_shift;
                if same {
                    read
                } else {
                    let before = ordered(first.record, record.participant);
                    let agree = alike
                        || (0..LINE_BYTES)
                            .step_by(1 << granule)
                            .all(|byte| ordered(first.at(byte), read.at(byte).participant) == before);
                    if !agree {
                        return false;
                    }
                    if before { read } else { *first }
                }
            }
            LineReads::Granules => return false,
        };
        *line = LineReads::Whole([read, first]);
        true
    }

    #[inline(always)]
    pub(crate) fn note_write(
        &mut self,
        buffer: usize,
        offset: usize,
        bytes: usize,
        record: Record,
        ordered: impl Fn(Record) -> bool,
    ) -> Option<GlobalConflict> {
        if !self.check {
            return None;
        }
        let (granule, threads_per_block) = (self.granule, self.threads_per_block);
        let page = self.page_mut(buffer, offset);
        if page.writers.is_empty() {
            page.writers.resize(PAGE_BYTES >> granule, Record::default());
        }
        let mut conflict = None;
        let within = offset % PAGE_BYTES;
        if !page.lines.is_empty() {
            page.spread_range(within..=within + bytes - 1, granule);
        }
        for cell in within >> granule..=(within + bytes - 1) >> granule {
            let writer = page.writers[cell];
            let races =
                |other: Record| other.is_some() && !other.is_atomic_with(record, threads_per_block) && !ordered(other);
            if races(writer) {
                conflict = Some(GlobalConflict { with: writer, with_is_write: true, stale: false });
            } else if let Some(readers) = page.readers.get_mut(cell) {
                for reader in readers.iter() {
                    let race = races(*reader);
                    if race || reader.tag.is_non_coherent() {
                        conflict = Some(GlobalConflict { with: *reader, with_is_write: false, stale: !race });
                    }
                }
            }
            page.writers[cell] = record;
        }
        conflict
    }

    /// The newest write of each granule in a range that lies in one page.
    pub(crate) fn writers(&self, buffer: usize, offset: usize, bytes: usize) -> &[Record] {
        let within = offset % PAGE_BYTES;
        let writers = self.page(buffer, offset).map_or(&[][..], |page| &page.writers);
        let cells = within >> self.granule..((within + bytes - 1) >> self.granule) + 1;
        writers.get(cells).unwrap_or_default()
    }

    pub(crate) fn into_changes(self) -> Changes {
        Changes { granule: self.granule, pages: self.pages }
    }
}

/// What a unit did to global memory, to be merged in the order of units.
pub(crate) struct Changes {
    granule: u32,
    pages: Vec<Page>,
}

/// Who touched what in earlier units of a launch.
#[derive(Default)]
pub(crate) struct LaunchHistory {
    pages: HashMap<(u32, u32), History>,
}

#[derive(Default)]
struct History {
    writers: Vec<Record>,
    readers: Vec<Record>,
    /// Readers of whole lines.
    lines: Vec<LineRead>,
}

/// A race between two units.
pub(crate) struct UnitRace {
    pub buffer: usize,
    pub offset: usize,
    /// The later unit's access.
    pub at: Record,
    pub at_is_write: bool,
    pub with: Record,
    pub with_is_write: bool,
}

impl LaunchHistory {
    /// Writes a unit's pages to memory and reports the granules that an earlier unit touched in conflict.
    pub(crate) fn merge(
        &mut self,
        memory: &mut Memory,
        changes: Changes,
        check: bool,
        mut report: impl FnMut(UnitRace),
    ) {
        for mut page in changes.pages {
            if let Some(data) = &page.data {
                let start = page.index as usize * PAGE_BYTES;
                apply_written(memory, page.buffer as usize, start, data, &page.written);
            }
            if !check {
                continue;
            }
            let history = self.pages.entry((page.buffer, page.index)).or_default();
            let granule = changes.granule;
            let cells = PAGE_BYTES >> granule;
            if !page.lines.is_empty() && !history.writers.is_empty() {
                page.spread_range(0..=PAGE_BYTES - 1, granule);
            }
            let place = |cell: usize| page.index as usize * PAGE_BYTES + (cell << granule);
            let earlier =
                |records: &[Record], cell: usize| records.get(cell).copied().filter(|record| record.is_some());
            let buffer = page.buffer as usize;
            for (cell, readers) in page.readers.iter().enumerate() {
                let at = readers[0];
                if at.is_some()
                    && let Some(with) = earlier(&history.writers, cell)
                {
                    let offset = place(cell);
                    report(UnitRace { buffer, offset, at, at_is_write: false, with, with_is_write: true });
                }
            }
            for (cell, at) in page.writers.iter().copied().enumerate() {
                if !at.is_some() {
                    continue;
                }
                let written = earlier(&history.writers, cell).map(|with| (with, true));
                let line = || {
                    let byte = cell << granule;
                    let read = history.lines.get(byte / LINE_BYTES).filter(|read| read.record.is_some())?;
                    Some(read.at(byte % LINE_BYTES))
                };
                let read = || earlier(&history.readers, cell).or_else(line).map(|with| (with, false));
                if let Some((with, with_is_write)) = written.or_else(read) {
                    let offset = place(cell);
                    report(UnitRace { buffer, offset, at, at_is_write: true, with, with_is_write });
                }
            }
            if !page.readers.is_empty() {
                history.readers.resize(cells, Record::default());
                for (known, readers) in history.readers.iter_mut().zip(&page.readers) {
                    if !known.is_some() {
                        *known = readers[0];
                    }
                }
            }
            if page.lines.iter().any(|line| matches!(line, LineReads::Whole(_))) {
                history.lines.resize(LINES, LineRead::default());
                for (known, line) in history.lines.iter_mut().zip(&page.lines) {
                    if let LineReads::Whole([newest, _]) = line
                        && !known.record.is_some()
                    {
                        *known = *newest;
                    }
                }
            }
            if !page.writers.is_empty() {
                history.writers.resize(cells, Record::default());
                for (known, writer) in history.writers.iter_mut().zip(&page.writers) {
                    if writer.is_some() {
                        *known = *writer;
                    }
                }
            }
        }
    }
}

fn apply_written(memory: &mut Memory, buffer: usize, start: usize, data: &[u8], written: &[u64]) {
    let is_written = |byte: usize| written.get(byte / 64).is_some_and(|bits| bits >> (byte % 64) & 1 == 1);
    let mut at = 0;
    while at < data.len() {
        if !is_written(at) {
            at += 1;
            continue;
        }
        let first = at;
        while at < data.len() && is_written(at) {
            at += 1;
        }
        memory.apply(buffer, start + first, &data[first..at]);
    }
}
