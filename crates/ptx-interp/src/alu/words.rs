//! Operations on 32-bit registers, and on 16-bit values in them.

use super::float::{canonical, max_f32, min_f32};
use super::integer;
use super::lanes::{binary32, ternary32, unary32};
use crate::decode::{Binary32, Ternary32, Unary32, WordRegister};
use crate::registers::{LANES, Registers, Words};

#[inline(always)]
pub(super) fn unary(registers: &mut Registers, mask: u32, op: Unary32, to: WordRegister, a: WordRegister) {
    macro_rules! lanes {
        ($f:expr) => {
            unary32(registers, mask, to, a, $f)
        };
    }
    match op {
        Unary32::Move => {
            let value = *registers.word(a);
            registers.set_words(to, mask, &value);
        }
        Unary32::Not => lanes!(|a| !a),
        Unary32::NegateInteger => lanes!(|a| a.wrapping_neg()),
        Unary32::AbsoluteInteger => lanes!(|a| (a as i32).wrapping_abs() as u32),
        Unary32::NegateF32 => lanes!(|a| canonical(-f32::from_bits(a))),
        Unary32::AbsoluteF32 => lanes!(|a| canonical(f32::from_bits(a).abs())),
        Unary32::PopulationCount => lanes!(|a| a.count_ones()),
        Unary32::LeadingZeros => lanes!(|a| a.leading_zeros()),
        Unary32::ReverseBits => lanes!(|a| a.reverse_bits()),
        Unary32::FindHighestUnsigned => lanes!(integer::find_highest),
        Unary32::FindShiftUnsigned => lanes!(|a| if a == 0 { u32::MAX } else { a.leading_zeros() }),
        Unary32::FindShiftSigned => lanes!(|a| {
            let a = if (a as i32) < 0 { !a } else { a };
            if a == 0 { u32::MAX } else { a.leading_zeros() }
        }),
        Unary32::FindHighestSigned => {
            lanes!(|a| integer::find_highest(if (a as i32) < 0 { !a } else { a }))
        }
    }
}

/// What a 32-bit operation of two operands does to one lane.
#[inline(always)]
pub(super) fn binary(
    registers: &mut Registers,
    mask: u32,
    op: Binary32,
    to: WordRegister,
    a: WordRegister,
    b: WordRegister,
) {
    macro_rules! lanes {
        ($f:expr) => {
            binary32(registers, mask, to, a, b, $f)
        };
    }
    let single = f32::from_bits;
    match op {
        Binary32::AddF32 => lanes!(|a, b| canonical(single(a) + single(b))),
        Binary32::SubF32 => lanes!(|a, b| canonical(single(a) - single(b))),
        Binary32::MulF32 => lanes!(|a, b| canonical(single(a) * single(b))),
        Binary32::MaxF32 => lanes!(|a, b| max_f32(single(a), single(b))),
        Binary32::MinF32 => lanes!(|a, b| min_f32(single(a), single(b))),
        Binary32::Add => lanes!(|a, b| a.wrapping_add(b)),
        Binary32::Sub => lanes!(|a, b| a.wrapping_sub(b)),
        Binary32::MulLow => lanes!(|a, b| a.wrapping_mul(b)),
        Binary32::MulHighSigned => lanes!(|a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32),
        Binary32::MulHighUnsigned => lanes!(|a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        Binary32::MinSigned => lanes!(|a, b| (a as i32).min(b as i32) as u32),
        Binary32::MaxSigned => lanes!(|a, b| (a as i32).max(b as i32) as u32),
        Binary32::MinUnsigned => lanes!(|a, b| a.min(b)),
        Binary32::MaxUnsigned => lanes!(|a, b| a.max(b)),
        Binary32::And => lanes!(|a, b| a & b),
        Binary32::Or => lanes!(|a, b| a | b),
        Binary32::Xor => lanes!(|a, b| a ^ b),
        Binary32::ShiftLeft => lanes!(|a, b| if b > 31 { 0 } else { a << (b & 31) }),
        Binary32::ShiftRightUnsigned => lanes!(|a, b| if b > 31 { 0 } else { a >> (b & 31) }),
        Binary32::ShiftRightSigned => lanes!(|a, b| (a as i32 >> b.min(31)) as u32),
        Binary32::CopySign => lanes!(|a, b| a & 0x8000_0000 | b & 0x7fff_ffff),
        Binary32::DivSigned | Binary32::DivUnsigned | Binary32::RemSigned | Binary32::RemUnsigned => {
            divide(registers, mask, op, to, a, b);
        }
    }
}

/// Quotients and remainders; the device gives all ones and the dividend where the divisor is 0.
#[inline(never)]
fn divide(registers: &mut Registers, mask: u32, op: Binary32, to: WordRegister, a: WordRegister, b: WordRegister) {
    binary32(registers, mask, to, a, b, |a, b| match op {
        Binary32::DivUnsigned => a.checked_div(b).unwrap_or(u32::MAX),
        Binary32::RemUnsigned => a.checked_rem(b).unwrap_or(a),
        Binary32::DivSigned if b == 0 => u32::MAX,
        Binary32::DivSigned => (a as i32).wrapping_div(b as i32) as u32,
        _ if b == 0 => a,
        _ => (a as i32).wrapping_rem(b as i32) as u32,
    });
}

#[inline(always)]
pub(super) fn ternary(
    registers: &mut Registers,
    mask: u32,
    op: Ternary32,
    to: WordRegister,
    inputs: [WordRegister; 3],
) {
    macro_rules! lanes {
        ($f:expr) => {
            ternary32(registers, mask, to, inputs, $f)
        };
    }
    match op {
        Ternary32::FmaF32 => {
            lanes!(|a, b, c| canonical(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c))))
        }
        Ternary32::MadLow => lanes!(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        _ => rare_ternary(registers, mask, op, to, inputs),
    }
}

