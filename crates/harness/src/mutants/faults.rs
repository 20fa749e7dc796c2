//! Attention on the host, in the plainest f32, and every way here of getting it wrong.

use std::ops::Range;

use sdpa_core::{Dtype, ElementType, Error, Params, TensorParams};

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
    /// A window begins one key late.
    WindowBeginsLate,
    /// A window ends one key late.
    WindowEndsLate,
    /// A side of a window that has more than 127 keys has 127.
    WindowCutShort,
    /// A sink of −∞ counts as one of 0.
    SinkOfNothingWeighs,
    /// The soft cap is taken before the scale.
    CapBeforeScale,
    /// The sink counts twice.
    SinkTwice,
    /// A packed sequence sees the first key of the next.
    NeighboursKey,
    /// Slopes raise the scores.
    SlopeUpwards,
    /// The last packed sequence is taken for empty.
    LastSequenceForgotten,
    /// Empty sequences are not counted, so those behind them read the keys of others.
    EmptySequenceShifts,
    /// Key lengths are ignored.
    KeyLengthsIgnored,
    /// The entry behind a page's own is taken for it.
    PageOffByOne,
    /// A sequence's last page is taken for full.
    LastPageTooLong,
    /// The table's row of the first sequence serves all.
    NeighboursPage,
    /// A sequence has a key less: the one that was added last.
    StaleLength,
    /// Pages are taken to lie in the order of the sequence's keys.
    TableIgnored,
    /// Rows of the output are stored as wide as keys are.
    OutputAsWideAsKeys,
    /// Values are taken to lie as far apart as keys.
    ValuesLieAsKeys,
    /// The last column of the values leaks into the first of the output.
    ColumnsLeak,
    /// Values in 8 bits are multiplied by the scale of keys.
    KeyScaleForValues,
    /// Keys and values in 8 bits are multiplied by the scales of the next key head.
    NeighboursScale,
    /// Scales of the first key head serve all, if each has its own.
    ScaleOfFirstHead,
    /// The scale of keys in 8 bits is applied twice.
    KeyScaleSquared,
    /// Values in 8 bits are not scaled.
    ValueScaleForgotten,
    /// Bytes are read as e5m2.
    ReadAsE5m2,
    /// NaN in 8 bits is taken for 480.
    StoredNanIsNumber,
    /// The least bit of numbers below the smallest normal one of 8 bits is lost.
    StoredSubnormalsCut,
}

