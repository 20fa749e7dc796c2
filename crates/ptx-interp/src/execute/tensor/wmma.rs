//! wmma: fragments whose layout is the device's own business, loaded, multiplied and stored by a warp.
//!
//! For m16n16k16 the layout is that of two m16n8k16 operations, as on the device. For the other shapes any
//! consistent layout will do, since kernels may not look inside; elements are dealt out in order.

use super::{DepthByColumns, Engine, Product, RowsByDepth, widen};
use crate::address_space::SHARED_WINDOW;
use crate::alu::float::{canonical, f16_to_f32, f32_to_f16};
use crate::decode::{FragmentMove, FragmentMultiply, FragmentRole, FragmentShape, Manner, MatrixElement, Space};
use crate::diagnostics::FindingKind;
use crate::machine::{
    At, Cluster, FragmentLines, Machine, SharedPlace, Step, Stopped, Wait, Warp, addresses, is_in_space, is_whole_warp,
};
use crate::registers::{LANES, Registers, Words};

/// Which register, lane and half hold an element.
#[derive(Clone, Copy)]
struct Slot {
    register: usize,
    lane: usize,
    half: usize,
}

const SQUARE: FragmentShape = FragmentShape { m: 16, n: 16, k: 16 };

/// Bytes after which the banks of shared memory repeat.
const BANKS_BYTES: u32 = 128;

/// Rows and columns of a fragment.
fn size(role: FragmentRole, shape: FragmentShape) -> (usize, usize) {
    let (m, n, k) = (usize::from(shape.m), usize::from(shape.n), usize::from(shape.k));
    match role {
        FragmentRole::A => (m, k),
        FragmentRole::B => (k, n),
        FragmentRole::C | FragmentRole::D => (m, n),
    }
}

#[inline(always)]
fn slot(role: FragmentRole, shape: FragmentShape, wide: bool, row: usize, column: usize) -> Slot {
    if shape == SQUARE {
        return match role {
            FragmentRole::A => {
                Slot { register: row >> 3 | column >> 3 << 1, lane: (row & 7) * 4 + (column & 7) / 2, half: column & 1 }
            }
            FragmentRole::B => {
                Slot { register: row >> 3 | column >> 3 << 1, lane: (column & 7) * 4 + (row & 7) / 2, half: row & 1 }
            }
            _ if wide => Slot {
                register: column & 1 | row >> 3 << 1 | column >> 3 << 2,
                lane: (row & 7) * 4 + (column & 7) / 2,
                half: 0,
            },
            _ => {
                Slot { register: row >> 3 | column >> 3 << 1, lane: (row & 7) * 4 + (column & 7) / 2, half: column & 1 }
            }
        };
    }
    let element = row * size(role, shape).1 + column;
    if wide {
        Slot { register: element / LANES, lane: element % LANES, half: 0 }
    } else {
        Slot { register: element / (2 * LANES), lane: element / 2 % LANES, half: element & 1 }
    }
}

fn get(registers: &Registers, list: &[crate::decode::WordRegister], slot: Slot) -> u16 {
    (registers.word(list[slot.register])[slot.lane] >> (16 * slot.half)) as u16
}

