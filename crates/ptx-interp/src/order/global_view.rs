//! Global memory as one unit of execution sees it: what was there at launch, plus its own writes.
//!
//! Units that cannot talk to each other run in parallel on views of their own, whose writes are merged in order
//! afterwards: the result does not depend on threads, and what two units both touched is a race that the merge
//! sees. Units that may talk (atomics, acquire, volatile) share one view and run side by side on one thread.

use std::collections::HashMap;

use crate::decode::{Manner, Scope};
use crate::memory::{Memory, Written};

pub(crate) const PAGE_BYTES: usize = 4096;

/// An access to a granule.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Record {
    /// Cluster index + 1; 0 for no access.
    pub cluster: u32,
    pub participant: u32,
    pub stamp: u32,
    pub tag: RecordTag,
}

/// An instruction, and in the top bits how it takes part in races.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct RecordTag(u32);

const MANNER_SHIFT: u32 = 29;
const NON_COHERENT: u32 = 4;
const ASYNCHRONOUS: u32 = 5;

impl RecordTag {
    #[inline(always)]
    pub(crate) fn new(pc: u32, manner: Manner) -> Self {
        let bits = match manner {
            Manner::Weak => 0,
            Manner::Strong(scope) => 1 + scope as u32,
            Manner::NonCoherent => NON_COHERENT,
            Manner::Asynchronous => ASYNCHRONOUS,
        };
        Self(pc & ((1 << MANNER_SHIFT) - 1) | bits << MANNER_SHIFT)
    }

    /// 0 for a weak access, else 1 and the scope.
    #[inline(always)]
    fn strength(self) -> u32 {
        match self.0 >> MANNER_SHIFT {
            NON_COHERENT | ASYNCHRONOUS => 0,
            strength => strength,
        }
    }

    /// A store or a load through the generic proxy, and no atomic.
    pub(crate) fn is_generic(self) -> bool {
        self.0 >> MANNER_SHIFT == 0
    }

    fn is_non_coherent(self) -> bool {
        self.0 >> MANNER_SHIFT == NON_COHERENT
    }
}

impl Record {
    pub(crate) fn is_some(self) -> bool {
        self.cluster != 0
    }

    pub(crate) fn pc(self) -> u32 {
        self.tag.0 & ((1 << MANNER_SHIFT) - 1)
    }

    /// Whether both are strong, in scopes that hold both threads: they do not race.
    #[inline(always)]
    fn is_atomic_with(self, other: Self, threads_per_block: u32) -> bool {
        let common = self.tag.strength().min(other.tag.strength());
        if common == 0 {
            return false;
        }
        let needed = if self.cluster != other.cluster {
            Scope::Device
        } else if self.participant / threads_per_block != other.participant / threads_per_block {
            Scope::Cluster
        } else {
            Scope::Block
        };
        common > needed as u32
    }
}

/// Bytes of a line: what lanes side by side usually read together.
pub(crate) const LINE_BYTES: usize = 64;
const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// Reads of a whole line by lanes side by side: one record for what would be one a granule.
#[derive(Clone, Copy, Default)]
struct LineRead {
    /// Of the lane that reads the line's first byte.
    record: Record,
    /// Bytes a lane, as a power of two.
    lane_shift: u8,
}

impl LineRead {
    /// The record of the granule that begins so many bytes after the line's start.
    #[inline(always)]
    fn at(self, byte: usize) -> Record {
        let lane = (byte >> self.lane_shift) as u32;
        Record { participant: self.record.participant + lane, ..self.record }
    }
}

/// How the reads of a line are kept.
#[derive(Clone, Copy, Default)]
enum LineReads {
    #[default]
    None,
    /// As [`Page::readers`], but for all of the line's granules at once.
    Whole([LineRead; 2]),
    /// In [`Page::readers`].
    Granules,
}

struct Page {
    buffer: u32,
    index: u32,
    /// The page's contents once this unit has written to it.
    data: Option<Box<[u8]>>,
    /// One bit a byte that this unit wrote.
    written: Vec<u64>,
    writers: Vec<Record>,
    /// Newest reader, and the first one since the last write.
    readers: Vec<[Record; 2]>,
    /// Empty until the first read.
    lines: Vec<LineReads>,
}

impl Page {
    /// Keeps the reads of a line in `readers` from now on.
    fn spread(&mut self, line: usize, granule: u32) {
        if self.readers.is_empty() {
            self.readers.resize(PAGE_BYTES >> granule, Default::default());
        }
        if let LineReads::Whole(reads) = self.lines[line] {
            let first = (line * LINE_BYTES) >> granule;
            for (index, readers) in self.readers[first..first + (LINE_BYTES >> granule)].iter_mut().enumerate() {
                *readers = reads.map(|read| read.at(index << granule));
            }
        }
        self.lines[line] = LineReads::Granules;
    }

    /// Makes `readers` hold the reads of all granules from one byte to another.
    #[inline(always)]
    fn spread_range(&mut self, bytes: std::ops::RangeInclusive<usize>, granule: u32) {
        if self.lines.is_empty() {
            self.lines.resize(LINES, LineReads::None);
        }
        for line in bytes.start() / LINE_BYTES..=bytes.end() / LINE_BYTES {
            if !matches!(self.lines[line], LineReads::Granules) {
                self.spread(line, granule);
            }
        }
    }
}

/// Which earlier access of a granule an access collides with.
pub(crate) struct GlobalConflict {
    pub with: Record,
    pub with_is_write: bool,
    /// It is no race, but a read that need not see the write.
    pub stale: bool,
}

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

    fn page_mut(&mut self, buffer: usize, offset: usize) -> &mut Page {
        let table = &mut self.tables[buffer];
        if table.is_empty() {
            table.resize(self.memory.buffers()[buffer].length.div_ceil(PAGE_BYTES), 0);
        }
        let slot = &mut table[offset / PAGE_BYTES];
        if *slot == 0 {
            self.pages.push(Page {
                buffer: buffer as u32,
                index: (offset / PAGE_BYTES) as u32,
                data: None,
                written: Vec::new(),
                writers: Vec::new(),
                readers: Vec::new(),
                lines: Vec::new(),
            });
            *slot = self.pages.len() as u32;
        }
        let slot = *slot;
        &mut self.pages[slot as usize - 1]
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
        (offset..offset + bytes).all(|byte| {
            let own = self.page(buffer, byte).is_some_and(|page| {
                let within = byte % PAGE_BYTES;
                page.written.get(within / 64).is_some_and(|bits| bits >> (within % 64) & 1 == 1)
            });
            own || source.is_written(byte, 1)
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
        let mut conflict = None;
        let within = offset % PAGE_BYTES;
        page.spread_range(within..=within + bytes - 1, granule);
        for cell in within >> granule..=(within + bytes - 1) >> granule {
            if let Some(&writer) = page.writers.get(cell)
                && writer.is_some()
                && !writer.is_atomic_with(record, threads_per_block)
            {
                let stale = ordered(writer);
                if !stale || record.tag.is_non_coherent() {
                    conflict = Some(GlobalConflict { with: writer, with_is_write: true, stale });
                }
            }
            let readers = &mut page.readers[cell];
            if !readers[1].is_some() || ordered(readers[1]) {
                readers[1] = record;
            }
            readers[0] = record;
        }
        conflict
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
