//! Faults as a compiler would print them.

use std::fmt::Write as _;

use ptx_interp::SourceFrame;
use sdpa_core::Finding;
use sdpa_toolchain::source_line;

use super::{Checked, Fault, What};

/// Faults that are shown unless all are asked for: one mistake often shows in many places, and the first ones fit a screen.
pub const SHOWN: usize = 3;

/// The first `most` faults, and a line of summary that counts those that are not shown.
pub fn render(checked: &Checked, most: usize) -> String {
    let mut text = String::new();
    for fault in checked.faults.iter().take(most) {
        text += &render_fault(checked.generation, fault);
        text.push('\n');
    }
    let Checked { generation, runs, judged, faults, .. } = checked;
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (runs, findings) = (plural(*runs, "run"), plural(faults.len(), "finding"));
    let compared = match judged.rows {
        0 => "no row".to_owned(),
        _ => judged.to_string(),
    };
    let hidden = match faults.len().saturating_sub(most) {
        0 => String::new(),
        hidden => format!(", {hidden} of them not shown: `sdpa check {generation} --all` shows them"),
    };
    let _ = writeln!(text, "{generation}: {runs}, {findings}{hidden}; compared with the oracle: {compared}");
    text
}

fn render_fault(generation: &str, fault: &Fault) -> String {
    let mut text = match &fault.what {
        What::Finding(finding) => render_finding(finding),
        What::Wrong(failure) => format!("{generation}: error: {}\n", failure.reason),
    };
    let mut note = |line: &str| text.extend([MARGIN, "= ", line, "\n"]);
    match fault.again {
        0 => {}
        1 => note("and in another run"),
        more => note(&format!("and in {more} more runs")),
    }
    note(&format!("case: {}", fault.trial));
    note(&format!("repeat: {}", fault.trial.repeat_command(generation)));
    text
}

/// What stands before the lines that explain.
const MARGIN: &str = "       ";

/// Both accesses, each with the lines that lead to it: the kernel's own line first, since that is where an author looks, then
/// the lines in functions that were inlined there.
fn render_finding(finding: &Finding) -> String {
    let mut text = String::new();
    let error = format!("error: {}: {}", finding.kind.name(), finding.message);
    let places = std::iter::once(&finding.place).chain(&finding.other);
    for (place, what) in places.zip([error.as_str(), "note: the other access"]) {
        let frames = place.source.iter().flat_map(|source| &source.frames);
        for (depth, SourceFrame { file, line, function }) in frames.enumerate() {
            // Writing to a string cannot fail.
            let _ = match (depth, function) {
                (0, _) => writeln!(text, "{file}:{line}: {what}"),
                // Lambdas have mangled names, which say less than their line.
                (_, Some(function)) if !function.starts_with("_Z") => {
                    writeln!(text, "{MARGIN}= in `{function}` at {file}:{line}")
                }
                _ => writeln!(text, "{MARGIN}= at {file}:{line}"),
            };
            quote(&mut text, file, *line);
            if depth == 0 && what == error {
                note_missing(&mut text, finding);
            }
        }
        if place.source.is_none() {
            let _ = writeln!(text, "PTX line {}: {what}", place.ptx_line);
            if what == error {
                note_missing(&mut text, finding);
            }
        }
        let _ = writeln!(text, "{MARGIN}= {}", place.thread);
        let _ = writeln!(text, "{MARGIN}= PTX line {}: {}", place.ptx_line, place.ptx);
    }
    let times = if finding.count == 1 { "once".to_owned() } else { format!("{} times", finding.count) };
    let _ = writeln!(text, "{MARGIN}= schedule {}, seen {times}", finding.seed);
    text
}

/// What would have ordered the two accesses, if that is known.
fn note_missing(text: &mut String, finding: &Finding) {
    if let Some(missing) = &finding.missing {
        let _ = writeln!(text, "{MARGIN}= missing: {missing}");
    }
}

fn quote(text: &mut String, file: &str, line: u32) {
    if let Some(source) = source_line(file, line) {
        let _ = writeln!(text, "{line:>6} | {source}");
    }
}
