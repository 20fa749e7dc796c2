//! `cvt` between any two scalar types.

use super::float::{canonical, f16_to_f32, f32_to_bf16, f32_to_f16, flush, narrow, narrow_f64};
use super::lanes::{binary32, unary32};
use crate::decode::{Conversion, HalfFormat, LaneRegister, Rounding, Scalar, WordRegister};
use crate::registers::{Doubles, LANES, Registers, Words};

enum Value {
    Integer(i128),
    Float(f64),
}

/// One value; bits in, bits out (zero-extended unless the target is signed, whose bits are extended over 64).
pub(crate) fn convert(conversion: &Conversion, bits: u64) -> u64 {
    let value = match conversion.from {
        Scalar::Unsigned(bytes) => Value::Integer(i128::from(truncate(bits, bytes))),
        Scalar::Signed(bytes) => Value::Integer(i128::from(sign_extend(bits, bytes))),
        Scalar::F16 => Value::Float(f64::from(super::float::f16_to_f32(bits as u16))),
        Scalar::BF16 => Value::Float(f64::from(super::float::bf16_to_f32(bits as u16))),
        Scalar::F32 => {
            let single = f32::from_bits(bits as u32);
            Value::Float(f64::from(if conversion.flush { flush(single) } else { single }))
        }
        Scalar::F64 => Value::Float(f64::from_bits(bits)),
    };
    match (conversion.to, value) {
        (Scalar::Unsigned(bytes), Value::Integer(value)) => {
            let value = if conversion.saturate { value.clamp(0, unsigned_max(bytes)) } else { value };
            truncate(value as u64, bytes)
        }
        (Scalar::Signed(bytes), Value::Integer(value)) => {
            let limit = 1i128 << (u32::from(bytes) * 8 - 1);
            let value = if conversion.saturate { value.clamp(-limit, limit - 1) } else { value };
            sign_extend(value as u64, bytes) as u64
        }
        (Scalar::Unsigned(bytes), Value::Float(value)) => {
            if value.is_nan() {
                return nan_as_integer(conversion);
            }
            truncate((whole(value, conversion.rounding) as i128).clamp(0, unsigned_max(bytes)) as u64, bytes)
        }
        (Scalar::Signed(bytes), Value::Float(value)) => {
            if value.is_nan() {
                return nan_as_integer(conversion);
            }
            let limit = 1i128 << (u32::from(bytes) * 8 - 1);
            (whole(value, conversion.rounding) as i128).clamp(-limit, limit - 1) as u64
        }
        (_, Value::Integer(value)) => integer_to_float(conversion, value),
        (_, Value::Float(value)) => float_to_float(conversion, value),
    }
}

fn truncate(bits: u64, bytes: u8) -> u64 {
    if bytes >= 8 { bits } else { bits & ((1 << (bytes * 8)) - 1) }
}

fn sign_extend(bits: u64, bytes: u8) -> i64 {
    let unused = 64 - u32::from(bytes.min(8)) * 8;
    (bits << unused) as i64 >> unused
}

fn unsigned_max(bytes: u8) -> i128 {
    (1i128 << (u32::from(bytes) * 8)) - 1
}

/// Zero, except that 64-bit types on either side give the most negative value.
fn nan_as_integer(conversion: &Conversion) -> u64 {
    if conversion.from == Scalar::F64 || conversion.to.bytes() == 8 {
        1 << (u32::from(conversion.to.bytes()) * 8 - 1)
    } else {
        0
    }
}

fn whole(value: f64, rounding: Rounding) -> f64 {
    match rounding {
        Rounding::NearestEven => value.round_ties_even(),
        Rounding::Zero => value.trunc(),
        Rounding::Down => value.floor(),
        Rounding::Up => value.ceil(),
    }
}

