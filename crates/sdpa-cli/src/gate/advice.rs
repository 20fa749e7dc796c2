//! What order a kernel lost: the barriers, waits and fences of its parent that it leaves out where it is otherwise the same.

use sdpa_core::Generation;
use sdpa_toolchain::{source_text, without_comments};
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// What orders something is named by one of these.
const ORDERS: [&str; 7] = ["sync", "wait", "fence", "commit", "arrive", "release", "barrier"];

/// Statements left out that are worth naming: with more, the child is another algorithm.
const MOST: usize = 3;

/// The statements that order something in the parent's kernel and are missing in the child's, between lines that both have:
/// what to put back, and where. None if there is none, or too many for a slip.
pub(super) fn lost_order(generation: &Generation) -> Option<String> {
    let parent = generation.parent?;
    let source = generation.specialisations.first()?.source;
    let (before, now) = (source_text(&format!("kernels/{parent}.cu"))?, source_text(&format!("kernels/{source}"))?);
    let lost = left_out(before, now);
    if lost.is_empty() || lost.len() > MOST {
        return None;
    }
    let sentence = |(line, statement, at): &(usize, String, usize)| {
        format!("kernels/{parent}.cu:{line} has `{statement}`, and kernels/{source} does not before its line {at}")
    };
    Some(lost.iter().map(sentence).collect::<Vec<_>>().join("; "))
}

/// Lines that order something and were taken out, where nothing came in their place: line and text of the one, and the line of
/// the other that now comes there.
fn left_out(before: &str, now: &str) -> Vec<(usize, String, usize)> {
    let lines = |text: &str| -> Vec<(usize, String)> {
        let code = without_comments(text);
        let lines = code.lines().enumerate().map(|(index, line)| (index + 1, line.trim().to_owned()));
        lines.filter(|(_, line)| !line.is_empty()).collect()
    };
    let (before, now) = (lines(before), lines(now));
    let texts = |lines: &[(usize, String)]| lines.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>();
    let operations = capture_diff_slices(Algorithm::Myers, &texts(&before), &texts(&now));
    let mut lost = Vec::new();
    for operation in operations {
        let DiffOp::Delete { old_index, old_len, new_index } = operation else { continue };
        let at = now.get(new_index).or(now.last()).map_or(1, |(line, _)| *line);
        let taken = before[old_index..old_index + old_len].iter();
        let orders = taken.filter(|(_, line)| line.ends_with(';') && ORDERS.iter().any(|word| line.contains(word)));
        lost.extend(orders.map(|(line, text)| (*line, text.clone(), at)));
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_barrier_that_the_parent_has_is_named_with_both_places() {
        let parent = "// V8\nint a = 1;\n__syncthreads(); // all have written\nuse(a);\nint b;\n";
        assert_eq!(left_out(parent, "int a = 1;\n\nuse(a);\nint b;\n"), [(3, "__syncthreads();".to_owned(), 3)]);
        // Another one in its place is an idea and not a slip.
        assert_eq!(left_out(parent, "int a = 1;\nwarp_sync();\nuse(a);\nint b;\n"), []);
        // What orders nothing is not named.
        assert_eq!(left_out(parent, "int a = 1;\n__syncthreads();\nuse(a);\n"), []);
        assert_eq!(left_out(parent, parent), []);
    }
}
