//! `sdpa sass`: did an edit change the machine code?

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rayon::prelude::*;
use sdpa_core::{Attention, PackedPtx, Specialisation};
use sdpa_toolchain::resources::{ARCHITECTURES, Multiprocessor, ResourceError};
use sdpa_toolchain::sass::{Comparison, MachineCode, same_instructions};
use sdpa_toolchain::{Checkout, KernelTexts, Pack, find_tool};

use super::{FAILED, Outcome, bar, generations_or_all, kernel_texts};

/// Compare the machine code of every kernel with that of another checkout or of a git revision
///
/// Every specialisation is assembled by ptxas for every architecture that runs it, here and there: one line per kernel, `same`
/// or how many instructions differ. An instruction that moves others changes their branches' targets, which count, too.
/// Kernels that are newer than their packed PTX are compiled first; of the other side the packed PTX is read.
///
/// Exits 1 if any machine code differs.
#[derive(clap::Args, Debug)]
pub(crate) struct CompareSass {
    /// Which generations; all by default
    #[arg(value_name = "ID")]
    generations: Vec<String>,
    /// What to compare with: the folder of another checkout, or a revision of this one
    #[arg(long, value_name = "DIR|REVISION", default_value = "HEAD")]
    against: String,
}

/// Kernels of one generation on the other side: name in the pack → PTX.
type Others = BTreeMap<String, String>;

/// One kernel on one architecture, here and there.
struct Pair<'t> {
    kernel: &'t Specialisation,
    arch: &'static Multiprocessor,
    now: &'t str,
    before: &'t str,
}

impl CompareSass {
    pub(crate) fn run(&self, out: &mut dyn Write) -> Outcome {
        let generations = generations_or_all(&self.generations)?;
        let ptxas = find_tool("ptxas").ok_or("no ptxas on PATH or in target/cuda: install kernels/requirements.txt")?;
        let side = Side::open(&self.against)?;
        let texts = kernel_texts(&generations)?;
        let mut differing = 0;
        for generation in generations {
            let who = generation.generation();
            let Some(others) = side.kernels(who.id)? else {
                writeln!(out, "{}: there is no such generation in {}", who.id, self.against)?;
                continue;
            };
            differing += compare(out, generation, &texts, &others, &ptxas)?;
        }
        match differing {
            0 => writeln!(out, "all machine code is that of {}", self.against)?,
            _ => writeln!(out, "{differing} kernels differ from those of {}", self.against)?,
        }
        Ok(if differing > 0 { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}

/// Compares the kernels of one generation, a line each; how many differ.
fn compare(
    out: &mut dyn Write,
    generation: &'static dyn Attention,
    texts: &KernelTexts,
    others: &Others,
    ptxas: &Path,
) -> Result<usize, Box<dyn std::error::Error>> {
    let kernels = generation.generation().specialisations;
    let mut pairs = Vec::new();
    for kernel in kernels {
        let Some(before) = others.get(&kernel.packed_name()) else {
            writeln!(out, "{kernel}: new")?;
            continue;
        };
        let now = texts.of(kernel)?;
        let archs = ARCHITECTURES.iter().filter(|arch| arch.runs(kernel.architecture));
        pairs.extend(archs.map(|arch| Pair { kernel, arch, now, before }));
    }
    let progress = bar(pairs.len() as u64);
    let found = pairs.par_iter().map(|pair| {
        progress.set_message(pair.kernel.to_string());
        let found = pair.compare(ptxas);
        progress.inc(1);
        found
    });
    let found: Vec<Result<Comparison, ResourceError>> = found.collect();
    progress.finish_and_clear();

    let mut differing = 0;
    for (Pair { kernel, arch, .. }, found) in pairs.iter().zip(found) {
        match found? {
            Comparison::Same => writeln!(out, "{kernel} {}: same", arch.name)?,
            Comparison::Differs { changed, of } => {
                differing += 1;
                writeln!(out, "{kernel} {}: differs in {changed} of {of} instructions", arch.name)?;
            }
        }
    }
    for name in others.keys().filter(|name| kernels.iter().all(|kernel| kernel.packed_name() != **name)) {
        writeln!(out, "{}/{name}: gone", generation.generation().id)?;
    }
    Ok(differing)
}

impl Pair<'_> {
    fn compare(&self, ptxas: &Path) -> Result<Comparison, ResourceError> {
        if same_instructions(self.now, self.before) {
            return Ok(Comparison::Same);
        }
        let code = |ptx| MachineCode::assemble(ptxas, self.kernel, ptx, self.arch);
        Ok(code(self.before)?.compare(&code(self.now)?))
    }
}

/// What is compared with.
enum Side {
    Folder(PathBuf),
    Revision { root: PathBuf, name: String },
}

impl Side {
    fn open(name: &str) -> Result<Self, String> {
        if Path::new(name).is_dir() {
            let other =
                Checkout::at(Path::new(name)).ok_or_else(|| format!("{name} is no checkout of this repository"))?;
            return Ok(Self::Folder(other.root().to_owned()));
        }
        let root = Checkout::find().map_err(|error| error.to_string())?.root().to_owned();
        match git(&root, &["rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]) {
            Ok(Some(_)) => Ok(Self::Revision { root, name: name.to_owned() }),
            Ok(None) => Err(format!("{name} is neither a folder nor a revision of {}", root.display())),
            Err(error) => Err(error),
        }
    }

    /// The kernels of a generation; none if it has no pack there.
    fn kernels(&self, id: &str) -> Result<Option<Others>, Box<dyn std::error::Error>> {
        let path = Pack::path_of(id);
        let bytes = match self {
            Self::Folder(root) => match std::fs::read(root.join(&path)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(format!("{}: {error}", root.join(&path).display()).into()),
            },
            Self::Revision { root, name } => git(root, &["show", &format!("{name}:{}", path.display())])?,
        };
        let Some(bytes) = bytes else { return Ok(None) };
        let text = PackedPtx::decode(&bytes).map_err(|reason| format!("{}: {reason}", path.display()))?;
        let parts = text.split(PackedPtx::KERNEL).skip(1).filter_map(|part| part.split_once('\n'));
        Ok(Some(parts.map(|(name, ptx)| (name.to_owned(), ptx.to_owned())).collect()))
    }
}

/// What git writes; none where it refuses.
fn git(root: &Path, arguments: &[&str]) -> Result<Option<Vec<u8>>, String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output();
    let output = output.map_err(|error| format!("git: {error}: name a folder after --against instead"))?;
    Ok(output.status.success().then_some(output.stdout))
}
