//! Comments that are history to a child: what its parent mended in the parent's own parent.

use sdpa_toolchain::file_entry;

/// What such a comment begins with.
const FIX: &str = "// FIX:";

/// A kernel's text without its `FIX:` comments, and for each line of before, from 0, the number of lines that went before it.
pub(super) fn without_fixes(text: &str) -> (String, Vec<usize>) {
    let (mut kept, mut gone) = (String::new(), Vec::new());
    let (mut removed, mut is_fix, mut after_fix) = (0, false, false);
    for line in text.split_inclusive('\n') {
        let comment = line.trim();
        gone.push(removed);
        is_fix = comment.starts_with(FIX) || (is_fix && comment.starts_with("// ") && !is_label(comment));
        // An empty comment line parted it from what follows.
        if is_fix || (after_fix && comment == "//") {
            removed += 1;
        } else {
            kept += line;
        }
        after_fix = is_fix;
        // A comment that goes on behind the sentence's last line is another one.
        is_fix &= !comment.ends_with('.');
    }
    (kept, gone)
}

/// True for comments such as `// INSIGHT: …`.
fn is_label(comment: &str) -> bool {
    let word = comment.trim_start_matches("// ").split(':').next().unwrap_or_default();
    comment.contains(':') && !word.is_empty() && word.chars().all(|letter| letter.is_ascii_uppercase())
}

/// The PTX of a kernel whose lines moved: `gone` says for each line of the file how many lines before it went.
pub(super) fn move_lines(ptx: &str, file: &str, gone: &[usize]) -> String {
    let mut entries = ptx.lines().filter_map(|line| file_entry(line).map(|(number, name)| (number, &line[name])));
    let Some((number, _)) = entries.find(|(_, name)| *name == file) else { return ptx.to_owned() };
    let number = number.to_string();
    let mut moved = String::with_capacity(ptx.len());
    for line in ptx.split_inclusive('\n') {
        if !line.trim_start().starts_with(".loc") {
            moved += line;
            continue;
        }
        // `.loc FILE LINE COLUMN[, function_name …, inlined_at FILE LINE COLUMN]`, with any blanks between.
        let (mut awaits_file, mut awaits_line) = (false, false);
        for part in line.split_inclusive([' ', '\t', '\n']) {
            let word = part.trim();
            match word {
                "" => moved += part,
                _ if std::mem::take(&mut awaits_line) => moved += &moved_line(part, word, gone),
                _ if std::mem::take(&mut awaits_file) => {
                    awaits_line = word == number;
                    moved += part;
                }
                _ => {
                    awaits_file = matches!(word, ".loc" | "inlined_at");
                    moved += part;
                }
            }
        }
    }
    moved
}

fn moved_line(part: &str, word: &str, gone: &[usize]) -> String {
    let line: Option<usize> = word.parse().ok();
    let now = line.and_then(|line| Some(line - gone.get(line.checked_sub(1)?)?));
    now.map_or_else(|| part.to_owned(), |now| part.replacen(word, &now.to_string(), 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_parent_mended_is_left_out_and_nothing_else() {
        let text = "\
// FIX: v1 did this
// and that. So it goes.
//
// The rows of one warp.
class Rows {
    // FIX: v1 waits.
    // INSIGHT: ownership beats it.
    int a;
    // FIX: v1 is slow.
    // 72 registers suffice.
    int b;  // FIX: is no comment of its own line
};
";
        let (kept, gone) = without_fixes(text);
        let expected = "\
// The rows of one warp.
class Rows {
    // INSIGHT: ownership beats it.
    int a;
    // 72 registers suffice.
    int b;  // FIX: is no comment of its own line
};
";
        assert_eq!(kept, expected);
        assert_eq!(gone, [0, 1, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]);
    }

    #[test]
    fn lines_of_the_kernels_file_move_and_those_of_others_stay() {
        let ptx = "\t.loc\t1 3 5\n\t.loc\t2 3 7, function_name $L__info_string0, inlined_at 1 4 9\n\tadd.s32 %r1, 1, 3;\n\
                   \t.loc\t2 3 7, function_name $L__info_string0+12, inlined_at 2 4 9\n\t.file\t1 \"kernels/v1.cu\"\n\t.file\t2 \"kernels/a.cuh\"\n";
        let moved = move_lines(ptx, "kernels/v1.cu", &[0, 0, 1, 2]);
        let expected = ptx.replace(".loc\t1 3 5", ".loc\t1 2 5").replace("inlined_at 1 4 9", "inlined_at 1 2 9");
        assert_eq!(moved, expected);
        assert_eq!(move_lines(ptx, "kernels/v9.cu", &[9]), ptx);
    }
}
