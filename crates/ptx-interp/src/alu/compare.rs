//! Comparisons, a lane mask at a time.

use super::float::{bf16_to_f32, f16_to_f32, flush};
use crate::decode::{BooleanOperation, Comparison, LaneRegister, Scalar, SetPredicate};
use crate::registers::{Doubles, LANES, Registers};

/// The lanes where a is less than b, equal to it, greater than it; none of them where one is NaN.
type Relation = (u32, u32, u32);

#[inline(always)]
fn relation<T: Copy + PartialOrd>(a: &[T; LANES], b: &[T; LANES]) -> Relation {
    let (mut less, mut equal, mut greater) = (0, 0, 0);
    for lane in 0..LANES {
        less |= u32::from(a[lane] < b[lane]) << lane;
    }
    for lane in 0..LANES {
        equal |= u32::from(a[lane] == b[lane]) << lane;
    }
    for lane in 0..LANES {
        greater |= u32::from(a[lane] > b[lane]) << lane;
    }
    (less, equal, greater)
}

#[inline(always)]
fn select(comparison: Comparison, (less, equal, greater): Relation) -> u32 {
    match comparison {
        Comparison::Equal => equal,
        Comparison::NotEqual => less | greater,
        Comparison::Less => less,
        Comparison::LessEqual => less | equal,
        Comparison::Greater => greater,
        Comparison::GreaterEqual => greater | equal,
        Comparison::EqualUnordered => !(less | greater),
        Comparison::NotEqualUnordered => !equal,
        Comparison::LessUnordered => !(greater | equal),
        Comparison::LessEqualUnordered => !greater,
        Comparison::GreaterUnordered => !(less | equal),
        Comparison::GreaterEqualUnordered => !less,
        Comparison::Number => less | equal | greater,
        Comparison::NotNumber => !(less | equal | greater),
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
    let relation = match (operation.a, operation.b, operation.scalar) {
        (LaneRegister::Word(a), LaneRegister::Word(b), Scalar::Signed(4)) => {
            relation(&map(registers.word(a), |x| x as i32), &map(registers.word(b), |x| x as i32))
        }
        (LaneRegister::Word(a), LaneRegister::Word(b), Scalar::Unsigned(4)) => {
            relation(registers.word(a), registers.word(b))
        }
        (LaneRegister::Word(a), LaneRegister::Word(b), Scalar::F32) if !operation.flush => {
            relation(&map(registers.word(a), f32::from_bits), &map(registers.word(b), f32::from_bits))
        }
        _ => rare(operation, registers),
    };
    select(operation.comparison, relation)
}

/// Types that are compared seldom: integers as 64 bits, floats as f64, both of which hold every value.
#[inline(never)]
fn rare(operation: &SetPredicate, registers: &Registers) -> Relation {
    let lanes = |register| -> [u64; LANES] { std::array::from_fn(|lane| registers.lane(register, lane)) };
    let (a, b): (Doubles, Doubles) = (lanes(operation.a), lanes(operation.b));
    match operation.scalar {
        Scalar::Signed(bytes) => {
            let unused = 64 - u32::from(bytes) * 8;
            let extend = |x: u64| (x << unused) as i64 >> unused;
            relation(&map(&a, extend), &map(&b, extend))
        }
        Scalar::Unsigned(bytes) => {
            let unused = 64 - u32::from(bytes) * 8;
            let extend = |x: u64| x << unused >> unused;
            relation(&map(&a, extend), &map(&b, extend))
        }
        scalar => {
            let widen = |bits: u64| match scalar {
                Scalar::F16 => f64::from(f16_to_f32(bits as u16)),
                Scalar::BF16 => f64::from(bf16_to_f32(bits as u16)),
                Scalar::F64 => f64::from_bits(bits),
                _ => f64::from(flush(f32::from_bits(bits as u32))),
            };
            relation(&map(&a, widen), &map(&b, widen))
        }
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
