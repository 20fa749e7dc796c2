//! `sdpa counters`: what generations execute.

use std::io::Write;
use std::process::ExitCode;

use harness::case::Case;
use harness::counters::{CASES, Counted, Figure, count, figures, render};
use harness::execute::RunError;
use sdpa_core::Error;
use serde::Serialize;

use super::{Outcome, generations_or_all, kernel_texts_or_packed, spinner};

/// Count instructions, global traffic, shared-memory wavefronts and bank conflicts, barriers and tensor-core work
///
/// Counted by the interpreter: exact, the same on every machine, and no times.
#[derive(clap::Args, Debug)]
pub(crate) struct Counters {
    /// Which generations; all by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// For which problem, as failing tests print it; (1,2,193,64) without and with a causal mask by default
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct CountersJson {
    case: String,
    generations: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    generation: &'static str,
    figures: Vec<Figure>,
}

impl Counters {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generations = generations_or_all(&self.generations)?;
        let kernels = kernel_texts_or_packed(&generations)?;
        let texts = match &self.case {
            Some(text) => vec![text.as_str()],
            None => CASES.to_vec(),
        };
        let mut reports = Vec::new();
        for text in texts {
            let case: Case = text.parse()?;
            let mut counted: Vec<Counted> = Vec::new();
            let mut declined = Vec::new();
            for generation in &generations {
                let progress = spinner(format!("{} {case}", generation.generation().id));
                let result = count(*generation, &case, &kernels);
                progress.finish_and_clear();
                match result {
                    Ok(figures) => counted.push(figures),
                    Err(RunError::Device(Error::Unsupported(reason))) => declined.push(reason.to_string()),
                    Err(error) => return Err(error.to_string().into()),
                }
            }
            if counted.is_empty() {
                return Err(format!("nothing to count: {}", declined.join("; ")).into());
            }
            if self.json {
                let entry =
                    |counted: &Counted| Entry { generation: counted.generation, figures: figures(&counted.counters) };
                reports.push(CountersJson { case: case.to_string(), generations: counted.iter().map(entry).collect() });
                continue;
            }
            writeln!(out, "{case}\n{}", render(&counted))?;
            for reason in declined {
                writeln!(out, "{reason}")?;
            }
        }
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&reports)?)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
