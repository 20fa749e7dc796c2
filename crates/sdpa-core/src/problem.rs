//! What to attend over: shapes, strides, mask and scale, validated once.

use std::fmt;

use thiserror::Error;

use crate::Dtype;

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Every query sees every key.
    Full,
    /// Bottom-right alignment: the last query sees every key, query `i` sees keys
    /// `j <= i + len_kv - len_q`. With more queries than keys the first rows see none.
    /// This is FlashAttention's meaning since 2.1 and what decoding with a cache needs.
    Causal,
    /// Top-left alignment: query `i` sees keys `j <= i`, whatever the lengths (PyTorch's `is_causal`).
    CausalTopLeft,
}

impl Mask {
    /// Lower-case name, as in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Causal => "causal",
            Self::CausalTopLeft => "causal-top-left",
        }
    }

    /// True where some query may be forbidden some key.
    pub const fn is_causal(self) -> bool {
        !matches!(self, Self::Full)
    }
}

/// Strides of a `[batch, heads, length, head_dim]` tensor in elements; the last dimension is contiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// Elements between two batches.
    pub batch: i64,
    /// Elements between two heads.
    pub head: i64,
    /// Elements between two positions.
    pub row: i64,
}

/// The two memory orders in daily use; both are only strides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `[batch, heads, length, head_dim]`, contiguous.
    Bhld,
    /// `[batch, length, heads, head_dim]`, contiguous: what a projection layer writes.
    Blhd,
}

impl Layout {
    /// Strides of a contiguous tensor of this order.
    pub fn strides(self, heads: usize, length: usize, head_dim: usize) -> Strides {
        let (heads, length, head_dim) = (heads as i64, length as i64, head_dim as i64);
        // What is too large for the type is too large for a tensor, which building the problem finds.
        let batch = heads.saturating_mul(length).saturating_mul(head_dim);
        match self {
            Self::Bhld => Strides { batch, head: length.saturating_mul(head_dim), row: head_dim },
            Self::Blhd => Strides { batch, head: head_dim, row: heads.saturating_mul(head_dim) },
        }
    }
}

/// One of the four tensors of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// Q, `[batch, heads_q, len_q, head_dim]`.
    Query,
    /// K, `[batch, heads_kv, len_kv, head_dim]`.
    Key,
    /// V, `[batch, heads_kv, len_kv, head_dim]`.
    Value,
    /// O, `[batch, heads_q, len_q, head_dim]`.
    Output,
}

impl Operand {
    /// All four, in the order of the parameter block.
    pub const ALL: [Self; 4] = [Self::Query, Self::Key, Self::Value, Self::Output];

    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Key => "key",
            Self::Value => "value",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a problem cannot exist.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ProblemError {
    /// Attention without a head is nobody's question.
    #[error("{what} is 0: there must be at least one head")]
    NoHeads {
        /// `heads_q` or `heads_kv`.
        what: &'static str,
    },
    /// Grouped-query attention shares each key head between equally many query heads.
    #[error("heads_q is {heads_q} and heads_kv is {heads_kv}: the query heads must be a multiple of the key heads")]
    Heads {
        /// Query heads asked for.
        heads_q: usize,
        /// Key and value heads asked for.
        heads_kv: usize,
    },
    /// Rows are read 16 bytes at a time.
    #[error("head_dim is {0}: it must be a multiple of 8 between 8 and {MAX_HEAD_DIM}")]
    HeadDim(usize),
    /// Softmax of a NaN or an infinity is nothing.
    #[error(
        "scale is {0:e}: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too"
    )]
    Scale(f32),
    /// Kernels count positions and heads in 32 bits.
    #[error("{what} is {found}: at most {MAX_EXTENT} fit the kernels' 32-bit indices")]
    TooLarge {
        /// The offending dimension.
        what: &'static str,
        /// Its value.
        found: usize,
    },
    /// Walking backwards through memory is not supported.
    #[error("{operand}'s {dimension} stride is {found}: strides must not be negative")]
    NegativeStride {
        /// Which tensor.
        operand: Operand,
        /// `batch`, `head` or `row`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
    },
    /// Two elements of the output would share memory.
    #[error(
        "output's {dimension} stride is {found}, but {needed} elements lie below it: two of its elements would share memory"
    )]
    OverlappingOutput {
        /// `batch`, `head` or `row`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
        /// The least stride that keeps the elements apart.
        needed: i64,
    },
    /// The tensor is longer than an address space.
    #[error("{operand} spans more elements than 64 bits count: make it smaller, or check its strides")]
    SpanOverflow {
        /// Which tensor.
        operand: Operand,
    },
}

