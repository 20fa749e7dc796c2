//! `cp.async`: copies that are under way until a wait covers them, and only then appear, at the latest legal moment.

use crate::decode::{CopyAsync, Manner, Space};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Machine, PendingCopy, Step, Stopped, Warp, addresses};
use crate::registers::{LANES, each_lane};

impl Machine<'_> {
    pub(crate) fn copy_async(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        copy: &CopyAsync,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let destinations = addresses(&warp.registers, copy.destination);
        let sources = addresses(&warp.registers, copy.source);
        let bytes = u32::from(copy.bytes);
        self.counters.async_copy_bytes += u64::from(bytes) * u64::from(mask.count_ones());
        self.count_shared(&destinations, mask, bytes, true);
        let mut reading = mask;
        let mut read_bytes = [copy.bytes; LANES];
        if let Some(register) = copy.source_bytes {
            let asked = *warp.registers.word(register);
            each_lane!(mask, lane, {
                if asked[lane] > bytes {
                    let message = || format!("reads {} bytes of a copy of {bytes}", asked[lane]);
                    return Err(self.stop(cluster, FindingKind::BadAsyncCopy, at.pc, at.participant(lane), message));
                }
                read_bytes[lane] = asked[lane] as u8;
                if asked[lane] == 0 {
                    reading &= !(1 << lane);
                }
            });
        }
        if let Some(predicate) = copy.ignore_source {
            let ignored = warp.registers.holds(predicate) & mask;
            reading &= !ignored;
            each_lane!(ignored, lane, {
                read_bytes[lane] = 0;
            });
        }
        self.count_global(&sources, reading, bytes, false);
        // Lanes that read all of their bytes from the first one's buffer are noted together.
        let (mut together, mut shared_buffer, mut offsets) = (0u32, None, [0; LANES]);
        each_lane!(mask, lane, {
            let place = self.shared_place(cluster, at, lane, destinations[lane], bytes, Space::Shared)?;
            let mut source = (0, 0);
            if !sources[lane].is_multiple_of(u64::from(bytes)) {
                let address = sources[lane];
                let message =
                    || format!("the source of a copy of {bytes} bytes is {address:#x}, which is no multiple of it");
                return Err(self.stop(cluster, FindingKind::Misaligned, at.pc, at.participant(lane), message));
            }
            if read_bytes[lane] > 0 {
                let length = usize::from(read_bytes[lane]);
                source = self.global_place(cluster, at, lane, sources[lane], length, 1)?;
                let (buffer, offset) = source;
                let joins = length == bytes as usize && *shared_buffer.get_or_insert(buffer) == buffer;
                if joins && self.global.is_written(buffer, offset, length) {
                    together |= 1 << lane;
                    offsets[lane] = offset;
                } else {
                    self.note_global_read(cluster, at, lane, source, length, Manner::Weak);
                }
            }
            let who = at.accessor(lane, Manner::Weak);
            let block = &mut cluster.blocks[place.rank as usize];
            let conflict = block.shared.begin_copy(&cluster.order, who, place.offset, bytes);
            if let Some(conflict) = conflict {
                self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, bytes);
            }
            // What is read too early should look wrong.
            let start = place.offset as usize;
            cluster.blocks[place.rank as usize].shared.bytes[start..start + bytes as usize].fill(0xff);
            warp.copies.pending.push(PendingCopy {
                lane: lane as u8,
                bytes: copy.bytes,
                source_bytes: read_bytes[lane],
                group: warp.copies.committed[lane],
                place,
                source,
                pc: at.pc,
            });
        });
        if let Some(buffer) = shared_buffer {
            self.note_global_reads(cluster, at, buffer, &offsets, together, bytes, Manner::Weak);
        }
        Ok(Step::Next)
    }

    /// Completes the groups of these lanes except the newest `keep`; all copies, committed or not, for `None`.
    pub(crate) fn copy_async_wait(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        keep: Option<u32>,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let queue = &warp.copies;
        let mut limits = [0u32; LANES];
        each_lane!(mask, lane, {
            limits[lane] = match keep {
                Some(keep) => queue.committed[lane].saturating_sub(keep),
                None => u32::MAX,
            };
        });
        let covers = |copy: &PendingCopy| copy.group < limits[usize::from(copy.lane)];
        if !self.questions.is_empty() {
            self.answer_questions(cluster, warp, at, covers);
        }
        self.finish_copies(cluster, warp, covers, |lane| at.participant(lane));
        Ok(Step::Next)
    }
}
