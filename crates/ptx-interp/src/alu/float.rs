//! Floating point as the device does it: directed rounding, flushing, the canonical NaN, approximate functions.

use super::lanes::{binary32, ternary32, unary32};
use crate::decode::{FloatKind, FloatOperation, HalfFormat, HalfOperation, Rounding};
use crate::registers::{LANES, Registers, Words};

/// Every f32 operation that gives a NaN gives this one.
pub(crate) const CANONICAL_NAN: u32 = 0x7fff_ffff;
/// The same for f16 and for bf16.
pub(crate) const CANONICAL_HALF_NAN: u16 = 0x7fff;

#[inline(always)]
pub(crate) fn canonical(value: f32) -> u32 {
    if value.is_nan() { CANONICAL_NAN } else { value.to_bits() }
}

#[inline(always)]
pub(crate) fn flush(value: f32) -> f32 {
    if value.is_subnormal() { 0f32.copysign(value) } else { value }
}

/// IEEE maximum that drops a NaN operand and takes +0 for the larger zero.
#[inline(always)]
pub(crate) fn max_f32(a: f32, b: f32) -> u32 {
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let ordered = if a > b {
        a
    } else if b > a {
        b
    } else {
        equal
    };
    let picked = if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        ordered
    };
    canonical(picked)
}

#[inline(always)]
pub(crate) fn min_f32(a: f32, b: f32) -> u32 {
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let ordered = if a < b {
        a
    } else if b < a {
        b
    } else {
        equal
    };
    let picked = if a.is_nan() {
        b
    } else if b.is_nan() {
        a
    } else {
        ordered
    };
    canonical(picked)
}

/// The exact sum `a + b` as a rounded sum and its error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

/// Rounds the exact value `high + low` (|low| at most half a unit of high) to f32.
fn round_exact(high: f64, low: f64, rounding: Rounding) -> f32 {
    if !high.is_finite() {
        return high as f32;
    }
    // Rounding to odd first makes the second rounding right.
    if rounding == Rounding::NearestEven {
        return round_to_odd(high, low) as f32;
    }
    let nearest = high as f32;
    let residue = if nearest.is_infinite() { f64::from(-nearest) } else { (high - f64::from(nearest)) + low };
    match rounding {
        Rounding::Down if residue < 0.0 => nearest.next_down(),
        Rounding::Up if residue > 0.0 => nearest.next_up(),
        Rounding::Zero if residue < 0.0 && nearest > 0.0 => nearest.next_down(),
        Rounding::Zero if residue > 0.0 && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

fn round_to_odd(high: f64, low: f64) -> f64 {
    if low == 0.0 || high.to_bits() & 1 == 1 {
        high
    } else if (low > 0.0) == (high > 0.0) {
        f64::from_bits(high.to_bits() | 1)
    } else {
        // The exact value lies below in magnitude; its truncation is the neighbour, whose last bit is odd.
        f64::from_bits(high.to_bits() - 1)
    }
}

/// a + b where the product of a multiply-add may stand for a; both exact in f64.
fn sum_rounded(a: f64, b: f64, rounding: Rounding) -> f32 {
    let (high, low) = two_sum(a, b);
    if high == 0.0 {
        // An exact zero: its sign depends on the operands and, where they differ, on the rounding mode.
        let negative = if a == 0.0 && b == 0.0 && a.is_sign_negative() == b.is_sign_negative() {
            a.is_sign_negative()
        } else {
            rounding == Rounding::Down
        };
        return if negative { -0.0 } else { 0.0 };
    }
    if !high.is_finite() {
        return high as f32;
    }
    round_exact(high, low, rounding)
}

fn fma_rounded(a: f32, b: f32, c: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::NearestEven => a.mul_add(b, c),
        _ => sum_rounded(f64::from(a) * f64::from(b), f64::from(c), rounding),
    }
}

/// The product, which f64 holds exactly, rounded towards +∞.
#[inline(always)]
fn product_rounded_up(a: f32, b: f32) -> u32 {
    let exact = f64::from(a) * f64::from(b);
    let nearest = exact as f32;
    let bits = nearest.to_bits();
    // The next number towards +∞: one more if positive, one less if negative.
    let next = if bits & 0x7fff_ffff == 0 { 1 } else { bits.wrapping_add(1 | (bits as i32 >> 31) as u32) };
    let rounded = if f64::from(nearest) < exact { next } else { bits };
    canonical(f32::from_bits(rounded))
}

fn quotient_rounded(a: f32, b: f32, rounding: Rounding) -> f32 {
    let nearest = a / b;
    if rounding == Rounding::NearestEven || !nearest.is_finite() || !a.is_finite() || !b.is_finite() || b == 0.0 {
        return nearest;
    }
    // The remainder a - q·b is exact in f64, and has the sign of the error when divided by b.
    let remainder = f64::from(a) - f64::from(nearest) * f64::from(b);
    adjust(nearest, if b < 0.0 { -remainder } else { remainder }, rounding)
}

fn sqrt_rounded(a: f32, rounding: Rounding) -> f32 {
    let nearest = a.sqrt();
    if rounding == Rounding::NearestEven || !nearest.is_finite() || nearest == 0.0 {
        return nearest;
    }
    adjust(nearest, f64::from(a) - f64::from(nearest) * f64::from(nearest), rounding)
}

fn adjust(nearest: f32, residue: f64, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Down if residue < 0.0 => nearest.next_down(),
        Rounding::Up if residue > 0.0 => nearest.next_up(),
        Rounding::Zero if residue < 0.0 && nearest > 0.0 => nearest.next_down(),
        Rounding::Zero if residue > 0.0 && nearest < 0.0 => nearest.next_up(),
        _ => nearest,
    }
}

