//! What several generations ask of a problem, so that each says it in one line.

use crate::{Dtype, Operand, Problem, Unsupported};

/// The element type is one of `supported`.
///
/// # Errors
/// [`Unsupported::Dtype`].
pub fn dtype(generation: &'static str, problem: &Problem, supported: &'static [Dtype]) -> Result<(), Unsupported> {
    match supported.contains(&problem.dtype()) {
        true => Ok(()),
        false => Err(Unsupported::Dtype { generation, dtype: problem.dtype(), supported }),
    }
}

/// The head dimension is at most `largest`.
///
/// # Errors
/// [`Unsupported::HeadDim`].
pub fn head_dim_up_to(generation: &'static str, problem: &Problem, largest: usize) -> Result<(), Unsupported> {
    match problem.head_dim() <= largest {
        true => Ok(()),
        false => Err(Unsupported::HeadDim { generation, found: problem.head_dim(), largest }),
    }
}

/// Every row of every tensor starts a multiple of `multiple` elements after the tensor does. The strides of one batch or
/// one head are never multiplied by anything but 0 and may be what they like; that of one row is, because kernels copy
/// whole tiles and address the rows past the end, too, though they read nothing there.
///
/// # Errors
/// [`Unsupported::Stride`].
pub fn strides_multiple_of(generation: &'static str, problem: &Problem, multiple: i64) -> Result<(), Unsupported> {
    for operand in Operand::ALL {
        let [batch, heads, length, _] = problem.shape(operand);
        let strides = problem.strides(operand);
        for (dimension, count, found) in
            [("batch", batch, strides.batch), ("head", heads, strides.head), ("row", length, strides.row)]
        {
            if (count > 1 || dimension == "row") && found % multiple != 0 {
                return Err(Unsupported::Stride { generation, operand, dimension, found, multiple });
            }
        }
    }
    Ok(())
}
