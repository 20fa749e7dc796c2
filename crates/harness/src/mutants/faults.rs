//! Attention on the host, in the plainest f32, and every way here of getting it wrong.

use sdpa_core::{Dtype, Error, Params, TensorParams};

use super::host::Memory;

/// What is wrong with a host kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the harness must accept this one.
    None,
    /// Every key weighs the same.
    MeanOfValues,
    /// The scores are not scaled.
    NoScale,
    /// The scale is applied twice.
    ScaleTwice,
    /// A query also sees the key behind its last one.
    MaskOffByOne,
    /// Top-left alignment where bottom-right was asked for, and the other way round.
    WrongAlignment,
    /// Top-left masks, and only they, hide one key too many.
    TopLeftOffByOne,
    /// The ragged last tile of 64 keys is not attended to.
    LastTileDropped,
    /// A little of the last value is in every row.
    FutureLeaks,
    /// Later keys weigh more.
    PositionMatters,
    /// Every sequence reads the keys of the first.
    FirstBatchForAll,
    /// Every head reads the first key head.
    FirstHeadForAll,
    /// Query heads take turns in key heads, where neighbours should share one.
    HeadsTakeTurns,
    /// The output is one percent too large.
    Overshoot,
    /// The logarithm is to base two.
    LseInBits,
    /// Rows without keys are 0/0.
    EmptyRowIsNan,
    /// A score of NaN counts as 0.
    NanFlushed,
    /// A NaN in the last key reaches every row.
    NanKeySpreads,
    /// A NaN in a row's query reaches the next row.
    NanQuerySpreads,
    /// Query rows are taken to be contiguous.
    StrideIgnored,
    /// The last column of the last row is not stored.
    ColumnMissing,
    /// The last row's log-sum-exp is not stored.
    LseMissing,
    /// One element more than a row has is stored.
    RowTooLong,
    /// Something is stored right before the output.
    WritesBefore,
    /// Something is stored a few elements behind the log-sum-exp.
    WritesBehind,
    /// The query is scaled where it lies.
    InputScaled,
    /// Every second run differs in one bit.
    Unsteady,
    /// From 40 keys on the device dies, as a GPU does of an illegal address.
    Deadly,
    /// Declines every problem.
    DeclinesAll,
}

impl Fault {
    /// All, the absence of a fault first.
    pub const ALL: [Self; 29] = [
        Self::None,
        Self::MeanOfValues,
        Self::NoScale,
        Self::ScaleTwice,
        Self::MaskOffByOne,
        Self::WrongAlignment,
        Self::TopLeftOffByOne,
        Self::LastTileDropped,
        Self::FutureLeaks,
        Self::PositionMatters,
        Self::FirstBatchForAll,
        Self::FirstHeadForAll,
        Self::HeadsTakeTurns,
        Self::Overshoot,
        Self::LseInBits,
        Self::EmptyRowIsNan,
        Self::NanFlushed,
        Self::NanKeySpreads,
        Self::NanQuerySpreads,
        Self::StrideIgnored,
        Self::ColumnMissing,
        Self::LseMissing,
        Self::RowTooLong,
        Self::WritesBefore,
        Self::WritesBehind,
        Self::InputScaled,
        Self::Unsteady,
        Self::Deadly,
        Self::DeclinesAll,
    ];

    /// Name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "right",
            Self::MeanOfValues => "mean-of-values",
            Self::NoScale => "no-scale",
            Self::ScaleTwice => "scale-twice",
            Self::MaskOffByOne => "mask-off-by-one",
            Self::WrongAlignment => "wrong-alignment",
            Self::TopLeftOffByOne => "top-left-off-by-one",
            Self::LastTileDropped => "last-tile-dropped",
            Self::FutureLeaks => "future-leaks",
            Self::PositionMatters => "position-matters",
            Self::FirstBatchForAll => "first-batch-for-all",
            Self::FirstHeadForAll => "first-head-for-all",
            Self::HeadsTakeTurns => "heads-take-turns",
            Self::Overshoot => "overshoot",
            Self::LseInBits => "lse-in-bits",
            Self::EmptyRowIsNan => "empty-row-is-nan",
            Self::NanFlushed => "nan-flushed",
            Self::NanKeySpreads => "nan-key-spreads",
            Self::NanQuerySpreads => "nan-query-spreads",
            Self::StrideIgnored => "stride-ignored",
            Self::ColumnMissing => "column-missing",
            Self::LseMissing => "lse-missing",
            Self::RowTooLong => "row-too-long",
            Self::WritesBefore => "writes-before",
            Self::WritesBehind => "writes-behind",
            Self::InputScaled => "input-scaled",
            Self::Unsteady => "unsteady",
            Self::Deadly => "deadly",
            Self::DeclinesAll => "declines-all",
        }
    }
}

