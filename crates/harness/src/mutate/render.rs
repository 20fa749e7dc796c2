//! A score, for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{MutationKind, Origin, Score};
use sdpa_toolchain::source_line;

/// What survivors are put together by.
type Place<'s> = (Option<&'s Origin>, MutationKind);

/// `killed n of m`, what killed them, and the survivors, those of one line of source together.
pub fn render(score: &Score) -> String {
    let mut text = String::new();
    let mut survivors: BTreeMap<Place<'_>, Vec<(usize, &str)>> = BTreeMap::new();
    for survivor in score.survivors() {
        let lines = survivors.entry((survivor.origin.as_ref(), survivor.kind)).or_default();
        lines.push((survivor.ptx_line, &survivor.statement));
    }
    // Writing to a string cannot fail.
    for ((origin, kind), statements) in survivors {
        let Some((_, first)) = statements.first() else { continue };
        let lines: Vec<String> = statements.iter().map(|(line, _)| line.to_string()).collect();
        let lines = format!("PTX line{} {}", if lines.len() == 1 { "" } else { "s" }, lines.join(", "));
        match origin {
            Some(origin) => {
                let _ = writeln!(text, "{}:{}: survived: {}", origin.file, origin.line, kind.name());
                let calls = std::iter::once((&origin.file, origin.line));
                let calls = calls.chain(origin.callers.iter().map(|(file, line)| (file, *line)));
                for (index, (file, line)) in calls.enumerate() {
                    if index > 0 {
                        let _ = writeln!(text, "       = called from {file}:{line}");
                    }
                    if let Some(source) = source_line(file, line) {
                        let _ = writeln!(text, "{line:>6} | {source}");
                    }
                }
            }
            None => {
                let _ = writeln!(text, "{lines}: survived: {}", kind.name());
            }
        }
        let _ = writeln!(text, "       = {lines}: {first}\n");
    }
    let _ = write!(text, "{}: killed {} of {}", score.kernel, score.killed(), score.total());
    let killers: Vec<String> = score.killers().into_iter().map(|(by, count)| format!("{count} by {by}")).collect();
    if !killers.is_empty() {
        let _ = write!(text, " ({})", killers.join(", "));
    }
    if score.equivalent() > 0 {
        let _ = write!(text, "; {} more change nothing", score.equivalent());
    }
    text.push('\n');
    text
}
