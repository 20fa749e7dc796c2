//! The proof of one case: a generation's result against the oracle, its memory, and itself.

use std::fmt;
use std::time::Duration;

use rayon::prelude::*;
use sdpa_core::{Attention, Device, Error, Operand, Problem, Unsupported, check_host_memory};
use sdpa_ref::{Check, Found, Judged, Measured, Mismatch, Reference, ReferenceError, Rows, Tolerance};

use crate::case::Case;
use crate::execute::{MemoryFault, Output, POISON, Position, Ran, RunError, Stage, Surroundings, execute, rows};
use crate::far::near;
use crate::random::Random;
use crate::regime::Data;

/// How thoroughly to verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thoroughness {
    /// Query rows per head to compare with the oracle, which is slow in f64; `None` compares all. Memory and repetition
    /// are checked everywhere, always.
    pub rows: Option<usize>,
    /// Runs after the first, each of which must give the same bits.
    pub repetitions: u32,
}

impl Default for Thoroughness {
    fn default() -> Self {
        Self { rows: None, repetitions: 1 }
    }
}

impl Thoroughness {
    /// Every row of problems whose oracle takes less than about a second, 256 rows per head of larger ones.
    pub fn for_problem(problem: &Problem) -> Self {
        /// 4·b·h·q·kv·d: (1, 8, 512, 64) is 0.5 G and takes the oracle a few tenths of a second.
        const ORACLE_OPERATIONS: f64 = 1e9;
        let rows = (problem.flops() > ORACLE_OPERATIONS).then_some(256);
        Self { rows, ..Self::default() }
    }

    /// [`for_problem`](Self::for_problem), with fewer rows where even 256 take the oracle long: every head of a
    /// problem that fills the chip, and of each its edges and as many rows between them as a second allows.
    pub fn before_timing(problem: &Problem) -> Self {
        const AT_LEAST: usize = 32;
        const ORACLE_OPERATIONS: f64 = 8e9;
        let a_row = problem.flops() / problem.len_q().max(1) as f64;
        let affordable = (ORACLE_OPERATIONS / a_row) as usize;
        let usual = Self::for_problem(problem);
        Self { rows: usual.rows.map(|rows| rows.min(affordable.max(AT_LEAST))), ..usual }
    }
}

/// A case that a generation failed, or declined.
#[derive(Debug)]
pub struct Failure {
    /// Which generation.
    pub generation: &'static str,
    /// On which device.
    pub device: String,
    /// What it was given.
    pub case: Box<Case>,
    /// Which check it failed; `matches_reference` or another property's name.
    pub property: &'static str,
    /// What went wrong.
    pub reason: Box<Reason>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The device or the generation refused, or the kernel failed while it ran. [`Error::Unsupported`] is no failure.
    #[error(transparent)]
    Device(#[from] Error),
    /// Memory around the result is not as a right kernel leaves it.
    #[error(transparent)]
    Memory(#[from] MemoryFault),
    /// The result is wrong.
    #[error(transparent)]
    Mismatch(#[from] Box<Mismatch>),
    /// The oracle could not be asked.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// Nothing was judged: a verdict on no row is none.
    #[error(
        "none of the {rows} rows could be judged, because f32 may overflow in each: their scores, or these over the \
         scale, reach a quarter of the largest f32; choose a smaller scale or smaller numbers"
    )]
    Unjudged {
        /// Rows that were looked at.
        rows: usize,
    },
    /// Two results that must be the same bits are not.
    #[error("{what}: {difference}")]
    Differs {
        /// Which two.
        what: &'static str,
        /// Where and how.
        difference: Difference,
    },
    /// A row breaks a property.
    #[error("{at} is {found}: {rule}")]
    Row {
        /// Where.
        at: Position,
        /// The value there.
        found: f64,
        /// What it should be.
        rule: String,
    },
}

/// Where two results differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The first differing element.
    pub first: Position,
    /// Its value and the value it should have.
    pub values: (f64, f64),
    /// Rows that differ.
    pub rows: usize,
    /// Rows compared.
    pub of: usize,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (found, expected) = self.values;
        let what = if self.first.column.is_some() { "out" } else { "lse" };
        write!(f, "{what}{} is {found:e}, was {expected:e}; {} of {} rows differ", self.first, self.rows, self.of)
    }
}