/// 2^x with a polynomial, good to about an ulp of f32: the device's own function is not rounded correctly either.
#[inline(always)]
pub(crate) fn exp2_approx(x: f32) -> f32 {
    // Adding this puts the nearest integer into the low bits of the sum.
    const SHIFTER: f64 = 6_755_399_441_055_744.0;
    let clamped = f64::from(x).clamp(-160.0, 160.0);
    let shifted = clamped + SHIFTER;
    let whole = shifted - SHIFTER;
    let t = (clamped - whole) * std::f64::consts::LN_2;
    // Taylor series on [-ln2/2, ln2/2]: the first term left out is below 1e-9.
    let mut sum = 1.0 / 40320.0;
    sum = sum * t + 1.0 / 5040.0;
    sum = sum * t + 1.0 / 720.0;
    sum = sum * t + 1.0 / 120.0;
    sum = sum * t + 1.0 / 24.0;
    sum = sum * t + 1.0 / 6.0;
    sum = sum * t + 0.5;
    sum = sum * t + 1.0;
    sum = sum * t + 1.0;
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    let value = (sum * power) as f32;
    if x.is_nan() { x } else { value }
}

/// A scalar f32 operation with all its modes.
pub(crate) fn float(kind: FloatKind, rounding: Rounding, ftz: bool, saturate: bool, inputs: [f32; 3]) -> u32 {
    let [a, b, c] = if ftz { inputs.map(flush) } else { inputs };
    let value = match kind {
        FloatKind::Add => match rounding {
            Rounding::NearestEven => a + b,
            _ => sum_rounded(f64::from(a), f64::from(b), rounding),
        },
        FloatKind::Sub => match rounding {
            Rounding::NearestEven => a - b,
            _ => sum_rounded(f64::from(a), -f64::from(b), rounding),
        },
        FloatKind::Mul => match rounding {
            Rounding::NearestEven => a * b,
            _ => round_exact(f64::from(a) * f64::from(b), 0.0, rounding),
        },
        FloatKind::Fma => fma_rounded(a, b, c, rounding),
        FloatKind::Div => quotient_rounded(a, b, rounding),
        // The device multiplies by an approximate reciprocal, which vanishes for large divisors.
        FloatKind::DivApprox if b.is_finite() && b.abs() > f32::from_bits(0x7e80_0000) => {
            if a.is_nan() || a.is_infinite() { f32::NAN } else { 0f32.copysign(a) * 1f32.copysign(b) }
        }
        FloatKind::DivApprox => a / b,
        FloatKind::Min => f32::from_bits(min_f32(a, b)),
        FloatKind::Max => f32::from_bits(max_f32(a, b)),
        FloatKind::MinNan if a.is_nan() || b.is_nan() => f32::NAN,
        FloatKind::MaxNan if a.is_nan() || b.is_nan() => f32::NAN,
        FloatKind::MinNan => f32::from_bits(min_f32(a, b)),
        FloatKind::MaxNan => f32::from_bits(max_f32(a, b)),
        FloatKind::Negate => -a,
        FloatKind::Absolute => a.abs(),
        FloatKind::Sqrt => sqrt_rounded(a, rounding),
        FloatKind::Rcp => quotient_rounded(1.0, a, rounding),
        FloatKind::Rsqrt => (1.0 / f64::from(a).sqrt()) as f32,
        FloatKind::Exp2 => exp2_approx(a),
        FloatKind::Log2 => f64::from(a).log2() as f32,
        FloatKind::Sin => f64::from(a).sin() as f32,
        FloatKind::Cos => f64::from(a).cos() as f32,
        FloatKind::Tanh => f64::from(a).tanh() as f32,
    };
    // The device computes the reciprocal square root of ±0 as an infinity of the same sign.
    let value = if kind == FloatKind::Rsqrt && a == 0.0 { f32::INFINITY.copysign(a) } else { value };
    let value = if ftz { flush(value) } else { value };
    if saturate { saturated(value) } else { canonical(value) }
}

