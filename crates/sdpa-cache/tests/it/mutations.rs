//! Whatever is changed in a kernel, the cases notice, but for what changes nothing.

use harness::mutate::{Choice, Mutation, mutate_alone, render};
use sdpa_cache::kernels::KERNELS;

use crate::case::{kinds, test_all};
use crate::far::test_far;

/// What nothing can notice, and why: text of the source's line, text of the statement, and kinds; empty is any.
const CHANGES_NOTHING: &[([&str; 3], &str)] = &[
    (["(params.workspace)[token]", "", "computed in 32 bits"], "a list of slots is never as long"),
    (["(params.workspace)[token]", "ld.global", "read through the non-coherent cache"], "nobody writes it"),
    (["(params.batch) * page_keys", "", "computed in 32 bits"], "a cache has fewer than 2^31 slots"),
    (["head, token)[column]", "ld.global", "read through the non-coherent cache"], "nobody writes it"),
    (["[column]", "mul.wide.u32", "computed in 32 bits"], "a row is never as long"),
    (["", ", 160", "operand left out"], "parameters begin at address 0 of their space"),
];

/// Why a mutation need not be noticed.
fn changes_nothing(mutation: &Mutation) -> Option<&'static str> {
    let lines = mutation.source_lines();
    let fits = |[source, ptx, kind]: &[&str; 3]| {
        (source.is_empty() || lines.iter().any(|line| line.contains(source)))
            && mutation.statement.contains(ptx)
            && mutation.kind.name().contains(kind)
    };
    CHANGES_NOTHING.iter().find(|(what, _)| fits(what)).map(|(_, reason)| *reason)
}

#[test]
fn mutations_of_the_kernels_are_noticed() {
    let cases = kinds();
    for kernel in KERNELS {
        let score = mutate_alone(&kernel, Choice::All, |device| match test_all(&cases, device)? {
            Ok(()) => test_far(device),
            wrong => Ok(wrong),
        });
        let mut score = score.unwrap();
        for mutant in score.mutants.iter_mut().filter(|mutant| mutant.killed.is_none() && mutant.equivalent.is_none()) {
            mutant.equivalent = changes_nothing(&mutant.mutation).map(str::to_owned);
        }
        assert!(score.survivors().next().is_none() && score.killed() > 40, "{}", render(&score));
    }
}