impl From<RunError> for Reason {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Device(error) => Self::Device(error),
            RunError::Memory(fault) => Self::Memory(fault),
        }
    }
}

impl Failure {
    /// A property that does not hold in a case, and why.
    pub fn new(
        device: &dyn Device,
        generation: &dyn Attention,
        case: &Case,
        property: &'static str,
        reason: impl Into<Reason>,
    ) -> Self {
        let reason = Box::new(reason.into());
        Self {
            generation: generation.generation().id,
            device: device.name(),
            case: Box::new(case.clone()),
            property,
            reason,
        }
    }

    /// Why the generation declined the case, where it did: the one outcome that counts as skipped, not as failed.
    pub fn unsupported(&self) -> Option<&Unsupported> {
        match &*self.reason {
            Reason::Device(Error::Unsupported(reason)) => Some(reason),
            _ => None,
        }
    }

    /// True if every later CUDA call of this process will fail, too.
    pub fn is_sticky(&self) -> bool {
        matches!(&*self.reason, Reason::Device(error) if error.is_sticky())
    }

    /// True if the kernel ran and was found wrong; false if it could not be run or judged at all.
    pub fn is_verdict(&self) -> bool {
        match &*self.reason {
            Reason::Device(error) => {
                matches!(error, Error::Sticky { .. } | Error::Findings { .. } | Error::Tickets { .. })
            }
            Reason::Reference(_) | Reason::Unjudged { .. } => false,
            Reason::Memory(_) | Reason::Mismatch(_) | Reason::Differs { .. } | Reason::Row { .. } => true,
        }
    }

    /// What to look at first.
    pub fn hint(&self) -> &'static str {
        let problem = &self.case.problem;
        match &*self.reason {
            Reason::Device(Error::Findings { .. }) => "each finding names its source line and both threads",
            Reason::Device(Error::Sticky { .. }) => {
                "an address or an alignment: run the command under compute-sanitizer"
            }
            Reason::Device(Error::Tickets { .. }) => {
                "who puts the word back to 0: is the last draw or arrival the one that the kernel takes for it?"
            }
            Reason::Device(_) | Reason::Reference(_) => "the kernel did not run: see the error",
            Reason::Unjudged { .. } => "the case: its scale and its numbers",
            Reason::Memory(MemoryFault::Unwritten { .. }) => {
                "which warp owns these rows: is every row and column stored?"
            }
            Reason::Memory(_) => "the bounds of the last tile's stores, and strides",
            Reason::Differs { .. } => "ownership of rows: a race, or a read of what is not this row's",
            Reason::Row { .. } => {
                "the softmax invariants: maximum, rescaling, normaliser, and what a masked key weighs"
            }
            Reason::Mismatch(mismatch) => match mismatch.check {
                Check::Lse | Check::LseRms => "the softmax invariants: maximum and sum, and ln 2",
                Check::Nan => "masked keys, padding and empty rows: what multiplies 0, what subtracts −∞",
                _ if problem.mask().is_causal() => {
                    "the mask's diagonal and the last key tile; then the softmax invariants"
                }
                _ if problem.head_dim() > 64 => "shared-memory indexing at d = 128; then ownership of rows",
                _ => "the last key tile, ownership of rows, the softmax invariants",
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, device, case, property, reason } = self;
        writeln!(f, "{generation} fails {property} on {device}")?;
        writeln!(f, "  case       {case}")?;
        writeln!(f, "  {reason}")?;
        writeln!(f, "  look at    {}", self.hint())?;
        write!(f, "  repeat     {}", repeat_command(generation, property, case))
    }
}

