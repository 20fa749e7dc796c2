//! What an atomic makes of the old value.

use super::float::{bf16_to_f32, canonical, f16_to_f32, max_f32, min_f32, narrow_f64};
use crate::decode::{AtomicKind, HalfFormat, Scalar};

/// The new value of one element.
pub(crate) fn combine(kind: AtomicKind, scalar: Scalar, old: u64, value: u64, replacement: u64) -> u64 {
    match kind {
        AtomicKind::Exchange => value,
        AtomicKind::CompareExchange => {
            if old == value {
                replacement
            } else {
                old
            }
        }
        AtomicKind::And => old & value,
        AtomicKind::Or => old | value,
        AtomicKind::Xor => old ^ value,
        AtomicKind::Increment => {
            if old >= value {
                0
            } else {
                old + 1
            }
        }
        AtomicKind::Decrement => {
            if old == 0 || old > value {
                value
            } else {
                old - 1
            }
        }
        AtomicKind::Add | AtomicKind::Min | AtomicKind::Max => arithmetic(kind, scalar, old, value),
    }
}

fn arithmetic(kind: AtomicKind, scalar: Scalar, old: u64, value: u64) -> u64 {
    match scalar {
        Scalar::F32 => {
            let (a, b) = (f32::from_bits(old as u32), f32::from_bits(value as u32));
            u64::from(match kind {
                AtomicKind::Add => canonical(a + b),
                AtomicKind::Min => min_f32(a, b),
                _ => max_f32(a, b),
            })
        }
        Scalar::F64 => {
            let (a, b) = (f64::from_bits(old), f64::from_bits(value));
            match kind {
                AtomicKind::Add => a + b,
                AtomicKind::Min => a.min(b),
                _ => a.max(b),
            }
            .to_bits()
        }
        Scalar::F16 | Scalar::BF16 => {
            let (format, widen): (_, fn(u16) -> f32) = match scalar {
                Scalar::F16 => (HalfFormat::F16, f16_to_f32),
                _ => (HalfFormat::BF16, bf16_to_f32),
            };
            let (a, b) = (widen(old as u16), widen(value as u16));
            let result = match kind {
                AtomicKind::Add => f64::from(a) + f64::from(b),
                AtomicKind::Min => f64::from(f32::from_bits(min_f32(a, b))),
                _ => f64::from(f32::from_bits(max_f32(a, b))),
            };
            u64::from(narrow_f64(result, format))
        }
        Scalar::Signed(bytes) => {
            let unused = 64 - u32::from(bytes) * 8;
            let (a, b) = ((old << unused) as i64 >> unused, (value << unused) as i64 >> unused);
            match kind {
                AtomicKind::Add => a.wrapping_add(b) as u64,
                AtomicKind::Min => a.min(b) as u64,
                _ => a.max(b) as u64,
            }
        }
        Scalar::Unsigned(_) => match kind {
            AtomicKind::Add => old.wrapping_add(value),
            AtomicKind::Min => old.min(value),
            _ => old.max(value),
        },
    }
}
