//! The questions of the gate, each an [`Outcome`].

use std::cell::{Cell, RefCell};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use rayon::prelude::*;
use sdpa_core::{Attention, Device, Dtype, Error, Extensions, Mask, Problem};
use sdpa_toolchain::{KernelTexts, ToolchainError};

use super::Status;
use harness::acceptance::{cases as acceptance_cases, decoding_cases, shape_of};
use harness::case::Case;
use harness::check::{self, What, trials};
use harness::coverage::Executed;
use harness::first_runs::FirstRuns;
use harness::needs::case_as_needed;
use harness::properties::{self, Property};
use harness::real_model;
use harness::strategies::{Size, cases_with};
use harness::suite::remembered;
use harness::verify::{self, Failure, MATCHES_REFERENCE, Reason, verify};
use sdpa_bench::timing::Shape;
use sdpa_ref::Judged;
use sdpa_toolchain::resources::{self, Cost};

/// Hears what is being done.
pub type Progress<'a> = &'a (dyn Fn(String) + Sync);

/// What a step found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether it holds.
    pub status: Status,
    /// What was found, the headline first.
    pub detail: String,
    /// Where it does not hold, what to look at.
    pub look_at: Option<String>,
}

impl Outcome {
    pub(super) fn passed(detail: &str) -> Self {
        Self { status: Status::Passed, detail: detail.to_owned(), look_at: None }
    }

    pub(super) fn failed(detail: &str, look_at: &str) -> Self {
        Self { status: Status::Failed, detail: detail.to_owned(), look_at: Some(look_at.to_owned()) }
    }

    /// This machine cannot tell, and why.
    pub fn not_run(detail: &str) -> Self {
        Self { status: Status::NotRun, detail: detail.to_owned(), look_at: None }
    }

    /// A failure's story, and what a wrong result looks like.
    fn of_failure(headline: &str, failure: &Failure, device: &dyn Device, generation: &dyn Attention) -> Self {
        let mut story = match *failure.reason {
            Reason::Mismatch(_) => verify::likeness(device, generation, &failure.case),
            _ => Vec::new(),
        };
        story.iter_mut().for_each(|line| line.insert_str(0, "  looks like "));
        // Its own text names the hint, too.
        story.extend(failure.to_string().lines().filter(|line| !line.starts_with("  look at ")).map(str::to_owned));
        Self::failed(&format!("{headline}\n{}", story.join("\n")), failure.hint())
    }
}

/// Every specialisation has PTX that is made from its source: packed, or compiled just now.
pub fn compiles(generation: &dyn Attention, texts: &Result<KernelTexts, ToolchainError>) -> Outcome {
    let texts = match texts {
        Ok(texts) => texts,
        Err(ToolchainError::Compile { kernel, log }) => {
            return Outcome::failed(
                &format!("NVRTC refuses {kernel}\n{}", log.trim()),
                "the first error of the compiler's log; a static_assert says which law of the tiles is broken",
            );
        }
        Err(error) => return Outcome::failed(&error.to_string(), "the files that the error names"),
    };
    let who = generation.generation();
    if let Some(error) = who.specialisations.iter().find_map(|kernel| texts.of(kernel).err()) {
        return Outcome::failed(&error.to_string(), "the generation's table of kernels, and `sdpa build-ptx`");
    }
    let count = who.specialisations.len();
    match who.specialisations.iter().filter(|kernel| texts.is_compiled(kernel)).count() {
        0 => Outcome::passed(&format!("{count} kernels, their packed PTX is made from their sources")),
        compiled => Outcome::passed(&format!(
            "{count} kernels, {compiled} compiled from the files on disk: commit what `sdpa build-ptx {}` writes",
            who.id
        )),
    }
}

