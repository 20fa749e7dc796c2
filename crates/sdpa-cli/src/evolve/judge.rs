//! The judge: everything that a candidate must pass, until the first step that fails. It runs in a process of its own, in a folder that
//! holds the candidate's kernels, so that findings name the candidate's lines and a lost device is lost alone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use harness::case::Case;
use harness::check::{self, Checked, Trial, What, trials};
use harness::counters;
use harness::first_runs::FirstRuns;
use harness::strategies::{Size, cases_with};
use harness::verify;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sdpa::generations;
use sdpa_core::{Attention, Device, DeviceChoice, DeviceKind, DeviceLimits, LaunchPlan, Specialisation};
use sdpa_toolchain::resources::{self, Cost};
use sdpa_toolchain::{Checkout, KernelTexts, Nvrtc, Sources, ToolchainError, find_tool};
use serde::{Deserialize, Serialize};

use super::candidate::Genome;
use super::laws::broken_law;
use super::lineage::{Standing, standing};
use super::niche::Niche;
use super::timed::{self, Contenders, Samples, Times};
use super::variant::Variant;
use crate::findings::Entry;
use crate::gate::{self, Status};

/// Findings that are kept of a candidate.
const KEPT_FINDINGS: usize = 4;

/// What to judge, as the process of the judge reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The candidate's id.
    pub id: String,
    /// The generation that it is one of.
    pub generation: String,
    /// What it is made of.
    pub genome: Genome,
    /// What its parent is made of; none for the first.
    pub parent: Option<Genome>,
    /// What the first of the lineage is made of.
    pub first: Genome,
    /// The problems.
    pub niches: Vec<JobNiche>,
    /// Decides which hidden problems and mutations are drawn.
    pub seed: u64,
    /// How much of everything.
    pub effort: Effort,
    /// A file that the judge makes while it uses the GPU: of several judges one has its turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turn: Option<PathBuf>,
}

/// A niche as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobNiche {
    /// Its name.
    pub name: String,
    /// The case that is timed.
    pub case: String,
}

/// How thoroughly a candidate is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effort {
    /// Hidden problems.
    pub hidden: usize,
    /// Changed statements to try.
    pub mutations: usize,
    /// How often it is timed on a GPU.
    pub samples: Samples,
}

impl Default for Effort {
    fn default() -> Self {
        Self { hidden: 12, mutations: 12, samples: Samples { count: 11, milliseconds: 5 } }
    }
}

/// A step and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// The headline if it passed, the whole story if it failed.
    pub detail: String,
    /// The next thing to look at, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_at: Option<String>,
}

/// What the judge says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// What it ran on.
    pub device: String,
    /// The steps that were asked.
    pub steps: Vec<Step>,
    /// The first findings of the step that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Entry>,
    /// Different findings of the step that failed, kept or not.
    #[serde(default)]
    pub faults: usize,
    /// Fingerprint of each kernel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernels: BTreeMap<String, String>,
    /// What each kernel costs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
    /// Niche → figure → count, as the interpreter counts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
    /// Niche → times, on a GPU.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub times: BTreeMap<String, Times>,
    /// How long a GPU was held.
    #[serde(default)]
    pub device_seconds: f64,
}

impl Judged {
    /// The step that failed.
    pub fn failed(&self) -> Option<&Step> {
        self.steps.iter().find(|step| step.status == Status::Failed)
    }

    /// Steps that passed: how far it came.
    pub fn passed(&self) -> usize {
        self.steps.iter().filter(|step| step.status == Status::Passed).count()
    }

    /// A candidate that failed before it was judged.
    pub fn refused(step: &str, detail: String, look_at: &str) -> Self {
        let look_at = (!look_at.is_empty()).then(|| look_at.to_owned());
        let step = Step { name: step.to_owned(), status: Status::Failed, detail, look_at };
        Self { steps: vec![step], ..Self::default() }
    }

    fn push(&mut self, name: &str, outcome: gate::Outcome) -> bool {
        let gate::Outcome { status, detail, look_at } = outcome;
        self.steps.push(Step { name: name.to_owned(), status, detail, look_at });
        status != Status::Failed
    }
}

