//! `sdpa resources`: what every kernel costs, held to its generation's budget.

use std::io::Write;
use std::process::ExitCode;

use harness::table;
use sdpa_cli::cost_table::render_costs;
use sdpa_cli::packs;
use sdpa_core::{DeviceChoice, DeviceKind};
use sdpa_toolchain::resources::{self, Cost, KernelSet, ResourceError};
use sdpa_toolchain::{Checkout, KernelTexts, accepted, find_tool};
use serde::Serialize;

use super::{FAILED, Outcome, all_generations, bar, generation, kernel_texts_of_sets_or_packed};

/// Show registers, spills, shared memory and resident blocks of every kernel, and what is over budget
///
/// Figures come from ptxas for sm_80, sm_89 and sm_90a, or from the driver if there is a GPU and no ptxas. Exits 1 if
/// a kernel is over its generation's budget.
#[derive(clap::Args, Debug)]
pub(crate) struct Resources {
    /// Which generations, `parallel` for the kernels that merge the results of several ranks, or `cache` for those that append
    /// to a cache; all by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// Write JSON for programs
    #[arg(long, conflicts_with = "accept")]
    json: bool,
    /// Show what changed since the costs were last accepted, and accept it (crates/sdpa-cli/tests/resources/ID.json)
    #[arg(long)]
    accept: bool,
}

#[derive(Serialize)]
struct CostsJson<'a> {
    source: &'a str,
    over_budget: bool,
    kernels: &'a [Cost],
}

impl Resources {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let sets = self.subjects()?;
        let (source, costs) = measure(&sets, &kernel_texts_of_sets_or_packed(&sets)?)?;
        let over_budget = !resources::over_budget(&sets, &costs).is_empty();
        if self.accept {
            let checkout = Checkout::find()?;
            for set in &sets {
                accept(out, &checkout, set, &source, &costs)?;
            }
        } else if self.json {
            let report = CostsJson { source: &source, over_budget, kernels: &costs };
            writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
        } else {
            writeln!(out, "figures from {source}")?;
            write!(out, "{}", render_costs(&sets, &costs, table::colour_wanted()))?;
        }
        Ok(if over_budget { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    /// Whose kernels are asked about, in the order given.
    fn subjects(&self) -> Result<Vec<KernelSet<'static>>, String> {
        if self.generations.is_empty() {
            let generations = all_generations()?.into_iter().map(|generation| generation.generation().into());
            return Ok(generations.chain(packs::OTHERS).collect());
        }
        let subject = |id: &String| match packs::OTHERS.iter().find(|set| set.id == id) {
            Some(set) => Ok(*set),
            None => Ok(generation(id)?.generation().into()),
        };
        self.generations.iter().map(subject).collect()
    }
}

/// Where [`measure`] has its figures from if there is ptxas.
const FROM_PTXAS: &str = "ptxas";

/// Shows how a set's costs differ from those accepted before, and accepts them.
pub(crate) fn accept(
    out: &mut dyn Write,
    checkout: &Checkout,
    set: &KernelSet<'_>,
    source: &str,
    costs: &[Cost],
) -> Result<(), Box<dyn std::error::Error>> {
    // A driver's figures are of one architecture, and what is accepted is of three.
    if source != FROM_PTXAS {
        return Err(format!("costs from {source} are not accepted: install kernels/requirements.txt").into());
    }
    let id = set.id;
    let before = accepted::read(checkout, id)?.unwrap_or_default();
    let now = accepted::of_set(set, costs);
    if before == now {
        writeln!(out, "{id}: costs what was accepted before")?;
        return Ok(());
    }
    let differences = resources::differences(&before, &now);
    let same = if differences.is_empty() { ": its PTX is new and costs the same" } else { "" };
    writeln!(out, "{id}: accepted in {}{same}", accepted::path_of(id).display())?;
    for difference in differences {
        writeln!(out, "  {difference}")?;
    }
    Ok(accepted::write(checkout, set, &now)?)
}

/// Costs from ptxas, else from the GPU's driver, and which of them it was.
pub(crate) fn measure(
    sets: &[KernelSet<'_>],
    texts: &KernelTexts,
) -> Result<(String, Vec<Cost>), Box<dyn std::error::Error>> {
    let choice = DeviceChoice::from_env()?;
    let has_driver = choice.expected_kind() == DeviceKind::Cuda;
    let mut nothing =
        "no ptxas on PATH, in target/cuda, in CUDA_HOME or beside LD_LIBRARY_PATH, and no GPU to ask: install kernels/requirements.txt"
            .to_owned();
    if let Some(ptxas) = find_tool("ptxas") {
        let kernels: usize = sets.iter().map(|set| set.kernels.len()).sum();
        let progress = bar(kernels as u64);
        let costs = resources::assemble(&ptxas, sets, texts, |kernel| {
            progress.set_message(kernel.to_string());
            progress.inc(1);
        });
        progress.finish_and_clear();
        match costs {
            Ok(costs) => return Ok((FROM_PTXAS.to_owned(), costs)),
            // An older ptxas than the PTX asks for; the driver that will run the kernels has one of its own.
            Err(refused @ ResourceError::Refused { .. }) if has_driver => nothing = refused.to_string(),
            Err(error) => return Err(error.into()),
        }
    }
    if !has_driver {
        return Err(nothing.into());
    }
    let device = sdpa_core::open(choice)?;
    texts.install(&*device)?;
    let costs = resources::ask_device(&*device, sets)?.ok_or(nothing)?;
    Ok((format!("the driver of {}", device.name()), costs))
}
