//! Making packs of machine code: what ptxas makes of each kernel's PTX, for the architectures that programs embed it for.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sdpa_core::{MachineCode, PackedCode, Specialisation};
use sha2::{Digest, Sha256};

use crate::answers::ask_ptxas;
use crate::packs::{Changed, Mode, compress};
use crate::resources::ResourceError;
use crate::sass::instructions;
use crate::{Checkout, Pack, Result, ToolchainError, write_whole};

/// The machine code of a generation's kernels for one architecture, to be made.
#[derive(Clone, Debug)]
pub struct CodePack {
    /// The generation's id.
    pub id: &'static str,
    /// ptxas' name of the architecture.
    pub architecture: &'static str,
    /// Its file, relative to the checkout's root.
    pub path: PathBuf,
    /// Its kernels, in the order of the pack.
    pub kernels: Vec<Specialisation>,
}

impl CodePack {
    /// The packs of a generation's kernels, one for each architecture that one of them has machine code for. Of mutants,
    /// which no program embeds, there are none.
    pub fn of(pack: &Pack) -> Vec<Self> {
        let Pack { id, .. } = *pack;
        let mut packs: Vec<Self> = Vec::new();
        for kernel in pack.kernels.iter().filter(|kernel| kernel.stem() == id) {
            for architecture in kernel.architecture.machine_code() {
                let known = packs.iter().position(|pack| pack.architecture == *architecture);
                let index = known.unwrap_or_else(|| {
                    let path = Self::path_of(id, architecture);
                    packs.push(Self { id, architecture, path, kernels: Vec::new() });
                    packs.len() - 1
                });
                packs[index].kernels.push(*kernel);
            }
        }
        packs
    }

    /// Where the pack of the generation with this id is, relative to the checkout's root.
    pub fn path_of(id: &str, architecture: &str) -> PathBuf {
        format!("crates/sdpa-{id}/{id}.{architecture}.cubin.zst").into()
    }

    /// What the pack's file holds; nothing if it is missing or broken.
    fn before(&self, checkout: &Checkout) -> Vec<MachineCode> {
        let bytes = std::fs::read(checkout.root().join(&self.path)).ok();
        bytes.and_then(|bytes| PackedCode::decode(&bytes).ok()).unwrap_or_default()
    }

    /// The kernels whose code in the checkout's file is missing, or was made of another PTX than `text` gives, and what the
    /// file holds besides.
    ///
    /// # Errors
    /// Those of `text`, and [`ToolchainError::System`] if the file cannot be read or decoded.
    pub fn stale<'t>(
        &self,
        checkout: &Checkout,
        text: impl Fn(&Specialisation) -> sdpa_core::Result<&'t str>,
    ) -> Result<Vec<String>> {
        let path = checkout.root().join(&self.path);
        let system = |source| ToolchainError::System { path: path.clone(), source };
        let bytes = std::fs::read(&path).map_err(system)?;
        let held = PackedCode::decode(&bytes).map_err(|reason| system(std::io::Error::other(reason)))?;
        let mut stale = Vec::new();
        for (index, kernel) in self.kernels.iter().enumerate() {
            let wanted = (kernel.packed_name(), ptx_hash(text(kernel)?));
            if held.get(index).is_none_or(|code| (&code.kernel, &code.ptx) != (&wanted.0, &wanted.1)) {
                stale.push(wanted.0);
            }
        }
        stale.extend(held.iter().skip(self.kernels.len()).map(|code| code.kernel.clone()));
        Ok(stale)
    }
}

/// The hash of a PTX text's instructions: comments, and what tells lines of source, aside. Machine code carries it.
pub fn ptx_hash(ptx: &str) -> String {
    let mut hash = Sha256::new();
    for line in instructions(ptx) {
        hash.update(line);
        hash.update("\n");
    }
    // 128 bits are plenty to notice an edit.
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Assembles the kernels of these packs, whose PTX `text` gives, side by side, and makes each file of the checkout hold its
/// own; `progress` hears each kernel that is done. Files are replaced whole, and only once everything is assembled.
///
/// To write, kernels whose code was made of the same PTX are kept. To check, all are assembled, and the code compared; what this
/// ptxas has assembled before it is not asked again (`target/ptxas`).
///
/// Returns what changed, or would.
///
/// # Errors
/// [`ToolchainError`]; nothing is written if ptxas refuses a kernel.
pub fn build_code<'t>(
    checkout: &Checkout,
    ptxas: &Path,
    packs: &[CodePack],
    mode: Mode,
    text: impl Fn(&Specialisation) -> sdpa_core::Result<&'t str> + Sync,
    progress: impl Fn(&Specialisation) + Sync,
) -> Result<Vec<Changed>> {
    let held: Vec<Vec<MachineCode>> = packs.iter().map(|pack| pack.before(checkout)).collect();
    let asked =
        packs.iter().zip(&held).flat_map(|(pack, held)| pack.kernels.iter().map(move |kernel| (pack, held, kernel)));
    let made = asked.collect::<Vec<_>>().into_par_iter().map(|(pack, held, kernel)| {
        let ptx = text(kernel)?;
        let (name, hash) = (kernel.packed_name(), ptx_hash(ptx));
        let known = held.iter().find(|code| mode == Mode::Write && code.kernel == name && code.ptx == hash);
        let code = match known {
            Some(code) => code.clone(),
            None => {
                let image = assemble(ptxas, kernel, ptx, pack.architecture)?;
                MachineCode { kernel: name, ptx: hash, image }
            }
        };
        progress(kernel);
        Ok(code)
    });
    let mut made = made.collect::<Vec<_>>().into_iter().collect::<Result<Vec<_>>>()?.into_iter();
    let mut changed = Vec::new();
    for (pack, held) in packs.iter().zip(held) {
        let now: Vec<MachineCode> = made.by_ref().take(pack.kernels.len()).collect();
        if now != held {
            let is_new = |code: &&MachineCode| !held.contains(code);
            let gone = held.iter().filter(|code| now.iter().all(|other| other.kernel != code.kernel));
            let kernels = now.iter().filter(is_new).chain(gone).map(|code| code.kernel.clone()).collect();
            changed.push((Changed { path: pack.path.clone(), kernels }, now));
        }
    }
    if mode == Mode::Write {
        for (Changed { path, .. }, now) in &changed {
            write_whole(&checkout.root().join(path), &pack_code(now))
                .map_err(|error| ToolchainError::System { path: error.path, source: error.source })?;
        }
    }
    Ok(changed.into_iter().map(|(changed, _)| changed).collect())
}

