//! Element types, and rounding to them.

use std::fmt;

use half::{bf16, f16};

/// Element type of query, key, value and output. Scores and statistics are always f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE binary16: 11 significant bits, largest value 65504.
    F16,
    /// bfloat16: 8 significant bits, the range of f32.
    Bf16,
}

impl Dtype {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        2
    }

    /// Unit roundoff: the largest relative error of rounding a normal number to nearest.
    pub const fn unit_roundoff(self) -> f64 {
        match self {
            Self::F16 => 1.0 / 2048.0,
            Self::Bf16 => 1.0 / 256.0,
        }
    }

    /// Largest absolute error of rounding a number in the subnormal range: half of the smallest subnormal.
    pub fn subnormal_roundoff(self) -> f64 {
        match self {
            Self::F16 => 2f64.powi(-25),
            Self::Bf16 => 2f64.powi(-134),
        }
    }

    /// `value` rounded once, to nearest even, to a value of this type; beyond the largest one, to infinity.
    ///
    /// Conversions by way of f32 round twice, and a hardware conversion does so on some machines only; random inputs
    /// and the yardstick must be the same everywhere.
    pub fn round(self, value: f64) -> f64 {
        let (rounded, largest) = match self {
            Dtype::F16 => (round_to(value, 11, -14), 65504.0),
            Dtype::Bf16 => (round_to(value, 8, -126), 255.0 * 2f64.powi(120)),
        };
        if rounded.abs() > largest { f64::INFINITY.copysign(value) } else { rounded }
    }

    /// The bits of `value`, rounded as by [`round`](Self::round).
    pub fn encode(self, value: f64) -> u16 {
        let value = self.round(value);
        match self {
            Self::F16 => f16::from_f64(value).to_bits(),
            Self::Bf16 => bf16::from_f64(value).to_bits(),
        }
    }

    /// The exact value of an element's bits.
    pub fn decode(self, bits: u16) -> f64 {
        match self {
            Self::F16 => f16::from_bits(bits).to_f64(),
            Self::Bf16 => bf16::from_bits(bits).to_f64(),
        }
    }

    /// Lower-case name, as in kernel file names and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }
}

/// `value` rounded to nearest even to so many significant bits, as far as the range is without end; numbers below
/// `2^normal` have the smallest normal number's steps.
fn round_to(value: f64, digits: u64, normal: i32) -> f64 {
    if !value.is_finite() {
        return value;
    }
    if value.abs() < 2f64.powi(normal) {
        // The sum's last bit weighs one step, so the addition itself rounds to nearest even.
        let magic = 1.5 * 2f64.powi(52) * 2f64.powi(normal + 1 - digits as i32);
        return ((value + magic) - magic).copysign(value);
    }
    let dropped = 53 - digits;
    let bits = value.to_bits();
    let even = (bits >> dropped) & 1;
    f64::from_bits((bits + ((1 << (dropped - 1)) - 1) + even) & !((1 << dropped) - 1))
}

/// How an element of a tensor lies in memory: as the problem's dtype, or, of keys and values, in 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ElementType {
    /// The problem's dtype.
    Dtype(Dtype),
    /// OCP FP8 E4M3 (`torch.float8_e4m3fn`): 4 significant bits, largest value 448, smallest 2⁻⁹, no infinity, and NaN in
    /// 0x7f and 0xff alone.
    E4m3,
}

