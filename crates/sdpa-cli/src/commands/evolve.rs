//! `sdpa evolve`: candidates from a generator, judged one after the other; and what its record tells.

use std::collections::BTreeMap;
use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use harness::case::Case;
use sdpa_bench::timing::{Shape, environment};
use sdpa_cli::evolve::{
    self, Effort, Entry, Generator, Genome, Guide, Header, Job, JobNiche, Judge, Kind, Lineage, NICHES, Niche, Plan,
    Population, Run, Samples, judge,
};
use sdpa_core::{Attention, DeviceChoice, DeviceKind, DeviceLimits, Dtype, Interpreter, Mask};
use sdpa_toolchain::{Checkout, Sources, write_whole};

use super::{FAILED, Outcome, generation};

/// Let a generator propose candidates of a generation's kernel, judge each, and keep the lineage
///
/// A generator is a program: it reads a question from its standard input, one line of JSON, and writes its answer to standard
/// output, one line of JSON; AGENTS.md has the fields. `numbers` and `random` are built in and change the generation's tunable numbers;
/// `replay FILE` proposes the candidates of another lineage again.
///
/// Each candidate is compiled and judged in a process of its own, until the first step that fails: laws, budget, right, hidden
/// problems, races, mutants, mutation, and on a GPU times in turns with its parent, after which it must be right again. Without a GPU
/// what is right is ranked by the instructions that it issues, a guess.
///
/// The lineage is appended to. The same command goes on where it was interrupted; the same seed gives the same lineage.
#[derive(clap::Args, Debug)]
pub(crate) struct Evolve {
    /// Which generation
    #[arg(value_name = "ID")]
    generation: String,
    /// `numbers`, `random`, `replay FILE`, or a command
    #[arg(long, value_name = "GENERATOR", default_value = "numbers")]
    generator: Kind,
    /// What the generator is told: `free` the task and the parent, `insight` what was learned and what failed, too, `full` also the
    /// best candidates
    #[arg(long, value_name = "GUIDE", default_value = "full")]
    guide: Guide,
    /// Who becomes a parent: `best`, one of the best K (`elite:K`), or always the `first`, as in best-of-N
    #[arg(long, value_name = "POPULATION", default_value = "best")]
    population: Population,
    /// For these kinds of problems: short, causal, long, decoding; those that the generation takes by default
    #[arg(long = "niche", value_name = "NAME,…", value_delimiter = ',')]
    niches: Vec<String>,
    /// For this problem; may be given several times
    #[arg(long = "case", value_name = "CASE", conflicts_with_all = ["niches", "shapes"])]
    cases: Vec<String>,
    /// For this shape, f16, with and without a causal mask; may be given several times
    #[arg(long = "shape", value_name = "B,H,L,d[,Hkv][,Lq]", conflicts_with = "niches")]
    shapes: Vec<Shape>,
    /// Judge so many candidates, those of the lineage counted
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    candidates: u32,
    /// End after so many minutes of a GPU
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<f64>,
    /// End with the first candidate that is right: for a kernel that is not
    #[arg(long)]
    until_right: bool,
    /// Begin with this file as the generation's kernel
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// A number of the kernels that may be another one, beside the tunable ones
    #[arg(long = "define", value_name = "NAME=VALUE,…", value_parser = values)]
    defines: Vec<(String, Vec<String>)>,
    /// Decides everything that is drawn
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Candidates that are asked for before any of them is judged
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Candidates to judge side by side, one of them at a time on the GPU; as many as there are cores by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Hidden problems for each candidate
    #[arg(long, value_name = "N", default_value_t = 12)]
    hidden: u16,
    /// Changed statements to try in each candidate
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..))]
    mutations: u16,
    /// Samples of each contender on a GPU
    #[arg(long, value_name = "N", default_value_t = 11, value_parser = clap::value_parser!(u16).range(3..))]
    samples: u16,
    /// Reject a candidate that is not judged after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// The lineage; results/evolve/ID.jsonl by default
    #[arg(long, value_name = "FILE")]
    lineage: Option<PathBuf>,
}

/// `TILE_KEYS=32,64`.
fn values(text: &str) -> Result<(String, Vec<String>), String> {
    let error = || format!("{text:?} is no definition: it is NAME=VALUE,… as in TILE_KEYS=32,64");
    let (name, values) = text.split_once('=').ok_or_else(error)?;
    let values: Vec<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
    match name.is_empty() || values.iter().any(String::is_empty) {
        true => Err(error()),
        false => Ok((name.to_owned(), values)),
    }
}

