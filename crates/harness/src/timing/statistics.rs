//! Medians, spreads, and what they allow to be said.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Time of one forward pass, from several samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Median of the samples, in microseconds.
    pub median_us: f64,
    /// Lower quartile.
    pub low_us: f64,
    /// Upper quartile.
    pub high_us: f64,
    /// Every sample, in the order taken.
    pub samples_us: Vec<f64>,
}

impl Timing {
    /// Summarises samples in microseconds; at least one.
    ///
    /// # Panics
    /// Where there is no sample.
    pub fn new(samples_us: Vec<f64>) -> Self {
        let mut sorted = samples_us.clone();
        sorted.sort_by(f64::total_cmp);
        let [low_us, median_us, high_us] = [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share));
        Self { median_us, low_us, high_us, samples_us }
    }

    /// Half the distance between the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.high_us - self.low_us) / (2.0 * self.median_us)
    }

    /// Arithmetic a second, for this many operations a pass.
    pub fn tflops(&self, flops: f64) -> f64 {
        flops / self.median_us * 1e-6
    }
}

/// Linear between neighbours, as numpy's default.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let (below, rest) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + rest * (sorted[above] - sorted[below])
}

/// What two timings allow to be said of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Its upper quartile is below the other's lower one, by at least 1 %.
    Faster,
    /// The other way round.
    Slower,
    /// The medians are within 1 % and both spreads are as small.
    Same,
    /// The spreads are too large to tell.
    Ambiguous,
}

/// What can be said of `ours` beside `theirs`.
pub fn compare(ours: &Timing, theirs: &Timing) -> Verdict {
    /// Clocks of one GPU wander by as much between two runs that should be alike.
    const NOISE: f64 = 0.01;

    let clear = |fast: &Timing, slow: &Timing| fast.high_us * (1.0 + NOISE) <= slow.low_us;
    if clear(ours, theirs) {
        Verdict::Faster
    } else if clear(theirs, ours) {
        Verdict::Slower
    } else if (ours.median_us / theirs.median_us - 1.0).abs() <= NOISE && ours.spread().max(theirs.spread()) <= NOISE {
        Verdict::Same
    } else {
        Verdict::Ambiguous
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same",
            Self::Ambiguous => "ambiguous",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_forgets_outliers() {
        let timing = Timing::new(vec![5.0, 5.2, 4.8, 5.1, 90.0]);
        assert_eq!((timing.low_us, timing.median_us, timing.high_us), (5.0, 5.1, 5.2));
        assert!((timing.spread() - 0.2 / 10.2).abs() < 1e-12);
        assert_eq!(Timing::new(vec![3.0]).median_us, 3.0);
        // 0.54 GFLOP in 9 µs.
        assert!((Timing::new(vec![9.0]).tflops(0.54e9) - 60.0).abs() < 1e-9);
    }

    #[test]
    fn verdicts_need_room_between_the_spreads() {
        let timing = |low, median, high| Timing { median_us: median, low_us: low, high_us: high, samples_us: vec![] };
        let ours = timing(9.9, 10.0, 10.1);
        assert_eq!(compare(&ours, &timing(11.0, 11.2, 11.4)), Verdict::Faster);
        assert_eq!(compare(&timing(11.0, 11.2, 11.4), &ours), Verdict::Slower);
        assert_eq!(compare(&ours, &timing(9.95, 10.05, 10.1)), Verdict::Same);
        assert_eq!(compare(&ours, &timing(9.0, 10.5, 12.0)), Verdict::Ambiguous);
        assert_eq!(compare(&ours, &timing(9.0, 10.0, 12.0)), Verdict::Ambiguous);
    }
}