/// Largest head dimension that any generation may be asked for.
pub const MAX_HEAD_DIM: usize = 256;

/// Largest length, batch, number of heads and number of query rows: one tile below the largest 32-bit integer, so that a
/// kernel may round a position up to its tile.
const MAX_EXTENT: usize = i32::MAX as usize - 1024;

/// One attention problem, `O = softmax(scale · Q Kᵀ, masked) · V`. A `Problem` that exists is valid.
///
/// Any length is ordinary, 0 and 1 included; query and key lengths may differ; a query head `h` reads key head
/// `h / (heads_q / heads_kv)`.
///
/// ```
/// use sdpa_core::{Dtype, Layout, Mask, Problem};
///
/// let problem = Problem::new(2, 32, 2048, 128)
///     .heads_kv(8)
///     .dtype(Dtype::Bf16)
///     .mask(Mask::Causal)
///     .layout(Layout::Blhd)
///     .build()?;
/// assert_eq!(problem.scale(), 1.0 / 128f32.sqrt());
/// # Ok::<(), sdpa_core::ProblemError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    batch: usize,
    heads_q: usize,
    heads_kv: usize,
    len_q: usize,
    len_kv: usize,
    head_dim: usize,
    dtype: Dtype,
    mask: Mask,
    scale: f32,
    strides: [Strides; 4],
}

impl Problem {
    /// Starts a self-attention problem of shape `[batch, heads, length, head_dim]`: f16, no mask, scale 1/√head_dim,
    /// contiguous. Change what differs, then [`build`](ProblemBuilder::build).
    #[expect(clippy::new_ret_no_self, reason = "a problem starts as its builder, so that it is validated once")]
    pub fn new(batch: usize, heads: usize, length: usize, head_dim: usize) -> ProblemBuilder {
        ProblemBuilder {
            batch,
            heads_q: heads,
            heads_kv: heads,
            len_q: length,
            len_kv: length,
            head_dim,
            dtype: Dtype::F16,
            mask: Mask::Full,
            scale: None,
            layouts: [Layout::Bhld; 4],
            strides: [None; 4],
        }
    }

    /// Independent sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Query heads of each sequence.
    pub fn heads_q(&self) -> usize {
        self.heads_q
    }

    /// Key and value heads of each sequence; divides [`heads_q`](Self::heads_q).
    pub fn heads_kv(&self) -> usize {
        self.heads_kv
    }

    /// Queries of each head.
    pub fn len_q(&self) -> usize {
        self.len_q
    }

    /// Keys and values of each head.
    pub fn len_kv(&self) -> usize {
        self.len_kv
    }

    /// Elements of a query, key or value vector.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Element type of all four tensors.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Which keys a query sees.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// Factor on `query · key` before the softmax.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// Strides of an operand, in elements.
    pub fn strides(&self, operand: Operand) -> Strides {
        self.strides[operand as usize]
    }

    /// Shape `[batch, heads, length, head_dim]` of an operand.
    pub fn shape(&self, operand: Operand) -> [usize; 4] {
        match operand {
            Operand::Query | Operand::Output => [self.batch, self.heads_q, self.len_q, self.head_dim],
            Operand::Key | Operand::Value => [self.batch, self.heads_kv, self.len_kv, self.head_dim],
        }
    }

    /// Elements between an operand's first and one past its last: what its buffer must hold.
    pub fn span(&self, operand: Operand) -> usize {
        let Strides { batch, head, row } = self.strides(operand);
        let [batches, heads, length, head_dim] = self.shape(operand);
        if batches == 0 || heads == 0 || length == 0 {
            return 0;
        }
        let last = |count: usize, stride: i64| (count - 1) * stride as usize;
        last(batches, batch) + last(heads, head) + last(length, row) + head_dim
    }

    /// Offset in elements of row `[batch, head, row]` of an operand.
    pub fn row_offset(&self, operand: Operand, batch: usize, head: usize, row: usize) -> usize {
        let strides = self.strides(operand);
        batch * strides.batch as usize + head * strides.head as usize + row * strides.row as usize
    }