impl Evolve {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generation = generation(&self.generation)?;
        let checkout = Checkout::find()?;
        let on_gpu = DeviceChoice::from_env()?.expected_kind() == DeviceKind::Cuda;
        if !on_gpu && self.minutes.is_some() {
            return Err("--minutes counts the time of a GPU, and the interpreter takes none: use --candidates".into());
        }
        let device = match on_gpu {
            true => sdpa_core::open(DeviceChoice::from_env()?)?.name(),
            false => "PTX interpreter".to_owned(),
        };
        writeln!(out, "device: {device}")?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.jobs.map_or(cores, usize::from).min(self.batch.into());
        let program = std::env::current_exe()?;
        let judges = Judge::new(&program, &checkout, Duration::from_secs(self.limit.into()))?.on_cores(cores / workers);
        let niches = self.niches(generation)?;
        let header = self.header(generation, &niches, judges.sources(), device)?;
        let path = self.lineage.clone().unwrap_or_else(|| lineages().join(format!("{}.jsonl", self.generation)));
        let mut lineage = Lineage::open(&path, header)?;
        match lineage.entries.len() {
            0 => writeln!(out, "lineage: {}", path.display())?,
            known => writeln!(out, "lineage: {}, {known} candidates known", path.display())?,
        }
        out.flush()?;
        let mut numbers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for tunable in generation.tunables() {
            numbers.insert(tunable.define.to_owned(), tunable.values.iter().map(|value| (*value).to_owned()).collect());
        }
        numbers.extend(self.defines.iter().cloned());
        let mut generator = Generator::start(&self.generator, &std::env::current_dir()?)?;
        let said = Mutex::new(out);
        let run = Run {
            plan: Plan {
                candidates: self.candidates as usize,
                minutes: self.minutes,
                workers,
                until_right: self.until_right,
                confirm: Samples { count: 31, milliseconds: 5 },
            },
            generation,
            niches,
            numbers,
            sources: judges.sources(),
            judging: &|job| {
                let started = Instant::now();
                let judged = judges.judge(job);
                eprintln!("{} judged in {:.1} s", job.id, started.elapsed().as_secs_f64());
                judged
            },
            recorded: &|entry| {
                if let Ok(mut out) = said.lock() {
                    // A pipe whose reader has gone ends nothing: the lineage is what counts.
                    let _ = writeln!(out, "{}", evolve::headline(entry)).and_then(|()| out.flush());
                }
            },
        };
        run.go(&mut lineage, &mut generator)?;
        let out = said.into_inner().map_err(|_| "a thread that printed panicked")?;
        let right = lineage.entries.iter().filter(|entry| entry.standing.is_right()).count();
        let others = lineage.entries.len().saturating_sub(1);
        writeln!(out, "{others} candidates and the first, {right} of them right: `sdpa lineage {}`", path.display())?;
        // A kernel that should be mended and is not.
        let missed = self.until_right && right == 0;
        Ok(if missed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    /// The problems: as asked, else every kind that the generation takes.
    fn niches(&self, generation: &'static dyn Attention) -> Result<Vec<Niche>, Box<dyn std::error::Error>> {
        let takes = |niche: &Niche| generation.plan(&niche.timed.problem, &DeviceLimits::H200);
        let mut niches = Vec::new();
        for name in &self.niches {
            niches.push(Niche::named(name, generation)?);
        }
        for (index, text) in self.cases.iter().enumerate() {
            let case: Case = text.parse().map_err(|error| format!("{text}: {error}"))?;
            niches.push(Niche::of_case(&format!("case {}", index + 1), case, generation));
        }
        for shape in &self.shapes {
            for mask in [Mask::Full, Mask::Causal] {
                let problem = shape.problem(Dtype::F16, mask)?;
                niches.push(Niche::of_case(&problem.to_string(), Case::new(problem), generation));
            }
        }
        if niches.is_empty() {
            let all = NICHES.map(|(name, _)| Niche::named(name, generation));
            let all: Vec<Niche> = all.into_iter().collect::<Result<_, _>>()?;
            niches.extend(all.into_iter().filter(|niche| takes(niche).is_ok()));
        }
        if let Some((niche, reason)) = niches.iter().find_map(|niche| Some((niche, takes(niche).err()?))) {
            return Err(format!("niche {}: {reason}", niche.name).into());
        }
        match niches.is_empty() {
            true => Err(format!("{} takes none of the usual problems: name one with --case", self.generation).into()),
            false => Ok(niches),
        }
    }

    fn header(
        &self,
        generation: &dyn Attention,
        niches: &[Niche],
        sources: &Sources,
        device: String,
    ) -> Result<Header, Box<dyn std::error::Error>> {
        let who = generation.generation();
        let mut first = Genome::default();
        if let Some(path) = &self.from {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
            let kernel = who.specialisations.first().map_or("", |kernel| kernel.source);
            if sources.get(kernel) != Some(text.as_str()) {
                first.files.insert(kernel.to_owned(), text);
            }
        }
        let niche = |niche: &Niche| JobNiche { name: niche.name.clone(), case: niche.timed.to_string() };
        let commit =
            environment(&Interpreter::new()).get("commit").and_then(|commit| commit.as_str().map(str::to_owned));
        Ok(Header {
            generation: who.id.to_owned(),
            first,
            generator: self.generator.to_string(),
            guide: self.guide,
            population: self.population,
            niches: niches.iter().map(niche).collect(),
            seed: self.seed,
            batch: self.batch.into(),
            effort: Effort {
                hidden: self.hidden.into(),
                mutations: self.mutations.into(),
                samples: Samples { count: self.samples.into(), milliseconds: 5 },
            },
            device,
            commit,
        })
    }
}

/// Where lineages are kept.
fn lineages() -> PathBuf {
    PathBuf::from("results/evolve")
}

/// A lineage by its file, or the only one that there is.
fn lineage(path: Option<&Path>) -> Result<Lineage, Box<dyn std::error::Error>> {
    if let Some(path) = path {
        return Ok(Lineage::read(path)?);
    }
    let folder = lineages();
    let files = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|name| name == "jsonl")).collect();
    files.sort();
    match files.as_slice() {
        [] => {
            Err(format!("no lineage in {}: `sdpa evolve ID` makes one, --lineage FILE names another", folder.display())
                .into())
        }
        [only] => Ok(Lineage::read(only)?),
        several => {
            let names: Vec<String> = several.iter().map(|path| path.display().to_string()).collect();
            Err(format!("which lineage? Name one with --lineage: {}", names.join(", ")).into())
        }
    }
}

