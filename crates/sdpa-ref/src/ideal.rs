//! The yardstick: what a flawless flash kernel of the problem's dtype would write.

use std::ops::Range;

use ndarray::{Array2, Array3, Array4, s};
use rayon::prelude::*;
use sdpa_core::{Operand, Problem, Sequence};

use crate::inputs::{Inputs, ReferenceError, Rows};
use crate::paged::Unpaged;
use crate::scoring::Scoring;

/// Query rows computed together, as in the oracle.
const BLOCK: usize = 64;

/// Keys whose scores are accumulated side by side; each one's sum is still sequential over the head dimension.
const LANES: usize = 32;

/// The result of rounding where a kernel of this dtype must round, and nowhere else.
///
/// Scores are sequential f32 dot products of what is stored, times the scale. Weights exp(s − max) are exact and then rounded once to the
/// dtype, for the tensor cores; the normaliser sums them unrounded. Products with V are summed exactly and the
/// normalised output is rounded once. Axes as in [`Oracle`](crate::Oracle); rows of non-finite inputs mean nothing here.
#[derive(Clone, Debug)]
pub struct Ideal {
    /// Output, every element a value of the dtype: `[batches, heads, queries, value_dim]`.
    pub out: Array4<f64>,
    /// Log-sum-exp rounded to f32: `[batches, heads, queries]`.
    pub lse: Array3<f64>,
}

impl Ideal {
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
        let [batches, heads, queries] = rows.shape();
        let mut ideal = Self {
            out: Array4::zeros((batches, heads, queries, problem.value_dim())),
            lse: Array3::zeros((batches, heads, queries)),
        };
        let heads: Vec<(usize, usize)> =
            (0..batches).flat_map(|batch| (0..heads).map(move |head| (batch, head))).collect();
        let computed: Vec<Vec<(Array2<f64>, Vec<f64>)>> = heads
            .par_iter()
            .map(|&(batch, head)| {
                let head = Head::new(problem, inputs, rows.batches[batch], rows.heads[head]);
                rows.queries.par_chunks(BLOCK).map(|queries| head.block(queries)).collect()
            })
            .collect();
        for ((batch, head), blocks) in heads.into_iter().zip(computed) {
            for (index, (out, lse)) in blocks.into_iter().enumerate() {
                let range = index * BLOCK..index * BLOCK + lse.len();
                ideal.out.slice_mut(s![batch, head, range.clone(), ..]).assign(&out);
                ideal.lse.slice_mut(s![batch, head, range]).assign(&ndarray::Array1::from(lse));
            }
        }
        Ok(ideal)
    }
}

struct Head<'a> {
    problem: &'a Problem,
    inputs: &'a Inputs<'a>,
    batch: usize,
    head: usize,
    sequences: Vec<Sequence>,
    /// Keys in groups of [`LANES`], column by column: `[groups][head_dim][LANES]`, zero-padded.
    key_lanes: Vec<[f32; LANES]>,
    /// What multiplies a query's product with a key as it is stored.
    scale: f32,
    value: Array2<f64>,
}

impl<'a> Head<'a> {
    fn new(problem: &'a Problem, inputs: &'a Inputs<'a>, batch: usize, head: usize) -> Self {
        let kv_head = problem.kv_head(head);
        let head_dim = problem.head_dim();
        let key = inputs.read_stored(problem, Operand::Key, batch, kv_head, 0..problem.len_kv());
        let mut key_lanes = vec![[0.0; LANES]; problem.len_kv().div_ceil(LANES) * head_dim];
        for ((row, column), element) in key.indexed_iter() {
            key_lanes[row / LANES * head_dim + column][row % LANES] = *element as f32;
        }
        let mut value = inputs.read(problem, Operand::Value, batch, kv_head, 0..problem.len_kv());
        value.mapv_inplace(|value| if value.is_finite() { value } else { 0.0 });
        let sequences = inputs.extension.sequences(problem, batch);
        let scale = problem.scale() * inputs.extension.scale(problem, Operand::Key, kv_head);
        Self { problem, inputs, batch, head, sequences, key_lanes, scale, value }
    }

    fn block(&self, queries: &[usize]) -> (Array2<f64>, Vec<f64>) {
        let dtype = self.problem.dtype();
        let query = self.inputs.read(self.problem, Operand::Query, self.batch, self.head, queries.iter().copied());
        let seen: Vec<(Option<&Sequence>, Range<usize>)> = queries
            .iter()
            .map(|query| {
                let sequence = self.sequences.iter().find(|sequence| sequence.queries.contains(query));
                let range = sequence.map(|sequence| self.problem.visible(sequence, *query));
                // Where a row sees no key, the place of its empty range means nothing.
                (sequence, range.filter(|range| !range.is_empty()).unwrap_or(0..0))
            })
            .collect();
        let keys = seen.iter().map(|(_, range)| range.end).max().unwrap_or(0);
        let mut weights = self.scores(&query.mapv(|element| element as f32), keys);
        let scoring = Scoring::new(self.problem, &self.inputs.extension, self.head);
        let mut normalisers = Vec::with_capacity(queries.len());
        let mut lse = Vec::with_capacity(queries.len());
        for ((&query, mut row), (sequence, range)) in queries.iter().zip(weights.rows_mut()).zip(seen) {
            row.slice_mut(s![..range.start]).fill(0.0);
            row.slice_mut(s![range.end..]).fill(0.0);
            let first = range.start;
            let mut seen = row.slice_mut(s![range]);
            if let Some(sequence) = sequence {
                for (key, score) in seen.iter_mut().enumerate() {
                    let capped = f64::from(scoring.capped(*score) as f32);
                    *score = f64::from((capped + scoring.bias(sequence, query, first + key)) as f32);
                }
            }
            let max = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            if max == f64::NEG_INFINITY {
                seen.fill(0.0);
                normalisers.push(1.0); // 0 / 1: the output of a row without weights is 0
                lse.push(scoring.sink());
                continue;
            }
            seen.mapv_inplace(|score| (score - max).exp());
            let normaliser = seen.sum() + (scoring.sink() - max).exp();
            seen.mapv_inplace(|weight| dtype.round(weight));
            normalisers.push(normaliser);
            lse.push(f64::from((max + normaliser.ln()) as f32));
        }
        let mut out = weights.dot(&self.value.slice(s![..keys, ..]));
        for (mut row, normaliser) in out.rows_mut().into_iter().zip(normalisers) {
            row.mapv_inplace(|sum| dtype.round(sum / normaliser));
        }
        (out, lse)
    }

    /// scale·q·k of the first `keys` keys, `[queries, keys]`, every operation in f32. Products of two elements are exact
    /// in f32, so it makes no difference whether multiply and add are fused.
    fn scores(&self, query: &Array2<f32>, keys: usize) -> Array2<f64> {
        let mut scores = Array2::zeros((query.nrows(), keys));
        for (group, columns) in self.key_lanes.chunks_exact(self.problem.head_dim()).enumerate() {
            let first = group * LANES;
            if first >= keys {
                break;
            }
            let range = first..keys.min(first + LANES);
            for (query, mut scores) in query.rows().into_iter().zip(scores.rows_mut()) {
                let mut sums = [0.0_f32; LANES];
                for (q, lanes) in query.iter().zip(columns) {
                    for (sum, k) in sums.iter_mut().zip(lanes) {
                        *sum += q * k;
                    }
                }
                for (score, sum) in scores.slice_mut(s![range.clone()]).iter_mut().zip(sums) {
                    *score = f64::from(sum * self.scale);
                }
            }
        }
        scores
    }
}