/// Registers, shared memory and spills, as found by `source`, within the budget.
pub fn resources(generation: &dyn Attention, found: Result<(String, Vec<Cost>), String>) -> Outcome {
    let who = generation.generation();
    let (source, costs) = match found {
        Ok(found) => found,
        Err(reason) => return Outcome::not_run(&reason),
    };
    let over = resources::over_budget(&[who.into()], &costs);
    if !over.is_empty() {
        return Outcome::failed(
            &format!("over budget (figures from {source})\n{}", over.join("\n")),
            "which values live at once: smaller tiles or fewer stages, then __launch_bounds__; a budget is raised in the \
             generation's crate, with its reason",
        );
    }
    let most = |what: fn(&Cost) -> u32| costs.iter().map(what).max().unwrap_or(0);
    let warnings: Vec<&String> = costs.iter().flat_map(|cost| &cost.warnings).collect();
    let mut text = format!(
        "registers {} of {}, shared bytes {} of {}, spilled {} (figures from {source})",
        most(|cost| cost.registers),
        who.budget.registers,
        most(Cost::shared_bytes),
        who.budget.shared_bytes,
        most(|cost| cost.spill_bytes),
    );
    for warning in warnings {
        text += &format!("\n{warning}");
    }
    Outcome::passed(&text)
}

/// Shows what the interpreter finds in a case; nothing if that is nothing.
pub type Explain<'a> = &'a dyn Fn(&Case) -> Option<String>;

/// What the interpreter finds in a case, as `sdpa check` shows it; none if it finds nothing.
pub fn findings(generation: &'static dyn Attention, case: &Case, texts: &KernelTexts) -> Option<String> {
    let trial = check::Trial::new(case.clone());
    let checked = check::check(generation, &[trial], 1, texts, || ()).ok()?;
    (!checked.faults.is_empty()).then(|| check::render(&checked, check::SHOWN))
}

/// Right on the gate's shapes; a generation that takes none of them is one for decoding, and asked that. A case that the
/// interpreter finds something in is told by `explain`.
pub fn acceptance(
    device: &dyn Device,
    generation: &dyn Attention,
    explain: Explain<'_>,
    progress: Progress<'_>,
) -> Outcome {
    let (mut passed, mut declined, mut judged, mut worst) = (0, 0, Judged::default(), 0.0_f64);
    let takes = |case: &Case| generation.plan(&case.problem, device.limits()).is_ok();
    let needed = |case: Case| case_as_needed(generation, &case);
    let mut cases: Vec<Case> = acceptance_cases(device.kind()).into_iter().map(|case| needed(case.case)).collect();
    if !cases.iter().any(takes) {
        cases = decoding_cases(device.kind()).into_iter().map(needed).collect();
    }
    for case in &cases {
        let problem = &case.problem;
        progress(format!("accepting {problem}"));
        match verify(device, generation, case) {
            Ok(measured) => {
                passed += 1;
                judged += measured.judged;
                worst = worst.max(measured.worst_ratio);
            }
            Err(failure) if failure.unsupported().is_some() => declined += 1,
            Err(failure) => {
                let headline = format!("wrong on {} {}", shape_of(problem), problem.mask().name());
                let has_findings = matches!(*failure.reason, Reason::Device(Error::Findings { .. }));
                return match has_findings.then(|| explain(case)).flatten() {
                    Some(found) => Outcome::failed(&format!("{headline}\n{}", found.trim_end()), failure.hint()),
                    None => Outcome::of_failure(&headline, &failure, device, generation),
                };
            }
        }
    }
    match (passed, declined) {
        (0, _) => Outcome::not_run("declines every acceptance shape, and those of decoding"),
        (_, 0) => Outcome::passed(&format!("{passed} cases, {judged}, largest error {worst:.2} of its bound")),
        _ => Outcome::passed(&format!(
            "{passed} cases, {judged}, largest error {worst:.2} of its bound; {declined} declined"
        )),
    }
}