/// The command that asks this of a generation again.
pub(crate) fn repeat_command(generation: &str, property: &str, case: &Case) -> String {
    let option = match property {
        MATCHES_REFERENCE => String::new(),
        name => format!(" --property {name}"),
    };
    case.repeat_command(generation) + &option
}

impl std::error::Error for Failure {}

/// Name of the property that [`verify`] proves.
pub const MATCHES_REFERENCE: &str = "matches_reference";

/// Proves a generation on one case: the result is as near the oracle as its dtype allows, every element is written and
/// nothing else, and a second run (in another order on the interpreter, and with nothing around the tensors) gives the
/// same bits. Of problems that are slow in f64 a sample of rows is compared with the oracle.
///
/// # Errors
/// [`Failure`], also where the generation declines the case: see [`Failure::unsupported`].
pub fn verify(device: &dyn Device, generation: &dyn Attention, case: &Case) -> Result<Measured, Failure> {
    verify_thoroughly(device, generation, case, Thoroughness::for_problem(&case.problem))
}

/// [`verify`], as thoroughly as told.
///
/// # Errors
/// As [`verify`].
pub fn verify_thoroughly(
    device: &dyn Device,
    generation: &dyn Attention,
    case: &Case,
    thoroughness: Thoroughness,
) -> Result<Measured, Failure> {
    // Declined before the numbers are made.
    generation
        .plan(&case.problem, device.limits())
        .map_err(Error::from)
        .and_then(|_| check_memory(&case.problem))
        .map_err(|error| Failure::new(device, generation, case, MATCHES_REFERENCE, error))?;
    verify_data(device, generation, &case.problem, &case.data(), case.schedule, thoroughness)
        .map_err(|reason| Failure::new(device, generation, case, MATCHES_REFERENCE, reason))
}

/// The numbers, the tensors on an interpreter and what it must leave unchanged have room in the host's memory.
fn check_memory(problem: &Problem) -> Result<(), Error> {
    const COPIES: usize = 3;
    let near = near(problem);
    let elements = Operand::ALL.map(|operand| near.span(operand)).into_iter().fold(0, usize::saturating_add);
    check_host_memory("the case's tensors", elements.saturating_mul(COPIES * problem.dtype().bytes()))
}

/// [`verify`] on numbers of your own, which lie as [`near`]'s problem says.
///
/// # Errors
/// [`Reason`].
pub fn verify_data(
    device: &dyn Device,
    generation: &dyn Attention,
    problem: &Problem,
    data: &Data,
    schedule: u64,
    thoroughness: Thoroughness,
) -> Result<Measured, Reason> {
    let (output, _) = run_alone(device, generation, problem, data, schedule, thoroughness.repetitions)?;
    judge(&reference(problem, data, thoroughness)?, &output, generation)
}

/// Proves a few rows of a case: `generation` is one whose plans have fewer blocks than the case needs, so that a large problem is looked
/// at in the sizes that it has. Of the rows that were written, those of one head are compared with the oracle.
///
/// # Errors
/// [`Failure`]; above all where no row was written.
pub fn verify_written_rows(device: &dyn Device, generation: &dyn Attention, case: &Case) -> Result<Measured, Failure> {
    const MOST_ROWS: usize = 64;
    let problem = &case.problem;
    let judge_rows = || -> Result<Measured, Reason> {
        generation.plan(problem, device.limits()).map_err(Error::from)?;
        check_memory(problem)?;
        let data = case.data();
        device.set_schedule(case.schedule);
        let stage = Stage::new(device, problem, &data, Surroundings::Exact)?;
        let ran = stage.run(generation)?;
        stage.check_inputs()?;
        let output = ran.so_far(device)?;
        let near = near(problem);
        let is_written = |row: [usize; 3]| output.row(&near, row).iter().all(|bits| *bits != POISON);
        let written: Vec<[usize; 3]> = rows(&near).filter(|row| is_written(*row)).collect();
        let Some([batch, head, _]) = written.first().copied() else {
            return Err(Reason::Unjudged { rows: 0 });
        };
        let of_head = written.iter().filter(|row| row[..2] == [batch, head]);
        let queries: Vec<usize> = of_head.map(|row| row[2]).take(MOST_ROWS).collect();
        let few = Rows { batches: vec![batch], heads: vec![head], queries };
        judge(&Reference::compute(&near, &data.inputs(), Some(&few))?, &output, generation)
    };
    judge_rows().map_err(|reason| Failure::new(device, generation, case, MATCHES_REFERENCE, reason))
}

