//! Why some statements stay although nothing here notices their absence.
//!
//! The reason stands beside the statement: `// UNNOTICED: reason`, which comment lines below it continue, belongs to the next
//! statement. It excuses whatever that statement orders, also in functions that are inlined there.

use std::ops::RangeInclusive;

use harness::mutate::{Mutation, Origin};
use sdpa_toolchain::{source_line, without_comments};

/// What a comment begins with that gives a reason.
const MARKER: &str = "// UNNOTICED:";

/// A reason, and the statement that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excuse {
    /// Lines of the statement, from 1.
    lines: RangeInclusive<u32>,
    reason: String,
}

/// The reason that stands beside a mutation's statement, or beside a call that it was inlined through. `source` knows the
/// kernels' files by the names that the compiler gave them.
pub(super) fn reason<'s>(mutation: &Mutation, source: impl Fn(&str) -> Option<&'s str>) -> Option<String> {
    let chain = mutation.origin.iter().flat_map(Origin::chain);
    let mut excuses = chain.filter_map(|(file, line)| {
        let excuse = excuses(source(file)?).into_iter().find(|excuse| excuse.lines.contains(&line))?;
        Some(excuse.reason)
    });
    excuses.next()
}

/// The source lines that a mutation's statement was inlined through, innermost first, for people.
pub(super) fn source_lines(mutation: &Mutation) -> Vec<String> {
    let line = |(file, line): (&str, u32)| Some(source_line(file, line)?.trim().to_owned());
    mutation.origin.iter().flat_map(Origin::chain).filter_map(line).collect()
}

/// Every reason in a source.
fn excuses(source: &str) -> Vec<Excuse> {
    if !source.contains(MARKER) {
        return Vec::new();
    }
    let code = without_comments(source);
    let (lines, code): (Vec<&str>, Vec<&str>) = (source.lines().map(str::trim).collect(), code.lines().collect());
    let mut excuses = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(first) = line.strip_prefix(MARKER) else { continue };
        let goes_on = lines[at + 1..].iter().map_while(|line| line.strip_prefix("//"));
        let reason: Vec<&str> = std::iter::once(first).chain(goes_on).flat_map(str::split_whitespace).collect();
        // Comments, empty lines and directives such as #pragma unroll are no statement.
        let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let Some(start) = code[at..].iter().position(is_code).map(|offset| at + offset) else { continue };
        let end = start + statement(&code[start..]);
        excuses.push(Excuse { lines: start as u32 + 1..=end as u32 + 1, reason: reason.join(" ") });
    }
    excuses
}

/// Lines behind the first that a statement goes on for: to its semicolon, or to the brace that opens what it governs.
fn statement(code: &[&str]) -> usize {
    let (mut depth, mut is_quoted) = (0, false);
    for (at, line) in code.iter().enumerate() {
        let mut characters = line.chars().peekable();
        while let Some(c) = characters.next() {
            match c {
                '\\' if is_quoted => _ = characters.next(),
                '"' => is_quoted = !is_quoted,
                _ if is_quoted => {}
                '(' | '[' => depth += 1,
                ')' | ']' => depth -= 1,
                ';' if depth == 0 => return at,
                // `Masked{}` opens nothing.
                '{' if characters.peek() != Some(&'}') => return at,
                _ => {}
            }
        }
    }
    code.len().saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::mutate::{MutationKind, mutations};
    use sdpa::generations;
    use sdpa_toolchain::{Checkout, Sources};

    fn sources() -> Sources {
        Checkout::find().unwrap().sources().unwrap()
    }

    fn lookup<'s>(sources: &'s Sources) -> impl Fn(&str) -> Option<&'s str> {
        |file| sources.get(file.strip_prefix("kernels/")?)
    }

    #[test]
    fn a_reason_belongs_to_the_next_statement_and_no_other() {
        let source = "\
first();
// Who is done with what.
// UNNOTICED: because of this
// and that.
#pragma unroll 1

asm volatile(\"bar.sync; {\"
             ::\"r\"(x));
second();
// UNNOTICED: of the call alone
rows.for_each([&](int row) {
    inside();
});
// UNNOTICED: a tag opens nothing
attend(tile,
       Masked{});
// UNNOTICED: and nothing is below
";
        let found = excuses(source);
        let expected =
            [(7..=8, "because of this and that."), (11..=11, "of the call alone"), (15..=16, "a tag opens nothing")];
        let expected = expected.map(|(lines, reason)| Excuse { lines, reason: reason.to_owned() });
        assert_eq!(found, expected);
        assert_eq!(excuses("first();\n"), []);
    }

    #[test]
    fn a_reason_survives_other_comments_and_not_its_own_removal() {
        let sources = sources();
        let v3 = generations::find("v3").expect("v3 is a generation").generation();
        let mut found = mutations(v3.specialisations[0].packed_ptx().unwrap());
        found.retain(|mutation| MutationKind::REMOVALS.contains(&mutation.kind));
        let products = found.iter().filter(|mutation| mutation.statement.contains("wgmma.fence"));
        let excused = |sources: &Sources| -> Vec<bool> {
            products.clone().map(|fence| reason(fence, lookup(sources)).is_some()).collect()
        };
        let before = excused(&sources);
        assert!(before.contains(&true) && before.contains(&false), "{before:?}");

        let text = sources.get("v3.cu").unwrap();
        // Another wording in as many lines: a line more moves the code away from the PTX, which the fingerprint notices.
        let reworded: Vec<String> = text
            .lines()
            .map(|line| match line.trim_start().starts_with("// ") && !line.contains(MARKER) {
                true => format!("{} reworded", &line[..line.find("//").unwrap_or(0) + 2]),
                false => line.to_owned(),
            })
            .collect();
        let with = |text: &str| {
            let mut sources = sources.clone();
            sources.insert("v3.cu", text);
            excused(&sources)
        };
        assert_eq!(with(&reworded.join("\n")), before);
        assert!(!with(&text.replace(MARKER, "// Note:")).contains(&true));
    }

    /// A comment that excuses nothing excuses the wrong thing, or stands in the wrong place.
    #[test]
    fn every_reason_excuses_something() {
        let sources = sources();
        let mut idle: Vec<(String, RangeInclusive<u32>)> = Vec::new();
        let mut all = 0;
        for (path, text) in sources.iter().filter(|(path, _)| !path.starts_with("mutants/")) {
            for excuse in excuses(text) {
                assert!(excuse.reason.len() > 20, "kernels/{path}: {}", excuse.reason);
                idle.push((format!("kernels/{path}"), excuse.lines));
                all += 1;
            }
        }
        assert!(all > 0);
        for kernel in generations::ALL.iter().flat_map(|generation| generation.generation().specialisations) {
            // The reasons of other generations' files need no look at this one.
            let own = format!("kernels/{}", kernel.source);
            if !idle.iter().any(|(path, _)| *path == own || path.starts_with("kernels/machine/")) {
                continue;
            }
            for mutation in mutations(kernel.packed_ptx().unwrap()) {
                for (file, line) in mutation.origin.iter().flat_map(Origin::chain) {
                    idle.retain(|(path, lines)| path != file || !lines.contains(&line));
                }
            }
        }
        assert!(idle.is_empty(), "these reasons excuse nothing: {idle:?}");
    }
}