    /// Elements of the log-sum-exp tensor, `[batch, heads_q, len_q]`, contiguous f32.
    pub fn lse_len(&self) -> usize {
        self.batch * self.heads_q * self.len_q
    }

    /// Key head that a query head reads.
    pub fn kv_head(&self, query_head: usize) -> usize {
        query_head / (self.heads_q / self.heads_kv)
    }

    /// `d` such that query `i` sees keys `j <= i + d`; `None` where every query sees every key.
    pub fn diagonal(&self) -> Option<i64> {
        match self.mask {
            Mask::Full => None,
            Mask::Causal => Some(self.len_kv as i64 - self.len_q as i64),
            Mask::CausalTopLeft => Some(0),
        }
    }

    /// How many keys, counted from the first, a query sees.
    pub fn visible_keys(&self, query: usize) -> usize {
        match self.diagonal() {
            None => self.len_kv,
            Some(diagonal) => (query as i64 + diagonal + 1).clamp(0, self.len_kv as i64) as usize,
        }
    }

    /// Floating-point operations by the convention of the attention papers: 4·batch·heads·len_q·len_kv·head_dim,
    /// halved for causal masks.
    pub fn flops(&self) -> f64 {
        let pairs = self.len_q as f64 * self.len_kv as f64 * if self.mask.is_causal() { 0.5 } else { 1.0 };
        4.0 * self.batch as f64 * self.heads_q as f64 * pairs * self.head_dim as f64
    }

    /// A builder that holds this problem, to make one that differs in one thing. Strides are kept as they are.
    pub fn to_builder(&self) -> ProblemBuilder {
        ProblemBuilder {
            batch: self.batch,
            heads_q: self.heads_q,
            heads_kv: self.heads_kv,
            len_q: self.len_q,
            len_kv: self.len_kv,
            head_dim: self.head_dim,
            dtype: self.dtype,
            mask: self.mask,
            scale: Some(self.scale),
            layouts: [Layout::Bhld; 4],
            strides: self.strides.map(Some),
        }
    }
}

/// Compact one-line form: `b2 h32/8 q128 kv2048 d128 bf16 causal` (a second number only where it differs).
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{} h{}", self.batch, self.heads_q)?;
        if self.heads_kv != self.heads_q {
            write!(f, "/{}", self.heads_kv)?;
        }
        if self.len_q == self.len_kv {
            write!(f, " L{}", self.len_q)?;
        } else {
            write!(f, " q{} kv{}", self.len_q, self.len_kv)?;
        }
        write!(f, " d{} {} {}", self.head_dim, self.dtype, self.mask.name())
    }
}

/// Collects what a [`Problem`] is made of; see [`Problem::new`].
#[derive(Clone, Debug)]
#[must_use = "a builder is not a problem until `build`"]
pub struct ProblemBuilder {
    batch: usize,
    heads_q: usize,
    heads_kv: usize,
    len_q: usize,
    len_kv: usize,
    head_dim: usize,
    dtype: Dtype,
    mask: Mask,
    scale: Option<f32>,
    layouts: [Layout; 4],
    strides: [Option<Strides>; 4],
}

impl ProblemBuilder {
    /// Key and value heads, a divisor of the query heads (grouped-query attention).
    pub fn heads_kv(mut self, heads: usize) -> Self {
        self.heads_kv = heads;
        self
    }

    /// Number of queries, where it differs from the number of keys.
    pub fn len_q(mut self, length: usize) -> Self {
        self.len_q = length;
        self
    }

    /// Number of keys and values, where it differs from the number of queries.
    pub fn len_kv(mut self, length: usize) -> Self {
        self.len_kv = length;
        self
    }

