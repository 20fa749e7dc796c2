//! `sdpa seal`: a generation is done, and its kernel is not edited again.

use std::io::Write;
use std::process::ExitCode;

use sdpa_cli::sealed::Seals;
use sdpa_toolchain::Checkout;

use super::{Outcome, generation};

/// Seal generations: their kernels' code is not edited again
///
/// What a sealed generation does stands in its own file, so that the difference of two files is the lesson. A fault that is
/// mended in a sealed kernel is told under `## Fixed` in the generation's README, and then it is sealed again; without a new
/// entry this is refused. Comments may change. An idea is a new generation: see `sdpa new`.
#[derive(clap::Args, Debug)]
pub(crate) struct SealGenerations {
    /// Which generations
    #[arg(value_name = "ID", required = true)]
    generations: Vec<String>,
}

impl SealGenerations {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let ids: Vec<&str> =
            self.generations.iter().map(|id| Ok(generation(id)?.generation().id)).collect::<Result<_, String>>()?;
        let checkout = Checkout::find()?;
        let mut seals = Seals::read(&checkout)?;
        // All or none, so that a refusal leaves the list as it was.
        let changed: Vec<bool> = ids.iter().map(|id| seals.seal(&checkout, id)).collect::<Result<_, _>>()?;
        seals.write(&checkout)?;
        for (id, changed) in ids.iter().zip(changed) {
            writeln!(out, "{id}: {}", if changed { "sealed" } else { "sealed already, and unchanged" })?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
