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

/// Every tensor has a tensor map: strides, in bytes, are multiples of 16 below 2^40. A stride that is never stepped along
/// may be what it likes.
///
/// # Errors
/// [`Unsupported::Stride`] or [`Unsupported::LongStride`].
pub fn tensor_maps(generation: &'static str, problem: &Problem) -> Result<(), Unsupported> {
    let bytes = problem.dtype().bytes() as i64;
    let (multiple, limit) = (16 / bytes, (1 << 40) / bytes);
    for operand in Operand::ALL {
        for (dimension, count, found) in problem.dimensions(operand) {
            if count > 1 && found % multiple != 0 {
                return Err(Unsupported::Stride { generation, operand, dimension, found, multiple });
            }
            if count > 1 && found >= limit {
                return Err(Unsupported::LongStride { generation, operand, dimension, found, limit });
            }
        }
    }
    Ok(())
}

/// Every row of every tensor starts a multiple of `multiple` elements after the tensor does. The strides of one batch or
/// one head are never multiplied by anything but 0 and may be what they like; that of one row is, because kernels copy
/// whole tiles and address the rows past the end, too, though they read nothing there.
///
/// # Errors
/// [`Unsupported::Stride`].
pub fn strides_multiple_of(generation: &'static str, problem: &Problem, multiple: i64) -> Result<(), Unsupported> {
    for operand in Operand::ALL {
        for (dimension, count, found) in problem.dimensions(operand) {
            if (count > 1 || dimension == "row") && found % multiple != 0 {
                return Err(Unsupported::Stride { generation, operand, dimension, found, multiple });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strides;

    #[test]
    fn tensor_maps_hold_strides_in_multiples_of_16_bytes_below_2_to_the_40() {
        let ask = |heads, batch, head| {
            let strides = Strides { batch, head, row: 64 };
            let problem = Problem::new(2, heads, 4, 64).strides(Operand::Key, strides).build().unwrap();
            tensor_maps("v0", &problem).map_err(|reason| reason.to_string())
        };
        assert_eq!(ask(2, 1 << 20, (1 << 39) - 8), Ok(()));
        assert_eq!(ask(2, 0, 0), Ok(()));
        // One head is never left for another.
        assert_eq!(ask(1, 1 << 20, (1 << 39) + 3), Ok(()));
        insta::assert_snapshot!(
            [ask(2, 1 << 20, 1 << 39), ask(2, 1 << 20, 260)].map(Result::unwrap_err).join("\n"),
            @r"
        v0 copies by tensor maps, whose strides end at 549755813888 elements: key's head stride is 549755813888
        v0 copies 16 bytes at a time: key's head stride is 260 elements and must be a multiple of 8
        "
        );
    }
}