/// In what two judgements of the same candidate differ; times count by their verdicts, and costs and counts as they are.
pub fn differences(before: &Judged, now: &Judged) -> Vec<String> {
    let mut found = Vec::new();
    if before.device != now.device {
        found.push(format!("judged on {}, before on {}", now.device, before.device));
    }
    for index in 0..before.steps.len().max(now.steps.len()) {
        let text = |judged: &Judged| match judged.steps.get(index) {
            Some(step) => format!("{} {}", step.name, format!("{:?}", step.status).to_lowercase()),
            None => "no further step".to_owned(),
        };
        if text(before) != text(now) {
            found.push(format!("{}, before {}", text(now), text(before)));
        }
    }
    if before.kernels != now.kernels {
        found.push("its kernels are compiled from other text: the checkout's headers have changed since".to_owned());
    }
    if before.counters != now.counters {
        found.push("its counts".to_owned());
    }
    let kinds = |judged: &Judged| judged.findings.iter().map(|entry| entry.kind.clone()).collect::<Vec<_>>();
    if kinds(before) != kinds(now) {
        found.push(format!("found {:?}, before {:?}", kinds(now), kinds(before)));
    }
    for (niche, times) in &before.times {
        let again = now.times.get(niche).map(|times| times.verdict);
        if again != Some(times.verdict) {
            let again = again.map_or("not timed".to_owned(), |verdict| verdict.to_string());
            found.push(format!("niche {niche}: {again}, before {}", times.verdict));
        }
    }
    found
}

fn passed(detail: String) -> gate::Outcome {
    gate::Outcome { status: Status::Passed, detail, look_at: None }
}

fn failed(detail: String, look_at: &str) -> gate::Outcome {
    gate::Outcome { status: Status::Failed, detail, look_at: Some(look_at.to_owned()) }
}

/// Judges a candidate. `Err` is what says nothing of the candidate: no compiler, no such generation, a broken machine.
///
/// # Errors
/// In words.
pub fn judge(job: &Job) -> Result<Judged, String> {
    let generation = generations::find(&job.generation).ok_or_else(|| format!("no generation `{}`", job.generation))?;
    let choice = DeviceChoice::from_env().map_err(|error| error.to_string())?;
    let checkout = Checkout::find().map_err(|error| error.to_string())?;
    let on_disk = checkout.sources().map_err(|error| error.to_string())?;
    let nvrtc = Nvrtc::find(&checkout).map_err(|error| error.to_string())?;
    let keeps_time = choice.expected_kind() == DeviceKind::Cuda;
    let gpu = if keeps_time { Some(sdpa_core::open(choice).map_err(|error| error.to_string())?) } else { None };
    let limits = gpu.as_ref().map_or(&DeviceLimits::H200, |device| device.limits()).clone();
    let niches: Vec<Niche> = job
        .niches
        .iter()
        .map(|niche| {
            let case = niche.case.parse().map_err(|error| format!("niche {}: {error}", niche.name))?;
            Ok(Niche::of_case(&niche.name, case, generation))
        })
        .collect::<Result<_, String>>()?;
    let place = Place { job, generation, nvrtc: &nvrtc, on_disk: &on_disk, limits: &limits, niches: &niches };
    let mut judged = Judged {
        device: match &gpu {
            Some(device) => device.name(),
            None => "PTX interpreter".to_owned(),
        },
        ..Judged::default()
    };
    if let Some((variant, texts)) = place.as_it_stands(&mut judged)? {
        let mut goes_on = place.right(variant, &texts, &mut judged)
            && place.affordable(variant, &texts, &mut judged)
            && place.right_elsewhere(variant, &texts, &mut judged);
        if let Some(device) = gpu.as_deref().filter(|_| goes_on) {
            let turn =
                job.turn.as_deref().map(Turn::take).transpose().map_err(|error| format!("the GPU's turn: {error}"))?;
            let started = Instant::now();
            goes_on = place.timed(device, variant, &texts, &mut judged)?;
            judged.device_seconds = started.elapsed().as_secs_f64();
            drop(turn);
        }
        // What is not faster becomes no parent, so that the dear steps are spared.
        let is_asked = judged.times.is_empty() || job.parent.is_none() || standing(&judged) == Standing::Faster;
        if goes_on && is_asked {
            goes_on = place.proven(variant, &texts, &mut judged);
        } else if goes_on {
            for name in ["races", "mutants", "mutation"] {
                let detail = "not asked: it is not faster than its parent".to_owned();
                judged.push(name, gate::Outcome { status: Status::NotReached, detail, look_at: None });
            }
        }
        if goes_on {
            place.count(variant, &texts, &mut judged)?;
        }
    }
    Ok(judged)
}

