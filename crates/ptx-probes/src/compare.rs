//! A device's output against the interpreter's.

use crate::{Bound, Probe};

/// Outputs that are as close as the probe's bound asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Words compared.
    pub words: usize,
    /// Words whose bits differ all the same.
    pub different: usize,
    /// The largest distance found, in the bound's own unit: units in the last place, or log2 of the relative
    /// difference of sums. None where all bits are the same.
    pub worst: Option<f64>,
}

/// The first word that is further from the device's than the probe's bound allows.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Disagreement {
    /// Not even the same number of bytes.
    #[error("{name}: the device wrote {device} bytes, the interpreter {here}")]
    Size {
        /// The probe.
        name: String,
        /// Bytes recorded.
        device: usize,
        /// Bytes here.
        here: usize,
    },
    /// A word that is too far off.
    #[error(
        "{name} word {word}: device {device:#010x}, here {here:#010x}, bound {bound:?}; {count} of {words} words are wrong"
    )]
    Word {
        /// The probe.
        name: String,
        /// Index of the first wrong word.
        word: usize,
        /// The device's bits.
        device: u32,
        /// The interpreter's bits.
        here: u32,
        /// What was allowed.
        bound: Bound,
        /// Wrong words.
        count: usize,
        /// All words.
        words: usize,
    },
}

impl Probe {
    /// Holds an output of the interpreter to a device's, word by word.
    ///
    /// # Errors
    /// The first word that breaks the bound.
    pub fn compare(&self, device: &[u8], here: &[u8]) -> Result<Agreement, Disagreement> {
        if device.len() != here.len() {
            return Err(Disagreement::Size { name: self.name.clone(), device: device.len(), here: here.len() });
        }
        let mut agreement = Agreement { words: device.len().div_ceil(4), different: 0, worst: None };
        let mut first = None;
        let mut count = 0;
        for (index, (device, here)) in device.chunks(4).zip(here.chunks(4)).enumerate() {
            let (device, here) = (word(device), word(here));
            if device == here {
                continue;
            }
            agreement.different += 1;
            match self.distance(index, device, here) {
                Some(distance) => agreement.worst = Some(agreement.worst.map_or(distance, |worst| worst.max(distance))),
                None => {
                    count += 1;
                    first.get_or_insert((index, device, here));
                }
            }
        }
        match first {
            None => Ok(agreement),
            Some((word, device, here)) => Err(Disagreement::Word {
                name: self.name.clone(),
                word,
                device,
                here,
                bound: self.bound,
                count,
                words: agreement.words,
            }),
        }
    }

    /// How far two different words are apart; none where that is too far.
    fn distance(&self, index: usize, device: u32, here: u32) -> Option<f64> {
        let (x, y) = (f32::from_bits(device), f32::from_bits(here));
        let ulps = place(device).abs_diff(place(here));
        let difference = (f64::from(x) - f64::from(y)).abs();
        match self.bound {
            Bound::Exact => None,
            _ if x.is_nan() && y.is_nan() => Some(0.0),
            _ if x.is_nan() || y.is_nan() => None,
            Bound::Ulps(most) => (ulps <= u64::from(most)).then_some(ulps as f64),
            Bound::Near { ulps: most, .. } if ulps <= u64::from(most) => Some(ulps as f64),
            // Counted as the bound itself: its own unit would hide how close the rest is.
            Bound::Near { ulps: most, absolute } => (difference <= 2f64.powi(absolute)).then_some(f64::from(most)),
            // Infinities are only equal to themselves, and then their bits are.
            Bound::Sum { .. } if x.is_infinite() || y.is_infinite() => None,
            Bound::Sum { relative } => {
                let magnitude = f64::from(*self.magnitudes.get(index)?);
                // Zeros of either sign are the same sum.
                if difference == 0.0 {
                    return Some(f64::NEG_INFINITY);
                }
                (difference <= magnitude * 2f64.powi(relative)).then(|| (difference / magnitude).log2())
            }
        }
    }
}

/// Up to four bytes, as a device reads them.
fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

/// Ordered like the numbers themselves; both zeros are 0.
fn place(bits: u32) -> i64 {
    let magnitude = i64::from(bits & 0x7fff_ffff);
    if bits >> 31 == 1 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(bound: Bound) -> Probe {
        let mut probe = crate::probes().swap_remove(0);
        probe.bound = bound;
        probe.magnitudes = vec![1024.0];
        probe
    }

    fn agree(bound: Bound, device: f32, here: f32) -> bool {
        probe(bound).compare(&device.to_le_bytes(), &here.to_le_bytes()).is_ok()
    }

    #[test]
    fn every_bound_has_its_edge() {
        let after = |value: f32, ulps: u32| f32::from_bits(value.to_bits() + ulps);
        assert!(!agree(Bound::Exact, 0.0, -0.0));
        assert!(agree(Bound::Ulps(2), 1.0, after(1.0, 2)));
        assert!(!agree(Bound::Ulps(2), 1.0, after(1.0, 3)));
        assert!(agree(Bound::Ulps(2), f32::from_bits(1), -f32::from_bits(1)));
        let near = Bound::Near { ulps: 1, absolute: -22 };
        assert!(agree(near, 1e-8, -1e-8));
        assert!(!agree(near, 1e-8, 3e-7));
        let sum = Bound::Sum { relative: -10 };
        assert!(agree(sum, 5.0, 6.0));
        assert!(!agree(sum, 5.0, 6.001));
        assert!(agree(sum, 0.0, -0.0));
    }

    #[test]
    fn nan_is_equal_to_nan_only() {
        for bound in [Bound::Ulps(u32::MAX), Bound::Near { ulps: u32::MAX, absolute: 9 }, Bound::Sum { relative: 99 }] {
            assert!(agree(bound, f32::NAN, -f32::NAN), "{bound:?}");
            assert!(!agree(bound, f32::NAN, 1.0), "{bound:?}");
            assert!(!agree(bound, 1.0, f32::NAN), "{bound:?}");
        }
        assert!(!agree(Bound::Sum { relative: 99 }, f32::INFINITY, f32::MAX));
        assert!(!agree(Bound::Exact, f32::NAN, -f32::NAN));
    }

    #[test]
    fn another_length_disagrees() {
        let result = probe(Bound::Exact).compare(&[0; 8], &[0; 4]);
        assert!(matches!(result, Err(Disagreement::Size { device: 8, here: 4, .. })), "{result:?}");
    }
}
