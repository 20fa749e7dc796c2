//! `sdpa ptx`: prints packed PTX.

use std::io::Write;
use std::process::ExitCode;

use super::{Outcome, subject};

/// Print the packed PTX of a generation's kernels, which is what the driver compiles and the interpreter executes
#[derive(clap::Args, Debug)]
pub(crate) struct Ptx {
    /// Which generation or mutant
    #[arg(value_name = "ID")]
    generation: String,
    /// One of its kernels, such as f16_d64; all by default
    #[arg(value_name = "KERNEL")]
    kernel: Option<String>,
}

impl Ptx {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let who = subject(&self.generation)?.generation();
        let Some(name) = &self.kernel else {
            for kernel in who.specialisations {
                write!(out, "{}{}\n{}", sdpa_core::PackedPtx::KERNEL, kernel.packed_name(), kernel.packed_ptx()?)?;
            }
            return Ok(ExitCode::SUCCESS);
        };
        let names: Vec<&str> = who.specialisations.iter().map(|kernel| kernel.name).collect();
        let kernel = who.specialisations.iter().find(|kernel| kernel.name == name || kernel.packed_name() == *name);
        let kernel =
            kernel.ok_or_else(|| format!("{} has no kernel `{name}`: there are {}", who.id, names.join(", ")))?;
        write!(out, "{}", kernel.packed_ptx()?)?;
        Ok(ExitCode::SUCCESS)
    }
}
