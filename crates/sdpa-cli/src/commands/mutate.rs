//! `sdpa mutate`: does the harness notice when a generation computes or orders otherwise?

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use harness::first_runs::FirstRuns;
use harness::mutate::{Choice, MutationRecord, Options, Score, Step, mutate, render, representative};
use sdpa_core::{Attention, Specialisation};
use sdpa_toolchain::{find_tool, write_whole};

use super::{Outcome, bar, generation, kernel_texts_or_packed};

/// Change one statement of a kernel at a time, and see whether anything notices
///
/// What orders and guards is taken out; constants, comparisons, operands and conditions become others; acquires and releases
/// are relaxed and scopes narrowed. Each mutation of the kernel's PTX is verified on the interpreter until a case notices. A
/// survivor is a missing test, or something that the kernel does not need: its line of source says which to look for.
///
/// Mutations that change nothing are counted apart: where nothing reads the result, where it is the same for every thread
/// and head dimension, where ptxas (if it is there) makes the same machine code, and where
/// crates/harness/src/mutate/equivalent.txt gives a reason.
#[derive(clap::Args, Debug)]
pub(crate) struct Mutate {
    /// Which generation
    #[arg(value_name = "ID")]
    generation: String,
    /// Which of its kernels, such as f16_d64_s3, or `every`; its first, and those launched together with it, by default
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// Draw N mutations, from as many statements of the source as there are
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Which sample
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Try every mutation
    #[arg(long, conflicts_with_all = ["sample", "seed"])]
    all: bool,
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
    /// Leave the score where `sdpa report` finds it
    #[arg(long)]
    record: bool,
    /// The folder of what was recorded
    #[arg(long, value_name = "DIR", default_value = "results", requires = "record")]
    results: PathBuf,
}

impl Mutate {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        let texts = kernel_texts_or_packed(&[generation])?;
        let kernels = self.kernels(generation)?;
        // Each kernel its share of the sample.
        let count = usize::try_from(self.sample).unwrap_or(usize::MAX).div_ceil(kernels.len().max(1));
        let choice = if self.all { Choice::All } else { Choice::Sample { count, seed: self.seed } };
        let options = Options { choice, ptxas: find_tool("ptxas"), ..Options::default() };
        let mut scores: Vec<Score> = Vec::new();
        let first_runs = FirstRuns::default();
        for kernel in &kernels {
            let started = Instant::now();
            let progress = bar(0);
            progress.set_message(format!("proving {kernel} as it is"));
            let score = mutate(generation, kernel, &options, &texts, &first_runs, |step| match step {
                Step::Mutations(count) => progress.set_length(count as u64),
                Step::Done => {
                    progress.set_message(kernel.to_string());
                    progress.inc(1);
                }
            });
            progress.finish_and_clear();
            let score = score?;
            if !self.json {
                write!(out, "{}", render(&score))?;
                writeln!(out, "in {:.1} s", started.elapsed().as_secs_f64())?;
                out.flush()?;
            }
            scores.push(score);
        }
        if self.record {
            let path = self.results.join("mutation").join(format!("{}.json", self.generation));
            let text = serde_json::to_string_pretty(&MutationRecord::new(
                &self.generation,
                &scores,
                (!self.all).then_some(self.seed),
            )?)? + "\n";
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            }
            write_whole(&path, text.as_bytes())?;
            if !self.json {
                writeln!(out, "recorded in {}", path.display())?;
            }
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&scores)?)?;
        } else if scores.len() > 1 {
            let killed: usize = scores.iter().map(Score::killed).sum();
            let of: usize = scores.iter().map(Score::total).sum();
            writeln!(out, "{}: killed {killed} of {of}", self.generation)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn kernels(&self, generation: &'static dyn Attention) -> Result<Vec<Specialisation>, String> {
        let built = generation.generation().specialisations;
        match self.kernel.as_deref() {
            None => Ok(representative(generation)),
            Some("every") => Ok(built.to_vec()),
            Some(name) => {
                let names: Vec<&str> = built.iter().map(|kernel| kernel.name).collect();
                let found = built.iter().find(|kernel| kernel.name == name);
                let unknown = || format!("{} has no kernel `{name}`: there are {}", self.generation, names.join(", "));
                found.map(|kernel| vec![*kernel]).ok_or_else(unknown)
            }
        }
    }
}
