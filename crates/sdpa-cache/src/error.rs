//! Why nothing can be appended so, for people.

use thiserror::Error;

/// Why there is no such [`Append`](crate::Append).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AppendError {
    /// A row without an element, or no head.
    #[error("{what} is 0: a token has at least one head, and its keys and values at least one element")]
    Nothing {
        /// `heads_kv`, `head_dim` or `value_dim`.
        what: &'static str,
    },
    /// A problem whose caches hold something else than new rows do.
    #[error("appending copies f16 and bf16 as they are: it does not take {what}")]
    NotCopied {
        /// What the problem asks for.
        what: &'static str,
    },
    /// Kernels count in 32 bits.
    #[error("{what} is {found}: at most {most} fit the kernels' 32-bit indices")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// Walking backwards through memory is not supported.
    #[error("{tensor}'s {dimension} stride is {found}: strides must not be negative")]
    NegativeStride {
        /// Which tensor.
        tensor: &'static str,
        /// `token`, `page`, `head` or `place`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
    },
    /// Two rows of a cache would share memory.
    #[error(
        "{tensor}'s {dimension} stride is {found}, but {needed} elements lie below it: two of its rows would share memory"
    )]
    SharedRows {
        /// Which cache.
        tensor: &'static str,
        /// `page`, `head` or `place`.
        dimension: &'static str,
        /// The stride found.
        found: i64,
        /// The least stride that keeps the rows apart.
        needed: i64,
    },
    /// The tensor is longer than an address space.
    #[error("{tensor} spans more elements than 64 bits count: make it smaller, or check its strides")]
    SpanOverflow {
        /// Which tensor.
        tensor: &'static str,
    },
}
