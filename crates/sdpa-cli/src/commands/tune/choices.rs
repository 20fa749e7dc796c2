//! What follows from a record: the table of choices that plans read, and why a choice is what it is.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use harness::case::Case;
use sdpa_bench::timing::Verdict;
use sdpa_core::{Attention, DeviceLimits, Extensions};
use sdpa_toolchain::{Checkout, write_whole};
use serde::Deserialize;

use super::super::Outcome;
use super::search::Found;

/// A line of a record, as far as it is read.
#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    generation: String,
    problem: String,
    device: String,
    guess: bool,
    found: Found,
    #[serde(default)]
    environment: serde_json::Map<String, serde_json::Value>,
}

/// The lines of a generation in a file.
fn read(path: &Path, id: &str) -> Result<Vec<Recorded>, Box<dyn std::error::Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Recorded = serde_json::from_str(line)
            .map_err(|error| format!("{}, line {}: no record of `sdpa tune`: {error}", path.display(), number + 1))?;
        if line.generation == id {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// A cell of the table, and the problem that it is for.
struct Cell {
    problem: String,
    text: String,
}

/// Makes the table of a generation's choices from a record.
pub(super) fn adopt(out: &mut dyn Write, generation: &'static dyn Attention, path: &Path) -> Outcome {
    let who = generation.generation();
    let checkout = Checkout::find()?;
    let file = checkout.root().join(format!("crates/sdpa-{}/src/choices.rs", who.id));
    if !file.is_file() {
        return Err(format!("{} has no table of choices: its plans are all decided by its rule", who.id).into());
    }
    // A later search of the same problem is worth more than an earlier one.
    let mut cells: BTreeMap<String, Option<Cell>> = BTreeMap::new();
    for line in read(path, who.id)? {
        match cell(&line, generation) {
            Ok(cell) => {
                writeln!(out, "{}: {}", line.problem, cell.text.lines().nth(7).unwrap_or_default().trim())?;
                cells.insert(line.problem.clone(), Some(cell));
            }
            Err(reason) => {
                writeln!(out, "{}: {} stays: {reason}", line.problem, line.found.chosen)?;
                cells.insert(line.problem.clone(), None);
            }
        }
    }
    let mut found: Vec<Cell> = cells.into_values().flatten().collect();
    found.sort_by(|a, b| a.problem.cmp(&b.problem));
    let names = if found.is_empty() { "TunedChoice" } else { "{Dtype, Mask, TunedChoice}" };
    let body: String = match found.is_empty() {
        true => "&[]".to_owned(),
        false => format!("&[\n{}]", found.iter().map(|cell| cell.text.as_str()).collect::<String>()),
    };
    let text = format!(
        "//! Made by `sdpa tune {} --adopt`. Do not edit.\n\nuse sdpa_core::{names};\n\n/// Problems for which a search has found another \
         kernel to be faster than the one that the rule takes.\npub(crate) static CHOICES: &[TunedChoice] = {body};\n",
        who.id
    );
    write_whole(&file, text.as_bytes())?;
    writeln!(out, "{}: {} cells in {}; the program reads them once it is built", who.id, found.len(), file.display())?;
    Ok(ExitCode::SUCCESS)
}

/// The cell that a line of a record gives, or why it gives none.
fn cell(line: &Recorded, generation: &'static dyn Attention) -> Result<Cell, String> {
    if line.guess {
        return Err("a guess: nothing was timed".to_owned());
    }
    let best = line.found.faster().ok_or("nothing was clearly faster")?;
    let again = line.found.confirmed.as_ref().ok_or("the winner was not measured again")?;
    if again.verdict != Some(Verdict::Faster) {
        return Err(format!("{best} was faster, and not so when it was measured again"));
    }
    if best.contains(' ') {
        return Err(format!("{best} is no kernel of the table: add one with these numbers"));
    }
    let case: Case = line.problem.parse().map_err(|error| format!("{error}"))?;
    let problem = &case.problem;
    if problem.extensions() != Extensions::NONE {
        return Err("a cell is of dense attention".to_owned());
    }
    let limits = limits(&line.device).ok_or_else(|| format!("no compute capability in {:?}", line.device))?;
    let kernels =
        generation.alternatives(problem, &limits).into_iter().filter_map(|plan| plan.launches.into_iter().next());
    if !kernels.map(|launch| launch.kernel.name).any(|name| name == best) {
        return Err(format!("{best} is none of the generation's plans for it"));
    }
    let shape =
        [problem.batch(), problem.heads_q(), problem.heads_kv(), problem.len_q(), problem.len_kv(), problem.head_dim()];
    let text = |name: &str| line.environment.get(name).and_then(|value| value.as_str()).unwrap_or("unknown");
    let evidence = format!(
        "{:.3} × in {} samples, {:.3} × in {} of another process; {}, {}, commit {}",
        line.found.standings[0].speedup.unwrap_or(1.0),
        line.found.standings[0].samples,
        again.speedup.unwrap_or(1.0),
        again.samples,
        line.device,
        text("date"),
        text("commit"),
    );
    Ok(Cell {
        problem: line.problem.clone(),
        text: format!(
            "    TunedChoice {{\n        shape: {shape:?},\n        dtype: Dtype::{:?},\n        mask: Mask::{:?},\n        \
             compute_capability: {:?},\n        multiprocessors: {},\n        kernel: {best:?},\n        instead_of: {:?},\n        \
             evidence: {evidence:?},\n    }},\n",
            problem.dtype(),
            problem.mask(),
            limits.compute_capability,
            limits.multiprocessors,
            line.found.chosen,
        ),
    })
}

/// What plans know of a device, from `NVIDIA H200 (sm_90, 132 multiprocessors)`.
fn limits(device: &str) -> Option<DeviceLimits> {
    let (_, rest) = device.rsplit_once("(sm_")?;
    let (capability, rest) = rest.split_once(", ")?;
    let multiprocessors = rest.split(' ').next()?.parse().ok()?;
    let number: u32 = capability.parse().ok()?;
    let compute_capability = (number / 10, number % 10);
    let known = [DeviceLimits::H200, DeviceLimits::A100, DeviceLimits::L4];
    let like = known.into_iter().find(|limits| limits.compute_capability == compute_capability)?;
    Some(DeviceLimits { multiprocessors, ..like })
}

/// Says for each case what is chosen and why: a cell of the table with its evidence, or the generation's rule; and what records hold.
pub(super) fn explain<'c>(
    out: &mut dyn Write,
    generation: &'static dyn Attention,
    cases: impl Iterator<Item = &'c Case>,
    record: Option<&Path>,
) -> Outcome {
    let id = generation.generation().id;
    let files: Vec<PathBuf> = match record {
        Some(path) => vec![path.to_owned()],
        None => {
            let folder = Checkout::find()?.root().join("results/tune");
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut files: Vec<PathBuf> =
                files.filter(|path| path.extension().is_some_and(|name| name == "jsonl")).collect();
            files.sort();
            files
        }
    };
    let mut lines = Vec::new();
    for file in &files {
        lines.extend(read(file, id)?);
    }
    for case in cases {
        let limits = lines.iter().find_map(|line| limits(&line.device)).unwrap_or(DeviceLimits::H200);
        let plan = match generation.plan(&case.problem, &limits) {
            Ok(plan) => plan,
            Err(reason) => {
                writeln!(out, "{case}: declined: {reason}")?;
                continue;
            }
        };
        writeln!(out, "{case}: {plan}")?;
        match generation.choices().iter().find(|choice| choice.suits(&case.problem, &limits)) {
            Some(choice) => {
                writeln!(out, "  by a cell of the table, instead of {}: {}", choice.instead_of, choice.evidence)?
            }
            None => writeln!(out, "  by the generation's rule (`decide` in crates/sdpa-{id}/src/lib.rs)")?,
        }
        let text = case.to_string();
        let of_case: Vec<&Recorded> = lines.iter().filter(|line| line.problem == text).collect();
        if of_case.is_empty() {
            writeln!(out, "  no record has searched it")?;
        }
        for line in of_case {
            let (best, count) = (line.found.standings.first(), line.found.standings.len());
            let verdict = match best {
                Some(best) if !line.guess => format!(
                    "the best of {count} others was {}, {:.3} × the chosen: {}",
                    best.candidate,
                    best.speedup.unwrap_or(1.0),
                    best.verdict.map_or("no verdict".to_owned(), |verdict| verdict.to_string())
                ),
                _ => format!("{count} candidates, a guess: nothing was timed"),
            };
            let date = line.environment.get("date").and_then(|date| date.as_str()).unwrap_or("unknown date");
            writeln!(out, "  searched on {}, {date}, when {} was chosen: {verdict}", line.device, line.found.chosen)?;
            for rejected in &line.found.rejected {
                let reason = rejected.reason.trim().lines().next().unwrap_or_default();
                writeln!(out, "    rejected: {}: {reason}", rejected.candidate)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    fn line(best: &str, verdict: &str, again: &str) -> Recorded {
        let standing = |verdict: &str| {
            serde_json::json!({
                "candidate": best, "plan": "", "median_us": 9.0, "low_us": 8.9, "high_us": 9.1, "samples": 21,
                "speedup": 1.05, "verdict": verdict, "instructions": null
            })
        };
        serde_json::from_value(serde_json::json!({
            "generation": "v2d",
            "problem": "b1 h8 L512 d64 f16 full normal seed=0",
            "device": "NVIDIA H200 (sm_90, 132 multiprocessors)",
            "guess": false,
            "found": {
                "chosen": "f16_d64_m64", "chosen_is_right": true, "standings": [standing(verdict)], "rejected": [],
                "confirmed": standing(again)
            },
            "environment": {"date": "2026-11-29", "commit": "c0ffee"}
        }))
        .unwrap()
    }

    #[test]
    fn a_cell_needs_a_kernel_of_the_table_that_was_faster_twice() {
        let v2d = generations::find("v2d").unwrap();
        let text = cell(&line("f16_d64_m128", "faster", "faster"), v2d).unwrap().text;
        assert!(text.contains("shape: [1, 8, 8, 512, 512, 64]") && text.contains("kernel: \"f16_d64_m128\""), "{text}");
        assert!(text.contains("compute_capability: (9, 0)") && text.contains("multiprocessors: 132"), "{text}");
        assert!(text.contains("1.050 × in 21 samples") && text.contains("commit c0ffee"), "{text}");
        let said = |best, verdict, again| cell(&line(best, verdict, again), v2d).err().unwrap();
        assert_eq!(said("f16_d64_m128", "ambiguous", "faster"), "nothing was clearly faster");
        assert!(said("f16_d64_m128", "faster", "ambiguous").ends_with("not so when it was measured again"));
        assert!(said("f16_d64_m64 TILE_KEYS=64", "faster", "faster").contains("no kernel of the table"));
        assert!(said("f16_d128_m64", "faster", "faster").contains("none of the generation's plans"));
        let guess = Recorded { guess: true, ..line("f16_d64_m128", "faster", "faster") };
        assert!(cell(&guess, v2d).err().unwrap().contains("a guess"));
    }

    /// The table that a program reads is what its record gives; an entry needs a plan that launches its kernel.
    #[test]
    fn every_cell_is_a_plan() {
        for generation in generations::ALL {
            for choice in generation.choices() {
                let [batch, heads, heads_kv, len_q, len_kv, head_dim] = choice.shape;
                let problem = sdpa_core::Problem::new(batch, heads, len_q, head_dim).heads_kv(heads_kv).len_kv(len_kv);
                let problem = problem.dtype(choice.dtype).mask(choice.mask).build().unwrap();
                let like = DeviceLimits { multiprocessors: choice.multiprocessors, ..DeviceLimits::H200 };
                let plan = generation.plan(&problem, &like).unwrap();
                assert_eq!(plan.launches[0].kernel.name, choice.kernel, "{problem}");
                assert!(choice.evidence.contains("×"), "{problem}");
            }
        }
    }
}
