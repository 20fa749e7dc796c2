//! `sdpa bench`: generations and peers against one another.

pub(super) mod problems;
mod render;
pub(super) mod sitting;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sdpa::generations;
use sdpa_bench::timing::{self, Baseline, Ceiling, Moves, Options, Peers, Record};
use sdpa_cli::files;
use sdpa_core::{Dtype, Error};
use sdpa_toolchain::write_whole;

use super::{FAILED, Outcome, generations_or_all, keeps_time, open, spinner};
use problems::{Problems, Sweep};
use sitting::Sitting;

/// Time the generations against one another, and against peers; needs a GPU
///
/// Every generation is verified on each problem before it is timed there. Contenders take turns, so that clocks and
/// temperature are the same for all; the figure is the median of the samples. A verdict needs 3 % and 0.4 µs
/// between the spreads (faster, slower) or medians within 1 % (same); what lies between is ambiguous.
///
/// A generation is not timed on a problem where its verified pass took more than 20 ms and more than 10 times the fastest
/// generation's; the record names it.
///
/// `sdpa bench --grid all --both --cold --peers --record` makes everything that `sdpa report` needs.
///
/// Exits 1 if a generation is wrong, or if a verdict on an unchanged kernel differs from the baseline's.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    problems: Problems,
    /// Which generations; all by default
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    generations: Vec<String>,
    /// Also with inputs that come from memory instead of the L2 cache
    #[arg(long)]
    cold: bool,
    /// Also time PyTorch's backends, FlashAttention-3 and -4, in turn with ours, and measure the device's ceiling
    /// (bench/peers.py)
    #[arg(long)]
    peers: bool,
    /// The Python that has PyTorch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Samples of each contender
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..))]
    samples: u16,
    /// What the order of the turns is drawn from, anew for each round
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The least time a sample takes
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    sample_ms: u16,
    /// Start no problem after so many minutes; grids that were through by then keep their records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    minutes: Option<u16>,
    /// Figures of an earlier run: each contender beside itself, and verdicts that moved. A file, or a folder in which each
    /// grid is compared with the file that --record would write
    #[arg(long, value_name = "PATH")]
    baseline: Option<PathBuf>,
    /// Write the figures into one file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures of each grid into a file of this folder, as `sdpa report` reads them; until a grid is through,
    /// its file ends in `.partial`
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "results")]
    record: Option<PathBuf>,
}

impl Bench {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let started = Instant::now();
        let chosen = generations_or_all(&self.generations)?;
        let sweeps = self.problems.sweeps()?;
        self.check_outputs()?;
        let baseline = self.baseline.as_deref().map(Baseline::read).transpose()?;
        let device = open(out)?;
        if !keeps_time(&*device) {
            return Err(Error::NoClock { device: device.name() }.into());
        }
        if let Some(other) = baseline.as_ref().map(Baseline::device).filter(|other| *other != device.name()) {
            return Err(format!("the baseline is of {other}: times of another device are no baseline").into());
        }
        let peers = self.peers.then(|| Peers::start(&self.python)).transpose()?;

