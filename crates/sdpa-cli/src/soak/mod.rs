//! A soak test: a simulated server appends to a cache in pages and attends over it, for as many steps as told.
//!
//! Each step is what a server's is: one append and one forward pass, prepared once, of a fixed capacity; what changes stands on the
//! device. Every so many steps some sequences are judged beside the oracle, by what the server has given each of them since it came,
//! whatever the cache holds; and each of these is computed again alone, at another place of the batch, which must give the same bits.

mod judge;
mod machine;
mod server;
#[cfg(test)]
mod tests;

use std::time::Instant;

use harness::random::Random;
use sdpa_core::{Attention, Device, DeviceKind, Dtype, Error, PageTable, Paging, Problem, ProblemError};
use sdpa_ref::Judged;
use serde::Serialize;

use self::machine::Machine;
use self::server::{Server, Step};

/// How large the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Sequences that are served at once.
    pub sequences: usize,
    /// Query heads.
    pub heads_q: usize,
    /// Key and value heads.
    pub heads_kv: usize,
    /// Elements of a query, a key and a value, in bf16.
    pub head_dim: usize,
    /// Keys of a page.
    pub page: usize,
    /// Pages of the cache: fewer than all sequences would take at their longest.
    pub pages: usize,
    /// The most keys of a sequence.
    pub most_keys: usize,
    /// The most new tokens of a step, of all sequences.
    pub tokens: usize,
    /// The most new tokens of a sequence in a step: longer prompts take several steps.
    pub most_new: usize,
    /// The most tokens that a sequence gets after its prompt.
    pub most_grown: usize,
}

impl Shape {
    /// For the interpreter: some steps a second.
    pub const SMALL: Self = Self {
        sequences: 6,
        heads_q: 4,
        heads_kv: 2,
        head_dim: 64,
        page: 16,
        pages: 36,
        most_keys: 560,
        tokens: 40,
        most_new: 24,
        most_grown: 100,
    };

    /// For a GPU: a model's attention, and a cache of half a gigabyte.
    pub const LARGE: Self = Self {
        sequences: 64,
        heads_q: 32,
        heads_kv: 8,
        head_dim: 128,
        page: 16,
        pages: 8192,
        most_keys: 4096,
        tokens: 512,
        most_new: 128,
        most_grown: 1024,
    };

    /// What suits the device.
    pub fn of_device(device: &dyn Device) -> Self {
        match device.kind() {
            DeviceKind::Cuda => Self::LARGE,
            DeviceKind::Interpreter => Self::SMALL,
        }
    }

    /// The problem that every step is: packed queries over pages, each sequence's last query at its last key.
    fn problem(&self) -> Result<Problem, ProblemError> {
        let table = PageTable::Rows { width: self.most_keys.div_ceil(self.page) };
        let packing =
            sdpa_core::Packing { sequences: self.sequences, longest_q: self.most_new, longest_kv: self.most_keys };
        Problem::packed(packing, self.heads_q, self.tokens, self.head_dim)
            .heads_kv(self.heads_kv)
            .len_kv(self.most_keys)
            .dtype(Dtype::Bf16)
            .mask(sdpa_core::Mask::Causal)
            .paged(Paging { page: self.page, pages: self.pages, table })
            .build()
    }
}

/// How long to run, and how much to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Steps.
    pub steps: u64,
    /// Steps from one that is judged to the next.
    pub every: u64,
    /// Sequences that are judged then; all of them if there are fewer.
    pub sampled: usize,
    /// What everything is drawn from.
    pub seed: u64,
}

