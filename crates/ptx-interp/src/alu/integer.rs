//! Integer and bit operations whose meaning needs more than one operator.

use crate::decode::PermuteMode;

/// Bits `at .. at + length` set; positions and lengths count modulo 256, as the device's do.
#[inline(always)]
fn field_mask(at: u32, length: u32, bits: u32) -> u64 {
    let (at, length) = (at & 255, length & 255);
    if length == 0 || at >= bits {
        return 0;
    }
    let field = if length >= 64 { u64::MAX } else { (1 << length) - 1 };
    field << at
}

#[inline(always)]
pub(super) fn insert32(field: u32, base: u32, at: u32, length: u32) -> u32 {
    let mask = field_mask(at, length, 32) as u32;
    let shifted = if at & 255 > 31 { 0 } else { field << (at & 31) };
    base & !mask | shifted & mask
}

/// The 64-bit form is made of shifts, which clamp where the 32-bit instruction takes a position modulo 256 (recorded on an
/// H200).
pub(super) fn insert64(field: u64, base: u64, at: u32, length: u32) -> u64 {
    if at > 63 {
        return base;
    }
    let mask = field_mask(at, length, 64);
    base & !mask | field << at & mask
}

#[inline(always)]
pub(super) fn extract(value: u64, at: u32, length: u32, bits: u32, signed: bool) -> u64 {
    let (at, length) = (at & 255, length & 255);
    let low = if at >= bits { 0 } else { value >> at };
    let available = bits.saturating_sub(at).min(length);
    let kept = if available == 0 {
        0
    } else if available >= 64 {
        low
    } else {
        low & ((1 << available) - 1)
    };
    if !signed || length == 0 {
        return kept;
    }
    // The sign bit is the field's last, or the value's last where the field reaches past it.
    let sign = value >> (at + length - 1).min(bits - 1) & 1;
    if sign == 1 && available < 64 { kept | u64::MAX << available } else { kept }
}

#[inline(always)]
pub(super) fn permute(mode: PermuteMode, a: u32, b: u32, selector: u32) -> u32 {
    let bytes = u64::from(b) << 32 | u64::from(a);
    let byte = |index: u32| (bytes >> ((index & 7) * 8)) as u8;
    let pick = |lane: u32| -> u8 {
        let s = selector & 3;
        match mode {
            PermuteMode::Index => {
                let control = selector >> (lane * 4) & 15;
                let value = byte(control);
                // The top bit of a control replicates the byte's sign.
                if control & 8 != 0 { if value & 0x80 != 0 { 0xff } else { 0 } } else { value }
            }
            PermuteMode::Forward4Extract => byte(s + lane),
            PermuteMode::Backward4Extract => byte(s.wrapping_sub(lane) & 7),
            PermuteMode::Replicate8 => byte(s),
            PermuteMode::EdgeClampLeft => byte(lane.max(s)),
            PermuteMode::EdgeClampRight => byte(lane.min(s)),
            PermuteMode::Replicate16 => byte((s & 1) * 2 + (lane & 1)),
        }
    };
    u32::from_le_bytes([pick(0), pick(1), pick(2), pick(3)])
}

#[inline(always)]
pub(super) fn lop3(table: u8, a: u32, b: u32, c: u32) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        if table >> row & 1 == 1 {
            let x = if row & 4 != 0 { a } else { !a };
            let y = if row & 2 != 0 { b } else { !b };
            let z = if row & 1 != 0 { c } else { !c };
            result |= x & y & z;
        }
    }
    result
}

#[inline(always)]
pub(super) fn funnel(a: u32, b: u32, amount: u32, left: bool) -> u32 {
    // a is the low half, b the high half; the amount is at most 32.
    let wide = u64::from(b) << 32 | u64::from(a);
    if left { ((wide << amount) >> 32) as u32 } else { (wide >> amount) as u32 }
}

pub(super) fn find_highest(value: u32) -> u32 {
    if value == 0 { u32::MAX } else { 31 - value.leading_zeros() }
}

pub(super) fn dot_bytes(a: u32, b: u32, c: u32, signed: bool) -> u32 {
    a.to_le_bytes().iter().zip(b.to_le_bytes()).fold(c, |sum, (&x, y)| {
        let product = if signed { i32::from(x as i8) * i32::from(y as i8) } else { i32::from(x) * i32::from(y) };
        sum.wrapping_add(product as u32)
    })
}
