//! What to attend over: shapes, strides, mask and scale, validated once.

mod error;

use std::fmt;
use std::ops::Range;

pub use error::ProblemError;

use crate::extension::{
    Extensions, KvScales, KvStorage, LARGEST_SOFTCAP, Packing, PageTable, Paging, Sequence, Window,
};
use crate::{Dtype, ElementType};

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
    /// K, `[batch, heads_kv, len_kv, head_dim]`, or `[pages, heads_kv, page, head_dim]`.
    Key,
    /// V, as K, with rows of `value_dim` elements.
    Value,
    /// O, `[batch, heads_q, len_q, value_dim]`.
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
    value_dim: usize,
    dtype: Dtype,
    mask: Mask,
    scale: f32,
    strides: [Strides; 4],
    packing: Option<Packing>,
    key_lengths: bool,
    window: Window,
    softcap: Option<f32>,
    sinks: bool,
    slopes: bool,
    paging: Option<Paging>,
    kv_storage: KvStorage,
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
            value_dim: None,
            dtype: Dtype::F16,
            mask: Mask::Full,
            scale: None,
            layouts: [Layout::Bhld; 4],
            strides: [None; 4],
            packing: None,
            key_lengths: false,
            window: Window::ALL,
            softcap: None,
            sinks: false,
            slopes: false,
            paging: None,
            kv_storage: KvStorage::Dtype,
        }
    }

    /// Starts a problem of packed sequences: tensors `[total, heads, head_dim]`, contiguous, as many keys as queries. To
    /// everything that knows of one tensor only it is a batch of one, whose length is the total. `len_kv` changes the total
    /// of the keys, [`strides`](ProblemBuilder::strides) the layout.
    ///
    /// ```
    /// use sdpa_core::{Packing, Problem};
    ///
    /// let packing = Packing { sequences: 64, longest_q: 512, longest_kv: 512 };
    /// let problem = Problem::packed(packing, 12, 7357, 64).build()?;
    /// assert_eq!((problem.batch(), problem.len_q(), problem.sequence_count()), (1, 7357, 64));
    /// # Ok::<(), sdpa_core::ProblemError>(())
    /// ```
    pub fn packed(packing: Packing, heads: usize, total: usize, head_dim: usize) -> ProblemBuilder {
        let builder = Self::new(1, heads, total, head_dim).layout(Layout::Blhd);
        ProblemBuilder { packing: Some(packing), ..builder }
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

    /// Keys and values of each head; if they lie in pages, the most that a sequence has.
    pub fn len_kv(&self) -> usize {
        self.len_kv
    }

    /// Elements of a query or key vector, and of a value unless [`value_dim`](Self::value_dim) says otherwise.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Elements of a value vector and of a row of the output.
    pub fn value_dim(&self) -> usize {
        self.value_dim
    }

    /// Elements of a row of an operand: [`head_dim`](Self::head_dim) or [`value_dim`](Self::value_dim).
    pub fn width(&self, operand: Operand) -> usize {
        match operand {
            Operand::Query | Operand::Key => self.head_dim,
            Operand::Value | Operand::Output => self.value_dim,
        }
    }

    /// Element type of query and output, and of keys and values unless [`kv_storage`](Self::kv_storage) says otherwise.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// How keys and values are stored.
    pub fn kv_storage(&self) -> KvStorage {
        self.kv_storage
    }

    /// How the elements of an operand lie in memory.
    pub fn element(&self, operand: Operand) -> ElementType {
        match (operand, self.kv_storage) {
            (Operand::Key | Operand::Value, KvStorage::E4m3(_)) => ElementType::E4m3,
            _ => ElementType::Dtype(self.dtype),
        }
    }

    /// Scales of keys, and as many of values; 0 if these are stored in the problem's dtype.
    pub fn kv_scale_count(&self) -> usize {
        match self.kv_storage {
            KvStorage::Dtype => 0,
            KvStorage::E4m3(KvScales::Tensor) => 1,
            KvStorage::E4m3(KvScales::Head) => self.heads_kv,
        }
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

    /// Shape `[batch, heads, length, width]` of an operand; of keys and values in pages `[pages, heads_kv, page, width]`.
    pub fn shape(&self, operand: Operand) -> [usize; 4] {
        let width = self.width(operand);
        match operand {
            Operand::Query | Operand::Output => [self.batch, self.heads_q, self.len_q, width],
            Operand::Key | Operand::Value => match self.paging {
                None => [self.batch, self.heads_kv, self.len_kv, width],
                Some(Paging { page, pages, .. }) => [pages, self.heads_kv, page, width],
            },
        }
    }

    /// Elements between an operand's first and one past its last: what its buffer must hold.
    pub fn span(&self, operand: Operand) -> usize {
        let Strides { batch, head, row } = self.strides(operand);
        let [batches, heads, length, width] = self.shape(operand);
        if batches == 0 || heads == 0 || length == 0 {
            return 0;
        }
        let last = |count: usize, stride: i64| (count - 1) * stride as usize;
        last(batches, batch) + last(heads, head) + last(length, row) + width
    }

    /// [`span`](Self::span) in bytes.
    pub fn span_bytes(&self, operand: Operand) -> usize {
        self.span(operand) * self.element(operand).bytes()
    }

    /// Bytes of an operand's elements alone, without what lies between its rows.
    pub fn element_bytes(&self, operand: Operand) -> usize {
        self.shape(operand).iter().product::<usize>() * self.element(operand).bytes()
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

    /// How sequences are packed, if they are.
    pub fn packing(&self) -> Option<Packing> {
        self.packing
    }

    /// True if each sequence uses a number of its keys that stands on the device.
    pub fn key_lengths(&self) -> bool {
        self.key_lengths
    }

    /// Keys on either side of the diagonal that a query sees.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The cap of `cap · tanh(scale · query · key / cap)`.
    pub fn softcap(&self) -> Option<f32> {
        self.softcap
    }

    /// True if each query head has a sink.
    pub fn sinks(&self) -> bool {
        self.sinks
    }

    /// True if each query head has a slope.
    pub fn slopes(&self) -> bool {
        self.slopes
    }

    /// How keys and values lie in pages, if they do.
    pub fn paging(&self) -> Option<Paging> {
        self.paging
    }

    /// What is asked for beyond dense attention.
    pub fn extensions(&self) -> Extensions {
        Extensions {
            packed: self.packing.is_some(),
            key_lengths: self.key_lengths,
            window: self.window != Window::ALL,
            softcap: self.softcap.is_some(),
            sinks: self.sinks,
            slopes: self.slopes,
            paged: self.paging.is_some(),
            value_dim: self.value_dim != self.head_dim,
            kv_e4m3: self.kv_storage != KvStorage::Dtype,
        }
    }

    /// Sequences, packed or not.
    pub fn sequence_count(&self) -> usize {
        self.packing.map_or(self.batch, |packing| packing.sequences)
    }

    /// The same problem without extensions: dense, with the same tensors, however wide its values and however keys and values
    /// are stored. Those that lie in pages become contiguous.
    pub fn to_dense(&self) -> Self {
        let mut strides = self.strides;
        if self.paging.is_some() {
            for operand in [Operand::Key, Operand::Value] {
                strides[operand as usize] = Layout::Bhld.strides(self.heads_kv, self.len_kv, self.width(operand));
            }
        }
        Self {
            strides,
            paging: None,
            packing: None,
            key_lengths: false,
            window: Window::ALL,
            softcap: None,
            sinks: false,
            slopes: false,
            ..self.clone()
        }
    }

    /// The same problem with contiguous keys and values; those of packed sequences are packed, as many as `lengths` say of
    /// each sequence.
    ///
    /// # Errors
    /// A [`ProblemError`] where the lengths add up to more than a tensor holds.
    pub fn unpaged(&self, lengths: &[u32]) -> Result<Self, ProblemError> {
        let mut builder = self.to_builder();
        builder.paging = None;
        for operand in [Operand::Key, Operand::Value] {
            builder.strides[operand as usize] = None;
            builder.layouts[operand as usize] = if self.packing.is_some() { Layout::Blhd } else { Layout::Bhld };
        }
        if let Some(packing) = &mut builder.packing {
            builder.key_lengths = false;
            builder.len_kv = lengths.iter().fold(0_usize, |total, length| total.saturating_add(*length as usize));
            packing.longest_kv = lengths.iter().copied().max().unwrap_or(0) as usize;
        }
        builder.build()
    }

    /// The keys that a query of a sequence sees; positions count from the tensors' first rows. [`visible_keys`](Self::visible_keys)
    /// with everything that may narrow it.
    pub fn visible(&self, sequence: &Sequence, query: usize) -> Range<usize> {
        let (own, len_kv) = (self.diagonal_of(sequence, query), sequence.keys.len() as i64);
        let right = if self.mask.is_causal() { Some(0) } else { self.window.right };
        let first = self.window.left.map_or(0, |left| (own - left as i64).clamp(0, len_kv));
        let end = right.map_or(len_kv, |right| (own + right as i64 + 1).clamp(0, len_kv));
        let start = sequence.keys.start;
        start + first as usize..start + end.max(first) as usize
    }

    /// The key on a query's diagonal, counted from its sequence's first; there need not be one.
    pub fn diagonal_of(&self, sequence: &Sequence, query: usize) -> i64 {
        let row = query as i64 - sequence.queries.start as i64;
        match self.mask {
            Mask::CausalTopLeft => row,
            Mask::Full | Mask::Causal => row + sequence.keys.len() as i64 - sequence.queries.len() as i64,
        }
    }

    /// How many keys, counted from the first, a query of a dense problem without a window sees.
    pub fn visible_keys(&self, query: usize) -> usize {
        match self.diagonal() {
            None => self.len_kv,
            Some(diagonal) => (query as i64 + diagonal + 1).clamp(0, self.len_kv as i64) as usize,
        }
    }

    /// Floating-point operations by the convention of the attention papers: 2·batch·heads·len_q·len_kv·(head_dim + value_dim),
    /// halved for causal masks. A window, by itself or with a mask, counts the pairs that it leaves.
    ///
    /// Lengths that stand on the device are not known here: these are the most that there can be, with every query beside
    /// the longest packed sequence's keys, and all keys used. [`flops_of`](Self::flops_of) has the exact number.
    pub fn flops(&self) -> f64 {
        let pairs = match self.packing {
            Some(packing) => self.unmasked_share() * self.len_q as f64 * packing.longest_kv as f64,
            None => self.pairs(&Sequence { queries: 0..self.len_q, keys: 0..self.len_kv }),
        };
        self.batch as f64 * self.heads_q as f64 * pairs * self.flops_of_pair()
    }

    /// [`flops`](Self::flops) over one sequence: its own queries beside its own keys, by the same convention.
    pub fn flops_of(&self, sequence: &Sequence) -> f64 {
        self.heads_q as f64 * self.pairs(sequence) * self.flops_of_pair()
    }

    /// A product and a sum for each element of a key and of its value.
    fn flops_of_pair(&self) -> f64 {
        2.0 * (self.head_dim + self.value_dim) as f64
    }

    /// Pairs of a query and a key that count.
    fn pairs(&self, sequence: &Sequence) -> f64 {
        if self.window == Window::ALL {
            return sequence.queries.len() as f64 * sequence.keys.len() as f64 * self.unmasked_share();
        }
        sequence.queries.clone().map(|query| self.visible(sequence, query).len() as f64).sum()
    }

    /// What the convention counts of a score matrix without a window.
    fn unmasked_share(&self) -> f64 {
        if self.mask.is_causal() { 0.5 } else { 1.0 }
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
            value_dim: Some(self.value_dim),
            dtype: self.dtype,
            mask: self.mask,
            scale: Some(self.scale),
            layouts: [Layout::Bhld; 4],
            strides: self.strides.map(Some),
            packing: self.packing,
            key_lengths: self.key_lengths,
            window: self.window,
            softcap: self.softcap,
            sinks: self.sinks,
            slopes: self.slopes,
            paging: self.paging,
            kv_storage: self.kv_storage,
        }
    }
}

/// Compact one-line form: `b2 h32/8 q128 kv2048 d128 bf16 causal` (a second number only where it differs), and behind it what
/// is asked for beyond dense attention: `value_dim=64`.
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
        write!(f, " d{} {} {}", self.head_dim, self.dtype, self.mask.name())?;
        if self.value_dim != self.head_dim {
            write!(f, " value_dim={}", self.value_dim)?;
        }
        if let Some(name) = self.kv_storage.name() {
            write!(f, " kv={name}")?;
        }
        if let Some(Packing { sequences, longest_q, longest_kv }) = self.packing {
            write!(f, " packed={sequences},{longest_q},{longest_kv}")?;
        }
        if self.key_lengths {
            f.write_str(" key-lengths")?;
        }
        if self.window != Window::ALL {
            let side = |keys: Option<usize>| keys.map_or("all".to_owned(), |keys| keys.to_string());
            write!(f, " window={},{}", side(self.window.left), side(self.window.right))?;
        }
        if let Some(cap) = self.softcap {
            write!(f, " softcap={cap}")?;
        }
        for (asked, name) in [(self.sinks, " sinks"), (self.slopes, " slopes")] {
            f.write_str(if asked { name } else { "" })?;
        }
        match self.paging {
            None => Ok(()),
            Some(Paging { page, pages, table: PageTable::Rows { width } }) => {
                write!(f, " pages={page},{pages},{width}")
            }
            Some(Paging { page, pages, table: PageTable::Lists { entries } }) => {
                write!(f, " page-lists={page},{pages},{entries}")
            }
        }
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
    value_dim: Option<usize>,
    dtype: Dtype,
    mask: Mask,
    scale: Option<f32>,
    layouts: [Layout; 4],
    strides: [Option<Strides>; 4],
    packing: Option<Packing>,
    key_lengths: bool,
    window: Window,
    softcap: Option<f32>,
    sinks: bool,
    slopes: bool,
    paging: Option<Paging>,
    kv_storage: KvStorage,
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

    /// Elements of a value and of a row of the output, where they differ from those of a query and a key. Strides that were
    /// given before stay.
    ///
    /// ```
    /// use sdpa_core::{Operand, Problem};
    ///
    /// // DeepSeek's multi-head latent attention, as it reads a prompt.
    /// let problem = Problem::new(1, 16, 4096, 192).value_dim(128).build()?;
    /// assert_eq!(problem.shape(Operand::Output), [1, 16, 4096, 128]);
    /// # Ok::<(), sdpa_core::ProblemError>(())
    /// ```
    pub fn value_dim(mut self, elements: usize) -> Self {
        self.value_dim = Some(elements);
        self
    }

    /// Element type of query and output, and of keys and values that are not stored otherwise.
    pub fn dtype(mut self, dtype: Dtype) -> Self {
        self.dtype = dtype;
        self
    }

    /// How keys and values are stored, if not in the problem's dtype.
    ///
    /// ```
    /// use sdpa_core::{Extensions, KvScales, KvStorage, Operand, Problem};
    ///
    /// // One step of 16 sequences over a cache of bytes, with a scale for each key head.
    /// let cache = KvStorage::E4m3(KvScales::Head);
    /// let problem = Problem::new(16, 32, 1, 128).heads_kv(8).len_kv(4096).kv_storage(cache).build()?;
    /// assert_eq!(problem.span_bytes(Operand::Key), 16 * 8 * 4096 * 128);
    /// assert_eq!(problem.kv_scale_count(), 8);
    /// # Ok::<(), sdpa_core::ProblemError>(())
    /// ```
    pub fn kv_storage(mut self, storage: KvStorage) -> Self {
        self.kv_storage = storage;
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

    /// Keys on either side of the diagonal that a query sees.
    pub fn window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Scores become `cap · tanh(score / cap)`: after the scale, before slopes and masks.
    pub fn softcap(mut self, cap: f32) -> Self {
        self.softcap = Some(cap);
        self
    }

    /// With or without sinks; see [`sinks`](Self::sinks).
    pub fn sinks_if(mut self, asked: bool) -> Self {
        self.sinks = asked;
        self
    }

    /// Each query head has a sink, a logit in the softmax's sum without a value: [`Tensors::with_sinks`](crate::Tensors).
    pub fn sinks(self) -> Self {
        self.sinks_if(true)
    }

    /// Each query head has a slope, by which scores fall with each key of distance from the diagonal:
    /// [`Tensors::with_slopes`](crate::Tensors).
    pub fn slopes(mut self) -> Self {
        self.slopes = true;
        self
    }

    /// Each sequence uses as many of its keys as a number on the device says: [`Tensors::with_key_lengths`](crate::Tensors).
    pub fn key_lengths(mut self) -> Self {
        self.key_lengths = true;
        self
    }

    /// Keys and values lie in pages: [`Tensors::with_pages`](crate::Tensors::with_pages) or
    /// [`with_page_lists`](crate::Tensors::with_page_lists). How many keys each sequence has stands on the device. Of packed
    /// sequences the queries alone are packed then. Strides of key and value that were given before are forgotten: theirs are
    /// of `[pages, heads_kv, page, head_dim]`.
    pub fn paged(mut self, paging: Paging) -> Self {
        self.paging = Some(paging);
        for operand in [Operand::Key, Operand::Value] {
            self.strides[operand as usize] = None;
        }
        self.key_lengths = true;
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
        let value_dim = self.value_dim.unwrap_or(head_dim);
        if value_dim == 0 || value_dim > MAX_HEAD_DIM || !value_dim.is_multiple_of(8) {
            return Err(ProblemError::ValueDim(value_dim));
        }
        let scale = self.scale.unwrap_or(1.0 / (head_dim as f32).sqrt());
        if !crate::params::scale_log2e(scale).is_finite() {
            return Err(ProblemError::Scale(scale));
        }
        self.check_extensions()?;
        let strides = Operand::ALL.map(|operand| {
            let keys = self.paging.map_or(len_kv, |paging| paging.page);
            let (heads, length, width) = match operand {
                Operand::Query => (heads_q, len_q, head_dim),
                Operand::Key => (heads_kv, keys, head_dim),
                Operand::Value => (heads_kv, keys, value_dim),
                Operand::Output => (heads_q, len_q, value_dim),
            };
            let index = operand as usize;
            self.strides[index].unwrap_or_else(|| self.layouts[index].strides(heads, length, width))
        });
        let Self { packing, key_lengths, window, softcap, sinks, slopes, paging, kv_storage, .. } = self;
        let problem = Problem {
            batch,
            heads_q,
            heads_kv,
            len_q,
            len_kv,
            head_dim,
            value_dim,
            dtype,
            mask,
            scale,
            strides,
            packing,
            key_lengths,
            window,
            softcap,
            sinks,
            slopes,
            paging,
            kv_storage,
        };
        for operand in Operand::ALL {
            problem.check_strides(operand)?;
        }
        problem.check_output_is_injective()?;
        Ok(problem)
    }

    fn check_extensions(&self) -> Result<(), ProblemError> {
        if let Some(cap) = self.softcap.filter(|cap| !(*cap > 0.0 && *cap <= LARGEST_SOFTCAP)) {
            return Err(ProblemError::Softcap(cap));
        }
        let sides = [("window's left side", self.window.left), ("window's right side", self.window.right)];
        for (what, found) in sides.into_iter().filter_map(|(what, side)| Some((what, side?))) {
            if found > MAX_EXTENT {
                return Err(ProblemError::TooLarge { what, found });
            }
        }
        self.check_paging()?;
        let Some(Packing { sequences, longest_q, longest_kv }) = self.packing else { return Ok(()) };
        if self.batch != 1 {
            return Err(ProblemError::PackedBatch { batch: self.batch });
        }
        if self.key_lengths && self.paging.is_none() {
            return Err(ProblemError::PackedKeyLengths);
        }
        if self.paging.is_some() && longest_kv != self.len_kv {
            return Err(ProblemError::PagedLongest { longest: longest_kv, len_kv: self.len_kv });
        }
        if sequences > MAX_EXTENT {
            return Err(ProblemError::TooLarge { what: "sequences", found: sequences });
        }
        let keys = self.paging.is_none().then_some(("keys", longest_kv, self.len_kv));
        for (what, longest, total) in [("queries", longest_q, self.len_q)].into_iter().chain(keys) {
            if longest > total || longest.saturating_mul(sequences) < total {
                return Err(ProblemError::Packing { what, sequences, longest, total });
            }
        }
        Ok(())
    }

    fn check_paging(&self) -> Result<(), ProblemError> {
        let Some(paging) = self.paging else { return Ok(()) };
        let Paging { page, pages, table } = paging;
        if !Paging::SIZES.contains(&page) {
            return Err(ProblemError::PageSize(page));
        }
        let (what, found) = match table {
            PageTable::Rows { width } => ("width of the table of pages", width),
            PageTable::Lists { entries } => ("entries of the table of pages", entries),
        };
        for (what, found) in [("pages", pages), (what, found), ("keys in pages", pages.saturating_mul(page))] {
            if found > MAX_EXTENT {
                return Err(ProblemError::TooLarge { what, found });
            }
        }
        match table {
            PageTable::Rows { width } if width < paging.pages_of(self.len_kv) => {
                Err(ProblemError::TableWidth { width, page, len_kv: self.len_kv })
            }
            _ => Ok(()),
        }
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
        let mut span = self.width(operand) as i64;
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
        let mut needed = self.value_dim as i64;
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
mod tests;
