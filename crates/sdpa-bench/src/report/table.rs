//! The README's table of generations and peers.

use sdpa_core::Problem;
use serde_json::{Map, Value};

use super::{Entry, Evidence, EvidenceRecord, Pick, ReportError, Rung, mission, peers, problem};
use crate::timing::Ceiling;
use harness::acceptance::{SHAPES, shape_of};
use harness::table::microseconds;

/// The line before the table in a README.
pub const BEGIN: &str = "<!-- results:begin -->";

/// The line after it.
pub const END: &str = "<!-- results:end -->";

/// Where there is no figure.
pub(super) const NOTHING: &str = "–";

/// Puts a table between the markers of a text; the markers stay.
///
/// # Errors
/// [`ReportError::Markers`] where one is missing, or there twice, or they are in the wrong order.
pub fn splice(text: &str, table: &str) -> Result<String, ReportError> {
    // Lines of their own, so that prose may name them.
    let line = |marker: &str| {
        let mut start = 0;
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            if line.trim_end() == marker {
                found.push(start..start + line.len());
            }
            start += line.len();
        }
        match <[_; 1]>::try_from(found) {
            Ok([only]) => Ok(only),
            Err(_) => Err(ReportError::Markers),
        }
    };
    let (begin, end) = (line(BEGIN)?, line(END)?);
    if end.start < begin.end {
        return Err(ReportError::Markers);
    }
    Ok(format!("{}\n{}\n{}", &text[..begin.end], table, &text[end.start..]))
}

/// Generations, then peers, then how it was measured, in Markdown.
pub fn render(evidence: &Evidence) -> String {
    let mission = mission();
    let problems = SHAPES.map(problem);
    let mut titles: Vec<String> = ["id", "idea", "µs", "× parent", "× best peer"].map(str::to_owned).to_vec();
    titles.extend(problems.iter().map(|problem| format!("TFLOP/s {}", shape_of(problem))));
    titles.extend(["registers", "shared KB", "mutants"].map(str::to_owned));
    let mut text = line(&titles);
    let rules = titles.iter().enumerate().map(|(column, _)| if column < 2 { "---" } else { "---:" });
    text += &line(&rules.map(str::to_owned).collect::<Vec<_>>());

    let mut used: Vec<Pick<'_>> = Vec::new();
    let mut figures = |contender: &str| {
        let picks: Vec<Option<Pick<'_>>> = problems.iter().map(|problem| evidence.pick(contender, problem)).collect();
        used.extend(picks.iter().flatten());
        picks.iter().zip(&problems).map(|(pick, problem)| tflops(*pick, problem)).collect::<Vec<_>>()
    };
    for rung in &evidence.rungs {
        let pick = evidence.pick(&rung.id, &mission);
        let beside = |other: Option<&Entry>| match (pick, other) {
            (Some(pick), Some(other)) => {
                let ratio = other.figure.median_us / pick.entry.figure.median_us;
                let is_parent = Some(&other.figure.contender) == rung.parent.as_ref();
                let whose = if is_parent { String::new() } else { format!(" ({})", other.figure.contender) };
                marked(format!("{ratio:.2}{whose}"), pick.entry.stale || other.stale)
            }
            _ => NOTHING.to_owned(),
        };
        // Ratios only of the same minutes on the same clocks.
        let before = pick.and_then(|pick| evidence.ancestor(rung, pick.record, &mission));
        let best = pick.and_then(|pick| pick.record.best_peer(&mission));
        let title = rung.title.replace('|', "\\|");
        let mut row = vec![format!("**{}**", rung.id), title, time(pick), beside(before), beside(best)];
        row.extend(figures(&rung.id));
        row.extend(match rung.cost {
            Some((registers, shared)) => [registers.to_string(), kilobytes(shared)],
            None => [NOTHING.to_owned(), NOTHING.to_owned()],
        });
        row.push(match rung.mutation {
            Some((killed, total, stale)) => marked(format!("{killed}/{total}"), stale),
            None => NOTHING.to_owned(),
        });
        text += &line(&row);
    }
    for peer in evidence.peers(|figure| problems.iter().any(|problem| figure.is_of(problem))) {
        let mut row = vec![peer.to_owned(), format!("*peer:* {}", title_of(peer)), time(evidence.pick(peer, &mission))];
        row.extend([NOTHING, NOTHING].map(str::to_owned));
        row.extend(figures(peer));
        row.extend([NOTHING; 3].map(str::to_owned));
        text += &line(&row);
    }
    text + "\n" + &caption(evidence, &used)
}

pub(super) fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

