//! Where a kernel that fails was edited: the first lines to look at.

use std::process::Command;

use sdpa_core::Generation;
use sdpa_toolchain::{Checkout, source_text, without_comments};
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Places that are worth naming: with more, the lines changed say little about a fault.
const MOST: usize = 5;

/// Where a generation's kernel is other than it was committed, or than its parent's if it was not committed yet: a line for each
/// place. None if nothing or too much changed, and where there is no git.
pub fn what_changed(generation: &Generation) -> Option<String> {
    let source = format!("kernels/{}", generation.specialisations.first()?.source);
    let now = source_text(&source)?;
    let (before, name) = match committed(&source) {
        Some(text) => (text, "the commit before".to_owned()),
        None => {
            let parent = format!("kernels/{}.cu", generation.parent?);
            (source_text(&parent)?.to_owned(), parent)
        }
    };
    let places = places(&before, now);
    let said = |place: &Place| match &place.now {
        Some((line, text)) if place.gone.is_empty() => format!("{source}:{line}: `{text}` is new against {name}"),
        Some((line, text)) => format!("{source}:{line}: `{text}` stands where {name} has `{}`", place.gone.join(" ")),
        None => format!("{source}:{}: {name} has `{}` before this line", place.at, place.gone.join(" ")),
    };
    ((1..=MOST).contains(&places.len())).then(|| places.iter().map(said).collect::<Vec<_>>().join("\n"))
}

/// The file as the last commit has it; none if it has not, or there is no git.
fn committed(path: &str) -> Option<String> {
    let checkout = Checkout::find().ok()?;
    let output = Command::new("git").arg("-C").arg(checkout.root()).args(["show", &format!("HEAD:./{path}")]).output();
    output.ok().filter(|output| output.status.success()).and_then(|output| String::from_utf8(output.stdout).ok())
}

/// Neighbouring lines of code that differ.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Line of what is there now, or of what follows.
    at: usize,
    /// The first line that is new, if one is.
    now: Option<(usize, String)>,
    /// The lines that are no longer there.
    gone: Vec<String>,
}

/// Where the code of two texts differs; comments, blanks and indentation aside.
fn places(before: &str, now: &str) -> Vec<Place> {
    let (before, now) = (numbered(before), numbered(now));
    let texts = |lines: &[(usize, String)]| lines.iter().map(|(_, line)| line.clone()).collect::<Vec<_>>();
    let operations = capture_diff_slices(Algorithm::Myers, &texts(&before), &texts(&now));
    let changed = operations.iter().filter(|operation| !matches!(operation, DiffOp::Equal { .. }));
    let place = |operation: &DiffOp| {
        let (old, new) = (operation.old_range(), operation.new_range());
        let at = now.get(new.start).or(now.last()).map_or(1, |(line, _)| *line);
        let gone = before[old].iter().map(|(_, line)| line.clone()).collect();
        Place { at, now: now[new].first().cloned(), gone }
    };
    changed.map(place).collect()
}

/// Lines of code, each with its number from 1.
fn numbered(text: &str) -> Vec<(usize, String)> {
    let code = without_comments(text);
    let lines = code.lines().enumerate().map(|(index, line)| (index + 1, line.trim().to_owned()));
    lines.filter(|(_, line)| !line.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_were_changed_added_or_taken_out_are_named() {
        let before = "// V8\nint a = 1;\n__syncthreads(); // all have written\nuse(a);\nint b;\n";
        let place = |at, now: Option<&str>, gone: &[&str]| Place {
            at,
            now: now.map(|text| (at, text.to_owned())),
            gone: gone.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(places(before, before), []);
        assert_eq!(places(before, "// other words\n  int a = 1;\n__syncthreads();\n\nuse(a);\nint b;\n"), []);
        let without = "int a = 1;\n\nuse(a);\nint b;\n";
        assert_eq!(places(before, without), [place(3, None, &["__syncthreads();"])]);
        let other = "int a = 1;\nwarp_sync();\nuse(a);\nint b;\n";
        assert_eq!(places(before, other), [place(2, Some("warp_sync();"), &["__syncthreads();"])]);
        let more = "int a = 1;\n__syncthreads();\nint c;\nuse(a);\nint b;\n";
        assert_eq!(places(before, more), [place(3, Some("int c;"), &[])]);
        assert_eq!(places(before, "").len(), 1);
    }
}
