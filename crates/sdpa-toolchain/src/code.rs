//! What of a kernel's source is code: neither comments nor blanks.

/// The lines of CUDA source that hold code, in order: comments, indentation and empty lines are left out. A line that is
/// only reworded, indented or moved away from its comment stays the same.
pub fn code_lines(source: &str) -> Vec<String> {
    without_comments(source)
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|line| !line.is_empty())
        .collect()
}

/// The source with blanks where comments were, so that every line and column stays where it is. Quoted text is no comment.
pub fn without_comments(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (length, is_comment) = match first {
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), true),
            '/' if rest.starts_with("/*") => (rest[2..].find("*/").map_or(rest.len(), |end| end + 4), true),
            '"' | '\'' => (quoted(rest, first), false),
            _ => (first.len_utf8(), false),
        };
        let (piece, after) = rest.split_at(length);
        match is_comment {
            true => text.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            false => text.push_str(piece),
        }
        rest = after;
    }
    text
}

/// Bytes of the quoted text that `rest` begins with. A quote that nothing closes on its line is a digit separator (`1'000`).
fn quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '\n' => break,
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blanks_and_indentation_are_no_code() {
        let source = "// V9\n\n  int  x = 1;   // one\n/* two\n lines */ int y; /* and */ int z;\n\tasm(\"// kept\" /* not */);\n";
        assert_eq!(code_lines(source), ["int x = 1;", "int y; int z;", "asm(\"// kept\" );"]);
    }

    #[test]
    fn what_is_code_stays_in_its_place() {
        let source = "a /* é\n b */ c // d\n'\"' // e\n1'000 // f\n\"\\\"//\" g /* unclosed";
        let bare = without_comments(source);
        assert_eq!(bare.lines().count(), source.lines().count());
        let lines: Vec<&str> = bare.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["a", "      c", "'\"'", "1'000", "\"\\\"//\" g"]);
    }
}
