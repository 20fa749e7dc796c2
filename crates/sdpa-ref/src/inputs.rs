//! The raw inputs, the rows to compute, and reading one head of an operand.

use ndarray::Array2;
use sdpa_core::{KvScales, KvStorage, Operand, PageTable, Problem, Sequence};
use thiserror::Error;

/// Element bits of the three inputs, each strided as the problem says, and what the problem's extensions read. Of elements in 8
/// bits each has a number of its own, in whose lower half it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs<'a> {
    /// Q, `[batch, heads_q, len_q, head_dim]`.
    pub query: &'a [u16],
    /// K, `[batch, heads_kv, len_kv, head_dim]`.
    pub key: &'a [u16],
    /// V, `[batch, heads_kv, len_kv, value_dim]`.
    pub value: &'a [u16],
    /// What extensions read.
    pub extension: ExtensionInputs<'a>,
}

/// What the extensions of a problem read; empty where it does not ask for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExtensionInputs<'a> {
    /// Where each packed sequence's queries begin and the last one's end, `[sequences + 1]`.
    pub cu_seqlens_q: &'a [u32],
    /// The same of the keys.
    pub cu_seqlens_k: &'a [u32],
    /// Keys that each sequence uses, `[sequences]`: of a dense batch, or with keys in pages.
    pub key_lengths: &'a [u32],
    /// `[heads_q]`.
    pub sinks: &'a [f32],
    /// `[heads_q]`.
    pub slopes: &'a [f32],
    /// The pages of each sequence.
    pub block_table: &'a [u32],
    /// Where each sequence's pages begin in lists of them and the last one's end, `[sequences + 1]`.
    pub page_starts: &'a [u32],
    /// What keys in e4m3 are multiplied by, `[1]` or `[heads_kv]`.
    pub key_scale: &'a [f32],
    /// The same of values.
    pub value_scale: &'a [f32],
}

impl ExtensionInputs<'_> {
    /// What the elements of an operand's head are multiplied by: 1 for those in the problem's dtype.
    pub fn scale(&self, problem: &Problem, operand: Operand, head: usize) -> f32 {
        let scales = match operand {
            Operand::Key => self.key_scale,
            Operand::Value => self.value_scale,
            Operand::Query | Operand::Output => return 1.0,
        };
        match problem.kv_storage() {
            KvStorage::Dtype => 1.0,
            KvStorage::E4m3(KvScales::Tensor) => scales[0],
            KvStorage::E4m3(KvScales::Head) => scales[head],
        }
    }

    /// The sequences of a batch's tensors, in their order. What lies in none of them belongs to no sequence.
    pub fn sequences(&self, problem: &Problem, batch: usize) -> Vec<Sequence> {
        if problem.packing().is_some() {
            let spans = |boundaries: &[u32]| -> Vec<std::ops::Range<usize>> {
                boundaries.windows(2).map(|pair| pair[0] as usize..pair[1] as usize).collect()
            };
            let queries = spans(self.cu_seqlens_q);
            let keys = match problem.paging() {
                None => spans(self.cu_seqlens_k),
                // Each counts from its own first.
                Some(_) => self.key_lengths.iter().map(|length| 0..*length as usize).collect(),
            };
            return queries.into_iter().zip(keys).map(|(queries, keys)| Sequence { queries, keys }).collect();
        }
        let used = if problem.key_lengths() { self.key_lengths[batch] as usize } else { problem.len_kv() };
        vec![Sequence { queries: 0..problem.len_q(), keys: 0..used }]
    }
}

/// Which rows of the output to compute: every combination of the three lists, in their order.
///
/// For problems too large to check whole. Each row still sees all of its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Sequences.
    pub batches: Vec<usize>,
    /// Query heads.
    pub heads: Vec<usize>,
    /// Query positions.
    pub queries: Vec<usize>,
}

impl Rows {
    /// Every row of the problem.
    pub fn all(problem: &Problem) -> Self {
        Self {
            batches: (0..problem.batch()).collect(),
            heads: (0..problem.heads_q()).collect(),
            queries: (0..problem.len_q()).collect(),
        }
    }

    /// Shape `[batches, heads, queries]`.
    pub fn shape(&self) -> [usize; 3] {
        [self.batches.len(), self.heads.len(), self.queries.len()]
    }
}

/// Why there is nothing to compare with.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// A buffer ends before the tensor that the problem describes.
    #[error("{operand} has {found} elements: the problem's shape and strides need {needed}")]
    BufferTooShort {
        /// Which tensor.
        operand: Operand,
        /// Elements given.
        found: usize,
        /// Elements needed.
        needed: usize,
    },
    /// What an extension reads is missing, too short or contradicts the problem.
    #[error("{tensor} {found}: the problem ({problem}) needs {needed}")]
    Extension {
        /// Which tensor.
        tensor: &'static str,
        /// What is there.
        found: String,
        /// What should be.
        needed: String,
        /// The problem.
        problem: String,
    },
    /// A row was asked for that the problem does not have.
    #[error("row selection names {what} {found}: the problem has {limit}")]
    RowOutOfRange {
        /// `batch`, `head` or `query`.
        what: &'static str,
        /// The index asked for.
        found: usize,
        /// How many there are.
        limit: usize,
    },
}