impl Machine<'_> {
    pub(crate) fn fragment_move(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        fragment: &FragmentMove,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        let first = mask.trailing_zeros() as usize & 31;
        let bases = addresses(&warp.registers, fragment.address);
        let mut base = bases[first];
        let mut space = fragment.space;
        if space == Space::Generic {
            if is_in_space(Space::Shared, base) {
                base -= SHARED_WINDOW;
                space = Space::Shared;
            } else {
                space = Space::Global;
            }
        }
        let (rows, columns) = size(fragment.role, fragment.shape);
        // Consecutive elements of a line lie side by side in memory.
        let (lines, line_length) = if fragment.column_major { (columns, rows) } else { (rows, columns) };
        let stride = fragment.stride.map_or(line_length as u64, |stride| u64::from(warp.registers.word(stride)[first]));
        let wide = fragment.element == MatrixElement::F32;
        let bytes = if wide { 4 } else { 2 };
        if !base.is_multiple_of(32) || !(stride * bytes).is_multiple_of(16) {
            let message =
                || format!("the matrix is at {base:#x} with {stride} elements a line; 32 and 16 bytes are needed");
            return Err(self.stop(cluster, FindingKind::Misaligned, at.pc, at.participant(first), message));
        }
        let store = fragment.role == FragmentRole::D;
        // One check of the whole matrix, if it lies in the block's own memory, spares one for each element.
        let last = base.saturating_add((lines as u64 - 1).saturating_mul(stride * bytes) + line_length as u64 * bytes);
        let own = space == Space::Shared
            && base >= u64::from(crate::address_space::SHARED_BASE)
            && last <= u64::from(self.context.shared_end);
        let line_bytes = line_length as u64 * bytes;
        if own {
            self.count_own_fragment(base, stride * bytes, lines, line_bytes, store);
        } else {
            self.count_fragment(base, stride * bytes, lines, line_bytes, space, store);
        }
        if own && !store {
            for line in 0..lines as u64 {
                let (offset, bytes) = ((base + line * stride * bytes) as u32, line_bytes as u32);
                let shared = &mut cluster.blocks[at.rank as usize].shared;
                if let Some(conflict) =
                    shared.note_warp_read(&cluster.order, at.accessor(0, Manner::Weak), offset, bytes)
                {
                    self.report_conflict(cluster, conflict, at.pc, at.participant(0), offset, bytes);
                }
            }
        }
        let square = own && fragment.shape == SQUARE;
        if square && !wide && !store {
            let memory = &cluster.blocks[at.rank as usize].shared.bytes[base as usize..last as usize];
            let values = square_halves(fragment.role, fragment.column_major, memory, (stride * bytes) as usize);
            for (register, values) in fragment.registers.iter().zip(&values) {
                warp.registers.words[usize::from(register.0)] = *values;
            }
            // Fragments of A and B have room for every element twice.
            for (register, values) in fragment.registers.iter().skip(4).zip(&values) {
                warp.registers.set_words(*register, mask, values);
            }
            return Ok(Step::Next);
        }
        if square && wide {
            self.square_words(cluster, warp, at, fragment, base as u32, (stride * bytes) as u32);
            return Ok(Step::Next);
        }
        // Elements that one lane holds and that lie side by side are one access.
        let together = if wide { 1 } else { 2 };
        for line in 0..lines {
            let mut at_element = 0;
            while at_element < line_length {
                let coordinates =
                    |element: usize| if fragment.column_major { (element, line) } else { (line, element) };
                let (row, column) = coordinates(at_element);
                let here = slot(fragment.role, fragment.shape, wide, row, column);
                let mut count = 1;
                if together == 2 && at_element + 1 < line_length {
                    let (row, column) = coordinates(at_element + 1);
                    let next = slot(fragment.role, fragment.shape, wide, row, column);
                    if next.lane == here.lane && next.register == here.register {
                        count = 2;
                    }
                }
                let address = base.wrapping_add((line as u64 * stride + at_element as u64) * bytes);
                let length = count * bytes as usize;
                if store {
                    let mut data = [0; 4];
                    let value = warp.registers.word(fragment.registers[here.register])[here.lane] >> (16 * here.half);
                    data.copy_from_slice(&value.to_le_bytes());
                    if own {
                        let place = SharedPlace { rank: at.rank, offset: address as u32 };
                        self.write_shared(cluster, at, here.lane, place, &data[..length], Manner::Weak);
                    } else {
                        self.fragment_write(cluster, at, here.lane, space, address, &data[..length])?;
                    }
                } else {
                    let value = if own {
                        own_value(&cluster.blocks[at.rank as usize].shared.bytes, address, length)
                    } else {
                        let mut data = [0; 4];
                        self.fragment_read(cluster, at, here.lane, space, address, &mut data[..length])?;
                        u32::from_le_bytes(data)
                    };
                    let register = fragment.registers[here.register];
                    let target = &mut warp.registers.words[usize::from(register.0)][here.lane];
                    if wide || count == 2 {
                        *target = value;
                    } else {
                        *target = *target & !(0xffff << (16 * here.half)) | value << (16 * here.half);
                    }
                }
                at_element += count;
            }
        }
        // f16 fragments of A and B have room for every element twice.
        if !store && fragment.shape == SQUARE && fragment.registers.len() == 8 && !wide {
            for index in 4..8 {
                let value = *warp.registers.word(fragment.registers[index - 4]);
                warp.registers.set_words(fragment.registers[index], mask, &value);
            }
        }
        Ok(Step::Next)
    }

    /// Loads or stores a 16×16 matrix of f32 that lies in the block's own memory; loads have been noted.
    fn square_words(
        &mut self,
        cluster: &mut Cluster,
        warp: &mut Warp,
        at: At,
        fragment: &FragmentMove,
        base: u32,
        stride: u32,
    ) {
        let place = |line: usize, element: usize| {
            let (row, column) = if fragment.column_major { (element, line) } else { (line, element) };
            let slot = slot(FragmentRole::C, SQUARE, true, row, column);
            (usize::from(fragment.registers[slot.register].0), slot.lane)
        };
        if fragment.role != FragmentRole::D {
            let shared = &cluster.blocks[at.rank as usize].shared;
            for line in 0..16 {
                let start = base as usize + line * stride as usize;
                for (element, value) in shared.bytes[start..start + 64].as_chunks::<4>().0.iter().enumerate() {
                    let (register, lane) = place(line, element);
                    warp.registers.words[register][lane] = u32::from_le_bytes(*value);
                }
            }
            return;
        }
        for line in 0..16 {
            let start = base + line as u32 * stride;
            let shared = &mut cluster.blocks[at.rank as usize].shared;
            let free = shared.is_free(&cluster.order, at.warp, start, 64, 4);
            for element in 0..16 {
                let (register, lane) = place(line, element);
                let data = warp.registers.words[register][lane].to_le_bytes();
                let offset = start + 4 * element as u32;
                if free {
                    let shared = &mut cluster.blocks[at.rank as usize].shared;
                    shared.note_free_write(&cluster.order, at.accessor(lane, Manner::Weak), offset, 4);
                    shared.bytes[offset as usize..offset as usize + 4].copy_from_slice(&data);
                } else {
                    let place = SharedPlace { rank: at.rank, offset };
                    self.write_shared(cluster, at, lane, place, &data, Manner::Weak);
                }
            }
        }
    }

    /// Wavefronts of a fragment in the block's own memory. Which banks its lines meet does not change when all of
    /// them move by whole rows of banks.
    fn count_own_fragment(&mut self, base: u64, stride: u64, lines: usize, line_bytes: u64, store: bool) {
        let place = FragmentLines {
            start: base as u32 % BANKS_BYTES,
            stride,
            lines: lines as u32,
            line_bytes: line_bytes as u32,
        };
        let Some((_, (passes, ideal))) = self.fragment_passes.iter().find(|(known, _)| *known == place) else {
            let (passes, ideal) = (self.counters.shared_wavefronts, self.counters.shared_ideal_wavefronts);
            self.count_fragment(base, stride, lines, line_bytes, Space::Shared, store);
            let passes = self.counters.shared_wavefronts - passes;
            let ideal = self.counters.shared_ideal_wavefronts - ideal;
            // Strides that differ each time are not worth remembering.
            if self.fragment_passes.len() < 32 {
                self.fragment_passes.push((place, (passes, ideal)));
            }
            return;
        };
        self.counters.shared_wavefronts += passes;
        self.counters.shared_ideal_wavefronts += ideal;
        let total = lines as u64 * line_bytes / 16 * 16;
        if store {
            self.counters.shared_store_bytes += total;
        } else {
            self.counters.shared_load_bytes += total;
        }
    }

    /// Wavefronts or sectors of a fragment's lines, which the hardware reads as 16-byte rows.
    fn count_fragment(&mut self, base: u64, stride: u64, lines: usize, line_bytes: u64, space: Space, store: bool) {
        let pieces: Vec<u64> = (0..lines as u64)
            .flat_map(|line| (0..line_bytes / 16).map(move |piece| base.wrapping_add(line * stride + piece * 16)))
            .collect();
        for group in pieces.chunks(LANES) {
            let mut places = [0; LANES];
            places[..group.len()].copy_from_slice(group);
            let mask = if group.len() == LANES { u32::MAX } else { (1 << group.len()) - 1 };
            if space == Space::Global {
                self.count_global(&places, mask, 16, store);
            } else {
                self.count_shared(&places, mask, 16, store);
            }
        }
    }

    fn fragment_read(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        space: Space,
        address: u64,
        data: &mut [u8],
    ) -> Result<(), Stopped> {
        if space == Space::Global {
            return self.read_global(cluster, at, lane, address, data, Manner::Weak);
        }
        let bytes = data.len() as u32;
        let place = self.shared_place(cluster, at, lane, address, bytes, Space::Shared)?;
        let who = at.accessor(lane, Manner::Weak);
        let block = &mut cluster.blocks[place.rank as usize];
        let conflict = block.shared.note_read(&cluster.order, who, place.offset, bytes);
        data.copy_from_slice(&block.shared.bytes[place.offset as usize..place.offset as usize + data.len()]);
        if let Some(conflict) = conflict {
            self.report_conflict(cluster, conflict, at.pc, who.participant, place.offset, bytes);
        }
        Ok(())
    }

    #[inline(always)]
    fn fragment_write(
        &mut self,
        cluster: &mut Cluster,
        at: At,
        lane: usize,
        space: Space,
        address: u64,
        data: &[u8],
    ) -> Result<(), Stopped> {
        if space == Space::Global {
            return self.write_global(cluster, at, lane, address, data, Manner::Weak);
        }
        let place = self.shared_place(cluster, at, lane, address, data.len() as u32, Space::Shared)?;
        self.write_shared(cluster, at, lane, place, data, Manner::Weak);
        Ok(())
    }

    pub(crate) fn fragment_multiply(
        &mut self,
        _cluster: &mut Cluster,
        warp: &mut Warp,
        _at: At,
        multiply: &FragmentMultiply,
        mask: u32,
    ) -> Result<Step, Stopped> {
        if !is_whole_warp(warp, mask) {
            return Ok(Step::Retry(Wait::Lanes));
        }
        let shape = multiply.shape;
        let (m, n, k) = (usize::from(shape.m), usize::from(shape.n), usize::from(shape.k));
        self.counters.tensor_instructions += 1;
        self.counters.tensor_flops += (2 * m * n * k) as u64;
        let engine = Engine::fastest();
        let registers = &mut warp.registers;
        let singles = multiply.d_element == MatrixElement::F32 && multiply.c_element == MatrixElement::F32;
        if shape == SQUARE && singles {
            for half in 0..2 {
                let range = 4 * half..4 * half + 4;
                let operands = super::Operands {
                    element: multiply.element,
                    accumulator: MatrixElement::F32,
                    d: &multiply.d[range.clone()],
                    a: &multiply.a[..4],
                    b: &multiply.b[2 * half..2 * half + 2],
                    c: &multiply.c[range],
                };
                engine.multiply_registers(registers, &operands, mask);
            }
            return Ok(Step::Next);
        }
        let mut result = vec![[0u32; LANES]; multiply.d.len()];
        for row_base in (0..m).step_by(16) {
            let mut a: RowsByDepth = [[0.0; 16]; 16];
            for (row, values) in a.iter_mut().enumerate().take(m - row_base) {
                for (column, value) in values.iter_mut().enumerate() {
                    let slot = slot(FragmentRole::A, shape, false, row_base + row, column);
                    *value = widen(multiply.element, get(registers, &multiply.a, slot));
                }
            }
            for column_base in (0..n).step_by(8) {
                let mut b: DepthByColumns = [[0.0; 8]; 16];
                for (row, values) in b.iter_mut().enumerate() {
                    for (column, value) in values.iter_mut().enumerate() {
                        let slot = slot(FragmentRole::B, shape, false, row, column_base + column);
                        *value = widen(multiply.element, get(registers, &multiply.b, slot));
                    }
                }
                let mut product: Product = [[0.0; 8]; 16];
                engine.multiply(&a, &b, &mut product);
                for (row, sums) in product.iter().enumerate().take(m - row_base) {
                    for (column, sum) in sums.iter().enumerate() {
                        let (row, column) = (row_base + row, column_base + column);
                        let c_wide = multiply.c_element == MatrixElement::F32;
                        let from = slot(FragmentRole::C, shape, c_wide, row, column);
                        let old = if c_wide {
                            f32::from_bits(registers.word(multiply.c[from.register])[from.lane])
                        } else {
                            f16_to_f32(get(registers, &multiply.c, from))
                        };
                        let d_wide = multiply.d_element == MatrixElement::F32;
                        let to = slot(FragmentRole::D, shape, d_wide, row, column);
                        result[to.register][to.lane] |= if d_wide {
                            canonical(old + sum)
                        } else {
                            u32::from(f32_to_f16(old + sum)) << (16 * to.half)
                        };
                    }
                }
            }
        }
        for (register, values) in multiply.d.iter().zip(&result) {
            registers.set_words(*register, mask, values);
        }
        Ok(Step::Next)
    }
}

