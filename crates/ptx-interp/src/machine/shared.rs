//! Shared memory, checked.

use super::{At, Cluster, Machine, SharedPlace};
use crate::decode::Manner;

impl Machine<'_> {
    /// A checked store of bytes to shared memory; the place has been checked already.
    #[inline(always)]
    pub(crate) fn write_shared(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        place: SharedPlace,
        data: &[u8],
        manner: Manner,
    ) {
        let bytes = data.len() as u32;
        self.check_overwriting(cluster, at, lane, place, bytes);
        let block = &mut cluster.blocks[place.rank as usize];
        let who = at.accessor(lane, manner);
        let conflict = block.shared.note_write(&cluster.order, who, place.offset, bytes, |old| old == data);
        block.shared.bytes[place.offset as usize..place.offset as usize + data.len()].copy_from_slice(data);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, bytes);
        }
    }
}
