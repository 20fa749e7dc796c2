//! Tensors whose rows lie so far apart that the memory between them cannot be held: offsets beyond 32 bits.
//!
//! Their numbers are drawn, and their results judged, as those of the same problem with contiguous tensors; only the device
//! sees the distances. On the interpreter nothing lies between the rows, so an offset that lost its upper bits is found.

use std::borrow::Cow;
use std::ops::Range;

use sdpa_core::{Layout, Operand, Problem};

/// Bytes of a tensor that are held as they lie, whatever is between its rows.
const DENSE_BYTES: usize = 256 << 20;

/// The problem that a case's numbers and results are kept for: the same one, or one with contiguous tensors if the rows of
/// some tensor lie far apart.
pub fn near(problem: &Problem) -> Cow<'_, Problem> {
    if !Operand::ALL.iter().any(|operand| is_far(problem, *operand)) {
        return Cow::Borrowed(problem);
    }
    let contiguous = problem.to_builder().layout(Layout::Bhld).build();
    Cow::Owned(contiguous.expect("a valid problem is valid with contiguous tensors"))
}

/// True if much more memory lies between the rows than in them, and no row lies over another.
fn is_far(problem: &Problem, operand: Operand) -> bool {
    let elements: usize = problem.shape(operand).iter().product();
    let span = problem.span(operand);
    span.saturating_mul(problem.element(operand).bytes()) > DENSE_BYTES && span / 8 > elements && {
        let mut rows = row_starts(problem, operand);
        rows.sort_unstable();
        rows.windows(2).all(|pair| pair[1] - pair[0] >= row_bytes(problem, operand))
    }
}

/// Bytes of a row of an operand.
pub(crate) fn row_bytes(problem: &Problem, operand: Operand) -> usize {
    problem.width(operand) * problem.element(operand).bytes()
}

/// Where each row of an operand starts, in bytes; in the order of a contiguous tensor.
pub(crate) fn row_starts(problem: &Problem, operand: Operand) -> Vec<usize> {
    let [batches, heads, length, _] = problem.shape(operand);
    let mut starts = Vec::with_capacity(batches * heads * length);
    for batch in 0..batches {
        for head in 0..heads {
            let start = |row| problem.row_offset(operand, batch, head, row) * problem.element(operand).bytes();
            starts.extend((0..length).map(start));
        }
    }
    starts
}

/// The bytes that rows of `row_bytes` bytes take: sorted, neighbours put together.
pub(crate) fn pieces(starts: &[usize], row_bytes: usize) -> Vec<Range<usize>> {
    let mut starts = starts.to_vec();
    starts.sort_unstable();
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for start in starts {
        match pieces.last_mut() {
            Some(last) if last.end == start => last.end += row_bytes,
            _ => pieces.push(start..start + row_bytes),
        }
    }
    pieces
}

/// The same problem with an operand's last row more than `distance` elements behind its first: every dimension that has
/// several positions is stretched, the outermost one the most.
pub(crate) fn stretched(problem: &Problem, operands: &[Operand], distance: i64) -> Problem {
    let mut builder = problem.to_builder();
    for operand in operands {
        let [batches, heads, length, width] = problem.shape(*operand).map(|extent| extent as i64);
        let mut strides = problem.strides(*operand);
        // So that kernels which copy 16 bytes at a time take it.
        let multiple = 16 / problem.element(*operand).bytes() as i64;
        let step = |count: i64| (distance / (count - 1).max(1) / multiple + 1) * multiple;
        if batches > 1 {
            strides.batch = step(batches).max(strides.batch);
        } else if heads > 1 {
            strides.head = step(heads).max(strides.head);
        } else if length > 1 {
            strides.row = step(length).max(width);
        }
        builder = builder.strides(*operand, strides);
    }
    builder.build().expect("a longer outermost stride keeps elements apart")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    fn problem(line: &str) -> Problem {
        line.parse::<Case>().expect("a valid case").problem
    }

    #[test]
    fn only_what_cannot_be_held_is_far() {
        for dense in ["h2 q5 kv7 d64", "h2 q5 kv7 d64 key=0,0,0", "q2 kv2 d64 key=0,0,100000"] {
            assert!(matches!(near(&problem(dense)), Cow::Borrowed(_)), "{dense}");
        }
        let far = problem("h2 q5 kv7 d64 key=0,4294967304,64");
        assert_eq!(near(&far).span(Operand::Key), 2 * 7 * 64);
        // Rows over one another have no places of their own.
        assert!(matches!(near(&problem("b2 h2 q5 kv7 d64 key=0,4294967304,64")), Cow::Borrowed(_)));
    }

    #[test]
    fn neighbouring_rows_are_one_piece() {
        let far = problem("h2 q5 kv2 d8 key=0,4294967304,8");
        let starts = row_starts(&far, Operand::Key);
        assert_eq!(starts, [0, 16, 8_589_934_608, 8_589_934_624]);
        assert_eq!(pieces(&starts, row_bytes(&far, Operand::Key)), [0..32, 8_589_934_608..8_589_934_640]);
    }

    #[test]
    fn the_last_row_is_as_far_as_asked() {
        for line in ["b3 h2 q5 kv7 d64", "h3 q5 kv7 d64", "q5 kv7 d64 blhd", "b70 h2 q1 kv1 d8"] {
            let far = stretched(&problem(line), &Operand::ALL, 1 << 32);
            for operand in Operand::ALL.into_iter().filter(|operand| problem(line).span(*operand) > 64) {
                let last = row_starts(&far, operand).into_iter().max().expect("has rows") / 2;
                assert!(last > 1 << 32 && last < 1 << 33, "{line} {operand}: {last}");
            }
        }
    }
}
