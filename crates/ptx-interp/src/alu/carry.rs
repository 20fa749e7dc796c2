//! Integer arithmetic with the carry flag, which a lane keeps in a predicate.

use crate::decode::{CarryKind, CarryOperation};
use crate::registers::{LANES, Registers};

pub(super) fn carry_lanes(registers: &mut Registers, mask: u32, operation: &CarryOperation) {
    let flags = registers.predicate(operation.flag);
    let mut carries = 0u32;
    for lane in (0..LANES).filter(|lane| mask >> lane & 1 == 1) {
        let inputs = operation.inputs.map(|register| registers.lane(register, lane));
        let carry = operation.takes && flags >> lane & 1 == 1;
        let (value, out) = compute(operation.kind, operation.bytes, inputs, carry);
        registers.set_lane(operation.to, lane, value);
        carries |= u32::from(out) << lane;
    }
    if operation.sets {
        registers.set_predicate(operation.flag, mask, carries);
    }
}

/// The result and the carry (or borrow) out of it.
fn compute(kind: CarryKind, bytes: u8, [a, b, c]: [u64; 3], carry: bool) -> (u64, bool) {
    let bits = u32::from(bytes) * 8;
    let cut = |value: u128| (value & ((1u128 << bits) - 1)) as u64;
    let sum = |a: u64, b: u64| {
        let wide = u128::from(a) + u128::from(b) + u128::from(carry);
        (cut(wide), wide >> bits != 0)
    };
    let signed = |value: u64| if bytes == 8 { i128::from(value as i64) } else { i128::from(value as u32 as i32) };
    match kind {
        CarryKind::Add => sum(a, b),
        CarryKind::Sub => {
            let taken = u128::from(b) + u128::from(carry);
            (cut(u128::from(a).wrapping_sub(taken)), u128::from(a) < taken)
        }
        CarryKind::MadLow => sum(cut(u128::from(a).wrapping_mul(u128::from(b))), c),
        CarryKind::MadHighUnsigned => sum(cut((u128::from(a) * u128::from(b)) >> bits), c),
        CarryKind::MadHighSigned => sum(cut(((signed(a) * signed(b)) >> bits) as u128), c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_wide_arithmetic() {
        let numbers = [0u128, 1, u128::from(u64::MAX), 1 << 64, u128::MAX, 0x1234_5678_9abc_def0_0fed_cba9_8765_4321];
        for a in numbers {
            for b in numbers {
                let halves = |value: u128| [value as u64, (value >> 64) as u64];
                let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
                for (kind, whole) in [(CarryKind::Add, a.wrapping_add(b)), (CarryKind::Sub, a.wrapping_sub(b))] {
                    let (low, carry) = compute(kind, 8, [a0, b0, 0], false);
                    let (high, _) = compute(kind, 8, [a1, b1, 0], carry);
                    assert_eq!(u128::from(high) << 64 | u128::from(low), whole, "{kind:?} {a:#x} {b:#x}");
                }
                let (low, carry) = compute(CarryKind::MadLow, 8, [a0, b0, a1], false);
                let (high, _) = compute(CarryKind::MadHighUnsigned, 8, [a0, b0, b1], carry);
                let whole = (u128::from(a0) * u128::from(b0)).wrapping_add(u128::from(b1) << 64 | u128::from(a1));
                assert_eq!(u128::from(high) << 64 | u128::from(low), whole, "{a:#x} {b:#x}");
            }
        }
        assert_eq!(compute(CarryKind::MadHighSigned, 4, [u64::from(u32::MAX), 2, 5], true), (5, true));
    }
}
