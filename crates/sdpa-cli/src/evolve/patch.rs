//! Unified diffs, as generators write them.

/// Applies a unified diff to one text. Line numbers are a hint: a hunk goes where its lines are found, nearest to the place named.
///
/// # Errors
/// In words for the generator: no hunk, or the lines that a hunk expects and the text does not have.
pub(super) fn apply(text: &str, diff: &str) -> Result<String, String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let hunks = hunks(diff)?;
    // How many lines the hunks before have added.
    let mut moved: isize = 0;
    for hunk in &hunks {
        let before: Vec<&str> = hunk.lines.iter().filter(|(sign, _)| *sign != '+').map(|(_, line)| *line).collect();
        let after: Vec<&str> = hunk.lines.iter().filter(|(sign, _)| *sign != '-').map(|(_, line)| *line).collect();
        let wanted = (hunk.first.saturating_sub(1) as isize + moved).max(0) as usize;
        let at = position(&lines, &before, wanted).ok_or_else(|| {
            let first = before.first().copied().unwrap_or_default();
            format!(
                "the diff does not apply: line {} and those behind it are not there: `{}`",
                hunk.first,
                first.trim()
            )
        })?;
        lines.splice(at..at + before.len(), after.iter().copied());
        moved += after.len() as isize - before.len() as isize;
    }
    Ok(lines.join("\n") + "\n")
}

/// The files that a diff changes, as `+++ b/kernels/v9.cu` names them, each with its part of the diff.
pub(super) fn by_file(diff: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for line in diff.lines() {
        if let Some(name) = line.strip_prefix("+++ ") {
            let name = name.split('\t').next().unwrap_or(name).trim();
            let name = name.strip_prefix("b/").unwrap_or(name);
            files.push((name.strip_prefix("kernels/").unwrap_or(name).to_owned(), String::new()));
        } else if !line.starts_with("--- ")
            && let Some((_, part)) = files.last_mut()
        {
            part.push_str(line);
            part.push('\n');
        }
    }
    files
}

struct Hunk<'a> {
    /// Its first line in the old text, from 1.
    first: usize,
    /// `' '`, `'-'` or `'+'`, and the line.
    lines: Vec<(char, &'a str)>,
}

fn hunks(diff: &str) -> Result<Vec<Hunk<'_>>, String> {
    let mut hunks: Vec<Hunk<'_>> = Vec::new();
    for line in diff.lines() {
        if let Some(rest) = line.strip_prefix("@@ -") {
            let first = rest.split([',', ' ']).next().and_then(|number| number.parse().ok());
            let first = first.ok_or_else(|| format!("the diff has a hunk without a line number: `{line}`"))?;
            hunks.push(Hunk { first, lines: Vec::new() });
        } else if let Some(hunk) = hunks.last_mut() {
            match line.chars().next() {
                // An editor may have cut off the blank of an empty line.
                None => hunk.lines.push((' ', "")),
                Some(sign @ (' ' | '-' | '+')) => hunk.lines.push((sign, &line[1..])),
                Some('\\') => {} // "No newline at end of file"
                Some(_) => {
                    return Err(format!("the diff has a line that is neither kept, removed nor added: `{line}`"));
                }
            }
        }
    }
    match hunks.is_empty() {
        true => Err("the diff has no hunk: one begins with `@@ -line,count +line,count @@`".to_owned()),
        false => Ok(hunks),
    }
}

/// Where these lines are, nearest to the place wanted.
fn position(lines: &[&str], wanted: &[&str], near: usize) -> Option<usize> {
    let last = lines.len().checked_sub(wanted.len())?;
    (0..=last).filter(|at| lines[*at..*at + wanted.len()] == *wanted).min_by_key(|at| at.abs_diff(near))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "a\nb\nc\nd\ne\nb\nc\n";

    #[test]
    fn hunks_go_where_their_lines_are() {
        let diff = "--- a/kernels/v9.cu\n+++ b/kernels/v9.cu\n@@ -2,2 +2,3 @@\n b\n+new\n c\n@@ -6,2 +7,1 @@\n b\n-c\n";
        let files = by_file(diff);
        assert_eq!(files[0].0, "v9.cu");
        assert_eq!(apply(TEXT, &files[0].1).unwrap(), "a\nb\nnew\nc\nd\ne\nb\n");
        // Wrong numbers, and one pair of lines that is there twice: the nearest is taken.
        assert_eq!(apply(TEXT, "@@ -7,1 +7,1 @@\n-b\n+x\n").unwrap(), "a\nb\nc\nd\ne\nx\nc\n");
        assert_eq!(apply(TEXT, "@@ -1,1 +1,1 @@\n-b\n+x\n").unwrap(), "a\nx\nc\nd\ne\nb\nc\n");
    }

    #[test]
    fn what_does_not_apply_is_said() {
        assert!(apply(TEXT, "@@ -1 +1 @@\n-z\n+x\n").unwrap_err().contains("does not apply: line 1"));
        assert!(apply(TEXT, "-b\n+x\n").unwrap_err().contains("no hunk"));
        assert!(apply(TEXT, "@@ -1 +1 @@\n*b\n").unwrap_err().contains("neither kept, removed nor added"));
    }
}
