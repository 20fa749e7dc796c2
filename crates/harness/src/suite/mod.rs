//! Runs properties as tests: random cases in a process of their own, counted, shrunk and remembered.
//!
//! A kernel that fails on a GPU takes its CUDA context with it, and the process that holds it. So each test runs its
//! cases in a child process (proptest's `fork`); where that dies, proptest starts another and goes on shrinking. The
//! parent never opens a device.

mod remembered;
mod tally;

use std::fmt;
use std::sync::{Once, OnceLock};
use std::time::{Duration, Instant};

use proptest::strategy::Just;
use proptest::test_runner::{Config, TestCaseError, TestCaseResult, TestError, TestRunner};
use sdpa_core::{Attention, Device, DeviceChoice, DeviceKind, Extensions};

pub use remembered::remembered;

use crate::case::Case;
use crate::properties::Property;
use crate::strategies::{Size, cases_with};
use crate::verify::{Failure, MATCHES_REFERENCE, Reason, repeat_command};
use remembered::remember;
use tally::{Report, Tally, kind_of, say, short};

/// Cases a test, without `PROPTEST_CASES`.
fn default_cases(kind: DeviceKind, property: &Property) -> u32 {
    let is_reference = property.name == MATCHES_REFERENCE;
    match (kind, is_reference) {
        (DeviceKind::Cuda, true) => 256,
        (DeviceKind::Cuda, false) => 64,
        // What keeps the whole suite under five minutes on two cores.
        (DeviceKind::Interpreter, true) => 128,
        (DeviceKind::Interpreter, false) => 16,
    }
}

/// The test `test` (its path: `module_path!()` and name): a property holds for a generation in random cases, on the
/// device that `SDPA_DEVICE` names. The smallest case of a failure is remembered.
///
/// # Panics
/// Where it does not, with the smallest case found and the command that repeats it; also where no case could be run, or
/// no row of any case be judged.
pub fn prove(test: &'static str, generation: &dyn Attention, property: &'static Property) {
    let kind = announce();
    let takes = generation.generation().takes;
    if let Some(extension) = property.needs().first_not_in(takes) {
        say(&format!("{}: not asked, it takes no {extension}", short(test)));
        return;
    }
    let mut config = config(test);
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = default_cases(kind, property);
    }
    if let Err(failing) = prove_on(device, Size::of(kind), config, generation, property) {
        if failing.judged {
            remember(generation.generation().id, property.name, &failing.case);
        }
        panic!("{failing}");
    }
}

/// The smallest case found that a generation fails.
#[derive(Clone, Debug)]
pub struct Failing {
    /// Which generation.
    pub generation: &'static str,
    /// Which property it does not have.
    pub property: &'static str,
    /// The case.
    pub case: Box<Case>,
    /// False where the kernel could not be run at all, so that the case is not worth remembering.
    pub judged: bool,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, property, case, .. } = self;
        writeln!(f, "{generation} fails {property}; the smallest case found (what was found in it is above):")?;
        writeln!(f, "  case       {case}")?;
        write!(f, "  repeat     {}", repeat_command(generation, property, case))
    }
}

/// [`prove`] on another device, as the configuration says: to test the tests.
///
/// # Errors
/// The smallest case found where the property does not hold.
///
/// # Panics
/// Where no case could be run, or no row of any case be judged.
pub fn prove_on(
    device: fn() -> Opened,
    size: Size,
    mut config: Config,
    generation: &dyn Attention,
    property: &'static Property,
) -> Result<(), Failing> {
    let test = config.test_name.expect("a test has a name");
    // A case that the generation declines is drawn anew, so that all the cases of a test are cases that ran.
    config.max_global_rejects = config.cases.saturating_mul(10).saturating_add(1000);
    let tally = Tally::new(test, config.fork());
    // Proptest's own limit ends the child's search only: the parent, which repeats the answers without asking, would take
    // every later case for a failure, and name one that holds. Here later cases are taken to hold, in both.
    let shrinking = Duration::from_millis(std::mem::take(&mut config.max_shrink_time).into());
    let first_failure = OnceLock::new();
    let takes = if property.is_of_extensions() { generation.generation().takes } else { Extensions::NONE };
    let outcome = TestRunner::new(config).run(&cases_with(size, takes, generation.needs()), {
        let tally = tally.clone();
        move |case| {
            if first_failure.get().is_some_and(|failed: &Instant| failed.elapsed() > shrinking) {
                return Ok(());
            }
            let answer = ask(&tally, device(), generation, property, &case);
            if let Err(TestCaseError::Fail(_)) = answer {
                first_failure.get_or_init(Instant::now);
            }
            answer
        }
    });
    let report = tally.report();
    match outcome {
        Ok(()) if report == Report::JudgedNothing => panic!("{test} ran its cases and could judge none of their rows"),
        Ok(()) => Ok(()),
        Err(TestError::Fail(_, case)) => Err(Failing {
            generation: generation.generation().id,
            property: property.name,
            case: Box::new(case),
            judged: report != Report::CouldNotRun,
        }),
        Err(TestError::Abort(reason)) => panic!("{test} could not run its cases: {reason}"),
    }
}

