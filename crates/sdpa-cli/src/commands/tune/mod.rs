//! `sdpa tune`: a search over what a generation could have chosen, each candidate proven before it is timed.

mod candidates;
mod choices;
mod search;

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use harness::case::Case;
use harness::verify::{Question, Thoroughness};
use sdpa_bench::timing::{self, Options};
use sdpa_core::{Attention, Device};
use sdpa_toolchain::{Checkout, Nvrtc, write_whole};
use serde::Serialize;

use self::candidates::{Candidate, Change};
use self::search::{Found, Search};
use super::bench::problems::Problems;
use super::{Outcome, generation, keeps_time, kernel_texts, open, spinner};

/// Search for faster choices: other kernels of a generation's table, and other numbers to compile them with
///
/// Candidates are the plans that the generation could have made, and these with one of its tunable numbers changed; numbers
/// that helped alone are then tried together. Each is compiled from the files on disk and verified on the problem before it
/// is timed, in turns with what the generation chooses today. Few samples for all, more for those that are ahead, most for
/// the last. A verdict needs what `sdpa bench` needs: 3 % and 0.4 µs between the spreads.
///
/// Without a GPU candidates are compiled and verified, and ranked by what they execute: a guess, and said to be one.
///
/// Exits 1 if what the generation chooses today is wrong.
#[derive(clap::Args, Debug)]
pub(crate) struct Tune {
    /// Which generation
    #[arg(value_name = "ID")]
    generation: String,
    #[command(flatten)]
    problems: Problems,
    /// Try these values of a definition instead of the tunable numbers; of several definitions every combination
    #[arg(long = "define", value_name = "NAME=VALUE,…")]
    defines: Vec<Values>,
    /// Only the kernels that the generation chooses, not the others of its table
    #[arg(long)]
    chosen_only: bool,
    /// The least time a sample takes
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    sample_ms: u16,
    /// What the order of the turns is drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Append a line of JSON for each problem: every candidate, its figures and its verdict. Problems that the file has
    /// already, of the same kernels on the same device, are not searched again
    #[arg(long, value_name = "FILE")]
    record: Option<std::path::PathBuf>,
    /// Search nothing: say for each problem what is chosen and why, with what the records hold of it
    #[arg(long)]
    explain: bool,
    /// Search nothing: make the generation's table of choices from the record. A cell needs a kernel of the table that was faster, and
    /// was so again in a process of its own
    #[arg(long, requires = "record", conflicts_with = "explain")]
    adopt: bool,
    /// Measure this candidate alone, for the search that found it
    #[arg(long, value_name = "CANDIDATE", hide = true)]
    only: Option<String>,
}

/// `TILE_KEYS=32,64`.
#[derive(Clone, Debug)]
struct Values {
    define: String,
    values: Vec<String>,
}

impl FromStr for Values {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no definition: it is NAME=VALUE,… as in TILE_KEYS=32,64");
        let (define, values) = text.split_once('=').ok_or_else(error)?;
        let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let is_name = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        match is_name(define) && values.iter().all(|value| is_name(value)) {
            true => Ok(Self { define: define.to_owned(), values }),
            false => Err(error()),
        }
    }
}

/// What was found for a problem, as a line of the record.
#[derive(Debug, Serialize)]
struct Line<'a> {
    generation: &'static str,
    problem: String,
    device: String,
    /// What the kernels were compiled from, and what was tried: the same key is not searched twice.
    key: String,
    seed: u64,
    /// True without a GPU: candidates are ranked by what they execute.
    guess: bool,
    found: &'a Found,
    environment: serde_json::Map<String, serde_json::Value>,
}

/// A search that a record has already.
#[derive(Debug, PartialEq, Eq)]
struct Searched {
    problem: String,
    key: String,
    device: String,
}

