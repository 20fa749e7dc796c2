//! Lane-wise operations: one call executes an instruction for a whole warp.
//!
//! The body is compiled twice, once for the instruction set every x86-64 has and once with AVX2 and fused
//! multiply-add, because `f32::mul_add` without the latter is a function call.

mod compare;
mod convert;
pub(crate) mod float;
mod integer;

use crate::decode::*;
use crate::registers::{Doubles, LANES, Registers, Words};
use float::*;

/// Executes a lane-wise operation; false if it is not one.
pub(crate) type Execute = fn(&Operation, &mut Registers, u32) -> bool;

/// The fastest version that this machine can run.
pub(crate) fn fastest() -> Execute {
    #[cfg(target_arch = "x86_64")]
    if crate::simd::has_avx2() {
        // SAFETY: `has_avx2` found every feature that `execute_avx2` is compiled with.
        return |operation, registers, mask| unsafe { execute_avx2(operation, registers, mask) };
    }
    execute_portable
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt,f16c")]
fn execute_avx2(operation: &Operation, registers: &mut Registers, mask: u32) -> bool {
    execute(operation, registers, mask)
}

fn execute_portable(operation: &Operation, registers: &mut Registers, mask: u32) -> bool {
    execute(operation, registers, mask)
}

#[inline(always)]
fn unary32(registers: &mut Registers, mask: u32, to: WordRegister, a: WordRegister, f: impl Fn(u32) -> u32) {
    let a = *registers.word(a);
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
fn binary32(
    registers: &mut Registers,
    mask: u32,
    to: WordRegister,
    a: WordRegister,
    b: WordRegister,
    f: impl Fn(u32, u32) -> u32,
) {
    let (a, b) = (registers.word(a), registers.word(b));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
fn ternary32(
    registers: &mut Registers,
    mask: u32,
    to: WordRegister,
    [a, b, c]: [WordRegister; 3],
    f: impl Fn(u32, u32, u32) -> u32,
) {
    let (a, b, c) = (registers.word(a), registers.word(b), registers.word(c));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane], c[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(always)]
fn binary64(
    registers: &mut Registers,
    mask: u32,
    to: DoubleRegister,
    a: DoubleRegister,
    b: DoubleRegister,
    f: impl Fn(u64, u64) -> u64,
) {
    let (a, b) = (registers.double(a), registers.double(b));
    let mut result: Doubles = [0; LANES];
    for lane in 0..LANES {
        result[lane] = f(a[lane], b[lane]);
    }
    registers.set_doubles(to, mask, &result);
}

/// What a 32-bit operation of two operands does to one lane.
#[inline(always)]
fn apply_binary32(
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
fn execute(operation: &Operation, registers: &mut Registers, mask: u32) -> bool {
    match *operation {
        Operation::Binary32 { op, to, a, b } => apply_binary32(registers, mask, op, to, a, b),
        Operation::Ternary32 { op, to, a, b, c } => apply_ternary32(registers, mask, op, to, [a, b, c]),
        Operation::Unary32 { op, to, a } => {
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
                Unary32::FindHighestSigned => {
                    lanes!(|a| integer::find_highest(if (a as i32) < 0 { !a } else { a }))
                }
            }
        }
        Operation::Narrow16 { op, signed, to, a, b } => narrow16(registers, mask, op, signed, to, a, b),
        Operation::Unary64 { op, to, a } => {
            let a = *registers.double(a);
            if op == Unary64::Move {
                registers.set_doubles(to, mask, &a);
                return true;
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
                    Unary64::ReverseBits => value.reverse_bits(),
                };
            }
            registers.set_doubles(to, mask, &result);
        }
        Operation::Binary64 { op, to, a, b } => match op {
            Binary64::Add => binary64(registers, mask, to, a, b, |a, b| a.wrapping_add(b)),
            Binary64::MulLow => binary64(registers, mask, to, a, b, |a, b| a.wrapping_mul(b)),
            _ => rare_binary64(registers, mask, op, to, a, b),
        },
        Operation::Ternary64 { op, to, a, b, c } => {
            let (a, b, c) = (*registers.double(a), *registers.double(b), *registers.double(c));
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
        Operation::Shift64 { op, to, a, amount } => {
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
        Operation::MultiplyWide { signed, to, a, b, addend } => {
            let (a, b) = (registers.word(a), registers.word(b));
            let mut result: Doubles = [0; LANES];
            for lane in 0..LANES {
                result[lane] = if signed {
                    (i64::from(a[lane] as i32) * i64::from(b[lane] as i32)) as u64
                } else {
                    u64::from(a[lane]) * u64::from(b[lane])
                };
            }
            if let Some(addend) = addend {
                let addend = registers.double(addend);
                for lane in 0..LANES {
                    result[lane] = result[lane].wrapping_add(addend[lane]);
                }
            }
            registers.set_doubles(to, mask, &result);
        }
        Operation::Select32 { to, a, b, predicate } => {
            let (a, b, chosen) = (registers.word(a), registers.word(b), registers.predicate(predicate));
            let mut result: Words = [0; LANES];
            for lane in 0..LANES {
                result[lane] = if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] };
            }
            registers.set_words(to, mask, &result);
        }
        Operation::Select64 { to, a, b, predicate } => {
            let (a, b, chosen) = (registers.double(a), registers.double(b), registers.predicate(predicate));
            let mut result: Doubles = [0; LANES];
            for lane in 0..LANES {
                result[lane] = if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] };
            }
            registers.set_doubles(to, mask, &result);
        }
        Operation::SetPredicate(ref operation) => compare::set_predicate(operation, registers, mask),
        Operation::Predicate { op, to, a, b } => {
            let result = compare::combine(op, registers.predicate(a), registers.predicate(b));
            registers.set_predicate(to, mask, result);
        }
        Operation::Convert { ref conversion, to, a } => convert_lanes(registers, mask, conversion, to, a),
        Operation::ConvertPair { format, rounding, relu, to, high, low } => {
            let clamp = |bits: u32| {
                let value = f32::from_bits(bits);
                if relu && !(value > 0.0 || value.is_nan()) { 0.0 } else { value }
            };
            match (format, rounding) {
                (HalfFormat::F16, Rounding::NearestEven) => binary32(registers, mask, to, high, low, |high, low| {
                    u32::from(f32_to_f16(clamp(high))) << 16 | u32::from(f32_to_f16(clamp(low)))
                }),
                (HalfFormat::BF16, Rounding::NearestEven) => binary32(registers, mask, to, high, low, |high, low| {
                    u32::from(f32_to_bf16(clamp(high))) << 16 | u32::from(f32_to_bf16(clamp(low)))
                }),
                _ => binary32(registers, mask, to, high, low, |high, low| {
                    u32::from(narrow(clamp(high), format, rounding)) << 16
                        | u32::from(narrow(clamp(low), format, rounding))
                }),
            }
        }
        Operation::Float(ref operation) => float_lanes(registers, mask, operation),
        Operation::Half(ref operation) => half_lanes(registers, mask, operation),
        Operation::BitFieldInsert32 { to, field, base, at, length } => {
            let (field, base) = (registers.word(field), registers.word(base));
            let (at, length) = (registers.word(at), registers.word(length));
            let mut result: Words = [0; LANES];
            for lane in 0..LANES {
                result[lane] = integer::insert32(field[lane], base[lane], at[lane], length[lane]);
            }
            registers.set_words(to, mask, &result);
        }
        _ => return execute_rare(operation, registers, mask),
    }
    true
}

