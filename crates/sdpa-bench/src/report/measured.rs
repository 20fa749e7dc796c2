//! The figures in a generation's README.

use sdpa_core::Extensions;

use super::grounds::GROUNDS;
use super::standing::Standing;
use super::table::{compact, kilobytes, marked, time};
use super::{Beside, Evidence, Pick, Rung};
use harness::acceptance::shape_of;

/// The name of the region.
pub const REGION: &str = "measured";

/// The text between the markers of one generation's README.
pub fn render(evidence: &Evidence, rung: &Rung) -> String {
    let mut text = String::new();
    let (rows, used) = ground_rows(evidence, rung);
    if used.is_empty() && evidence.records.iter().all(|record| Standing::of_generation(record, &rung.id).is_none()) {
        let takes = sdpa::generations::find(&rung.id).map(|generation| generation.generation().takes);
        text += match takes.is_some_and(|takes| takes != Extensions::NONE) {
            true => {
                "Not timed on dense problems. What is measured beyond them is in [ragged.md](../../docs/ragged.md).\n"
            }
            false => "Not timed yet.\n",
        };
    } else {
        text += &format!(
            "On an {}; × above 1 means that {} is the faster. Each ratio is of one run.\n",
            evidence.device(),
            rung.id
        );
    }
    if !rows.is_empty() {
        text += "\n";
        text += &compact(&["problem", "µs", "beside its ancestor", "beside the best peer", "registers", "shared KB"]);
        text += &compact(&["---", "---:", "---", "---", "---:", "---:"]);
        text += &rows;
    }
    text += &record_rows(evidence, rung);
    if let Some((noticed, tried, stale)) = rung.mutation {
        let stale = if stale { ", when the kernel was another (stale)" } else { "" };
        text += &format!(
            "\n`sdpa mutate {}` seeded {tried} faults, one at a time; the harness noticed {noticed}{stale}.\n",
            rung.id
        );
    }
    text + "\nWritten by `sdpa report`; edits between the markers are lost.\n"
}

/// A row for each ground on which the generation was timed, and the figures in them.
fn ground_rows<'a>(evidence: &'a Evidence, rung: &Rung) -> (String, Vec<Pick<'a>>) {
    let (mut text, mut used) = (String::new(), Vec::new());
    for (ground, taken) in GROUNDS.iter().zip(&rung.on) {
        let problem = ground.problem();
        let Some(pick) = evidence.pick(&rung.id, &problem) else { continue };
        let (registers, shared) = match taken.cost {
            Some((registers, shared)) => (registers.to_string(), kilobytes(shared)),
            None => (String::new(), String::new()),
        };
        text += &compact(&[
            &format!("{}: {} {} {}", ground.name, shape_of(&problem), problem.dtype(), problem.mask().name()),
            &time(Some(pick)),
            &beside(evidence.beside_ancestor(rung, pick.record, &problem)),
            &beside(pick.record.beside_best_peer(&rung.id, &problem)),
            &registers,
            &shared,
        ]);
        used.push(pick);
    }
    (text, used)
}

/// `1.72 × v2d, faster`, with the least ratio of several sittings; nothing without another figure.
fn beside(found: Option<Beside>) -> String {
    let Some(Beside { with, speedup, least, verdict, sittings, stale }) = found else { return String::new() };
    let least = if sittings > 1 { format!(" (least {least:.2} of {sittings})") } else { String::new() };
    marked(format!("{speedup:.2} × {with}{least}, {verdict}"), stale)
}

/// A row for each record that the generation has figures in.
fn record_rows(evidence: &Evidence, rung: &Rung) -> String {
    let mut rows = String::new();
    let short = evidence.records.iter().map(|record| (record, ""));
    let sustained = evidence.sustained.iter().map(|record| (record, ", sustained"));
    for (record, regime) in short.chain(sustained) {
        let step = Standing::of_step(evidence, record, rung);
        let peers = Standing::of_generation(record, &rung.id);
        let said = |standing: Option<Standing>| standing.map(|standing| standing.to_string()).unwrap_or_default();
        if step.is_some() || peers.is_some() {
            let mut days = record.days();
            days.dedup();
            let days = if days.is_empty() { "undated".to_owned() } else { days.join(", ") };
            rows += &compact(&[&format!("`{}`{regime}", record.file), &days, &said(step), &said(peers)]);
        }
    }
    if rows.is_empty() {
        return rows;
    }
    let titles = compact(&["record", "date", "beside its nearest ancestor", "beside the best peer"]);
    format!("\n{titles}{}{rows}", compact(&["---"; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::evidence;

    #[test]
    fn a_generation_has_its_figures_on_every_ground_and_in_every_record() {
        let evidence = evidence();
        insta::assert_snapshot!(render(&evidence, &evidence.rungs[1]), @r"
        On an NVIDIA H200; × above 1 means that v8 is the faster. Each ratio is of one run.

        |problem|µs|beside its ancestor|beside the best peer|registers|shared KB|
        |---|---:|---|---|---:|---:|
        |short: (1,8,512,64) f16 full|47.0 (stale)|3.60 × v7, faster (stale)|0.19 × cudnn, slower (stale)|128|1.5|
        |long: (8,16,2048,128) bf16 causal|668|7.18 × v7, faster|0.06 × cudnn, slower|128|1.5|

        |record|date|beside its nearest ancestor|beside the best peer|
        |---|---|---|---|
        |`all.json`|2026-01-31|faster on 2, ambiguous on 0, slower on 0; geometric mean 5.087 ×, least 3.604 × (stale)|faster on 0, ambiguous on 0, slower on 2; geometric mean 0.108 ×, least 0.062 × (stale)|

        `sdpa mutate v8` seeded 38 faults, one at a time; the harness noticed 31.

        Written by `sdpa report`; edits between the markers are lost.
        ");
    }

    #[test]
    fn what_was_not_timed_says_so() {
        let evidence = evidence();
        insta::assert_snapshot!(render(&evidence, &evidence.rungs[2]), @r"
        Not timed yet.

        `sdpa mutate v8b` seeded 9 faults, one at a time; the harness noticed 9, when the kernel was another (stale).

        Written by `sdpa report`; edits between the markers are lost.
        ");
    }
}
