//! Conversions to and from floats of 8 bits, and to tf32.

use super::float::{canonical, f16_to_f32, f32_to_f16};
use crate::decode::{SmallFloat, SmallFormat};
use crate::registers::{LANES, Registers};

/// Bits of the mantissa, bias of the exponent, and the largest finite value's bits.
fn shape(format: SmallFormat) -> (i32, i32, u8) {
    match format {
        SmallFormat::E4M3 => (3, 7, 0x7e),
        SmallFormat::E5M2 => (2, 15, 0x7b),
    }
}

/// To the nearest, ties to even; what is too large becomes the largest finite value, as `.satfinite` has it.
fn to_small(value: f32, format: SmallFormat, relu: bool) -> u8 {
    if value.is_nan() {
        return 0x7f;
    }
    if relu && value.is_sign_negative() {
        return 0;
    }
    let (mantissa, bias, largest) = shape(format);
    let sign = u8::from(value.is_sign_negative()) << 7;
    let magnitude = f64::from(value.abs());
    let exponent = if magnitude > 0.0 { (magnitude.log2().floor() as i32).clamp(1 - bias, bias + 1) } else { 1 - bias };
    // The unit at this exponent; a result that is one unit too large rolls over into the next exponent by itself.
    let units = (magnitude / f64::from(exponent - mantissa).exp2()).round_ties_even();
    let bits = f64::from((exponent + bias - 1) << mantissa) + units;
    sign | (bits as u32).min(u32::from(largest)) as u8
}

fn from_small(bits: u8, format: SmallFormat) -> f32 {
    let (mantissa, bias, largest) = shape(format);
    let magnitude = i32::from(bits & 0x7f);
    let sign = if bits & 0x80 != 0 { -1.0 } else { 1.0 };
    if magnitude > i32::from(largest) {
        let infinite = format == SmallFormat::E5M2 && magnitude == i32::from(largest) + 1;
        return if infinite { sign * f32::INFINITY } else { f32::NAN };
    }
    let exponent = (magnitude >> mantissa).max(1);
    let fraction = magnitude - ((exponent - 1) << mantissa);
    sign * fraction as f32 * ((exponent - bias - mantissa) as f32).exp2()
}

fn to_tf32(bits: u32, away: bool, relu: bool) -> u32 {
    let value = f32::from_bits(bits);
    if value.is_nan() {
        return canonical(value);
    }
    if relu && value.is_sign_negative() {
        return 0;
    }
    if value.is_infinite() {
        return bits;
    }
    let half = if away { 0x1000 } else { 0xfff + (bits >> 13 & 1) };
    bits.wrapping_add(half) & !0x1fff
}

pub(super) fn small_float_lanes(registers: &mut Registers, mask: u32, operation: SmallFloat) {
    let pair = |high: u8, low: u8| u32::from(high) << 8 | u32::from(low);
    let (to, result): (_, [u32; LANES]) = match operation {
        SmallFloat::FromSingles { format, relu, to, high, low } => {
            let (high, low) = (registers.word(high), registers.word(low));
            let small = |bits: u32| to_small(f32::from_bits(bits), format, relu);
            (to, std::array::from_fn(|lane| pair(small(high[lane]), small(low[lane]))))
        }
        SmallFloat::FromHalves { format, relu, to, from } => {
            let from = registers.word(from);
            let small = |bits: u16| to_small(f16_to_f32(bits), format, relu);
            (to, std::array::from_fn(|lane| pair(small((from[lane] >> 16) as u16), small(from[lane] as u16))))
        }
        SmallFloat::ToHalves { format, relu, to, from } => {
            let from = registers.word(from);
            let half = |bits: u8| {
                let value = from_small(bits, format);
                u32::from(f32_to_f16(if relu && value < 0.0 { 0.0 } else { value }))
            };
            (to, std::array::from_fn(|lane| half((from[lane] >> 8) as u8) << 16 | half(from[lane] as u8)))
        }
        SmallFloat::Tf32 { away, relu, to, from } => {
            let from = registers.word(from);
            (to, std::array::from_fn(|lane| to_tf32(from[lane], away, relu)))
        }
    };
    registers.set_words(to, mask, &result);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_float_comes_back() {
        for format in [SmallFormat::E4M3, SmallFormat::E5M2] {
            for bits in 0..=u8::MAX {
                let value = from_small(bits, format);
                if value.is_finite() {
                    assert_eq!(to_small(value, format, false), bits, "{format:?} {bits:#x}");
                }
            }
        }
    }

    #[test]
    fn the_nearest_is_chosen() {
        assert_eq!(from_small(0x7e, SmallFormat::E4M3), 448.0);
        assert_eq!(from_small(0x7b, SmallFormat::E5M2), 57344.0);
        assert_eq!(from_small(1, SmallFormat::E4M3), 2f32.powi(-9));
        for format in [SmallFormat::E4M3, SmallFormat::E5M2] {
            let (_, _, largest) = shape(format);
            for bits in 0..largest {
                let (low, high) = (from_small(bits, format), from_small(bits + 1, format));
                let even = if bits % 2 == 0 { bits } else { bits + 1 };
                assert_eq!(to_small((low + high) / 2.0, format, false), even);
                assert_eq!(to_small(low + (high - low) * 0.51, format, false), bits + 1);
            }
            assert_eq!(to_small(f32::INFINITY, format, false), largest);
            assert_eq!(to_small(-1e30, format, false), largest | 0x80);
            assert_eq!(to_small(-1.0, format, true), 0);
            assert_eq!(to_small(f32::NAN, format, false), 0x7f);
        }
        assert_eq!(to_tf32(0x3f80_1000, true, false), 0x3f80_2000);
        assert_eq!(to_tf32(0x3f80_1000, false, false), 0x3f80_0000);
    }
}
