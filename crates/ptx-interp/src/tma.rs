//! The tensor memory accelerator: bulk and tensor copies that other units carry out, in any order, later.

use std::collections::VecDeque;

use crate::address_space::{CLUSTER_SHIFT, PARAMETER_WINDOW, SHARED_WINDOW, split_shared};
use crate::decode::{
    AtomicKind, BulkCompletion, BulkCopy, LaneRegister, Scalar, Space, StoreAsync, TensorCopy, WordRegister,
};
use crate::diagnostics::FindingKind;
use crate::execute::{At, Cluster, Machine, SharedPlace, Step, Stopped, addresses, combine, is_in_space};
use crate::happens_before::{Clock, Participant};
use crate::registers::each_lane;
use crate::shared_memory::Accessor;
use crate::tensor_map::{ElementType, OutOfBoundsFill, TENSOR_MAP_BYTES, TensorMapDescription};
use crate::warp::{Wait, Warp};

/// Bytes that travel together: what swizzles permute.
const PIECE_BYTES: u32 = 16;

/// A block that gets a copy, and its mbarrier by block and offset.
type Target = (u32, (u32, u32));

/// A piece of a box: where it lies in shared memory, and the part of it that lies inside the tensor.
#[derive(Clone, Copy, Debug)]
struct Piece {
    shared: u32,
    /// Offset in the buffer of the first byte that exists.
    global: usize,
    start: u8,
    length: u8,
}

#[derive(Debug)]
enum Action {
    /// Global to shared memory of some blocks.
    Load { buffer: usize, pieces: Vec<Piece>, fill: [u8; 16], targets: Vec<Target>, bytes: u32 },
    /// Bytes known when it was issued.
    Deliver { place: SharedPlace, data: Vec<u8>, mbarrier: (u32, u32) },
    /// Shared memory to shared memory of another block.
    Forward { from: SharedPlace, to: SharedPlace, bytes: u32, mbarrier: (u32, u32) },
    /// Shared to global memory.
    Store { rank: u32, buffer: usize, pieces: Vec<Piece>, reduction: Option<(AtomicKind, Scalar)> },
}

/// A copy under way.
#[derive(Debug)]
pub(crate) struct Transfer {
    id: u64,
    pc: u32,
    action: Action,
}

/// Bulk groups of one thread.
#[derive(Debug)]
pub(crate) struct BulkGroups {
    /// Stands for the copies' reads of shared memory.
    participant: Participant,
    open: Vec<u64>,
    committed: VecDeque<(Vec<u64>, u32)>,
    next: u64,
}

