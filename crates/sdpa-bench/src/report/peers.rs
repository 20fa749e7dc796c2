//! `docs/peers.md`: every problem that peers were timed on, and the fastest of ours beside the fastest of them.

use std::collections::{BTreeMap, BTreeSet};

use super::standing::Standing;
use super::table::{NOTHING, circumstances, line, tflops, time, title_of};
use super::{Entry, Evidence, EvidenceRecord, Pick};
use crate::timing::Absent;
use harness::acceptance::shape_of;

/// The page's name.
pub const FILE: &str = "peers.md";

/// The page, in Markdown.
pub fn render(evidence: &Evidence) -> String {
    let mut text =
        "# Beside the peers\n\nWritten by `sdpa report` from `results/`; edits are lost. Times are medians in \
                    µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 \
                    ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension). –: not \
                    timed. (stale): the kernel has changed since.\n"
            .to_owned();
    let names: Vec<String> =
        evidence.peers(|_| true).iter().map(|peer| format!("{peer} is {}", title_of(peer))).collect();
    text += &format!(
        "\nPeers: {}. How they are timed, and what the verdicts mean: [benchmarking.md](benchmarking.md).\n",
        names.join(", ")
    );
    for record in &evidence.records {
        section(&mut text, evidence, record, "");
    }
    let sustained = evidence.in_sustained_turns();
    if !sustained.records.is_empty() {
        text += "\nIn sustained turns clocks follow the power. TFLOP/J: operations for a joule, of ours and of the fastest peer.\n";
    }
    for record in &sustained.records {
        section(&mut text, &sustained, record, ", sustained turns");
    }
    text
}

/// A record's part of the page, if it has peers.
fn section(text: &mut String, evidence: &Evidence, record: &EvidenceRecord, regime: &str) {
    let Some(standing) = Standing::of_ours(record) else { return };
    let peers = record.peers();
    *text += &format!("\n## {}{regime}\n\n", record.file);
    for (index, sitting) in record.sittings.iter().enumerate() {
        let which = if record.sittings.len() > 1 { format!("Sitting {}: ", index + 1) } else { String::new() };
        *text += &format!("{which}{}.\n\n", circumstances(sitting, &peers));
    }
    *text += &format!("- The fastest of ours: {standing}.\n");
    for rung in evidence.rungs.iter().rev() {
        if let Some(standing) = Standing::of_generation(record, &rung.id) {
            *text += &format!("- {} alone: {standing}.\n", rung.id);
        }
    }
    *text += &ways(record);
    *text += &absences(record.sittings.iter().flat_map(|sitting| &sitting.absent));
    *text += &fault_of_ceiling(record);
    *text += &format!("\n{}", rows(record));
}

/// In which ways peers were the fastest, a line for each peer that has several.
fn ways(record: &EvidenceRecord) -> String {
    let mut text = String::new();
    for peer in record.peers() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for entry in record.entries.iter().filter(|entry| entry.figure.contender == peer) {
            if let Some(way) = &entry.figure.way {
                *counts.entry(way).or_default() += 1;
            }
        }
        let counts: Vec<String> = counts.iter().map(|(way, count)| format!("{way} ({count})")).collect();
        if !counts.is_empty() {
            text += &format!("- {peer} at its best: {}.\n", counts.join(", "));
        }
    }
    text
}

/// Peers, and ways of peers, without a figure: a line for each reason, with how many problems it holds for.
pub(super) fn absences<'a>(absent: impl Iterator<Item = &'a Absent>) -> String {
    let mut found: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for absent in absent {
        found.entry((&absent.contender, &absent.reason)).or_default().insert(&absent.problem);
    }
    let lines = found.iter().map(|((contender, reason), problems)| {
        let s = if problems.len() == 1 { "" } else { "s" };
        let reason = reason.trim_end_matches('.');
        format!("- Without a figure on {} problem{s}: {contender}: {reason}.\n", problems.len())
    });
    lines.collect()
}