impl Fault {
    /// All, the absence of a fault first.
    pub const ALL: [Self; 56] = [
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
        Self::WindowBeginsLate,
        Self::WindowEndsLate,
        Self::WindowCutShort,
        Self::SinkOfNothingWeighs,
        Self::CapBeforeScale,
        Self::SinkTwice,
        Self::NeighboursKey,
        Self::SlopeUpwards,
        Self::LastSequenceForgotten,
        Self::EmptySequenceShifts,
        Self::KeyLengthsIgnored,
        Self::PageOffByOne,
        Self::LastPageTooLong,
        Self::NeighboursPage,
        Self::StaleLength,
        Self::TableIgnored,
        Self::OutputAsWideAsKeys,
        Self::ValuesLieAsKeys,
        Self::ColumnsLeak,
        Self::KeyScaleForValues,
        Self::NeighboursScale,
        Self::ScaleOfFirstHead,
        Self::KeyScaleSquared,
        Self::ValueScaleForgotten,
        Self::ReadAsE5m2,
        Self::StoredNanIsNumber,
        Self::StoredSubnormalsCut,
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
            Self::WindowBeginsLate => "window-begins-late",
            Self::WindowEndsLate => "window-ends-late",
            Self::WindowCutShort => "window-cut-short",
            Self::SinkOfNothingWeighs => "sink-of-nothing-weighs",
            Self::CapBeforeScale => "cap-before-scale",
            Self::SinkTwice => "sink-twice",
            Self::NeighboursKey => "neighbours-key",
            Self::SlopeUpwards => "slope-upwards",
            Self::LastSequenceForgotten => "last-sequence-forgotten",
            Self::EmptySequenceShifts => "empty-sequence-shifts",
            Self::KeyLengthsIgnored => "key-lengths-ignored",
            Self::PageOffByOne => "page-off-by-one",
            Self::LastPageTooLong => "last-page-too-long",
            Self::NeighboursPage => "neighbours-page",
            Self::StaleLength => "stale-length",
            Self::TableIgnored => "table-ignored",
            Self::OutputAsWideAsKeys => "output-as-wide-as-keys",
            Self::ValuesLieAsKeys => "values-lie-as-keys",
            Self::ColumnsLeak => "columns-leak",
            Self::KeyScaleForValues => "key-scale-for-values",
            Self::NeighboursScale => "neighbours-scale",
            Self::ScaleOfFirstHead => "scale-of-first-head",
            Self::KeyScaleSquared => "key-scale-squared",
            Self::ValueScaleForgotten => "value-scale-forgotten",
            Self::ReadAsE5m2 => "read-as-e5m2",
            Self::StoredNanIsNumber => "stored-nan-is-number",
            Self::StoredSubnormalsCut => "stored-subnormals-cut",
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
            let queries = load(memory, &query, [batch, head, params.len_q], params.head_dim, Stored::plain(dtype))?;
            let [key_type, value_type] = Stored::of_head(memory, params, kv_head, dtype, fault)?;
            let paged = params.extension.paging.table != 0;
            let whole = if paged { 0 } else { params.len_kv };
            let mut keys = load(memory, &params.key, [kv_batch, kv_head, whole], params.head_dim, key_type)?;
            let value_dim = params.extension.value_dim as i32;
            let mut value = params.value;
            if fault == Fault::ValuesLieAsKeys {
                value.row_stride = params.key.row_stride;
            }
            let mut values = load(memory, &value, [kv_batch, kv_head, whole], value_dim, value_type)?;
            let mut loaded = None;
            for row in 0..params.len_q {
                let Some(seen) = seen(memory, params, [batch, row], kernel.ends_with("top_left"), fault)? else {
                    continue;
                };
                if paged && loaded != Some(seen.sequence) {
                    let of = [seen.sequence as i32, kv_head, seen.length as i32];
                    keys = load_pages(memory, params, (&params.key, params.head_dim), of, key_type, fault)?;
                    values = load_pages(memory, params, (&value, value_dim), of, value_type, fault)?;
                    loaded = Some(seen.sequence);
                }
                let (first, visible) = (seen.keys.start, seen.keys.clone());
                let shape = Shape::new(memory, params, head, fault)?;
                let distances: Vec<f32> =
                    visible.clone().map(|key| (seen.diagonal - key as i64).abs() as f32).collect();
                let (mut out, mut lse) = attend(
                    &queries[row as usize],
                    &keys[visible.clone()],
                    (&values[visible], value_dim as usize),
                    &shape,
                    (first, &distances),
                    fault,
                );
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

/// The keys that a row sees, and the one on its diagonal.
struct Seen {
    keys: Range<usize>,
    diagonal: i64,
    /// Which of the sequences the row is of, and how many keys that has.
    sequence: usize,
    length: i64,
}

/// `None` for a row that belongs to no sequence.
fn seen(
    memory: &mut Memory,
    params: &Params,
    [batch, row]: [i32; 2],
    top_left: bool,
    fault: Fault,
) -> Result<Option<Seen>, Error> {
    let extension = &params.extension;
    let (row, len_kv) = (i64::from(row), i64::from(params.len_kv));
    let mut sequence = batch as usize;
    let (queries, mut keys) = if extension.sequences > 0 && extension.paging.table != 0 {
        let ends = memory.words(extension.cu_seqlens_q, extension.sequences as usize + 1)?;
        let own = ends.windows(2).position(|pair| (i64::from(pair[0])..i64::from(pair[1])).contains(&row));
        let Some(own) = own else { return Ok(None) };
        sequence = own;
        (i64::from(ends[own])..i64::from(ends[own + 1]), 0..paged_length(memory, params, own, fault)?)
    } else if extension.paging.table != 0 {
        (0..i64::from(params.len_q), 0..paged_length(memory, params, sequence, fault)?)
    } else if extension.sequences > 0 {
        let count = extension.sequences as usize + 1;
        let queries = memory.words(extension.cu_seqlens_q, count)?;
        let ends = memory.words(extension.cu_seqlens_k, count)?;
        let spans = |ends: &[u32]| -> Vec<Range<i64>> {
            ends.windows(2).map(|pair| i64::from(pair[0])..i64::from(pair[1])).collect()
        };
        let (queries, keys) = (spans(&queries), spans(&ends));
        let Some(own) = queries.iter().position(|range| range.contains(&row)) else { return Ok(None) };
        let of_keys = match fault {
            Fault::EmptySequenceShifts => own - queries[..own].iter().filter(|range| range.is_empty()).count(),
            _ => own,
        };
        let keys = keys[of_keys].clone();
        let forgotten = fault == Fault::LastSequenceForgotten && own + 2 == count;
        (queries[own].clone(), if forgotten { keys.start..keys.start } else { keys })
    } else if extension.key_lengths != 0 && fault != Fault::KeyLengthsIgnored {
        let used = memory.words(extension.key_lengths, batch as usize + 1)?[batch as usize];
        (0..i64::from(params.len_q), 0..i64::from(used))
    } else {
        (0..i64::from(params.len_q), 0..len_kv)
    };
    let bottom_right = (keys.end - keys.start) - (queries.end - queries.start);
    let (asked, other) = if extension.top_left == 1 { (0, bottom_right) } else { (bottom_right, 0) };
    let shift = match fault {
        Fault::MaskOffByOne => asked + 1,
        Fault::WrongAlignment => other,
        Fault::TopLeftOffByOne if top_left => asked - 1,
        _ => asked,
    };
    if fault == Fault::NeighboursKey && keys.end < len_kv {
        keys.end += 1;
    }
    let (length, own) = (keys.end - keys.start, row - queries.start + shift);
    let whole = keys.end;
    let side = |keys: i32| match fault {
        Fault::WindowCutShort if keys != i32::MAX => Some(i64::from(keys.min(127))),
        _ => (keys != i32::MAX).then_some(i64::from(keys)),
    };
    let begin = side(extension.window_left).map_or(0, |left| {
        let late = i64::from(fault == Fault::WindowBeginsLate);
        (own - left + late).clamp(0, length)
    });
    let end = side(extension.window_right).map_or(length, |right| {
        // A causal mask ends where it ends; only a window of its own ends late.
        let late = i64::from(fault == Fault::WindowEndsLate && params.causal == 0);
        (own + right + late + 1).clamp(0, length)
    });
    let mut end = end.max(begin);
    if fault == Fault::LastTileDropped && end > 64 {
        end = ((end - 1) / 64 * 64).max(begin);
    }
    let keys = (keys.start + begin) as usize..(keys.start + end) as usize;
    Ok(Some(Seen { diagonal: keys.start as i64 - begin + own, keys, sequence, length: whole }))
}

/// What a head's products become.
struct Shape {
    scale: f32,
    cap: f32,
    slope: f32,
    sink: f32,
}

impl Shape {
    fn new(memory: &mut Memory, params: &Params, head: i32, fault: Fault) -> Result<Self, Error> {
        let extension = &params.extension;
        let mut of_head = |address: u64, none: f32| match address {
            0 => Ok(none),
            _ => memory.words(address, head as usize + 1).map(|words| f32::from_bits(words[head as usize])),
        };
        let slope = of_head(extension.slopes, 0.0)?;
        let scale = match fault {
            Fault::NoScale => 1.0,
            Fault::ScaleTwice => params.scale * params.scale,
            _ => params.scale,
        };
        Ok(Self {
            scale,
            cap: extension.softcap,
            slope: if fault == Fault::SlopeUpwards { -slope } else { slope },
            sink: match of_head(extension.sinks, f32::NEG_INFINITY)? {
                f32::NEG_INFINITY if extension.sinks != 0 && fault == Fault::SinkOfNothingWeighs => 0.0,
                sink => sink,
            },
        })
    }

    fn score(&self, product: f32, distance: f32, fault: Fault) -> f32 {
        let capped = |score: f32| if self.cap == 0.0 { score } else { self.cap * (score / self.cap).tanh() };
        let score = match fault {
            Fault::CapBeforeScale => self.scale * capped(product),
            _ => capped(self.scale * product),
        };
        score - self.slope * distance
    }
}

/// One row's output and log-sum-exp. The first of the keys is number `first`, and each has its distance to the diagonal.
fn attend(
    query: &[f32],
    keys: &[Vec<f32>],
    (values, value_dim): (&[Vec<f32>], usize),
    shape: &Shape,
    (first, distances): (usize, &[f32]),
    fault: Fault,
) -> (Vec<f32>, f32) {
    let score = |(index, (key, distance)): (usize, (&Vec<f32>, &f32))| {
        let score = shape.score(query.iter().zip(key).map(|(q, k)| q * k).sum::<f32>(), *distance, fault);
        match fault {
            Fault::MeanOfValues => 0.0,
            Fault::PositionMatters => score + 0.05 * (first + index) as f32,
            Fault::NanFlushed if score.is_nan() => 0.0,
            _ => score,
        }
    };
    let scores: Vec<f32> = keys.iter().zip(distances).enumerate().map(score).collect();
    let maximum = scores.iter().copied().fold(shape.sink, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - maximum).exp()).collect();
    let sinks = if fault == Fault::SinkTwice { 2.0 } else { 1.0 };
    let mut sum: f32 = weights.iter().sum();
    if shape.sink != f32::NEG_INFINITY {
        sum += sinks * (shape.sink - maximum).exp();
    }
    let mut out = vec![0.0; value_dim];
    for (weight, value) in weights.iter().zip(values) {
        out.iter_mut().zip(value).for_each(|(out, value)| *out += weight * value);
    }
    if keys.is_empty() && fault != Fault::EmptyRowIsNan {
        return (out, shape.sink);
    }
    if fault == Fault::ColumnsLeak {
        let last = out.last().copied().unwrap_or_default();
        out[0] += 1e-2 * last;
    }
    let gain = if fault == Fault::Overshoot { 1.01 } else { 1.0 };
    out.iter_mut().for_each(|out| *out *= gain / sum);
    (out, maximum + sum.ln())
}

/// How the elements of a tensor are stored, and what they are multiplied by.
#[derive(Clone, Copy)]
struct Stored {
    element: ElementType,
    scale: f32,
    fault: Fault,
}

impl Stored {
    fn plain(dtype: Dtype) -> Self {
        Self { element: ElementType::Dtype(dtype), scale: 1.0, fault: Fault::None }
    }

    /// Of a head's keys and of its values.
    fn of_head(
        memory: &mut Memory,
        params: &Params,
        head: i32,
        dtype: Dtype,
        fault: Fault,
    ) -> Result<[Self; 2], Error> {
        let scales = params.extension.scales;
        if scales.key == 0 {
            return Ok([Self::plain(dtype); 2]);
        }
        let head = match fault {
            Fault::NeighboursScale => head + 1,
            Fault::ScaleOfFirstHead => 0,
            _ => head,
        };
        let at = scales.stride as u64 * head as u64 * 4;
        let mut scale = |address: u64| memory.words(address + at, 1).map(|words| f32::from_bits(words[0]));
        let (key, value) = (scale(scales.key)?, scale(scales.value)?);
        let (key, value) = match fault {
            Fault::KeyScaleForValues => (key, key),
            Fault::KeyScaleSquared => (key * key, value),
            Fault::ValueScaleForgotten => (key, 1.0),
            _ => (key, value),
        };
        Ok([key, value].map(|scale| Self { element: ElementType::E4m3, scale, fault }))
    }

    fn row(self, memory: &mut Memory, address: u64, width: usize) -> Result<Vec<f32>, Error> {
        if let ElementType::Dtype(dtype) = self.element {
            return Ok(memory.elements(address, width)?.into_iter().map(|bits| dtype.decode(bits) as f32).collect());
        }
        let value = |bits: u16| match self.fault {
            // Its bits are the upper half of f16's.
            Fault::ReadAsE5m2 => Dtype::F16.decode(bits << 8),
            Fault::StoredNanIsNumber if bits & 0x7f == 0x7f => {
                if bits & 0x80 == 0 {
                    480.0
                } else {
                    -480.0
                }
            }
            Fault::StoredSubnormalsCut if bits & 0x78 == 0 => self.element.decode(bits & 0xfe),
            _ => self.element.decode(bits),
        };
        Ok(memory.bytes(address, width)?.into_iter().map(|bits| self.scale * value(bits) as f32).collect())
    }
}

fn address(tensor: &TensorParams, bytes: usize, [batch, head, row]: [i32; 3]) -> u64 {
    let elements = i64::from(batch) * tensor.batch_stride
        + i64::from(head) * tensor.head_stride
        + i64::from(row) * tensor.row_stride;
    tensor.address + (bytes as i64 * elements) as u64
}

/// All rows of one head.
fn load(
    memory: &mut Memory,
    tensor: &TensorParams,
    [batch, head, rows]: [i32; 3],
    width: i32,
    stored: Stored,
) -> Result<Vec<Vec<f32>>, Error> {
    let address = |row| address(tensor, stored.element.bytes(), [batch, head, row]);
    (0..rows).map(|row| stored.row(memory, address(row), width as usize)).collect()
}

/// How many keys a sequence has whose keys lie in pages.
fn paged_length(memory: &mut Memory, params: &Params, sequence: usize, fault: Fault) -> Result<i64, Error> {
    let (extension, paging) = (&params.extension, &params.extension.paging);
    let length = |words: Vec<u32>| i64::from(words[sequence]);
    let mut found = length(memory.words(extension.key_lengths, sequence + 1)?);
    if paging.starts != 0 {
        let starts = memory.words(paging.starts, sequence + 2)?;
        let pages = i64::from(starts[sequence + 1] - starts[sequence]);
        found += ((pages - 1) << paging.page_shift) * i64::from(pages > 0);
    }
    let page = 1 << paging.page_shift;
    Ok(match fault {
        Fault::KeyLengthsIgnored => i64::from(params.len_kv),
        Fault::LastPageTooLong => (found + page - 1) / page * page,
        Fault::StaleLength => (found - 1).max(0),
        _ => found,
    })
}

/// A sequence's rows of one head, found through the table of pages.
fn load_pages(
    memory: &mut Memory,
    params: &Params,
    (tensor, width): (&TensorParams, i32),
    [sequence, head, length]: [i32; 3],
    stored: Stored,
    fault: Fault,
) -> Result<Vec<Vec<f32>>, Error> {
    let paging = &params.extension.paging;
    let row = if fault == Fault::NeighboursPage { 0 } else { sequence };
    let first = match paging.starts {
        0 => i64::from(row) * i64::from(paging.width),
        starts => i64::from(memory.words(starts, row as usize + 1)?[row as usize]),
    };
    (0..length)
        .map(|key| {
            let number = i64::from(key >> paging.page_shift) + i64::from(fault == Fault::PageOffByOne);
            let page = match fault {
                Fault::TableIgnored => first as i32 + (key >> paging.page_shift),
                _ => memory.words(paging.table + 4 * (first + number) as u64, 1)?[0] as i32,
            };
            let slot = key & ((1 << paging.page_shift) - 1);
            stored.row(memory, address(tensor, stored.element.bytes(), [page, head, slot]), width as usize)
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
        Fault::OutputAsWideAsKeys => bits.resize(params.head_dim as usize, 0),
        Fault::Unsteady if launches % 2 == 1 => bits[0] ^= 1,
        _ => (),
    }
    let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    memory.store(address(&params.output, dtype.bytes(), at), &bytes)?;
    if fault == Fault::LseMissing && is_last {
        return Ok(());
    }
    let index = (batch * params.heads_q + head) * params.len_q + row;
    memory.store(params.lse + 4 * index as u64, &lse.to_le_bytes())
}
