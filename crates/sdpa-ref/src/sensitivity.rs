//! How far rounding may move a row that the oracle has computed: at most, and typically. `NUMERICS.md` derives it.

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut1};
use sdpa_core::Problem;

use crate::tolerance::{ROUNDING_RMS, ScoreError, weight_floor};

/// Bounds on score errors beyond this say nothing but that the output lies among the values; exp would overflow.
const HOPELESS: f64 = 300.0;

/// Expected score errors that move the output by more than this part of the values' own spread are no small
/// perturbation, and their square expectation means nothing.
const UNPREDICTABLE: f64 = 0.25;

/// One row that has weights, cut to its visible keys.
pub(crate) struct WeightedRow<'a> {
    /// Softmax weights p of the keys.
    pub(crate) weights: ArrayView1<'a, f64>,
    /// What the rounding errors of the keys' scores are proportional to.
    pub(crate) magnitudes: ArrayView1<'a, f64>,
    /// Largest of them among keys with a finite score.
    pub(crate) largest: f64,
    /// f32 scores may overflow, and the row be anything.
    pub(crate) overflows: bool,
    /// Σ exp(s − max), the sink's included.
    pub(crate) normaliser: f64,
    /// Values, non-finite ones replaced by 0.
    pub(crate) values: ArrayView2<'a, f64>,
    /// |v|² of each.
    pub(crate) value_squares: &'a [f64],
    /// Σ p·v.
    pub(crate) out: ArrayView1<'a, f64>,
    /// Σ p·|v|.
    pub(crate) weighted_abs: ArrayView1<'a, f64>,
}

/// See the fields of the same names in [`Oracle`](crate::Oracle).
#[derive(Clone, Copy, Default)]
pub(crate) struct Sensitivity {
    pub(crate) lse_spread: f64,
    pub(crate) lse_spread_rms: f64,
    pub(crate) expected_square_error: f64,
}

impl WeightedRow<'_> {
    /// Analyses the row and writes its `score_spread`.
    pub(crate) fn analyse(
        &self,
        problem: &Problem,
        error: ScoreError,
        mut score_spread: ArrayViewMut1<'_, f64>,
    ) -> Sensitivity {
        let largest_bound = error.bound(self.largest, self.largest);
        let largest_rms = error.rms(self.largest, self.largest);
        if self.overflows || !largest_bound.is_finite() {
            score_spread.fill(f64::INFINITY);
            let infinite = f64::INFINITY;
            return Sensitivity { lse_spread: infinite, lse_spread_rms: infinite, expected_square_error: infinite };
        }

        let sums = self.sums(error);
        let unit = problem.dtype().unit_roundoff();
        let rounding = (ROUNDING_RMS * unit).powi(2);
        let score_square = if largest_bound < unit / 2.0 {
            // Score errors matter less than the weights' rounding: a bound without another pass over the values will do.
            let factor = largest_bound.exp_m1() * largest_bound.exp();
            ndarray::azip!((spread in &mut score_spread, &abs in self.weighted_abs, &out in self.out) {
                *spread = factor * (abs + out.abs());
            });
            2.0 * largest_rms.powi(2) * (sums.weighted_values + sums.out * sums.weights)
        } else {
            self.centred(error, sums.bound, score_spread)
        };

        // The output's rounding, and the part of the weights' that equal scores share: both follow the output.
        let shared = (unit * 2.0 / 3.0).powi(2) * sums.out;
        let floor = (weight_floor(problem.dtype()) / self.normaliser).powi(2) * sums.values
            + problem.dtype().subnormal_roundoff().powi(2) * self.out.len() as f64;
        let expected = shared + rounding * sums.weighted_values + score_square + floor;
        let lse_spread = if largest_bound < HOPELESS { sums.growth.ln_1p().min(largest_bound) } else { largest_bound };
        Sensitivity { lse_spread, lse_spread_rms: sums.rms, expected_square_error: expected }
    }

    fn sums(&self, error: ScoreError) -> Sums {
        let mut sums = Sums { out: self.out.dot(&self.out), ..Sums::default() };
        for ((&weight, &magnitude), &value_square) in self.weights.iter().zip(self.magnitudes).zip(self.value_squares) {
            sums.values += value_square;
            // A weight of 0 may belong to a score of −∞, whose magnitude is infinite.
            if weight > 0.0 {
                let bound = error.bound(magnitude, self.largest);
                sums.weights += weight * weight;
                sums.weighted_values += weight * weight * value_square;
                sums.bound += weight * bound;
                sums.growth += weight * growth(bound);
                sums.rms += weight * error.rms(magnitude, self.largest);
            }
        }
        sums
    }

    /// Both effects of score errors where they matter, from the distances of the values to the output. Writes the
    /// bound on each element, returns the square expected of the row.
    fn centred(&self, error: ScoreError, mean_bound: f64, mut score_spread: ArrayViewMut1<'_, f64>) -> f64 {
        let mut columns = vec![Column::default(); score_spread.len()];
        for ((&weight, &magnitude), values) in self.weights.iter().zip(self.magnitudes).zip(self.values.rows()) {
            let grown = |error: f64| if weight > 0.0 { weight * growth(error.min(HOPELESS)) } else { 0.0 };
            let bound = grown(error.bound(magnitude, self.largest));
            let typical_square = grown(error.rms(magnitude, self.largest)).powi(2);
            for ((column, value), out) in columns.iter_mut().zip(values).zip(self.out) {
                let distance = (value - out).abs();
                column.spread += bound * distance;
                column.expected += typical_square * (distance * distance);
                column.variance += weight * (distance * distance);
                column.farthest = column.farthest.max(distance);
            }
        }
        // Whatever the scores, the output is a mean of the values.
        let shrink = mean_bound.min(HOPELESS).exp();
        for (spread, column) in score_spread.iter_mut().zip(&columns) {
            *spread = (column.spread * shrink).min(column.farthest);
        }
        let expected: f64 = columns.iter().map(|column| column.expected).sum();
        let variance: f64 = columns.iter().map(|column| column.variance).sum();
        if expected > UNPREDICTABLE.powi(2) * variance { f64::INFINITY } else { expected }
    }
}

/// Sums over the keys for one output element, of the values' distances to it.
#[derive(Clone, Copy, Default)]
struct Column {
    /// Σ p (exp δ − 1)|v − o|.
    spread: f64,
    /// Σ p² (exp σ − 1)²|v − o|².
    expected: f64,
    /// Σ p|v − o|².
    variance: f64,
    /// max |v − o|.
    farthest: f64,
}

#[derive(Default)]
struct Sums {
    /// |o|².
    out: f64,
    /// Σ p².
    weights: f64,
    /// Σ p²|v|².
    weighted_values: f64,
    /// Σ |v|².
    values: f64,
    /// Σ p δ.
    bound: f64,
    /// Σ p (exp δ − 1).
    growth: f64,
    /// Σ p σ.
    rms: f64,
}

/// exp(x) − 1 for x ≥ 0, a little more where that is cheaper.
fn growth(x: f64) -> f64 {
    if x < 0.01 { x * (1.0 + x) } else { x.exp_m1() }
}
