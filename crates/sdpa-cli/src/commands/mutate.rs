//! `sdpa mutate`: does the harness notice when a generation's order or guards go?

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use harness::mutate::{MutationRecord, Options, Score, Step, mutate, render};
use sdpa_core::Specialisation;
use sdpa_toolchain::write_whole;

use super::{Outcome, bar, generation, kernel_texts_or_packed};

/// Remove every barrier, wait, commit, fence and guard of a kernel, one at a time, and see whether anything notices
///
/// Each mutation of the kernel's PTX is verified on the interpreter until a case notices. A survivor is a missing test, or
/// something that the kernel does not need: its line of source says which to look for.
#[derive(clap::Args, Debug)]
pub(crate) struct Mutate {
    /// Which generation
    #[arg(value_name = "ID")]
    generation: String,
    /// Which of its kernels, such as f16_d64_s3, or `all`; its first by default
    #[arg(long, value_name = "NAME")]
    kernel: Option<String>,
    /// At most N mutations of a kernel, spread over it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
    /// Leave the score where `sdpa report` finds it: not for `--limit`
    #[arg(long, conflicts_with = "limit")]
    record: bool,
    /// The folder of what was recorded
    #[arg(long, value_name = "DIR", default_value = "results", requires = "record")]
    results: PathBuf,
}

impl Mutate {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        let texts = kernel_texts_or_packed(&[generation])?;
        let limit = self.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let options = Options { limit, ..Options::default() };
        let mut scores: Vec<Score> = Vec::new();
        for kernel in self.kernels(generation.generation().specialisations)? {
            let started = Instant::now();
            let progress = bar(0);
            progress.set_message(format!("proving {kernel} as it is"));
            let score = mutate(generation, kernel, &options, &texts, |step| match step {
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
            let text = serde_json::to_string_pretty(&MutationRecord::new(&self.generation, &scores)?)? + "\n";
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
            let of: usize = scores.iter().map(|score| score.mutants.len()).sum();
            writeln!(out, "{}: killed {killed} of {of}", self.generation)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn kernels(&self, built: &'static [Specialisation]) -> Result<Vec<&'static Specialisation>, String> {
        match self.kernel.as_deref() {
            None => Ok(built.iter().take(1).collect()),
            Some("all") => Ok(built.iter().collect()),
            Some(name) => {
                let names: Vec<&str> = built.iter().map(|kernel| kernel.name).collect();
                let found = built.iter().find(|kernel| kernel.name == name);
                let unknown = || format!("{} has no kernel `{name}`: there are {}", self.generation, names.join(", "));
                found.map(|kernel| vec![kernel]).ok_or_else(unknown)
            }
        }
    }
}
