//! What several generations ask of a problem, so that each says it in one line.

use crate::{Dtype, Operand, Problem, SizeRange, Unsupported};

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

/// A size of the problem is one that the generation takes; `reason` says why it takes no others.
///
/// # Errors
/// [`Unsupported::Size`].
pub fn size(
    generation: &'static str,
    quantity: &'static str,
    found: usize,
    range: SizeRange,
    reason: &'static str,
) -> Result<(), Unsupported> {
    match range.contains(found) {
        true => Ok(()),
        false => Err(Unsupported::Size { generation, quantity, found, range, reason }),
    }
}

/// The head dimension is at most `largest`.
///
/// # Errors
/// [`Unsupported::Size`].
pub fn head_dim_up_to(generation: &'static str, problem: &Problem, largest: usize) -> Result<(), Unsupported> {
    size(generation, "head_dim", problem.head_dim(), SizeRange::UpTo(largest), "")
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
/// one head are only ever multiplied by 0, so they may be anything. That of one row is not: kernels copy whole tiles and address
/// the rows past the end, too, though they read nothing there.
///
/// # Errors
/// [`Unsupported::Stride`].
pub fn strides_multiple_of(generation: &'static str, problem: &Problem, multiple: i64) -> Result<(), Unsupported> {
    Operand::ALL.into_iter().try_for_each(|operand| strides(generation, problem, operand, multiple))
}

/// The same of keys and values alone.
///
/// # Errors
/// [`Unsupported::Stride`].
pub fn kv_strides_multiple_of(generation: &'static str, problem: &Problem, multiple: i64) -> Result<(), Unsupported> {
    [Operand::Key, Operand::Value].into_iter().try_for_each(|operand| strides(generation, problem, operand, multiple))
}

fn strides(generation: &'static str, problem: &Problem, operand: Operand, multiple: i64) -> Result<(), Unsupported> {
    for (dimension, count, found) in problem.dimensions(operand) {
        if (count > 1 || dimension == "row") && found % multiple != 0 {
            return Err(Unsupported::Stride { generation, operand, dimension, found, multiple });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Strides;

    #[test]
    fn a_size_that_is_not_taken_is_told_with_its_reason() {
        let ask = |range, found| size("v0", "keys", found, range, "its parent takes them").map_err(|no| no.to_string());
        assert_eq!([ask(SizeRange::UpTo(8), 8), ask(SizeRange::From(8), 8)], [Ok(()), Ok(())]);
        insta::assert_snapshot!(
            [ask(SizeRange::UpTo(8), 9), ask(SizeRange::From(8), 7)].map(Result::unwrap_err).join("\n"),
            @r"
        v0 takes keys up to 8; this problem has 9: its parent takes them
        v0 takes keys from 8 on; this problem has 7: its parent takes them
        "
        );
        let problem = Problem::new(1, 1, 1, 256).build().unwrap();
        let wide = head_dim_up_to("v0", &problem, 128).unwrap_err().to_string();
        assert_eq!(wide, "v0 takes head_dim up to 128; this problem has 256");
    }

    #[test]
    fn keys_in_bytes_ask_for_more_of_their_strides_alone() {
        let ask = |operand, row| {
            let strides = Strides { batch: 1 << 20, head: 1 << 10, row };
            let problem = Problem::new(2, 1, 4, 40).strides(operand, strides).build().unwrap();
            kv_strides_multiple_of("v0", &problem, 16).map_err(|reason| reason.to_string())
        };
        let both = |row| Problem::new(1, 1, 4, row as usize).build().unwrap();
        assert!(kv_strides_multiple_of("v0", &both(40), 16).is_err());
        assert_eq!(kv_strides_multiple_of("v0", &both(48), 16), Ok(()));
        insta::assert_snapshot!(
            [ask(Operand::Query, 48), ask(Operand::Key, 48)].map(Result::unwrap_err).join("\n"),
            @r"
        v0 copies 16 bytes at a time: key's row stride is 40 elements and must be a multiple of 16
        v0 copies 16 bytes at a time: value's row stride is 40 elements and must be a multiple of 16
        "
        );
    }

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
