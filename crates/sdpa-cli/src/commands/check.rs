//! `sdpa check`: what the interpreter finds in a generation.

use std::io::Write;
use std::process::ExitCode;

use harness::case::Case;
use harness::check::{SHOWN, Trial, check, render, trials};
use sdpa_cli::findings::Report;
use sdpa_core::Attention;

use super::{FAILED, Outcome, all_generations, bar, kernel_texts_or_packed, subject};

/// Look for races, uninitialised reads, accesses out of bounds, missing waits, deadlocks and wrong values
///
/// Runs on the interpreter, under all of its checks, each shape under several schedules. Prints findings with their line of
/// source as a compiler would, and exits 1 if there is one. Mutants can be checked by name, too: `sdpa check
/// missing_syncthreads`.
#[derive(clap::Args, Debug)]
pub(crate) struct Check {
    /// Which generations or mutants; all generations by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// Only the first N shapes that a generation takes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// Schedules per shape
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// This case instead of the shapes, from its own schedule on
    #[arg(long, value_name = "CASE", conflicts_with = "cases")]
    case: Option<String>,
    /// Plan the case as for a device with N multiprocessors
    #[arg(long, value_name = "N", requires = "case", value_parser = clap::value_parser!(u32).range(1..))]
    multiprocessors: Option<u32>,
    /// Plan the case as for a device whose blocks have no more shared memory than an L4's
    #[arg(long, requires = "case")]
    small_blocks: bool,
    /// Show every finding, not the first few of each generation
    #[arg(long)]
    all: bool,
    /// Write JSON for programs: every finding
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let subjects: Vec<&'static dyn Attention> = match self.generations.as_slice() {
            [] => all_generations()?,
            ids => ids.iter().map(|id| subject(id)).collect::<Result<_, _>>()?,
        };
        let texts = kernel_texts_or_packed(&subjects)?;
        let mut reports = Vec::new();
        let mut is_clean = true;
        for generation in subjects {
            let trials = self.trials(generation)?;
            let progress = bar(trials.len() as u64);
            progress.set_message(generation.generation().id);
            let checked = check(generation, &trials, self.seeds, &texts, || progress.inc(1));
            progress.finish_and_clear();
            let checked = checked.map_err(|failure| failure.reason.to_string())?;
            is_clean &= checked.faults.is_empty();
            if self.json {
                reports.push(Report::of(&checked));
            } else {
                write!(out, "{}", render(&checked, if self.all { usize::MAX } else { SHOWN }))?;
                out.flush()?;
            }
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
        }
        Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }

    fn trials(&self, generation: &dyn Attention) -> Result<Vec<Trial>, Box<dyn std::error::Error>> {
        if let Some(text) = &self.case {
            let case: Case = text.parse()?;
            let Self { multiprocessors, small_blocks, .. } = *self;
            let trial = Trial { multiprocessors, small_blocks, ..Trial::new(case) };
            trial.kernels(generation)?;
            return Ok(vec![trial]);
        }
        let mut trials = trials(generation);
        trials.truncate(self.cases.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX)));
        Ok(trials)
    }
}