/// Operations too rare to be worth compiling twice.
fn execute_rare(operation: &Operation, registers: &mut Registers, mask: u32) -> bool {
    match *operation {
        Operation::BitFieldInsert64 { to, field, base, at, length } => {
            let (field, base) = (*registers.double(field), *registers.double(base));
            let (at, length) = (*registers.word(at), *registers.word(length));
            let result = std::array::from_fn(|lane| integer::insert64(field[lane], base[lane], at[lane], length[lane]));
            registers.set_doubles(to, mask, &result);
        }
        Operation::BitFieldExtract64 { signed, to, a, at, length } => {
            let (a, at, length) = (*registers.double(a), *registers.word(at), *registers.word(length));
            let result = std::array::from_fn(|lane| integer::extract(a[lane], at[lane], length[lane], 64, signed));
            registers.set_doubles(to, mask, &result);
        }
        Operation::Count64 { leading_zeros, to, a } => {
            let a = *registers.double(a);
            let result =
                std::array::from_fn(|lane| if leading_zeros { a[lane].leading_zeros() } else { a[lane].count_ones() });
            registers.set_words(to, mask, &result);
        }
        Operation::MultiplyWide16 { signed, to, a, b, addend } => {
            let (a, b) = (*registers.word(a), *registers.word(b));
            let addend = addend.map_or([0; LANES], |addend| *registers.word(addend));
            let result = std::array::from_fn(|lane| {
                let product = if signed {
                    (i32::from(a[lane] as i16) * i32::from(b[lane] as i16)) as u32
                } else {
                    (a[lane] & 0xffff) * (b[lane] & 0xffff)
                };
                product.wrapping_add(addend[lane])
            });
            registers.set_words(to, mask, &result);
        }
        Operation::Set { ref compare, to, float } => {
            let holds = compare::compare(compare, registers);
            let value = if float { 1f32.to_bits() } else { u32::MAX };
            let result = std::array::from_fn(|lane| if holds >> lane & 1 == 1 { value } else { 0 });
            registers.set_words(to, mask, &result);
        }
        Operation::Pack { to, ref parts, bits } => {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    let part_mask = (1u64 << bits) - 1;
                    let value = parts.iter().enumerate().fold(0, |value, (index, part)| {
                        value | (registers.lane(*part, lane) & part_mask) << (index as u32 * u32::from(bits))
                    });
                    registers.set_lane(to, lane, value);
                }
            }
        }
        Operation::Unpack { from, ref parts, bits } => {
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    let value = registers.lane(from, lane);
                    for (index, part) in parts.iter().enumerate() {
                        if let Some(part) = *part {
                            let piece = value >> (index as u32 * u32::from(bits)) & ((1u64 << bits) - 1);
                            registers.set_lane(part, lane, piece);
                        }
                    }
                }
            }
        }
        Operation::Nothing => {}
        _ => return false,
    }
    true
}

