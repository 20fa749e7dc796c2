//! How far a right kernel may be from the oracle. `NUMERICS.md` derives every figure here.

use sdpa_core::{Dtype, Problem};

/// Unit roundoff of f32, in which every kernel keeps scores, statistics and accumulators.
pub(crate) const F32_ROUNDOFF: f64 = 1.0 / (1 << 24) as f64;

/// Smallest normal f32; kernels may flush what is smaller to zero.
pub(crate) const F32_TINY: f64 = f64::from_bits((1023 - 126) << 52);

/// Root mean square of the relative error of rounding to nearest, in unit roundoffs: the error is uniform over a step
/// and significands are spread logarithmically, √(1/3 · 3/(8·ln 2)).
pub(crate) const ROUNDING_RMS: f64 = 0.4247;

/// What a generation promises. The elementwise bounds are the same for all: they are theorems about right kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative Frobenius error allowed, in multiples of the ideal kernel's: 1.5, or 2 where a generation says why.
    pub factor: f64,
    /// Root-mean-square error allowed of the log-sum-exp, relative to max(1, |lse|): 1e-5.
    pub lse: f64,
    /// Reject a NaN that came from a non-finite value which the mask hides from that row. Tensor cores multiply
    /// whole tiles, and 0·NaN is NaN, so by default it may spread inside its column.
    pub strict_masked_values: bool,
    /// Whether the output was merged from results over parts of the keys that were each rounded to the dtype, as ranks of a
    /// ring do: one rounding more of each element, wherever it was made.
    pub merged: bool,
}

impl Default for Tolerance {
    fn default() -> Self {
        Self { factor: 1.5, lse: 1e-5, strict_masked_values: false, merged: false }
    }
}

/// Most by which a kernel may store less than it means of an element in 8 bits: f16 made of e4m3 by shifts is 2⁻⁸ of it.
pub(crate) const WIDENED: f64 = 256.0;

/// True if f32 scores may overflow where Σ|q||k| of a key is so large. Keys are stored over `key_scale`.
pub(crate) fn may_overflow(problem: &Problem, key_scale: f64, products: f64) -> bool {
    let scale = f64::from(problem.scale()).abs();
    let reach = products * scale.max(1.0).max(1.0 / key_scale);
    // A factor 4 below overflow leaves room for log2(e) folded into the scale.
    reach.is_nan() || reach >= f64::from(f32::MAX) / 4.0
}

/// Error of the f32 scores, from the magnitude of a key's score, |scale|·Σ|q||k| where it is plain, and the largest magnitude of
/// its row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScoreError {
    head_dim: f64,
    /// What a product that is flushed to zero would have been multiplied by.
    scale: f64,
}

impl ScoreError {
    /// Of keys that are stored over `key_scale`, 1 if they are in the problem's dtype.
    pub(crate) fn new(problem: &Problem, key_scale: f64) -> Self {
        let stored = if problem.extensions().kv_e4m3 { key_scale * WIDENED } else { 1.0 };
        Self { head_dim: problem.head_dim() as f64, scale: f64::from(problem.scale()).abs() * stored }
    }

    /// No kernel's score, less its row's maximum, is further from the exact one.
    pub(crate) fn bound(self, magnitude: f64, largest: f64) -> f64 {
        let relative = F32_ROUNDOFF * ((1.5 * self.head_dim + 8.0) * magnitude + 4.0 * largest);
        relative + F32_TINY * (self.scale * self.head_dim + 1.0)
    }

    /// Typical size of the same error, for the statistical checks.
    pub(crate) fn rms(self, magnitude: f64, largest: f64) -> f64 {
        F32_ROUNDOFF * (self.head_dim.sqrt() * magnitude + 2.0 * largest)
    }
}

/// Largest absolute error of rounding a weight: below the dtype's normal range, or flushed by f32 arithmetic.
pub(crate) fn weight_floor(dtype: Dtype) -> f64 {
    dtype.subnormal_roundoff().max(F32_TINY)
}

/// What the oracle knows about one output element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ElementScale {
    pub(crate) reference: f64,
    pub(crate) weighted_abs: f64,
    pub(crate) abs_per_normaliser: f64,
    pub(crate) score_spread: f64,
    pub(crate) visible: usize,
    /// What a product of a weight and a value that is flushed to zero would have been multiplied by: 1 for values in the
    /// dtype.
    pub(crate) value_scale: f64,
}

impl ElementScale {
    /// Bound on the error before the output is rounded.
    pub(crate) fn accumulated(&self, dtype: Dtype, tolerance: &Tolerance) -> f64 {
        let unit = dtype.unit_roundoff();
        // The parts' weights add up to 1, so their roundings add up to no more than one of Σ p|v|.
        let merged = match tolerance.merged {
            true => unit * (1.0 + unit) * self.weighted_abs + dtype.subnormal_roundoff(),
            false => 0.0,
        };
        // One rounding a key in the product sum and one in the normaliser, half as much again for tensor cores that
        // truncate, and a constant for exp, the last division and short rows.
        let sums = F32_ROUNDOFF * (1.5 * self.visible as f64 + 32.0);
        self.score_spread
            + (unit + sums) * self.weighted_abs
            + sums * self.reference.abs()
            + weight_floor(dtype) * self.abs_per_normaliser
            + F32_TINY * self.value_scale.max(1.0) * (self.visible as f64 + 1.0)
            + merged
    }

    /// Bound on the error of the rounded output.
    pub(crate) fn bound(&self, dtype: Dtype, tolerance: &Tolerance) -> f64 {
        let accumulated = self.accumulated(dtype, tolerance);
        accumulated + dtype.unit_roundoff() * (self.reference.abs() + accumulated) + dtype.subnormal_roundoff()
    }
}

/// Bound on the error of one log-sum-exp.
pub(crate) fn lse_bound(tolerance: &Tolerance, reference: f64, spread: f64, visible: usize) -> f64 {
    tolerance.lse * reference.abs().max(1.0) + spread + F32_ROUNDOFF * (1.5 * visible as f64 + 32.0)
}

/// Limit on the root-mean-square error of all log-sum-exps, relative to max(1, |lse|).
pub(crate) fn lse_rms_limit(tolerance: &Tolerance, ideal: f64, expected: f64) -> f64 {
    tolerance.lse + (tolerance.factor * ideal).max(3.0 * expected)
}

/// Limit on the Frobenius norm of the error, from the ideal kernel's squared error and the expected squares of the rows
/// with the sum of their squares.
pub(crate) fn frobenius_limit(tolerance: &Tolerance, ideal: f64, expected: f64, expected_squared: f64) -> f64 {
    // How many independent rows carry the error; a few rows scatter more than many.
    let rows = if expected_squared > 0.0 { expected * (expected / expected_squared) } else { 1.0 };
    tolerance.factor * ideal.max(expected).sqrt() * (1.0 + 2.0 / rows.sqrt())
}