/// A line if figures are faster than the ceiling of their sitting allows.
fn fault_of_ceiling(record: &EvidenceRecord) -> String {
    let shares = record.entries.iter().filter(|entry| entry.figure.passes_ceiling());
    let shares: Vec<f64> = shares.filter_map(|entry| entry.figure.of_ceiling).collect();
    let Some(most) = shares.iter().copied().max_by(f64::total_cmp) else { return String::new() };
    let s = if shares.len() == 1 { " is" } else { "s are" };
    format!(
        "- The ceiling is wrong: {} figure{s} faster than it allows, up to {:.0} % of it.\n",
        shares.len(),
        100.0 * most
    )
}

fn rows(record: &EvidenceRecord) -> String {
    let peers = record.peers();
    let several = record.sittings.len() > 1;
    let energy = record.entries.iter().any(|entry| entry.figure.joules.is_some());
    let mut titles = ["problem", "mask", "dtype", "ours", "µs", "TFLOP/s"].map(str::to_owned).to_vec();
    if several {
        titles.insert(5, "most µs".to_owned());
    }
    titles.extend(peers.iter().map(|peer| (*peer).to_owned()));
    if energy {
        titles.extend(["TFLOP/J", "best peer's"].map(str::to_owned));
    }
    titles.push("×".to_owned());
    if several {
        titles.extend(["least ×", "verdict"].map(str::to_owned));
    }
    let rules = (0..titles.len()).map(|column| if column < 4 { "---" } else { "---:" }.to_owned());
    let mut text = line(&titles) + &line(&rules.collect::<Vec<_>>());
    for problem in record.problems() {
        let own = record.fastest_of_ours(&problem);
        let beside = own.and_then(|own| record.beside_best_peer(&own.figure.contender, &problem));
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        let mut row = vec![
            shape_of(&problem),
            problem.mask().name().to_owned(),
            problem.dtype().to_string(),
            or_nothing(own.map(|entry| entry.figure.contender.clone())),
            time(pick(record, own)),
            tflops(pick(record, own), &problem),
        ];
        if several {
            let worst = own.and_then(|own| record.worst(&own.figure.contender, &problem));
            row.insert(5, time(pick(record, worst)));
        }
        row.extend(peers.iter().map(|peer| time(pick(record, record.of(peer, &problem)))));
        if energy {
            let theirs = beside.as_ref().and_then(|beside| record.of(&beside.with, &problem));
            row.extend([own, theirs].map(|entry| {
                or_nothing(entry.and_then(|entry| entry.figure.tflop_per_joule).map(|found| format!("{found:.3}")))
            }));
        }
        row.push(or_nothing(beside.as_ref().map(|beside| format!("{:.3}", beside.speedup))));
        if several {
            row.push(or_nothing(beside.as_ref().map(|beside| format!("{:.3}", beside.least))));
            row.push(or_nothing(beside.as_ref().map(|beside| beside.verdict.to_string())));
        }
        text += &line(&row);
    }
    text
}

