//! `sdpa soak`: a simulated server, for as many steps as told.

use std::io::Write;
use std::process::ExitCode;

use sdpa_cli::packs;
use sdpa_cli::soak::{Options, Report, Shape, soak};
use sdpa_core::{Attention, Device, DeviceKind};
use sdpa_toolchain::resources::KernelSet;
use serde::Serialize;

use super::{FAILED, Outcome, UNUSABLE, bar, generation, kernel_texts_of_sets_or_packed, open};

/// Append to a cache in pages and attend over it, as a server does, for many steps
///
/// Sequences come with prompts of random lengths, grow by a token or a few in each step, and end; their pages are given back and
/// taken again, and some begin with another one's pages. A step is one append and one forward pass, prepared once; on a GPU both are
/// one graph. Every so many steps some sequences are judged beside the oracle, which knows what each was given since it came, and
/// computed again alone at another place of the batch: the same bits. Device memory must be the same after each step, and all pages
/// free at the end. Exits 1 at the first step that is wrong.
#[derive(clap::Args, Debug)]
pub(crate) struct Soak {
    /// Which generation; it must take packed sequences over pages
    #[arg(value_name = "ID", default_value = "v2j")]
    generation: String,
    /// How many steps; by default 200 on the interpreter, 10000 on a GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Judge every Nth step; by default each 10th on the interpreter, each 50th on a GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// Sequences that are judged then
    #[arg(long, value_name = "N", default_value_t = 2)]
    sampled: usize,
    /// Repeat a run: everything is drawn from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct SoakJson<'a> {
    generation: &'a str,
    device: String,
    seed: u64,
    passed: bool,
    shape: Shape,
    #[serde(flatten)]
    report: &'a Report,
}

impl Soak {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        let device = if self.json { open(&mut std::io::sink())? } else { open(out)? };
        let sets: Vec<KernelSet<'_>> = packs::OTHERS.into_iter().chain([generation.generation().into()]).collect();
        kernel_texts_of_sets_or_packed(&sets)?.install(&*device)?;
        let (shape, options) = (Shape::of_device(&*device), self.options(&*device));
        let progress = bar(options.steps);
        let report = soak(&*device, generation, shape, options, |_, report| {
            progress.inc(1);
            progress.set_message(format!("{} rows judged", report.judged_rows));
        });
        progress.finish_and_clear();
        let report = report?;
        if self.json {
            let (id, seed, passed) = (generation.generation().id, self.seed, report.passed());
            let json = SoakJson { generation: id, device: device.name(), seed, passed, shape, report: &report };
            writeln!(out, "{}", serde_json::to_string_pretty(&json)?)?;
        } else {
            self.tell(out, generation, &report)?;
        }
        Ok(match (report.findings.is_empty(), report.passed()) {
            (false, _) => ExitCode::from(FAILED),
            (true, true) => ExitCode::SUCCESS,
            // Nothing was judged, so nothing is known.
            (true, false) => ExitCode::from(UNUSABLE),
        })
    }

    fn options(&self, device: &dyn Device) -> Options {
        let (steps, every) = match device.kind() {
            DeviceKind::Cuda => (10_000, 50),
            DeviceKind::Interpreter => (200, 10),
        };
        Options {
            steps: self.steps.unwrap_or(steps),
            every: self.every.unwrap_or(every),
            sampled: self.sampled,
            seed: self.seed,
        }
    }

    fn tell(&self, out: &mut dyn Write, generation: &dyn Attention, report: &Report) -> std::io::Result<()> {
        let Report { steps, sequences, shared_prefixes, ended, evicted, tokens, .. } = report;
        writeln!(
            out,
            "{sequences} sequences, {shared_prefixes} of them with another one's first pages; {ended} ended, {evicted} made room; \
             {tokens} tokens appended"
        )?;
        writeln!(out, "{} pages taken, at most {} at once", report.pages_taken, report.most_pages)?;
        match report.allocated_bytes {
            Some(bytes) => writeln!(out, "{bytes} bytes of device memory, the same after each step")?,
            None => writeln!(out, "the device does not count its memory")?,
        }
        for finding in &report.findings {
            writeln!(out, "{finding}")?;
        }
        let id = generation.generation().id;
        let verdict = match (report.findings.is_empty(), report.passed()) {
            (true, true) => "right",
            (true, false) => "not judged",
            (false, _) => "WRONG",
        };
        writeln!(
            out,
            "{id}: {verdict}; {steps} steps in {:.1} s, of {} steps {} rows judged beside the oracle (sequences of up to {} keys; {} more may \
             overflow f32) and {} rows computed again alone; repeat with --seed {}",
            report.seconds,
            report.judged_steps,
            report.judged_rows,
            report.longest_judged,
            report.unjudged_rows,
            report.repeated_rows,
            self.seed
        )
    }
}
