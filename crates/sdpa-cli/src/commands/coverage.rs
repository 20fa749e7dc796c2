//! `sdpa coverage`: what of a generation no trial reaches.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::check::trials;
use harness::coverage::{GenerationCoverage, execute, render};
use sdpa_toolchain::write_whole;

use super::{FAILED, Outcome, bar, generations_or_all, kernel_texts_or_packed};

/// Show the lines of source, directions of conditions and features of plans that no trial reaches
///
/// The trials are those of `sdpa check`, run on the interpreter. A line that nothing can reach says so beside it, in a comment
/// `// UNREACHED: reason`. Exits 1 if something is neither reached nor explained.
#[derive(clap::Args, Debug)]
pub(crate) struct Coverage {
    /// Which generations; all by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
    /// Leave the figures, and the places that no kernel reaches, where `sdpa report` finds them
    #[arg(long)]
    record: bool,
    /// The folder of what was recorded
    #[arg(long, value_name = "DIR", default_value = "results", requires = "record")]
    results: PathBuf,
}

impl Coverage {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generations = generations_or_all(&self.generations)?;
        let texts = kernel_texts_or_packed(&generations)?;
        let mut reports = Vec::new();
        let mut is_complete = true;
        for generation in generations {
            let trials = trials(generation);
            let progress = bar(trials.len() as u64);
            progress.set_message(generation.generation().id);
            let executed = execute(generation, &trials, &texts, || progress.inc(1));
            progress.finish_and_clear();
            let executed = executed.map_err(|failure| failure.to_string())?;
            let coverage = GenerationCoverage::new(generation, &trials, &executed, &texts)?;
            is_complete &= coverage.is_complete();
            if !self.json {
                writeln!(out, "{}", render(&coverage))?;
                out.flush()?;
            }
            if self.record {
                let folder = self.results.join("coverage");
                std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
                // Places that some other kernel reaches are many, and no page shows them.
                let mut figures = coverage.clone();
                figures.kernels.iter_mut().for_each(|kernel| kernel.missed.clear());
                let text = serde_json::to_string_pretty(&figures)? + "\n";
                write_whole(&folder.join(format!("{}.json", coverage.generation)), text.as_bytes())?;
            }
            reports.push(coverage);
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
        }
        Ok(if is_complete { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}