fn integer_to_float(conversion: &Conversion, value: i128) -> u64 {
    match conversion.to {
        Scalar::F64 => {
            directed(value as f64, |nearest| value - nearest as i128, conversion.rounding, f64::next_down, f64::next_up)
                .to_bits()
        }
        Scalar::F32 => {
            let nearest = value as f32;
            let single =
                directed(nearest, |nearest| value - nearest as i128, conversion.rounding, f32::next_down, f32::next_up);
            u64::from(single.to_bits())
        }
        // Every i64 that does not overflow to infinity is exact or rounds once through f64's 53 bits to odd.
        Scalar::F16 => u64::from(narrow_f64(value as f64, HalfFormat::F16)),
        _ => u64::from(narrow_f64(value as f64, HalfFormat::BF16)),
    }
}

fn directed<F: Copy + PartialOrd + Default>(
    nearest: F,
    residue: impl Fn(F) -> i128,
    rounding: Rounding,
    down: fn(F) -> F,
    up: fn(F) -> F,
) -> F {
    let residue = residue(nearest);
    let zero = F::default();
    match rounding {
        Rounding::Down if residue < 0 => down(nearest),
        Rounding::Up if residue > 0 => up(nearest),
        Rounding::Zero if residue < 0 && nearest > zero => down(nearest),
        Rounding::Zero if residue > 0 && nearest < zero => up(nearest),
        _ => nearest,
    }
}

fn float_to_float(conversion: &Conversion, value: f64) -> u64 {
    let value = if conversion.integral { whole(value, conversion.rounding) } else { value };
    let value = if conversion.saturate { if value > 0.0 { value.min(1.0) } else { 0.0 } } else { value };
    let value = if conversion.relu && !(value > 0.0 || value.is_nan()) { 0.0 } else { value };
    let rounding = if conversion.integral { Rounding::NearestEven } else { conversion.rounding };
    match conversion.to {
        Scalar::F64 => value.to_bits(),
        Scalar::F32 => {
            let nearest = value as f32;
            let error = value - f64::from(nearest);
            let single = match rounding {
                Rounding::Down if error < 0.0 => nearest.next_down(),
                Rounding::Up if error > 0.0 => nearest.next_up(),
                Rounding::Zero if error < 0.0 && nearest > 0.0 => nearest.next_down(),
                Rounding::Zero if error > 0.0 && nearest < 0.0 => nearest.next_up(),
                _ => nearest,
            };
            let single = if conversion.flush { flush(single) } else { single };
            // Widening keeps the payload of a NaN's top bits on the device; the canonical NaN is what it stores.
            u64::from(super::float::canonical(single))
        }
        Scalar::F16 | Scalar::BF16 => {
            let format = if conversion.to == Scalar::F16 { HalfFormat::F16 } else { HalfFormat::BF16 };
            if value.is_nan() {
                return u64::from(super::float::CANONICAL_HALF_NAN);
            }
            let single = value as f32;
            if rounding != Rounding::NearestEven && f64::from(single) == value {
                u64::from(super::float::narrow(single, format, rounding))
            } else {
                u64::from(narrow_f64(value, format))
            }
        }
        // Integers are handled by the caller.
        _ => 0,
    }
}

#[inline(always)]
pub(super) fn convert_lanes(
    registers: &mut Registers,
    mask: u32,
    conversion: &Conversion,
    to: LaneRegister,
    a: LaneRegister,
) {
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
            let value = convert(conversion, registers.lane(a, lane));
            // A 16-bit register keeps only its own bits; a wider one gets the extended value.
            registers.set_lane(to, lane, value);
        }
    }
}

/// Two floats to the halves of one register.
#[inline(always)]
pub(super) fn convert_pair(
    registers: &mut Registers,
    mask: u32,
    format: HalfFormat,
    rounding: Rounding,
    relu: bool,
    to: WordRegister,
    [high, low]: [WordRegister; 2],
) {
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
            u32::from(narrow(clamp(high), format, rounding)) << 16 | u32::from(narrow(clamp(low), format, rounding))
        }),
    }
}
