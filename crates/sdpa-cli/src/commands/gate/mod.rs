//! `sdpa gate`: everything a generation must pass, in order, until the first step that fails.

mod accept;
mod watch;

use std::cell::{OnceCell, RefCell};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use harness::case::Case;
use harness::mutants;
use sdpa::generations;
use sdpa_bench::timing::{self, Grid, Options, Record, Shape};
use sdpa_cli::files;
use sdpa_cli::gate::{self, GateRecord, Outcome as Found, Status, StepRecord, Verdict};
use sdpa_core::{Attention, Device, DeviceKind};
use sdpa_toolchain::{KernelTexts, ToolchainError, write_whole};

use super::bench::parent_of;
use super::bench::sitting::Sitting;
use super::{
    Outcome, acceptance, generations_or_all, keeps_time, kernel_texts, kernel_texts_of_mutants, kernel_texts_or_packed,
    open, spinner, subject,
};

/// Run everything a generation must pass, in order, until the first step that fails
///
/// It compiles; is right on the acceptance cases, on a real model's tensors and in random cases of every property; has no
/// race; is reached by the trials to the last line; would not pass with a barrier missing or a statement changed; keeps its budget without a spill; and is faster than its parent. The first
/// failure ends it with the next thing to look at. Without a GPU the kernels run on the interpreter and speed is not
/// measured; without ptxas, resources are not.
///
/// A kernel that is newer than its packed PTX is compiled and judged as it is on disk. `--watch` judges it at every save.
///
/// Exits 0 if every step passed, 1 if one failed, 3 if none failed and some could not be run here, 2 on bad input and where
/// an edited kernel cannot be compiled. What was found is kept in results/gate/ID.json.
#[derive(clap::Args, Debug)]
pub(crate) struct Gate {
    /// Which generation, or which mutant, to see it fail; several after one another
    #[arg(value_name = "ID", required_unless_present = "only")]
    generations: Vec<String>,
    /// The acceptance cases alone, in one table of all these generations: right, then how fast, and within budget
    #[arg(long, value_enum, value_name = "STEP")]
    only: Option<Only>,
    /// Figures to compare the acceptance table with, as `sdpa bench --json` or bench/peers.py wrote them
    #[arg(long, value_name = "FILE", requires = "only")]
    baseline: Option<PathBuf>,
    /// Where to be faster than the parent, instead of the acceptance shapes, or those of short sequences or of decoding for
    /// a generation that declines them; may be given several times
    #[arg(long = "shape", value_name = "B,H,L,d[,Hkv][,Lq]")]
    shapes: Vec<Shape>,
    /// Random cases for the comparison with the oracle; a quarter of them for each other property
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    cases: u32,
    /// Which random cases, and which kernels and statements are mutated; others in every run by default
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Schedules a shape, under the interpreter's checks
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    schedules: u64,
    /// Removals of guards to try in each kernel that is mutated, drawn by the seed; they are counted and nothing more
    #[arg(long, value_name = "N", default_value_t = 8)]
    guards: usize,
    /// How many of its kernels to mutate, drawn by the seed; or `all`
    #[arg(long, value_name = "N", default_value = "1", value_parser = count_or_all)]
    mutated: usize,
    /// Ask every step, whatever failed before it
    #[arg(long)]
    keep_going: bool,
    /// Run again whenever a kernel's file is saved
    #[arg(long, conflicts_with = "only")]
    watch: bool,
    /// If no step fails: pack the PTX, show how costs, plans and counters differ from those accepted before, and accept them
    #[arg(long, conflicts_with = "only")]
    accept: bool,
    /// Changes to the first kernel's statements to try, drawn by the seed
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..))]
    mutations: u64,
    /// Begin no further change after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    mutation_seconds: u64,
    /// The folder that gets gate/ID.json
    #[arg(long, value_name = "DIR", default_value = "results")]
    results: PathBuf,
}