impl ElementType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Dtype(dtype) => dtype.bytes(),
            Self::E4m3 => 1,
        }
    }

    /// The bits of `value`, rounded once to nearest even; in e4m3 what is beyond 448 becomes 448, as caches are filled, and
    /// the bits are the lower eight.
    pub fn encode(self, value: f64) -> u16 {
        /// Exponent of the smallest normal number.
        const NORMAL: i32 = -6;
        const NAN: u16 = 0x7f;
        let Self::E4m3 = self else { return self.dtype().map_or(NAN, |dtype| dtype.encode(value)) };
        let sign = u16::from(value.is_sign_negative()) << 7;
        if value.is_nan() {
            return sign | NAN;
        }
        let magnitude = round_to(value.abs().min(448.0), 4, NORMAL);
        if magnitude < 2f64.powi(NORMAL) {
            return sign | (magnitude * 512.0) as u16;
        }
        let bits = magnitude.to_bits();
        let exponent = (bits >> 52) as i32 - 1023 - NORMAL + 1;
        sign | (exponent as u16) << 3 | ((bits >> 49) & 7) as u16
    }

    /// The exact value of an element's bits, in e4m3 of the lower eight.
    pub fn decode(self, bits: u16) -> f64 {
        if let Self::Dtype(dtype) = self {
            return dtype.decode(bits);
        }
        let (exponent, fraction) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
        let magnitude = match (bits & 0x7f, exponent) {
            (0x7f, _) => f64::NAN,
            (_, 0) => fraction * 2f64.powi(-6),
            _ => (1.0 + fraction) * 2f64.powi(exponent - 7),
        };
        if bits & 0x80 == 0 { magnitude } else { -magnitude }
    }

    /// The dtype, if it is one.
    pub const fn dtype(self) -> Option<Dtype> {
        match self {
            Self::Dtype(dtype) => Some(dtype),
            Self::E4m3 => None,
        }
    }

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dtype(dtype) => dtype.name(),
            Self::E4m3 => "e4m3",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Between any two neighbours: just below the middle goes down, just above goes up, the middle to the even one.
    #[test]
    fn rounds_to_nearest_even_between_all_neighbours() {
        for (dtype, last_finite) in [(Dtype::F16, 0x7bff_u16), (Dtype::Bf16, 0x7f7f)] {
            for bits in 0..last_finite {
                let (low, high) = (dtype.decode(bits), dtype.decode(bits + 1));
                let middle = low + (high - low) / 2.0;
                let even = if bits.is_multiple_of(2) { low } else { high };
                let nudge = (high - low) * 1e-6;
                for sign in [1.0, -1.0] {
                    assert_eq!(dtype.round(sign * low), sign * low);
                    assert_eq!(dtype.round(sign * (middle - nudge)), sign * low);
                    assert_eq!(dtype.round(sign * middle), sign * even);
                    assert_eq!(dtype.round(sign * (middle + nudge)), sign * high);
                }
            }
        }
    }

    /// Every bit pattern, by its meaning in the OCP specification, and the way back; between neighbours as in the other types.
    #[test]
    fn e4m3_is_what_the_specification_says() {
        let e4m3 = ElementType::E4m3;
        for (bits, value) in [(0x00, 0.0), (0x01, 2f64.powi(-9)), (0x07, 7.0 / 512.0), (0x08, 2f64.powi(-6))]
            .into_iter()
            .chain([(0x38, 1.0), (0x3c, 1.5), (0x78, 256.0), (0x7e, 448.0)])
        {
            assert_eq!((e4m3.decode(bits), e4m3.decode(bits | 0x80)), (value, -value));
        }
        assert!(e4m3.decode(0x7f).is_nan() && e4m3.decode(0xff).is_nan());
        assert!(e4m3.decode(0x80).is_sign_negative() && e4m3.encode(-0.0) == 0x80);
        for bits in (0..=0xff).filter(|bits| bits & 0x7f != 0x7f) {
            assert_eq!(e4m3.encode(e4m3.decode(bits)), bits);
        }
        for bits in 0..0x7e {
            let (low, high) = (e4m3.decode(bits), e4m3.decode(bits + 1));
            let (middle, nudge) = (low + (high - low) / 2.0, (high - low) * 1e-6);
            assert!(high > low);
            assert_eq!(e4m3.encode(middle), bits + bits % 2);
            assert_eq!([middle - nudge, middle + nudge].map(|value| e4m3.encode(value)), [bits, bits + 1]);
        }
        assert_eq!([1e9, f64::INFINITY, -449.0, f64::NAN].map(|value| e4m3.encode(value)), [0x7e, 0x7e, 0xfe, 0x7f]);
        assert_eq!(ElementType::Dtype(Dtype::Bf16).decode(0x3f80), 1.0);
    }

    #[test]
    fn overflows_from_half_a_step_beyond_the_largest() {
        assert_eq!(Dtype::F16.round(65519.9), 65504.0);
        assert_eq!(Dtype::F16.round(-65520.0), f64::NEG_INFINITY);
        assert_eq!(Dtype::Bf16.round(1e39), f64::INFINITY);
        assert!(Dtype::F16.round(f64::NAN).is_nan());
    }
}