/// Operations too rare to be worth unrolling.
#[inline(never)]
fn rare_ternary(registers: &mut Registers, mask: u32, op: Ternary32, to: WordRegister, inputs: [WordRegister; 3]) {
    let [x, y, z] = inputs.map(|register| *registers.word(register));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = ternary_of(op, x[lane], y[lane], z[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(never)]
fn ternary_of(op: Ternary32, a: u32, b: u32, c: u32) -> u32 {
    match op {
        Ternary32::FmaF32 => canonical(f32::from_bits(a).mul_add(f32::from_bits(b), f32::from_bits(c))),
        Ternary32::MadLow => a.wrapping_mul(b).wrapping_add(c),
        Ternary32::MadHighSigned => (((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32).wrapping_add(c),
        Ternary32::MadHighUnsigned => (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c),
        Ternary32::BitFieldExtractUnsigned => integer::extract(u64::from(a), b, c, 32, false) as u32,
        Ternary32::BitFieldExtractSigned => integer::extract(u64::from(a), b, c, 32, true) as u32,
        Ternary32::Permute(mode) => integer::permute(mode, a, b, c),
        Ternary32::Lop3(table) => integer::lop3(table, a, b, c),
        Ternary32::FunnelLeftWrap => integer::funnel(a, b, c & 31, true),
        Ternary32::FunnelLeftClamp => integer::funnel(a, b, c.min(32), true),
        Ternary32::FunnelRightWrap => integer::funnel(a, b, c & 31, false),
        Ternary32::FunnelRightClamp => integer::funnel(a, b, c.min(32), false),
        Ternary32::SelectBySign => {
            if c as i32 >= 0 {
                a
            } else {
                b
            }
        }
        Ternary32::SelectByFloatSign => {
            if f32::from_bits(c) >= 0.0 {
                a
            } else {
                b
            }
        }
        Ternary32::SumAbsoluteDifferenceSigned => c.wrapping_add((a as i32).abs_diff(b as i32)),
        Ternary32::SumAbsoluteDifferenceUnsigned => c.wrapping_add(a.abs_diff(b)),
        Ternary32::DotBytesUnsigned => integer::dot_bytes(a, b, c, false),
        Ternary32::DotBytesSigned => integer::dot_bytes(a, b, c, true),
    }
}

pub(super) fn narrow16(
    registers: &mut Registers,
    mask: u32,
    op: Binary32,
    signed: bool,
    to: WordRegister,
    a: WordRegister,
    b: WordRegister,
) {
    let extend = |bits: u32| if signed { bits as i16 as i32 as u32 } else { bits & 0xffff };
    let shifts = matches!(op, Binary32::ShiftLeft | Binary32::ShiftRightSigned | Binary32::ShiftRightUnsigned);
    binary32(registers, mask, to, a, b, |a, b| {
        let (a, b) = (extend(a), if shifts { b } else { extend(b) });
        let wide = match op {
            Binary32::Add => a.wrapping_add(b),
            Binary32::Sub => a.wrapping_sub(b),
            Binary32::MulLow => a.wrapping_mul(b),
            Binary32::DivSigned if b == 0 => u32::MAX,
            Binary32::DivSigned => (a as i32).wrapping_div(b as i32) as u32,
            Binary32::DivUnsigned => a.checked_div(b).unwrap_or(u32::MAX),
            Binary32::RemSigned if b == 0 => a,
            Binary32::RemSigned => (a as i32).wrapping_rem(b as i32) as u32,
            Binary32::RemUnsigned => a.checked_rem(b).unwrap_or(a),
            Binary32::MinSigned => (a as i32).min(b as i32) as u32,
            Binary32::MaxSigned => (a as i32).max(b as i32) as u32,
            Binary32::MinUnsigned => a.min(b),
            Binary32::MaxUnsigned => a.max(b),
            Binary32::And => a & b,
            Binary32::Or => a | b,
            Binary32::Xor => a ^ b,
            Binary32::ShiftLeft => {
                if b > 31 {
                    0
                } else {
                    a << b
                }
            }
            Binary32::ShiftRightUnsigned => {
                if b > 31 {
                    0
                } else {
                    a >> b
                }
            }
            Binary32::ShiftRightSigned => (a as i32 >> b.min(31)) as u32,
            // The decoder makes no other.
            _ => 0,
        };
        wide & 0xffff
    });
}
