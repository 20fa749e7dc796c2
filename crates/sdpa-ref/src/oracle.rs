//! The meaning of attention here: f64, two passes over explicit scores.

use std::ops::Range;

use ndarray::{Array2, Array3, Array4, ArrayViewMut1, s};
use rayon::prelude::*;
use sdpa_core::{Operand, Problem, Sequence};

use crate::inputs::{Inputs, ReferenceError, Rows};
use crate::paged::Unpaged;
use crate::scoring::Scoring;
use crate::sensitivity::{Sensitivity, WeightedRow};
use crate::tolerance::WIDENED;

/// Query rows whose scores are held at once; bounds memory, and gives every core work on a single head.
const BLOCK: usize = 64;

/// Exact attention of some rows of a problem, and what the error bounds need to know about each.
///
/// The first three axes of every array are those of [`rows`](Self::rows), batch, head, query; a fourth is `value_dim`.
#[derive(Clone, Debug)]
pub struct Oracle {
    /// The problem computed.
    pub problem: Problem,
    /// Which of its rows.
    pub rows: Rows,
    /// softmax(scale·QKᵀ, masked)·V.
    pub out: Array4<f64>,
    /// Natural logarithm of Σ exp(scale·q·k) over the visible keys; −∞ where there is no weight.
    pub lse: Array3<f64>,
    /// Visible keys of each row.
    pub visible: Array3<usize>,
    /// Largest |scale|·Σ|q||k| of a visible key: what the rounding errors of the row's scores are proportional to.
    pub score_magnitude: Array3<f64>,
    /// Σ p|v|: what the rounding errors of weights and sums are proportional to.
    pub weighted_abs: Array4<f64>,
    /// Σ|v| / Σ exp(s − max) over the visible keys: how an absolute error of the unnormalised weights is magnified.
    pub abs_per_normaliser: Array4<f64>,
    /// Most that rounding the scores to f32 may move the output; infinite where f32 scores may overflow.
    pub score_spread: Array4<f64>,
    /// Most that rounding the scores to f32 may move the log-sum-exp.
    pub lse_spread: Array3<f64>,
    /// Typical size of that.
    pub lse_spread_rms: Array3<f64>,
    /// Mean square error, summed over the row, that an ideal kernel is expected to make; infinite where it has no
    /// finite expectation.
    pub expected_square_error: Array3<f64>,
    /// Of each head of [`rows`](Self::rows), most by which what a kernel sums is smaller than the output: 1 for values in the
    /// problem's dtype.
    pub value_scale: Vec<f64>,
    /// Whether a value of the row's own sequence, in this column, is not finite and has no part in the row.
    pub hides_nonfinite: Array4<bool>,
}

impl Oracle {
    /// Computes the rows asked for, or all of them.
    ///
    /// # Errors
    /// [`ReferenceError`] where a buffer is shorter than its tensor or a row does not exist.
    pub fn compute(problem: &Problem, inputs: &Inputs<'_>, rows: Option<&Rows>) -> Result<Self, ReferenceError> {
        if let Some(unpaged) = Unpaged::new(problem, inputs)? {
            return Self::compute(&unpaged.problem, &unpaged.inputs(inputs), rows);
        }
        let rows = rows.cloned().unwrap_or_else(|| Rows::all(problem));
        inputs.check(problem, &rows)?;
        let mut oracle = Self::empty(problem, rows);
        if problem.extensions().kv_e4m3 {
            let scale = |head| inputs.extension.scale(problem, Operand::Value, problem.kv_head(head));
            oracle.value_scale = oracle.rows.heads.iter().map(|head| WIDENED * f64::from(scale(*head))).collect();
        }
        let heads: Vec<(usize, usize)> = (0..oracle.rows.batches.len())
            .flat_map(|batch| (0..oracle.rows.heads.len()).map(move |head| (batch, head)))
            .collect();
        let computed: Vec<Vec<Block>> = heads
            .par_iter()
            .map(|&(batch, head)| {
                let head = Head::new(problem, inputs, oracle.rows.batches[batch], oracle.rows.heads[head]);
                oracle.rows.queries.par_chunks(BLOCK).map(|queries| head.block(queries)).collect()
            })
            .collect();
        for ((batch, head), blocks) in heads.into_iter().zip(computed) {
            for (index, block) in blocks.into_iter().enumerate() {
                oracle.place(batch, head, index * BLOCK, &block);
            }
        }
        Ok(oracle)
    }

