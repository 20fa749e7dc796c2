//! `sdpa bench`: generations and peers against one another.

mod parallel;
pub(super) mod problems;
mod render;
pub(super) mod sitting;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sdpa::generations;
use sdpa_bench::parallel::ParallelOptions;
use sdpa_bench::timing::{
    self, Baseline, Ceiling, Meter, Moves, Options, Peers, Record, RecordError, Regime, Sittings,
};
use sdpa_cli::files;
use sdpa_core::{Device, Dtype, Error};
use sdpa_toolchain::write_whole;

use super::ranks::Ranks;
use super::{FAILED, Outcome, generations_or_all, keeps_time, open, spinner};
use problems::{Problems, Sweep};
use sitting::Sitting;

/// Time the generations against one another, and against peers; needs a GPU
///
/// Every generation is verified on each problem before it is timed there. Contenders take turns, so that clocks and
/// temperature are the same for all; the figure is the median of the samples. A verdict needs 3 % and 0.4 µs
/// between the spreads (faster, slower) or medians within 1 % (same); what lies between is ambiguous.
///
/// In short turns of 5 ms a device runs at higher clocks than its power allows for long. In sustained turns of 150 ms, of which
/// the first third is not counted, each contender comes to its own clock, and what a pass costs is counted in joules. Figures
/// of the two regimes are never compared.
///
/// A generation is not timed on a problem where its verified pass took more than 20 ms and more than 10 times the fastest
/// generation's; the record names it.
///
/// With `--ranks N`, N GPUs share each problem: seconds per pass beside one GPU with all of it, and how much of the transfers kernels
/// hide. `--peers` is then PyTorch's context_parallel (bench/context_parallel.py).
///
/// `sdpa bench --grid all --both --regime both --cold --peers --record` makes everything that `sdpa report` needs.
///
/// Exits 1 if a generation is wrong, or if a verdict on an unchanged kernel differs from the baseline's.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    #[command(flatten)]
    problems: Problems,
    /// Which generations; all by default
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    generations: Vec<String>,
    /// How long turns are
    #[arg(long, value_enum, default_value_t = RegimeName::Short)]
    regime: RegimeName,
    /// Also with inputs that come from memory instead of the L2 cache, in short turns
    #[arg(long)]
    cold: bool,
    /// Also time PyTorch's backends, FlashAttention-3 and -4 and FlashInfer, in turn with ours, and measure the device's
    /// ceiling (bench/peers.py)
    #[arg(long)]
    peers: bool,
    /// The Python that has PyTorch
    #[arg(long, value_name = "PROGRAM", default_value = "python3")]
    python: String,
    /// Samples of each contender in short turns
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(3..))]
    samples: u16,
    /// What the order of the turns is drawn from, anew for each round
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The least time that a sample counts in short turns
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    sample_ms: u16,
    /// Samples of each contender in sustained turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(3..))]
    sustained_samples: u16,
    /// The least time that a sample counts in sustained turns; half as long runs before it and is not counted
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(100..))]
    sustained_ms: u16,
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
    #[command(flatten)]
    ranks: Ranks,
    /// Passes of all ranks whose results must be the same bits
    #[arg(long, value_name = "N", default_value_t = 3, requires = "ranks")]
    repeats: u16,
    /// Add the figures of each grid as one sitting more to its file in this folder, as `sdpa report` reads them; until a grid
    /// is through, its sitting is in a file that ends in `.partial`
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "results")]
    record: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum RegimeName {
    /// 5 ms
    Short,
    /// 150 ms or more, of which the first third is not counted; with joules a pass
    Sustained,
    /// One after the other
    Both,
}

impl RegimeName {
    fn regimes(self) -> &'static [Regime] {
        match self {
            Self::Short => &[Regime::Short],
            Self::Sustained => &[Regime::Sustained],
            Self::Both => &Regime::ALL,
        }
    }
}

impl Bench {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        if self.ranks.ranks.is_some() {
            self.check_outputs()?;
            let asked = parallel::Asked {
                ranks: &self.ranks,
                options: ParallelOptions {
                    samples: self.samples.into(),
                    sample: Duration::from_millis(u64::from(self.sample_ms).max(400)),
                    repeats: self.repeats.into(),
                    seconds_one_gpu: None,
                },
                python: self.peers.then_some(self.python.as_str()),
                json: self.json.as_deref(),
            };
            return parallel::run(out, &asked, &self.problems.sweeps()?);
        }
        let started = Instant::now();
        let chosen = generations_or_all(&self.generations)?;
        let sweeps = self.problems.sweeps()?;
        self.check_outputs()?;
        if self.cold && self.regime == RegimeName::Sustained {
            return Err("--cold times short turns: it needs --regime short or both".into());
        }
        let baseline = self.baseline.as_deref().map(Baseline::read).transpose()?;
        let device = open(out)?;
        if !keeps_time(&*device) {
            return Err(Error::NoClock { device: device.name() }.into());
        }
        if let Some(other) = baseline.as_ref().map(Baseline::device).filter(|other| *other != device.name()) {
            return Err(format!("the baseline is of {other}: times of another device are no baseline").into());
        }
        let peers = self.peers.then(|| Peers::start(&self.python)).transpose()?;
        if let Some(peers) = &peers {
            peers.check_card(device.uuid().as_deref())?;
        }
        self.check_records(&device.name(), &sweeps)?;
        let regimes = self.options();
        let meter = self.meter(out, &*device)?;