    /// Element type of all four tensors.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// Which keys a query sees.
    pub fn mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// Factor on `query · key`; 1/√head_dim where not given.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = Some(scale);
        self
    }

    /// Contiguous memory order of all four tensors; forgets strides given before.
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layouts = [layout; 4];
        self.strides = [None; 4];
        self
    }

    /// Strides of one operand, in elements. Inputs may overlap themselves (a stride of 0 repeats), the output may not.
    pub fn strides(mut self, operand: Operand, strides: Strides) -> Self {
        self.strides[operand as usize] = Some(strides);
        self
    }

    /// Validates everything at once.
    ///
    /// # Errors
    /// A [`ProblemError`] that names the first thing found wrong.
    pub fn build(self) -> Result<Problem, ProblemError> {
        let Self { batch, heads_q, heads_kv, len_q, len_kv, head_dim, dtype, mask, .. } = self;
        for (what, found) in [
            ("batch", batch),
            ("heads_q", heads_q),
            ("heads_kv", heads_kv),
            ("len_q", len_q),
            ("len_kv", len_kv),
            ("batch·heads_q·len_q", batch.saturating_mul(heads_q).saturating_mul(len_q)),
        ] {
            if found > MAX_EXTENT {
                return Err(ProblemError::TooLarge { what, found });
            }
        }
        if let Some((what, _)) = [("heads_q", heads_q), ("heads_kv", heads_kv)].iter().find(|(_, heads)| *heads == 0) {
            return Err(ProblemError::NoHeads { what });
        }
        if !heads_q.is_multiple_of(heads_kv) {
            return Err(ProblemError::Heads { heads_q, heads_kv });
        }
        if head_dim == 0 || head_dim > MAX_HEAD_DIM || !head_dim.is_multiple_of(8) {
            return Err(ProblemError::HeadDim(head_dim));
        }
        let scale = self.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        if !crate::params::scale_log2e(scale).is_finite() {
            return Err(ProblemError::Scale(scale));
        }
        let strides = Operand::ALL.map(|operand| {
            let (heads, length) = match operand {
                Operand::Query | Operand::Output => (heads_q, len_q),
                Operand::Key | Operand::Value => (heads_kv, len_kv),
            };
            let index = operand as usize;
            self.strides[index].unwrap_or_else(|| self.layouts[index].strides(heads, length, head_dim))
        });
        let problem = Problem { batch, heads_q, heads_kv, len_q, len_kv, head_dim, dtype, mask, scale, strides };
        for operand in Operand::ALL {
            problem.check_strides(operand)?;
        }
        problem.check_output_is_injective()?;
        Ok(problem)
    }
}

