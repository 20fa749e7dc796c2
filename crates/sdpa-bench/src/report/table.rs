//! The README's table of generations and peers.

use sdpa_core::Problem;
use serde_json::{Map, Value};

use super::grounds::GROUNDS;
use super::{Beside, Entry, Evidence, EvidenceSitting, Pick, Rung, short_commit};
use crate::timing::Ceiling;
use harness::acceptance::shape_of;
use harness::table::microseconds;

/// The name of the region.
pub const REGION: &str = "results";

/// Where a page of many columns has no figure.
pub(super) const NOTHING: &str = "–";

/// Generations, then peers, each with a pair of columns per ground; then what the figures are.
pub fn render(evidence: &Evidence) -> String {
    let mut titles = vec!["id".to_owned(), "parent".to_owned()];
    for ground in &GROUNDS {
        titles.extend([format!("{} {} µs", ground.name, shape_of(&ground.problem())), "× parent".to_owned()]);
    }
    let rules: Vec<&str> = (0..titles.len()).map(|column| if column < 2 { "---" } else { "---:" }).collect();
    let mut text = compact(&titles) + &compact(&rules);
    let is_timed = |rung: &&Rung| GROUNDS.iter().any(|ground| evidence.pick(&rung.id, &ground.problem()).is_some());
    let (timed, untimed): (Vec<&Rung>, Vec<&Rung>) = evidence.rungs.iter().partition(is_timed);
    for rung in timed {
        let mut row = vec![format!("**{}**", rung.id), rung.parent.clone().unwrap_or_default()];
        for (ground, taken) in GROUNDS.iter().zip(&rung.on) {
            let problem = ground.problem();
            let pick = evidence.pick(&rung.id, &problem);
            row.push(match (pick, taken.takes) {
                (Some(pick), _) => starred(microseconds(pick.entry.figure.median_us), pick.entry.stale),
                (None, true) => "untimed".to_owned(),
                (None, false) => "declines".to_owned(),
            });
            // Ratios only of the same minutes on the same clocks.
            let before = pick.and_then(|pick| evidence.beside_ancestor(rung, pick.record, &problem));
            row.push(pick.zip(before).map(|(pick, before)| step(rung, pick.entry, &before)).unwrap_or_default());
        }
        text += &compact(&row);
    }
    for peer in evidence.peers(|figure| GROUNDS.iter().any(|ground| figure.is_of(&ground.problem()))) {
        let mut row = vec![title_of(peer).to_owned(), String::new()];
        for ground in &GROUNDS {
            let pick = evidence.pick(peer, &ground.problem());
            row.extend([if pick.is_some() { time(pick) } else { "untimed".to_owned() }, String::new()]);
        }
        text += &compact(&row);
    }
    if !untimed.is_empty() {
        let ids: Vec<&str> = untimed.iter().map(|rung| rung.id.as_str()).collect();
        text += &format!("\nUntimed on these: {}.\n", ids.join(", "));
    }
    let caption = caption(evidence, &text);
    text + "\n" + &caption
}

/// How many times its ancestor's speed; which one, if it isn't the parent.
fn step(rung: &Rung, ours: &Entry, before: &Beside) -> String {
    let is_parent = Some(&before.with) == rung.parent.as_ref();
    let whose = if is_parent { String::new() } else { format!(" ({})", before.with) };
    // The time beside it is marked already if the kernel of this generation is another today.
    starred(format!("{:.2}{whose}", before.speedup), before.stale && !ours.stale)
}

/// The mark of a figure whose kernel has changed, where there is no room for a word.
pub(super) fn starred(text: String, stale: bool) -> String {
    if stale { text + "\\*" } else { text }
}

/// A row without spaces around its cells.
pub(super) fn compact<T: AsRef<str>>(cells: &[T]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.as_ref().replace('|', "\\|")).collect();
    format!("|{}|\n", cells.join("|"))
}

/// A row as people type it.
pub(super) fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

pub(super) fn marked(text: String, stale: bool) -> String {
    if stale { text + " (stale)" } else { text }
}

pub(super) fn time(pick: Option<Pick<'_>>) -> String {
    pick.map_or(NOTHING.to_owned(), |pick| marked(microseconds(pick.entry.figure.median_us), pick.entry.stale))
}

