//! Mutations that compute the same, recognised where that is cheap.

use std::path::Path;

use sdpa_core::Specialisation;
use sdpa_toolchain::resources::machine_code;

use super::{Mutation, MutationKind};

/// Why survivors that people looked at change nothing. The format stands at its head.
const LIST: &str = include_str!("equivalent.txt");

/// In the list: any change to a statement that no trial comes to.
const NOT_EXECUTED: &str = "not executed";

struct Entry {
    sources: Vec<&'static str>,
    ptx: &'static str,
    kinds: Vec<&'static str>,
    reason: &'static str,
}

fn entries() -> impl Iterator<Item = Entry> {
    LIST.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let parts: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [sources, ptx, kinds, reason] = parts[..] else {
            panic!("equivalent.txt: this line is not SOURCE | PTX | KINDS | REASON: {line}")
        };
        Entry { sources: sources.split(" <- ").collect(), ptx, kinds: kinds.split(", ").collect(), reason }
    })
}

impl Entry {
    /// True if the entry is about this mutation, whose statement stands in these lines of the source, the innermost first.
    fn fits(&self, mutation: &Mutation, lines: &[&str], is_executed: bool) -> bool {
        let is_in = |text: &&str| match (*text, text.strip_prefix('^')) {
            ("-", _) => mutation.origin.is_none(),
            (_, Some(innermost)) => lines.first().is_some_and(|line| line.contains(innermost)),
            (text, None) => lines.iter().any(|line| line.contains(text)),
        };
        let kinds = match self.kinds[..] {
            ["*"] => true,
            [NOT_EXECUTED] => !is_executed,
            _ => self.kinds.contains(&mutation.kind.name()),
        };
        let ptx = self.ptx == "*" || mutation.statement.contains(self.ptx) || mutation.replacement().contains(self.ptx);
        kinds && ptx && self.sources.iter().all(is_in)
    }
}

/// Why a mutation that nothing notices changes nothing, as the list says.
///
/// # Panics
/// If a line of the list does not read.
pub(super) fn listed(mutation: &Mutation, is_executed: bool) -> Option<&'static str> {
    let lines = mutation.source_lines();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    entries().find(|entry| entry.fits(mutation, &lines, is_executed)).map(|entry| entry.reason)
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
        for Entry { sources, ptx, kinds, reason } in entries() {
            let are_long = sources.iter().all(|text| *text == "-" || text.len() > 7);
            assert!(are_long && !ptx.is_empty() && reason.len() > 20, "{sources:?}: {reason}");
            let are_known = kinds.iter().all(|kind| known.contains(kind));
            assert!(matches!(kinds[..], ["*" | NOT_EXECUTED]) || are_known, "{kinds:?}");
        }
    }

    #[test]
    fn an_entry_fits_its_lines_its_statement_and_its_kinds_alone() {
        let ptx = ".entry k() {\nsetp.eq.s32 %p1, %r1, 1;\nret; }";
        let found = mutations(ptx);
        let constants: Vec<&Mutation> = found.iter().filter(|one| one.kind == MutationKind::Constant).collect();
        let [more, fewer] = constants[..] else { panic!("two neighbours: {constants:?}") };
        let entry = |sources: &[&'static str], ptx, kind| Entry {
            sources: sources.to_vec(),
            ptx,
            kinds: vec![kind],
            reason: "",
        };
        let lines = ["batch == 1 ? 0 : x", "locate(params)"];
        let fits =
            |sources: &[&'static str], ptx, kind, mutation| entry(sources, ptx, kind).fits(mutation, &lines, true);
        let kind = "constant changed by 1";
        assert!(fits(&["batch == 1"], "*", kind, more) && fits(&["locate("], "setp", kind, more));
        // What replaces the statement tells neighbours apart.
        assert!(fits(&["batch == 1"], ", 0;", kind, fewer) && !fits(&["batch == 1"], ", 0;", kind, more));
        assert!(fits(&["^batch == 1", "locate("], "*", kind, more) && !fits(&["^locate("], "*", kind, more));
        assert!(!fits(&["batch == 1", "elsewhere("], "*", kind, more) && !fits(&["batch == 1"], "selp", kind, more));
        assert!(
            !fits(&["batch == 1"], "*", "comparison flipped", more) && !fits(&["batch == 1"], "*", NOT_EXECUTED, more)
        );
        assert!(entry(&["-"], "*", NOT_EXECUTED).fits(more, &[], false));
    }

    #[test]
    fn a_destination_that_nothing_reads_is_dead() {
        let ptx = ".entry k() {\nadd.s32 %r1, %r2, 1;\nadd.s32 %r12, %r2, 1;\nmov.b32 %r3, %r12;\n@%p1 add.s32 %r9, %r2, 1;\nret; }";
        let dead: Vec<usize> =
            mutations(ptx).iter().filter(|mutation| is_dead(mutation, ptx)).map(|mutation| mutation.ptx_line).collect();
        assert!(!dead.is_empty() && dead.iter().all(|line| *line == 2), "{dead:?}");
    }
}
