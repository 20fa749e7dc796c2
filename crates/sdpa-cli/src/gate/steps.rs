//! The questions of the gate, each an [`Outcome`].

use std::cell::{Cell, RefCell};
use std::process::Command;

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use sdpa_core::{Attention, Device, Dtype, Mask, Problem};
use sdpa_toolchain::{KernelTexts, ToolchainError, find_tool};

use super::Status;
use harness::acceptance::{cases as acceptance_cases, decoding_cases, shape_of};
use harness::case::Case;
use harness::check::{self, What, trials};
use harness::coverage::Executed;
use harness::properties::{self, Property};
use harness::real_model;
use harness::strategies::{Size, cases};
use harness::suite::remembered;
use harness::verify::{Failure, MATCHES_REFERENCE, verify};
use sdpa_bench::timing::Shape;
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

    fn of_failure(headline: &str, failure: &Failure) -> Self {
        // Its own text names the hint, too.
        let story: Vec<String> =
            failure.to_string().lines().filter(|line| !line.starts_with("  look at ")).map(str::to_owned).collect();
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
    let over = resources::over_budget(&[who], &costs);
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

/// Right on the gate's shapes; a generation that takes none of them is one for decoding, and asked that.
pub fn acceptance(device: &dyn Device, generation: &dyn Attention, progress: Progress<'_>) -> Outcome {
    let (mut passed, mut declined, mut worst) = (0, 0, 0.0_f64);
    let takes = |case: &Case| generation.plan(&case.problem, device.limits()).is_ok();
    let mut cases: Vec<Case> = acceptance_cases(device.kind()).into_iter().map(|case| case.case).collect();
    if !cases.iter().any(takes) {
        cases = decoding_cases(device.kind());
    }
    for case in &cases {
        let problem = &case.problem;
        progress(format!("accepting {problem}"));
        match verify(device, generation, case) {
            Ok(measured) => {
                passed += 1;
                worst = worst.max(measured.worst_ratio);
            }
            Err(failure) if failure.unsupported().is_some() => declined += 1,
            Err(failure) => {
                let headline = format!("wrong on {} {}", shape_of(problem), problem.mask().name());
                return Outcome::of_failure(&headline, &failure);
            }
        }
    }
    match (passed, declined) {
        (0, _) => Outcome::not_run("declines every acceptance shape, and those of decoding"),
        (_, 0) => Outcome::passed(&format!("{passed} cases, largest error {worst:.2} of its bound")),
        _ => Outcome::passed(&format!("{passed} cases, largest error {worst:.2} of its bound; {declined} declined")),
    }
}

/// Everything that must hold of attention holds, in remembered and in random cases: `count` of them for the comparison
/// with the oracle, a quarter of them for each other property.
pub fn properties(
    device: &dyn Device,
    generation: &dyn Attention,
    count: u32,
    seed: u64,
    progress: Progress<'_>,
) -> Outcome {
    let (mut ran, mut declined) = (0, 0);
    for (property, case) in remembered(generation.generation().id) {
        progress(format!("remembered case of {}", property.name));
        match property.check(device, generation, &case) {
            Ok(()) => ran += 1,
            Err(failure) if failure.unsupported().is_some() => declined += 1,
            Err(failure) => return Outcome::of_failure("a case that failed before fails", &failure),
        }
    }
    let remembered = ran;
    for property in properties::ALL {
        let count = if property.name == MATCHES_REFERENCE { count } else { count.div_ceil(4) };
        match random_cases(device, generation, property, count, seed, progress) {
            Ok(not_taken) => declined += not_taken,
            Err(outcome) => return outcome,
        }
        ran += count;
    }
    let asked = properties::ALL.len();
    Outcome::passed(&format!(
        "{ran} cases of {asked} properties ({remembered} remembered, the others random, seed {seed}); {declined} declined"
    ))
}

/// As many random cases as told hold; how many were declined on the way.
fn random_cases(
    device: &dyn Device,
    generation: &dyn Attention,
    property: &Property,
    count: u32,
    seed: u64,
    progress: Progress<'_>,
) -> Result<u32, Outcome> {
    let (held, declined) = (Cell::new(0_u32), Cell::new(0_u32));
    // The last one is the smallest: proptest shrinks from failure to failure.
    let found: RefCell<Option<Failure>> = RefCell::new(None);
    let outcome = runner(seed, property, count).run(&cases(Size::of(device.kind())), |case| {
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
            Ok(()) => {
                held.set(held.get() + 1);
                Ok(())
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
        (Ok(()), _) => Ok(declined.get()),
        (Err(_), Some(failure)) => Err(Outcome::of_failure(&format!("{} does not hold", property.name), &failure)),
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

/// The interpreter finds nothing; what the trials executed is left in `executed`.
pub fn races(
    generation: &'static dyn Attention,
    schedules: u64,
    texts: &KernelTexts,
    executed: &RefCell<Vec<Executed>>,
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
            *executed.borrow_mut() = checked.executed;
            Outcome::passed(&format!("{} runs on the interpreter, nothing found", checked.runs))
        }
        Ok(checked) => {
            let look_at = match &checked.faults[0].what {
                What::Finding(_) => {
                    "the two lines named first: what orders one after the other? Ownership beats synchronisation"
                }
                What::Wrong(failure) => failure.hint(),
            };
            Outcome::failed(&check::render(&checked), look_at)
        }
        Err(failure) => Outcome::not_run(&format!("the interpreter cannot run it: {}", failure.reason)),
    }
}

/// compute-sanitizer finds nothing in this program's own `verify`, where the tool is on PATH.
pub fn sanitizer(generation: &dyn Attention, device: &dyn Device, progress: Progress<'_>) -> Outcome {
    let Some(tool) = find_tool("compute-sanitizer") else {
        return Outcome::not_run("no compute-sanitizer on PATH, so the GPU's own view of races was not asked for");
    };
    let Ok(program) = std::env::current_exe() else {
        return Outcome::not_run("this program does not know where it is");
    };
    let id = generation.generation().id;
    let takes = |trial: &check::Trial| {
        trial.multiprocessors.is_none() && generation.plan(&trial.case.problem, device.limits()).is_ok()
    };
    let cases: Vec<Case> = trials(generation).into_iter().filter(takes).map(|trial| trial.case).collect();
    // Of the ragged shapes the first, and some from all over the list: head dimensions, masks, element types.
    let chosen: Vec<&Case> = cases.iter().step_by(cases.len().div_ceil(4).max(1)).collect();
    if chosen.is_empty() {
        return Outcome::not_run("it takes none of the shapes of `sdpa check` on this device");
    }
    let mut runs = 0;
    for check in ["memcheck", "racecheck", "synccheck", "initcheck"] {
        for case in &chosen {
            progress(format!("compute-sanitizer --tool {check}, {case}"));
            let line = case.to_string();
            let output = Command::new(&tool)
                .args(["--tool", check, "--error-exitcode", &COMPLAINT.to_string()])
                .arg(&program)
                .args(["verify", id, &line])
                .env("SDPA_DEVICE", "cuda")
                .output();
            let output = match output {
                Ok(output) => output,
                Err(error) => return Outcome::not_run(&format!("{}: {error}", tool.display())),
            };
            runs += 1;
            let said =
                [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
            if let Some(outcome) = judge_sanitizer(output.status.code(), &said, &format!("{check}, {id} on {line}")) {
                return outcome;
            }
        }
    }
    Outcome::passed(&format!("{runs} runs under compute-sanitizer, no complaint"))
}

/// What compute-sanitizer is told to exit with where it complains; no exit code of `sdpa verify`.
const COMPLAINT: i32 = 99;

/// What a run under compute-sanitizer means; nothing where it went well.
fn judge_sanitizer(code: Option<i32>, said: &str, what: &str) -> Option<Outcome> {
    let tools: Vec<&str> = said.lines().filter(|line| line.starts_with("=========")).collect();
    let programs: Vec<&str> = said.lines().filter(|line| !line.starts_with("=========") && !line.is_empty()).collect();
    // Whoever never ran the program has said nothing of it: a tool that this driver or GPU does not suit.
    let ran = programs.iter().any(|line| line.starts_with("device: "));
    let story = |lines: &[&str]| lines.iter().take(24).copied().collect::<Vec<_>>().join("\n");
    match code {
        Some(0) if ran => None,
        Some(COMPLAINT) if ran => Some(Outcome::failed(
            &format!("compute-sanitizer complains: {what}\n{}", story(&tools)),
            "the first hazard or invalid access above: the kernel's PTX carries line numbers",
        )),
        Some(code @ 1) if ran => Some(Outcome::failed(
            &format!("wrong under compute-sanitizer (exit code {code}): {what}\n{}", story(&programs)),
            "the tool slows warps down unevenly: an order that usually holds and that nothing enforces",
        )),
        code => {
            let code = code.map_or("no exit code".to_owned(), |code| format!("exit code {code}"));
            let said = story(&[tools, programs].concat());
            Some(Outcome::not_run(&format!("compute-sanitizer did not get through ({code}): {what}\n{said}")))
        }
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
        let found = random_cases(&device, &wrong, property, 64, 1, &quiet).unwrap_err();
        assert_eq!(found.status, Status::Failed);
        assert!(
            found.detail.starts_with("matches_reference does not hold\n") && found.detail.contains("b1 h1 "),
            "{found:?}"
        );
        assert!(found.look_at.is_some_and(|look_at| look_at.starts_with("the mask's diagonal")));
        let remembered = properties(&device, &wrong, 1, 1, &quiet);
        assert!(remembered.detail.starts_with("a case that failed before fails\n"), "{remembered:?}");
        let right = properties(&device, &HostGeneration::new(Fault::None), 8, 1, &quiet);
        assert_eq!(right.status, Status::Passed, "{right:?}");
        assert_eq!(
            right,
            properties(&device, &HostGeneration::new(Fault::None), 8, 1, &quiet),
            "a seed means its cases"
        );
    }

    #[test]
    fn declining_everything_is_no_pass() {
        let found = properties(&HostDevice::default(), &HostGeneration::new(Fault::DeclinesAll), 1, 1, &quiet);
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
        };
        let status = |cost| resources(generation, Ok(("ptxas".to_owned(), vec![cost]))).status;
        let most = who.budget.registers;
        assert_eq!(
            [status(cost(most, 0)), status(cost(most + 1, 0)), status(cost(most, 8))],
            [Status::Passed, Status::Failed, Status::Failed]
        );
        assert_eq!(resources(generation, Err("no ptxas".to_owned())).status, Status::NotRun);
    }

    #[test]
    fn a_tool_that_complains_is_told_from_one_that_did_not_run() {
        let ran = "========= COMPUTE-SANITIZER\ndevice: some GPU\n========= Invalid __global__ write\nok: right\n";
        let status = |code, said: &str| judge_sanitizer(code, said, "memcheck").map(|outcome| outcome.status);
        assert_eq!(status(Some(0), ran), None);
        assert_eq!(status(Some(99), ran), Some(Status::Failed));
        assert_eq!(status(Some(1), ran), Some(Status::Failed));
        assert_eq!(status(Some(2), ran), Some(Status::NotRun));
        assert_eq!(status(None, ran), Some(Status::NotRun));
        let refused = "========= Error: Target application terminated before first instrumented API call\n";
        assert_eq!([status(Some(99), refused), status(Some(0), refused)], [Some(Status::NotRun); 2]);
        let complaint = judge_sanitizer(Some(99), ran, "memcheck, v9 on L1").unwrap().detail;
        assert!(
            complaint.starts_with("compute-sanitizer complains: memcheck, v9 on L1\n=====")
                && !complaint.contains("ok:")
        );
    }

    /// Takes nothing but single queries.
    struct Decoder(HostGeneration);

    impl Attention for Decoder {
        fn generation(&self) -> &Generation {
            self.0.generation()
        }

        fn plan(&self, problem: &Problem, limits: &DeviceLimits) -> Result<LaunchPlan, Unsupported> {
            let declined = HostGeneration::new(Fault::DeclinesAll);
            let planner = if problem.len_q() == 1 { &self.0 } else { &declined };
            planner.plan(problem, limits)
        }
    }

    #[test]
    fn whoever_takes_no_acceptance_shape_is_asked_to_decode() {
        let found = |fault| acceptance(&HostDevice::default(), &Decoder(HostGeneration::new(fault)), &quiet);
        let right = found(Fault::None);
        assert!(right.status == Status::Passed && right.detail.starts_with("3 cases"), "{right:?}");
        assert_eq!(found(Fault::NoScale).status, Status::Failed);
        assert_eq!(found(Fault::DeclinesAll).status, Status::NotRun);
    }

    #[test]
    fn races_are_found() {
        let mutant = mutants::find("missing_syncthreads").unwrap();
        let found = races(mutant, 1, &KernelTexts::packed(), &RefCell::default(), &quiet);
        assert_eq!(found.status, Status::Failed);
        assert!(found.detail.contains("race in shared memory"), "{}", found.detail);
    }
}
