//! Operations on 64-bit registers.

use super::lanes::binary64;
use crate::decode::{Binary64, DoubleRegister, Shift, Ternary64, Unary64, WordRegister};
use crate::registers::{Doubles, LANES, Registers};

#[inline(always)]
pub(super) fn unary(registers: &mut Registers, mask: u32, op: Unary64, to: DoubleRegister, a: DoubleRegister) {
    let a = *registers.double(a);
    if op == Unary64::Move {
        registers.set_doubles(to, mask, &a);
        return;
    }
    let mut result: Doubles = [0; LANES];
    for lane in 0..LANES {
        let value = a[lane];
        result[lane] = match op {
            Unary64::Move => value,
            Unary64::Not => !value,
            Unary64::NegateInteger => value.wrapping_neg(),
            Unary64::AbsoluteInteger => (value as i64).wrapping_abs() as u64,
            Unary64::NegateF64 => value ^ 1 << 63,
            Unary64::AbsoluteF64 => value & !(1 << 63),
            Unary64::SqrtF64 => f64::from_bits(value).sqrt().to_bits(),
            Unary64::RcpF64 => (1.0 / f64::from_bits(value)).to_bits(),
            Unary64::RcpApproxF64 => upper(1.0 / flushed(value)),
            Unary64::RsqrtApproxF64 => upper(1.0 / flushed(value).sqrt()),
            Unary64::ReverseBits => value.reverse_bits(),
        };
    }
    registers.set_doubles(to, mask, &result);
}

#[inline(always)]
pub(super) fn binary(
    registers: &mut Registers,
    mask: u32,
    op: Binary64,
    to: DoubleRegister,
    a: DoubleRegister,
    b: DoubleRegister,
) {
    match op {
        Binary64::Add => binary64(registers, mask, to, a, b, |a, b| a.wrapping_add(b)),
        Binary64::MulLow => binary64(registers, mask, to, a, b, |a, b| a.wrapping_mul(b)),
        _ => rare_binary(registers, mask, op, to, a, b),
    }
}

#[inline(never)]
fn rare_binary(
    registers: &mut Registers,
    mask: u32,
    op: Binary64,
    to: DoubleRegister,
    a: DoubleRegister,
    b: DoubleRegister,
) {
    macro_rules! lanes {
        ($f:expr) => {
            binary64(registers, mask, to, a, b, $f)
        };
    }
    let double = f64::from_bits;
    match op {
        Binary64::AddF64 => lanes!(|a, b| (double(a) + double(b)).to_bits()),
        Binary64::SubF64 => lanes!(|a, b| (double(a) - double(b)).to_bits()),
        Binary64::MulF64 => lanes!(|a, b| (double(a) * double(b)).to_bits()),
        Binary64::DivF64 => lanes!(|a, b| (double(a) / double(b)).to_bits()),
        Binary64::MaxF64 => lanes!(|a, b| double(a).max(double(b)).to_bits()),
        Binary64::MinF64 => lanes!(|a, b| double(a).min(double(b)).to_bits()),
        Binary64::CopySignF64 => lanes!(|a, b| a & 1 << 63 | b & !(1 << 63)),
        Binary64::Add => lanes!(|a, b| a.wrapping_add(b)),
        Binary64::Sub => lanes!(|a, b| a.wrapping_sub(b)),
        Binary64::MulLow => lanes!(|a, b| a.wrapping_mul(b)),
        Binary64::MulHighSigned => lanes!(|a, b| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64),
        Binary64::MulHighUnsigned => lanes!(|a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        Binary64::DivSigned => lanes!(|a, b| if b == 0 { u64::MAX } else { (a as i64).wrapping_div(b as i64) as u64 }),
        Binary64::DivUnsigned => lanes!(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        Binary64::RemSigned => lanes!(|a, b| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }),
        Binary64::RemUnsigned => lanes!(|a, b| if b == 0 { a } else { a % b }),
        Binary64::MinSigned => lanes!(|a, b| (a as i64).min(b as i64) as u64),
        Binary64::MaxSigned => lanes!(|a, b| (a as i64).max(b as i64) as u64),
        Binary64::MinUnsigned => lanes!(|a, b| a.min(b)),
        Binary64::MaxUnsigned => lanes!(|a, b| a.max(b)),
        Binary64::And => lanes!(|a, b| a & b),
        Binary64::Or => lanes!(|a, b| a | b),
        Binary64::Xor => lanes!(|a, b| a ^ b),
    }
}

#[inline(always)]
pub(super) fn ternary(
    registers: &mut Registers,
    mask: u32,
    op: Ternary64,
    to: DoubleRegister,
    inputs: [DoubleRegister; 3],
) {
    let [a, b, c] = inputs.map(|register| *registers.double(register));
    let mut result: Doubles = [0; LANES];
    for lane in 0..LANES {
        result[lane] = match op {
            Ternary64::FmaF64 => {
                f64::from_bits(a[lane]).mul_add(f64::from_bits(b[lane]), f64::from_bits(c[lane])).to_bits()
            }
            Ternary64::MadLow => a[lane].wrapping_mul(b[lane]).wrapping_add(c[lane]),
        };
    }
    registers.set_doubles(to, mask, &result);
}

#[inline(always)]
pub(super) fn shift(
    registers: &mut Registers,
    mask: u32,
    op: Shift,
    to: DoubleRegister,
    a: DoubleRegister,
    amount: WordRegister,
) {
    let (a, amount) = (registers.double(a), registers.word(amount));
    let mut result: Doubles = [0; LANES];
    for lane in 0..LANES {
        let (value, by) = (a[lane], amount[lane]);
        result[lane] = match op {
            Shift::Left if by > 63 => 0,
            Shift::Left => value << by,
            Shift::RightUnsigned if by > 63 => 0,
            Shift::RightUnsigned => value >> by,
            Shift::RightSigned => (value as i64 >> by.min(63)) as u64,
        };
    }
    registers.set_doubles(to, mask, &result);
}

/// What the approximations of f64 see of a value: its upper 32 bits, subnormals as zeros.
fn flushed(bits: u64) -> f64 {
    let value = f64::from_bits(bits & 0xffff_ffff_0000_0000);
    if value.is_subnormal() { 0f64.copysign(value) } else { value }
}

/// What they give.
fn upper(value: f64) -> u64 {
    let value = if value.is_subnormal() { 0f64.copysign(value) } else { value };
    value.to_bits() & 0xffff_ffff_0000_0000
}
