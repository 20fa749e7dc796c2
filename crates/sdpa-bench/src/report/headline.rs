//! The README's headline: how the fastest of ours stands beside the fastest peer, never stronger than the verdicts are.

use std::fmt::Write as _;

use super::grounds::{GROUNDS, Ground};
use super::peers;
use super::standing::Standing;
use super::table::title_of;
use super::{Entry, Evidence};

/// The name of the region.
pub const REGION: &str = "headline";

/// The text between the markers.
pub fn render(evidence: &Evidence) -> String {
    let pairs = pairs(evidence);
    let Some(standing) = Standing::of_pairs(&pairs) else {
        return "No record with peers: `sdpa bench --peers --record DIR` makes one on a GPU.\n".to_owned();
    };
    let names: Vec<&str> = evidence.peers(|_| true).into_iter().map(title_of).collect();
    let stale = if standing.stale { " Stale: kernels have changed since." } else { "" };
    let dates: Vec<&str> = evidence.records.iter().filter_map(|record| record.day()).collect();
    let (first, last) = (dates.iter().min().copied().unwrap_or("undated"), dates.iter().max().copied());
    let until = last.filter(|last| *last != first).map(|last| format!(" to {last}")).unwrap_or_default();
    let mut text = format!(
        "On an {} ({first}{until}), the fastest generation is **{}** of {} problems, beside the fastest of {} in the same \
         run.{stale}\n\n",
        evidence.device(),
        standing.tally,
        standing.tally.problems(),
        names.join(", "),
    );
    for ground in &GROUNDS {
        let here = pairs.iter().filter(|(ours, _)| Ground::of(&ours.figure, evidence.multiprocessors()) == ground);
        let here: Vec<(&Entry, &Entry)> = here.copied().collect();
        if let Some(Standing { tally, mean, .. }) = Standing::of_pairs(&here) {
            writeln!(text, "- {}: {tally}; mean {mean:.2} ×.", ground.name).expect("a text takes it");
        }
    }
    writeln!(text, "\n[All problems](docs/{}). [What verdicts mean](docs/benchmarking.md).", peers::FILE)
        .expect("a text takes it");
    text
}

/// Of every problem the fastest of ours and the fastest peer, from the record that [`Evidence::pick`] prefers.
fn pairs(evidence: &Evidence) -> Vec<(&Entry, &Entry)> {
    let mut pairs = Vec::new();
    let mut seen = Vec::new();
    for problem in evidence.records.iter().flat_map(|record| record.problems()) {
        if seen.contains(&problem) {
            continue;
        }
        let found = evidence.records.iter().filter_map(|record| {
            let pair = (record.fastest_of_ours(&problem)?, record.best_peer(&problem)?);
            Some((pair, (pair.0.stale, std::cmp::Reverse(record.on(&problem).count()))))
        });
        pairs.extend(found.min_by_key(|(_, worth)| *worth).map(|(pair, _)| pair));
        seen.push(problem);
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::evidence;
    use crate::report::tests::{entry, record};

    #[test]
    fn the_headline_is_the_verdicts_of_every_problem_once() {
        let mut evidence = evidence();
        // The same problem again, with fewer contenders: it is not counted twice.
        let again = GROUNDS[0].problem();
        evidence.records.push(record("b.json", vec![entry("v9", &again, 1.0), entry("cudnn", &again, 9.0)]));
        insta::assert_snapshot!(render(&evidence), @r"
        On an NVIDIA H200 (2026-01-31), the fastest generation is **faster on 1, ambiguous on 0, slower on 1** of 2 problems, beside the fastest of FlashAttention-2, cuDNN in the same run.

        - short: faster on 1, ambiguous on 0, slower on 0; mean 1.72 ×.
        - long: faster on 0, ambiguous on 0, slower on 1; mean 0.06 ×.

        [All problems](docs/peers.md). [What verdicts mean](docs/benchmarking.md).
        ");
    }

    #[test]
    fn without_peers_there_is_no_headline() {
        let evidence = Evidence { rungs: vec![], records: vec![record("a.json", vec![])] };
        insta::assert_snapshot!(render(&evidence), @"No record with peers: `sdpa bench --peers --record DIR` makes one on a GPU.");
    }
}
