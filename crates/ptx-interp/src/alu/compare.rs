//! Comparisons, a lane mask at a time.

use super::float::{bf16_to_f32, f16_to_f32, flush};
use crate::decode::{BooleanOperation, Comparison, LaneRegister, Scalar, SetPredicate};
use crate::registers::{LANES, Registers, Words};

#[inline(always)]
fn lanes<T: Copy>(a: &[T; LANES], b: &[T; LANES], test: impl Fn(T, T) -> bool) -> u32 {
    let mut result = 0;
    for lane in 0..LANES {
        result |= u32::from(test(a[lane], b[lane])) << lane;
    }
    result
}

#[inline(always)]
fn integers<T: Copy + Ord>(comparison: Comparison, a: &[T; LANES], b: &[T; LANES]) -> u32 {
    match comparison {
        Comparison::Equal | Comparison::EqualUnordered => lanes(a, b, |a, b| a == b),
        Comparison::NotEqual | Comparison::NotEqualUnordered => lanes(a, b, |a, b| a != b),
        Comparison::Less | Comparison::LessUnordered => lanes(a, b, |a, b| a < b),
        Comparison::LessEqual | Comparison::LessEqualUnordered => lanes(a, b, |a, b| a <= b),
        Comparison::Greater | Comparison::GreaterUnordered => lanes(a, b, |a, b| a > b),
        Comparison::GreaterEqual | Comparison::GreaterEqualUnordered => lanes(a, b, |a, b| a >= b),
        Comparison::Number => u32::MAX,
        Comparison::NotNumber => 0,
    }
}

/// The negations are deliberate: a comparison with NaN is false, its unordered form true.
#[inline(always)]
#[allow(clippy::neg_cmp_op_on_partial_ord)]
fn floats<T: Copy + PartialOrd>(comparison: Comparison, a: &[T; LANES], b: &[T; LANES]) -> u32 {
    match comparison {
        Comparison::Equal => lanes(a, b, |a, b| a == b),
        Comparison::NotEqual => lanes(a, b, |a, b| a < b || a > b),
        Comparison::Less => lanes(a, b, |a, b| a < b),
        Comparison::LessEqual => lanes(a, b, |a, b| a <= b),
        Comparison::Greater => lanes(a, b, |a, b| a > b),
        Comparison::GreaterEqual => lanes(a, b, |a, b| a >= b),
        Comparison::EqualUnordered => lanes(a, b, |a, b| !(a < b || a > b)),
        Comparison::NotEqualUnordered => lanes(a, b, |a, b| a != b),
        Comparison::LessUnordered => lanes(a, b, |a, b| !(a >= b)),
        Comparison::LessEqualUnordered => lanes(a, b, |a, b| !(a > b)),
        Comparison::GreaterUnordered => lanes(a, b, |a, b| !(a <= b)),
        Comparison::GreaterEqualUnordered => lanes(a, b, |a, b| !(a < b)),
        Comparison::Number => lanes(a, b, |a, b| a.partial_cmp(&b).is_some()),
        Comparison::NotNumber => lanes(a, b, |a, b| a.partial_cmp(&b).is_none()),
    }
}

#[inline(always)]
fn map<T: Copy + Default, U: Copy>(source: &[U; LANES], convert: impl Fn(U) -> T) -> [T; LANES] {
    let mut result = [T::default(); LANES];
    for lane in 0..LANES {
        result[lane] = convert(source[lane]);
    }
    result
}

/// The lanes for which a comparison holds, before it is combined with a predicate.
#[inline(always)]
pub(super) fn compare(operation: &SetPredicate, registers: &Registers) -> u32 {
    let comparison = operation.comparison;
    match (operation.a, operation.b) {
        (LaneRegister::Word(a), LaneRegister::Word(b)) => {
            let (a, b): (&Words, &Words) = (registers.word(a), registers.word(b));
            match operation.scalar {
                Scalar::Signed(4) => integers(comparison, &map(a, |x| x as i32), &map(b, |x| x as i32)),
                Scalar::Unsigned(4) => integers(comparison, a, b),
                Scalar::Signed(2) => integers(comparison, &map(a, |x| x as i16), &map(b, |x| x as i16)),
                Scalar::Unsigned(2) => integers(comparison, &map(a, |x| x as u16), &map(b, |x| x as u16)),
                Scalar::Signed(_) => integers(comparison, &map(a, |x| x as i8), &map(b, |x| x as i8)),
                Scalar::Unsigned(_) => integers(comparison, &map(a, |x| x as u8), &map(b, |x| x as u8)),
                Scalar::F16 => floats(comparison, &map(a, |x| f16_to_f32(x as u16)), &map(b, |x| f16_to_f32(x as u16))),
                Scalar::BF16 => floats(comparison, &map(a, |x| bf16_to_f32(x as u16)), &map(b, |x| bf16_to_f32(x as u16))),
                _ if operation.flush => {
                    floats(comparison, &map(a, |x| flush(f32::from_bits(x))), &map(b, |x| flush(f32::from_bits(x))))
                }
                _ => floats(comparison, &map(a, f32::from_bits), &map(b, f32::from_bits)),
            }
        }
        (LaneRegister::Double(a), LaneRegister::Double(b)) => {
            let (a, b) = (registers.double(a), registers.double(b));
            match operation.scalar {
                Scalar::F64 => floats(comparison, &map(a, f64::from_bits), &map(b, f64::from_bits)),
                Scalar::Signed(_) => integers(comparison, &map(a, |x| x as i64), &map(b, |x| x as i64)),
                _ => integers(comparison, a, b),
            }
        }
        // The decoder gives both operands the width of the type.
        _ => 0,
    }
}

#[inline(always)]
pub(super) fn combine(op: BooleanOperation, a: u32, b: u32) -> u32 {
    match op {
        BooleanOperation::And => a & b,
        BooleanOperation::Or => a | b,
        BooleanOperation::Xor => a ^ b,
        BooleanOperation::Not => !a,
        BooleanOperation::Move => a,
    }
}

#[inline(always)]
pub(super) fn set_predicate(operation: &SetPredicate, registers: &mut Registers, mask: u32) {
    let mut result = compare(operation, registers);
    let mut complement = !result;
    if let Some((op, predicate, negated)) = operation.combine {
        let other = registers.holds((predicate, negated));
        result = combine(op, result, other);
        complement = combine(op, complement, other);
    }
    if let Some(to) = operation.to {
        registers.set_predicate(to, mask, result);
    }
    if let Some(to) = operation.complement {
        registers.set_predicate(to, mask, complement);
    }
}