        let mut ceilings: Vec<Ceiling> = Vec::new();
        let mut all = Record { device: device.name(), ..Record::default() };
        let (mut wrong, mut count, mut moves) = (false, 0, Moves::default());
        let is_over =
            || self.minutes.is_some_and(|minutes| started.elapsed() > Duration::from_secs(60) * minutes.into());
        'sweeps: for sweep in &sweeps {
            let mut record = Record { device: device.name(), ..Record::default() };
            let name = file_name(&record.device, sweep);
            let path = self.record.as_ref().map(|folder| folder.join(&name));
            let before = baseline.as_ref().map(|baseline| baseline.beside(&name));
            let dtype = sweep.dtype.name();
            if let Some(peers) = &peers
                && !ceilings.iter().any(|ceiling| ceiling.dtype == dtype)
            {
                for options in &regimes {
                    ceilings.push(ceiling(out, peers, sweep.dtype, options)?);
                }
            }
            record.ceilings.extend(ceilings.iter().filter(|ceiling| ceiling.dtype == dtype).cloned());
            for case in &sweep.cases {
                if is_over() {
                    break 'sweeps;
                }
                let sitting = Sitting {
                    device: &*device,
                    peers: peers.as_ref(),
                    case,
                    regimes: &regimes,
                    cold: self.cold,
                    meter: meter.as_ref(),
                    ceilings: &ceilings,
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
            record.environment = timing::environment(&*device);
            record.environment.insert("seed of the turns' order".to_owned(), self.seed.into());
            if let Some(peers) = &peers {
                record.environment.insert("peers".to_owned(), peers.environment.clone().into());
            }
            if let Some(path) = &path {
                add_sitting(out, path, &record)?;
                std::fs::remove_file(partial(path))?;
            }
            if let Some(before) = before {
                moves.add(Moves::between(before, &record));
            }
            all.environment = record.environment;
            all.figures.extend(record.figures);
            all.absent.extend(record.absent);
        }
        all.ceilings = ceilings;
        if let Some(path) = &self.json {
            write_whole(path, &json(&all)?)?;
            writeln!(out, "wrote {}", path.display())?;
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

    /// How to measure, in each regime that is asked for.
    fn options(&self) -> Vec<Options> {
        let options = |regime: &Regime| {
            let (samples, sample_ms) = match regime {
                Regime::Short => (self.samples, self.sample_ms),
                Regime::Sustained => (self.sustained_samples, self.sustained_ms),
            };
            let sample = Duration::from_millis(sample_ms.into());
            Options { samples: samples.into(), sample, seed: self.seed, ..Options::of(*regime) }
        };
        self.regime.regimes().iter().map(options).collect()
    }

    /// What counts energy, if long turns are asked for; says once why nothing does.
    fn meter(&self, out: &mut dyn Write, device: &dyn Device) -> std::io::Result<Option<Meter>> {
        if !self.regime.regimes().contains(&Regime::Sustained) {
            return Ok(None);
        }
        match Meter::of(device) {
            Ok(meter) => Ok(Some(meter)),
            Err(reason) => writeln!(out, "no joules a pass: {reason}").map(|()| None),
        }
    }

    /// Whether every record can be added to: before minutes of work, too.
    fn check_records(&self, device: &str, sweeps: &[Sweep]) -> Result<(), RecordError> {
        for (folder, sweep) in self.record.iter().flat_map(|folder| sweeps.iter().map(move |sweep| (folder, sweep))) {
            let path = folder.join(file_name(device, sweep));
            Sittings::read_or_none(&path)?.check_device(&path, device)?;
        }
        Ok(())
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

/// What the device reaches in one regime.
fn ceiling(
    out: &mut dyn Write,
    peers: &Peers,
    dtype: Dtype,
    options: &Options,
) -> Result<Ceiling, Box<dyn std::error::Error>> {
    let regime = options.regime;
    let progress = spinner(format!("measuring the device's ceiling in {dtype}, {regime} turns"));
    let ceiling = peers.ceiling(dtype, options);
    progress.finish_and_clear();
    let ceiling = ceiling?;
    let Ceiling { matmul, matmul_tflops, copy, copy_gb_s, .. } = &ceiling;
    write!(out, "ceiling in {dtype}, {regime} turns: {matmul_tflops:.0} TFLOP/s ({matmul}), ")?;
    if let Some((read, gb_s)) = ceiling.read.as_ref().zip(ceiling.read_gb_s) {
        write!(out, "{gb_s:.0} GB/s ({read}), ")?;
    }
    writeln!(out, "{copy_gb_s:.0} GB/s ({copy})")?;
    Ok(ceiling)
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

fn json(of: &impl serde::Serialize) -> Result<Vec<u8>, serde_json::Error> {
    Ok((serde_json::to_string_pretty(of)? + "\n").into_bytes())
}

/// Puts a record behind those that its file holds.
fn add_sitting(out: &mut dyn Write, path: &Path, record: &Record) -> Result<(), Box<dyn std::error::Error>> {
    let mut sittings = Sittings::read_or_none(path)?;
    sittings.check_device(path, &record.device)?;
    sittings.sittings.push(record.clone());
    write_whole(path, &json(&sittings)?)?;
    Ok(writeln!(out, "wrote {}: sitting {}", path.display(), sittings.sittings.len())?)
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
    fn a_record_is_added_to_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gpu-short-f16.json");
        let record = |day: &str| {
            let environment = [("date".to_owned(), day.into())].into_iter().collect();
            Record { device: "some GPU".to_owned(), environment, ..Record::default() }
        };
        std::fs::write(&path, json(&record("first")).unwrap()).unwrap();
        let mut out = Vec::new();
        for day in ["second", "third"] {
            add_sitting(&mut out, &path, &record(day)).unwrap();
        }
        assert_eq!(Sittings::read(&path).unwrap().sittings, ["first", "second", "third"].map(record));
        assert!(String::from_utf8(out).unwrap().ends_with("gpu-short-f16.json: sitting 3\n"));
        let before = std::fs::read(&path).unwrap();
        let other = Record { device: "another GPU".to_owned(), ..record("fourth") };
        let error = add_sitting(&mut Vec::new(), &path, &other).unwrap_err().to_string();
        assert!(error.ends_with("holds sittings on another GPU and on some GPU; name another folder"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn files_that_cannot_be_added_to_are_named_before_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["sdpa", "--record", &folder.path().display().to_string()].map(str::to_owned);
        let bench = Program::parse_from(arguments).bench;
        let sweeps = bench.problems.sweeps().unwrap();
        let check = || bench.check_records("some GPU", &sweeps).map_err(|error| error.to_string());
        assert_eq!(check(), Ok(()));
        std::fs::write(folder.path().join("some-gpu-acceptance-f16.json"), "{}").unwrap();
        let error = check().unwrap_err();
        assert!(error.contains("some-gpu-acceptance-f16.json holds no figures"), "{error}");
    }

    #[test]
    fn regimes_have_options_of_their_own() {
        let options = |arguments: &str| {
            let program = Program::parse_from(std::iter::once("sdpa").chain(arguments.split_whitespace()));
            let found = program.bench.options().into_iter();
            found.map(|one| (one.regime, one.samples, one.sample.as_millis(), one.seed)).collect::<Vec<_>>()
        };
        assert_eq!(options(""), [(Regime::Short, 15, 5, 0)]);
        assert_eq!(options("--regime sustained --seed 7"), [(Regime::Sustained, 5, 100, 7)]);
        assert_eq!(
            options("--regime both --samples 9 --sample-ms 4 --sustained-samples 3 --sustained-ms 200"),
            [(Regime::Short, 9, 4, 0), (Regime::Sustained, 3, 200, 0)]
        );
        let short = ["sdpa", "--regime", "sustained", "--sustained-ms", "99"];
        assert!(Program::try_parse_from(short).is_err(), "too short for clocks to follow");
    }

    #[test]
    fn grids_have_element_types_and_files_of_their_own() {
        assert_eq!(sweeps(""), ["nvidia-h200-acceptance-f16.json: 3"]);
        assert_eq!(sweeps("--grid targets --dtype f16 --causal"), ["nvidia-h200-targets-f16.json: 21"]);
        assert_eq!(sweeps("--shape 1,8,512,64 --shape 8,32,4096,128,8,1 --both"), ["nvidia-h200-shapes-f16.json: 3"]);
        assert_eq!(sweeps("--grid models --both"), ["nvidia-h200-models-bf16.json: 35"]);
        assert_eq!(sweeps("--grid packed --both --dtype f16"), ["nvidia-h200-packed-f16.json: 8"]);
        assert_eq!(
            sweeps("--grid acceptance,all --both"),
            [
                "nvidia-h200-acceptance-f16.json: 6",
                "nvidia-h200-short-f16.json: 20",
                "nvidia-h200-decode-bf16.json: 11",
                "nvidia-h200-paged-bf16.json: 15",
                "nvidia-h200-packed-bf16.json: 8",
                "nvidia-h200-windows-bf16.json: 7",
                "nvidia-h200-widths-bf16.json: 8",
                "nvidia-h200-models-bf16.json: 35",
                "nvidia-h200-targets-bf16.json: 42",
            ]
        );
    }
}
