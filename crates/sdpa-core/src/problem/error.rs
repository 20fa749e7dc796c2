//! Why a problem cannot exist, for people.

use thiserror::Error;

use super::{MAX_EXTENT, MAX_HEAD_DIM, Operand};

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
    /// So are rows of values.
    #[error(
        "value_dim is {0}: rows of value and output must have a multiple of 8 elements, between 8 and {MAX_HEAD_DIM}"
    )]
    ValueDim(usize),
    /// Softmax of a NaN or an infinity is nothing.
    #[error(
        "scale is {0:e}: it must be finite, and below 2.35e38 in magnitude, so that scale · log2(e) is a number, too"
    )]
    Scale(f32),
    /// A cap is divided by, and one that no score reaches is none.
    #[error("softcap is {0:e}: it must be above 0 and at most 2^20; leave it out for scores without a cap")]
    Softcap(f32),
    /// Packed sequences are one tensor.
    #[error("packed sequences are one batch of their total length; this problem has {batch} batches")]
    PackedBatch {
        /// Batches asked for.
        batch: usize,
    },
    /// Cumulative lengths say where a packed sequence ends.
    #[error("packed sequences have their key lengths in cu_seqlens_k; leave key_lengths out")]
    PackedKeyLengths,
    /// Pages of other sizes.
    #[error("a page of {0} keys: pages have 8, 16, 32, 64, 128 or 256")]
    PageSize(usize),
    /// A row of the table that cannot name a sequence's pages.
    #[error("the table of pages is {width} wide: {len_kv} keys in pages of {page} take {} entries", len_kv.div_ceil(*page))]
    TableWidth {
        /// Entries of a row.
        width: usize,
        /// Keys of a page.
        page: usize,
        /// Most keys of a sequence.
        len_kv: usize,
    },
    /// Two numbers that say the same thing, differently.
    #[error(
        "the longest packed sequence has {longest} keys and len_kv is {len_kv}: if keys lie in pages, both are the most keys of \
         a sequence"
    )]
    PagedLongest {
        /// What the packing says.
        longest: usize,
        /// What the problem says.
        len_kv: usize,
    },
    /// Numbers that no lengths add up to.
    #[error(
        "{sequences} packed sequences of at most {longest} {what} cannot have {total} in all: the longest is at most the \
         total, and all of them at their longest at least the total"
    )]
    Packing {
        /// `queries` or `keys`.
        what: &'static str,
        /// How many sequences.
        sequences: usize,
        /// The longest.
        longest: usize,
        /// All together.
        total: usize,
    },
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
