//! The README's headline: how the fastest of ours stands beside the fastest peer, never stronger than the verdicts are.

use std::fmt::Write as _;

use super::grounds::{GROUNDS, Ground};
use super::peers;
use super::standing::Standing;
use super::table::title_of;
use super::{Beside, Entry, Evidence, EvidenceRecord};

/// The name of the region.
pub const REGION: &str = "headline";

/// The fastest of ours beside the fastest peer on one problem, and the record that has both.
struct Pair<'a> {
    record: &'a EvidenceRecord,
    ours: &'a Entry,
    beside: Beside,
}

/// The text between the markers.
pub fn render(evidence: &Evidence) -> String {
    let pairs = pairs(evidence);
    let standing = |ground: Option<&Ground>| {
        let on = |pair: &&Pair<'_>| {
            ground.is_none_or(|ground| Ground::of(&pair.ours.figure, evidence.multiprocessors()) == ground)
        };
        Standing::of(&pairs.iter().filter(on).map(|pair| pair.beside.clone()).collect::<Vec<_>>())
    };
    let Some(all) = standing(None) else {
        return "No record with peers: `sdpa bench --peers --record DIR` makes one on a GPU.\n".to_owned();
    };
    let stale = if all.stale { " Stale: kernels have changed since." } else { "" };
    let mut text = format!(
        "On an {} ({}{}), the fastest generation is **{}** of {} problems, beside the fastest of {} in the same run.{stale}\n\n",
        evidence.device(),
        days(&pairs),
        sittings(&pairs),
        all.tally,
        all.tally.problems(),
        peers_timed(evidence, &pairs),
    );
    for ground in &GROUNDS {
        if let Some(Standing { tally, mean, .. }) = standing(Some(ground)) {
            writeln!(text, "- {}: {tally}; mean {mean:.2} ×.", ground.name).expect("a text takes it");
        }
    }
    let sustained = evidence.in_sustained_turns();
    let of_sustained: Vec<Beside> = self::pairs(&sustained).into_iter().map(|pair| pair.beside).collect();
    if let Some(Standing { tally, mean, .. }) = Standing::of(&of_sustained) {
        let problems = tally.problems();
        writeln!(text, "- sustained turns, {problems} problems: {tally}; mean {mean:.2} ×.").expect("a text takes it");
    }
    writeln!(text, "\n[All problems](docs/{}). [What verdicts mean](docs/benchmarking.md).", peers::FILE)
        .expect("a text takes it");
    text
}

/// The day or days of the records.
fn days(pairs: &[Pair<'_>]) -> String {
    let days = || pairs.iter().flat_map(|pair| pair.record.days());
    match (days().min(), days().max()) {
        (Some(first), Some(last)) if first != last => format!("{first} to {last}"),
        (Some(day), _) => day.to_owned(),
        (None, _) => "undated".to_owned(),
    }
}

/// How many sittings each problem has, if not one each: faster is what all of a problem's say.
fn sittings(pairs: &[Pair<'_>]) -> String {
    let counts = || pairs.iter().map(|pair| pair.beside.sittings);
    match (counts().min().unwrap_or(1), counts().max().unwrap_or(1)) {
        (1, 1) => String::new(),
        (least, most) if least == most => format!(", {most} sittings"),
        (least, most) => format!(", {least} to {most} sittings a problem"),
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
            let ours = record.fastest_of_ours(&problem)?;
            let beside = record.beside_best_peer(&ours.figure.contender, &problem)?;
            let worth = (beside.stale, std::cmp::Reverse(record.on(&problem).count()));
            Some((Pair { record, ours, beside }, worth))
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
    fn sittings_are_counted_and_sustained_turns_have_a_line() {
        let short = GROUNDS[0].problem();
        let in_sitting = |sitting, ours, theirs| {
            [entry("v9", &short, ours), entry("cudnn", &short, theirs)]
                .map(|entry| crate::report::Entry { sitting, ..entry })
        };
        let entries = [in_sitting(0, 5.0, 9.0), in_sitting(1, 5.0, 5.02), in_sitting(2, 5.0, 8.0)].concat();
        let sustained = record("a.json", in_sitting(0, 5.0, 9.0).to_vec());
        let evidence =
            Evidence { records: vec![record("a.json", entries)], sustained: vec![sustained], ..Evidence::default() };
        insta::assert_snapshot!(render(&evidence), @r"
        On an NVIDIA H200 (undated, 3 sittings), the fastest generation is **faster on 0, ambiguous on 1, slower on 0** of 1 problems, beside the fastest of cuDNN in the same run.

        - short: faster on 0, ambiguous on 1, slower on 0; mean 1.60 ×.
        - sustained turns, 1 problems: faster on 1, ambiguous on 0, slower on 0; mean 1.80 ×.

        [All problems](docs/peers.md). [What verdicts mean](docs/benchmarking.md).
        ");
    }

    #[test]
    fn without_peers_there_is_no_headline() {
        let evidence = Evidence { records: vec![record("a.json", vec![])], ..Evidence::default() };
        insta::assert_snapshot!(render(&evidence), @"No record with peers: `sdpa bench --peers --record DIR` makes one on a GPU.");
    }
}