fn pick<'s>(record: &'s EvidenceRecord, entry: Option<&'s Entry>) -> Option<Pick<'s>> {
    entry.map(|entry| Pick { record, entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mission;
    use crate::report::table::tests::evidence;
    use crate::report::tests::{entry, record};
    use sdpa_core::{Dtype, Mask};

    #[test]
    fn every_problem_has_a_row_and_every_generation_a_line() {
        let long = crate::timing::Shape::square([2, 8, 2048, 64]).problem(Dtype::F16, Mask::Causal).unwrap();
        let entries = vec![
            entry("v7", &mission(), 9.0),
            entry("v8", &mission(), 4.0),
            entry("v8", &long, 60.0),
            entry("flash", &mission(), 9.0),
            entry("cudnn", &mission(), 8.0),
            entry("cudnn", &long, 30.0),
        ];
        let mut evidence = evidence();
        evidence.records = vec![
            record("a.json", entries),
            // Without a peer there is nothing to stand beside.
            record("b.json", vec![entry("v7", &mission(), 1.0)]),
        ];
        insta::assert_snapshot!(render(&evidence), @r"
        # Beside the peers

        Written by `sdpa report` from `results/`; edits are lost. Times are medians in µs; × is the fastest peer's time by that of the fastest of ours, both of the same run, and above 1 ours is the faster. Shapes are (batch, query heads/key heads, queries×keys, head dimension). –: not timed. (stale): the kernel has changed since.

        Peers: flash is FlashAttention-2, cudnn is cuDNN. How they are timed, and what the verdicts mean: [benchmarking.md](benchmarking.md).

        ## a.json

        it does not say under what circumstances.

        - The fastest of ours: faster on 1, ambiguous on 0, slower on 1; geometric mean 1.000 ×, least 0.500 ×.
        - v8 alone: faster on 1, ambiguous on 0, slower on 1; geometric mean 1.000 ×, least 0.500 ×.
        - v7 alone: faster on 0, ambiguous on 0, slower on 1; geometric mean 0.889 ×, least 0.889 ×.

        | problem | mask | dtype | ours | µs | TFLOP/s | flash | cudnn | × |
        | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
        | (1,8,512,64) | full | f16 | v8 | 4.00 | 134 | 9.00 | 8.00 | 2.000 |
        | (2,8,2048,64) | causal | f16 | v8 | 60.0 | 143 | – | 30.0 | 0.500 |
        ");
    }

    #[test]
    fn sittings_ways_and_what_is_missing_are_on_the_page() {
        let in_sitting = |sitting, contender: &str, us, way: Option<&str>, joules: Option<f64>| {
            let entry = entry(contender, &mission(), us);
            let figure = crate::timing::Figure {
                way: way.map(str::to_owned),
                joules,
                tflop_per_joule: joules.map(|joules| 1e-3 / joules),
                of_ceiling: Some(8.2 / us),
                ..entry.figure
            };
            Entry { figure, sitting, ..entry }
        };
        let entries = vec![
            in_sitting(0, "v8", 8.0, None, Some(2e-3)),
            in_sitting(0, "cudnn", 9.0, Some("blhd"), Some(4e-3)),
            in_sitting(1, "v8", 8.3, None, Some(2.5e-3)),
            in_sitting(1, "cudnn", 8.3, Some("bhld"), None),
        ];
        let mut record = record("a.json", entries);
        for (index, sitting) in record.sittings.iter_mut().enumerate() {
            sitting.environment.insert("date".to_owned(), format!("2026-01-3{index} 12:00 UTC").into());
            sitting.environment.insert("uuid".to_owned(), "GPU-0a".into());
            sitting.absent = vec![crate::timing::Absent {
                contender: "fa3".to_owned(),
                problem: mission().to_string(),
                reason: "not installed (No module named 'fa3_fwd_interface')".to_owned(),
            }];
        }
        let evidence = Evidence { sustained: vec![record], ..Evidence::default() };
        let page = render(&evidence);
        insta::assert_snapshot!(page.split_once("(benchmarking.md).\n").unwrap().1, @r"

        In sustained turns clocks follow the power. TFLOP/J: operations for a joule, of ours and of the fastest peer.

        ## a.json, sustained turns

        Sitting 1: 2026-01-30 12:00 UTC, GPU-0a.

        Sitting 2: 2026-01-31 12:00 UTC, GPU-0a.

        - The fastest of ours: faster on 0, ambiguous on 1, slower on 0; geometric mean 1.000 ×, least 1.000 ×.
        - cudnn at its best: bhld (1), blhd (1).
        - Without a figure on 1 problem: fa3: not installed (No module named 'fa3_fwd_interface').
        - The ceiling is wrong: 1 figure is faster than it allows, up to 102 % of it.

        | problem | mask | dtype | ours | µs | most µs | TFLOP/s | cudnn | TFLOP/J | best peer's | × | least × | verdict |
        | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
        | (1,8,512,64) | full | f16 | v8 | 8.00 | 8.30 | 67.1 | 8.30 | 0.500 | – | 1.000 | 1.000 | ambiguous |
        ");
    }
}