/// Everything that must hold of attention holds, in remembered and in random cases: `count` of them for the comparison
/// with the oracle, a quarter of them for each other property. Several interpreters run the kernels of
/// `texts` side by side, if there are any; else the device runs all.
pub fn properties(
    device: &dyn Device,
    generation: &dyn Attention,
    count: u32,
    seed: u64,
    texts: Option<&KernelTexts>,
    progress: Progress<'_>,
) -> Outcome {
    let (mut ran, mut declined, mut judged) = (0, 0, Judged::default());
    for (property, case) in remembered(generation.generation().id) {
        progress(format!("remembered case of {}", property.name));
        match property.check(device, generation, &case) {
            Ok(rows) => {
                ran += 1;
                judged += rows;
            }
            Err(failure) if failure.unsupported().is_some() => declined += 1,
            Err(failure) => {
                return Outcome::of_failure("a case that failed before fails", &failure, device, generation);
            }
        }
    }
    let remembered = ran;
    // The comparison with the oracle alone, since a wrong kernel fails it first; then the others, side by side on interpreters.
    let count_of = |property: &Property| if property.name == MATCHES_REFERENCE { count } else { count.div_ceil(4) };
    let ask = |device: &dyn Device, property: &Property| {
        random_cases(device, generation, property, count_of(property), seed, progress)
    };
    // What the generation does not take is no question to it.
    let takes = generation.generation().takes;
    let asked: Vec<&Property> =
        properties::ALL.iter().filter(|property| property.needs().first_not_in(takes).is_none()).collect();
    let (first, others) = asked.split_at(1);
    let mut answers: Vec<RandomCases> = first.iter().map(|property| ask(device, property)).collect();
    if answers.iter().all(Result::is_ok) {
        answers.extend(match texts {
            Some(texts) => others.par_iter().map(|property| ask(&texts.interpreter(), property)).collect::<Vec<_>>(),
            None => others.iter().map(|property| ask(device, property)).collect(),
        });
    }
    for (property, answer) in asked.iter().zip(answers) {
        match answer {
            Ok((not_taken, rows)) => {
                declined += not_taken;
                judged += rows;
            }
            Err(outcome) => return outcome,
        }
        ran += count_of(property);
    }
    let asked = asked.len();
    if judged.rows == judged.unjudged {
        let line = format!("{ran} cases of {asked} properties judged no row");
        return Outcome::failed(&line, "what `plan` declines: a generation must take some ordinary problems with rows");
    }
    Outcome::passed(&format!(
        "{ran} cases of {asked} properties ({remembered} remembered, the others random, seed {seed}), {judged}; {declined} \
         declined"
    ))
}

/// How many cases were declined, and how many rows were judged in the others; or what did not hold.
type RandomCases = Result<(u32, Judged), Outcome>;

/// As many random cases as told hold; how many were declined on the way, and of how many rows they hold. A case of which no
/// row can be judged counts as declined.
fn random_cases(
    device: &dyn Device,
    generation: &dyn Attention,
    property: &Property,
    count: u32,
    seed: u64,
    progress: Progress<'_>,
) -> RandomCases {
    let (held, declined, judged) = (Cell::new(0_u32), Cell::new(0_u32), Cell::new(Judged::default()));
    // The last one is the smallest: proptest shrinks from failure to failure.
    let found: RefCell<Option<Failure>> = RefCell::new(None);
    let takes = if property.is_of_extensions() { generation.generation().takes } else { Extensions::NONE };
    let outcome =
        runner(seed, property, count).run(&cases_with(Size::of(device.kind()), takes, generation.needs()), |case| {
            let shrinking = match found.borrow().as_ref() {
                // A lost device says nothing of a smaller case.
                Some(failure) if failure.is_sticky() => return Ok(()),
                failure => failure.is_some(),
            };
            progress(match shrinking {
                true => format!("{}: looking for a smaller case", property.name),
                false => format!("{}: {} of {count} random cases", property.name, held.get()),
            });
            match property.check(device, generation, &case) {
                Ok(rows) => {
                    held.set(held.get() + 1);
                    judged.set(judged.get() + rows);
                    Ok(())
                }
                Err(failure) if matches!(*failure.reason, Reason::Unjudged { .. }) => {
                    declined.set(declined.get() + 1);
                    Err(TestCaseError::reject(failure.reason.to_string()))
                }
                Err(failure) => match failure.unsupported() {
                    Some(reason) => {
                        declined.set(declined.get() + 1);
                        Err(TestCaseError::reject(reason.to_string()))
                    }
                    None => {
                        let reason = failure.reason.to_string();
                        *found.borrow_mut() = Some(failure);
                        Err(TestCaseError::fail(reason))
                    }
                },
            }
        });
    match (outcome, found.into_inner()) {
        (Ok(()), _) => Ok((declined.get(), judged.get())),
        (Err(_), Some(failure)) => {
            Err(Outcome::of_failure(&format!("{} does not hold", property.name), &failure, device, generation))
        }
        (Err(_), None) => {
            let declined = declined.get();
            let line = format!("{} could not be asked: {declined} random cases were declined", property.name);
            Err(Outcome::failed(&line, "what `plan` declines: a generation must take some ordinary problems"))
        }
    }
}