/// The kernel: explicit scores, two passes, f32.
pub(super) fn attention(
    memory: &mut Memory,
    params: &Params,
    kernel: &str,
    fault: Fault,
    launches: u64,
) -> Result<(), Error> {
    let dtype = if kernel.starts_with("bf16") { Dtype::Bf16 } else { Dtype::F16 };
    if fault == Fault::Deadly && params.len_kv >= 40 {
        return Err(Error::Sticky { reason: "as if at an illegal address".to_owned() });
    }
    let mut query = params.query;
    if fault == Fault::StrideIgnored {
        query.row_stride = i64::from(params.head_dim);
    }
    for batch in 0..params.batch {
        for head in 0..params.heads_q {
            let kv_batch = if fault == Fault::FirstBatchForAll { 0 } else { batch };
            let kv_head = match fault {
                Fault::FirstHeadForAll => 0,
                Fault::HeadsTakeTurns => head % params.heads_kv,
                _ => head / (params.heads_q / params.heads_kv),
            };
            let queries = load(memory, &query, [batch, head, params.len_q], params.head_dim, dtype)?;
            let keys = load(memory, &params.key, [kv_batch, kv_head, params.len_kv], params.head_dim, dtype)?;
            let values = load(memory, &params.value, [kv_batch, kv_head, params.len_kv], params.head_dim, dtype)?;
            for row in 0..params.len_q {
                let visible = visible_keys(params, row, kernel.ends_with("top_left"), fault);
                let (mut out, mut lse) =
                    attend(&queries[row as usize], &keys[..visible], &values[..visible], params.scale, fault);
                let leak = match fault {
                    Fault::FutureLeaks => values.last().map(|last| last.iter().map(|value| 1e-2 * value).collect()),
                    Fault::NanKeySpreads if keys.last().is_some_and(|last| last[0].is_nan()) => {
                        Some(vec![f32::NAN; out.len()])
                    }
                    Fault::NanQuerySpreads if row > 0 && queries[row as usize - 1][0].is_nan() => {
                        Some(vec![f32::NAN; out.len()])
                    }
                    _ => None,
                };
                out.iter_mut().zip(leak.iter().flatten()).for_each(|(out, leak): (&mut f32, &f32)| *out += leak);
                if fault == Fault::LseInBits {
                    lse *= std::f32::consts::LOG2_E;
                }
                store(memory, params, [batch, head, row], &out, lse, dtype, fault, launches)?;
            }
        }
    }
    let behind = params.lse + 4 * (params.batch * params.heads_q * params.len_q) as u64 + 8;
    match fault {
        Fault::WritesBefore => memory.store(params.output.address - 2, &[0, 0]),
        Fault::WritesBehind => memory.store(behind, &[0; 4]),
        Fault::InputScaled => memory.store(params.query.address, &[0, 0]),
        _ => Ok(()),
    }
}

fn visible_keys(params: &Params, row: i32, top_left: bool, fault: Fault) -> usize {
    let other = if params.diagonal == 0 { params.len_kv - params.len_q } else { 0 };
    let diagonal = match fault {
        Fault::MaskOffByOne => params.diagonal + 1,
        Fault::WrongAlignment => other,
        Fault::TopLeftOffByOne if top_left => params.diagonal - 1,
        _ => params.diagonal,
    };
    let visible = if params.causal == 0 { params.len_kv } else { (row + diagonal + 1).clamp(0, params.len_kv) };
    match fault {
        Fault::LastTileDropped if visible > 64 => (visible as usize - 1) / 64 * 64,
        _ => visible as usize,
    }
}

/// One row's output and log-sum-exp.
fn attend(query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], scale: f32, fault: Fault) -> (Vec<f32>, f32) {
    let scale = match fault {
        Fault::NoScale => 1.0,
        Fault::ScaleTwice => scale * scale,
        _ => scale,
    };
    let score = |(index, key): (usize, &Vec<f32>)| {
        let score = scale * query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>();
        match fault {
            Fault::MeanOfValues => 0.0,
            Fault::PositionMatters => score + 0.05 * index as f32,
            Fault::NanFlushed if score.is_nan() => 0.0,
            _ => score,
        }
    };
    let scores: Vec<f32> = keys.iter().enumerate().map(score).collect();
    let maximum = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - maximum).exp()).collect();
    let sum: f32 = weights.iter().sum();
    let mut out = vec![0.0; query.len()];
    for (weight, value) in weights.iter().zip(values) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
    }
    if keys.is_empty() && fault != Fault::EmptyRowIsNan {
        return (out, f32::NEG_INFINITY);
    }
    let gain = if fault == Fault::Overshoot { 1.01 } else { 1.0 };
    out.iter_mut().for_each(|out| *out *= gain / sum);
    (out, maximum + sum.ln())
}

fn address(tensor: &TensorParams, [batch, head, row]: [i32; 3]) -> u64 {
    let elements = i64::from(batch) * tensor.batch_stride
        + i64::from(head) * tensor.head_stride
        + i64::from(row) * tensor.row_stride;
    tensor.address + 2 * elements as u64
}

/// All rows of one head.
fn load(
    memory: &mut Memory,
    tensor: &TensorParams,
    [batch, head, rows]: [i32; 3],
    head_dim: i32,
    dtype: Dtype,
) -> Result<Vec<Vec<f32>>, Error> {
    (0..rows)
        .map(|row| {
            let bits = memory.elements(address(tensor, [batch, head, row]), head_dim as usize)?;
            Ok(bits.into_iter().map(|bits| dtype.decode(bits) as f32).collect())
        })
        .collect()
}

fn store(
    memory: &mut Memory,
    params: &Params,
    at: [i32; 3],
    out: &[f32],
    lse: f32,
    dtype: Dtype,
    fault: Fault,
    launches: u64,
) -> Result<(), Error> {
    let [batch, head, row] = at;
    let is_last = row + 1 == params.len_q;
    let mut bits: Vec<u16> = out.iter().map(|value| dtype.encode(f64::from(*value))).collect();
    match fault {
        Fault::ColumnMissing if is_last => drop(bits.pop()),
        Fault::RowTooLong if !is_last => bits.push(0),
        Fault::Unsteady if launches % 2 == 1 => bits[0] ^= 1,
        _ => (),
    }
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    memory.store(address(&params.output, at), &bytes)?;
    if fault == Fault::LseMissing && is_last {
        return Ok(());
    }
    let index = (batch * params.heads_q + head) * params.len_q + row;
    memory.store(params.lse + 4 * index as u64, &lse.to_le_bytes())
}