    fn empty(problem: &Problem, rows: Rows) -> Self {
        let [batches, heads, queries] = rows.shape();
        let per_row = Array3::zeros((batches, heads, queries));
        let per_element = Array4::zeros((batches, heads, queries, problem.value_dim()));
        Self {
            problem: problem.clone(),
            rows,
            out: per_element.clone(),
            lse: per_row.clone(),
            visible: Array3::zeros((batches, heads, queries)),
            score_magnitude: per_row.clone(),
            weighted_abs: per_element.clone(),
            abs_per_normaliser: per_element.clone(),
            score_spread: per_element,
            lse_spread: per_row.clone(),
            lse_spread_rms: per_row.clone(),
            expected_square_error: per_row,
            value_scale: vec![1.0; heads],
            hides_nonfinite: Array4::from_elem((batches, heads, queries, problem.value_dim()), false),
        }
    }

    fn place(&mut self, batch: usize, head: usize, first: usize, block: &Block) {
        let range = first..first + block.rows.len();
        for (to, from) in [
            (&mut self.out, &block.out),
            (&mut self.weighted_abs, &block.weighted_abs),
            (&mut self.abs_per_normaliser, &block.abs_per_normaliser),
            (&mut self.score_spread, &block.score_spread),
        ] {
            to.slice_mut(s![batch, head, range.clone(), ..]).assign(from);
        }
        self.hides_nonfinite.slice_mut(s![batch, head, range.clone(), ..]).assign(&block.hides_nonfinite);
        for (query, row) in range.zip(&block.rows) {
            let at = [batch, head, query];
            self.lse[at] = row.lse;
            self.visible[at] = row.visible.len();
            self.score_magnitude[at] = row.score_magnitude;
            self.lse_spread[at] = row.sensitivity.lse_spread;
            self.lse_spread_rms[at] = row.sensitivity.lse_spread_rms;
            self.expected_square_error[at] = row.sensitivity.expected_square_error;
        }
    }
}

/// One query head with the keys and values it reads.
struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    sequences: Vec<Sequence>,
    key: Array2<f64>,
    key_abs: Array2<f64>,
    /// Non-finite values replaced by 0, so that a weight of 0 hides them; see `nonfinite`.
    value: Array2<f64>,
    value_abs: Array2<f64>,
    /// |v|² of each key.
    value_squares: Vec<f64>,
    /// Row `n` is Σ|v| over the first n keys.
    value_abs_before: Array2<f64>,
    /// Key, column and value of every value that is not finite.
    nonfinite: Vec<(usize, usize, f64)>,
}

/// The results for a block of query rows; see the fields of [`Oracle`].
struct Block {
    out: Array2<f64>,
    weighted_abs: Array2<f64>,
    abs_per_normaliser: Array2<f64>,
    score_spread: Array2<f64>,
    hides_nonfinite: Array2<bool>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// No visible key, or none with a weight.
    Empty,
    /// A visible score is NaN or +∞.
    Undefined,
    Weighted,
}

struct Row {
    kind: Kind,
    visible: Range<usize>,
    lse: f64,
    /// Σ exp(s − max), the sink's included, if there is one.
    normaliser: f64,
    /// Largest visible magnitude: see [`Scoring`](crate::scoring::Scoring).
    score_magnitude: f64,
    /// f32 scores may overflow.
    overflows: bool,
    sensitivity: Sensitivity,
}

