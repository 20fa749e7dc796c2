//! `sdpa build-ptx`: compiles every kernel with NVRTC into `kernels/ptx/`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use harness::ptx;
use sdpa_core::Toolchain;

use super::{FAILED, Outcome, bar};

/// Compile every kernel with NVRTC into kernels/ptx/ (needs kernels/requirements.txt, no GPU)
#[derive(clap::Args, Debug)]
pub(crate) struct BuildPtx {
    /// Folder that gets ptx/; by default the one this program was built from
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Write nothing; exit 1 where a committed file is not what its source compiles to
    #[arg(long)]
    check: bool,
}

impl BuildPtx {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let (major, minor) = Toolchain::find()?.version;
        let folder = self.kernels.clone().unwrap_or_else(ptx::kernels_folder);
        let total = ptx::specialisations().len();
        let progress = bar(total as u64);
        let mode = if self.check { ptx::Mode::Check } else { ptx::Mode::Write };
        let changed = ptx::build(&folder, mode, |kernel| {
            progress.set_message(kernel.to_string());
            progress.inc(1);
        });
        progress.finish_and_clear();
        let changed = changed?;
        for path in &changed {
            let path = path.strip_prefix(&folder).unwrap_or(path).display();
            writeln!(out, "{} kernels/{path}", if self.check { "differs:" } else { "changed:" })?;
        }
        let outcome = if self.check { "would change" } else { "changed" };
        writeln!(out, "{total} kernels compiled with NVRTC {major}.{minor}, {} files {outcome}", changed.len())?;
        Ok(if self.check && !changed.is_empty() { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}