/// Compresses machine code. The same code gives the same bytes.
pub fn pack_code(kernels: &[MachineCode]) -> Vec<u8> {
    let parts = kernels.iter().flat_map(|MachineCode { kernel, ptx, image }| {
        [format!("{} {kernel} {ptx} {}\n", PackedCode::KERNEL, image.len()).into_bytes(), image.clone()]
    });
    compress(&parts.collect::<Vec<_>>().concat())
}

/// The cubin of a PTX text without what tells lines of source, which would make it six times larger.
fn assemble(ptxas: &Path, kernel: &Specialisation, ptx: &str, architecture: &'static str) -> Result<Vec<u8>> {
    match ask_ptxas(ptxas, kernel, ptx, architecture) {
        Ok((_, cubin)) => Ok(cubin),
        Err(ResourceError::System { path, source }) => Err(ToolchainError::System { path, source }),
        Err(error) => Err(ToolchainError::Assemble { kernel: kernel.to_string(), log: error.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdpa::generations;

    const PTX: &str = "// made of a.cu\n.version 9.0\n\t.loc\t1 2 3\n\tbar.sync \t0;\n\t.file\t1 \"a\"\n";

    #[test]
    fn the_hash_is_of_what_ptxas_sees() {
        let moved = PTX.replace(".loc\t1 2 3", ".loc\t1 9 9").replace("a.cu", "b.cu");
        assert_eq!(ptx_hash(PTX), ptx_hash(&moved));
        assert_ne!(ptx_hash(PTX), ptx_hash(&PTX.replace("bar.sync \t0", "bar.sync \t1")));
        assert_ne!(ptx_hash("ab\nc\n"), ptx_hash("a\nbc\n"));
    }

    #[test]
    fn code_is_packed_for_the_architectures_of_its_kernels() {
        let of = |id| {
            let generation = generations::find(id).unwrap().generation();
            let paths = CodePack::of(&Pack::of(generation)).into_iter().map(|pack| {
                assert_eq!(pack.kernels, generation.specialisations);
                pack.path.display().to_string()
            });
            paths.collect::<Vec<_>>()
        };
        assert_eq!(of("v1"), ["crates/sdpa-v1/v1.sm_80.cubin.zst", "crates/sdpa-v1/v1.sm_90.cubin.zst"]);
        assert_eq!(of("v3c"), ["crates/sdpa-v3c/v3c.sm_90a.cubin.zst"]);
        let mutants =
            Pack { id: "mutants", path: "m".into(), kernels: Pack::of(generations::ALL[0].generation()).kernels };
        assert!(CodePack::of(&mutants).is_empty());
    }

    /// A checkout with a pack of V1's code that was made of these texts.
    fn checkout(texts: &[&str]) -> (tempfile::TempDir, Checkout, CodePack) {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::write(root.join("Cargo.toml"), "[workspace]\n").unwrap();
        std::fs::create_dir_all(root.join("kernels")).unwrap();
        std::fs::create_dir_all(root.join("crates/sdpa-v1")).unwrap();
        let pack = CodePack::of(&Pack::of(generations::ALL[0].generation())).remove(0);
        let code = texts.iter().zip(&pack.kernels).map(|(text, kernel)| MachineCode {
            kernel: kernel.packed_name(),
            ptx: ptx_hash(text),
            image: b"\x7fELF".to_vec(),
        });
        std::fs::write(root.join(&pack.path), pack_code(&code.collect::<Vec<_>>())).unwrap();
        let checkout = Checkout::at(root).unwrap();
        (folder, checkout, pack)
    }

    #[test]
    fn code_of_another_ptx_and_missing_code_is_stale() {
        let other = PTX.replace("bar.sync", "bar.arrive");
        let stale = |texts: &[&str]| {
            let (_folder, checkout, pack) = checkout(texts);
            pack.stale(&checkout, |_| Ok(PTX)).unwrap().len()
        };
        assert_eq!([stale(&[PTX, PTX]), stale(&[PTX, &other]), stale(&[&other, &other]), stale(&[PTX])], [0, 1, 2, 1]);
    }

    #[test]
    fn what_is_current_is_kept_and_needs_no_ptxas() {
        let (_folder, checkout, pack) = checkout(&[PTX, PTX]);
        let build =
            |mode| build_code(&checkout, Path::new("no-ptxas"), std::slice::from_ref(&pack), mode, |_| Ok(PTX), |_| ());
        assert_eq!(build(Mode::Write).unwrap(), []);
        // To check, ptxas is asked whatever the file says.
        assert!(build(Mode::Check).is_err());
    }
}