impl Inputs<'_> {
    /// Checks buffers and rows, so that everything after may index freely.
    pub(crate) fn check(&self, problem: &Problem, rows: &Rows) -> Result<(), ReferenceError> {
        for operand in [Operand::Query, Operand::Key, Operand::Value] {
            let (found, needed) = (self.bits(operand).len(), problem.span(operand));
            if found < needed {
                return Err(ReferenceError::BufferTooShort { operand, found, needed });
            }
        }
        self.check_extension(problem)?;
        for (what, indices, limit) in [
            ("batch", &rows.batches, problem.batch()),
            ("head", &rows.heads, problem.heads_q()),
            ("query", &rows.queries, problem.len_q()),
        ] {
            if let Some(&found) = indices.iter().find(|index| **index >= limit) {
                return Err(ReferenceError::RowOutOfRange { what, found, limit });
            }
        }
        Ok(())
    }

    fn check_extension(&self, problem: &Problem) -> Result<(), ReferenceError> {
        let ExtensionInputs { cu_seqlens_q, cu_seqlens_k, key_lengths, sinks, slopes, block_table, .. } =
            self.extension;
        let ExtensionInputs { page_starts, key_scale, value_scale, .. } = self.extension;
        let (sequences, paging) = (problem.sequence_count(), problem.paging());
        let boundaries = problem.packing().map(|_| sequences + 1);
        let lists = paging.filter(|paging| matches!(paging.table, PageTable::Lists { .. }));
        let wrong = |tensor, found, needed| {
            Err(ReferenceError::Extension { tensor, found, needed, problem: problem.to_string() })
        };
        let counts = [
            ("cu_seqlens_q", cu_seqlens_q.len(), boundaries),
            ("cu_seqlens_k", cu_seqlens_k.len(), boundaries.filter(|_| paging.is_none())),
            ("key_lengths", key_lengths.len(), problem.key_lengths().then_some(sequences)),
            ("page_starts", page_starts.len(), lists.map(|_| sequences + 1)),
            ("sinks", sinks.len(), problem.sinks().then(|| problem.heads_q())),
            ("slopes", slopes.len(), problem.slopes().then(|| problem.heads_q())),
            ("key_scale", key_scale.len(), Some(problem.kv_scale_count())),
            ("value_scale", value_scale.len(), Some(problem.kv_scale_count())),
        ];
        for (tensor, found, needed) in counts {
            let needed = needed.unwrap_or(0);
            if found != needed {
                return wrong(tensor, format!("has {found} numbers"), format!("{needed}"));
            }
        }
        for (tensor, boundaries, total) in
            [("cu_seqlens_q", cu_seqlens_q, problem.len_q()), ("cu_seqlens_k", cu_seqlens_k, problem.len_kv())]
        {
            let rises = boundaries.is_sorted() && boundaries.first().is_none_or(|first| *first == 0);
            if !rises || boundaries.last().is_some_and(|last| *last as usize > total) {
                return wrong(tensor, format!("is {boundaries:?}"), format!("numbers that rise from 0 to {total}"));
            }
        }
        if let Some(used) = key_lengths.iter().find(|used| **used as usize > problem.len_kv()) {
            return wrong("key_lengths", format!("holds {used}"), format!("at most {}", problem.len_kv()));
        }
        let entries = paging.map_or(0, |paging| paging.entries(sequences, problem.len_kv()));
        if block_table.len() < entries {
            return wrong("block_table", format!("has {} numbers", block_table.len()), format!("{entries}"));
        }
        Ok(())
    }

    fn bits(&self, operand: Operand) -> &[u16] {
        match operand {
            Operand::Query => self.query,
            Operand::Key => self.key,
            Operand::Value => self.value,
            Operand::Output => &[],
        }
    }

    /// Exact values of some rows of one head, `[rows, width]`: what is stored, times its scale.
    pub(crate) fn read(
        &self,
        problem: &Problem,
        operand: Operand,
        batch: usize,
        head: usize,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Array2<f64> {
        let stored = self.read_stored(problem, operand, batch, head, rows);
        // 24 bits by 4: exact in f64.
        match self.extension.scale(problem, operand, head) {
            1.0 => stored,
            scale => stored * f64::from(scale),
        }
    }

    /// The same without the scale.
    pub(crate) fn read_stored(
        &self,
        problem: &Problem,
        operand: Operand,
        batch: usize,
        head: usize,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Array2<f64> {
        let (bits, width, element) = (self.bits(operand), problem.width(operand), problem.element(operand));
        let mut values = Vec::with_capacity(rows.len() * width);
        let count = rows.len();
        for row in rows {
            let start = problem.row_offset(operand, batch, head, row);
            values.extend(bits[start..start + width].iter().map(|bits| element.decode(*bits)));
        }
        Array2::from_shape_vec((count, width), values).expect("one value for each element")
    }
}