/// The candidate with an id, or an error that says which there are.
fn candidate<'l>(lineage: &'l Lineage, id: &str) -> Result<&'l Entry, String> {
    let last = lineage.entries.last().map_or("none", |entry| entry.id.as_str());
    let unknown = || format!("{} has no candidate `{id}`: there are c0 to {last}", lineage.path().display());
    lineage.find(id).ok_or_else(unknown)
}

/// Draw lineages: the tree of one with its insights, several side by side
///
/// Of several files it says how good the best was after as many candidates: evolution beside best-of-N (`--population first`) and
/// random search (`--generator random`) at the same budget.
#[derive(clap::Args, Debug)]
pub(crate) struct ShowLineage {
    /// Which files; the only one of results/evolve by default
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the tree as a picture, too
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write JSON for programs: the insights, with what supports and what contradicts them
    #[arg(long)]
    insights: bool,
}

impl ShowLineage {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let lineages = match self.files.as_slice() {
            [] => vec![lineage(None)?],
            files => files.iter().map(|path| lineage(Some(path))).collect::<Result<Vec<_>, _>>()?,
        };
        match lineages.as_slice() {
            [one] if self.insights => {
                writeln!(out, "{}", serde_json::to_string_pretty(&evolve::insights(&one.entries))?)?;
            }
            [one] => write!(out, "{}", evolve::tree(one))?,
            several => write!(out, "{}", evolve::compared(several))?,
        }
        if let (Some(path), Some(first)) = (&self.svg, lineages.first()) {
            write_whole(path, evolve::svg(first).as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Say why a candidate is where it is: what it changed beside how counts, costs and times moved
#[derive(clap::Args, Debug)]
pub(crate) struct Why {
    /// Which candidate
    #[arg(value_name = "ID")]
    id: String,
    /// The lineage; the only one of results/evolve by default
    #[arg(long, value_name = "FILE")]
    lineage: Option<PathBuf>,
}

impl Why {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let lineage = lineage(self.lineage.as_deref())?;
        let sources = Checkout::find()?.sources()?;
        write!(out, "{}", evolve::why(&lineage, candidate(&lineage, &self.id)?, &sources))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Judge a candidate of a lineage once more
///
/// Exits 1 if the judge does not say what it said before. Times are compared by their verdicts.
#[derive(clap::Args, Debug)]
pub(crate) struct Replay {
    /// Which candidate
    #[arg(value_name = "ID")]
    id: String,
    /// The lineage; the only one of results/evolve by default
    #[arg(long, value_name = "FILE")]
    lineage: Option<PathBuf>,
    /// Write the candidate's kernel here
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
}

impl Replay {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let lineage = lineage(self.lineage.as_deref())?;
        let entry = candidate(&lineage, &self.id)?;
        let judges = Judge::new(&std::env::current_exe()?, &Checkout::find()?, Duration::from_secs(3600))?;
        if let Some(path) = &self.kernel {
            let who = generation(&lineage.header.generation)?.generation();
            let kernel = who.specialisations.first().map_or("", |kernel| kernel.source);
            write_whole(path, entry.genome.text(kernel, judges.sources()).unwrap_or_default().as_bytes())?;
        }
        let Some(job) = lineage.job_of(entry) else {
            writeln!(out, "{}: nothing to judge, since it is no candidate: {}", entry.id, evolve::headline(entry))?;
            return Ok(ExitCode::SUCCESS);
        };
        let judged = judges.judge(&job)?;
        let differences = evolve::differences(&entry.judged, &judged);
        writeln!(out, "{}", evolve::headline(entry))?;
        if differences.is_empty() {
            writeln!(out, "the same again: {} steps, {} kernels", judged.steps.len(), judged.kernels.len())?;
            return Ok(ExitCode::SUCCESS);
        }
        for difference in differences {
            writeln!(out, "not the same: {difference}")?;
        }
        Ok(ExitCode::from(FAILED))
    }
}

/// Judge one candidate, a line of JSON on standard input: for `sdpa evolve`
#[derive(clap::Args, Debug)]
pub(crate) struct JudgeCandidate {}

impl JudgeCandidate {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        let job: Job = serde_json::from_str(&text)?;
        writeln!(out, "{}", serde_json::to_string(&judge(&job)?)?)?;
        Ok(ExitCode::SUCCESS)
    }
}