impl Tune {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        if self.adopt {
            let path = self.record.as_deref().ok_or("--adopt needs --record FILE")?;
            return choices::adopt(out, generation, path);
        }
        let sweeps = self.problems.sweeps()?;
        if self.explain {
            let cases = sweeps.iter().flat_map(|sweep| &sweep.cases);
            return choices::explain(out, generation, cases, self.record.as_deref());
        }
        let checkout = Checkout::find()?;
        let sources = checkout.sources()?;
        let compiler = Nvrtc::find(&checkout)?;
        let mut recorded = self.recorded()?;
        let device = open(out)?;
        // Candidates that change nothing must be of the same text as those that do.
        let texts = kernel_texts(&[generation])?;
        texts.install(&*device)?;
        let mut right = true;
        for case in sweeps.iter().flat_map(|sweep| &sweep.cases) {
            writeln!(out, "\n{} on {case}", self.generation)?;
            let chosen = match generation.plan(&case.problem, device.limits()) {
                Ok(plan) => plan,
                Err(reason) => {
                    writeln!(out, "  not searched: {reason}")?;
                    continue;
                }
            };
            let Some(chosen) = Candidate::of_plan(generation, &case.problem, chosen) else {
                writeln!(out, "  not searched: nothing to launch")?;
                continue;
            };
            let key = self.key(generation, &sources)?;
            let problem = case.to_string();
            let search = Searched { problem: problem.clone(), key: key.clone(), device: device.name() };
            if self.only.is_none() && recorded.contains(&search) {
                writeln!(out, "  searched already: see the record")?;
                continue;
            }
            let progress = spinner(format!("asking the oracle about {}", case.problem));
            let question = Question::new(case.clone(), Thoroughness::before_timing(&case.problem));
            progress.finish_and_clear();
            let question = question?;
            let first = self.first_candidates(&*device, generation, case, &chosen);
            let race = Search {
                device: &*device,
                texts: &texts,
                case,
                question: &question,
                sources: &sources,
                compiler: &compiler,
                options: Options {
                    sample: Duration::from_millis(self.sample_ms.into()),
                    seed: self.seed,
                    ..Options::default()
                },
                combines: self.defines.is_empty(),
            };
            if let Some(label) = &self.only {
                let candidate = Candidate::labelled(label, &chosen, &first, device.limits());
                let candidate = candidate.ok_or_else(|| format!("{}: no candidate {label}", self.generation))?;
                writeln!(out, "{}", serde_json::to_string(&race.alone(chosen, candidate)?)?)?;
                continue;
            }
            let mut found = match keeps_time(&*device) {
                true => race.by_time(chosen, first)?,
                false => race.by_counters(chosen, first)?,
            };
            if let Some(best) = found.faster() {
                found.confirmed = self.confirmed(case, &best)?;
            }
            write!(out, "{}", found.table(keeps_time(&*device)))?;
            for rejected in &found.rejected {
                let reason = rejected.reason.trim().lines().next().unwrap_or_default();
                writeln!(out, "  rejected: {}: {reason}", rejected.candidate)?;
            }
            writeln!(out, "{}", found.conclusion(keeps_time(&*device)))?;
            right &= found.chosen_is_right;
            let line = Line {
                generation: generation.generation().id,
                problem,
                device: device.name(),
                key,
                seed: self.seed,
                guess: !keeps_time(&*device),
                found: &found,
                environment: timing::environment(&*device),
            };
            self.append(&serde_json::to_string(&line)?)?;
            recorded.push(search);
        }
        Ok(if right { ExitCode::SUCCESS } else { ExitCode::from(super::FAILED) })
    }

    /// The winner measured again, in a process whose modules no other launch has touched; `None` if it could not be.
    fn confirmed(&self, case: &Case, label: &str) -> Result<Option<search::Standing>, Box<dyn std::error::Error>> {
        let mut again = std::process::Command::new(std::env::current_exe()?);
        again.args(["tune", &self.generation, "--case", &case.to_string(), "--only", label]);
        again.args(["--sample-ms", &self.sample_ms.to_string(), "--seed", &self.seed.wrapping_add(1).to_string()]);
        for Values { define, values } in &self.defines {
            again.arg("--define").arg(format!("{define}={}", values.join(",")));
        }
        let output = again.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        Ok(said.lines().rev().find_map(|line| serde_json::from_str(line).ok()))
    }

    /// The other plans, and each plan with one number changed; with definitions given, every combination of these.
    fn first_candidates(
        &self,
        device: &dyn Device,
        generation: &'static dyn Attention,
        case: &Case,
        chosen: &Candidate,
    ) -> Vec<Candidate> {
        let limits = device.limits();
        let mut plans = vec![chosen.clone()];
        if !self.chosen_only {
            let others = generation.alternatives(&case.problem, limits).into_iter();
            let others = others.filter_map(|plan| Candidate::of_plan(generation, &case.problem, plan));
            plans.extend(others.filter(|other| other.plan != chosen.plan));
        }
        let mut candidates: Vec<Candidate> = plans[1..].to_vec();
        if self.defines.is_empty() {
            for plan in &plans {
                for tunable in generation.tunables() {
                    let change = |value: &&str| Change { define: tunable.define.into(), value: (*value).into() };
                    let changed = |value| plan.changed(&[change(value)], limits);
                    candidates.extend(tunable.values.iter().filter_map(changed));
                }
            }
        } else {
            let mut combinations: Vec<Vec<Change>> = vec![Vec::new()];
            for Values { define, values } in &self.defines {
                let with = |changes: &Vec<Change>, value: &String| {
                    let mut changes = changes.clone();
                    changes.push(Change { define: define.clone(), value: value.clone() });
                    changes
                };
                combinations = combinations
                    .iter()
                    .flat_map(|changes| values.iter().map(move |value| with(changes, value)))
                    .collect();
            }
            let pairs = plans.iter().flat_map(|plan| combinations.iter().map(move |changes| (plan, changes)));
            // What a combination leaves as it is is no change.
            candidates.extend(pairs.filter_map(|(plan, changes)| {
                let differs = |change: &&Change| {
                    let kernels = plan.plan.launches.iter().map(|launch| launch.kernel);
                    kernels.into_iter().any(|kernel| kernel.define(&change.define) != Some(&change.value))
                };
                let changes: Vec<Change> = changes.iter().filter(differs).cloned().collect();
                if changes.is_empty() { None } else { plan.changed(&changes, limits) }
            }));
        }
        candidates
    }

    /// What the search depends on, in short.
    fn key(
        &self,
        generation: &dyn Attention,
        sources: &sdpa_toolchain::Sources,
    ) -> Result<String, Box<dyn std::error::Error>> {
        use sha2::{Digest as _, Sha256};
        let mut hash = Sha256::new();
        for kernel in generation.generation().specialisations {
            hash.update(sdpa_toolchain::Fingerprint::of_sources(kernel, sources)?.to_string());
        }
        hash.update(format!("{:?} {} {} {}", self.defines, self.chosen_only, self.sample_ms, self.seed));
        Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Every line that the record has.
    fn recorded(&self) -> Result<Vec<Searched>, Box<dyn std::error::Error>> {
        let Some(path) = self.record.as_ref().filter(|path| path.exists()) else { return Ok(Vec::new()) };
        let text = std::fs::read_to_string(path)?;
        let mut found = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let value: serde_json::Value = serde_json::from_str(line).map_err(|error| {
                format!("{}, line {}: no record of `sdpa tune`: {error}", path.display(), number + 1)
            })?;
            let field = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            found.push(Searched { problem: field("problem"), key: field("key"), device: field("device") });
        }
        Ok(found)
    }

    /// Adds a line; the file is always whole.
    fn append(&self, line: &str) -> Result<(), Box<dyn std::error::Error>> {
        let Some(path) = &self.record else { return Ok(()) };
        let before = if path.exists() { std::fs::read_to_string(path)? } else { String::new() };
        Ok(write_whole(path, format!("{before}{line}\n").as_bytes())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_names_with_values() {
        let Values { define, values } = "TILE_KEYS=32, 64".parse().unwrap();
        assert_eq!((define.as_str(), values), ("TILE_KEYS", vec!["32".to_owned(), "64".to_owned()]));
        for wrong in ["TILE_KEYS", "=32", "TILE_KEYS=", "TILE_KEYS=32,", "TILE KEYS=1", "A=1;B=2"] {
            assert!(wrong.parse::<Values>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_record_is_appended_to_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.jsonl");
        let record = path.to_str().unwrap();
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            tune: Tune,
        }
        use clap::Parser as _;
        let tune = Program::parse_from(["sdpa", "v2d", "--record", record]).tune;
        assert!(tune.recorded().unwrap().is_empty());
        for problem in ["a", "b"] {
            tune.append(&format!("{{\"problem\":\"{problem}\",\"key\":\"k\",\"device\":\"d\"}}")).unwrap();
        }
        let search = |problem: &str| Searched { problem: problem.into(), key: "k".into(), device: "d".into() };
        assert_eq!(tune.recorded().unwrap(), [search("a"), search("b")]);
        std::fs::write(&path, "{\"problem\":\"a\"}\nno JSON\n").unwrap();
        let error = tune.recorded().unwrap_err().to_string();
        assert!(error.contains("line 2: no record of `sdpa tune`"), "{error}");
    }
}
