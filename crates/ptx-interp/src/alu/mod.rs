//! Lane-wise operations: one call executes an instruction for a whole warp.
//!
//! The body is compiled twice, once for the instruction set every x86-64 has and once with AVX2 and fused
//! multiply-add, because `f32::mul_add` without the latter is a function call.

pub(crate) mod atomic;
mod carry;
mod compare;
mod convert;
mod doubles;
pub(crate) mod float;
mod integer;
mod lanes;
mod small_float;
mod words;

use crate::decode::{LaneRegister, Operation};
use crate::registers::{Doubles, LANES, Registers, Words};

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
fn execute(operation: &Operation, registers: &mut Registers, mask: u32) -> bool {
    match *operation {
        Operation::Unary32 { op, to, a } => words::unary(registers, mask, op, to, a),
        Operation::Binary32 { op, to, a, b } => words::binary(registers, mask, op, to, a, b),
        Operation::Ternary32 { op, to, a, b, c } => words::ternary(registers, mask, op, to, [a, b, c]),
        Operation::Narrow16 { op, signed, to, a, b } => words::narrow16(registers, mask, op, signed, to, a, b),
        Operation::Unary64 { op, to, a } => doubles::unary(registers, mask, op, to, a),
        Operation::Binary64 { op, to, a, b } => doubles::binary(registers, mask, op, to, a, b),
        Operation::Ternary64 { op, to, a, b, c } => doubles::ternary(registers, mask, op, to, [a, b, c]),
        Operation::Shift64 { op, to, a, amount } => doubles::shift(registers, mask, op, to, a, amount),
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
        Operation::Convert { ref conversion, to, a } => convert::convert_lanes(registers, mask, conversion, to, a),
        Operation::ConvertPair { format, rounding, relu, to, high, low } => {
            convert::convert_pair(registers, mask, format, rounding, relu, to, [high, low]);
        }
        Operation::Float(ref operation) => float::float_lanes(registers, mask, operation),
        Operation::Half(ref operation) => float::half_lanes(registers, mask, operation),
        Operation::BitFieldInsert32 { to, field, base, at, length } => {
            let (field, base) = (registers.word(field), registers.word(base));
            let (at, length) = (registers.word(at), registers.word(length));
            let mut result: Words = [0; LANES];
            for lane in 0..LANES {
                result[lane] = integer::insert32(field[lane], base[lane], at[lane], length[lane]);
            }
            registers.set_words(to, mask, &result);
        }
        // How a bf16 becomes an f32, and a pair of f16 one word.
        Operation::Pack { to: LaneRegister::Word(to), ref parts, bits: 16 } => {
            let [LaneRegister::Word(low), LaneRegister::Word(high)] = **parts else {
                return execute_rare(operation, registers, mask);
            };
            let (low, high) = (registers.word(low), registers.word(high));
            let mut result: Words = [0; LANES];
            for lane in 0..LANES {
                result[lane] = low[lane] & 0xffff | high[lane] << 16;
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
        Operation::Set { ref compare, to, holds } => {
            let lanes = compare::compare(compare, registers);
            let result = std::array::from_fn(|lane| if lanes >> lane & 1 == 1 { holds } else { 0 });
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
        Operation::Carry(ref operation) => carry::carry_lanes(registers, mask, operation),
        Operation::SmallFloat(operation) => small_float::small_float_lanes(registers, mask, operation),
        Operation::Nothing => {}
        _ => return false,
    }
    true
}
