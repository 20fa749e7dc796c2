//! `sdpa build-ptx`: compiles every kernel with NVRTC, assembles it with ptxas, and packs both into the generations' crates.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use sdpa_cli::packs;
use sdpa_toolchain::{Changed, Checkout, CodePack, Mode, Nvrtc, Pack, Sources, build, build_code, find_ptxas};

use super::{FAILED, Outcome, all_generations, bar, generation};

/// Kernels of a pack that are named one by one.
const SHOWN: usize = 4;

/// Compile kernels with NVRTC into the packs that the generations' crates embed (needs no GPU)
///
/// Beside the PTX of each generation stands the machine code that ptxas makes of it, which programs embed with the feature
/// `machine-code`. Only kernels whose PTX changed are assembled; `--check` assembles all.
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
        let compiled = build(&checkout, &sources, &nvrtc, &packs, mode, |kernel| {
            progress.set_message(kernel.to_string());
            progress.inc(1);
        });
        progress.finish_and_clear();
        let (changed, texts) = compiled?;
        self.tell(out, &changed)?;
        let (major, minor) = nvrtc.version();
        let (differ, count) = (changed.len(), packs.len());
        let outcome = if self.check { "would change" } else { "changed" };
        writeln!(out, "{total} kernels compiled with NVRTC {major}.{minor}, {differ} of {count} packs {outcome}")?;

        let ptxas = find_ptxas(&checkout)?;
        let packs: Vec<CodePack> = packs.iter().flat_map(CodePack::of).collect();
        let total: usize = packs.iter().map(|pack| pack.kernels.len()).sum();
        let progress = bar(total as u64);
        let assembled = build_code(
            &checkout,
            &ptxas,
            &packs,
            mode,
            |kernel| texts.of(kernel),
            |kernel| {
                progress.set_message(kernel.to_string());
                progress.inc(1);
            },
        );
        progress.finish_and_clear();
        let changed = assembled?;
        self.tell(out, &changed)?;
        let count = packs.len();
        writeln!(out, "their machine code in {count} packs, {} {outcome}", changed.len())?;
        let differs = differ + changed.len() > 0;
        Ok(if self.check && differs { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }

    fn tell(&self, out: &mut dyn Write, changed: &[Changed]) -> std::io::Result<()> {
        for pack in changed {
            let what = if self.check { "differs:" } else { "changed:" };
            let kernels = match pack.kernels.as_slice() {
                few if few.len() <= SHOWN => few.join(", "),
                many => format!("{} kernels", many.len()),
            };
            writeln!(out, "{what} {} ({kernels})", pack.path.display())?;
        }
        Ok(())
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
