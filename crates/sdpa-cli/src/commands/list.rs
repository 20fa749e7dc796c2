//! `sdpa list`: the generations and what they take.

use std::io::Write;
use std::process::ExitCode;

use harness::needs::as_needed;
use harness::table::{Align, Table};
use sdpa::generations;
use sdpa_core::{Attention, DeviceLimits, Dtype, Extensions, MAX_HEAD_DIM, Problem};
use serde::Serialize;

use super::Outcome;

/// List the generations: the idea, what each takes, and what it may cost
#[derive(clap::Args, Debug)]
pub(crate) struct List {
    /// Write JSON for programs
    #[arg(long)]
    json: bool,
}

/// One generation, as a program reads it.
#[derive(Serialize)]
struct Entry {
    id: &'static str,
    title: &'static str,
    parent: Option<&'static str>,
    takes: Vec<Capability>,
    /// What it takes no problem without.
    #[serde(skip_serializing_if = "Option::is_none")]
    needs: Option<&'static str>,
    gpus: Vec<&'static str>,
    specialisations: Vec<&'static str>,
    budget: BudgetEntry,
    accuracy_factor: f64,
}

/// Head dimensions that a dtype is taken with.
#[derive(Serialize)]
struct Capability {
    dtype: &'static str,
    head_dims: Vec<usize>,
    /// The longest of [`LENGTHS`] that is taken for one sequence of 8 heads; none where all are, or none is.
    longest: Option<usize>,
    /// No more than a few queries are taken: it decodes.
    decodes: bool,
}

#[derive(Serialize)]
struct BudgetEntry {
    registers: u32,
    shared_bytes: u32,
    spill_bytes: u32,
}

/// The lengths that plans are asked about.
const LENGTHS: [usize; 8] = [64, 256, 512, 1024, 2048, 4096, 16384, 65536];

/// The GPUs that plans are asked about.
const GPUS: [(&str, DeviceLimits); 3] =
    [("sm_80", DeviceLimits::A100), ("sm_89", DeviceLimits::L4), ("sm_90", DeviceLimits::H200)];

impl List {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let entries: Vec<Entry> = generations::ALL.iter().copied().map(entry).collect();
        if self.json {
            writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut table = Table::new(&[
            ("id", Align::Left),
            ("parent", Align::Left),
            ("takes", Align::Left),
            ("GPUs", Align::Left),
            ("kernels", Align::Right),
            ("registers", Align::Right),
            ("shared KB", Align::Right),
            ("spill B", Align::Right),
            ("idea", Align::Left),
        ]);
        for entry in &entries {
            let takes: Vec<String> = entry.takes.iter().map(Capability::describe).collect();
            let needs = entry.needs.map(|needs| format!(", {needs} alone")).unwrap_or_default();
            table.push(vec![
                entry.id.into(),
                entry.parent.unwrap_or("–").into(),
                if takes.is_empty() { "nothing".into() } else { (takes.join(", ") + &needs).into() },
                entry.gpus.join(" ").into(),
                entry.specialisations.len().to_string().into(),
                format!("≤ {}", entry.budget.registers).into(),
                format!("≤ {}", kilobytes(entry.budget.shared_bytes)).into(),
                format!("≤ {}", entry.budget.spill_bytes).into(),
                entry.title.into(),
            ]);
        }
        write!(out, "{}", table.render())?;
        Ok(ExitCode::SUCCESS)
    }
}

fn kilobytes(bytes: u32) -> String {
    match bytes.is_multiple_of(1024) {
        true => (bytes / 1024).to_string(),
        false => format!("{:.1}", f64::from(bytes) / 1024.0),
    }
}

/// Keys that a single query is asked about.
const CACHE: usize = 4096;

/// What a generation takes is what it plans for, so its plan is asked: short and long problems on each GPU, and decoding.
fn entry(generation: &'static dyn Attention) -> Entry {
    let who = generation.generation();
    let plans = |dtype, head_dim, [queries, keys]: [usize; 2], limits: &DeviceLimits| {
        let problem = Problem::new(1, 8, queries, head_dim).len_kv(keys).dtype(dtype).build();
        problem.is_ok_and(|problem| generation.plan(&as_needed(generation, &problem), limits).is_ok())
    };
    let head_dims = |dtype, limits: &DeviceLimits| {
        let sizes = || LENGTHS.into_iter().map(|length| [length, length]).chain([[1, CACHE]]);
        let taken = |head_dim: &usize| sizes().any(|size| plans(dtype, *head_dim, size, limits));
        (8..=MAX_HEAD_DIM).step_by(8).filter(taken).collect::<Vec<_>>()
    };
    let longest = |dtype, head_dims: &[usize]| {
        let taken = |length: &usize| {
            let size = [*length, *length];
            GPUS.iter().any(|(_, limits)| head_dims.iter().any(|head_dim| plans(dtype, *head_dim, size, limits)))
        };
        LENGTHS.into_iter().rev().find(taken)
    };
    let dtypes = [Dtype::F16, Dtype::Bf16];
    let takes = dtypes
        .into_iter()
        .map(|dtype| {
            // The widest answer of any GPU; where one takes less, its plans say why.
            let head_dims = GPUS.iter().map(|(_, limits)| head_dims(dtype, limits)).max_by_key(Vec::len);
            let head_dims = head_dims.unwrap_or_default();
            let longest = longest(dtype, &head_dims);
            let all = longest == LENGTHS.last().copied();
            let decodes = longest.is_none();
            Capability { dtype: dtype.name(), longest: longest.filter(|_| !all), decodes, head_dims }
        })
        .filter(|capability| !capability.head_dims.is_empty())
        .collect();
    let runs_on = |limits| dtypes.into_iter().any(|dtype| !head_dims(dtype, limits).is_empty());
    Entry {
        id: who.id,
        title: who.title,
        parent: who.parent,
        takes,
        needs: generation.needs().first_not_in(Extensions::NONE),
        gpus: GPUS.iter().filter(|(_, limits)| runs_on(limits)).map(|(name, _)| *name).collect(),
        specialisations: who.specialisations.iter().map(|kernel| kernel.name).collect(),
        budget: BudgetEntry {
            registers: who.budget.registers,
            shared_bytes: who.budget.shared_bytes,
            spill_bytes: who.budget.spill_bytes,
        },
        accuracy_factor: who.accuracy.factor(),
    }
}

impl Capability {
    /// `f16 d ≤ 128`, or the dimensions themselves where they are no whole range of multiples of 8.
    fn describe(&self) -> String {
        let whole = self.head_dims.iter().enumerate().all(|(index, head_dim)| *head_dim == 8 * (index + 1));
        let dims = match (whole, self.head_dims.last()) {
            (true, Some(largest)) => format!("{} d ≤ {largest}", self.dtype),
            _ => {
                let dims: Vec<String> = self.head_dims.iter().map(usize::to_string).collect();
                format!("{} d {}", self.dtype, dims.join(" "))
            }
        };
        match self.longest {
            None if self.decodes => format!("{dims} (few queries)"),
            Some(longest) => format!("{dims} (8 heads of L ≤ {longest})"),
            None => dims,
        }
    }
}