fn marked(text: String, stale: bool) -> String {
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

fn kilobytes(bytes: u32) -> String {
    match bytes.is_multiple_of(1024) {
        true => (bytes / 1024).to_string(),
        false => format!("{:.1}", f64::from(bytes) / 1024.0),
    }
}

/// Whose kernel a peer of `bench/peers.py` is.
fn title_of(peer: &str) -> &'static str {
    match peer {
        "flash" => "PyTorch SDPA, FlashAttention-2 backend",
        "cudnn" => "PyTorch SDPA, cuDNN backend",
        "efficient" => "PyTorch SDPA, memory-efficient backend",
        "math" => "PyTorch SDPA, unfused",
        "fa3" => "FlashAttention-3",
        _ => "somebody else's kernel",
    }
}

/// Where the figures come from, and what they are.
fn caption(evidence: &Evidence, used: &[Pick<'_>]) -> String {
    let device = evidence.records.first().map_or("no device", |record| record.device.as_str());
    let mut text = format!(
        "{device}, f16, no mask; shapes are (batch, heads, length, head dimension). µs and both ratios are at {}, ratios \
         above 1 mean faster, and the best peer is the fastest of the same record. Figures are medians: contenders take \
         turns, a sample is a CUDA graph of many passes over rotating inputs, which may lie in the L2 cache, and a generation is verified before it is \
         timed. {NOTHING}: declined, or not measured.",
        shape_of(&mission())
    );
    let stale_score = |rung: &Rung| rung.mutation.is_some_and(|(_, _, stale)| stale);
    if used.iter().any(|pick| pick.entry.stale) || evidence.rungs.iter().any(stale_score) {
        text += " (stale): the kernel has changed since.";
    }
    if evidence.rungs.iter().any(|rung| rung.cost.is_some()) {
        text += " Registers a thread and shared memory a block are those of the kernel at that shape.";
    }
    if evidence.rungs.iter().any(|rung| rung.mutation.is_some()) {
        text += " Mutants: removals of a barrier, wait or guard from the kernel that the harness notices, of all that \
                 were tried.";
    }
    text += "\n";
    for record in &evidence.records {
        if used.iter().any(|pick| std::ptr::eq(pick.record, record)) {
            text += &format!("\nFrom `{}`: {}.\n", record.file, circumstances(record));
        }
    }
    let beside_peers = peers::summary(evidence);
    if !beside_peers.is_empty() {
        text += &format!("\n{beside_peers}");
    }
    text + "\nWritten by `sdpa report`; edits between the markers are lost.\n"
}

/// Date, commit, driver, clock and the peers' versions, as far as the record says.
pub(super) fn circumstances(record: &EvidenceRecord) -> String {
    let mut facts = Vec::new();
    let mut fact = |map: &Map<String, Value>, key: &str, name: &str| {
        let text = match map.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => return,
        };
        facts.push(if name.is_empty() { text } else { format!("{name} {text}") });
    };
    let environment = &record.environment;
    fact(environment, "date", "");
    fact(environment, "commit", "commit");
    fact(environment, "driver_version", "driver");
    fact(environment, "clocks.sm", "SM clock");
    let timed = |name: &str| record.entries.iter().any(|entry| entry.peer && entry.figure.contender == name);
    if let Some(Value::Object(peers)) = environment.get("peers") {
        fact(peers, "torch", "PyTorch");
        fact(peers, "cudnn", "cuDNN");
        fact(peers, "cuda", "CUDA");
        // Or a reader would think that it was beaten.
        fact(peers, "fa3-fwd", if timed("fa3") { "fa3-fwd" } else { "without a figure of fa3-fwd" });
    }
    for Ceiling { dtype, matmul_tflops, copy_gb_s, .. } in &record.ceilings {
        facts.push(format!(
            "a matrix product of {dtype} reached {matmul_tflops:.0} TFLOP/s, a copy {copy_gb_s:.0} GB/s"
        ));
    }
    if facts.is_empty() { "it does not say under what circumstances".to_owned() } else { facts.join(", ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::mission;
    use super::super::tests::{entry, record};
    use super::*;

    pub(crate) fn evidence() -> Evidence {
        let [mission, long, wide] = [mission(), problem(SHAPES[1]), problem(SHAPES[2])];
        let rung = |id: &str, title: &str, cost| Rung {
            id: id.to_owned(),
            title: title.to_owned(),
            parent: None,
            mutation: None,
            cost,
        };
        let child = |rung: Rung, parent: &str| Rung { parent: Some(parent.to_owned()), ..rung };
        let mut all = record(
            "all.json",
            vec![
                entry("v7", &mission, 169.56),
                Entry { stale: true, ..entry("v8", &mission, 47.05) },
                entry("v9", &mission, 5.18),
                entry("flash", &mission, 9.81),
                entry("cudnn", &mission, 8.91),
                entry("v7", &long, 4794.0),
                entry("v8", &long, 667.6),
                entry("cudnn", &long, 41.5),
                entry("v7", &wide, 9084.0),
            ],
        );
        let environment = serde_json::json!({
            "date": "2026-01-31 12:00 UTC", "driver_version": "580.1", "commit": "c0ffee-dirty", "clocks.sm": "1980 MHz",
            "peers": { "torch": "2.11", "fa3-fwd": "0.0.3", "cudnn": 91900 },
        });
        all.environment = environment.as_object().cloned().unwrap_or_default();
        all.ceilings.push(Ceiling {
            dtype: "f16".to_owned(),
            matmul: String::new(),
            matmul_tflops: 712.4,
            copy: String::new(),
            copy_gb_s: 4312.3,
        });
        Evidence {
            rungs: vec![
                rung("v7", "scalar", Some((72, 63_488))),
                Rung { mutation: Some((31, 38, false)), ..child(rung("v8", "a|b", Some((128, 1536))), "v7") },
                Rung { mutation: Some((9, 9, true)), ..child(rung("v8b", "a branch, not measured yet", None), "v8") },
                child(rung("v9", "split keys", None), "v8b"),
            ],
            records: vec![all, record("unused.json", vec![])],
        }
    }

    #[test]
    fn the_table_tells_ratios_stale_figures_and_circumstances() {
        insta::assert_snapshot!(render(&evidence()), @r"
        | id | idea | µs | × parent | × best peer | TFLOP/s (1,8,512,64) | TFLOP/s (2,8,2048,64) | TFLOP/s (2,8,2048,128) | registers | shared KB | mutants |
        | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
        | **v7** | scalar | 170 | – | 0.05 (cudnn) | 3.2 | 3.6 | 3.8 | 72 | 62 | – |
        | **v8** | a\|b | 47.0 (stale) | 3.60 (stale) | 0.19 (cudnn) (stale) | 11.4 (stale) | 25.7 | – | 128 | 1.5 | 31/38 |
        | **v8b** | a branch, not measured yet | – | – | – | – | – | – | – | – | 9/9 (stale) |
        | **v9** | split keys | 5.18 | 9.08 (v8) (stale) | 1.72 (cudnn) | 104 | – | – | – | – | – |
        | flash | *peer:* PyTorch SDPA, FlashAttention-2 backend | 9.81 | – | – | 54.7 | – | – | – | – | – |
        | cudnn | *peer:* PyTorch SDPA, cuDNN backend | 8.91 | – | – | 60.3 | 414 | – | – | – | – |

        NVIDIA H200 (sm_90, 132 multiprocessors), f16, no mask; shapes are (batch, heads, length, head dimension). µs and both ratios are at (1,8,512,64), ratios above 1 mean faster, and the best peer is the fastest of the same record. Figures are medians: contenders take turns, a sample is a CUDA graph of many passes over rotating inputs, which may lie in the L2 cache, and a generation is verified before it is timed. –: declined, or not measured. (stale): the kernel has changed since. Registers a thread and shared memory a block are those of the kernel at that shape. Mutants: removals of a barrier, wait or guard from the kernel that the harness notices, of all that were tried.

        From `all.json`: 2026-01-31 12:00 UTC, commit c0ffee-dirty, driver 580.1, SM clock 1980 MHz, PyTorch 2.11, cuDNN 91900, without a figure of fa3-fwd 0.0.3, a matrix product of f16 reached 712 TFLOP/s, a copy 4312 GB/s.

        The fastest of ours against the fastest peer of each problem, both in the same run ([all of them](docs/peers.md)):

        - `all.json`: geometric mean 0.327 × over 2 problems, ahead in 1, at least 0.062 ×.

        Written by `sdpa report`; edits between the markers are lost.
        ");
    }

    #[test]
    fn a_ratio_is_never_of_two_records() {
        let mission = mission();
        let mut evidence = evidence();
        evidence.records = vec![
            record("a.json", vec![entry("v7", &mission, 9.0)]),
            record("b.json", vec![entry("v8", &mission, 3.0)]),
        ];
        let text = render(&evidence);
        assert!(text.contains("| **v8** | a\\|b | 3.00 | – | – |"), "{text}");
    }

    #[test]
    fn the_table_goes_between_the_markers_and_nowhere_else() {
        let text = format!("# Title\nnot `{BEGIN}`\n{BEGIN}\nold\n{END}\nafter\n");
        let once = splice(&text, "new\n").unwrap();
        assert_eq!(once, format!("# Title\nnot `{BEGIN}`\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(splice(&once, "new\n").unwrap(), once);
        for wrong in [String::new(), format!("{BEGIN}\n"), format!("{END}\n{BEGIN}\n"), format!("{text}{BEGIN}\n")] {
            assert!(splice(&wrong, "new\n").is_err(), "{wrong}");
        }
    }
}