fn ask(tally: &Tally, device: Opened, generation: &dyn Attention, property: &Property, case: &Case) -> TestCaseResult {
    let device = match device {
        Ok(device) => device,
        Err(reason) => {
            // No case is to blame, so there is none to shrink: proptest gives up after enough of these.
            tally.decline(reason.to_owned());
            return Err(TestCaseError::reject(reason));
        }
    };
    tally.runs_on(device);
    match property.check(device, generation, case) {
        Ok(judged) => {
            tally.ran(judged);
            Ok(())
        }
        Err(failure) if matches!(*failure.reason, Reason::Unjudged { .. }) => {
            tally.decline("no row could be judged".to_owned());
            Err(TestCaseError::reject(failure.reason.to_string()))
        }
        Err(failure) => match failure.unsupported() {
            Some(reason) => {
                tally.decline(kind_of(reason));
                Err(TestCaseError::reject(reason.to_string()))
            }
            None => {
                tally.failed(failure.is_verdict());
                die_if_sticky(&failure);
                Err(TestCaseError::fail(failure.to_string()))
            }
        },
    }
}

/// Every later CUDA call of this process would fail and be blamed on innocent cases: end it, and let the parent start
/// another.
fn die_if_sticky(failure: &Failure) {
    if failure.is_sticky() {
        eprintln!("{failure}");
        std::process::abort();
    }
}

/// Runs `body` once in a process of its own, with the device; its text is the test's report.
///
/// # Panics
/// Where `body` returns an error, or its process dies.
pub fn isolated(test: &'static str, body: impl Fn(&dyn Device) -> Result<String, String>) {
    announce();
    let config = Config { cases: 1, max_global_rejects: 0, ..config(test) };
    let tally = Tally::new(test, config.fork());
    let outcome = TestRunner::new(config).run(&Just(()), {
        let tally = tally.clone();
        move |()| {
            let device = device().map_err(TestCaseError::fail)?;
            tally.runs_on(device);
            let text = body(device).map_err(TestCaseError::fail)?;
            tally.say(text);
            Ok(())
        }
    });
    tally.report();
    if let Err(error) = outcome {
        let (TestError::Abort(reason) | TestError::Fail(reason, ())) = error;
        panic!("{test} failed: {reason}; more above");
    }
}

/// Proptest's configuration for a test: a process of its own, and no more shrinking than a minute's.
pub fn config(test: &'static str) -> Config {
    Config {
        fork: std::env::var_os("PROPTEST_FORK").is_none_or(|fork| fork != "false"),
        test_name: Some(test),
        // Cases are remembered, not seeds: see `remember`.
        failure_persistence: None,
        max_shrink_time: 60_000,
        max_shrink_iters: 2000,
        ..Config::default()
    }
}

/// A device, or why there is none.
pub type Opened = Result<&'static dyn Device, &'static str>;

/// The device of this process, opened at its first use.
fn device() -> Opened {
    static DEVICE: OnceLock<Result<Box<dyn Device>, String>> = OnceLock::new();
    let opened = DEVICE.get_or_init(|| {
        let choice = DeviceChoice::from_env().map_err(|error| error.to_string())?;
        let device = sdpa_core::open(choice).map_err(|error| error.to_string())?;
        // The parent chose the cases by what it could see without opening anything.
        match device.kind() == choice.expected_kind() {
            true => Ok(device),
            false => Err("a CUDA driver but no GPU: set SDPA_DEVICE=interpreter".to_owned()),
        }
    });
    opened.as_ref().map(|device| &**device).map_err(|reason| reason.as_str())
}

/// Says once on which kind of device this program's tests will run.
fn announce() -> DeviceKind {
    static ONCE: Once = Once::new();
    let choice = DeviceChoice::from_env().unwrap_or_else(|error| panic!("{error}"));
    let kind = choice.expected_kind();
    // Children inherit the parent's choice, and its announcement.
    if std::env::var_os("_PROPTEST_FORKFILE").is_none() {
        ONCE.call_once(|| {
            let device = match kind {
                DeviceKind::Cuda => "a GPU",
                DeviceKind::Interpreter => "the interpreter",
            };
            let why = match (choice, kind) {
                (DeviceChoice::Auto, DeviceKind::Cuda) => " (SDPA_DEVICE=auto, a driver is installed)",
                (DeviceChoice::Auto, DeviceKind::Interpreter) => " (SDPA_DEVICE=auto, no CUDA driver is installed)",
                _ => " (SDPA_DEVICE says so)",
            };
            say(&format!("kernels are tested on {device}{why}"));
        });
    }
    kind
}
