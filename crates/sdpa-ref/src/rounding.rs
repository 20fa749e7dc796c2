//! Rounding an f64 to an element type, once.

use sdpa_core::Dtype;

/// `value` rounded once, to nearest even, to a value of `dtype`; beyond the largest one, to infinity.
///
/// Conversions by way of f32 round twice, and a hardware conversion does so on some machines only; the yardstick must be
/// the same everywhere.
pub fn round_once(dtype: Dtype, value: f64) -> f64 {
    // Significant bits, smallest normal, smallest subnormal, largest value.
    let (digits, normal, quantum, largest) = match dtype {
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
                    assert_eq!(round_once(dtype, sign * low), sign * low);
                    assert_eq!(round_once(dtype, sign * (middle - nudge)), sign * low);
                    assert_eq!(round_once(dtype, sign * middle), sign * even);
                    assert_eq!(round_once(dtype, sign * (middle + nudge)), sign * high);
                }
            }
        }
    }

    #[test]
    fn overflows_from_half_a_step_beyond_the_largest() {
        assert_eq!(round_once(Dtype::F16, 65519.9), 65504.0);
        assert_eq!(round_once(Dtype::F16, -65520.0), f64::NEG_INFINITY);
        assert_eq!(round_once(Dtype::Bf16, 1e39), f64::INFINITY);
        assert!(round_once(Dtype::F16, f64::NAN).is_nan());
    }
}
