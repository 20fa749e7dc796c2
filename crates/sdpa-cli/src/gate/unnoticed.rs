//! Why some statements stay although nobody here notices their absence.

use sdpa_toolchain::{source_line, source_text};

use harness::mutate::{Mutation, Origin};
use sdpa::generations;

const LIST: &str = include_str!("unnoticed.txt");

struct Entry {
    generation: &'static str,
    text: &'static str,
    reason: &'static str,
}

fn entries() -> impl Iterator<Item = Entry> {
    LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [generation, text, reason] = parts[..] else {
            panic!("unnoticed.txt: this line is not GENERATION | TEXT | REASON: {line}")
        };
        Entry { generation, text, reason }
    })
}

/// The reason that is listed for this generation's statement, or for an ancestor's that reads the same.
///
/// # Panics
/// Where the list holds a line that does not read.
pub(super) fn reason(generation: &str, mutation: &Mutation) -> Option<&'static str> {
    let parent = |id: &&str| generations::find(id).and_then(|generation| generation.generation().parent);
    // No line of descent is longer than this, unless it runs in a circle.
    let line: Vec<&str> =
        std::iter::successors(Some(generation), |id| parent(id)).take(generations::ALL.len() + 1).collect();
    let texts = source_pairs(mutation);
    let fits = |entry: &Entry| {
        (entry.generation == "*" || line.contains(&entry.generation))
            && (mutation.statement.contains(entry.text) || texts.iter().any(|text| text.contains(entry.text)))
    };
    entries().find(fits).map(|entry| entry.reason)
}

/// The source lines that a mutation's statement was inlined through, innermost first, each with the one before it.
fn source_pairs(mutation: &Mutation) -> Vec<String> {
    let pair = |(file, line): (&str, u32)| {
        let lines: Vec<&str> = source_text(file)?.lines().map(str::trim).collect();
        let index = (line as usize).checked_sub(1).filter(|index| *index < lines.len())?;
        let before = lines[..index].iter().rev().find(|line| !line.is_empty()).copied().unwrap_or_default();
        Some(format!("{before} {}", lines[index]))
    };
    mutation.origin.iter().flat_map(Origin::chain).filter_map(pair).collect()
}

/// The same lines alone, for people.
pub(super) fn source_lines(mutation: &Mutation) -> Vec<String> {
    let line = |(file, line): (&str, u32)| Some(source_line(file, line)?.trim().to_owned());
    mutation.origin.iter().flat_map(Origin::chain).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::mutate::{MutationKind, mutations};

    #[test]
    fn the_list_reads_and_is_of_generations_that_there_are() {
        for Entry { generation, text, reason } in entries() {
            assert!(generation == "*" || generations::find(generation).is_some(), "{generation}");
            assert!(text.len() > 8 && reason.len() > 20, "{text}: {reason}");
        }
    }

    #[test]
    fn a_reason_is_for_the_statement_and_for_whoever_inherits_it() {
        let v3 = generations::find("v3").expect("v3 is a generation").generation();
        let ptx = v3.specialisations[0].packed_ptx().unwrap();
        let mut found = mutations(ptx);
        found.retain(|mutation| MutationKind::REMOVALS.contains(&mutation.kind));
        let reason_of = |id, what: &str| {
            let mutation = found.iter().find(|mutation| mutation.statement.contains(what)).unwrap();
            reason(id, mutation).is_some()
        };
        assert!(reason_of("v3", "setmaxnreg") && !reason_of("v3", "bar.sync 0"));
        // Of all waits on mbarriers only the first one of the producer's keys has a reason.
        let waits: Vec<_> = found.iter().filter(|mutation| mutation.statement.contains("try_wait")).collect();
        for (id, expected) in [("v3", 1), ("v3c", 1), ("v2d", 0)] {
            assert_eq!(waits.iter().filter(|wait| reason(id, wait).is_some()).count(), expected, "{id}");
        }
    }
}
