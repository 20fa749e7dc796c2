//! The README's headline: how the fastest of ours stands beside the fastest peer, never stronger than the verdicts are.

use std::fmt::Write as _;

use super::grounds::{GROUNDS, Ground};
use super::peers;
use super::standing::Standing;
use super::table::title_of;
use super::{Entry, Evidence, EvidenceRecord};

/// The name of the region.
pub const REGION: &str = "headline";

/// The fastest of ours and the fastest peer on one problem, and the record that has both.
struct Pair<'a> {
    record: &'a EvidenceRecord,
    ours: &'a Entry,
    theirs: &'a Entry,
}

/// The text between the markers.
pub fn render(evidence: &Evidence) -> String {
    let pairs = pairs(evidence);
    let standing = |ground: Option<&Ground>| {
        let on = |pair: &&Pair<'_>| {
            ground.is_none_or(|ground| Ground::of(&pair.ours.figure, evidence.multiprocessors()) == ground)
        };
        let figures: Vec<_> = pairs.iter().filter(on).map(|pair| (pair.ours, pair.theirs)).collect();
        Standing::of_pairs(&figures)
    };
    let Some(all) = standing(None) else {
        return "No record with peers: `sdpa bench --peers --record DIR` makes one on a GPU.\n".to_owned();
    };
    let stale = if all.stale { " Stale: kernels have changed since." } else { "" };
    let mut text = format!(
        "On an {} ({}), the fastest generation is **{}** of {} problems, beside the fastest of {} in the same run.{stale}\n\n",
        evidence.device(),
        days(&pairs),
        all.tally,
        all.tally.problems(),
        peers_timed(evidence, &pairs),
    );
    for ground in &GROUNDS {
        if let Some(Standing { tally, mean, .. }) = standing(Some(ground)) {
            writeln!(text, "- {}: {tally}; mean {mean:.2} ×.", ground.name).expect("a text takes it");
        }
    }
    writeln!(text, "\n[All problems](docs/{}). [What verdicts mean](docs/benchmarking.md).", peers::FILE)
        .expect("a text takes it");
    text
}

/// The day or days of the records.
fn days(pairs: &[Pair<'_>]) -> String {
    let days = || pairs.iter().filter_map(|pair| pair.record.day());
    match (days().min(), days().max()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (Some(day), _) => day.to_owned(),
        (None, _) => "undated".to_owned(),
    }
}

/// The peers by name; of one that was not timed everywhere, on how many of the problems it was.
fn peers_timed(evidence: &Evidence, pairs: &[Pair<'_>]) -> String {
    let names = evidence.peers(|_| true).into_iter().map(|peer| {
        let timed = |pair: &&Pair<'_>| {
            pair.ours.figure.problem().is_some_and(|problem| pair.record.of(peer, &problem).is_some())
        };
        match pairs.iter().filter(timed).count() {
            everywhere if everywhere == pairs.len() => title_of(peer).to_owned(),
            some => format!("{} (on {some})", title_of(peer)),
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Of every problem the fastest of ours and the fastest peer, from the record that [`Evidence::pick`] prefers.
fn pairs(evidence: &Evidence) -> Vec<Pair<'_>> {
    let mut pairs = Vec::new();
    let mut seen = Vec::new();
    for problem in evidence.records.iter().flat_map(|record| record.problems()) {
        if seen.contains(&problem) {
            continue;
        }
        let found = evidence.records.iter().filter_map(|record| {
            let (ours, theirs) = (record.fastest_of_ours(&problem)?, record.best_peer(&problem)?);
            Some((Pair { record, ours, theirs }, (ours.stale, std::cmp::Reverse(record.on(&problem).count()))))
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
        On an NVIDIA H200 (2026-01-31), the fastest generation is **faster on 1, ambiguous on 0, slower on 1** of 2 problems, beside the fastest of FlashAttention-2 (on 1), cuDNN in the same run.

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
