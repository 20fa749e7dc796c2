//! The raw inputs, the rows to compute, and reading one head of an operand.

use ndarray::Array2;
use sdpa_core::{Operand, Problem};
use thiserror::Error;

/// Element bits of the three inputs, each strided as the problem says.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Q, `[batch, heads_q, len_q, head_dim]`.
    pub query: &'a [u16],
    /// K, `[batch, heads_kv, len_kv, head_dim]`.
    pub key: &'a [u16],
    /// V, `[batch, heads_kv, len_kv, head_dim]`.
    pub value: &'a [u16],
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

    fn bits(&self, operand: Operand) -> &[u16] {
        match operand {
            Operand::Query => self.query,
            Operand::Key => self.key,
            Operand::Value => self.value,
            Operand::Output => &[],
        }
    }

    /// Exact values of some rows of one head, `[rows, head_dim]`.
    pub(crate) fn read(
        &self,
        problem: &Problem,
        operand: Operand,
        batch: usize,
        head: usize,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Array2<f64> {
        let (bits, head_dim, dtype) = (self.bits(operand), problem.head_dim(), problem.dtype());
        let mut values = Vec::with_capacity(rows.len() * head_dim);
        let count = rows.len();
        for row in rows {
            let start = problem.row_offset(operand, batch, head, row);
            values.extend(bits[start..start + head_dim].iter().map(|bits| dtype.decode(*bits)));
        }
        Array2::from_shape_vec((count, head_dim), values).expect("one value for each element")
    }
}
