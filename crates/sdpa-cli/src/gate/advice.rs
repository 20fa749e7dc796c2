//! Where a kernel that fails was edited: the first lines to look at.

use std::process::Command;

use sdpa_core::Generation;
use sdpa_toolchain::{Checkout, source_text, without_comments};
use similar::{Algorithm, DiffOp, capture_diff_slices};

/// Places that are named: with more, the lines changed say little about a fault.
const MOST: usize = 4;

/// Where a generation's kernel and what it includes is other than in the last commit; if nothing is and the kernel `is_newer` than its
/// packed PTX, other than before the kernel's last commit; and of a kernel that was not committed yet, other than its parent's.
/// Two lines for each place. None if there is no git, and if so much differs from the parent that it says nothing.
pub fn what_changed(generation: &Generation, is_newer: bool) -> Option<String> {
    let source = generation.specialisations.first()?.source;
    let main = format!("kernels/{source}");
    let now = source_text(&main)?;
    if at_revision("HEAD", &main).is_none() {
        let parent = format!("kernels/{}.cu", generation.parent?);
        let edits = edits(&main, source_text(&parent)?, now);
        return (1..=MOST).contains(&edits.len()).then(|| say(&edits, &parent));
    }
    // The kernel's own file first.
    let sources = Checkout::find().and_then(|checkout| checkout.sources()).ok()?;
    let others = sources.closure(source).ok()?.into_keys().filter(|path| *path != source).collect::<Vec<_>>();
    let files = std::iter::once(source).chain(others).map(|path| format!("kernels/{path}"));
    let edited = files.flat_map(|path| {
        let texts = at_revision("HEAD", &path).zip(source_text(&path));
        texts.map_or_else(Vec::new, |(before, now)| edits(&path, &before, now))
    });
    let edited: Vec<Edit> = edited.collect();
    if !edited.is_empty() {
        return Some(say(&edited, "the last commit"));
    }
    // An author who commits first and asks then.
    let revisions = is_newer.then(|| git(&["log", "--format=%h", "-n", "2", "--", &main]))??;
    let (_, before) = revisions.trim().split_once('\n')?;
    let edits = edits(&main, &at_revision(before, &main)?, now);
    (1..=MOST).contains(&edits.len()).then(|| say(&edits, &format!("commit {before}")))
}

/// A file, and a place in it that differs.
type Edit = (String, Place);

fn edits(path: &str, before: &str, now: &str) -> Vec<Edit> {
    places(before, now).into_iter().map(|place| (path.to_owned(), place)).collect()
}

/// What stands at each place, and what another text has there.
fn say(edits: &[Edit], other: &str) -> String {
    let said = |(path, place): &Edit| {
        let gone = place.gone.join(" ");
        match &place.now {
            Some((line, text)) if gone.is_empty() => format!("{path}:{line}: `{text}`\n  is new against {other}"),
            Some((line, text)) => format!("{path}:{line}: `{text}`\n  was `{gone}` in {other}"),
            None => format!("{path}:{}: before this line {other} has\n  `{gone}`", place.at),
        }
    };
    let mut lines: Vec<String> = edits.iter().take(MOST).map(said).collect();
    match edits.len().saturating_sub(MOST) {
        0 => {}
        more => lines.push(format!("{more} more places differ from {other}")),
    }
    lines.join("\n")
}

/// A file as a revision has it; none if it has not, or there is no git.
fn at_revision(revision: &str, path: &str) -> Option<String> {
    git(&["show", &format!("{revision}:./{path}")])
}

/// What git says in the checkout; none if it fails.
fn git(arguments: &[&str]) -> Option<String> {
    let checkout = Checkout::find().ok()?;
    let output = Command::new("git").arg("-C").arg(checkout.root()).args(arguments).output();
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