/// Runs once, with guards around the tensors, and then again and again with nothing around them: always the same bits.
fn run_alone(
    device: &dyn Device,
    generation: &dyn Attention,
    problem: &Problem,
    data: &Data,
    schedule: u64,
    repetitions: u32,
) -> Result<(Output, Duration), Reason> {
    generation.plan(problem, device.limits()).map_err(Error::from)?;
    run_repeatedly(device, problem, schedule, repetitions, |first| {
        let surroundings = if first { Surroundings::Guarded } else { Surroundings::Exact };
        let stage = Stage::new(device, problem, data, surroundings)?;
        let ran = stage.run(generation)?;
        stage.check_inputs()?;
        Ok(ran)
    })
}

/// `run` for the first time, and then for as many others as told: always the same bits. The last run's duration.
fn run_repeatedly(
    device: &dyn Device,
    problem: &Problem,
    schedule: u64,
    repetitions: u32,
    run: impl Fn(bool) -> Result<Ran, RunError>,
) -> Result<(Output, Duration), Reason> {
    device.set_schedule(schedule);
    let first = run(true)?;
    let (output, mut took) = (first.output(device, problem)?, first.took);
    drop(first);
    for repetition in 1..=u64::from(repetitions) {
        device.set_schedule(schedule.wrapping_add(repetition));
        let ran = run(false)?;
        took = ran.took;
        let again = ran.output(device, problem)?;
        if let Some(difference) = difference(&near(problem), &again, &output, |_| true) {
            return Err(Reason::Differs { what: "a second run of the same input differs", difference });
        }
    }
    Ok((output, took))
}

/// The oracle's answer, as thoroughly as told.
fn reference(problem: &Problem, data: &Data, thoroughness: Thoroughness) -> Result<Reference, ReferenceError> {
    let rows = thoroughness.rows.map(|count| sample_rows(problem, count));
    Reference::compute(&near(problem), &data.inputs(), rows.as_ref())
}

/// A case with its numbers and the oracle's answer, made once for all the generations that are asked.
pub struct Question {
    case: Case,
    data: Data,
    reference: Reference,
    thoroughness: Thoroughness,
}

