//! A page of global memory as one unit sees it: its own writes, and who touched which granule.

use crate::decode::{Manner, Scope};
use crate::memory::Memory;
use crate::registers::LANES;

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

    pub(super) fn is_non_coherent(self) -> bool {
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
    pub(super) fn is_atomic_with(self, other: Self, threads_per_block: u32) -> bool {
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
pub(super) const LINES: usize = PAGE_BYTES / LINE_BYTES;

/// Reads of a whole line by lanes side by side: one record for what would be one a granule.
#[derive(Clone, Copy, Default)]
pub(super) struct LineRead {
    /// Of the lane that reads the line's first byte.
    pub record: Record,
    /// Bytes a lane, as a power of two.
    pub lane_shift: u8,
}

impl LineRead {
    /// The record of the granule that begins so many bytes after the line's start.
    #[inline(always)]
    pub(super) fn at(self, byte: usize) -> Record {
        let lane = (byte >> self.lane_shift) as u32;
        Record { participant: self.record.participant + lane, ..self.record }
    }
}

/// How the reads of a line are kept.
#[derive(Clone, Copy, Default)]
pub(super) enum LineReads {
    #[default]
    None,
    /// As [`Page::readers`], but for all of the line's granules at once.
    Whole([LineRead; 2]),
    /// In [`Page::readers`].
    Granules,
}

pub(super) struct Page {
    pub buffer: u32,
    pub index: u32,
    /// The page's contents once this unit has written to it.
    pub data: Option<Box<[u8]>>,
    /// One bit a byte that this unit wrote.
    pub written: Vec<u64>,
    pub writers: Vec<Record>,
    /// Newest reader, and the first one since the last write.
    pub readers: Vec<[Record; 2]>,
    /// Empty until the first read.
    pub lines: Vec<LineReads>,
}

impl Page {
    /// One that nothing has touched.
    pub(super) fn new(buffer: u32, index: u32) -> Self {
        Self {
            buffer,
            index,
            data: None,
            written: Vec::new(),
            writers: Vec::new(),
            readers: Vec::new(),
            lines: Vec::new(),
        }
    }

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

    /// The bytes of this page from `within` on, as this unit sees them.
    #[inline(always)]
    pub(super) fn bytes<'a>(&'a self, memory: &'a Memory, within: usize, count: usize) -> &'a [u8] {
        match &self.data {
            Some(data) => &data[within..within + count],
            None => {
                let start = self.index as usize * PAGE_BYTES + within;
                &memory.buffers()[self.buffer as usize].bytes[start..start + count]
            }
        }
    }

    /// Notes a read of bytes from `within` on and finds the write that it races with.
    #[inline(always)]
    pub(super) fn note_read(
        &mut self,
        within: usize,
        bytes: usize,
        granule: u32,
        threads_per_block: u32,
        record: Record,
        ordered: impl Fn(Record) -> bool,
    ) -> Option<GlobalConflict> {
        let last = within + bytes - 1;
        let line = within / LINE_BYTES;
        if line != last / LINE_BYTES || !matches!(self.lines.get(line), Some(LineReads::Granules)) {
            self.spread_range(within..=last, granule);
        }
        let cells = within >> granule..(last >> granule) + 1;
        let mut conflict = None;
        if let Some(writers) = self.writers.get(cells.clone()) {
            for &writer in writers {
                if writer.is_some() && !writer.is_atomic_with(record, threads_per_block) {
                    let stale = ordered(writer);
                    if !stale || record.tag.is_non_coherent() {
                        conflict = Some(GlobalConflict { with: writer, with_is_write: true, stale });
                    }
                }
            }
        }
        for readers in &mut self.readers[cells] {
            if !readers[1].is_some() || ordered(readers[1]) {
                readers[1] = record;
            }
            readers[0] = record;
        }
        conflict
    }

    /// Notes that several lanes of a warp read the same bytes, as [`note_read`](Self::note_read) would note one after the
    /// other: false, and nothing done, if the bytes were written. `record` is what lane 0 would leave, `ordered` and `alike` as
    /// in [`GlobalView::note_line_read`].
    #[inline(always)]
    pub(super) fn note_common_read(
        &mut self,
        within: usize,
        bytes: usize,
        granule: u32,
        lanes: u32,
        record: Record,
        alike: bool,
        ordered: impl Fn(Record, u32) -> bool,
    ) -> bool {
        if !self.writers.is_empty() {
            return false;
        }
        let last = within + bytes - 1;
        let line = within / LINE_BYTES;
        if line != last / LINE_BYTES || !matches!(self.lines.get(line), Some(LineReads::Granules)) {
            self.spread_range(within..=last, granule);
        }
        let of_lane = |lane: u32| Record { participant: record.participant + lane, ..record };
        let (lowest, highest) = (lanes.trailing_zeros(), lanes.ilog2());
        for readers in &mut self.readers[within >> granule..(last >> granule) + 1] {
            let first = readers[1];
            let own = first.participant.wrapping_sub(record.participant);
            let is_own = first.cluster == record.cluster && own < LANES as u32;
            // The first lane that it is ordered before: what that one leaves is before none of the others.
            let next = if !first.is_some() {
                Some(lowest)
            } else if !alike {
                (lowest..=highest).find(|lane| lanes >> lane & 1 == 1 && ordered(first, record.participant + lane))
            } else {
                // For all lanes but its own the answer is the same.
                let other = if is_own { (own + 1) % LANES as u32 } else { 0 };
                if ordered(first, record.participant + other) {
                    Some(lowest)
                } else {
                    (is_own && lanes >> own & 1 == 1).then_some(own)
                }
            };
            if let Some(lane) = next {
                readers[1] = of_lane(lane);
            }
            readers[0] = of_lane(highest);
        }
        true
    }

    /// Makes `readers` hold the reads of all granules from one byte to another.
    #[cold]
    #[inline(never)]
    pub(super) fn spread_range(&mut self, bytes: std::ops::RangeInclusive<usize>, granule: u32) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    const PER_WARP: u32 = LANES as u32;

    /// A page that several warps have read, some lanes at a time.
    fn page(random: &mut Random, granule: u32) -> Page {
        let mut page = Page::new(0, 0);
        for _ in 0..random.below(6) {
            let record = Record {
                cluster: 1 + random.below(2) as u32,
                participant: random.below(3 * LANES) as u32,
                stamp: 1 + random.below(4) as u32,
                tag: RecordTag::default(),
            };
            let before = random.below(2) == 0;
            page.note_read(8 * random.below(2), 8, granule, PER_WARP, record, |_| before);
        }
        page
    }

    /// One pass over lanes that read the same bytes leaves what a look at each of them leaves.
    #[test]
    fn a_common_read_is_each_lanes_read() {
        let mut replaced = 0;
        for seed in 0..4000 {
            let mut random = Random::new(seed);
            let granule = random.below(3) as u32;
            let (mut together, mut apart) = {
                let again = Random::new(seed ^ 0x5eed);
                (page(&mut again.clone(), granule), page(&mut again.clone(), granule))
            };
            let warp = random.below(3) as u32;
            let lanes = (random.next() as u32 & random.next() as u32) | 1 << random.below(LANES);
            let now = 5;
            let record = Record { cluster: 1, participant: warp * PER_WARP, stamp: now, tag: RecordTag::default() };
            // As barriers order: all stamps up to one of the warp, up to another of the block.
            let (warp_base, block_base) = (random.below(5) as u32, random.below(5) as u32);
            let learned = (random.below(3 * LANES) as u32, random.below(5) as u32);
            let alike = random.below(2) == 0;
            let ordered = |other: Record, thread: u32| {
                let same_warp = other.participant / PER_WARP == thread / PER_WARP;
                // Without messages nothing is known of one thread that is not known of its warp.
                let message =
                    !alike && thread.is_multiple_of(3) && other.participant == learned.0 && other.stamp <= learned.1;
                other.cluster == 1
                    && (other.participant == thread
                        || other.stamp <= block_base
                        || same_warp && other.stamp <= warp_base
                        || message)
            };
            let (within, bytes) = (8 * random.below(2), 8);
            assert!(together.note_common_read(within, bytes, granule, lanes, record, alike, ordered));
            for lane in (0..PER_WARP).filter(|lane| lanes >> lane & 1 == 1) {
                let of_lane = Record { participant: record.participant + lane, ..record };
                let before = |other| ordered(other, of_lane.participant);
                assert!(apart.note_read(within, bytes, granule, PER_WARP, of_lane, before).is_none());
            }
            let told = |page: &Page| -> Vec<_> {
                page.readers.iter().flatten().map(|read| (read.cluster, read.participant, read.stamp)).collect()
            };
            assert_eq!(told(&together), told(&apart), "seed {seed}");
            replaced += usize::from(together.readers[within >> granule][1].stamp == now);
        }
        assert!((1000..3900).contains(&replaced), "{replaced} cases replaced the first reader");
    }

    #[test]
    fn what_was_written_is_not_read_in_common() {
        let mut page = page(&mut Random::new(1), 1);
        let write = Record { cluster: 1, participant: 40, stamp: 2, tag: RecordTag::default() };
        page.writers.resize(PAGE_BYTES >> 1, Record::default());
        page.writers[3] = write;
        assert!(!page.note_common_read(0, 8, 1, u32::MAX, Record { cluster: 1, ..write }, true, |_, _| true));
    }
}
