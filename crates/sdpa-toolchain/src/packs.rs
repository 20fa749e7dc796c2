//! Making packs: every specialisation compiled, in one compressed file per generation.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rayon::prelude::*;
use sdpa_core::{Generation, PackedPtx, Specialisation};

use crate::{Checkout, KernelTexts, Nvrtc, Result, Sources, ToolchainError, write_whole};

/// A pack to be made: which kernels, into which file.
#[derive(Clone, Debug)]
pub struct Pack {
    /// The generation's id, or `mutants`.
    pub id: &'static str,
    /// Its file, relative to the checkout's root.
    pub path: PathBuf,
    /// Its kernels, in the order of the pack.
    pub kernels: Vec<Specialisation>,
}

impl Pack {
    /// A generation's own pack, in its own crate.
    pub fn of(generation: &Generation) -> Self {
        let id = generation.id;
        Self { id, path: Self::path_of(id), kernels: generation.specialisations.to_vec() }
    }

    /// Where the pack of the generation with this id is, relative to the checkout's root.
    pub fn path_of(id: &str) -> PathBuf {
        format!("crates/sdpa-{id}/{id}.ptx.zst").into()
    }
}

/// Whether packs are made, or only compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Make the files hold what the sources compile to.
    Write,
    /// Write nothing.
    Check,
}

/// A pack whose text is not what its sources compile to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Its file, relative to the checkout's root.
    pub path: PathBuf,
    /// The kernels that are new, gone or another text.
    pub kernels: Vec<String>,
}

/// Compiles the kernels of these packs from these sources, side by side, and makes each file of the checkout hold its own;
/// `progress` hears each kernel that is done. Texts are compared, not compressed bytes, so that another zstd is no difference.
///
/// Files are replaced whole, and only once everything compiled. Returns what changed, or would, and the PTX of all.
///
/// # Errors
/// [`ToolchainError`]; nothing is written if a kernel does not compile.
pub fn build(
    checkout: &Checkout,
    sources: &Sources,
    nvrtc: &Nvrtc,
    packs: &[Pack],
    mode: Mode,
    progress: impl Fn(&Specialisation) + Sync,
) -> Result<(Vec<Changed>, KernelTexts)> {
    let kernels: Vec<&Specialisation> = packs.iter().flat_map(|pack| &pack.kernels).collect();
    let compiled = kernels.par_iter().map(|kernel| {
        let text = nvrtc.compile(kernel, sources);
        progress(kernel);
        Ok((**kernel, text?))
    });
    let compiled = compiled.collect::<Result<Vec<_>>>()?;
    let texts = KernelTexts::of_compiled(compiled.iter().cloned());
    let mut compiled = compiled.into_iter().map(|(kernel, text)| (kernel.packed_name(), text));
    let mut changed = Vec::new();
    for Pack { path, kernels, .. } in packs {
        let made: Vec<(String, String)> = compiled.by_ref().take(kernels.len()).collect();
        let file = checkout.root().join(path);
        // A file that is missing or broken is another one.
        let before = std::fs::read(&file).ok().and_then(|bytes| PackedPtx::decode(&bytes).ok()).unwrap_or_default();
        if before != join(&made) {
            let kernels = difference(&before, &made);
            changed.push((Changed { path: path.clone(), kernels }, file, made));
        }
    }
    if mode == Mode::Write {
        for (_, file, made) in &changed {
            write_whole(file, &pack(made))
                .map_err(|error| ToolchainError::System { path: error.path, source: error.source })?;
        }
    }
    Ok((changed.into_iter().map(|(changed, ..)| changed).collect(), texts))
}

/// Compresses kernels, each with its name in the pack. The same texts give the same bytes.
pub fn pack(kernels: &[(String, String)]) -> Vec<u8> {
    compress(join(kernels).as_bytes())
}

/// A zstd frame. The same bytes give the same bytes.
pub(crate) fn compress(bytes: &[u8]) -> Vec<u8> {
    /// What long matches may reach back over: more than any pack, whose kernels resemble one another.
    const WINDOW_LOG: u32 = 24;
    const LEVEL: i32 = 19;
    let compressed = || -> std::io::Result<Vec<u8>> {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.window_log(WINDOW_LOG)?;
        compressor.long_distance_matching(true)?;
        compressor.compress(bytes)
    };
    compressed().expect("zstd takes these constants, and memory does not run out")
}

fn join(kernels: &[(String, String)]) -> String {
    kernels.iter().map(|(name, text)| format!("{}{name}\n{text}", PackedPtx::KERNEL)).collect()
}

/// The kernels of one text that the other does not have like this.
fn difference(before: &str, made: &[(String, String)]) -> Vec<String> {
    let parts = before.split(PackedPtx::KERNEL).skip(1).filter_map(|part| part.split_once('\n'));
    let before: BTreeSet<(&str, &str)> = parts.collect();
    let made: BTreeSet<(&str, &str)> = made.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let names: BTreeSet<&str> = before.symmetric_difference(&made).map(|(name, _)| *name).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernels(texts: &[(&str, &str)]) -> Vec<(String, String)> {
        texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn what_is_packed_is_read_back_and_packs_the_same_again() {
        let kernels = kernels(&[("a.sm_80", "// one\n.version 9.0\n"), ("b.sm_90a", ".version 9.0\n")]);
        let bytes = pack(&kernels);
        assert_eq!(bytes, pack(&kernels));
        let packed: &PackedPtx = Box::leak(Box::new(PackedPtx::new("v0", Vec::leak(bytes))));
        let read: Vec<(&str, &str)> = packed.kernels().unwrap().collect();
        assert_eq!(read, [("a.sm_80", "// one\n.version 9.0\n"), ("b.sm_90a", ".version 9.0\n")]);
    }

    #[test]
    fn kernels_that_differ_are_named() {
        let before = join(&kernels(&[("a", "1\n"), ("b", "2\n"), ("c", "3\n")]));
        assert_eq!(difference(&before, &kernels(&[("a", "1\n"), ("b", "4\n"), ("d", "5\n")])), ["b", "c", "d"]);
        assert_eq!(difference(&before, &kernels(&[("a", "1\n"), ("b", "2\n"), ("c", "3\n")])), [""; 0]);
    }
}