impl Question {
    /// Draws the numbers and asks the oracle.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn new(case: Case, thoroughness: Thoroughness) -> Result<Self, ReferenceError> {
        let data = case.data();
        let reference = reference(&case.problem, &data, thoroughness)?;
        Ok(Self { case, data, reference, thoroughness })
    }

    /// What is asked.
    pub fn case(&self) -> &Case {
        &self.case
    }

    /// The numbers.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// [`ask`](Self::ask) of several generations, answers in their order. What does not depend on the generation is done
    /// once: the inputs are placed once and looked at again after all have run, and answers are judged on all cores.
    pub fn ask_all(&self, device: &dyn Device, generations: &[&dyn Attention]) -> Vec<Result<Answer, Failure>> {
        // As many outputs are in memory at once.
        const TOGETHER: usize = 8;
        generations.chunks(TOGETHER).flat_map(|some| self.ask_together(device, some)).collect()
    }

    fn ask_together(&self, device: &dyn Device, generations: &[&dyn Attention]) -> Vec<Result<Answer, Failure>> {
        let Self { case, data, reference, thoroughness } = self;
        let alone = |generation: &&dyn Attention| self.ask(device, *generation);
        let stage = |surroundings| Stage::new(device, &case.problem, data, surroundings);
        let (Ok(guarded), Ok(exact)) = (stage(Surroundings::Guarded), stage(Surroundings::Exact)) else {
            // If memory is short, run them one by one, so that each reports its own error.
            return generations.iter().map(alone).collect();
        };
        let run = |generation: &&dyn Attention| {
            generation.plan(&case.problem, device.limits()).map_err(Error::from)?;
            let on = |first| Ok(if first { guarded.run(*generation)? } else { exact.run(*generation)? });
            run_repeatedly(device, &case.problem, case.schedule, thoroughness.repetitions, on)
        };
        let ran: Vec<Result<(Output, Duration), Reason>> = generations.iter().map(run).collect();
        if guarded.check_inputs().and_then(|()| exact.check_inputs()).is_err() {
            // One of them wrote to the shared inputs, so no answer counts. Run alone, each is judged by what it did.
            return generations.iter().map(alone).collect();
        }
        let judged = generations.par_iter().zip(ran).map(|(generation, ran)| {
            ran.and_then(|(output, took)| Ok(Answer { measured: judge(reference, &output, *generation)?, took }))
        });
        let judged: Vec<Result<Answer, Reason>> = judged.collect();
        let failure = |(generation, reason): (&&dyn Attention, Reason)| {
            Failure::new(device, *generation, case, MATCHES_REFERENCE, reason)
        };
        generations.iter().zip(judged).map(|(who, answer)| answer.map_err(|reason| failure((who, reason)))).collect()
    }

    /// [`verify_thoroughly`], without drawing and computing anew what does not depend on the generation.
    ///
    /// # Errors
    /// As there.
    pub fn ask(&self, device: &dyn Device, generation: &dyn Attention) -> Result<Answer, Failure> {
        let Self { case, data, reference, thoroughness } = self;
        run_alone(device, generation, &case.problem, data, case.schedule, thoroughness.repetitions)
            .and_then(|(output, took)| Ok(Answer { measured: judge(reference, &output, generation)?, took }))
            .map_err(|reason| Failure::new(device, generation, case, MATCHES_REFERENCE, reason))
    }
}

impl Question {
    /// [`ask`](Self::ask), but of one run, with nothing around the tensors.
    ///
    /// # Errors
    /// As there.
    pub fn ask_once(&self, device: &dyn Device, generation: &dyn Attention) -> Result<(), Failure> {
        let Self { case, data, reference, .. } = self;
        let run = || {
            device.set_schedule(case.schedule);
            let output = execute(device, generation, &case.problem, data, Surroundings::Exact)?;
            judge(reference, &output, generation)
        };
        run().map(drop).map_err(|reason| Failure::new(device, generation, case, MATCHES_REFERENCE, reason))
    }
}

impl Question {
    /// The oracle's verdict on an output that a generation has left somewhere else: element bits, strided as the problem's output.
    ///
    /// # Errors
    /// [`Failure`] where it is wrong, or no row can be judged.
    pub fn judge_output(&self, device: &dyn Device, generation: &dyn Attention, out: &[u16]) -> Result<(), Failure> {
        let tolerance = Tolerance { factor: generation.generation().accuracy.factor(), ..Tolerance::default() };
        let failed = |reason: Reason| Failure::new(device, generation, &self.case, MATCHES_REFERENCE, reason);
        let judged =
            self.reference.judge(&Found { out, lse: None }, &tolerance).map_err(|reason| failed(reason.into()))?;
        match judged.judged {
            Judged { rows, .. } if judged.judged.is_nothing() => Err(failed(Reason::Unjudged { rows })),
            _ => Ok(()),
        }
    }
}

/// What a generation that is right answered.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// How near the oracle it came.
    pub measured: Measured,
    /// How long its last pass took, from the launch until the host knew of its end: good to some tens of microseconds,
    /// on a device that keeps time.
    pub took: Duration,
}

