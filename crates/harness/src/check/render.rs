//! Faults as a compiler would print them.

use std::fmt::Write as _;

use sdpa_core::Finding;
use sdpa_toolchain::source_line;

use super::{Checked, Fault, What};

/// Every fault, and a line of summary.
pub fn render(checked: &Checked) -> String {
    let mut text = String::new();
    for fault in &checked.faults {
        text += &render_fault(checked.generation, fault);
        text.push('\n');
    }
    let Checked { generation, runs, faults, .. } = checked;
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let _ = writeln!(text, "{generation}: {}, {}", plural(*runs, "run"), plural(faults.len(), "finding"));
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

fn render_finding(finding: &Finding) -> String {
    let mut text = String::new();
    let error = format!("error: {}: {}", finding.kind.name(), finding.message);
    let places = std::iter::once(&finding.place).chain(&finding.other);
    for (place, what) in places.zip([error.as_str(), "note: the other access"]) {
        // Writing to a string cannot fail.
        let _ = match &place.source {
            Some(source) => writeln!(text, "{}:{}: {what}", source.file, source.line),
            None => writeln!(text, "PTX line {}: {what}", place.ptx_line),
        };
        if let Some(source) = &place.source {
            quote(&mut text, &source.file, source.line);
            if let Some((file, line)) = &source.inlined_at {
                let _ = writeln!(text, "{MARGIN}= inlined at {file}:{line}");
                quote(&mut text, file, *line);
            }
        }
        let _ = writeln!(text, "{MARGIN}= {}", place.thread);
        let _ = writeln!(text, "{MARGIN}= PTX line {}: {}", place.ptx_line, place.ptx);
    }
    let times = if finding.count == 1 { "once".to_owned() } else { format!("{} times", finding.count) };
    let _ = writeln!(text, "{MARGIN}= schedule {}, seen {times}", finding.seed);
    text
}

fn quote(text: &mut String, file: &str, line: u32) {
    if let Some(source) = source_line(file, line) {
        let _ = writeln!(text, "{line:>6} | {source}");
    }
}
