//! Random numbers that are the same on every machine and in every release.
//!
//! An own generator, because a seed in a failing case's text must mean the same data for ever: the standard library's
//! logarithm differs between platforms, and crates change their streams between versions.

/// SplitMix64 (Steele, Lea and Flood 2014): one addition and one mixing a number, any seed is a good seed.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// The polar method makes normal numbers in pairs.
    spare: Option<f64>,
}

impl Random {
    /// The stream of a seed and of what it is for; any change in either gives an unrelated stream.
    pub fn new(seed: u64, stream: &[u64]) -> Self {
        let state = stream.iter().fold(mix(seed), |state, part| mix(state ^ mix(part.wrapping_add(GOLDEN))));
        Self { state, spare: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..limit`; 0 where the limit is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        // The bias of 2⁻⁶⁴·limit does not matter here.
        ((u128::from(self.bits()) * limit as u128) >> 64) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// Standard normal, by Marsaglia's polar method.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        loop {
            let (x, y) = (2.0 * self.uniform() - 1.0, 2.0 * self.uniform() - 1.0);
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                // A square root is exact to the last bit everywhere; a library's logarithm is not.
                let factor = (-2.0 * ln(square) / square).sqrt();
                self.spare = Some(y * factor);
                return x * factor;
            }
        }
    }
}

/// 2⁶⁴ divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// 1, 1/3, 1/5, …: divided once, since most of a test's inputs are normal numbers.
const COEFFICIENTS: [f64; 17] = {
    let mut coefficients = [0.0; 17];
    let mut term = 0;
    while term < coefficients.len() {
        coefficients[term] = 1.0 / (2 * term + 1) as f64;
        term += 1;
    }
    coefficients
};

/// Natural logarithm of a positive normal number, from additions, products and divisions only.
fn ln(value: f64) -> f64 {
    let bits = value.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    // In [1, 2), so that the series below runs over s < 1/3.
    let significand = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    let s = (significand - 1.0) / (significand + 1.0);
    // ln m = 2·(s + s³/3 + s⁵/5 + …); the 17th term is below 2⁻⁵³.
    let series = COEFFICIENTS.iter().rev().fold(0.0, |sum, coefficient| sum * s * s + coefficient);
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_never_change() {
        let mut random = Random::new(7, &[1, 2]);
        insta::assert_snapshot!(
            format!("{:016x} {:016x} {} {:?}", random.bits(), random.bits(), random.below(1000), random.normal()),
            @"7ea0b95290e0e732 5f4dbe6603bf70a5 964 -0.6145270540845661"
        );
    }

    #[test]
    fn the_logarithm_is_the_logarithm() {
        for value in [1e-300, 1e-9, 0.1, 0.5, 0.999_999, 1.0, 1.5, 1.999_999, 2.0, 12345.678] {
            let expected = f64::ln(value);
            assert!((ln(value) - expected).abs() <= 4e-16 * expected.abs().max(1.0), "ln {value}: {}", ln(value));
        }
    }

    #[test]
    fn normal_numbers_are_normal() {
        let mut random = Random::new(1, &[]);
        let numbers: Vec<f64> = (0..40_000).map(|_| random.normal()).collect();
        let moment = |power| numbers.iter().map(|x: &f64| x.powi(power)).sum::<f64>() / numbers.len() as f64;
        // Five standard errors of each moment.
        assert!(moment(1).abs() < 0.025, "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 0.036, "variance {}", moment(2));
        assert!((moment(4) - 3.0).abs() < 0.25, "fourth moment {}", moment(4));
    }

    #[test]
    fn seeds_and_streams_are_unrelated() {
        let first = |seed, stream: &[u64]| Random::new(seed, stream).bits();
        let all = [first(0, &[]), first(1, &[]), first(0, &[0]), first(0, &[1]), first(0, &[0, 1]), first(0, &[1, 0])];
        let distinct: std::collections::BTreeSet<u64> = all.into();
        assert_eq!(distinct.len(), all.len());
    }
}