/// The oracle's verdict on an output, by what the generation promises; no verdict at all where no row could be judged.
pub(crate) fn judge(reference: &Reference, output: &Output, generation: &dyn Attention) -> Result<Measured, Reason> {
    let tolerance = Tolerance { factor: generation.generation().accuracy.factor(), ..Tolerance::default() };
    let measured = reference.judge(&Found { out: &output.out, lse: Some(&output.lse) }, &tolerance)?;
    match measured.judged {
        Judged { rows, .. } if measured.judged.is_nothing() => Err(Reason::Unjudged { rows }),
        _ => Ok(measured),
    }
}

/// Runs a case that was found wrong once more and says in words what its result looks like: see [`sdpa_ref::likeness`]. Empty if
/// it does not run, or nothing known fits.
pub fn likeness(device: &dyn Device, generation: &dyn Attention, case: &Case) -> Vec<String> {
    let (problem, data) = (&case.problem, case.data());
    device.set_schedule(case.schedule);
    let output = execute(device, generation, problem, &data, Surroundings::Exact);
    let reference = reference(problem, &data, Thoroughness::for_problem(problem));
    match (output, reference) {
        (Ok(output), Ok(reference)) => {
            let found = Found { out: &output.out, lse: Some(&output.lse) };
            sdpa_ref::likeness(&reference, &data.inputs(), &found)
        }
        _ => Vec::new(),
    }
}

/// About `count` query positions of every head: the first and the last quarter of them (64 at most), where tiles begin
/// and end raggedly, and random ones between them.
pub(crate) fn sample_rows(problem: &Problem, count: usize) -> Rows {
    /// The largest query tile of any generation so far.
    const EDGE: usize = 64;
    let length = problem.len_q();
    let mut random = Random::new(length as u64, &[]);
    let edge = EDGE.min(count / 4);
    let edges = (0..edge.min(length)).chain(length.saturating_sub(edge)..length);
    let between = (0..count.saturating_sub(2 * edge)).map(|_| random.below(length));
    let queries: std::collections::BTreeSet<usize> =
        if count < length { edges.chain(between).collect() } else { (0..length).collect() };
    Rows { queries: queries.into_iter().collect(), ..Rows::all(problem) }
}

/// Where two outputs of a problem differ in bits, in the rows that `compared` names.
pub(crate) fn difference(
    problem: &Problem,
    found: &Output,
    expected: &Output,
    compared: impl Fn([usize; 3]) -> bool,
) -> Option<Difference> {
    // Most outputs are equal, and equal memory is seen faster than equal rows.
    let bits = |output: &Output| output.lse.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    if found.out == expected.out && bits(found) == bits(expected) {
        return None;
    }
    difference_between((problem, found), (problem, expected), |row| compared(row).then_some(row))
}

/// Where a row of one output differs in bits from the row of another that `counterpart` names, if it names one.
pub(crate) fn difference_between(
    (problem, found): (&Problem, &Output),
    (other_problem, expected): (&Problem, &Output),
    counterpart: impl Fn([usize; 3]) -> Option<[usize; 3]>,
) -> Option<Difference> {
    let (mut first, mut differing, mut of) = (None, 0, 0);
    let decode = |bits: u16| problem.dtype().decode(bits);
    for row in rows(problem) {
        let Some(other) = counterpart(row) else { continue };
        of += 1;
        let (found_row, expected_row) = (found.row(problem, row), expected.row(other_problem, other));
        let (lse, expected_lse) = (found.lse_at(problem, row), expected.lse_at(other_problem, other));
        let column = found_row.iter().zip(expected_row).position(|(found, expected)| found != expected);
        if column.is_none() && lse.to_bits() == expected_lse.to_bits() {
            continue;
        }
        differing += 1;
        let values = match column {
            Some(column) => (decode(found_row[column]), decode(expected_row[column])),
            None => (f64::from(lse), f64::from(expected_lse)),
        };
        first.get_or_insert((Position { row, column }, values));
    }
    first.map(|(first, values)| Difference { first, values, rows: differing, of })
}