impl<'a> Head<'a> {
    fn new(problem: &'a Problem, inputs: &'a Inputs<'a>, batch: usize, head: usize) -> Self {
        let kv_head = problem.kv_head(head);
        let key = inputs.read(problem, Operand::Key, batch, kv_head, 0..problem.len_kv());
        let mut value = inputs.read(problem, Operand::Value, batch, kv_head, 0..problem.len_kv());
        let mut nonfinite = Vec::new();
        for ((row, column), element) in value.indexed_iter_mut() {
            if !element.is_finite() {
                nonfinite.push((row, column, std::mem::take(element)));
            }
        }
        let value_abs = value.mapv(f64::abs);
        let mut value_abs_before = Array2::zeros((problem.len_kv() + 1, problem.value_dim()));
        for (row, abs) in value_abs.rows().into_iter().enumerate() {
            let sum = &value_abs_before.row(row) + &abs;
            value_abs_before.row_mut(row + 1).assign(&sum);
        }
        let key_abs = key.mapv(f64::abs);
        let value_squares = value.rows().into_iter().map(|row| row.dot(&row)).collect();
        Self {
            problem,
            inputs,
            batch,
            head,
            sequences: inputs.extension.sequences(problem, batch),
            key,
            key_abs,
            value,
            value_abs,
            value_squares,
            value_abs_before,
            nonfinite,
        }
    }

    /// The sequence of a query, and the keys that it sees of it.
    fn seen(&self, query: usize) -> Option<(&Sequence, Range<usize>)> {
        let sequence = self.sequences.iter().find(|sequence| sequence.queries.contains(&query))?;
        Some((sequence, self.problem.visible(sequence, query)))
    }

