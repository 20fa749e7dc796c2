//! `sdpa gate --only acceptance`: the acceptance cases of several generations in one table.

use std::collections::HashMap;
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use harness::acceptance::{self, Acceptance, shape_of};
use harness::needs::case_as_needed;
use harness::table::{self, Align, Cell, Table, microseconds};
use harness::verify::Failure;
use sdpa_bench::timing::{self, Options, Record, Timing, Verified};
use sdpa_core::{Attention, Device, Error, Problem, Unsupported};
use sdpa_toolchain::resources::{self, Cost};

use sdpa_toolchain::KernelTexts;

use super::{FAILED, Outcome, keeps_time, spinner};

/// How the cases went.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    over_budget: bool,
}

/// Runs the acceptance cases of these generations and prints their table: each case is verified and only then timed.
///
/// The figures of `baseline` stand beside ours.
pub(super) fn run(
    out: &mut dyn Write,
    device: &dyn Device,
    generations: &[&'static dyn Attention],
    baseline: Option<Record>,
    texts: &KernelTexts,
) -> Outcome {
    let cases = acceptance::cases(device.kind());
    if let Some(note) = acceptance::shortened(&cases) {
        writeln!(out, "{note}")?;
    }
    if !keeps_time(device) {
        writeln!(out, "no times: figures come from a GPU only")?;
    }

    let mut sheet =
        Sheet { device, table: table(baseline.is_some()), baseline, times: HashMap::new(), tally: Tally::default() };
    writeln!(out, "{}", sheet.table.header())?;
    for generation in generations {
        for case in &cases {
            let case = &Acceptance { case: case_as_needed(*generation, &case.case), ..case.clone() };
            if !sheet.case(out, *generation, case)? {
                writeln!(out, "the CUDA context is lost: the remaining cases were not run")?;
                return Ok(ExitCode::from(FAILED));
            }
        }
    }
    sheet.budgets(out, generations, texts)?;
    sheet.conclude(out)
}

/// The columns; a peer's only if a file of figures was given.
fn table(with_peers: bool) -> Table {
    use Align::{Left, Right};
    let mut columns = vec![("generation", Left, 10), ("shape", Left, 17), ("mask", Left, 6), ("µs", Right, 5)];
    columns.extend([("parent µs", Right, 9), ("speed-up", Right, 8)]);
    if with_peers {
        columns.extend([("peer µs", Right, 7), ("speed-up", Right, 8), ("peer", Left, 9)]);
    }
    columns.extend([("max error", Right, 9), ("of bound", Right, 8), ("verdict", Left, 7)]);
    let titles: Vec<_> = columns.iter().map(|(title, align, _)| (*title, *align)).collect();
    // Rows are printed as they come, so there is room for what may come.
    let room: Vec<usize> = columns.iter().map(|(_, _, width)| *width).collect();
    Table::new(&titles).with_room(&room).with_colour(table::colour_wanted())
}

/// Why a case did not pass.
enum Trouble {
    /// Verification found it wrong, or could not run it.
    Wrong(Box<Failure>),
    /// It was right, and then could not be timed.
    NoTime(Error),
}

impl Trouble {
    fn unsupported(&self) -> Option<&Unsupported> {
        match self {
            Self::Wrong(failure) => failure.unsupported(),
            Self::NoTime(_) => None,
        }
    }

    fn is_sticky(&self) -> bool {
        match self {
            Self::Wrong(failure) => failure.is_sticky(),
            Self::NoTime(error) => error.is_sticky(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(failure) => failure.fmt(f),
            Self::NoTime(error) => write!(f, "right, but could not be timed: {error}"),
        }
    }
}

/// The table as it is printed, and what it has seen.
struct Sheet<'a> {
    device: &'a dyn Device,
    baseline: Option<Record>,
    table: Table,
    /// What this run has measured, by generation and problem.
    times: HashMap<(&'static str, String), f64>,
    tally: Tally,
}

impl Sheet<'_> {
    /// Runs one case and prints its line; false where the device is lost with it.
    fn case(
        &mut self,
        out: &mut dyn Write,
        generation: &'static dyn Attention,
        case: &Acceptance,
    ) -> std::io::Result<bool> {
        let id = generation.generation().id;
        let problem = &case.case.problem;
        let progress = spinner(format!("{id} {problem}"));
        let verified = Verified::new(self.device, generation, &case.case);
        let measured = verified.as_ref().ok().map(|verified| *verified.measured());
        let result =
            verified.map_err(Trouble::Wrong).and_then(|verified| self.time(problem, verified).map_err(Trouble::NoTime));
        progress.finish_and_clear();

        let time = result.as_ref().ok().and_then(Option::as_ref).map(|timing| timing.median_us);
        if let Some(time) = time {
            self.times.insert((id, problem.to_string()), time);
        }
        let mut row: Vec<Cell> = vec![id.into(), shape_of(problem).into(), problem.mask().name().into()];
        row.extend(self.time_cells(generation, problem, time));
        row.extend(match measured {
            Some(measured) => {
                [format!("{:.1e}", measured.max_abs), format!("{:.2}", measured.worst_ratio)].map(Cell::from)
            }
            None => [Cell::from("–"), Cell::from("–")],
        });
        let failure = result.err();
        let skipped = failure.as_ref().and_then(Trouble::unsupported);
        row.push(match (&failure, skipped) {
            (None, _) => "ok".into(),
            (_, Some(_)) => "skipped".into(),
            (Some(_), None) => Cell::bad("FAIL"),
        });
        writeln!(out, "{}", self.table.line(&row))?;

        match (&failure, skipped) {
            (None, _) => self.tally.passed += 1,
            (_, Some(reason)) => {
                self.tally.skipped += 1;
                writeln!(out, "  {reason}")?;
            }
            (Some(failure), None) => {
                self.tally.failed += 1;
                for line in failure.to_string().lines() {
                    writeln!(out, "  {line}")?;
                }
            }
        }
        out.flush()?;
        Ok(!failure.is_some_and(|failure| failure.is_sticky()))
    }

    /// Never before verification: the proof is used up here.
    fn time(&self, problem: &Problem, verified: Verified<'_>) -> Result<Option<Timing>, Error> {
        if !keeps_time(self.device) {
            return Ok(None);
        }
        Ok(timing::time(self.device, problem, vec![verified], &Options::default())?.pop())
    }

    /// Our time, the parent's (of this run, else the baseline's), the best peer's, and how many times faster we are.
    fn time_cells(&self, generation: &dyn Attention, problem: &Problem, time: Option<f64>) -> Vec<Cell> {
        let none = || Cell::from("–");
        let beside = |theirs: Option<f64>| match (time, theirs) {
            (Some(ours), Some(theirs)) => [microseconds(theirs).into(), format!("{:.2}×", theirs / ours).into()],
            (None, Some(theirs)) => [microseconds(theirs).into(), none()],
            (_, None) => [none(), none()],
        };
        let who = generation.generation();
        let parent = who.parent.and_then(|parent| {
            let now = self.times.get(&(parent, problem.to_string())).copied();
            now.or_else(|| self.baseline.as_ref()?.of(parent, problem).map(|figure| figure.median_us))
        });
        let mut cells = vec![time.map_or_else(none, |time| microseconds(time).into())];
        cells.extend(beside(parent));
        if let Some(baseline) = &self.baseline {
            let peer = baseline.best_peer(problem);
            cells.extend(beside(peer.map(|peer| peer.median_us)));
            cells.push(peer.map_or_else(none, |peer| peer.contender.as_str().into()));
        }
        cells
    }

    /// One line per generation: its budget and the most that any of its kernels takes of it.
    fn budgets(
        &mut self,
        out: &mut dyn Write,
        generations: &[&'static dyn Attention],
        texts: &KernelTexts,
    ) -> std::io::Result<()> {
        let sets: Vec<_> = generations.iter().map(|generation| generation.generation().into()).collect();
        let costs = match super::resources::measure(&sets, texts) {
            Ok((source, costs)) => {
                writeln!(out, "budgets (figures from {source})")?;
                costs
            }
            Err(error) => return writeln!(out, "budgets not checked: {error}"),
        };
        for generation in generations {
            let who = generation.generation();
            let own: Vec<&Cost> =
                costs.iter().filter(|cost| resources::budget_of(&[who.into()], cost).is_some()).collect();
            let most = |what: fn(&Cost) -> u32| own.iter().map(|cost| what(cost)).max().unwrap_or(0);
            let over = resources::over_budget(&[who.into()], &costs);
            writeln!(
                out,
                "  {:<5} registers {} of {}, shared bytes {} of {}, spilled {} of {}: {}",
                who.id,
                most(|cost| cost.registers),
                who.budget.registers,
                most(Cost::shared_bytes),
                who.budget.shared_bytes,
                most(|cost| cost.spill_bytes),
                who.budget.spill_bytes,
                if over.is_empty() { "ok" } else { "OVER BUDGET" },
            )?;
            for line in &over {
                writeln!(out, "    {line}")?;
            }
            self.tally.over_budget |= !over.is_empty();
        }
        Ok(())
    }

    fn conclude(self, out: &mut dyn Write) -> Outcome {
        let Tally { passed, failed, skipped, over_budget } = self.tally;
        write!(out, "{passed}/{} passed", passed + failed)?;
        if skipped > 0 {
            write!(out, ", {skipped} skipped")?;
        }
        writeln!(out, "{}", if over_budget { ", over budget" } else { "" })?;
        // A table in which nothing passed has proved nothing.
        let open = failed == 0 && passed > 0 && !over_budget;
        Ok(if open { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
    }
}
