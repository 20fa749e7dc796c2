//! From `q·k` to the score that the softmax sees: scale, soft cap, slope; and how far rounding may move it.

use sdpa_core::{Operand, Problem, Sequence};

use crate::inputs::ExtensionInputs;
use crate::tolerance::{ScoreError, may_overflow};

/// How one query head's products become scores.
pub(crate) struct Scoring<'a> {
    problem: &'a Problem,
    scale: f64,
    cap: Option<f64>,
    slope: f64,
    sink: f64,
    key_scale: f64,
    error: ScoreError,
}

/// A score, and what its rounding error is proportional to.
pub(crate) struct Scored {
    pub(crate) score: f64,
    pub(crate) magnitude: f64,
}

impl<'a> Scoring<'a> {
    pub(crate) fn new(problem: &'a Problem, extension: &ExtensionInputs<'_>, head: usize) -> Self {
        let key_scale = f64::from(extension.scale(problem, Operand::Key, problem.kv_head(head)));
        Self {
            problem,
            scale: f64::from(problem.scale()),
            cap: problem.softcap().map(f64::from),
            slope: if problem.slopes() { f64::from(extension.slopes[head]) } else { 0.0 },
            sink: if problem.sinks() { f64::from(extension.sinks[head]) } else { f64::NEG_INFINITY },
            key_scale,
            error: ScoreError::new(problem, key_scale),
        }
    }

    /// The logit that counts in the sum and has no value; −∞ if there is none.
    pub(crate) fn sink(&self) -> f64 {
        self.sink
    }

    /// How far rounding may move scores.
    pub(crate) fn error(&self) -> ScoreError {
        self.error
    }

    /// True if f32 may overflow where Σ|q||k| is so large.
    pub(crate) fn overflows(&self, products: f64) -> bool {
        may_overflow(self.problem, self.key_scale, products)
    }

    /// What adds to the score of a key for its distance from the query's diagonal.
    pub(crate) fn bias(&self, sequence: &Sequence, query: usize, key: usize) -> f64 {
        if self.slope == 0.0 {
            return 0.0;
        }
        let diagonal = self.problem.diagonal_of(sequence, query);
        -self.slope * (diagonal - (key - sequence.keys.start) as i64).abs() as f64
    }

    /// `cap · tanh(score / cap)`, if there is a cap.
    pub(crate) fn capped(&self, score: f64) -> f64 {
        self.cap.map_or(score, |cap| cap * (score / cap).tanh())
    }

    /// The score of a key whose q·k is `dot` and whose Σ|q||k| is `products`.
    ///
    /// The magnitude is `|scale|·Σ|q||k|` for a plain score. A cap damps the error of what it caps by its largest slope nearby,
    /// and is itself computed with an error relative to its result; a bias is rounded when it is made and when it is added.
    pub(crate) fn score(&self, sequence: &Sequence, query: usize, key: usize, dot: f64, products: f64) -> Scored {
        let plain = self.scale * dot;
        let magnitude = self.scale.abs() * products;
        let (score, magnitude) = match self.cap {
            None => (plain, magnitude),
            Some(cap) => {
                let nearest = (plain.abs() - self.error.bound(magnitude, 0.0)).max(0.0);
                let slope = (nearest / cap).cosh().powi(-2);
                let score = self.capped(plain);
                // A product that is infinite is capped to the cap itself.
                (score, if slope == 0.0 { 0.0 } else { slope * magnitude } + score.abs())
            }
        };
        let bias = self.bias(sequence, query, key);
        Scored { score: score + bias, magnitude: magnitude + bias.abs() }
    }
}