impl Problem {
    /// Name, count and stride of an operand's outer dimensions, outermost first.
    pub(crate) fn dimensions(&self, operand: Operand) -> [(&'static str, usize, i64); 3] {
        let Strides { batch, head, row } = self.strides(operand);
        let [batches, heads, length, _] = self.shape(operand);
        [("batch", batches, batch), ("head", heads, head), ("row", length, row)]
    }

    fn check_strides(&self, operand: Operand) -> Result<(), ProblemError> {
        let mut span = self.head_dim as i64;
        for (dimension, count, stride) in self.dimensions(operand) {
            if stride < 0 {
                return Err(ProblemError::NegativeStride { operand, dimension, found: stride });
            }
            span = (count.max(1) as i64 - 1)
                .checked_mul(stride)
                .and_then(|extent| span.checked_add(extent))
                // Bytes, too, must be countable.
                .filter(|span| *span < i64::MAX / 8)
                .ok_or(ProblemError::SpanOverflow { operand })?;
        }
        Ok(())
    }

    /// Sorted by stride, each dimension must step over everything below it. Sufficient, and necessary for every
    /// layout that is a permutation of padded dimensions.
    fn check_output_is_injective(&self) -> Result<(), ProblemError> {
        if self.span(Operand::Output) == 0 {
            return Ok(());
        }
        let mut dimensions = self.dimensions(Operand::Output);
        dimensions.sort_by_key(|(_, _, stride)| *stride);
        let mut needed = self.head_dim as i64;
        for (dimension, count, stride) in dimensions {
            if count > 1 {
                if stride < needed {
                    return Err(ProblemError::OverlappingOutput { dimension, found: stride, needed });
                }
                needed += (count as i64 - 1) * stride;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bottom_right_and_top_left_differ_only_in_their_diagonal() {
        let build = |mask| Problem::new(1, 1, 3, 8).len_kv(5).mask(mask).build().unwrap();
        let visible = |mask| (0..3).map(|query| build(mask).visible_keys(query)).collect::<Vec<_>>();
        assert_eq!(visible(Mask::Full), [5, 5, 5]);
        assert_eq!(visible(Mask::Causal), [3, 4, 5]);
        assert_eq!(visible(Mask::CausalTopLeft), [1, 2, 3]);
    }

    #[test]
    fn more_queries_than_keys_leave_the_first_rows_empty() {
        let problem = Problem::new(1, 1, 5, 8).len_kv(2).mask(Mask::Causal).build().unwrap();
        assert_eq!((0..5).map(|query| problem.visible_keys(query)).collect::<Vec<_>>(), [0, 0, 0, 1, 2]);
    }

    #[test]
    fn layouts_are_only_strides() {
        let problem = Problem::new(2, 3, 5, 8).layout(Layout::Blhd).build().unwrap();
        assert_eq!(problem.strides(Operand::Query), Strides { batch: 120, head: 8, row: 24 });
        assert_eq!(problem.span(Operand::Query), 240);
        assert_eq!(problem.row_offset(Operand::Query, 1, 2, 3), 120 + 16 + 72);
    }

    #[test]
    fn empty_problems_span_nothing() {
        let problem = Problem::new(1, 2, 0, 64).build().unwrap();
        assert_eq!(Operand::ALL.map(|operand| problem.span(operand)), [0; 4]);
    }

    #[test]
    fn errors_say_what_was_found_and_expected() {
        let text = |builder: ProblemBuilder| builder.build().unwrap_err().to_string();
        let rows = |row| Strides { batch: 0, head: 0, row };
        insta::assert_snapshot!(
            [
                text(Problem::new(1, 8, 4, 64).heads_kv(3)),
                text(Problem::new(1, 8, 4, 64).heads_kv(0)),
                text(Problem::new(1, 0, 4, 64)),
                text(Problem::new(1, 8, 4, 60)),
                text(Problem::new(1, 8, 4, 264)),
                text(Problem::new(1, 8, 4, 64).scale(f32::NAN)),
                text(Problem::new(1, 8, 4, 64).scale(-2.4e38)),
                text(Problem::new(1, 8, usize::MAX, 64)),
                text(Problem::new(1, 1, 4, 64).strides(Operand::Key, rows(-64))),
                text(Problem::new(1, 1, 4, 64).strides(Operand::Output, rows(32))),
                text(Problem::new(1, 1, 4, 64).strides(Operand::Value, rows(i64::MAX / 4))),
            ]
            .join("\n"),
            @r"
        heads_q is 8 and heads_kv is 3: the query heads must be a multiple of the key heads
        heads_kv is 0: there must be at least one head
        heads_q is 0: there must be at least one head
        head_dim is 60: it must be a multiple of 8 between 8 and 256
        head_dim is 264: it must be a multiple of 8 between 8 and 256
        scale is NaN: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too
        scale is -2.4e38: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too
        len_q is 18446744073709551615: at most 2147482623 fit the kernels' 32-bit indices
        key's row stride is -64: strides must not be negative
        output's row stride is 32, but 64 elements lie below it: two of its elements would share memory
        value spans more elements than 64 bits count: make it smaller, or check its strides
        "
        );
    }

    #[test]
    fn the_limits_in_the_texts_are_those_that_are_kept() {
        let length = |length| Problem::new(0, 1, length, 8).build();
        assert!(length(MAX_EXTENT).is_ok());
        assert_eq!(length(MAX_EXTENT + 1), Err(ProblemError::TooLarge { what: "len_q", found: MAX_EXTENT + 1 }));
        let scale = |scale| Problem::new(1, 1, 4, 8).scale(scale).build();
        for largest in [2.35e38, -2.35e38] {
            assert!(scale(largest).is_ok());
            assert!(scale(1.01 * largest).is_err());
        }
    }

    #[test]
    fn nothing_of_huge_things_is_a_problem_or_an_error_and_no_panic() {
        for layout in [Layout::Bhld, Layout::Blhd] {
            for (batch, heads, length) in
                [(0, MAX_EXTENT, MAX_EXTENT), (MAX_EXTENT, MAX_EXTENT, 0), (0, 1 << 20, 1 << 20)]
            {
                let built = Problem::new(batch, heads, length, 256).layout(layout).build();
                match built {
                    Ok(problem) => assert_eq!(problem.span(Operand::Key), 0),
                    Err(error) => assert!(matches!(error, ProblemError::SpanOverflow { .. }), "{error}"),
                }
            }
        }
    }

    #[test]
    fn inputs_may_repeat_themselves_with_a_stride_of_zero() {
        let repeated = Strides { batch: 0, head: 0, row: 8 };
        let problem = Problem::new(4, 2, 3, 8).strides(Operand::Key, repeated).build().unwrap();
        assert_eq!(problem.span(Operand::Key), 24);
    }
}
