//! Copies are carried out, one after the other, in the order that the scheduler chooses.

use super::pieces::ranges_of;
use crate::alu::atomic::combine;
use crate::decode::{AtomicKind, Manner, Scalar};
use crate::machine::{Action, Cluster, Machine, Stopped, Transfer, Wait};
use crate::order::Accessor;
use crate::tensor_map::ElementType;

impl Machine<'_> {
    /// Carries out one copy, chosen by the scheduler.
    pub(crate) fn complete_transfer(&mut self, cluster: &mut Cluster, which: usize) -> Result<(), Stopped> {
        let Transfer { pc, action, .. } = cluster.transfers.swap_remove(which);
        match action {
            Action::Load { pieces, fill, targets, bytes } => {
                let start = pieces.iter().map(|piece| piece.shared).min().unwrap_or(0);
                let ranges = ranges_of(&pieces, start, bytes);
                for (rank, mbarrier) in targets {
                    for piece in &pieces {
                        let mut data = fill;
                        let (from, to) = (usize::from(piece.start), usize::from(piece.start + piece.length));
                        self.global.read(piece.buffer, piece.global, &mut data[from..to]);
                        write_bytes(cluster, rank, piece.shared, &data);
                    }
                    for (start, bytes) in &ranges {
                        finish_delivery(cluster, pc, rank, *start, *bytes, mbarrier);
                    }
                    self.deliver_bytes(cluster, mbarrier, bytes);
                }
            }
            Action::Deliver { place, data, mbarrier } => {
                write_bytes(cluster, place.rank, place.offset, &data);
                finish_delivery(cluster, pc, place.rank, place.offset, data.len() as u32, mbarrier);
                self.deliver_bytes(cluster, mbarrier, data.len() as u32);
            }
            Action::Forward { from, to, bytes, mbarrier } => {
                let start = from.offset as usize;
                let data = cluster.blocks[from.rank as usize].shared.bytes[start..start + bytes as usize].to_vec();
                write_bytes(cluster, to.rank, to.offset, &data);
                finish_delivery(cluster, pc, to.rank, to.offset, bytes, mbarrier);
                self.deliver_bytes(cluster, mbarrier, bytes);
            }
            Action::Store { rank, pieces, reduction } => {
                for piece in pieces.iter().filter(|piece| piece.length > 0) {
                    let start = (piece.shared + u32::from(piece.start)) as usize;
                    let length = usize::from(piece.length);
                    let mut data = [0; 16];
                    data[..length].copy_from_slice(&cluster.blocks[rank as usize].shared.bytes[start..start + length]);
                    if let Some((kind, scalar)) = reduction {
                        let mut old = [0; 16];
                        self.global.read(piece.buffer, piece.global, &mut old[..length]);
                        reduce(kind, scalar, &old[..length], &mut data[..length]);
                    }
                    self.global.write(piece.buffer, piece.global, &data[..length]);
                }
                for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps) {
                    warp.wake(|wait| wait == Wait::Bulk);
                }
            }
        }
        Ok(())
    }
}

/// Elements of a type for reductions in global memory.
pub(crate) fn scalar_of(element: ElementType) -> Scalar {
    match element {
        ElementType::U8 => Scalar::Unsigned(1),
        ElementType::U16 => Scalar::Unsigned(2),
        ElementType::U32 => Scalar::Unsigned(4),
        ElementType::U64 => Scalar::Unsigned(8),
        ElementType::F16 => Scalar::F16,
        ElementType::BF16 => Scalar::BF16,
        ElementType::F32 => Scalar::F32,
    }
}

fn write_bytes(cluster: &mut Cluster, rank: u32, offset: u32, data: &[u8]) {
    let start = offset as usize;
    cluster.blocks[rank as usize].shared.bytes[start..start + data.len()].copy_from_slice(data);
}

/// The bytes are there; they count as written by the mbarrier's participant.
fn finish_delivery(cluster: &mut Cluster, pc: u32, rank: u32, offset: u32, bytes: u32, mbarrier: (u32, u32)) {
    let participant = cluster.mbarriers.get(&mbarrier).map_or(0, |state| state.participant);
    let who = Accessor { participant, pc, manner: Manner::Weak };
    cluster.blocks[rank as usize].shared.end_copy(&cluster.order, who, offset, bytes, true);
}

fn reduce(kind: AtomicKind, scalar: Scalar, old: &[u8], data: &mut [u8]) {
    let size = usize::from(scalar.bytes());
    for (old, new) in old.chunks_exact(size).zip(data.chunks_exact_mut(size)) {
        let (mut a, mut b) = ([0; 8], [0; 8]);
        a[..size].copy_from_slice(old);
        b[..size].copy_from_slice(new);
        let result = combine(kind, scalar, u64::from_le_bytes(a), u64::from_le_bytes(b), 0);
        new.copy_from_slice(&result.to_le_bytes()[..size]);
    }
}