        let mut ceilings: BTreeMap<&'static str, Ceiling> = BTreeMap::new();
        let mut all = Record { device: device.name(), ..Record::default() };
        let (mut wrong, mut count, mut moves) = (false, 0, Moves::default());
        let is_over =
            || self.minutes.is_some_and(|minutes| started.elapsed() > Duration::from_secs(60) * minutes.into());
        'sweeps: for sweep in &sweeps {
            let mut record = Record { device: device.name(), ..Record::default() };
            let name = file_name(&record.device, sweep);
            let path = self.record.as_ref().map(|folder| folder.join(&name));
            let before = baseline.as_ref().map(|baseline| baseline.beside(&name));
            if let Some(peers) = &peers
                && !ceilings.contains_key(sweep.dtype.name())
            {
                ceilings.insert(sweep.dtype.name(), self.ceiling(out, peers, sweep.dtype)?);
            }
            let ceiling = ceilings.get(sweep.dtype.name());
            record.ceilings.extend(ceiling.cloned());
            for case in &sweep.cases {
                if is_over() {
                    break 'sweeps;
                }
                let sitting = Sitting {
                    device: &*device,
                    peers: peers.as_ref(),
                    case,
                    options: self.options(),
                    cold: self.cold,
                    ceiling,
                    baseline: before,
                    everybody: false,
                };
                wrong |= !sitting.run(out, &chosen, &mut record)?;
                count += 1;
                if let Some(path) = &path {
                    // A long run that is ended early keeps what it had; a whole record is not replaced by a part.
                    write_whole(&partial(path), &json(&record)?)?;
                }
            }
            // Asked at the end, while the clocks are what they were.
            record.environment = timing::environment();
            record.environment.insert("seed of the turns' order".to_owned(), self.seed.into());
            if let Some(peers) = &peers {
                record.environment.insert("peers".to_owned(), peers.environment.clone().into());
            }
            if let Some(path) = &path {
                write_record(out, path, &record)?;
                std::fs::remove_file(partial(path))?;
            }
            if let Some(before) = before {
                moves.add(Moves::between(before, &record));
            }
            all.environment = record.environment;
            all.figures.extend(record.figures);
            all.absent.extend(record.absent);
        }
        all.ceilings = ceilings.into_values().collect();
        if let Some(path) = &self.json {
            write_record(out, path, &all)?;
        }
        writeln!(out, "{count} problems in {:.0} s", started.elapsed().as_secs_f64())?;
        if baseline.is_some() {
            writeln!(out, "{moves}")?;
        }
        let asked: usize = sweeps.iter().map(|sweep| sweep.cases.len()).sum();
        if let Some(minutes) = self.minutes.filter(|_| count < asked) {
            return Err(format!("{minutes} minutes were over before {} of {asked} problems", asked - count).into());
        }
        Ok(if wrong || !moves.moved.is_empty() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    fn options(&self) -> Options {
        let sample = Duration::from_millis(self.sample_ms.into());
        Options { samples: self.samples.into(), sample, seed: self.seed, ..Options::default() }
    }

    fn ceiling(&self, out: &mut dyn Write, peers: &Peers, dtype: Dtype) -> Result<Ceiling, Box<dyn std::error::Error>> {
        let progress = spinner(format!("measuring the device's ceiling in {dtype}"));
        let ceiling = peers.ceiling(dtype, &self.options());
        progress.finish_and_clear();
        let ceiling = ceiling?;
        let Ceiling { matmul, matmul_tflops, copy, copy_gb_s, .. } = &ceiling;
        writeln!(out, "ceiling in {dtype}: {matmul_tflops:.0} TFLOP/s ({matmul}), {copy_gb_s:.0} GB/s ({copy})")?;
        Ok(ceiling)
    }

    /// Before minutes of work, not after them.
    fn check_outputs(&self) -> Result<(), files::FileError> {
        if let Some(folder) = self.record.as_deref().filter(|folder| !folder.is_dir()) {
            return Err(files::FileError::NoFolder(folder.to_owned()));
        }
        let Some(path) = &self.json else { return Ok(()) };
        match files::check_output(path, path) {
            // Figures may replace figures.
            Err(files::FileError::OutputIsInput(_)) => Ok(()),
            other => other,
        }
    }
}

/// `nvidia-h200-targets-bf16.json`.
fn file_name(device: &str, sweep: &Sweep) -> String {
    let name = device.split(" (").next().unwrap_or(device).to_lowercase();
    let words: Vec<&str> =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!("{}-{}-{}.json", words.join("-"), sweep.name, sweep.dtype)
}

/// Where a record grows until it is whole.
fn partial(path: &Path) -> PathBuf {
    path.with_extension("json.partial")
}

fn json(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    Ok((serde_json::to_string_pretty(record)? + "\n").into_bytes())
}

fn write_record(out: &mut dyn Write, path: &Path, record: &Record) -> Result<(), Box<dyn std::error::Error>> {
    write_whole(path, &json(record)?)?;
    Ok(writeln!(out, "wrote {}", path.display())?)
}

/// Who a generation evolved from, as the list of generations says.
pub(super) fn parent_of(id: &str) -> Option<&'static str> {
    generations::find(id).and_then(|generation| generation.generation().parent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        bench: Bench,
    }

    fn sweeps(arguments: &str) -> Vec<String> {
        let program = Program::parse_from(std::iter::once("sdpa").chain(arguments.split_whitespace()));
        let sweeps = program.bench.problems.sweeps().unwrap();
        let line = |sweep: &Sweep| {
            let name = file_name("NVIDIA H200 (sm_90, 132 multiprocessors)", sweep);
            format!("{name}: {}", sweep.cases.len())
        };
        sweeps.iter().map(line).collect()
    }

    #[test]
    fn grids_have_element_types_and_files_of_their_own() {
        assert_eq!(sweeps(""), ["nvidia-h200-acceptance-f16.json: 3"]);
        assert_eq!(sweeps("--grid targets --dtype f16 --causal"), ["nvidia-h200-targets-f16.json: 21"]);
        assert_eq!(sweeps("--shape 1,8,512,64 --shape 8,32,4096,128,8,1 --both"), ["nvidia-h200-shapes-f16.json: 3"]);
        assert_eq!(sweeps("--grid packed --both --dtype f16"), ["nvidia-h200-packed-f16.json: 8"]);
        assert_eq!(
            sweeps("--grid acceptance,all --both"),
            [
                "nvidia-h200-acceptance-f16.json: 6",
                "nvidia-h200-short-f16.json: 20",
                "nvidia-h200-decode-bf16.json: 8",
                "nvidia-h200-packed-bf16.json: 8",
                "nvidia-h200-windows-bf16.json: 7",
                "nvidia-h200-widths-bf16.json: 8",
                "nvidia-h200-targets-bf16.json: 42",
            ]
        );
    }
}
