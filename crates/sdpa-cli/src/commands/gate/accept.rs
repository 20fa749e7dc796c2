//! `sdpa gate --accept`: what follows from an edit that passed is written down.

use std::io::Write;

use harness::snapshots::Snapshot;
use sdpa::generations;
use sdpa_cli::packs;
use sdpa_core::Attention;
use sdpa_toolchain::{Checkout, CodePack, KernelTexts, Mode, build_code, find_ptxas, write_whole};
use similar::TextDiff;

use crate::commands::resources;

/// Packs the PTX that was judged and its machine code, and accepts costs, plans and counters of a generation, each after showing what changed.
/// `judged` are the generation and its mutants.
pub(super) fn accept(
    out: &mut dyn Write,
    generation: &'static dyn Attention,
    judged: &[&dyn Attention],
    texts: &KernelTexts,
) -> Result<(), Box<dyn std::error::Error>> {
    let who = generation.generation();
    if generations::find(who.id).is_none() {
        return Err(format!("{} is a mutant: nothing of it is accepted", who.id).into());
    }
    let checkout = Checkout::find()?;
    writeln!(out, "accepting what {} is now:", who.id)?;
    pack(out, &checkout, judged, texts)?;

    let (source, costs) = resources::measure(&[who.into()], texts)?;
    resources::accept(out, &checkout, &who.into(), &source, &costs)?;

    for snapshot in Snapshot::ALL {
        let now = snapshot.now(generation, texts).map_err(|error| error.to_string())?;
        let file = snapshot.path(who.id);
        let failed = |error| format!("{}: {error}", file.display());
        let before = snapshot.remembered(checkout.root(), who.id).map_err(failed)?;
        if before.trim_end() == now.trim_end() {
            writeln!(out, "{}: {} as accepted before", who.id, snapshot.name())?;
            continue;
        }
        let now = now.trim_end();
        let difference = TextDiff::from_lines(before.as_str(), now);
        writeln!(out, "{}: {} accepted in {}", who.id, snapshot.name(), file.display())?;
        write!(out, "{}", difference.unified_diff().context_radius(1).missing_newline_hint(false))?;
        snapshot.accept(checkout.root(), who.id, now).map_err(failed)?;
    }
    Ok(())
}

/// Writes the packs whose kernels were compiled: the generation's, and the one of all mutants if one of its mutants includes
/// the kernel.
fn pack(
    out: &mut dyn Write,
    checkout: &Checkout,
    judged: &[&dyn Attention],
    texts: &KernelTexts,
) -> Result<(), Box<dyn std::error::Error>> {
    let compiled = |kernel: &&sdpa_core::Specialisation| texts.is_compiled(kernel);
    let ids: Vec<&str> = judged
        .iter()
        .map(|one| one.generation())
        .filter(|who| who.specialisations.iter().any(|kernel| compiled(&kernel)))
        .map(|who| if generations::find(who.id).is_some() { who.id } else { packs::MUTANTS })
        .collect();
    for pack in packs::all().into_iter().filter(|pack| ids.contains(&pack.id)) {
        let kernels = pack.kernels.iter().map(|kernel| Ok((kernel.packed_name(), texts.of(kernel)?.to_owned())));
        let packed: Vec<(String, String)> = kernels.collect::<Result<_, sdpa_core::Error>>()?;
        write_whole(&checkout.root().join(&pack.path), &sdpa_toolchain::pack(&packed))?;
        let count = pack.kernels.iter().filter(|kernel| compiled(kernel)).count();
        writeln!(out, "{}: packed in {} ({count} kernels are new)", pack.id, pack.path.display())?;
        let codes = CodePack::of(&pack);
        if codes.is_empty() {
            continue;
        }
        let ptxas = find_ptxas(checkout)?;
        for changed in build_code(checkout, &ptxas, &codes, Mode::Write, |kernel| texts.of(kernel), |_| ())? {
            writeln!(out, "{}: machine code in {}", pack.id, changed.path.display())?;
        }
    }
    Ok(())
}
