//! Shared memory, checked.

use super::{At, Cluster, Machine, SharedPlace};

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
        atomic: bool,
    ) {
        let bytes = data.len() as u32;
        let block = &mut cluster.blocks[place.rank as usize];
        let who = at.accessor(lane, atomic);
        let conflict = block.shared.note_write(&cluster.order, who, place.offset, bytes, |old| old == data);
        block.shared.bytes[place.offset as usize..place.offset as usize + data.len()].copy_from_slice(data);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, bytes);
        }
    }
}