/// Elements of a type for reductions in global memory.
fn scalar_of(element: ElementType) -> Scalar {
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

/// Pieces of the box at these coordinates, and the bytes of the whole box.
///
/// Lines that are shorter than the swizzle's span lie a span apart. A load ends where the tensor does; a store, as an
/// H200 has it, at the next multiple of 16 bytes.
fn pieces_of(
    map: &TensorMapDescription,
    coordinates: &[i32],
    shared: u32,
    buffer_base: u64,
    completion: &BulkCompletion,
) -> (Vec<Piece>, u32) {
    let element = i64::from(map.element.bytes());
    let rank = map.dims.len();
    let sides: Vec<u32> =
        map.box_dims.iter().zip(&map.element_strides).map(|(side, stride)| side.div_ceil(*stride)).collect();
    let inner_bytes = sides[0] * element as u32;
    let lines: u32 = sides[1..].iter().product();
    let per_piece = i64::from(PIECE_BYTES) / element;
    let pitch = pitch_of(map, inner_bytes);
    let width = match completion {
        BulkCompletion::Mbarrier(_) => map.dims[0] as i64,
        BulkCompletion::Group => (map.dims[0] as i64).saturating_add(per_piece - 1) / per_piece * per_piece,
    };
    let mut pieces = Vec::with_capacity((lines * inner_bytes / PIECE_BYTES) as usize);
    for line in 0..lines {
        let mut rest = line;
        let mut inside = true;
        let mut offset = map.address as i64 - buffer_base as i64;
        for dimension in 1..rank {
            let step = rest % sides[dimension] * map.element_strides[dimension];
            rest /= sides[dimension];
            let index = i64::from(coordinates[dimension]) + i64::from(step);
            inside &= index >= 0 && (index as u64) < map.dims[dimension];
            offset = offset.wrapping_add(index.wrapping_mul(map.strides[dimension - 1] as i64));
        }
        for piece in 0..inner_bytes / PIECE_BYTES {
            let place = map.swizzle.apply(shared + line * pitch + piece * PIECE_BYTES);
            let first = i64::from(coordinates[0]) + i64::from(piece) * per_piece;
            let begin = first.max(0);
            let end = (first + per_piece).min(width);
            let (start, length) = if inside && begin < end {
                (((begin - first) * element) as u8, ((end - begin) * element) as u8)
            } else {
                (0, 0)
            };
            let global = if length == 0 { 0 } else { offset.wrapping_add(begin * element) as usize };
            pieces.push(Piece { shared: place, global, start, length });
        }
    }
    (pieces, lines * inner_bytes)
}

impl Machine<'_> {
    fn bad_copy(&mut self, cluster: &Cluster, at: At, lane: usize, message: impl FnOnce() -> String) -> Stopped {
        self.stop(cluster, FindingKind::BadAsyncCopy, at.pc, at.participant(lane), message)
    }

    /// The tensor map at a generic address: in the kernel's parameters or in global memory.
    fn tensor_map(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        rank: u8,
    ) -> Result<TensorMapDescription, Stopped> {
        let mut bytes = [0; TENSOR_MAP_BYTES];
        if !address.is_multiple_of(64) {
            return Err(self
                .bad_copy(cluster, at, lane, || format!("the tensor map at {address:#x} is not aligned to 64 bytes")));
        }
        if is_in_space(Space::Parameter, address) {
            let start = (address - PARAMETER_WINDOW) as usize;
            match self.context.launch.params.get(start..start + TENSOR_MAP_BYTES) {
                Some(found) => bytes.copy_from_slice(found),
                None => {
                    return Err(
                        self.bad_copy(cluster, at, lane, || "the tensor map reaches past the parameters".into())
                    );
                }
            }
        } else {
            let (buffer, offset) = self.global_place(cluster, at, lane, address, TENSOR_MAP_BYTES, 64)?;
            self.global.read(buffer, offset, &mut bytes);
        }
        match TensorMapDescription::decode(&bytes) {
            Some(map) if map.dims.len() == usize::from(rank) => Ok(map),
            Some(map) => {
                let found = map.dims.len();
                Err(self
                    .bad_copy(cluster, at, lane, || format!("a copy of rank {rank} with a tensor map of rank {found}")))
            }
            None => Err(self.bad_copy(cluster, at, lane, || format!("{address:#x} holds no tensor map"))),
        }
    }

    /// Blocks that get a copy, and the place of the mbarrier in each.
    fn targets(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        destination: SharedPlace,
        mbarrier: SharedPlace,
        multicast: Option<u32>,
    ) -> Result<Vec<Target>, Stopped> {
        let blocks = cluster.blocks.len() as u32;
        let Some(mask) = multicast else {
            return Ok(vec![(destination.rank, (mbarrier.rank, mbarrier.offset))]);
        };
        if mask == 0 || mask >> blocks != 0 {
            return Err(
                self.bad_copy(cluster, at, lane, || format!("multicast to blocks {mask:#b} of a cluster of {blocks}"))
            );
        }
        let targets: Vec<_> =
            (0..blocks).filter(|rank| mask >> rank & 1 == 1).map(|rank| (rank, (rank, mbarrier.offset))).collect();
        for (_, (rank, offset)) in &targets {
            self.check_mbarrier(cluster, at, lane, SharedPlace { rank: *rank, offset: *offset })?;
        }
        Ok(targets)
    }

    /// Shared memory of a block that a copy is about to write.
    fn begin_delivery(&mut self, cluster: &mut Cluster, at: At, lane: usize, rank: u32, offset: u32, bytes: u32) {
        let who = at.accessor(lane, false);
        let conflict = cluster.blocks[rank as usize].shared.begin_copy(&cluster.order, who, offset, bytes);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, offset, bytes);
        }
    }

    fn read_by_copy(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        reader: Participant,
        rank: u32,
        offset: u32,
        bytes: u32,
    ) {
        let who = at.accessor(lane, false);
        let conflict = cluster.blocks[rank as usize].shared.note_async_read(&cluster.order, who, reader, offset, bytes);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, offset, bytes);
        }
    }

    fn start(&mut self, cluster: &mut Cluster, at: At, lane: usize, action: Action) -> u64 {
        let groups = groups_of(cluster, at.participant(lane));
        groups.next += 1;
        // Unique in the cluster: the thread and its count.
        let id = u64::from(at.participant(lane)) << 40 | groups.next;
        if matches!(action, Action::Store { .. }) {
            groups.open.push(id);
        }
        self.counters.bulk_copies += 1;
        cluster.transfers.push(Transfer { id, pc: at.pc, action });
        id
    }

    pub(crate) fn tensor_copy(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        copy: &TensorCopy,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let maps = addresses(&warp.registers, copy.map);
        let places = addresses(&warp.registers, copy.shared);
        each_lane!(mask, lane, {
            let map = self.tensor_map(cluster, at, lane, maps[lane], copy.rank)?;
            let coordinates: Vec<i32> =
                copy.coordinates.iter().map(|register| warp.registers.word(*register)[lane] as i32).collect();
            let Ok(narrow) = u32::try_from(places[lane]) else {
                return Err(self.bad_copy(cluster, at, lane, || format!("shared address {:#x}", places[lane])));
            };
            if !(i64::from(coordinates[0]) * i64::from(map.element.bytes())).rem_euclid(16).eq(&0) {
                let inner = coordinates[0];
                return Err(self.bad_copy(cluster, at, lane, || {
                    format!(
                        "the box begins at innermost coordinate {inner}, {} bytes from the tensor's edge, which is not a multiple of 16",
                        i64::from(inner) * i64::from(map.element.bytes())
                    )
                }));
            }
            if copy.completion == BulkCompletion::Group
                && let Some(negative) = coordinates.iter().find(|place| **place < 0)
            {
                let message = || format!("a box is stored from coordinate {negative}; only loads may begin outside");
                return Err(self.bad_copy(cluster, at, lane, message));
            }
            let (rank, offset) = split_shared(narrow, at.rank);
            if !offset.is_multiple_of(128) {
                return Err(self.bad_copy(cluster, at, lane, || {
                    format!("the box's shared address {offset:#x} is not a multiple of 128")
                }));
            }
            let element = map.element.bytes() as usize;
            // The tensor's own extent must lie in its buffer.
            let spans = map.dims[1..].iter().zip(&map.strides);
            let extent = spans.fold(map.dims[0].saturating_mul(element as u64), |extent, (dim, stride)| {
                extent.saturating_add(dim.saturating_sub(1).saturating_mul(*stride))
            });
            let box_bytes =
                map.box_dims.iter().fold(element as u64, |bytes, side| bytes.saturating_mul(u64::from(*side)));
            if box_bytes > u64::from(self.context.shared_end) {
                return Err(self.bad_copy(cluster, at, lane, || format!("a box of {box_bytes} bytes")));
            }
            let (buffer, base_offset) = self.global_place(cluster, at, lane, map.address, extent as usize, 16)?;
            let base = map.address - base_offset as u64;
            let (pieces, bytes) = pieces_of(&map, &coordinates, offset, base, &copy.completion);
            let ranges = ranges_of(&pieces, offset, bytes);
            let end = ranges.iter().map(|(start, bytes)| u64::from(*start) + u64::from(*bytes)).max().unwrap_or(0);
            if rank as usize >= cluster.blocks.len() || end > u64::from(self.context.shared_end) {
                let message =
                    || format!("the box's {bytes} bytes at shared address {offset:#x} reach past the block's memory");
                return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), message));
            }
            self.counters.bulk_copy_bytes += u64::from(bytes);
            match copy.completion {
                BulkCompletion::Mbarrier(address) => {
                    let mbarriers = addresses(&warp.registers, address);
                    let mbarrier = self.mbarrier_place(cluster, at, lane, mbarriers[lane], Space::SharedCluster)?;
                    self.check_mbarrier(cluster, at, lane, mbarrier)?;
                    let multicast = copy.multicast.map(|register| warp.registers.word(register)[lane] & 0xffff);
                    let destination = SharedPlace { rank, offset };
                    let targets = self.targets(cluster, at, lane, destination, mbarrier, multicast)?;
                    for (rank, _) in &targets {
                        for (start, bytes) in &ranges {
                            self.begin_delivery(cluster, at, lane, *rank, *start, *bytes);
                        }
                    }
                    for piece in pieces.iter().filter(|piece| piece.length > 0) {
                        self.note_global_read(
                            cluster,
                            at,
                            lane,
                            (buffer, piece.global),
                            usize::from(piece.length),
                            false,
                        );
                    }
                    let fill = fill_of(&map);
                    self.start(cluster, at, lane, Action::Load { buffer, pieces, fill, targets, bytes });
                }
                BulkCompletion::Group => {
                    let reader = groups_of(cluster, at.participant(lane)).participant;
                    for (start, bytes) in &ranges {
                        self.read_by_copy(cluster, at, lane, reader, rank, *start, *bytes);
                    }
                    cluster.order.tick();
                    // The last piece of a line may lie outside of the tensor, but never of its buffer.
                    let ragged = !(map.dims[0] * element as u64).is_multiple_of(u64::from(PIECE_BYTES));
                    for piece in pieces.iter().filter(|piece| ragged && piece.length > 0) {
                        let place = base + piece.global as u64;
                        self.global_place(cluster, at, lane, place, usize::from(piece.length), 1)?;
                    }
                    let atomic = copy.reduction.is_some();
                    for piece in pieces.iter().filter(|piece| piece.length > 0) {
                        let place = (buffer, piece.global);
                        self.note_global_write(cluster, at, lane, place, usize::from(piece.length), atomic, false);
                    }
                    let reduction = copy.reduction.map(|kind| (kind, scalar_of(map.element)));
                    self.start(cluster, at, lane, Action::Store { rank, buffer, pieces, reduction });
                }
            }
        });
        Ok(Step::Next)
    }

    pub(crate) fn bulk_copy(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        copy: &BulkCopy,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let destinations = addresses(&warp.registers, copy.destination);
        let sources = addresses(&warp.registers, copy.source);
        let sizes = *warp.registers.word(copy.bytes);
        each_lane!(mask, lane, {
            let (destination, source, bytes) = (destinations[lane], sources[lane], sizes[lane]);
            if bytes % 16 != 0 || destination % 16 != 0 || source % 16 != 0 {
                let message = || {
                    format!(
                        "a bulk copy of {bytes} bytes from {source:#x} to {destination:#x}; all must be multiples of 16"
                    )
                };
                return Err(self.bad_copy(cluster, at, lane, message));
            }
            if bytes == 0 {
                continue;
            }
            self.counters.bulk_copy_bytes += u64::from(bytes);
            let shared_address = if copy.destination_space == Space::Global { source } else { destination };
            let place = self.bulk_shared(cluster, at, lane, shared_address, bytes)?;
            match copy.completion {
                BulkCompletion::Group => {
                    let (buffer, offset) = self.global_place(cluster, at, lane, destination, bytes as usize, 16)?;
                    let reader = groups_of(cluster, at.participant(lane)).participant;
                    self.read_by_copy(cluster, at, lane, reader, place.rank, place.offset, bytes);
                    cluster.order.tick();
                    let pieces = plain_pieces(place.offset, offset, bytes);
                    for piece in &pieces {
                        let atomic = copy.reduction.is_some();
                        self.note_global_write(cluster, at, lane, (buffer, piece.global), 16, atomic, false);
                    }
                    self.start(
                        cluster,
                        at,
                        lane,
                        Action::Store { rank: place.rank, buffer, pieces, reduction: copy.reduction },
                    );
                }
                BulkCompletion::Mbarrier(address) => {
                    let mbarriers = addresses(&warp.registers, address);
                    let mbarrier = self.mbarrier_place(cluster, at, lane, mbarriers[lane], Space::SharedCluster)?;
                    self.check_mbarrier(cluster, at, lane, mbarrier)?;
                    if copy.source_space == Space::Global {
                        let (buffer, offset) = self.global_place(cluster, at, lane, source, bytes as usize, 16)?;
                        let multicast = copy.multicast.map(|register| warp.registers.word(register)[lane] & 0xffff);
                        let targets = self.targets(cluster, at, lane, place, mbarrier, multicast)?;
                        for (rank, _) in &targets {
                            self.begin_delivery(cluster, at, lane, *rank, place.offset, bytes);
                        }
                        let pieces = plain_pieces(place.offset, offset, bytes);
                        for piece in &pieces {
                            self.note_global_read(cluster, at, lane, (buffer, piece.global), 16, false);
                        }
                        self.start(cluster, at, lane, Action::Load { buffer, pieces, fill: [0; 16], targets, bytes });
                    } else {
                        let from = self.bulk_shared(cluster, at, lane, source, bytes)?;
                        let reader = cluster
                            .mbarriers
                            .get(&(mbarrier.rank, mbarrier.offset))
                            .map_or(0, |state| state.participant);
                        self.read_by_copy(cluster, at, lane, reader, from.rank, from.offset, bytes);
                        self.begin_delivery(cluster, at, lane, place.rank, place.offset, bytes);
                        let mbarrier = (mbarrier.rank, mbarrier.offset);
                        self.start(cluster, at, lane, Action::Forward { from, to: place, bytes, mbarrier });
                    }
                }
            }
        });
        Ok(Step::Next)
    }

    /// A range of shared memory whose length is any multiple of 16.
    fn bulk_shared(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
    ) -> Result<SharedPlace, Stopped> {
        let place = self.shared_place(cluster, at, lane, address, 16, Space::SharedCluster)?;
        if u64::from(place.offset) + u64::from(bytes) > u64::from(self.context.shared_end) {
            let message =
                || format!("{bytes} bytes at shared address {:#x} reach past the block's memory", place.offset);
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), message));
        }
        Ok(place)
    }

    pub(crate) fn store_async(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        store: &StoreAsync,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, store.address);
        let mbarriers = addresses(&warp.registers, store.mbarrier);
        let bytes = u32::from(store.element) * store.registers.len() as u32;
        each_lane!(mask, lane, {
            let place = self.shared_place(cluster, at, lane, places[lane], bytes, Space::SharedCluster)?;
            let mbarrier = self.mbarrier_place(cluster, at, lane, mbarriers[lane], Space::SharedCluster)?;
            self.check_mbarrier(cluster, at, lane, mbarrier)?;
            let mut data = Vec::with_capacity(bytes as usize);
            for register in &store.registers {
                let value = warp.registers.lane(*register, lane).to_le_bytes();
                data.extend(&value[..usize::from(store.element)]);
            }
            self.begin_delivery(cluster, at, lane, place.rank, place.offset, bytes);
            let mbarrier = (mbarrier.rank, mbarrier.offset);
            self.start(cluster, at, lane, Action::Deliver { place, data, mbarrier });
        });
        Ok(Step::Next)
    }

    /// Carries out one copy, chosen by the scheduler.
    pub(crate) fn complete_transfer(&mut self, cluster: &mut Cluster, which: usize) -> Result<(), Stopped> {
        let Transfer { pc, action, .. } = cluster.transfers.swap_remove(which);
        match action {
            Action::Load { buffer, pieces, fill, targets, bytes } => {
                let start = pieces.iter().map(|piece| piece.shared).min().unwrap_or(0);
                let ranges = ranges_of(&pieces, start, bytes);
                for (rank, mbarrier) in targets {
                    for piece in &pieces {
                        let mut data = fill;
                        let (from, to) = (usize::from(piece.start), usize::from(piece.start + piece.length));
                        self.global.read(buffer, piece.global, &mut data[from..to]);
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
            Action::Store { rank, buffer, pieces, reduction } => {
                for piece in pieces.iter().filter(|piece| piece.length > 0) {
                    let start = (piece.shared + u32::from(piece.start)) as usize;
                    let length = usize::from(piece.length);
                    let mut data = [0; 16];
                    data[..length].copy_from_slice(&cluster.blocks[rank as usize].shared.bytes[start..start + length]);
                    if let Some((kind, scalar)) = reduction {
                        let mut old = [0; 16];
                        self.global.read(buffer, piece.global, &mut old[..length]);
                        reduce(kind, scalar, &old[..length], &mut data[..length]);
                    }
                    self.global.write(buffer, piece.global, &data[..length]);
                }
                for warp in cluster.blocks.iter_mut().flat_map(|block| &mut block.warps) {
                    warp.wake(|wait| wait == Wait::Bulk);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn bulk_commit(&mut self, cluster: &mut Cluster, at: At, mask: u32) -> Step {
        each_lane!(mask, lane, {
            let stamp = cluster.order.tick();
            let groups = groups_of(cluster, at.participant(lane));
            let group = std::mem::take(&mut groups.open);
            groups.committed.push_back((group, stamp));
        });
        Step::Next
    }

    pub(crate) fn bulk_wait(&mut self, cluster: &mut Cluster, at: At, keep: u32, _read_only: bool, mask: u32) -> Step {
        let mut waits = false;
        each_lane!(mask, lane, {
            let thread = at.participant(lane);
            let Some(groups) = cluster.bulk_groups.get(&thread) else { continue };
            let due = groups.committed.len().saturating_sub(keep as usize);
            let busy =
                groups.committed.iter().take(due).any(|(group, _)| {
                    group.iter().any(|id| cluster.transfers.iter().any(|transfer| transfer.id == *id))
                });
            waits |= busy;
        });
        if waits {
            return Step::Retry(Wait::Bulk);
        }
        each_lane!(mask, lane, {
            let thread = at.participant(lane);
            let Some(groups) = cluster.bulk_groups.get_mut(&thread) else { continue };
            let due = groups.committed.len().saturating_sub(keep as usize);
            let newest = groups.committed.drain(..due).map(|(_, stamp)| stamp).max();
            if let Some(stamp) = newest {
                let mut message: Clock = vec![0; groups.participant as usize + 1];
                message[groups.participant as usize] = stamp;
                cluster.order.acquire(thread, &message);
            }
        });
        Step::Next
    }

    pub(crate) fn map_shared(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        to: LaneRegister,
        address: LaneRegister,
        rank: WordRegister,
        generic: bool,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let ranks = *warp.registers.word(rank);
        each_lane!(mask, lane, {
            let base = if generic { SHARED_WINDOW } else { 0 };
            let own = warp.registers.lane(address, lane).wrapping_sub(base);
            if ranks[lane] as usize >= cluster.blocks.len() {
                let message = || format!("block {} of a cluster of {}", ranks[lane], cluster.blocks.len());
                return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), message));
            }
            let (_, offset) = split_shared(own as u32, at.rank);
            let mapped = u64::from((ranks[lane] + 1) << CLUSTER_SHIFT | offset);
            warp.registers.set_lane(to, lane, mapped + base);
        });
        Ok(Step::Next)
    }

    pub(crate) fn block_rank(
        &mut self,
        warp: &mut Warp,
        at: At,
        to: WordRegister,
        address: LaneRegister,
        generic: bool,
        mask: u32,
    ) -> Step {
        each_lane!(mask, lane, {
            let base = if generic { SHARED_WINDOW } else { 0 };
            let (rank, _) = split_shared(warp.registers.lane(address, lane).wrapping_sub(base) as u32, at.rank);
            warp.registers.words[usize::from(to.0)][lane] = rank;
        });
        Step::Next
    }
}

fn groups_of(cluster: &mut Cluster, thread: Participant) -> &mut BulkGroups {
    let order = &mut cluster.order;
    cluster.bulk_groups.entry(thread).or_insert_with(|| BulkGroups {
        participant: order.new_participant(),
        open: Vec::new(),
        committed: VecDeque::new(),
        next: 0,
    })
}

fn write_bytes(cluster: &mut Cluster, rank: u32, offset: u32, data: &[u8]) {
    let start = offset as usize;
    cluster.blocks[rank as usize].shared.bytes[start..start + data.len()].copy_from_slice(data);
}

/// Bytes of shared memory from one line of a box to the next.
fn pitch_of(map: &TensorMapDescription, inner_bytes: u32) -> u32 {
    map.swizzle.span().unwrap_or(inner_bytes)
}

/// The shared memory that a box from `start` on takes: all of it side by side, or piece by piece where its lines are
/// shorter than the swizzle's span.
fn ranges_of(pieces: &[Piece], start: u32, bytes: u32) -> Vec<(u32, u32)> {
    let last = pieces.iter().map(|piece| piece.shared).max().unwrap_or(start);
    match last + PIECE_BYTES == start + bytes {
        true => vec![(start, bytes)],
        false => pieces.iter().map(|piece| (piece.shared, PIECE_BYTES)).collect(),
    }
}

/// The bytes are there; they count as written by the mbarrier's participant.
fn finish_delivery(cluster: &mut Cluster, pc: u32, rank: u32, offset: u32, bytes: u32, mbarrier: (u32, u32)) {
    let participant = cluster.mbarriers.get(&mbarrier).map_or(0, |state| state.participant);
    let who = Accessor { participant, pc, atomic: false };
    cluster.blocks[rank as usize].shared.end_copy(&cluster.order, who, offset, bytes, true);
}

fn plain_pieces(shared: u32, global: usize, bytes: u32) -> Vec<Piece> {
    (0..bytes / PIECE_BYTES)
        .map(|piece| Piece {
            shared: shared + piece * PIECE_BYTES,
            global: global + (piece * PIECE_BYTES) as usize,
            start: 0,
            length: PIECE_BYTES as u8,
        })
        .collect()
}

fn fill_of(map: &TensorMapDescription) -> [u8; 16] {
    let mut fill = [0; 16];
    if map.fill == OutOfBoundsFill::Nan {
        // The same 16 bits whatever the type.
        for chunk in fill.chunks_exact_mut(2) {
            chunk.copy_from_slice(&[0xf7, 0x7f]);
        }
    }
    fill
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
