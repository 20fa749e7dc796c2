//! The meaning of attention here: f64, two passes over explicit scores.

use ndarray::{Array1, Array2, Array3, Array4, ArrayView1, ArrayViewMut1, s};
use rayon::prelude::*;
use sdpa_core::{Operand, Problem};

use crate::inputs::{Inputs, ReferenceError, Rows};
use crate::sensitivity::{Sensitivity, WeightedRow};

/// Query rows whose scores are held at once; bounds memory, and gives every core work on a single head.
const BLOCK: usize = 64;

/// Exact attention of some rows of a problem, and what the error bounds need to know about each.
///
/// The first three axes of every array are those of [`rows`](Self::rows), batch, head, query; a fourth is `head_dim`.
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
    /// One more than the last key whose value is not finite, 0 for none: `[batches, heads, head_dim]`.
    pub nonfinite_values_end: Array3<usize>,
}

impl Oracle {
    /// Computes the rows asked for, or all of them.
    ///
    /// # Errors
    /// [`ReferenceError`] where a buffer is shorter than its tensor or a row does not exist.
    pub fn compute(problem: &Problem, inputs: &Inputs<'_>, rows: Option<&Rows>) -> Result<Self, ReferenceError> {
        let rows = rows.cloned().unwrap_or_else(|| Rows::all(problem));
        inputs.check(problem, &rows)?;
        let mut oracle = Self::empty(problem, rows);
        let heads: Vec<(usize, usize)> = (0..oracle.rows.batches.len())
            .flat_map(|batch| (0..oracle.rows.heads.len()).map(move |head| (batch, head)))
            .collect();
        let computed: Vec<(Vec<usize>, Vec<Block>)> = heads
            .par_iter()
            .map(|&(batch, head)| {
                let head = Head::new(problem, inputs, oracle.rows.batches[batch], oracle.rows.heads[head]);
                let blocks = oracle.rows.queries.par_chunks(BLOCK).map(|queries| head.block(queries)).collect();
                (head.nonfinite_end(), blocks)
            })
            .collect();
        for ((batch, head), (nonfinite_end, blocks)) in heads.into_iter().zip(computed) {
            oracle.nonfinite_values_end.slice_mut(s![batch, head, ..]).assign(&Array1::from(nonfinite_end));
            for (index, block) in blocks.into_iter().enumerate() {
                oracle.place(batch, head, index * BLOCK, &block);
            }
        }
        Ok(oracle)
    }

    fn empty(problem: &Problem, rows: Rows) -> Self {
        let [batches, heads, queries] = rows.shape();
        let per_row = Array3::zeros((batches, heads, queries));
        let per_element = Array4::zeros((batches, heads, queries, problem.head_dim()));
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
            nonfinite_values_end: Array3::zeros((batches, heads, problem.head_dim())),
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
        for (query, row) in range.zip(&block.rows) {
            let at = [batch, head, query];
            self.lse[at] = row.lse;
            self.visible[at] = row.visible;
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
    visible: usize,
    lse: f64,
    /// Σ exp(s − max).
    normaliser: f64,
    /// Largest visible Σ|q||k|.
    products: f64,
    score_magnitude: f64,
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
        let mut value_abs_before = Array2::zeros((problem.len_kv() + 1, problem.head_dim()));
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
            key,
            key_abs,
            value,
            value_abs,
            value_squares,
            value_abs_before,
            nonfinite,
        }
    }

    fn nonfinite_end(&self) -> Vec<usize> {
        let mut end = vec![0; self.problem.head_dim()];
        for &(key, column, _) in &self.nonfinite {
            end[column] = key + 1;
        }
        end
    }

    fn block(&self, queries: &[usize]) -> Block {
        let query = self.inputs.read(self.problem, Operand::Query, self.batch, self.head, queries.iter().copied());
        // Keys beyond the last visible one of the block weigh nothing in any of its rows.
        let keys = queries.iter().map(|query| self.problem.visible_keys(*query)).max().unwrap_or(0);
        let mut weights = query.dot(&self.key.slice(s![..keys, ..]).t());
        let products = query.mapv(f64::abs).dot(&self.key_abs.slice(s![..keys, ..]).t());
        let mut rows: Vec<Row> = queries
            .iter()
            .zip(weights.rows_mut())
            .zip(products.rows())
            .map(|((query, weights), products)| self.weigh(self.problem.visible_keys(*query), weights, products))
            .collect();

        let mut out = weights.dot(&self.value.slice(s![..keys, ..]));
        let weighted_abs = weights.dot(&self.value_abs.slice(s![..keys, ..]));
        let mut abs_per_normaliser = Array2::zeros(out.raw_dim());
        let mut score_spread = Array2::zeros(out.raw_dim());
        for (index, row) in rows.iter_mut().enumerate().filter(|(_, row)| row.kind == Kind::Weighted) {
            abs_per_normaliser.row_mut(index).assign(&(&self.value_abs_before.row(row.visible) / row.normaliser));
            let seen = s![index, ..row.visible];
            let weighted = WeightedRow {
                weights: weights.slice(seen),
                products: products.slice(seen),
                largest: row.products,
                normaliser: row.normaliser,
                values: self.value.slice(s![..row.visible, ..]),
                value_squares: &self.value_squares[..row.visible],
                out: out.row(index),
                weighted_abs: weighted_abs.row(index),
            };
            row.sensitivity = weighted.analyse(self.problem, score_spread.row_mut(index));
        }
        for &(key, column, value) in &self.nonfinite {
            for (index, row) in rows.iter().enumerate() {
                if row.kind == Kind::Weighted && key < row.visible {
                    out[[index, column]] += weights[[index, key]] * value;
                }
            }
        }
        for (index, _) in rows.iter().enumerate().filter(|(_, row)| row.kind == Kind::Undefined) {
            out.row_mut(index).fill(f64::NAN);
        }
        Block { out, weighted_abs, abs_per_normaliser, score_spread, rows }
    }

    /// Turns a row of q·k into its softmax, in place; weights are 0 where the row is masked, empty or undefined.
    fn weigh(&self, visible: usize, mut row: ArrayViewMut1<'_, f64>, products: ArrayView1<'_, f64>) -> Row {
        let scale = f64::from(self.problem.scale());
        let (mut seen, mut hidden) = row.view_mut().split_at(ndarray::Axis(0), visible);
        hidden.fill(0.0);
        seen.mapv_inplace(|dot| scale * dot);
        let undefined = seen.iter().any(|score| score.is_nan() || *score == f64::INFINITY);
        let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // A key of score −∞ has no weight, so its products, which are infinite, do not matter.
        let largest = seen
            .iter()
            .zip(products)
            .filter(|(score, _)| score.is_finite())
            .fold(0.0, |largest: f64, (_, products)| largest.max(*products));
        let (kind, lse, normaliser) = if undefined {
            seen.fill(0.0);
            (Kind::Undefined, f64::NAN, f64::NAN)
        } else if max == f64::NEG_INFINITY {
            seen.fill(0.0);
            (Kind::Empty, f64::NEG_INFINITY, 0.0)
        } else {
            seen.mapv_inplace(|score| (score - max).exp());
            let normaliser = seen.sum();
            seen.mapv_inplace(|weight| weight / normaliser);
            (Kind::Weighted, max + normaliser.ln(), normaliser)
        };
        Row {
            kind,
            visible,
            lse,
            normaliser,
            products: largest,
            score_magnitude: scale.abs() * largest,
            sensitivity: Sensitivity::default(),
        }
    }
}
