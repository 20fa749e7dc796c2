//! A flash kernel as a GPU would run it, emulated: tiles of keys, running maximum and sum, f32 throughout, weights
//! rounded to the dtype before they meet V. And the ways it can be wrong.

use sdpa_core::{Dtype, Operand, Problem};
use sdpa_ref::Found;

use crate::data::Data;

/// How a kernel computes; `Default` is a right one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// Keys a tile.
    pub(crate) tile: usize,
    /// exp2 with log2(e) folded into the scale, and one fused multiply-add before it.
    pub(crate) folded: bool,
    /// Sums as tensor cores make them: 16 products at once, truncated.
    pub(crate) tensor_cores: bool,
    /// Weights keep f32, as in a scalar kernel.
    pub(crate) keep_weights: bool,
    /// Tiles from the last to the first.
    pub(crate) backwards: bool,
    /// Wrong: weights rounded to this dtype first.
    pub(crate) round_weights_to: Option<Dtype>,
    /// Another scale than the problem's: wrong, but for keys in 8 bits, which have their own.
    pub(crate) scale: Option<f32>,
    /// What the output is multiplied by before it is rounded: the scale of values in 8 bits.
    pub(crate) value_scale: f32,
    /// Wrong: another mask.
    pub(crate) visible: fn(&Problem, usize) -> usize,
    /// Wrong: the sum of weights is not divided out.
    pub(crate) skip_normalising: bool,
    /// Wrong: the accumulator is not rescaled when the maximum grows.
    pub(crate) skip_rescaling: bool,
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            tile: 64,
            folded: false,
            tensor_cores: false,
            keep_weights: false,
            backwards: false,
            round_weights_to: None,
            scale: None,
            value_scale: 1.0,
            visible: Problem::visible_keys,
            skip_normalising: false,
            skip_rescaling: false,
        }
    }
}

/// The output and log-sum-exp of a kernel.
#[derive(Clone)]
pub(crate) struct Result {
    pub(crate) out: Vec<u16>,
    pub(crate) lse: Vec<f32>,
}

impl Result {
    pub(crate) fn found(&self) -> Found<'_> {
        Found { out: &self.out, lse: Some(&self.lse) }
    }
}

/// Rounded towards zero.
fn truncate(value: f64) -> f32 {
    let nearest = value as f32;
    if f64::from(nearest).abs() > value.abs() { f32::from_bits(nearest.to_bits() - 1) } else { nearest }
}

impl Kernel {
    pub(crate) fn run(&self, problem: &Problem, data: &Data) -> Result {
        let dtype = problem.dtype();
        let mut out = vec![dtype.encode(f64::NAN); problem.span(Operand::Output)];
        let mut lse = vec![f32::NAN; problem.lse_len()];
        let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|bits| dtype.decode(*bits) as f32).collect() };
        let (query, key, value) = (decode(&data.query), decode(&data.key), decode(&data.value));
        let row = |values: &[f32], operand, batch, head, index| -> Vec<f32> {
            let start = problem.row_offset(operand, batch, head, index);
            values[start..start + problem.head_dim()].to_vec()
        };
        for batch in 0..problem.batch() {
            for head in 0..problem.heads_q() {
                let rows = |values: &[f32], operand| -> Vec<Vec<f32>> {
                    let head = problem.kv_head(head);
                    (0..problem.len_kv()).map(|index| row(values, operand, batch, head, index)).collect()
                };
                let (keys, values) = (rows(&key, Operand::Key), rows(&value, Operand::Value));
                for index in 0..problem.len_q() {
                    let query = row(&query, Operand::Query, batch, head, index);
                    let (result, sum) = self.row(problem, index, &query, &keys, &values);
                    let start = problem.row_offset(Operand::Output, batch, head, index);
                    for (bits, value) in out[start..].iter_mut().zip(result) {
                        *bits = dtype.encode(f64::from(value * self.value_scale));
                    }
                    lse[(batch * problem.heads_q() + head) * problem.len_q() + index] = sum;
                }
            }
        }
        Result { out, lse }
    }

    fn row(
        &self,
        problem: &Problem,
        index: usize,
        query: &[f32],
        keys: &[Vec<f32>],
        values: &[Vec<f32>],
    ) -> (Vec<f32>, f32) {
        let visible = (self.visible)(problem, index).min(keys.len());
        let scale = self.scale.unwrap_or(problem.scale());
        let folded = scale * std::f32::consts::LOG2_E;
        // Negative scales turn the folded maximum into a minimum, so the scale is applied before it.
        let units = if self.folded { folded } else { scale };
        let exp = |x: f32| if self.folded { x.exp2() } else { x.exp() };
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0_f32);
        let mut acc = vec![0.0_f32; query.len()];
        let mut starts: Vec<usize> = (0..visible).step_by(self.tile).collect();
        if self.backwards {
            starts.reverse();
        }
        for start in starts {
            let tile = start..visible.min(start + self.tile);
            let scores: Vec<f32> = tile.clone().map(|key| self.dot(query, &keys[key]) * units).collect();
            let new_max = scores.iter().fold(max, |max, score| max.max(*score));
            let shift = if new_max == f32::NEG_INFINITY { 0.0 } else { new_max };
            let alpha = if self.skip_rescaling { 1.0 } else { exp(max - shift) };
            let weights: Vec<f32> = scores.iter().map(|score| exp(score - shift)).collect();
            sum = sum * alpha + weights.iter().sum::<f32>();
            let weights: Vec<f32> = weights.into_iter().map(|weight| self.round(problem.dtype(), weight)).collect();
            acc.iter_mut().for_each(|acc| *acc *= alpha);
            self.accumulate(&mut acc, &weights, &values[tile]);
            max = new_max;
        }
        // The sum, not the maximum: a row of nothing but NaN scores has no maximum either, and must stay NaN.
        if sum == 0.0 {
            return (vec![0.0; query.len()], f32::NEG_INFINITY);
        }
        let natural = if self.folded { max * std::f32::consts::LN_2 } else { max };
        let inverse = if self.skip_normalising { 1.0 } else { 1.0 / sum };
        (acc.into_iter().map(|acc| acc * inverse).collect(), natural + sum.ln())
    }

    fn round(&self, dtype: Dtype, weight: f32) -> f32 {
        let weight = f64::from(weight);
        let weight = self.round_weights_to.map_or(weight, |dtype| dtype.round(weight));
        (if self.keep_weights { weight } else { dtype.round(weight) }) as f32
    }

    fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        if !self.tensor_cores {
            return a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b);
        }
        a.chunks(16).zip(b.chunks(16)).fold(0.0, |sum, (a, b)| {
            let products: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            truncate(f64::from(sum) + products)
        })
    }

    fn accumulate(&self, acc: &mut [f32], weights: &[f32], values: &[Vec<f32>]) {
        if !self.tensor_cores {
            for (weight, value) in weights.iter().zip(values) {
                acc.iter_mut().zip(value).for_each(|(acc, value)| *acc += weight * value);
            }
            return;
        }
        for (weights, values) in weights.chunks(16).zip(values.chunks(16)) {
            for (column, acc) in acc.iter_mut().enumerate() {
                let products: f64 = weights.iter().zip(values).map(|(p, v)| f64::from(*p) * f64::from(v[column])).sum();
                *acc = truncate(f64::from(*acc) + products);
            }
        }
    }
}