/// `all`, or how many.
fn count_or_all(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        number => match number.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err("a number from 1 on, or `all`".to_owned()),
        },
    }
}

/// A step that has a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Only {
    /// (1,8,512,64), (2,8,2048,64) and (2,8,2048,128), each with and without a causal mask; shorter on the interpreter
    Acceptance,
}

/// One question, put when its turn comes.
type Question<'a> = Box<dyn Fn(gate::Progress<'_>) -> Found + 'a>;

impl Gate {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        if let Some(Only::Acceptance) = self.only {
            let generations = generations_or_all(&self.generations)?;
            let baseline = self.baseline.as_deref().map(Record::read).transpose()?;
            let device = open(out)?;
            let texts = kernel_texts_or_packed(&generations)?;
            texts.install(&*device)?;
            return acceptance::run(out, &*device, &generations, baseline, &texts);
        }
        let generations = self.generations.iter().map(|id| subject(id)).collect::<Result<Vec<_>, _>>()?;
        if !self.results.is_dir() {
            return Err(files::FileError::NoFolder(self.results.clone()).into());
        }
        if self.watch {
            return watch::watch(out, &generations);
        }
        let device = open(out)?;
        // Speed is asked last: what cannot be asked is told first.
        for generation in generations.iter().filter(|_| !self.shapes.is_empty()) {
            if gate::speed_shapes(&*device, *generation, &self.shapes).is_empty() {
                let id = generation.generation().id;
                return Err(format!("{id} takes none of the shapes of --shape on this device").into());
            }
        }
        let mut verdicts = Vec::new();
        for generation in generations {
            verdicts.push(self.judge(out, generation, &*device)?);
        }
        Ok(ExitCode::from(Verdict::worst(verdicts).exit_code()))
    }

    /// All steps of one generation.
    fn judge(
        &self,
        out: &mut dyn Write,
        generation: &'static dyn Attention,
        device: &dyn Device,
    ) -> Result<Verdict, Box<dyn std::error::Error>> {
        let who = generation.generation();
        let from = who.parent.map(|parent| format!(", from {parent}")).unwrap_or_default();
        writeln!(out, "gate {}: {}{from}", who.id, who.title)?;
        let compiled = match kernel_texts(&[generation]) {
            Err(missing @ (ToolchainError::NoCompiler { .. } | ToolchainError::NoHeaders { .. })) => {
                return Err(format!(
                    "{0}: kernels/{1} is newer than its packed PTX, which the gate does not judge; {missing}",
                    who.id,
                    who.specialisations.first().map_or("", |kernel| kernel.source),
                )
                .into());
            }
            found => found,
        };
        // They include its kernel. Compiled when they are asked for, since the first verdict does not need them.
        let mutants: Vec<&dyn Attention> = mutants::ALL
            .iter()
            .filter(|mutant| mutant.generation().parent == Some(who.id))
            .map(|mutant| mutant as &dyn Attention)
            .collect();
        let with_mutants = OnceCell::new();
        let packed = KernelTexts::packed();
        let texts = compiled.as_ref().unwrap_or(&packed);
        texts.install(device)?;

        let mut steps: Vec<StepRecord> = Vec::new();
        let and_mutants = || -> &Result<KernelTexts, ToolchainError> {
            with_mutants.get_or_init(|| Ok(kernel_texts_of_mutants(&mutants)?.and(texts)))
        };
        for (name, question) in self.questions(generation, device, &compiled, texts, &and_mutants) {
            let started = Instant::now();
            let failed = |step: &StepRecord| step.status == Status::Failed;
            // A kernel that does not compile answers no other question.
            let is_over = steps.first().is_some_and(failed) || (!self.keep_going && steps.iter().any(failed));
            let found = match is_over {
                true => Found { status: Status::NotReached, detail: String::new(), look_at: None },
                false => {
                    let bar = spinner(name);
                    let found = question(&|doing| bar.set_message(doing));
                    bar.finish_and_clear();
                    found
                }
            };
            let Found { status, detail, look_at } = found;
            let is_newer = who.specialisations.iter().any(|kernel| texts.is_compiled(kernel));
            let edited = (status == Status::Failed).then(|| gate::what_changed(who, is_newer)).flatten();
            let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
            let step = StepRecord { name: name.to_owned(), status, detail, edited, look_at, seconds };
            if status != Status::NotReached {
                write!(out, "{}", gate::render_line(steps.len() + 1, &step))?;
                out.flush()?;
            }
            steps.push(step);
        }
        let verdict = self.conclude(out, generation, device, texts, steps)?;
        if self.accept && verdict != Verdict::Failed {
            let judged: Vec<&dyn Attention> =
                std::iter::once(generation as &dyn Attention).chain(mutants.iter().copied()).collect();
            match and_mutants() {
                Ok(texts) => accept::accept(out, generation, &judged, texts)?,
                Err(error) => return Err(error.to_string().into()),
            }
        } else if self.accept {
            writeln!(out, "nothing is accepted of a generation that fails")?;
        }
        Ok(verdict)
    }

    fn questions<'a>(
        &'a self,
        generation: &'static dyn Attention,
        device: &'a dyn Device,
        compiled: &'a Result<KernelTexts, ToolchainError>,
        texts: &'a KernelTexts,
        and_mutants: &'a dyn Fn() -> &'a Result<KernelTexts, ToolchainError>,
    ) -> Vec<(&'static str, Question<'a>)> {
        let seed =
            self.seed.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs());
        // What `races` ran is what `coverage` looks at, and what mutations are tried on.
        let seen: Rc<RefCell<gate::Seen>> = Rc::default();
        let mut questions: Vec<(&'static str, Question<'a>)> = vec![
            ("compiles", Box::new(|_| gate::compiles(generation, compiled))),
            (
                "acceptance",
                Box::new(|progress| {
                    let explain = |case: &Case| gate::findings(generation, case, texts);
                    gate::acceptance(device, generation, &explain, progress)
                }),
            ),
            ("real input", Box::new(|_| gate::real_input(device, generation))),
            (
                "properties",
                Box::new(move |progress| {
                    let several = (device.kind() == DeviceKind::Interpreter).then_some(texts);
                    gate::properties(device, generation, self.cases, seed, several, progress)
                }),
            ),
            (
                "races",
                Box::new({
                    let seen = Rc::clone(&seen);
                    move |progress| gate::races(generation, self.schedules, texts, &seen, progress)
                }),
            ),
            (
                "coverage",
                Box::new({
                    let seen = Rc::clone(&seen);
                    move |_| gate::coverage(generation, &seen.borrow().executed, texts)
                }),
            ),
        ];
        if device.kind() == DeviceKind::Cuda {
            questions.push(("sanitizer", Box::new(|progress| gate::sanitizer(generation, device, progress))));
        }
        let sample = gate::Sample { kernels: self.mutated, guards: self.guards, seed };
        questions.push((
            "mutants",
            Box::new({
                let seen = Rc::clone(&seen);
                move |progress| {
                    progress("compiling hand-written mutants".to_owned());
                    gate::mutants(generation, sample, and_mutants(), &seen.borrow().first_runs, progress)
                }
            }),
        ));
        let mutations = usize::try_from(self.mutations).unwrap_or(usize::MAX);
        let time_limit = Duration::from_secs(self.mutation_seconds);
        questions.push((
            "mutation",
            Box::new(move |progress| {
                gate::mutation(generation, mutations, seed, time_limit, texts, &seen.borrow().first_runs, progress)
            }),
        ));
        questions.push((
            "resources",
            Box::new(|progress| {
                progress("asking for registers and shared memory".to_owned());
                let found = super::resources::measure(&[generation.generation().into()], texts)
                    .map_err(|error| error.to_string());
                gate::resources(generation, found)
            }),
        ));
        questions.push(("speed", Box::new(|progress| self.speed(device, generation, progress))));
        questions
    }

    fn speed(&self, device: &dyn Device, generation: &'static dyn Attention, progress: gate::Progress<'_>) -> Found {
        let id = generation.generation().id;
        if parent_of(id).is_none() {
            return gate::judge_speed(id, &[], &parent_of);
        }
        if !keeps_time(device) {
            return Found::not_run("not measured: no GPU");
        }
        let takes = |shapes: &[Shape]| gate::speed_shapes(device, generation, shapes);
        let asked = match self.shapes.as_slice() {
            // Whoever declines the gate's shapes is made for others.
            [] => Grid::ALL.map(Grid::shapes).iter().map(|shapes| takes(shapes)).find(|asked| !asked.is_empty()),
            shapes => Some(takes(shapes)),
        };
        let mut problems = Vec::new();
        for problem in asked.unwrap_or_default() {
            progress(format!("timing {problem}"));
            let parents = std::iter::successors(parent_of(id), |id| parent_of(id)).take(generations::ALL.len());
            let mut ancestors = parents.filter_map(generations::find);
            let ancestor = ancestors.find(|ancestor| ancestor.plan(&problem, device.limits()).is_ok());
            let contenders: Vec<&'static dyn Attention> = ancestor.into_iter().chain([generation]).collect();
            let sitting = Sitting {
                device,
                peers: None,
                case: &Case::new(problem.clone()),
                regimes: &[Options::default()],
                cold: false,
                meter: None,
                ceilings: &[],
                baseline: None,
                everybody: true,
            };
            let mut record = Record::default();
            match sitting.run(&mut std::io::sink(), &contenders, &mut record) {
                Ok(true) => problems.push(record.figures),
                Ok(false) => {
                    let wrong: Vec<String> = record.absent.into_iter().map(|absent| absent.reason).collect();
                    return Found {
                        status: Status::Failed,
                        detail: format!("wrong on {problem}\n{}", wrong.join("\n")),
                        look_at: Some("what is special about this size: no case before had it".to_owned()),
                    };
                }
                Err(error) => return Found::not_run(&format!("not measured on {problem}: {error}")),
            }
        }
        gate::judge_speed(id, &problems, &parent_of)
    }

    fn conclude(
        &self,
        out: &mut dyn Write,
        generation: &dyn Attention,
        device: &dyn Device,
        texts: &KernelTexts,
        steps: Vec<StepRecord>,
    ) -> Result<Verdict, Box<dyn std::error::Error>> {
        let who = generation.generation();
        let verdict = Verdict::of(&steps);
        let names = |status| {
            let names = steps.iter().filter(|step| step.status == status).map(|step| step.name.as_str());
            names.collect::<Vec<_>>().join(", ")
        };
        let said = match verdict {
            Verdict::Passed => "passed".to_owned(),
            Verdict::Failed => format!("failed: {}", names(Status::Failed)),
            Verdict::Incomplete => format!("nothing failed; not run here: {}", names(Status::NotRun)),
        };
        let kernels = who.specialisations.iter().map(|kernel| Ok((kernel.to_string(), texts.fingerprint(kernel)?)));
        let record = GateRecord {
            generation: who.id.to_owned(),
            title: who.title.to_owned(),
            parent: who.parent.map(str::to_owned),
            verdict,
            device: device.name(),
            environment: timing::environment(device),
            kernels: kernels.collect::<Result<_, sdpa_core::Error>>()?,
            steps,
        };
        let folder = self.results.join("gate");
        std::fs::create_dir_all(&folder).map_err(|source| files::FileError::System { path: folder.clone(), source })?;
        let path = folder.join(format!("{}.json", who.id));
        write_whole(&path, (serde_json::to_string_pretty(&record)? + "\n").as_bytes())?;
        writeln!(out, "gate {}: {said} (wrote {})", who.id, path.display())?;
        Ok(verdict)
    }
}