pub(super) fn tflops(pick: Option<Pick<'_>>, problem: &Problem) -> String {
    let Some(Pick { entry, .. }) = pick else { return NOTHING.to_owned() };
    let value = problem.flops() / entry.figure.median_us * 1e-6;
    marked(if value < 99.95 { format!("{value:.1}") } else { format!("{value:.0}") }, entry.stale)
}

pub(super) fn kilobytes(bytes: u32) -> String {
    match bytes.is_multiple_of(1024) {
        true => (bytes / 1024).to_string(),
        false => format!("{:.1}", f64::from(bytes) / 1024.0),
    }
}

/// Whose kernel a peer of `bench/peers.py` is.
pub(super) fn title_of(peer: &str) -> &str {
    match peer {
        "flash" => "FlashAttention-2",
        "cudnn" => "cuDNN",
        "efficient" => "PyTorch memory-efficient",
        "math" => "PyTorch unfused",
        "fa3" => "FlashAttention-3",
        "fa4" => "FlashAttention-4",
        "flashinfer" => "FlashInfer",
        name => name,
    }
}

/// What the figures are and where they come from.
fn caption(evidence: &Evidence, rows: &str) -> String {
    let kinds = GROUNDS.map(|ground| {
        let problem = ground.problem();
        format!("{} {} {}", ground.name, problem.dtype(), problem.mask().name())
    });
    let mut text = format!(
        "Medians on an {}: {}; (batch, heads, length, head dimension). × parent: above 1 is faster{}.",
        evidence.device(),
        kinds.join(", "),
        if rows.contains(" (v") { ", in brackets an older ancestor" } else { "" },
    );
    let problems = GROUNDS.map(|ground| ground.problem());
    let used: Vec<Pick<'_>> = problems
        .iter()
        .flat_map(|problem| evidence.rungs.iter().filter_map(|rung| evidence.pick(&rung.id, problem)))
        .collect();
    if used.iter().any(|pick| pick.record.sittings.len() > 1) {
        text += " Of several sittings the median.";
    }
    if used.iter().any(|pick| pick.entry.stale) {
        text += " \\*: the kernel has changed since.";
    }
    let mut sources: Vec<String> = Vec::new();
    let records = evidence.records.iter().filter(|record| used.iter().any(|pick| std::ptr::eq(pick.record, *record)));
    for source in records.flat_map(|record| &record.sittings).map(EvidenceSitting::origin) {
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
    text + &format!("\n\nMeasured {}.\n", sources.join("; "))
}

/// Date, commit, driver, clock and the peers' versions, as far as the sitting says; `timed` are the peers with a figure.
pub(super) fn circumstances(sitting: &EvidenceSitting, timed: &[&str]) -> String {
    let mut facts = Vec::new();
    let mut fact = |map: &Map<String, Value>, key: &str, name: &str| {
        let text = match map.get(key) {
            Some(Value::String(text)) if key == "commit" => short_commit(text),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return,
        };
        facts.push(if name.is_empty() { text } else { format!("{name} {text}") });
    };
    let environment = &sitting.environment;
    fact(environment, "date", "");
    fact(environment, "commit", "commit");
    fact(environment, "driver_version", "driver");
    fact(environment, "uuid", "");
    fact(environment, "clocks.sm", "SM clock");
    if let Some(Value::Object(peers)) = environment.get("peers") {
        fact(peers, "torch", "PyTorch");
        fact(peers, "cudnn", "cuDNN");
        fact(peers, "cuda", "CUDA");
        for (peer, package) in [("fa3", "fa3-fwd"), ("fa4", "flash-attn-4"), ("flashinfer", "flashinfer-python")] {
            // Or a reader would think that it was beaten.
            let without = format!("without a figure of {package}");
            fact(peers, package, if timed.contains(&peer) { package } else { &without });
        }
    }
    for Ceiling { dtype, matmul_tflops, read_gb_s, copy_gb_s, .. } in &sitting.ceilings {
        let read = read_gb_s.map_or(String::new(), |read| format!("a kernel that reads {read:.0} GB/s, "));
        facts.push(format!(
            "a matrix product of {dtype} reached {matmul_tflops:.0} TFLOP/s, {read}a copy {copy_gb_s:.0} GB/s"
        ));
    }
    if facts.is_empty() { "it does not say under what circumstances".to_owned() } else { facts.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::tests::{entry, record, rung, taken};
    use super::*;

    /// A small tree: v7 ← v8 ← v8b ← v9, with figures on two grounds.
    pub(crate) fn evidence() -> Evidence {
        let [short, _, long] = GROUNDS.map(|ground| ground.problem());
        let mut all = record(
            "all.json",
            vec![
                entry("v7", &short, 169.56),
                Entry { stale: true, ..entry("v8", &short, 47.05) },
                entry("v9", &short, 5.18),
                entry("flash", &short, 9.81),
                entry("cudnn", &short, 8.91),
                entry("v7", &long, 4794.0),
                entry("v8", &long, 667.6),
                entry("cudnn", &long, 41.5),
            ],
        );
        let environment = serde_json::json!({
            "date": "2026-01-31 12:00 UTC", "driver_version": "580.1", "commit": "c0ffee-dirty", "clocks.sm": "1980 MHz",
            "peers": { "torch": "2.11", "fa3-fwd": "0.0.3", "cudnn": 91900 },
        });
        all.sittings[0].environment = environment.as_object().cloned().unwrap_or_default();
        let dtype = "f16".to_owned();
        all.sittings[0].ceilings.push(Ceiling { dtype, matmul_tflops: 712.4, copy_gb_s: 4312.3, ..Ceiling::default() });
        let with_mutation = |rung: Rung, mutation| Rung { mutation: Some(mutation), ..rung };
        Evidence {
            rungs: vec![
                Rung { on: [taken(Some((72, 63_488))); 3], ..rung("v7", None) },
                with_mutation(
                    Rung { title: "a|b".to_owned(), on: [taken(Some((128, 1536))); 3], ..rung("v8", Some("v7")) },
                    (31, 38, false),
                ),
                with_mutation(rung("v8b", Some("v8")), (9, 9, true)),
                rung("v9", Some("v8b")),
            ],
            records: vec![all, record("unused.json", vec![])],
            sustained: vec![],
        }
    }

    #[test]
    fn the_table_has_a_ratio_per_step_and_a_word_where_there_is_no_figure() {
        insta::assert_snapshot!(render(&evidence()), @r"
        |id|parent|short (1,8,512,64) µs|× parent|decoding (1,32/8,1×4096,128) µs|× parent|long (8,16,2048,128) µs|× parent|
        |---|---|---:|---:|---:|---:|---:|---:|
        |**v7**||170||untimed||4794||
        |**v8**|v7|47.0\*|3.60|untimed||668|7.18|
        |**v9**|v8b|5.18|9.08 (v8)\*|declines||declines||
        |FlashAttention-2||9.81||untimed||untimed||
        |cuDNN||8.91||untimed||41.5||

        Untimed on these: v8b.

        Medians on an NVIDIA H200: short f16 full, decoding bf16 full, long bf16 causal; (batch, heads, length, head dimension). × parent: above 1 is faster, in brackets an older ancestor. \*: the kernel has changed since.

        Measured 2026-01-31, commit c0ffee-dirty.
        ");
    }

    #[test]
    fn of_several_sittings_the_median_is_shown() {
        let short = GROUNDS[0].problem();
        let at =
            |sitting, us| [Entry { sitting, ..entry("v8", &short, us) }, Entry { sitting, ..entry("v7", &short, 9.0) }];
        let mut evidence = evidence();
        evidence.records = vec![record("a.json", [at(0, 3.0), at(1, 4.0), at(2, 9.0)].concat())];
        let text = render(&evidence);
        assert!(text.contains("|**v8**|v7|4.00|2.25|"), "{text}");
        assert!(text.contains(" Of several sittings the median."), "{text}");
    }

    #[test]
    fn a_ratio_is_never_of_two_records() {
        let short = GROUNDS[0].problem();
        let mut evidence = evidence();
        evidence.records =
            vec![record("a.json", vec![entry("v7", &short, 9.0)]), record("b.json", vec![entry("v8", &short, 3.0)])];
        let text = render(&evidence);
        assert!(text.contains("|**v8**|v7|3.00||untimed|"), "{text}");
    }
}