    fn block(&self, queries: &[usize]) -> Block {
        let query = self.inputs.read(self.problem, Operand::Query, self.batch, self.head, queries.iter().copied());
        let seen: Vec<Option<(&Sequence, Range<usize>)>> = queries.iter().map(|query| self.seen(*query)).collect();
        // Keys that no row of the block sees weigh nothing in any of them.
        let ranges = || seen.iter().flatten().map(|(_, range)| range).filter(|range| !range.is_empty());
        let first = ranges().map(|range| range.start).min().unwrap_or(0);
        let end = ranges().map(|range| range.end).max().unwrap_or(0);
        let mut weights = query.dot(&self.key.slice(s![first..end, ..]).t());
        let mut magnitudes = query.mapv(f64::abs).dot(&self.key_abs.slice(s![first..end, ..]).t());
        let scoring = Scoring::new(self.problem, &self.inputs.extension, self.head);
        let mut rows: Vec<Row> = Vec::with_capacity(queries.len());
        for (index, query) in queries.iter().enumerate() {
            let (weights, magnitudes) = (weights.row_mut(index), magnitudes.row_mut(index));
            // Where a row sees no key, the place of its empty range means nothing.
            let row = match &seen[index] {
                Some((sequence, range)) if !range.is_empty() => (Some(*sequence), range.clone()),
                _ => (None, first..first),
            };
            rows.push(Self::weigh(&scoring, *query, row, first, weights, magnitudes));
        }

        let mut out = weights.dot(&self.value.slice(s![first..end, ..]));
        let weighted_abs = weights.dot(&self.value_abs.slice(s![first..end, ..]));
        let mut abs_per_normaliser = Array2::zeros(out.raw_dim());
        let mut score_spread = Array2::zeros(out.raw_dim());
        for (index, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.kind == Kind::Weighted) {
            let abs = &self.value_abs_before.row(row.visible.end) - &self.value_abs_before.row(row.visible.start);
            abs_per_normaliser.row_mut(index).assign(&(abs / row.normaliser));
            let (from, to) = (row.visible.start - first, row.visible.end - first);
            let weighted = WeightedRow {
                weights: weights.slice(s![index, from..to]),
                magnitudes: magnitudes.slice(s![index, from..to]),
                largest: row.score_magnitude,
                overflows: row.overflows,
                normaliser: row.normaliser,
                values: self.value.slice(s![row.visible.clone(), ..]),
                value_squares: &self.value_squares[row.visible.clone()],
                out: out.row(index),
                weighted_abs: weighted_abs.row(index),
            };
            row.sensitivity = weighted.analyse(self.problem, scoring.error(), score_spread.row_mut(index));
        }
        let mut hides_nonfinite = Array2::from_elem(out.raw_dim(), false);
        for &(key, column, value) in &self.nonfinite {
            for (index, row) in rows.iter().enumerate() {
                let is_weighted = row.kind == Kind::Weighted && row.visible.contains(&key);
                if is_weighted {
                    out[[index, column]] += weights[[index, key - first]] * value;
                } else if seen[index].as_ref().is_some_and(|(sequence, _)| sequence.keys.contains(&key)) {
                    hides_nonfinite[[index, column]] = true;
                }
            }
        }
        for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.kind == Kind::Undefined) {
            out.row_mut(index).fill(f64::NAN);
        }
        Block { out, weighted_abs, abs_per_normaliser, score_spread, hides_nonfinite, rows }
    }

    /// Turns a row of q·k into its softmax, in place; weights are 0 where the row is masked, empty or undefined. The first
    /// of both rows belongs to key `first`. Σ|q||k| become magnitudes.
    fn weigh(
        scoring: &Scoring<'_>,
        query: usize,
        (sequence, visible): (Option<&Sequence>, Range<usize>),
        first: usize,
        mut row: ArrayViewMut1<'_, f64>,
        mut magnitudes: ArrayViewMut1<'_, f64>,
    ) -> Row {
        let own = visible.start - first..visible.end - first;
        for (key, weight) in row.iter_mut().enumerate() {
            if !own.contains(&key) {
                *weight = 0.0;
            }
        }
        let mut seen = row.slice_mut(s![own.clone()]);
        let mut magnitudes = magnitudes.slice_mut(s![own]);
        let mut overflows = false;
        if let Some(sequence) = sequence {
            for (key, (score, magnitude)) in seen.iter_mut().zip(&mut magnitudes).enumerate() {
                let scored = scoring.score(sequence, query, visible.start + key, *score, *magnitude);
                // A key of score −∞ has no weight, so its products, which are infinite, do not matter.
                overflows |= scored.score.is_finite() && scoring.overflows(*magnitude);
                (*score, *magnitude) = (scored.score, scored.magnitude);
            }
        }
        let undefined = seen.iter().any(|score| score.is_nan() || *score == f64::INFINITY);
        let largest = seen
            .iter()
            .zip(&magnitudes)
            .filter(|(score, _)| score.is_finite())
            .fold(0.0, |largest: f64, (_, magnitude)| largest.max(*magnitude));
        // A sink is one more score, whose error is at most the others' by its magnitude.
        let sink = scoring.sink();
        let largest = if sink.is_finite() { largest.max(sink.abs()) } else { largest };
        let of_keys = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let max = of_keys.max(sink);
        let (kind, lse, normaliser) = if undefined || sink.is_nan() || sink == f64::INFINITY {
            seen.fill(0.0);
            (Kind::Undefined, f64::NAN, f64::NAN)
        } else if of_keys == f64::NEG_INFINITY {
            seen.fill(0.0);
            (Kind::Empty, sink, 0.0)
        } else {
            seen.mapv_inplace(|score| (score - max).exp());
            let normaliser = seen.sum() + (sink - max).exp();
            seen.mapv_inplace(|weight| weight / normaliser);
            (Kind::Weighted, max + normaliser.ln(), normaliser)
        };
        Row { kind, visible, lse, normaliser, score_magnitude: largest, overflows, sensitivity: Sensitivity::default() }
    }
}
