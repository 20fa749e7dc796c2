//! Makes the committed PTX: every specialisation of every generation and every mutant.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sdpa_core::{Attention as _, Error, LaunchPlan, Specialisation, compile};

use crate::{generations, mutants};

/// Every specialisation whose PTX is committed, generations first.
pub fn specialisations() -> Vec<Specialisation> {
    let kernels = generations::ALL.iter().flat_map(|generation| generation.generation().specialisations);
    let mutants = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations);
    kernels.chain(mutants).copied().collect()
}

/// What a plan's kernels are made from, in launch order: figures carry it, so that they go stale with their kernel.
///
/// # Errors
/// [`Error::MissingKernel`] where a source is not embedded.
pub fn fingerprint(plan: &LaunchPlan) -> Result<String, Error> {
    let kernels = plan.launches.iter().map(|launch| Ok(sdpa_core::fingerprint(&launch.kernel)?.to_string()));
    Ok(kernels.collect::<Result<Vec<_>, Error>>()?.join("+"))
}

/// The repository's `kernels/`, as this program was built from it.
pub fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels")
}

/// Why the PTX could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The compiler is missing or refuses a kernel.
    #[error(transparent)]
    Compile(#[from] Error),
    /// A file could not be written.
    #[error("{path}: {source}")]
    Write {
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
}

/// Whether files are made, or only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make `ptx/` hold what the sources compile to.
    Write,
    /// Write nothing.
    Check,
}

/// Compiles every specialisation and makes `<folder>/ptx` hold just these; `progress` hears each one's name.
///
/// Files are replaced whole, and only once everything compiled; files of kernels that are gone are removed. Returns the
/// files that changed, or would.
///
/// # Errors
/// [`BuildError`]; nothing is written where a kernel does not compile.
pub fn build(folder: &Path, mode: Mode, mut progress: impl FnMut(&Specialisation)) -> Result<Vec<PathBuf>, BuildError> {
    let mut made = Vec::new();
    for kernel in specialisations() {
        progress(&kernel);
        made.push((folder.join(kernel.ptx_path()), compile(&kernel)?));
    }
    let differs = |(path, text): &&(PathBuf, String)| std::fs::read_to_string(path).ok().as_ref() != Some(text);
    let stale: Vec<&(PathBuf, String)> = made.iter().filter(differs).collect();
    let wanted: BTreeSet<&Path> = made.iter().map(|(path, _)| path.as_path()).collect();
    let mut orphans = ptx_files(&folder.join("ptx"));
    orphans.retain(|path| !wanted.contains(path.as_path()));
    if mode == Mode::Write {
        for (path, text) in &stale {
            replace(path, text).map_err(|source| BuildError::Write { path: path.clone(), source })?;
        }
        for orphan in &orphans {
            std::fs::remove_file(orphan).map_err(|source| BuildError::Write { path: orphan.clone(), source })?;
        }
    }
    Ok(stale.into_iter().map(|(path, _)| path.clone()).chain(orphans).collect())
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    // A temporary file is private to its maker; what replaces it is for everyone.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path)?;
    Ok(())
}

fn ptx_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            files.extend(ptx_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "ptx") {
            files.push(path);
        }
    }
    files
}