/// The registers of a 16×16 matrix of two-byte elements, from its lines in memory: [`slot`], a line at a time.
#[inline(always)]
fn square_halves(role: FragmentRole, column_major: bool, memory: &[u8], stride: usize) -> [Words; 4] {
    let mut registers = [[0; LANES]; 4];
    // Which bit of a register's number tells the halves of a column of lines, and of a line.
    let (line_bit, element_bit) = if column_major { (1, 0) } else { (0, 1) };
    let half = |bytes: &[u8; 32], element: usize| u16::from_le_bytes([bytes[2 * element], bytes[2 * element + 1]]);
    // B's registers pair rows, the others' pair columns.
    if (role == FragmentRole::B) == column_major {
        for line in 0..16 {
            let bytes = line_of(memory, line * stride);
            for pair in 0..8 {
                let value = u32::from(half(bytes, 2 * pair)) | u32::from(half(bytes, 2 * pair + 1)) << 16;
                registers[line >> 3 << line_bit | pair >> 2 << element_bit][(line & 7) * 4 + (pair & 3)] = value;
            }
        }
    } else {
        for pair in 0..8 {
            let (low, high) = (line_of(memory, 2 * pair * stride), line_of(memory, (2 * pair + 1) * stride));
            for element in 0..16 {
                let value = u32::from(half(low, element)) | u32::from(half(high, element)) << 16;
                registers[pair >> 2 << line_bit | element >> 3 << element_bit][(element & 7) * 4 + (pair & 3)] = value;
            }
        }
    }
    registers
}

/// 16 elements of two bytes that lie side by side.
#[inline(always)]
fn line_of(memory: &[u8], start: usize) -> &[u8; 32] {
    memory[start..].first_chunk().expect("the whole matrix lies in this memory")
}

/// One or two elements at a place that has been checked.
#[inline(always)]
fn own_value(bytes: &[u8], address: u64, length: usize) -> u32 {
    let start = address as usize;
    if length == 4 {
        let bytes = &bytes[start..start + 4];
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        let bytes = &bytes[start..start + 2];
        u32::from(u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}
