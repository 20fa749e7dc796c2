//! Mutations that compute the same, recognised where that is cheap.

use std::path::Path;

use sdpa_core::Specialisation;
use sdpa_toolchain::resources::machine_code;
use sdpa_toolchain::source_line;

use super::{Mutation, MutationKind};

/// Why survivors that people looked at change nothing: a line of source or a statement, kinds, and the reason.
const LIST: &str = include_str!("equivalent.txt");

struct Entry {
    text: &'static str,
    kinds: Vec<&'static str>,
    reason: &'static str,
}

fn entries() -> impl Iterator<Item = Entry> {
    LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [text, kinds, reason] = parts[..] else {
            panic!("equivalent.txt: this line is not SOURCE | KINDS | REASON: {line}")
        };
        Entry { text, kinds: kinds.split(", ").collect(), reason }
    })
}

/// Why a mutation that nothing notices changes nothing, as the list says.
///
/// # Panics
/// If a line of the list does not read.
pub(super) fn listed(mutation: &Mutation) -> Option<&'static str> {
    let lines: Vec<&str> = mutation
        .origin
        .iter()
        .flat_map(|origin| origin.chain())
        .filter_map(|(file, line)| source_line(file, line))
        .collect();
    let fits = |entry: &Entry| {
        (entry.kinds == ["*"] || entry.kinds.contains(&mutation.kind.name()))
            && (mutation.statement.contains(entry.text) || lines.iter().any(|line| line.contains(entry.text)))
    };
    entries().find(fits).map(|entry| entry.reason)
}

/// True if nothing reads what the mutated statement writes.
pub(super) fn is_dead(mutation: &Mutation, ptx: &str) -> bool {
    let values = MutationKind::CHANGES.contains(&mutation.kind);
    let instruction = mutation.statement.trim_start_matches(|letter| letter != ' ').trim_start();
    let destination = instruction.split([',', '|']).next().unwrap_or("").trim();
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let is_register = destination.starts_with('%') && destination[1..].chars().all(is_name);
    if !values || !is_register || mutation.statement.starts_with('@') {
        return false;
    }
    let uses = ptx.match_indices(destination).filter(|(at, _)| {
        let next = ptx[at + destination.len()..].chars().next();
        !next.is_some_and(is_name)
    });
    uses.count() == 1
}

/// True if ptxas makes the same machine code of both texts.
pub(super) fn assembles_alike(ptxas: &Path, kernel: &Specialisation, ptx: &str, mutated: &str) -> bool {
    let code = |text| machine_code(ptxas, kernel, text).ok();
    code(ptx).is_some_and(|code_of_kernel| code(mutated) == Some(code_of_kernel))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::mutations;

    #[test]
    fn the_list_reads_and_names_kinds_that_there_are() {
        let known: Vec<&str> = MutationKind::all().into_iter().map(MutationKind::name).collect();
        for Entry { text, kinds, reason } in entries() {
            assert!(text.len() > 8 && reason.len() > 20, "{text}: {reason}");
            assert!(kinds == ["*"] || kinds.iter().all(|kind| known.contains(kind)), "{kinds:?}");
        }
    }

    #[test]
    fn a_destination_that_nothing_reads_is_dead() {
        let ptx = ".entry k() {\nadd.s32 %r1, %r2, 1;\nadd.s32 %r12, %r2, 1;\nmov.b32 %r3, %r12;\n@%p1 add.s32 %r9, %r2, 1;\nret; }";
        let dead: Vec<usize> =
            mutations(ptx).iter().filter(|mutation| is_dead(mutation, ptx)).map(|mutation| mutation.ptx_line).collect();
        assert!(!dead.is_empty() && dead.iter().all(|line| *line == 2), "{dead:?}");
    }
}
