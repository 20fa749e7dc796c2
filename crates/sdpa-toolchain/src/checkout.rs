//! The repository on disk, and the kernel sources in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Result, ToolchainError};

/// A checkout of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    root: PathBuf,
}

impl Checkout {
    /// The checkout around the current folder; outside of any, the one that this program was built in.
    ///
    /// # Errors
    /// [`ToolchainError::NoCheckout`].
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().unwrap_or_default();
        let around = here.ancestors().map(Path::to_owned);
        let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).map(Path::to_owned);
        around.chain(built_in).find_map(|root| Self::at(&root)).ok_or(ToolchainError::NoCheckout)
    }

    /// The checkout with this root, if it is one: a Cargo.toml with `[workspace]` beside `kernels/`.
    pub fn at(root: &Path) -> Option<Self> {
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).ok()?;
        let is_workspace = manifest.lines().any(|line| line.trim() == "[workspace]");
        (is_workspace && root.join("kernels").is_dir()).then(|| Self { root: root.to_owned() })
    }

    /// Its root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every kernel source as it is on disk now.
    ///
    /// # Errors
    /// [`ToolchainError::System`].
    pub fn sources(&self) -> Result<Sources> {
        Sources::read(&self.root.join("kernels"))
    }
}

fn collect(folder: &Path, prefix: &str, sources: &mut Sources) -> Result<()> {
    let system = |path: &Path| {
        let path = path.to_owned();
        move |source| ToolchainError::System { path, source }
    };
    for entry in std::fs::read_dir(folder).map_err(system(folder))? {
        let path = entry.map_err(system(folder))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let name = format!("{prefix}{name}");
        if path.is_dir() {
            collect(&path, &format!("{name}/"), sources)?;
        } else if path.extension().is_some_and(|extension| extension == "cu" || extension == "cuh") {
            sources.insert(name, std::fs::read_to_string(&path).map_err(system(&path))?);
        }
    }
    Ok(())
}

/// Kernel sources: path under `kernels/` → text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    /// Every kernel source below a folder, as it is on disk now.
    ///
    /// # Errors
    /// [`ToolchainError::System`].
    pub fn read(folder: &Path) -> Result<Self> {
        let mut sources = Self::default();
        collect(folder, "", &mut sources)?;
        Ok(sources)
    }

    /// Adds a file, or replaces it.
    pub fn insert(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.0.insert(path.into(), text.into());
    }

    /// The text of a file, e.g. `v2b.cu`.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Every file, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// A source and, transitively, every file that it includes. Includes that are not ours (`cuda_fp16.h`) are left out: the
    /// compiler's version is pinned instead.
    ///
    /// # Errors
    /// [`ToolchainError::NoSource`] if the source itself is not there.
    pub fn closure(&self, source: &str) -> Result<BTreeMap<&str, &str>> {
        let mut closure = BTreeMap::new();
        let mut pending = vec![source];
        while let Some(path) = pending.pop() {
            let Some((path, text)) = self.0.get_key_value(path) else {
                if path == source {
                    return Err(ToolchainError::NoSource { path: path.to_owned() });
                }
                continue;
            };
            if closure.insert(path.as_str(), text.as_str()).is_none() {
                pending.extend(text.lines().filter_map(quoted_include));
            }
        }
        Ok(closure)
    }
}

/// `mask.cuh` of `#include "mask.cuh"`.
fn quoted_include(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
    rest.trim_start().strip_prefix('"')?.split('"').next()
}

/// The text of a kernel's source, by the name that the compiler gave the file. `None` for files that are not ours and
/// outside of a checkout. Sources are read once per process.
pub fn source_text(file: &str) -> Option<&'static str> {
    static SOURCES: OnceLock<Sources> = OnceLock::new();
    let (_, path) = file.rsplit_once("kernels/")?;
    let sources = SOURCES.get_or_init(|| Checkout::find().and_then(|checkout| checkout.sources()).unwrap_or_default());
    sources.get(path)
}

/// One line of [`source_text`], counted from 1.
pub fn source_line(file: &str, line: u32) -> Option<&'static str> {
    source_text(file)?.lines().nth(line.checked_sub(1)? as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Sources {
        Checkout::find().unwrap().sources().unwrap()
    }

    #[test]
    fn includes_are_followed_and_foreign_ones_are_not() {
        let sources = sources();
        let closure = sources.closure("v1.cu").unwrap();
        assert!(closure.contains_key("v1.cu") && closure.keys().any(|path| path.ends_with("/params.cuh")));
        assert!(closure.keys().all(|path| !path.contains("cuda_fp16")));
        assert_eq!(quoted_include("  #  include \"a/b.cuh\" // why"), Some("a/b.cuh"));
        assert_eq!(quoted_include("#include <mma.h>"), None);
        assert!(matches!(sources.closure("v0.cu"), Err(ToolchainError::NoSource { path }) if path == "v0.cu"));
    }

    #[test]
    fn lines_of_our_own_sources_are_found() {
        let first = source_line("kernels/v1.cu", 1).unwrap();
        assert!(first.starts_with("// V1"), "{first}");
        assert_eq!(source_line("/elsewhere/kernels/v1.cu", 1), Some(first));
        assert_eq!(source_line("kernels/v1.cu", 0), None);
        assert_eq!(source_line("kernels/v1.cu", 1_000_000), None);
        assert_eq!(source_line("/usr/include/mma.h", 1), None);
    }

    #[test]
    fn a_folder_without_kernels_is_no_checkout() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Checkout::at(folder.path()), None);
        std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\n").unwrap();
        assert_eq!(Checkout::at(folder.path()), None);
        std::fs::create_dir(folder.path().join("kernels")).unwrap();
        assert!(Checkout::at(folder.path()).is_some());
    }
}
