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
        // Significant bits, smallest normal, smallest subnormal, largest value.
        let (digits, normal, quantum, largest) = match self {
            Dtype::F16 => (11, 2f64.powi(-14), 2f64.powi(-24), 65504.0),
            Dtype::Bf16 => (8, 2f64.powi(-126), 2f64.powi(-133), 255.0 * 2f64.powi(120)),
        };
        if !value.is_finite() {
            return value;
        }
        if value.abs() < normal {
            // The sum's last bit weighs one quantum, so the addition itself rounds to nearest even.
            let magic = 1.5 * 2f64.powi(52) * quantum;
            return ((value + magic) - magic).copysign(value);
        }
        let dropped = 53 - digits;
        let bits = value.to_bits();
        let even = (bits >> dropped) & 1;
        let rounded = f64::from_bits((bits + ((1 << (dropped - 1)) - 1) + even) & !((1 << dropped) - 1));
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

    #[test]
    fn overflows_from_half_a_step_beyond_the_largest() {
        assert_eq!(Dtype::F16.round(65519.9), 65504.0);
        assert_eq!(Dtype::F16.round(-65520.0), f64::NEG_INFINITY);
        assert_eq!(Dtype::Bf16.round(1e39), f64::INFINITY);
        assert!(Dtype::F16.round(f64::NAN).is_nan());
    }
}
