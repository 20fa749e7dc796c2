//! The tensor memory accelerator: bulk and tensor copies that other units carry out, in any order, later.

mod complete;
mod groups;
mod pieces;

use crate::address_space::{PARAMETER_WINDOW, split_shared};
use crate::decode::{BulkCompletion, BulkCopy, Manner, Scope, Space, StoreAsync, TensorCopy};
use crate::diagnostics::FindingKind;
use crate::machine::{
    Action, At, Cluster, Machine, SharedPlace, Step, Stopped, Target, Transfer, Warp, addresses, groups_of, has_exited,
    is_in_space,
};
use crate::order::{FencedMemory, PAGE_BYTES, Participant};
use crate::registers::each_lane;
use crate::tensor_map::{TENSOR_MAP_BYTES, TensorMapDescription};

use complete::scalar_of;
use pieces::{PIECE_BYTES, fill_of, pieces_of, plain_pieces, ranges_of, stored_ranges_of};

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
            if *rank != at.rank && has_exited(cluster, *rank) {
                return Err(self.bad_copy(cluster, at, lane, || format!("multicast to block {rank}, which has exited")));
            }
            self.check_mbarrier(cluster, at, lane, SharedPlace { rank: *rank, offset: *offset })?;
        }
        Ok(targets)
    }

    /// Shared memory of a block that a copy is about to write.
    fn begin_delivery(&mut self, cluster: &mut Cluster, at: At, lane: usize, rank: u32, offset: u32, bytes: u32) {
        self.check_overwriting(cluster, at, lane, SharedPlace { rank, offset }, bytes);
        let who = at.accessor(lane, Manner::Weak);
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
        let who = at.accessor(lane, Manner::Weak);
        let conflict = cluster.blocks[rank as usize].shared.note_async_read(&cluster.order, who, reader, offset, bytes);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, offset, bytes);
        }
    }

    /// A piece of global memory that a copy reads, through the asynchronous proxy.
    fn note_copy_read(&mut self, cluster: &Cluster, at: At, lane: usize, place: (usize, usize), bytes: usize) {
        self.note_global_read(cluster, at, lane, place, bytes, Manner::Asynchronous);
        let issuer = at.participant(lane);
        let head = bytes.min(PAGE_BYTES - place.1 % PAGE_BYTES);
        let unfenced = self.global.writers(place.0, place.1, head).iter().copied().find(|writer| {
            writer.cluster == cluster.index as u32 + 1
                && writer.tag.is_generic()
                && !cluster.order.proxy_fenced(writer.participant, writer.stamp, issuer, FencedMemory::Global)
        });
        if let Some(writer) = unfenced {
            let name = self.global.memory.buffers()[place.0].name.as_str();
            let message = || {
                format!(
                    "copies {bytes} bytes at byte {} of `{name}` that this kernel has written by ordinary stores, without \
                     `fence.proxy.async` for global memory in between",
                    place.1
                )
            };
            let other = Some((writer.pc(), writer.participant));
            self.report(cluster, FindingKind::MissingProxyFence, at.pc, issuer, other, message);
        }
    }

    fn start(&mut self, cluster: &mut Cluster, at: At, lane: usize, action: Action) -> u64 {
        // No phase that its bytes belong to ends before it has started.
        match &action {
            Action::Load { targets, .. } => {
                for (_, mbarrier) in targets {
                    self.note_cause(cluster, at, lane, *mbarrier, false);
                }
            }
            Action::Deliver { mbarrier, .. } | Action::Forward { mbarrier, .. } => {
                self.note_cause(cluster, at, lane, *mbarrier, false);
            }
            Action::Store { .. } => {}
        }
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
            let in_pieces = self.global.memory.resolve_across_pieces(map.address, extent);
            let (buffer, base_offset) = match in_pieces {
                Some(found) => found,
                None => self.global_place(cluster, at, lane, map.address, extent as usize, 16)?,
            };
            let base = map.address - base_offset as u64;
            let (mut pieces, bytes) = pieces_of(&map, &coordinates, offset, (buffer, base), &copy.completion);
            if in_pieces.is_some() {
                for piece in pieces.iter_mut().filter(|piece| piece.length > 0) {
                    let (address, bytes) = (base + piece.global as u64, usize::from(piece.length));
                    (piece.buffer, piece.global) = self.global_place(cluster, at, lane, address, bytes, 1)?;
                }
            }
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
                        self.note_copy_read(cluster, at, lane, (piece.buffer, piece.global), usize::from(piece.length));
                    }
                    let fill = fill_of(&map);
                    self.start(cluster, at, lane, Action::Load { pieces, fill, targets, bytes });
                }
                BulkCompletion::Group => {
                    let reader = groups_of(cluster, at.participant(lane)).participant;
                    for (start, bytes) in stored_ranges_of(&pieces) {
                        self.read_by_copy(cluster, at, lane, reader, rank, start, bytes);
                    }
                    cluster.order.tick();
                    // The last piece of a line may lie outside of the tensor, but never of its buffer.
                    let ragged =
                        in_pieces.is_none() && !(map.dims[0] * element as u64).is_multiple_of(u64::from(PIECE_BYTES));
                    for piece in pieces.iter().filter(|piece| ragged && piece.length > 0) {
                        let place = base + piece.global as u64;
                        self.global_place(cluster, at, lane, place, usize::from(piece.length), 1)?;
                    }
                    let manner = manner_of(copy.reduction.is_some());
                    for piece in pieces.iter().filter(|piece| piece.length > 0) {
                        let place = (piece.buffer, piece.global);
                        self.note_global_write(cluster, at, lane, place, usize::from(piece.length), manner, false);
                    }
                    let reduction = copy.reduction.map(|kind| (kind, scalar_of(map.element)));
                    self.start(cluster, at, lane, Action::Store { rank, pieces, reduction });
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
                    let target = self.global_place(cluster, at, lane, destination, bytes as usize, 16)?;
                    let reader = groups_of(cluster, at.participant(lane)).participant;
                    self.read_by_copy(cluster, at, lane, reader, place.rank, place.offset, bytes);
                    cluster.order.tick();
                    let pieces = plain_pieces(place.offset, target, bytes);
                    for piece in &pieces {
                        let manner = manner_of(copy.reduction.is_some());
                        self.note_global_write(cluster, at, lane, (piece.buffer, piece.global), 16, manner, false);
                    }
                    self.start(
                        cluster,
                        at,
                        lane,
                        Action::Store { rank: place.rank, pieces, reduction: copy.reduction },
                    );
                }
                BulkCompletion::Mbarrier(address) => {
                    let mbarriers = addresses(&warp.registers, address);
                    let mbarrier = self.mbarrier_place(cluster, at, lane, mbarriers[lane], Space::SharedCluster)?;
                    self.check_mbarrier(cluster, at, lane, mbarrier)?;
                    if copy.source_space == Space::Global {
                        let origin = self.global_place(cluster, at, lane, source, bytes as usize, 16)?;
                        let multicast = copy.multicast.map(|register| warp.registers.word(register)[lane] & 0xffff);
                        let targets = self.targets(cluster, at, lane, place, mbarrier, multicast)?;
                        for (rank, _) in &targets {
                            self.begin_delivery(cluster, at, lane, *rank, place.offset, bytes);
                        }
                        let pieces = plain_pieces(place.offset, origin, bytes);
                        for piece in &pieces {
                            self.note_copy_read(cluster, at, lane, (piece.buffer, piece.global), 16);
                        }
                        self.start(cluster, at, lane, Action::Load { pieces, fill: [0; 16], targets, bytes });
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
}

/// Reductions are atomic, each element for itself.
fn manner_of(reduces: bool) -> Manner {
    if reduces { Manner::Strong(Scope::Device) } else { Manner::Asynchronous }
}
