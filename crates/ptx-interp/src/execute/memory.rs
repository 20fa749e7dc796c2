//! Loads and stores of every space, checked a lane at a time.

use super::global::is_ordered;
use super::{At, Cluster, Machine, Step, Stopped, has_exited};
use crate::address_space::{LOCAL_WINDOW, PARAMETER_WINDOW, SHARED_BASE, SHARED_WINDOW, WINDOW_BYTES, split_shared};
use crate::decode::{Access, Address, LaneRegister, Ordering, Space};
use crate::diagnostics::FindingKind;
use crate::global_view::{LINE_BYTES, PAGE_BYTES, Record};
use crate::registers::{Doubles, LANES, Registers, each_lane};
use crate::warp::Warp;

/// An address for each lane.
pub(crate) type Lanes = Doubles;

/// A place in some block's shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SharedPlace {
    pub rank: u32,
    pub offset: u32,
}

pub(crate) fn is_in_space(space: Space, address: u64) -> bool {
    let within = |base: u64| (base..base + WINDOW_BYTES).contains(&address);
    match space {
        Space::Shared | Space::SharedCluster => within(SHARED_WINDOW),
        Space::Local => within(LOCAL_WINDOW),
        Space::Parameter => within(PARAMETER_WINDOW),
        Space::Global | Space::Generic => !(within(SHARED_WINDOW) || within(LOCAL_WINDOW) || within(PARAMETER_WINDOW)),
    }
}

pub(crate) fn addresses(registers: &Registers, address: Address) -> Lanes {
    let mut result = [0; LANES];
    match address.base {
        LaneRegister::Word(base) => {
            let base = registers.word(base);
            for lane in 0..LANES {
                // 32-bit addresses wrap at 32 bits.
                result[lane] = u64::from(base[lane].wrapping_add(address.offset as u32));
            }
        }
        LaneRegister::Double(base) => {
            let base = registers.double(base);
            for lane in 0..LANES {
                result[lane] = base[lane].wrapping_add(address.offset as u64);
            }
        }
    }
    result
}

/// Lanes of a generic access by the space they hit: shared, local, parameter, global.
fn by_space(addresses: &Lanes, mask: u32) -> [(Space, u32, u64); 4] {
    let mut parts = [
        (Space::Shared, 0, SHARED_WINDOW),
        (Space::Local, 0, LOCAL_WINDOW),
        (Space::Parameter, 0, PARAMETER_WINDOW),
        (Space::Global, 0, 0),
    ];
    each_lane!(mask, lane, {
        for part in &mut parts {
            if is_in_space(part.0, addresses[lane]) {
                part.1 |= 1 << lane;
                break;
            }
        }
    });
    parts
}

pub(crate) fn rebased(addresses: &Lanes, base: u64) -> Lanes {
    addresses.map(|address| address.wrapping_sub(base))
}

/// Whether all lanes take part, each right behind the one before.
#[inline(always)]
pub(super) fn is_side_by_side(places: &Lanes, mask: u32, bytes: u32) -> bool {
    let mut apart = 0;
    for lane in 0..LANES {
        apart |= places[lane] ^ places[0].wrapping_add(lane as u64 * u64::from(bytes));
    }
    mask == u32::MAX && apart == 0
}

fn extend(value: u64, bytes: u8, signed: bool) -> u64 {
    if !signed || bytes == 8 {
        return value;
    }
    let unused = 64 - u32::from(bytes) * 8;
    ((value << unused) as i64 >> unused) as u64
}

#[inline(always)]
fn little_endian(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        _ => {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(value)
        }
    }
}

/// Writes the loaded bytes of one lane to its registers.
#[inline(always)]
fn deliver(registers: &mut Registers, access: &Access, lane: usize, bytes: &[u8]) {
    let element = usize::from(access.element);
    for (register, chunk) in access.registers.iter().zip(bytes.chunks_exact(element)) {
        match *register {
            Some(LaneRegister::Word(register)) if element == 4 => {
                let value = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
                registers.words[usize::from(register.0)][lane] = value;
            }
            Some(register) => {
                registers.set_lane(register, lane, extend(little_endian(chunk), access.element, access.signed));
            }
            None => {}
        }
    }
}

/// The same bytes for all lanes of a mask.
fn deliver_same(registers: &mut Registers, access: &Access, mask: u32, bytes: &[u8]) {
    let element = usize::from(access.element);
    for (register, chunk) in access.registers.iter().zip(bytes.chunks_exact(element)) {
        let value = extend(little_endian(chunk), access.element, access.signed);
        match *register {
            Some(LaneRegister::Word(register)) => registers.set_words(register, mask, &[value as u32; LANES]),
            Some(LaneRegister::Double(register)) => registers.set_doubles(register, mask, &[value; LANES]),
            None => {}
        }
    }
}

