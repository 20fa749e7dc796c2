//! Medians, spreads, and what they allow to be said.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one turn says of a forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How long a pass took, in microseconds.
    pub us: f64,
    /// What a pass cost, in joules; none in short turns, or without a counter.
    pub joules: Option<f64>,
}

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
    /// Median of what a pass cost, in joules; none if not more than half of the samples say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
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
        Self { median_us, low_us, high_us, samples_us, joules: None }
    }

    /// Summarises samples; at least one.
    ///
    /// # Panics
    /// Where there is no sample.
    pub fn of(samples: Vec<Sample>) -> Self {
        let mut joules: Vec<f64> = samples.iter().filter_map(|sample| sample.joules).collect();
        joules.sort_by(f64::total_cmp);
        let enough = 2 * joules.len() > samples.len();
        let joules = enough.then(|| quantile(&joules, 0.5));
        Self { joules, ..Self::new(samples.iter().map(|sample| sample.us).collect()) }
    }

    /// Median and quartiles without the samples.
    pub fn quartiles(&self) -> Quartiles {
        Quartiles { low_us: self.low_us, median_us: self.median_us, high_us: self.high_us }
    }

    /// Arithmetic per second, for this many operations per pass.
    pub fn tflops(&self, flops: f64) -> f64 {
        flops / self.median_us * 1e-6
    }
}

/// A median and its spread, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// Lower quartile.
    pub low_us: f64,
    /// Median.
    pub median_us: f64,
    /// Upper quartile.
    pub high_us: f64,
}

impl Quartiles {
    /// Half the distance between the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.high_us - self.low_us) / (2.0 * self.median_us)
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
    /// Its upper quartile is below the other's lower one, by at least 3 % and 0.4 µs.
    Faster,
    /// The other way round.
    Slower,
    /// The medians are within 1 % and both spreads are as small.
    Same,
    /// Between the two, or the spreads are too large to tell.
    Ambiguous,
}

/// What can be said of `ours` beside `theirs`.
///
/// Two runs of the same kernels may differ by more than the spread within each: clocks, and where in memory code and
/// tensors came to lie. So there is room between what counts as the same and what counts as a difference, and a ratio that
/// wanders by 2 % from run to run moves to `Ambiguous` and back, never from one claim to another. Of kernels of a few
/// microseconds 2 % is too little: two runs on an H200 were up to 0.27 µs apart where ours and 0.42 where peers took less
/// than 10 µs, and without the least difference in time 5 of 522 verdicts moved.
pub fn compare(ours: &Quartiles, theirs: &Quartiles) -> Verdict {
    const SAME: f64 = 0.01;
    const CLEAR: f64 = 0.03;
    const CLEAR_US: f64 = 0.4;

    let clear = |fast: &Quartiles, slow: &Quartiles| fast.high_us + (CLEAR * fast.high_us).max(CLEAR_US) <= slow.low_us;
    if clear(ours, theirs) {
        Verdict::Faster
    } else if clear(theirs, ours) {
        Verdict::Slower
    } else if (ours.median_us / theirs.median_us - 1.0).abs() <= SAME && ours.spread().max(theirs.spread()) <= SAME {
        Verdict::Same
    } else {
        Verdict::Ambiguous
    }
}

impl Verdict {
    /// What several sittings allow to be said together; none of none. Faster, or the same, is what each of them must say.
    /// Slower is what one says and none denies. Everything else is ambiguous.
    pub fn of_all(said: impl IntoIterator<Item = Self>) -> Option<Self> {
        let said: Vec<Self> = said.into_iter().collect();
        let first = *said.first()?;
        let any = |verdict| said.contains(&verdict);
        Some(match first {
            unanimous if said.iter().all(|verdict| *verdict == unanimous) => unanimous,
            _ if any(Self::Slower) && !any(Self::Faster) => Self::Slower,
            _ => Self::Ambiguous,
        })
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
        assert!((timing.quartiles().spread() - 0.2 / 10.2).abs() < 1e-12);
        assert_eq!(Timing::new(vec![3.0]).median_us, 3.0);
        // 0.54 GFLOP in 9 µs.
        assert!((Timing::new(vec![9.0]).tflops(0.54e9) - 60.0).abs() < 1e-9);
    }

    #[test]
    fn energy_is_a_median_that_most_samples_have_a_part_in() {
        let of = |joules: &[Option<f64>]| {
            Timing::of(joules.iter().map(|joules| Sample { us: 9.0, joules: *joules }).collect()).joules
        };
        assert_eq!(of(&[Some(1.0), Some(9.0), Some(2.0)]), Some(2.0));
        assert_eq!(of(&[None, Some(3.0), Some(1.0)]), Some(2.0));
        assert_eq!([of(&[None, Some(3.0)]), of(&[None; 3])], [None; 2]);
    }

    #[test]
    fn verdicts_need_room_between_the_spreads() {
        let timing = |low_us, median_us, high_us| Quartiles { low_us, median_us, high_us };
        let ours = timing(9.9, 10.0, 10.1);
        assert_eq!(compare(&ours, &timing(11.0, 11.2, 11.4)), Verdict::Faster);
        assert_eq!(compare(&timing(11.0, 11.2, 11.4), &ours), Verdict::Slower);
        assert_eq!(compare(&ours, &timing(9.95, 10.05, 10.1)), Verdict::Same);
        assert_eq!(compare(&ours, &timing(9.0, 10.5, 12.0)), Verdict::Ambiguous);
        assert_eq!(compare(&ours, &timing(9.0, 10.0, 12.0)), Verdict::Ambiguous);
    }

    #[test]
    fn a_claim_is_what_every_sitting_says() {
        use Verdict::{Ambiguous, Faster, Same, Slower};
        let of = |said: &[Verdict]| Verdict::of_all(said.iter().copied());
        assert_eq!(of(&[]), None);
        for verdict in [Faster, Same, Ambiguous, Slower] {
            assert_eq!(of(&[verdict; 3]), Some(verdict));
        }
        for said in
            [[Faster, Faster, Same], [Ambiguous, Faster, Faster], [Faster, Slower, Faster], [Same, Ambiguous, Same]]
        {
            assert_eq!(of(&said), Some(Ambiguous), "{said:?}");
        }
        assert_eq!([of(&[Same, Slower]), of(&[Slower, Ambiguous])], [Some(Slower); 2]);
    }

    /// However a ratio wanders by 2 %, it does not get from one claim to another.
    #[test]
    fn claims_are_more_than_two_percent_apart() {
        let at = |median_us: f64| Quartiles { low_us: 0.999 * median_us, median_us, high_us: 1.001 * median_us };
        let verdict = |ratio: f64| compare(&at(100.0), &at(100.0 * ratio));
        for step in 0..400 {
            let ratio = 0.9 + 0.0005 * f64::from(step);
            let (first, second) = (verdict(ratio), verdict(ratio * 1.02));
            assert!(first == second || [first, second].contains(&Verdict::Ambiguous), "{ratio}: {first}, {second}");
        }
        // 5 % of 4 µs is what two runs of the same kernel differ by.
        assert_eq!(compare(&at(3.9), &at(4.1)), Verdict::Ambiguous);
        assert_eq!(compare(&at(3.9), &at(4.5)), Verdict::Faster);
        assert_eq!(
            [0.9, 1.0, 1.02, 1.1].map(verdict),
            [Verdict::Slower, Verdict::Same, Verdict::Ambiguous, Verdict::Faster]
        );
    }
}
