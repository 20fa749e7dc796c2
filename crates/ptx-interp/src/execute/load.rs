//! `ld` from every space, checked a lane at a time.

use crate::address_space::SHARED_BASE;
use crate::decode::{Access, LaneRegister, Ordering, Space};
use crate::diagnostics::FindingKind;
use crate::machine::{At, Cluster, Lanes, Machine, Step, Stopped, Warp, addresses, for_each_space, is_side_by_side};
use crate::order::PAGE_BYTES;
use crate::registers::{LANES, Registers, each_lane};

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
    // One f16 or bf16, the commonest of all.
    if let ([Some(LaneRegister::Word(register))], &[low, high], false) = (&*access.registers, bytes, access.signed) {
        registers.words[usize::from(register.0)][lane] = u32::from(u16::from_le_bytes([low, high]));
        return;
    }
    let element = usize::from(access.element);
    let mut rest = bytes;
    for register in &access.registers {
        // By hand, since `chunks_exact` divides.
        let (chunk, behind) = rest.split_at(element);
        rest = behind;
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

impl Machine<'_> {
    pub(crate) fn load(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        mask: u32,
    ) -> Result<Step, Stopped> {
        let places = addresses(&warp.registers, access.address);
        for_each_space(access.space, &places, mask, |space, places, lanes| {
            self.load_space(cluster, warp, at, access, space, places, lanes)
        })?;
        self.after_load(cluster, at, access, &places, mask);
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
        let manner = access.manner();
        match space {
            Space::Shared | Space::SharedCluster | Space::Generic => {
                self.count_shared(places, mask, bytes, false);
                if self.load_own_shared(cluster, warp, at, access, places, mask, bytes) {
                    return Ok(());
                }
                each_lane!(mask, lane, {
                    let place = self.shared_place(cluster, at, lane, places[lane], bytes, space)?;
                    let block = &mut cluster.blocks[place.rank as usize];
                    let who = at.accessor(lane, manner);
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
                if self.load_one_page(cluster, warp, at, access, places, mask, bytes)
                    || self.load_one_buffer(cluster, warp, at, access, places, mask, bytes)
                {
                    return Ok(());
                }
                each_lane!(mask, lane, {
                    let mut data = [0; 32];
                    let data = &mut data[..bytes as usize];
                    self.read_global(cluster, at, lane, places[lane], data, manner)?;
                    deliver(&mut warp.registers, access, lane, data);
                });
            }
            Space::Local => {
                each_lane!(mask, lane, {
                    let mut data = [0; 32];
                    let data = &mut data[..bytes as usize];
                    self.read_local(cluster, warp, at, lane, places[lane], data)?;
                    deliver(&mut warp.registers, access, lane, data);
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
        let who = at.accessor(0, access.manner());
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
        let manner = access.manner();
        self.note_global_reads(
            cluster,
            at,
            buffer,
            &offsets.map(|offset| start.wrapping_add(offset)),
            mask,
            bytes,
            manner,
        );
        true
    }
    /// Loads from global memory when all places are in one buffer that is wholly written, and in order; false, and nothing
    /// done, if they are not. Lanes of different rows read so.
    fn load_one_buffer(
        &mut self,
        cluster: &Cluster,
        warp: &mut Warp,
        at: At,
        access: &Access,
        places: &Lanes,
        mask: u32,
        bytes: u32,
    ) -> bool {
        let (mut low_bits, mut lowest, mut highest) = (0, u64::MAX, 0);
        each_lane!(mask, lane, {
            low_bits |= places[lane];
            lowest = lowest.min(places[lane]);
            highest = highest.max(places[lane]);
        });
        let span = highest.wrapping_sub(lowest).saturating_add(u64::from(bytes));
        if low_bits & u64::from(bytes - 1) != 0 || bytes > 16 {
            return false;
        }
        let Ok(span) = usize::try_from(span) else { return false };
        let Some((buffer, start)) = self.global.resolve(lowest, span) else { return false };
        if !self.global.is_plain(buffer) {
            return false;
        }
        let offsets = places.map(|place| start.wrapping_add(place.wrapping_sub(lowest) as usize));
        let registers = &mut warp.registers;
        self.read_lanes(cluster, at, buffer, &offsets, mask, bytes as usize, access.manner(), |lane, data| {
            deliver(registers, access, lane, data);
        });
        true
    }
}