/// Clamped to [0, 1]; NaN and -0 become +0.
#[inline(always)]
pub(crate) fn saturated(value: f32) -> u32 {
    if value > 0.0 { value.min(1.0).to_bits() } else { 0 }
}

#[inline(always)]
pub(crate) fn f16_to_f32(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff) << 13;
    // Scaling by 2^112 moves the exponent over and normalises subnormals.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = 0x7f80_0000 | magnitude;
    f32::from_bits(sign | if magnitude >= 0x0f80_0000 { special } else { scaled })
}

#[inline(always)]
pub(crate) fn bf16_to_f32(half: u16) -> f32 {
    f32::from_bits(u32::from(half) << 16)
}

#[inline(always)]
pub(crate) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    // Subnormal results: adding 0.5 aligns the binary point so that the addition itself rounds.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000) as u16;
    let shifted = magnitude.wrapping_sub(0x3800_0000);
    let normal = (shifted.wrapping_add(0xfff + (shifted >> 13 & 1)) >> 13) as u16;
    let finite = if magnitude < 0x3880_0000 { small } else { normal };
    let large = if magnitude >= 0x477f_f000 { 0x7c00 } else { finite };
    if magnitude > 0x7f80_0000 { CANONICAL_HALF_NAN } else { sign | large }
}

#[inline(always)]
pub(crate) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    if value.is_nan() { CANONICAL_HALF_NAN } else { rounded }
}

/// f32 to f16 or bf16 with any rounding.
pub(crate) fn narrow(value: f32, format: HalfFormat, rounding: Rounding) -> u16 {
    let nearest = match format {
        HalfFormat::F16 => f32_to_f16(value),
        HalfFormat::BF16 => f32_to_bf16(value),
    };
    if rounding == Rounding::NearestEven || !value.is_finite() {
        return nearest;
    }
    let back = widen(nearest, format);
    let towards_zero = (nearest & 0x7fff).saturating_sub(1) | nearest & 0x8000;
    let smaller = if nearest & 0x7fff == 0 { nearest } else { towards_zero };
    let larger = nearest.wrapping_add(1);
    let sign = if value < 0.0 { 0x8000 } else { 0 };
    let grow = if nearest & 0x7fff == 0 { sign | 1 } else { larger };
    match rounding {
        Rounding::Zero if back.abs() > value.abs() => smaller,
        Rounding::Down if back > value => {
            if back > 0.0 {
                smaller
            } else {
                grow
            }
        }
        Rounding::Up if back < value => {
            if back < 0.0 {
                smaller
            } else {
                grow
            }
        }
        _ => nearest,
    }
}

#[inline(always)]
pub(crate) fn widen(half: u16, format: HalfFormat) -> f32 {
    match format {
        HalfFormat::F16 => f16_to_f32(half),
        HalfFormat::BF16 => bf16_to_f32(half),
    }
}