/// What a run did, and what it found wrong.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Steps that were run.
    pub steps: u64,
    /// Sequences that came, and those of them that began as another one did.
    pub sequences: u64,
    /// See [`sequences`](Self::sequences).
    pub shared_prefixes: u64,
    /// Sequences that ended as they were to, and those that were ended because no page was free.
    pub ended: u64,
    /// See [`ended`](Self::ended).
    pub evicted: u64,
    /// Tokens that were appended.
    pub tokens: u64,
    /// Pages that were taken from the free ones, and the most that were in use at once.
    pub pages_taken: u64,
    /// See [`pages_taken`](Self::pages_taken).
    pub most_pages: usize,
    /// The longest sequence that was judged, in keys.
    pub longest_judged: usize,
    /// Steps of which something was judged.
    pub judged_steps: u64,
    /// Rows (a query of a head) that were compared with the oracle.
    pub judged_rows: usize,
    /// Rows that could be anything, because f32 may overflow in them.
    pub unjudged_rows: usize,
    /// Rows that were computed again alone.
    pub repeated_rows: usize,
    /// Bytes that the device had allocated while the steps ran, if it counts them; they were the same after each.
    pub allocated_bytes: Option<usize>,
    /// How long it took.
    pub seconds: f64,
    /// What is wrong, a line each; the run ends with the step that was.
    pub findings: Vec<String>,
}

impl Report {
    /// True if nothing is wrong and something was judged.
    pub fn passed(&self) -> bool {
        self.findings.is_empty() && self.judged_rows > 0 && self.repeated_rows > 0
    }

    fn found(&mut self, step: u64, what: impl std::fmt::Display) {
        self.findings.push(format!("step {step}: {what}"));
    }

    fn note(&mut self, judged: Judged) {
        self.judged_rows += judged.rows - judged.unjudged;
        self.unjudged_rows += judged.unjudged;
    }
}

/// Runs the server on a device; `progress` hears each step's number, and the report so far.
///
/// # Errors
/// A generation that declines the problem, and a device that fails. What the interpreter finds in a kernel is in the report.
pub fn soak(
    device: &dyn Device,
    generation: &dyn Attention,
    shape: Shape,
    options: Options,
    progress: impl FnMut(u64, &Report),
) -> Result<Report, Error> {
    soak_meddled(device, generation, shape, options, progress, |_, _, _| {})
}

/// The same, where each step is handed to `meddle` before it is run: tests do there what must be noticed.
fn soak_meddled(
    device: &dyn Device,
    generation: &dyn Attention,
    shape: Shape,
    options: Options,
    progress: impl FnMut(u64, &Report),
    meddle: impl FnMut(u64, &mut Server, &mut Step),
) -> Result<Report, Error> {
    let started = Instant::now();
    let before = device.allocated_bytes();
    let mut server = Server::new(shape, options.seed);
    let mut report = Report::default();
    {
        let machine = Machine::new(device, generation, shape)?;
        run_steps(&machine, &mut server, options, &mut report, progress, meddle)?;
    }
    device.synchronize()?;
    if device.allocated_bytes() != before {
        let now = device.allocated_bytes();
        report.findings.push(format!("at the end the device has allocated {now:?} bytes, {before:?} at the start"));
    }
    report.findings.extend(server.drain());
    server.tell(&mut report);
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

fn run_steps(
    machine: &Machine<'_>,
    server: &mut Server,
    options: Options,
    report: &mut Report,
    mut progress: impl FnMut(u64, &Report),
    mut meddle: impl FnMut(u64, &mut Server, &mut Step),
) -> Result<(), Error> {
    let mut random = Random::new(options.seed, &[0x6a75_6467]);
    let graph = machine.record()?;
    report.allocated_bytes = machine.device().allocated_bytes();
    for number in 0..options.steps {
        let mut step = server.step();
        meddle(number, server, &mut step);
        machine.device().set_schedule(options.seed.wrapping_add(number));
        match machine.run(&step, graph.as_deref()) {
            // The interpreter's word on a kernel; a driver's is an error of the device.
            Err(error @ (Error::Findings { .. } | Error::Tickets { .. })) => report.found(number, error),
            ran => ran?,
        }
        let is_judged = number % options.every.max(1) == 0 || number + 1 == options.steps;
        if is_judged && report.findings.is_empty() {
            judge::judge_step(machine, server, &step, options.sampled, number, &mut random, report)?;
        }
        if machine.device().allocated_bytes() != report.allocated_bytes {
            report.found(number, format_args!("allocated {:?} bytes", machine.device().allocated_bytes()));
        }
        report.steps = number + 1;
        progress(number, report);
        if !report.findings.is_empty() {
            // What comes after it would be judged by a server that is wrong.
            break;
        }
    }
    Ok(())
}