/// Gathers the bytes that one lane stores.
#[inline(always)]
fn collect(registers: &Registers, access: &Access, lane: usize, bytes: &mut [u8; 32]) -> usize {
    let element = usize::from(access.element);
    for (index, register) in access.registers.iter().enumerate() {
        if let Some(register) = register {
            let value = registers.lane(*register, lane).to_le_bytes();
            bytes[index * element..(index + 1) * element].copy_from_slice(&value[..element]);
        }
    }
    element * access.registers.len()
}

impl Machine<'_> {
    pub(super) fn load(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, access.address);
        match access.space {
            Space::Generic => {
                for (space, lanes, base) in by_space(&places, mask) {
                    if lanes != 0 {
                        self.load_space(cluster, warp, at, access, space, &rebased(&places, base), lanes)?;
                    }
                }
            }
            space => self.load_space(cluster, warp, at, access, space, &places, mask)?,
        }
        self.after_access(cluster, at, access, &places, mask);
        // A loop that polls memory must let the writer run.
        Ok(if access.ordering == Ordering::Weak { Step::Next } else { Step::Yield })
    }

    fn load_space(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        space: Space,
        places: &Lanes,
        mask: u32,
    ) -> Result<(), Stopped> {
        let bytes = u32::from(access.element) * access.registers.len() as u32;
        let atomic = access.ordering != Ordering::Weak;
        match space {
            Space::Shared | Space::SharedCluster | Space::Generic => {
                self.count_shared(places, mask, bytes, false);
                if self.load_own_shared(cluster, warp, at, access, places, mask, bytes) {
                    return Ok(());
                }
                each_lane!(mask, lane, {
                    let place = self.shared_place(cluster, at, lane, places[lane], bytes, space)?;
                    let block = &mut cluster.blocks[place.rank as usize];
                    let who = at.accessor(lane, atomic);
                    let conflict = block.shared.note_read(&cluster.order, who, place.offset, bytes);
                    let start = place.offset as usize;
                    deliver(&mut warp.registers, access, lane, &block.shared.bytes[start..start + bytes as usize]);
                    if let Some(conflict) = conflict {
                        self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, bytes);
                    }
                });
            }
            Space::Global => {
                self.count_global(places, mask, bytes, false);
                if self.load_one_page(cluster, warp, at, access, places, mask, bytes) {
                    return Ok(());
                }
                each_lane!(mask, lane, {
                    let mut data = [0; 32];
                    let data = &mut data[..bytes as usize];
                    self.read_global(cluster, at, lane, places[lane], data, atomic)?;
                    deliver(&mut warp.registers, access, lane, data);
                });
            }
            Space::Local => {
                let size = self.context.program.local_bytes;
                each_lane!(mask, lane, {
                    let start = self.local_place(cluster, at, lane, places[lane], bytes, size)?;
                    let mut data = [0; 32];
                    data[..bytes as usize].copy_from_slice(&warp.local[start..start + bytes as usize]);
                    deliver(&mut warp.registers, access, lane, &data[..bytes as usize]);
                });
            }
            Space::Parameter => {
                let context = self.context;
                // Nearly always all lanes read the same parameter.
                let first = places[mask.trailing_zeros() as usize & 31];
                let mut same = true;
                each_lane!(mask, lane, {
                    same &= places[lane] == first;
                });
                if same
                    && let Ok(start) = usize::try_from(first)
                    && let Some(data) = context.launch.params.get(start..start.saturating_add(bytes as usize))
                {
                    deliver_same(&mut warp.registers, access, mask, data);
                    return Ok(());
                }
                each_lane!(mask, lane, {
                    let start = usize::try_from(places[lane]).unwrap_or(usize::MAX);
                    let end = start.saturating_add(bytes as usize);
                    let Some(data) = context.launch.params.get(start..end) else {
                        let by = at.participant(lane);
                        let message = || format!("reads parameter bytes {start}.. of {}", context.launch.params.len());
                        return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
                    };
                    deliver(&mut warp.registers, access, lane, data);
                });
            }
        }
        Ok(())
    }

    /// Loads from the block's own shared memory when every place is in order; false if one is not.
    #[inline(always)]
    fn load_own_shared(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        places: &Lanes,
        mask: u32,
        bytes: u32,
    ) -> bool {
        let mut offsets = [0; LANES];
        // Of all active lanes: bits that alignment forbids, the lowest and the highest address.
        let (mut low_bits, mut lowest, mut highest) = (0, u64::MAX, 0);
        for lane in 0..LANES {
            offsets[lane] = places[lane] as u32;
            if mask >> lane & 1 == 1 {
                low_bits |= places[lane];
                lowest = lowest.min(places[lane]);
                highest = highest.max(places[lane]);
            }
        }
        let inside = lowest >= u64::from(SHARED_BASE)
            && highest.saturating_add(u64::from(bytes)) <= u64::from(self.context.shared_end);
        if !inside || low_bits & u64::from(bytes - 1) != 0 {
            return false;
        }
        let who = at.accessor(0, access.ordering != Ordering::Weak);
        let shared = &mut cluster.blocks[at.rank as usize].shared;
        let found = if lowest == highest {
            shared.note_broadcast(&cluster.order, who, lowest as u32, mask, bytes)
        } else {
            shared.note_reads(&cluster.order, who, &offsets, mask, bytes)
        };
        let memory = &shared.bytes;
        if let (4, [Some(LaneRegister::Word(register))]) = (access.element, &*access.registers) {
            let target = &mut warp.registers.words[usize::from(register.0)];
            each_lane!(mask, lane, {
                let start = offsets[lane] as usize;
                let bytes = &memory[start..start + 4];
                target[lane] = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            });
        } else {
            each_lane!(mask, lane, {
                let start = offsets[lane] as usize;
                deliver(&mut warp.registers, access, lane, &memory[start..start + bytes as usize]);
            });
        }
        if let Some((lane, conflict)) = found {
            self.report_conflict(cluster, conflict, at.pc, at.participant(lane), offsets[lane], bytes);
        }
        true
    }

    /// Loads from global memory when all places are close together in one page and in order; false, and nothing
    /// done, if they are not.
    #[inline(always)]
    fn load_one_page(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        places: &Lanes,
        mask: u32,
        bytes: u32,
    ) -> bool {
        let mut data = [0; 16 * LANES];
        let side_by_side = is_side_by_side(places, mask, bytes);
        let (mut low_bits, mut lowest, mut highest) = (0, u64::MAX, 0);
        if side_by_side {
            (low_bits, lowest, highest) = (places[0], places[0], places[LANES - 1]);
        } else {
            each_lane!(mask, lane, {
                low_bits |= places[lane];
                lowest = lowest.min(places[lane]);
                highest = highest.max(places[lane]);
            });
        }
        let span = highest.wrapping_sub(lowest).saturating_add(u64::from(bytes));
        if span > data.len() as u64 || low_bits & u64::from(bytes - 1) != 0 {
            return false;
        }
        let span = span as usize;
        let Some((buffer, start)) = self.global.resolve(lowest, span) else { return false };
        if start % PAGE_BYTES + span > PAGE_BYTES || !self.global.is_written(buffer, start, span) {
            return false;
        }
        self.global.read(buffer, start, &mut data[..span]);
        let mut offsets = [0; LANES];
        for lane in 0..LANES {
            offsets[lane] = places[lane].wrapping_sub(lowest) as usize;
        }
        match *access.registers {
            // One f16 or bf16 a lane, as scalar kernels load.
            [Some(LaneRegister::Word(register))] if bytes == 2 && !access.signed && side_by_side => {
                let target = &mut warp.registers.words[usize::from(register.0)];
                for (value, pair) in target.iter_mut().zip(data.chunks_exact(2)) {
                    *value = u32::from(u16::from_le_bytes([pair[0], pair[1]]));
                }
            }
            _ => each_lane!(mask, lane, {
                let place = offsets[lane];
                deliver(&mut warp.registers, access, lane, &data[place..place + bytes as usize]);
            }),
        }
        let atomic = access.ordering != Ordering::Weak;
        self.note_global_reads(
            cluster,
            at,
            buffer,
            &offsets.map(|offset| start.wrapping_add(offset)),
            mask,
            bytes,
            atomic,
        );
        true
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
        atomic: bool,
    ) {
        let first = self.record(cluster, at, 0, atomic);
        let of_lane = |lane: usize| Record { participant: first.participant + lane as u32, ..first };
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

    pub(super) fn store(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, access.address);
        self.before_access(cluster, at, access, &places, mask);
        match access.space {
            Space::Generic => {
                for (space, lanes, base) in by_space(&places, mask) {
                    if lanes != 0 {
                        self.store_space(cluster, warp, at, access, space, &rebased(&places, base), lanes)?;
                    }
                }
            }
            space => self.store_space(cluster, warp, at, access, space, &places, mask)?,
        }
        Ok(Step::Next)
    }

    fn store_space(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        space: Space,
        places: &Lanes,
        mask: u32,
    ) -> Result<(), Stopped> {
        let bytes = u32::from(access.element) * access.registers.len() as u32;
        let atomic = access.ordering != Ordering::Weak;
        let mut data = [0; 32];
        match space {
            Space::Shared | Space::SharedCluster | Space::Generic => {
                self.count_shared(places, mask, bytes, true);
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    let place = self.shared_place(cluster, at, lane, places[lane], bytes, space)?;
                    self.write_shared(cluster, at, lane, place, &data[..length], atomic);
                });
            }
            Space::Global => {
                self.count_global(places, mask, bytes, true);
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    self.write_global(cluster, at, lane, places[lane], &data[..length], atomic)?;
                });
            }
            Space::Local => {
                let size = self.context.program.local_bytes;
                each_lane!(mask, lane, {
                    let length = collect(&warp.registers, access, lane, &mut data);
                    let start = self.local_place(cluster, at, lane, places[lane], bytes, size)?;
                    warp.local[start..start + length].copy_from_slice(&data[..length]);
                });
            }
            Space::Parameter => {
                let by = at.participant(mask.trailing_zeros() as usize);
                let message = || "writes to the kernel's parameters".into();
                return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
            }
        }
        Ok(())
    }

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

    /// Bounds and alignment of an access to shared memory.
    #[inline(always)]
    pub(crate) fn shared_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
        space: Space,
    ) -> Result<SharedPlace, Stopped> {
        let narrow = address as u32;
        let (rank, offset) = split_shared(narrow, at.rank);
        let end = u64::from(offset) + u64::from(bytes);
        let inside = u64::from(narrow) == address
            && (rank as usize) < cluster.blocks.len()
            && offset >= SHARED_BASE
            && end <= u64::from(self.context.shared_end)
            && (rank == at.rank || space != Space::Shared);
        if inside && rank != at.rank && has_exited(cluster, rank) {
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, at.participant(lane), || {
                format!("shared memory of block {rank} of the cluster, which has exited")
            }));
        }
        if inside && offset & (bytes - 1) == 0 {
            return Ok(SharedPlace { rank, offset });
        }
        Err(self.bad_shared(cluster, at, lane, address, bytes, inside))
    }

    #[cold]
    fn bad_shared(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
        inside: bool,
    ) -> Stopped {
        let by = at.participant(lane);
        let end = self.context.shared_end;
        if inside {
            let message =
                || format!("{bytes} bytes at shared address {address:#x}, which is not a multiple of {bytes}");
            return self.stop(cluster, FindingKind::Misaligned, at.pc, by, message);
        }
        let message = || {
            format!(
                "{bytes} bytes at shared address {address:#x}; this block's shared memory is {SHARED_BASE:#x}..{end:#x}"
            )
        };
        self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message)
    }

    fn local_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: u32,
        size: u32,
    ) -> Result<usize, Stopped> {
        let by = at.participant(lane);
        if address.checked_add(u64::from(bytes)).is_none_or(|end| end > u64::from(size)) {
            let message = || format!("{bytes} bytes at offset {address:#x} of a thread's {size} bytes of local memory");
            return Err(self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message));
        }
        if !address.is_multiple_of(u64::from(bytes)) {
            let message = || format!("{bytes} bytes at local address {address:#x}");
            return Err(self.stop(cluster, FindingKind::Misaligned, at.pc, by, message));
        }
        Ok(lane * size as usize + address as usize)
    }

    /// Bounds and alignment of an access to global memory: the buffer and the offset in it.
    #[inline(always)]
    pub(crate) fn global_place(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
    ) -> Result<(usize, usize), Stopped> {
        match self.global.resolve(address, bytes) {
            Some(found) if address & (align as u64 - 1) == 0 => Ok(found),
            found => Err(self.bad_global(cluster, at, lane, address, bytes, align, found.is_some())),
        }
    }

    #[cold]
    fn bad_global(
        &mut self,
        cluster: &Cluster,
        at: At,
        lane: usize,
        address: u64,
        bytes: usize,
        align: usize,
        inside: bool,
    ) -> Stopped {
        let by = at.participant(lane);
        let memory = self.global.memory;
        if inside {
            let message = || {
                let (index, offset) = memory.resolve(address, bytes).unwrap_or_default();
                let name = memory.buffers().get(index).map_or("?", |buffer| &buffer.name);
                format!("{bytes} bytes at byte {offset} of `{name}`: {address:#x} is not a multiple of {align}")
            };
            return self.stop(cluster, FindingKind::Misaligned, at.pc, by, message);
        }
        let message = || format!("{bytes} bytes at {address:#x}: {}", memory.place(address, bytes));
        self.stop(cluster, FindingKind::OutOfBounds, at.pc, by, message)
    }
}
