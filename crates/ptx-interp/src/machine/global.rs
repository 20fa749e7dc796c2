//! Global memory and who touched it, and what accesses cost.

use super::{At, Cluster, Lanes, Machine, Stopped, is_side_by_side};
use crate::counters::wavefronts;
use crate::decode::Manner;
use crate::diagnostics::{FindingKind, Missing, Mistake};
use crate::order::{GlobalConflict, InVain, LINE_BYTES, PAGE_BYTES, Participant, Record, RecordTag};
use crate::registers::{LANES, each_lane};

impl Machine<'_> {
    pub(crate) fn record(&self, cluster: &Cluster, at: At, lane: usize, manner: Manner) -> Record {
        Record {
            cluster: cluster.index as u32 + 1,
            participant: at.participant(lane),
            stamp: cluster.order.now(),
            tag: RecordTag::new(at.pc, manner),
        }
    }

    /// A checked read of global memory.
    #[inline(always)]
    pub(crate) fn read_global(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        into: &mut [u8],
        manner: Manner,
    ) -> Result<(), Stopped> {
        let (buffer, offset) = self.global_place(cluster, at, lane, address, into.len(), into.len())?;
        self.global.read(buffer, offset, into);
        self.note_global_read(cluster, at, lane, (buffer, offset), into.len(), manner);
        Ok(())
    }

    /// Race and initialisation checks of a read that lies in one page.
    pub(crate) fn note_global_read(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        (buffer, offset): (usize, usize),
        bytes: usize,
        manner: Manner,
    ) {
        let head = PAGE_BYTES - offset % PAGE_BYTES;
        if bytes > head {
            // Only pieces of tensors cross pages.
            self.note_global_read(cluster, at, lane, (buffer, offset), head, manner);
            return self.note_global_read(cluster, at, lane, (buffer, offset + head), bytes - head, manner);
        }
        if !self.global.is_written(buffer, offset, bytes) {
            self.report_unwritten(cluster, at, lane, buffer, offset, bytes);
        }
        let record = self.record(cluster, at, lane, manner);
        let ordered = |other: Record| is_ordered(cluster, other, record.participant);
        let conflict = self.global.note_read(buffer, offset, bytes, record, ordered);
        if let Some(conflict) = conflict {
            self.report_global(cluster, at, lane, buffer, offset, &conflict, false);
        }
    }

    /// Race checks of lanes that read one buffer, each inside of a page.
    pub(crate) fn note_global_reads(
        &mut self,
        cluster: &Cluster,
        at: At,
        buffer: usize,
        offsets: &[usize; LANES],
        mask: u32,
        bytes: u32,
        manner: Manner,
    ) {
        let first = self.record(cluster, at, 0, manner);
        let of_lane = |lane: usize| Record { participant: first.participant + lane as u32, ..first };
        let mask = self.note_common_reads(cluster, buffer, offsets, mask, bytes, first);
        // Lanes that may read a line together.
        let group = LINE_BYTES / bytes.clamp(2, 16) as usize;
        let lanes_of_group = (1u64 << group) - 1;
        for lane in (0..LANES).step_by(group) {
            let active = u64::from(mask >> lane) & lanes_of_group;
            if active == 0 {
                continue;
            }
            let start = offsets[lane];
            let mut whole = active == lanes_of_group && start.is_multiple_of(LINE_BYTES) && bytes >= 2;
            for (index, offset) in offsets[lane..lane + group].iter().enumerate() {
                whole &= *offset == start.wrapping_add(index * bytes as usize);
            }
            let noted = whole && {
                let alike = cluster.order.warps_are_alike();
                let ordered = |other: Record, thread| is_ordered(cluster, other, thread);
                self.global.note_line_read(buffer, start, bytes.trailing_zeros() as u8, of_lane(lane), alike, ordered)
            };
            if noted {
                continue;
            }
            each_lane!(active as u32, index, {
                let lane = lane + index;
                let record = of_lane(lane);
                let ordered = |other: Record| is_ordered(cluster, other, record.participant);
                let conflict = self.global.note_read(buffer, offsets[lane], bytes as usize, record, ordered);
                if let Some(conflict) = conflict {
                    self.report_global(cluster, at, lane, buffer, offsets[lane], &conflict, false);
                }
            });
        }
    }

    /// Race checks of lanes that read the same bytes as several others, if that needs no look at each lane: gives back the
    /// other lanes.
    #[inline(always)]
    fn note_common_reads(
        &mut self,
        cluster: &Cluster,
        buffer: usize,
        offsets: &[usize; LANES],
        mask: u32,
        bytes: u32,
        first: Record,
    ) -> u32 {
        let alike = cluster.order.warps_are_alike();
        let mut left = mask;
        // Fewer lanes are as fast one by one.
        while left.count_ones() >= 4 {
            let offset = offsets[left.trailing_zeros() as usize];
            let mut lanes = 0;
            for (lane, other) in offsets.iter().enumerate() {
                lanes |= u32::from(*other == offset) << lane;
            }
            lanes &= left;
            let ordered = |other: Record, thread| is_ordered(cluster, other, thread);
            if lanes.count_ones() < 4
                || !self.global.note_common_read(buffer, offset, bytes as usize, lanes, first, alike, ordered)
            {
                break;
            }
            left &= !lanes;
        }
        left
    }

    /// Lanes read a plain buffer, each at an aligned place of its own: gives each lane's bytes to `deliver`, and checks for
    /// races.
    #[inline(always)]
    pub(crate) fn read_lanes(
        &mut self,
        cluster: &Cluster,
        at: At,
        buffer: usize,
        offsets: &[usize; LANES],
        mask: u32,
        bytes: usize,
        manner: Manner,
        deliver: impl FnMut(usize, &[u8]),
    ) {
        let first = self.record(cluster, at, 0, manner);
        let ordered = |other: Record, thread| is_ordered(cluster, other, thread);
        let conflicts = self.global.read_lanes(buffer, offsets, mask, bytes, first, ordered, deliver);
        for (lane, conflict) in conflicts {
            self.report_global(cluster, at, lane, buffer, offsets[lane], &conflict, false);
        }
    }

    pub(crate) fn note_global_write(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        (buffer, offset): (usize, usize),
        bytes: usize,
        manner: Manner,
        unchanged: bool,
    ) {
        let head = PAGE_BYTES - offset % PAGE_BYTES;
        if bytes > head {
            self.note_global_write(cluster, at, lane, (buffer, offset), head, manner, unchanged);
            return self.note_global_write(cluster, at, lane, (buffer, offset + head), bytes - head, manner, unchanged);
        }
        let record = self.record(cluster, at, lane, manner);
        let ordered = |other: Record| is_ordered(cluster, other, record.participant);
        let conflict = self.global.note_write(buffer, offset, bytes, record, ordered);
        if let Some(conflict) = conflict
            && !(unchanged && conflict.with_is_write)
        {
            self.report_global(cluster, at, lane, buffer, offset, &conflict, true);
        }
    }

    /// A checked write of global memory.
    #[inline(always)]
    pub(crate) fn write_global(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        data: &[u8],
        manner: Manner,
    ) -> Result<(), Stopped> {
        let place = self.global_place(cluster, at, lane, address, data.len(), data.len())?;
        let mut old = [0; 32];
        let old = &mut old[..data.len()];
        self.global.read(place.0, place.1, old);
        self.note_global_write(cluster, at, lane, place, data.len(), manner, old == data);
        self.global.write(place.0, place.1, data);
        Ok(())
    }

    #[cold]
    pub(crate) fn report_unwritten(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        buffer: usize,
        offset: usize,
        bytes: usize,
    ) {
        let name = &self.global.memory.buffers()[buffer].name;
        let message = || format!("reads {bytes} bytes at byte {offset} of `{name}` that nothing has written");
        self.report(cluster, FindingKind::UninitializedRead, at.pc, at.participant(lane), None, message);
    }

    #[cold]
    pub(crate) fn report_global(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        buffer: usize,
        offset: usize,
        conflict: &GlobalConflict,
        write: bool,
    ) {
        let with = conflict.with;
        let me = at.participant(lane);
        let (mistake, order) = if conflict.stale {
            let order = "`ld.global.nc` may give what was there before, whatever orders the two".to_string();
            (FindingKind::StaleRead.into(), order)
        } else {
            self.explain_global(cluster, me, at.pc, with)
        };
        let here = self.context.site(cluster.index as u32, me, at.pc);
        let other = self.context.site(with.cluster - 1, with.participant, with.pc());
        let name = self.global.memory.buffers()[buffer].name.as_str();
        let message = || {
            let by = self.context.name_in(u64::from(with.cluster - 1), with.participant, cluster.index, me);
            let (does, did) =
                (if write { "writes" } else { "reads" }, if conflict.with_is_write { "has written" } else { "reads" });
            format!("{does} byte {offset} of `{name}` that {by} {did}: {order}")
        };
        let (program, seed) = (self.context.program, self.context.launch.seed);
        self.findings.report(program, seed, mistake, here, Some(other), message);
    }

    /// What is missing between an access of global memory and an earlier one.
    fn explain_global(&self, cluster: &Cluster, me: Participant, pc: u32, with: Record) -> (Mistake, String) {
        let mistake = |missing| (FindingKind::GlobalRace, missing).into();
        let per_block = self.context.warps * LANES as u32;
        let own_cluster = with.cluster == cluster.index as u32 + 1;
        let access = (with.cluster - 1, with.participant, with.stamp);
        let strong = |pc: u32| self.context.program.instructions[pc as usize].operation.is_strong();
        match cluster.order.seen_in_vain(me, access) {
            Some(InVain::Unfenced) => {
                let order = "a flag behind it has been read, but no fence stands between that read and this access";
                return (mistake(Missing::Fence), order.into());
            }
            Some(InVain::Narrow) => {
                let order = "a flag behind it has been read, but in a scope that does not hold both threads";
                return (mistake(Missing::Scope), order.into());
            }
            None => {}
        }
        match (strong(pc), strong(with.pc())) {
            (true, true) => (mistake(Missing::Scope), "both are atomic, but a scope does not hold both threads".into()),
            (own, other) if own_cluster && with.participant / per_block == me / per_block => {
                let missing = if with.participant / LANES as u32 == me / LANES as u32 {
                    Missing::WarpBarrier
                } else {
                    Missing::Barrier
                };
                (mistake(missing), format!("no barrier and nothing else orders the two{}", one_of_two(own, other)))
            }
            (own, other) => {
                let order = "blocks run at the same time: only a release behind the first and an acquire before the \
                             second, in scopes that hold both, order the two";
                (mistake(Missing::ReleaseAcquire), format!("{order}{}", one_of_two(own, other)))
            }
        }
    }

    pub(crate) fn count_global(&mut self, places: &Lanes, mask: u32, bytes: u32, store: bool) {
        // Each aligned access lies in one sector unless it is a whole one or more.
        let mut sectors = [0u64; LANES];
        let (mut count, mut highest) = (0, 0);
        let side_by_side = is_side_by_side(places, mask, bytes);
        if side_by_side && bytes <= 32 {
            count = ((places[LANES - 1] >> 5) - (places[0] >> 5) + 1) as usize;
        }
        let mask_left = if side_by_side { 0 } else { mask };
        each_lane!(mask_left, lane, {
            let sector = places[lane] >> 5;
            // Of rising places only the newest sector can come again.
            if count == 0 || sector > highest {
                highest = sector;
                sectors[count] = sector;
                count += 1;
            } else if sector != highest && !sectors[..count].iter().rev().any(|known| *known == sector) {
                sectors[count] = sector;
                count += 1;
            }
        });
        let total = u64::from(mask.count_ones()) * u64::from(bytes);
        if store {
            self.counters.global_store_bytes += total;
            self.counters.global_store_sectors += count as u64;
        } else {
            self.counters.global_load_bytes += total;
            self.counters.global_load_sectors += count as u64;
        }
    }

    pub(crate) fn count_shared(&mut self, places: &Lanes, mask: u32, bytes: u32, store: bool) {
        let mut offsets = [0; LANES];
        for lane in 0..LANES {
            offsets[lane] = places[lane] as u32;
        }
        let (passes, ideal) = wavefronts(&offsets, mask, bytes);
        self.counters.shared_wavefronts += passes;
        self.counters.shared_ideal_wavefronts += ideal;
        let total = u64::from(mask.count_ones()) * u64::from(bytes);
        if store {
            self.counters.shared_store_bytes += total;
        } else {
            self.counters.shared_load_bytes += total;
        }
    }
}

/// Whether an earlier access of global memory happened before what a thread does now.
#[inline(always)]
pub(crate) fn is_ordered(cluster: &Cluster, earlier: Record, now: u32) -> bool {
    if earlier.cluster == cluster.index as u32 + 1 {
        return cluster.order.ordered(earlier.participant, earlier.stamp, now);
    }
    cluster.order.ordered_foreign(earlier.cluster - 1, earlier.participant, earlier.stamp, now)
}

fn one_of_two(own: bool, other: bool) -> &'static str {
    if own != other { "; only one of them is atomic" } else { "" }
}
