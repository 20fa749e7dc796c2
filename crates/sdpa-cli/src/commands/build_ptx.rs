//! `sdpa build-ptx`: compiles every kernel with NVRTC and packs the PTX into the generations' crates.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use sdpa_cli::packs;
use sdpa_toolchain::{Checkout, Mode, Nvrtc, Pack, Sources, build};

use super::{FAILED, Outcome, all_generations, bar, generation};

/// Kernels of a pack that are named one by one.
const SHOWN: usize = 4;

/// Compile kernels with NVRTC into the packs that the generations' crates embed (needs no GPU)
#[derive(clap::Args, Debug)]
pub(crate) struct BuildPtx {
    /// Whose kernels: ids of generations, `parallel` or `mutants`; all by default
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// The folder of kernel sources to compile; the checkout's own by default
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Write nothing; exit 1 if a pack is not what its sources compile to
    #[arg(long)]
    check: bool,
}

impl BuildPtx {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let packs = self.packs()?;
        let checkout = Checkout::find()?;
        let nvrtc = Nvrtc::find(&checkout)?;
        let total: usize = packs.iter().map(|pack| pack.kernels.len()).sum();
        let progress = bar(total as u64);
        let sources = match &self.kernels {
            Some(folder) => Sources::read(folder)?,
            None => checkout.sources()?,
        };
        let mode = if self.check { Mode::Check } else { Mode::Write };
        let changed = build(&checkout, &sources, &nvrtc, &packs, mode, |kernel| {
            progress.set_message(kernel.to_string());
            progress.inc(1);
        });
        progress.finish_and_clear();
        let changed = changed?;
        for pack in &changed {
            let what = if self.check { "differs:" } else { "changed:" };
            let kernels = match pack.kernels.as_slice() {
                few if few.len() <= SHOWN => few.join(", "),
                many => format!("{} kernels", many.len()),
            };
            writeln!(out, "{what} {} ({kernels})", pack.path.display())?;
        }
        let outcome = if self.check { "would change" } else { "changed" };
        let (major, minor) = nvrtc.version();
        let count = changed.len();
        writeln!(
            out,
            "{total} kernels compiled with NVRTC {major}.{minor}, {count} of {} packs {outcome}",
            packs.len()
        )?;
        Ok(if self.check && count > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    fn packs(&self) -> Result<Vec<Pack>, String> {
        let all = packs::all();
        if self.ids.is_empty() {
            // A generation that this program does not know would be left out in silence.
            all_generations()?;
            return Ok(all);
        }
        let find = |id: &String| match all.iter().find(|pack| pack.id == id) {
            Some(pack) => Ok(pack.clone()),
            None => Err(generation(id).err().unwrap_or_default()),
        };
        self.ids.iter().map(find).collect()
    }
}
