//! What the trials do not reach, for people: the source with notes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sdpa_toolchain::source_line;

use super::place::Event;
use super::{GenerationCoverage, Missed, Place};

/// Every place that is missed, with its line of source, and a line for each kernel.
pub fn render(coverage: &GenerationCoverage) -> String {
    let mut text = String::new();
    // Kernels that miss the same place share the note.
    let mut missed: BTreeMap<(&Place, Event), (Vec<&str>, &Missed)> = BTreeMap::new();
    for kernel in &coverage.kernels {
        for one in &kernel.missed {
            missed.entry((&one.place, one.event)).or_insert_with(|| (Vec::new(), one)).0.push(&kernel.kernel);
        }
    }
    let nowhere =
        |one: &Missed| coverage.nowhere.iter().any(|missed| (&missed.place, missed.event) == (&one.place, one.event));
    for ((place, _), (kernels, one)) in missed {
        note(&mut text, place, if nowhere(one) { "in no kernel" } else { "in other kernels" }, &kernels, one);
    }
    // Writing to a string cannot fail.
    for kernel in &coverage.kernels {
        let [never, once, twice, more, of] = kernel.loops;
        let percent = 100.0 * kernel.reached as f64 / kernel.places.max(1) as f64;
        let _ = writeln!(
            text,
            "{}: {} of {} places reached ({percent:.1} %), {} explained; {of} loops, which turn 0, 1, 2 and more times in \
             {never}, {once}, {twice} and {more}",
            kernel.kernel, kernel.reached, kernel.places, kernel.explained
        );
    }
    let unseen: Vec<&str> =
        coverage.plans.iter().filter(|feature| !feature.seen).map(|feature| feature.name.as_str()).collect();
    let seen = coverage.plans.len() - unseen.len();
    let _ = write!(
        text,
        "{}: {} places reached in no kernel, {} of them explained; {seen} of {} features of plans",
        coverage.generation,
        coverage.nowhere.len(),
        coverage.nowhere.iter().filter(|missed| missed.reason.is_some()).count(),
        coverage.plans.len()
    );
    let _ = match unseen.is_empty() {
        true => writeln!(text),
        false => writeln!(text, "; no trial's plan has: {}", unseen.join(", ")),
    };
    text
}

fn note(text: &mut String, Place(calls): &Place, elsewhere: &str, kernels: &[&str], one: &Missed) {
    for (index, (file, line)) in calls.iter().enumerate() {
        let _ = match index {
            0 => writeln!(text, "{file}:{line}: {}", one.what()),
            _ => writeln!(text, "       = called from {file}:{line}"),
        };
        if let Some(source) = source_line(file, *line) {
            let _ = writeln!(text, "{line:>6} | {source}");
        }
    }
    if let Some(reason) = &one.reason {
        let _ = writeln!(text, "       = explained: {reason}");
    }
    let _ = writeln!(text, "       = in {}; reached {elsewhere}", kernels.join(", "));
    let _ = writeln!(text, "       = PTX line {} of the first: {}\n", one.ptx_line, one.ptx);
}