/// Makes the cases of a seed, and shrinks for half a minute at most.
fn runner(seed: u64, property: &Property, count: u32) -> TestRunner {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    for (byte, letter) in bytes[8..].iter_mut().zip(property.name.bytes()) {
        *byte = letter;
    }
    let config = Config {
        cases: count,
        max_global_rejects: 10 * count + 1000,
        max_shrink_time: 30_000,
        failure_persistence: None,
        fork: false,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Right on a real model's tensors.
pub fn real_input(device: &dyn Device, generation: &dyn Attention) -> Outcome {
    match real_model::check(device, generation) {
        Ok(found) => Outcome::passed(&found),
        Err(story) => {
            Outcome::failed(&story, "the softmax invariants: real scores are larger and less even than random ones")
        }
    }
}

/// What the trials of [`races`] left for the steps after it.
#[derive(Debug, Default)]
pub struct Seen {
    /// What they executed of each kernel.
    pub executed: Vec<Executed>,
    /// What each of them executed, so that no step runs it again to know.
    pub first_runs: FirstRuns,
}

/// The interpreter finds nothing; what the trials executed is left in `seen`.
pub fn races(
    generation: &'static dyn Attention,
    schedules: u64,
    texts: &KernelTexts,
    seen: &RefCell<Seen>,
    progress: Progress<'_>,
) -> Outcome {
    let trials = trials(generation);
    let done = std::sync::atomic::AtomicUsize::new(0);
    let checked = check::check(generation, &trials, schedules, texts, || {
        let done = done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        progress(format!("{done} of {} shapes under the interpreter's checks", trials.len()));
    });
    match checked {
        Ok(checked) if checked.faults.is_empty() => {
            let (runs, judged) = (checked.runs, checked.judged);
            *seen.borrow_mut() = Seen { executed: checked.executed, first_runs: checked.first_runs };
            Outcome::passed(&format!("{runs} runs on the interpreter, {judged}, nothing found"))
        }
        Ok(checked) => {
            let look_at = match &checked.faults[0].what {
                What::Finding(_) => {
                    "the two lines named first: what orders one after the other? Ownership beats synchronisation"
                }
                What::Wrong(failure) => failure.hint(),
            };
            Outcome::failed(&check::render(&checked, check::SHOWN), look_at)
        }
        Err(failure) => Outcome::not_run(&format!("the interpreter cannot run it: {}", failure.reason)),
    }
}

/// The problems of the last step: shapes with and without a causal mask, in f16, that a generation takes.
pub fn speed_shapes(device: &dyn Device, generation: &dyn Attention, shapes: &[Shape]) -> Vec<Problem> {
    let masks = [Mask::Full, Mask::Causal];
    let problems = shapes.iter().flat_map(|shape| {
        // The first element type that it takes.
        [Dtype::F16, Dtype::Bf16].into_iter().find_map(|dtype| {
            let problems: Vec<Problem> = masks
                .iter()
                .filter_map(|mask| shape.problem(dtype, *mask).ok())
                .filter(|problem| generation.plan(problem, device.limits()).is_ok())
                .collect();
            (!problems.is_empty()).then_some(problems)
        })
    });
    problems.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use harness::mutants::{self, Fault, HostDevice, HostGeneration};
    use sdpa::generations;
    use sdpa_core::{DeviceLimits, Generation, LaunchPlan, Unsupported};

    fn quiet(_: String) {}

    #[test]
    fn a_property_that_does_not_hold_ends_with_its_smallest_case() {
        let (device, wrong) = (HostDevice::default(), HostGeneration::new(Fault::MaskOffByOne));
        let property = properties::find(MATCHES_REFERENCE).unwrap();
        // A seed whose smallest case is one of the mask. In others the mask shows by a slope, which counts from the diagonal.
        let found = random_cases(&device, &wrong, property, 64, 2, &quiet).unwrap_err();
        assert_eq!(found.status, Status::Failed);
        assert!(found.detail.contains("looks like one key too many is seen"), "{found:?}");
        assert!(
            found.detail.starts_with("matches_reference does not hold\n") && found.detail.contains("b1 h1 "),
            "{found:?}"
        );
        assert!(found.look_at.is_some_and(|look_at| look_at.starts_with("the mask's diagonal")));
        let remembered = properties(&device, &wrong, 1, 1, None, &quiet);
        assert!(remembered.detail.starts_with("a case that failed before fails\n"), "{remembered:?}");
        let right = properties(&device, &HostGeneration::new(Fault::None), 8, 1, None, &quiet);
        assert_eq!(right.status, Status::Passed, "{right:?}");
        assert_eq!(
            right,
            properties(&device, &HostGeneration::new(Fault::None), 8, 1, None, &quiet),
            "a seed means its cases"
        );
    }

    #[test]
    fn declining_everything_is_no_pass() {
        let found = properties(&HostDevice::default(), &HostGeneration::new(Fault::DeclinesAll), 1, 1, None, &quiet);
        assert!(found.status == Status::Failed && found.detail.contains("could not be asked"), "{found:?}");
    }

    #[test]
    fn real_input_tells_right_from_wrong() {
        let status = |fault| real_input(&HostDevice::default(), &HostGeneration::new(fault)).status;
        assert_eq!([status(Fault::None), status(Fault::NoScale)], [Status::Passed, Status::Failed]);
    }

    #[test]
    fn a_kernel_over_its_budget_fails_and_one_that_nobody_measured_is_no_pass() {
        let generation = generations::ALL[0];
        let who = generation.generation();
        let cost = |registers, spill_bytes| Cost {
            kernel: who.specialisations[0].to_string(),
            architecture: "sm_90a".to_owned(),
            threads: 256,
            registers,
            spill_bytes,
            static_shared_bytes: 0,
            dynamic_shared_bytes: 0,
            blocks_per_multiprocessor: 1,
            warnings: vec![],
            ptx: String::new(),
        };
        let status = |cost| resources(generation, Ok(("ptxas".to_owned(), vec![cost]))).status;
        let most = who.budget.registers;
        assert_eq!(
            [status(cost(most, 0)), status(cost(most + 1, 0)), status(cost(most, 8))],
            [Status::Passed, Status::Failed, Status::Failed]
        );
        assert_eq!(resources(generation, Err("no ptxas".to_owned())).status, Status::NotRun);
    }

    /// Takes nothing but single queries.
    struct Decoder(HostGeneration);

    impl Attention for Decoder {
        fn generation(&self) -> &Generation {
            self.0.generation()
        }

        fn decide(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
            let declined = HostGeneration::new(Fault::DeclinesAll);
            let planner = if problem.len_q() == 1 { &self.0 } else { &declined };
            planner.plan(problem, limits)
        }
    }

    #[test]
    fn whoever_takes_no_acceptance_shape_is_asked_to_decode() {
        let found = |fault| acceptance(&HostDevice::default(), &Decoder(HostGeneration::new(fault)), &|_| None, &quiet);
        let right = found(Fault::None);
        assert!(right.status == Status::Passed && right.detail.starts_with("3 cases"), "{right:?}");
        assert_eq!(found(Fault::NoScale).status, Status::Failed);
        assert_eq!(found(Fault::DeclinesAll).status, Status::NotRun);
    }

    #[test]
    fn what_the_interpreter_finds_in_an_accepted_shape_is_shown_with_its_lines() {
        let mutant = mutants::find("missing_syncthreads").unwrap();
        let texts = KernelTexts::packed();
        let found = acceptance(&texts.interpreter(), mutant, &|case| findings(mutant, case, &texts), &quiet);
        assert!(found.detail.starts_with("wrong on (1,2,512,64) full\nkernels/"), "{}", found.detail);
        assert!(found.detail.contains(" | ") && found.detail.contains("note: the other access"), "{}", found.detail);
        let case = "L17 d64".parse().unwrap();
        assert_eq!(findings(generations::ALL[0], &case, &texts), None);
    }

    #[test]
    fn races_are_found() {
        let mutant = mutants::find("missing_syncthreads").unwrap();
        let found = races(mutant, 1, &KernelTexts::packed(), &RefCell::default(), &quiet);
        assert_eq!(found.status, Status::Failed);
        assert!(found.detail.contains("race in shared memory"), "{}", found.detail);
    }
}