/// The right to use the GPU, as long as it lives.
struct Turn<'a>(&'a Path);

impl<'a> Turn<'a> {
    /// Waits until no other judge has it.
    fn take(file: &'a Path) -> std::io::Result<Self> {
        loop {
            match std::fs::OpenOptions::new().write(true).create_new(true).open(file) {
                Ok(mut opened) => {
                    write!(opened, "{}", std::process::id())?;
                    return Ok(Self(file));
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// What all steps ask of.
struct Place<'a> {
    job: &'a Job,
    generation: &'static dyn Attention,
    nvrtc: &'a Nvrtc,
    on_disk: &'a Sources,
    limits: &'a DeviceLimits,
    niches: &'a [Niche],
}

impl Place<'_> {
    /// A genome as a generation, compiled.
    fn built(&self, id: &str, genome: &Genome) -> Result<Result<(&'static Variant, KernelTexts), String>, String> {
        let variant = match Variant::new(id, self.generation, &genome.defines, self.niches, self.limits) {
            Ok(variant) => variant,
            Err(reason) => return Ok(Err(reason)),
        };
        let sources = genome.sources(self.on_disk);
        match KernelTexts::compiled(variant.generation().specialisations, &sources, self.nvrtc, |_| ()) {
            Ok(texts) => Ok(Ok((variant, texts))),
            Err(ToolchainError::Compile { kernel, log }) => Ok(Err(format!("NVRTC refuses {kernel}\n{}", log.trim()))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What is asked before it runs: `compiles`, `laws`.
    fn as_it_stands(&self, judged: &mut Judged) -> Result<Option<(&'static Variant, KernelTexts)>, String> {
        let (variant, texts) = match self.built(&self.job.id, &self.job.genome)? {
            Ok(built) => built,
            Err(reason) => {
                let look_at =
                    "the first error of the compiler's log; a static_assert says which law of the tiles is broken";
                judged.push("compiles", failed(reason, look_at));
                return Ok(None);
            }
        };
        let kernels = variant.generation().specialisations;
        judged.push("compiles", passed(format!("{} kernels", kernels.len())));
        for kernel in kernels {
            let name = kernel.to_string();
            judged.kernels.insert(name, texts.fingerprint(kernel).map_err(|error| error.to_string())?);
        }
        let text = |kernel| texts.of(kernel).map_err(|error| error.to_string());
        for kernel in kernels {
            if let Some(law) = broken_law(text(kernel)?) {
                let look_at = "a kernel is a function of its tensors: what outlives a call is its output alone";
                judged.push("laws", failed(format!("{law} ({kernel})"), look_at));
                return Ok(None);
            }
        }
        judged.push("laws", passed("no state, no clock, no call out".to_owned()));
        Ok(Some((variant, texts)))
    }

    /// What it costs: `budget`. Asked of what is right, since a kernel whose order is wrong may cost more for that reason alone: ptxas
    /// puts in what it misses.
    fn affordable(&self, variant: &'static Variant, texts: &KernelTexts, judged: &mut Judged) -> bool {
        let found = match find_tool("ptxas") {
            Some(ptxas) => resources::assemble(&ptxas, &[variant.generation().into()], texts, |_| ())
                .map(|costs| ("ptxas".to_owned(), costs))
                .map_err(|error| error.to_string()),
            None => Err("no ptxas".to_owned()),
        };
        judged.costs = found.as_ref().map(|(_, costs)| costs.clone()).unwrap_or_default();
        judged.push("budget", gate::resources(variant, found))
    }

    /// What the interpreter is asked of the run's own problems: `right`.
    fn right(&self, variant: &'static Variant, texts: &KernelTexts, judged: &mut Judged) -> bool {
        let counted: Vec<Trial> = self.niches.iter().map(|niche| niche.counted.clone()).collect();
        for trial in &counted {
            match check::reads_output(variant, trial, texts) {
                Ok(None) => {}
                Ok(Some(checked)) => {
                    return self.found(
                        "right",
                        "reads its output, where the call before has left its own",
                        variant,
                        texts,
                        &checked,
                        judged,
                    );
                }
                Err(failure) => {
                    return judged.push("right", failed(failure.reason.to_string(), failure.hint()));
                }
            }
        }
        if self.check("right", variant, &counted, 2, texts, judged).is_none() {
            return false;
        }
        let as_timed = |niche| wrong_as_timed(niche, self.job.seed, variant, texts, self.limits);
        if let Some(outcome) = self.niches.iter().find_map(as_timed) {
            judged.steps.retain(|step| step.name != "right");
            return judged.push("right", outcome);
        }
        true
    }

    /// What the interpreter is asked of problems that nobody has seen before: `hidden`.
    fn right_elsewhere(&self, variant: &'static Variant, texts: &KernelTexts, judged: &mut Judged) -> bool {
        let hidden = self.hidden(variant);
        if hidden.is_empty() {
            let none = "its kernels take none of the problems that were drawn";
            return judged.push("hidden", gate::Outcome::not_run(none));
        }
        self.check("hidden", variant, &hidden, 1, texts, judged).is_some()
    }

    /// What the interpreter is asked of order, and of itself: `races`, `mutants`, `mutation`.
    fn proven(&self, variant: &'static Variant, texts: &KernelTexts, judged: &mut Judged) -> bool {
        // What the trials execute is known then: no step runs them again to know.
        let Some(first_runs) = self.check("races", variant, &trials(variant), 1, texts, judged) else { return false };
        let seed = self.job.seed;
        let sample = gate::Sample { kernels: 1, guards: 0, seed };
        let both = Ok(texts.clone());
        let asked: [(&str, &dyn Fn() -> gate::Outcome); 2] = [
            ("mutants", &|| {
                let outcome = gate::mutants(variant, sample, &both, &first_runs, &|_| ());
                match outcome.status {
                    Status::Failed => self.needed_elsewhere(variant, sample, &first_runs).unwrap_or(outcome),
                    _ => outcome,
                }
            }),
            ("mutation", &|| gate::mutation_of(variant, self.job.effort.mutations, seed, texts, &first_runs, &|_| ())),
        ];
        asked.iter().all(|(name, ask)| {
            let mut outcome = ask();
            // There is an interpreter everywhere: what it cannot judge is no pass.
            if outcome.status == Status::NotRun {
                outcome.status = Status::Failed;
            }
            // Of these the headline is the same in every run; the rest is for people.
            if outcome.status == Status::Passed {
                outcome.detail = outcome.detail.lines().next().unwrap_or_default().to_owned();
            }
            judged.push(name, outcome)
        })
    }

    /// What nothing notices in the kernels of the run's problems may be what the generation's other kernels are for, compiled from the
    /// candidate's text: a statement that one kernel needs stays in all. `None` if none of them needs it either.
    fn needed_elsewhere(
        &self,
        variant: &'static Variant,
        sample: gate::Sample,
        first_runs: &FirstRuns,
    ) -> Option<gate::Outcome> {
        let Job { id, genome, .. } = self.job;
        let whole = Variant::whole(id, self.generation, &genome.defines, self.limits);
        let kernels = whole.generation().specialisations;
        let texts = KernelTexts::compiled(kernels, &genome.sources(self.on_disk), self.nvrtc, |_| ()).ok()?;
        let own = variant.generation().specialisations;
        let others: Vec<Specialisation> = kernels.iter().filter(|kernel| !own.contains(kernel)).copied().collect();
        let outcome = gate::mutants_of(whole, own, &others, sample, &Ok(texts), first_runs, &|_| ());
        (outcome.status == Status::Passed).then_some(outcome)
    }

    /// One step of trials under the interpreter's checks; what they executed, if nothing was found.
    fn check(
        &self,
        name: &str,
        variant: &'static Variant,
        trials: &[Trial],
        schedules: u64,
        texts: &KernelTexts,
        judged: &mut Judged,
    ) -> Option<FirstRuns> {
        let checked = match check::check(variant, trials, schedules, texts, || ()) {
            Ok(checked) => checked,
            Err(failure) => {
                let reason = format!("the interpreter cannot run it: {}", failure.reason);
                judged.push(name, failed(reason, "the kernel did not run: see the error"));
                return None;
            }
        };
        if checked.faults.is_empty() {
            let Checked { runs, judged: rows, first_runs, .. } = checked;
            judged.push(name, passed(format!("{runs} runs, {rows}, nothing found")));
            return Some(first_runs);
        }
        let kind = match &checked.faults[0].what {
            What::Finding(finding) => finding.kind.name(),
            What::Wrong(_) => "wrong result",
        };
        self.found(name, kind, variant, texts, &checked, judged);
        None
    }

    /// A step that failed by what the interpreter found.
    fn found(
        &self,
        name: &str,
        headline: &str,
        variant: &'static Variant,
        texts: &KernelTexts,
        checked: &Checked,
        judged: &mut Judged,
    ) -> bool {
        let entries = checked.faults.iter().take(KEPT_FINDINGS).map(|fault| Entry::of(&self.job.generation, fault));
        judged.findings = entries.collect();
        judged.faults = checked.faults.len();
        let first = &checked.faults[0];
        let look_at = match &first.what {
            What::Finding(_) => {
                "the two lines named first: what orders one after the other? Ownership beats synchronisation"
            }
            What::Wrong(failure) => failure.hint(),
        };
        let mut story = format!("{headline}\n");
        if let What::Wrong(failure) = &first.what {
            for line in verify::likeness(&texts.interpreter(), &first.trial.subject(variant), &failure.case) {
                story += &format!("looks like {line}\n");
            }
        }
        story += check::render(checked, check::SHOWN).trim_end();
        judged.push(name, failed(story, look_at))
    }

    /// Problems that nobody has seen before: drawn by the run's seed, the candidate's number and its text.
    fn hidden(&self, variant: &'static Variant) -> Vec<Trial> {
        const TRIES: usize = 4000;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.job.seed.to_le_bytes());
        for (byte, letter) in bytes[8..].iter_mut().zip(self.job.genome.fingerprint().bytes()) {
            *byte = letter;
        }
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
        let strategy = cases_with(Size::Small, variant.generation().takes, variant.needs());
        let drawn = RefCell::new(Vec::new());
        for _ in 0..TRIES {
            if drawn.borrow().len() >= self.job.effort.hidden {
                break;
            }
            let Ok(tree) = strategy.new_tree(&mut runner) else { continue };
            let case: Case = tree.current();
            let trial = |multiprocessors| Trial { multiprocessors, ..Trial::new(case.clone()) };
            let taken = [None, Some(1)].map(trial).into_iter().find(|trial| trial.kernels(variant).is_ok());
            drawn.borrow_mut().extend(taken);
        }
        drawn.into_inner()
    }

    /// What it executes on each niche.
    fn count(&self, variant: &'static Variant, texts: &KernelTexts, judged: &mut Judged) -> Result<(), String> {
        for niche in self.niches {
            let subject = niche.counted.subject(variant);
            let counted = counters::count(&subject, &niche.counted.case, texts).map_err(|error| error.to_string())?;
            let figures = counters::figures(&counted.counters);
            let figures = figures.into_iter().map(|figure| (figure.name.trim().to_owned(), figure.count));
            judged.counters.insert(niche.name.clone(), figures.filter(|(_, count)| *count > 0).collect());
        }
        Ok(())
    }

    /// What a GPU is asked: `timed`, `right again`.
    fn timed(
        &self,
        device: &dyn Device,
        variant: &'static Variant,
        texts: &KernelTexts,
        judged: &mut Judged,
    ) -> Result<bool, String> {
        let other = |id: &str, genome: &Genome| -> Result<(&'static Variant, KernelTexts), String> {
            self.built(id, genome)?.map_err(|reason| format!("{id}: {reason}"))
        };
        let first = other("first", &self.job.first)?;
        let parent = match &self.job.parent {
            Some(parent) if *parent != self.job.first => Some(other("parent", parent)?),
            _ => None,
        };
        // Modules that no launch has touched.
        for texts in [Some(texts), Some(&first.1), parent.as_ref().map(|parent| &parent.1)].into_iter().flatten() {
            texts.install(device).map_err(|error| error.to_string())?;
        }
        let contenders = Contenders {
            own: variant,
            parent: parent.as_ref().map(|(parent, _)| *parent as &dyn Attention),
            first: first.0,
        };
        for niche in self.niches {
            match timed::time(device, &contenders, &niche.timed, self.job.effort.samples, self.job.seed) {
                Ok(times) => {
                    judged.times.insert(niche.name.clone(), times);
                }
                Err(timed::Untimed::NotRightAgain { what, failure }) => {
                    judged.push("timed", passed("in turns with its parent".to_owned()));
                    let said = format!("niche {}: {what} is wrong\n{failure}", niche.name);
                    let look_at = "what differs between the first call and the later ones: nothing may";
                    return Ok(judged.push("right again", failed(said, look_at)));
                }
                Err(error @ (timed::Untimed::Wrong(_) | timed::Untimed::BelowFloor { .. })) => {
                    let look_at = "what is special about the problem that is timed";
                    return Ok(judged.push("timed", failed(format!("niche {}: {error}", niche.name), look_at)));
                }
                // A candidate whose kernel loses the device has lost.
                Err(timed::Untimed::Device(error)) if error.is_sticky() => {
                    let said = format!("niche {}: {error}", niche.name);
                    return Ok(judged.push("timed", failed(said, "an address or an alignment")));
                }
                Err(error) => return Err(format!("niche {}: {error}", niche.name)),
            }
        }
        judged.push("timed", passed(format!("{} problems, in turns with its parent", self.niches.len())));
        Ok(judged.push("right again", passed("what timed passes wrote, other numbers, other sizes".to_owned())))
    }
}

/// What is wrong with the problem that is timed, in the sizes that it has: its first blocks where blocks need nothing of each other, all
/// of it where they share work and it is small enough.
fn wrong_as_timed(
    niche: &Niche,
    seed: u64,
    generation: &dyn Attention,
    texts: &KernelTexts,
    limits: &DeviceLimits,
) -> Option<gate::Outcome> {
    /// Blocks that run.
    const BLOCKS: u64 = 3;
    /// What the interpreter does in some ten seconds.
    const MOST_OPERATIONS: f64 = 6e8;
    let case = Case { seed: seed % 100_000, ..niche.timed.clone() };
    let device = texts.interpreter();
    let needs_no_other = |plan: LaunchPlan| plan.launches.len() == 1 && plan.tickets == 0 && plan.workspace_bytes == 0;
    let said = if generation.plan(&case.problem, limits).is_ok_and(needs_no_other) {
        device.run_first_blocks(BLOCKS);
        verify::verify_written_rows(&device, generation, &case)
    } else if case.problem.flops() <= MOST_OPERATIONS {
        verify::verify(&device, generation, &case)
    } else {
        return None;
    };
    let failure = said.err()?;
    let story = format!("wrong on the problem that is timed, niche {}\n{failure}", niche.name);
    Some(failed(story, "what is special about this size: the shortened problem is right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks that stay ask how many there are: where few of them run, they must be told of all.
    #[test]
    fn blocks_that_stay_are_looked_at_as_they_are_timed() {
        let limits = &DeviceLimits::H200;
        for (id, case) in [("v3d", "h8 L512 d64 f16 causal"), ("v2d", "h8 L512 d64 f16 full")] {
            let generation = generations::find(id).unwrap();
            let niche = Niche::of_case("niche", case.parse().unwrap(), generation);
            let plan = generation.plan(&niche.timed.problem, limits).unwrap();
            assert!(plan.tickets == 0 && plan.launches[0].grid[0] > 3, "{plan:?}");
            assert_eq!(wrong_as_timed(&niche, 7, generation, &KernelTexts::packed(), limits), None, "{id}");
        }
        let mutant = harness::mutants::find("mask_off_by_one").unwrap();
        let niche = Niche::of_case("niche", "h8 L512 d64 f16 causal".parse().unwrap(), mutant);
        let found = wrong_as_timed(&niche, 7, mutant, &KernelTexts::packed(), limits).unwrap();
        assert!(found.detail.starts_with("wrong on the problem that is timed, niche niche"), "{found:?}");
    }
}