#[inline(always)]
fn apply_ternary32(registers: &mut Registers, mask: u32, op: Ternary32, to: WordRegister, inputs: [WordRegister; 3]) {
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
        _ => rare_ternary32(registers, mask, op, to, inputs),
    }
}

/// Operations too rare to be worth unrolling.
#[inline(never)]
fn rare_ternary32(registers: &mut Registers, mask: u32, op: Ternary32, to: WordRegister, inputs: [WordRegister; 3]) {
    let [x, y, z] = inputs.map(|register| *registers.word(register));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        result[lane] = ternary32_of(op, x[lane], y[lane], z[lane]);
    }
    registers.set_words(to, mask, &result);
}

#[inline(never)]
fn ternary32_of(op: Ternary32, a: u32, b: u32, c: u32) -> u32 {
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

#[inline(never)]
fn rare_binary64(
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

fn narrow16(
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

#[inline(always)]
fn convert_lanes(registers: &mut Registers, mask: u32, conversion: &Conversion, to: LaneRegister, a: LaneRegister) {
    let plain = !conversion.saturate && !conversion.flush && !conversion.relu;
    if plain {
        let nearest = conversion.rounding == Rounding::NearestEven;
        match (conversion.to, conversion.from, to, a) {
            (Scalar::F16, Scalar::F32, LaneRegister::Word(to), LaneRegister::Word(a))
                if nearest && !conversion.integral =>
            {
                return unary32(registers, mask, to, a, |bits| u32::from(f32_to_f16(f32::from_bits(bits))));
            }
            (Scalar::BF16, Scalar::F32, LaneRegister::Word(to), LaneRegister::Word(a))
                if nearest && !conversion.integral =>
            {
                return unary32(registers, mask, to, a, |bits| u32::from(f32_to_bf16(f32::from_bits(bits))));
            }
            (Scalar::F32, Scalar::F16, LaneRegister::Word(to), LaneRegister::Word(a)) if !conversion.integral => {
                return unary32(registers, mask, to, a, |bits| canonical(f16_to_f32(bits as u16)));
            }
            (Scalar::F32, Scalar::BF16, LaneRegister::Word(to), LaneRegister::Word(a)) if !conversion.integral => {
                return unary32(registers, mask, to, a, |bits| bits << 16);
            }
            (Scalar::F32, Scalar::Signed(4), LaneRegister::Word(to), LaneRegister::Word(a)) if nearest => {
                return unary32(registers, mask, to, a, |bits| (bits as i32 as f32).to_bits());
            }
            (Scalar::F32, Scalar::Unsigned(4), LaneRegister::Word(to), LaneRegister::Word(a)) if nearest => {
                return unary32(registers, mask, to, a, |bits| (bits as f32).to_bits());
            }
            (Scalar::Signed(4), Scalar::F32, LaneRegister::Word(to), LaneRegister::Word(a))
                if conversion.rounding == Rounding::Zero =>
            {
                return unary32(registers, mask, to, a, |bits| f32::from_bits(bits) as i32 as u32);
            }
            (Scalar::Signed(8), Scalar::Signed(4), LaneRegister::Double(to), LaneRegister::Word(a)) => {
                let a = registers.word(a);
                let mut result: Doubles = [0; LANES];
                for lane in 0..LANES {
                    result[lane] = i64::from(a[lane] as i32) as u64;
                }
                return registers.set_doubles(to, mask, &result);
            }
            (Scalar::Unsigned(8), Scalar::Unsigned(4), LaneRegister::Double(to), LaneRegister::Word(a)) => {
                let a = registers.word(a);
                let mut result: Doubles = [0; LANES];
                for lane in 0..LANES {
                    result[lane] = u64::from(a[lane]);
                }
                return registers.set_doubles(to, mask, &result);
            }
            (
                Scalar::Unsigned(4) | Scalar::Signed(4),
                Scalar::Unsigned(8) | Scalar::Signed(8),
                LaneRegister::Word(to),
                LaneRegister::Double(a),
            ) => {
                let a = registers.double(a);
                let mut result: Words = [0; LANES];
                for lane in 0..LANES {
                    result[lane] = a[lane] as u32;
                }
                return registers.set_words(to, mask, &result);
            }
            _ => {}
        }
    }
    for lane in 0..LANES {
        if mask >> lane & 1 == 1 {
            let value = convert::convert(conversion, registers.lane(a, lane));
            // A 16-bit register keeps only its own bits; a wider one gets the extended value.
            registers.set_lane(to, lane, value);
        }
    }
}

#[inline(always)]
fn float_lanes(registers: &mut Registers, mask: u32, operation: &FloatOperation) {
    let FloatOperation { kind, rounding, flush: ftz, saturate, to, inputs } = *operation;
    let nearest = rounding == Rounding::NearestEven && !saturate;
    let input = move |bits: u32| if ftz { flush(f32::from_bits(bits)) } else { f32::from_bits(bits) };
    let output = move |value: f32| canonical(if ftz { flush(value) } else { value });
    match kind {
        FloatKind::Exp2 if nearest => unary32(registers, mask, to, inputs[0], |a| output(exp2_approx(input(a)))),
        FloatKind::Add if nearest => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| output(input(a) + input(b)))
        }
        FloatKind::Sub if nearest => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| output(input(a) - input(b)))
        }
        FloatKind::Mul if nearest => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| output(input(a) * input(b)))
        }
        FloatKind::Max if nearest => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| max_f32(input(a), input(b)))
        }
        FloatKind::Min if nearest => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| min_f32(input(a), input(b)))
        }
        FloatKind::Fma if nearest => {
            ternary32(registers, mask, to, inputs, |a, b, c| output(input(a).mul_add(input(b), input(c))));
        }
        _ => {
            let [a, b, c] = inputs.map(|register| *registers.word(register));
            let mut result: Words = [0; LANES];
            for lane in 0..LANES {
                if mask >> lane & 1 == 1 {
                    let values = [f32::from_bits(a[lane]), f32::from_bits(b[lane]), f32::from_bits(c[lane])];
                    result[lane] = float(kind, rounding, ftz, saturate, values);
                }
            }
            registers.set_words(to, mask, &result);
        }
    }
}

fn half_lanes(registers: &mut Registers, mask: u32, operation: &HalfOperation) {
    let HalfOperation { kind, format, packed, flush, saturate, relu, to, inputs } = *operation;
    let [a, b, c] = inputs.map(|register| *registers.word(register));
    let mut result: Words = [0; LANES];
    for lane in 0..LANES {
        if mask >> lane & 1 == 1 {
            let low = half(kind, format, flush, saturate, relu, [a[lane] as u16, b[lane] as u16, c[lane] as u16]);
            let high = if packed {
                let inputs = [(a[lane] >> 16) as u16, (b[lane] >> 16) as u16, (c[lane] >> 16) as u16];
                half(kind, format, flush, saturate, relu, inputs)
            } else {
                0
            };
            result[lane] = u32::from(high) << 16 | u32::from(low);
        }
    }
    registers.set_words(to, mask, &result);
}