/// The nearest f16 or bf16 of an f64, rounded once.
pub(crate) fn narrow_f64(value: f64, format: HalfFormat) -> u16 {
    // Round to odd at f32's precision, which both formats leave at least two bits below their own.
    let single = value as f32;
    let error = value - f64::from(single);
    let odd = if error == 0.0 || !single.is_finite() || single.to_bits() & 1 == 1 {
        single
    } else if single == 0.0 || (error > 0.0) == (single > 0.0) {
        f32::from_bits(single.to_bits() | 1)
    } else {
        f32::from_bits(single.to_bits() - 1)
    };
    match format {
        HalfFormat::F16 => f32_to_f16(odd),
        HalfFormat::BF16 => f32_to_bf16(odd),
    }
}

/// One f16 or bf16 operation.
pub(crate) fn half(
    kind: FloatKind,
    format: HalfFormat,
    ftz: bool,
    saturate: bool,
    relu: bool,
    inputs: [u16; 3],
) -> u16 {
    let subnormal = |half: u16| match format {
        HalfFormat::F16 => half & 0x7c00 == 0,
        HalfFormat::BF16 => half & 0x7f80 == 0,
    };
    let flushed = |half: u16| if ftz && subnormal(half) { half & 0x8000 } else { half };
    let [a, b, c] = inputs.map(|half| widen(flushed(half), format));
    let (x, y, z) = (f64::from(a), f64::from(b), f64::from(c));
    let exact = match kind {
        FloatKind::Add => x + y,
        FloatKind::Sub => x - y,
        FloatKind::Mul => x * y,
        FloatKind::Fma => {
            let (high, low) = two_sum(x * y, z);
            if high.is_finite() { round_to_odd(high, low) } else { high }
        }
        FloatKind::Min | FloatKind::Max | FloatKind::MinNan | FloatKind::MaxNan => {
            let propagate = matches!(kind, FloatKind::MinNan | FloatKind::MaxNan) && (a.is_nan() || b.is_nan());
            let larger = matches!(kind, FloatKind::Max | FloatKind::MaxNan);
            if propagate {
                f64::NAN
            } else {
                f64::from(f32::from_bits(if larger { max_f32(a, b) } else { min_f32(a, b) }))
            }
        }
        FloatKind::Negate => -x,
        FloatKind::Absolute => x.abs(),
        FloatKind::Exp2 => x.exp2(),
        FloatKind::Tanh => x.tanh(),
        // The decoder admits no other.
        _ => f64::NAN,
    };
    let exact = if saturate { if exact > 0.0 { exact.min(1.0) } else { 0.0 } } else { exact };
    let exact = if relu && !(exact > 0.0 || exact.is_nan()) { 0.0 } else { exact };
    if exact.is_nan() { CANONICAL_HALF_NAN } else { flushed(narrow_f64(exact, format)) }
}

#[inline(always)]
pub(super) fn float_lanes(registers: &mut Registers, mask: u32, operation: &FloatOperation) {
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
        // As it is rounded in running maxima.
        FloatKind::Mul if rounding == Rounding::Up && !ftz && !saturate => {
            binary32(registers, mask, to, inputs[0], inputs[1], |a, b| product_rounded_up(input(a), input(b)));
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

pub(super) fn half_lanes(registers: &mut Registers, mask: u32, operation: &HalfOperation) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_rounding_a_product_up_agree() {
        let mut values = vec![0.0, 1.0, 1.5, f32::MAX, f32::MIN_POSITIVE, f32::from_bits(1), f32::INFINITY, f32::NAN];
        values.extend((0..40u32).map(|step| f32::from_bits(0x3f80_0000 ^ step.wrapping_mul(0x9e37_79b9) >> 4)));
        values.extend(values.clone().iter().map(|value| -value));
        for a in &values {
            for b in &values {
                let (fast, slow) =
                    (product_rounded_up(*a, *b), float(FloatKind::Mul, Rounding::Up, false, false, [*a, *b, 0.0]));
                assert_eq!(fast, slow, "{a:e} * {b:e}: {fast:#x} {slow:#x}");
            }
        }
    }
}
