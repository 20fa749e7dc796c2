//! Cases that failed once, kept in a file and run for ever after.

use std::io::Write as _;
use std::path::Path;

use super::tally::say;
use crate::case::Case;
use crate::needs::case_as_needed;
use crate::properties::{Property, find};

/// Where failing cases are remembered, as lines `generation property case`; built into the program, so that it finds
/// them wherever it runs.
const REMEMBERED: &str = include_str!("../../proptest-regressions/cases.txt");

/// The remembered cases of a generation (`*` in the file means all), with the property each of them failed; as the generation
/// takes them.
///
/// # Panics
/// Where the file holds a line that does not read.
pub fn remembered(generation: &str) -> Vec<(&'static Property, Case)> {
    let lines = REMEMBERED.lines().map(|line| line.split('#').next().unwrap_or(line).trim());
    let mut found = Vec::new();
    let needed = |case| match sdpa::generations::find(generation) {
        Some(generation) => case_as_needed(generation, &case),
        None => case,
    };
    for line in lines.filter(|line| !line.is_empty()) {
        let mut words = line.splitn(3, ' ');
        let (id, property, case) = (words.next(), words.next().and_then(find), words.next().map(str::parse::<Case>));
        match (id, property, case) {
            (Some(id), Some(property), Some(Ok(case))) if id == generation || id == "*" => {
                found.push((property, needed(case)));
            }
            (Some(_), Some(_), Some(Ok(_))) => (),
            _ => panic!("proptest-regressions/cases.txt: this line does not read: {line}"),
        }
    }
    found
}

/// Adds the smallest failing case to the file, where this runs in a checkout.
///
/// Cases, not proptest's seeds: a seed means another case once a strategy changes. And proptest 1.12 counts replayed
/// seeds as cases in the parent of a fork but not in the child, so that with persisted seeds the parent would miss a
/// failure among the last cases.
pub(super) fn remember(generation: &str, property: &str, case: &Case) {
    let line = format!("{generation} {property} {case}");
    // Tests run in the crate under cargo, and in the repository's root as copied executables.
    let folders = ["proptest-regressions", "crates/harness/proptest-regressions"];
    let file = folders.map(|folder| Path::new(folder).join("cases.txt")).into_iter().find(|file| file.is_file());
    let written = file.and_then(|file| {
        let mut file = std::fs::OpenOptions::new().append(true).open(file).ok()?;
        writeln!(file, "{line}").ok()
    });
    match written {
        Some(()) => say(&format!("remembered in crates/harness/proptest-regressions/cases.txt: {line}")),
        None => say(&format!("to remember this case, add to crates/harness/proptest-regressions/cases.txt: {line}")),
    }
}
