//! Copies of `cp.async` that are under way.

use super::{Cluster, Machine, SharedPlace, Warp};
use crate::decode::Manner;
use crate::order::{Accessor, Participant};
use crate::registers::{LANES, each_lane};

#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCopy {
    pub lane: u8,
    pub bytes: u8,
    /// Bytes that are read; the rest are zeros.
    pub source_bytes: u8,
    /// Number of the lane's group that it belongs to.
    pub group: u32,
    pub place: SharedPlace,
    /// Buffer and offset; meaningless if nothing is read.
    pub source: (usize, usize),
    pub pc: u32,
}

/// Copies of a warp's lanes. Groups belong to a thread, so each lane counts its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct CopyQueue {
    pub pending: Vec<PendingCopy>,
    pub committed: [u32; LANES],
}

impl CopyQueue {
    pub(crate) fn commit(&mut self, mask: u32) {
        each_lane!(mask, lane, {
            self.committed[lane] += 1;
        });
    }
}

impl Machine<'_> {
    /// Completes a lane's copies on behalf of an mbarrier, whose phase they belong to from now on.
    pub(crate) fn hand_copies_over(&mut self, cluster: &mut Cluster, warp: &mut Warp, lane: usize, to: Participant) {
        self.finish_copies(cluster, warp, |copy| usize::from(copy.lane) == lane, |_| to);
    }

    /// Carries out the chosen copies; each counts as written by `writer` of its lane, now.
    pub(crate) fn finish_copies(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        chosen: impl Fn(&PendingCopy) -> bool,
        writer: impl Fn(usize) -> Participant,
    ) {
        let mut pending = std::mem::take(&mut warp.copies.pending);
        pending.retain(|copy| {
            if !chosen(copy) {
                return true;
            }
            let mut data = [0; 16];
            if copy.source_bytes > 0 {
                self.global.read(copy.source.0, copy.source.1, &mut data[..usize::from(copy.source_bytes)]);
            }
            let block = &mut cluster.blocks[copy.place.rank as usize];
            let (start, length) = (copy.place.offset as usize, usize::from(copy.bytes));
            block.shared.bytes[start..start + length].copy_from_slice(&data[..length]);
            let who = Accessor { participant: writer(usize::from(copy.lane)), pc: copy.pc, manner: Manner::Weak };
            block.shared.end_copy(&cluster.order, who, copy.place.offset, u32::from(copy.bytes), false);
            false
        });
        warp.copies.pending = pending;
    }
}
