//! What ptxas answered, kept under the checkout's `target/ptxas`: the gate, tests and `build-ptx --check` ask for much of the same.
//!
//! The same program gives the same answer to the same text for the same architecture, so that is what an answer is filed under,
//! all of it hashed. Nothing there is ever out of date, and all of it may be removed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use sdpa_core::Specialisation;
use sha2::{Digest, Sha256};

use crate::ptxas::run_ptxas;
use crate::resources::ResourceError;
use crate::sass::instructions;
use crate::{Checkout, write_whole};

/// A SHA-256 hash.
type Hash = [u8; 32];

/// As much as any answer takes; a length that was damaged must not ask for more.
const LARGEST: usize = 1 << 26;

/// What ptxas says of a PTX text, and the cubin that it makes of it, both without what tells lines of source: asked, unless this
/// ptxas was asked the same before.
pub(crate) fn ask_ptxas(
    ptxas: &Path,
    kernel: &Specialisation,
    ptx: &str,
    architecture: &'static str,
) -> Result<(String, Vec<u8>), ResourceError> {
    let text: String = instructions(ptx).flat_map(|line| [line, "\n"]).collect();
    let checkout = Checkout::find().ok();
    let folder = checkout.map(|checkout| checkout.root().join("target/ptxas"));
    ask(folder.as_deref(), ptxas, &text, architecture, || run_ptxas(ptxas, kernel, &text, architecture))
}

/// The answer that `folder` keeps, or what `run` gives, which is kept unless it is an error.
fn ask<E>(
    folder: Option<&Path>,
    ptxas: &Path,
    text: &str,
    architecture: &str,
    run: impl FnOnce() -> Result<(String, Vec<u8>), E>,
) -> Result<(String, Vec<u8>), E> {
    let path = folder.zip(identity(ptxas)).map(|(folder, ptxas)| folder.join(name(&ptxas, text, architecture)));
    if let Some(answer) = path.as_deref().and_then(read) {
        return Ok(answer);
    }
    let answer = run()?;
    if let Some(path) = path {
        // What cannot be kept is asked again.
        let _ = keep(&path, &answer);
    }
    Ok(answer)
}

/// The file of an answer.
fn name(ptxas: &Hash, text: &str, architecture: &str) -> String {
    let hash =
        Sha256::new().chain_update(ptxas).chain_update(architecture).chain_update("\n").chain_update(text).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hash of the program itself and of what it says of its version, which tells programs behind a script apart. None if it cannot
/// be read or run.
fn identity(ptxas: &Path) -> Option<Hash> {
    static KNOWN: Mutex<Option<HashMap<PathBuf, Option<Hash>>>> = Mutex::new(None);
    let ask = || {
        let version = Command::new(ptxas).arg("--version").output().ok()?;
        let program = std::fs::read(ptxas).ok()?;
        Some(Sha256::new().chain_update(version.stdout).chain_update(program).finalize().into())
    };
    let mut known = KNOWN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    *known.get_or_insert_default().entry(ptxas.to_owned()).or_insert_with(ask)
}

/// An answer's file: a hash of the rest, then compressed the length of what was said, that, and the cubin.
fn keep(path: &Path, (said, cubin): &(String, Vec<u8>)) -> std::io::Result<()> {
    let parts = [&(said.len() as u64).to_le_bytes()[..], said.as_bytes(), cubin];
    let compressed = zstd::bulk::compress(&parts.concat(), 1)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_whole(path, &[&Sha256::digest(&compressed)[..], &compressed].concat()).map_err(|error| error.source)
}

/// None if there is no such file, or it is damaged.
fn read(path: &Path) -> Option<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).ok()?;
    let (hash, compressed) = bytes.split_first_chunk::<32>()?;
    if Sha256::digest(compressed)[..] != hash[..] {
        return None;
    }
    let parts = zstd::bulk::decompress(compressed, LARGEST).ok()?;
    let (length, rest) = parts.split_first_chunk()?;
    let (said, cubin) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((String::from_utf8(said.to_vec()).ok()?, cubin.to_vec()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Programs of these versions, the names of which say nothing.
    fn programs(folder: &Path, versions: &[&str]) -> Vec<PathBuf> {
        let program = |(index, version): (usize, &&str)| {
            let path = folder.join(format!("ptxas{index}"));
            std::fs::write(&path, format!("#!/bin/sh\necho {version}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        versions.iter().enumerate().map(program).collect()
    }

    #[test]
    fn the_same_question_is_asked_once_and_another_one_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        let programs = programs(folder.path(), &["13.0", "13.0", "13.1"]);
        let asked = Cell::new(0);
        let ask = |program: usize, text: &str, architecture: &str| {
            let run = || {
                asked.set(asked.get() + 1);
                Ok::<_, ()>((format!("{program} {text} {architecture}"), vec![0, 255, program as u8]))
            };
            super::ask(Some(&kept), &programs[program], text, architecture, run).unwrap().0
        };
        let questions =
            [(0, "a", "sm_80"), (0, "b", "sm_80"), (0, "a", "sm_90"), (2, "a", "sm_80"), (0, "0\na", "sm_8")];
        for (count, (program, text, architecture)) in questions.into_iter().enumerate() {
            for _ in 0..2 {
                assert_eq!(ask(program, text, architecture), format!("{program} {text} {architecture}"));
                assert_eq!(asked.get(), count + 1);
            }
        }
        // The same program in another place.
        assert_eq!((ask(1, "a", "sm_80"), asked.get()), ("0 a sm_80".to_owned(), questions.len()));
    }

    #[test]
    fn damaged_answers_errors_and_programs_that_are_not_there_are_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, program) = (folder.path().join("kept"), programs(folder.path(), &["13.0"]).remove(0));
        let ask = |program: &Path, says: Result<&str, ()>| {
            super::ask(Some(&kept), program, "text", "sm_80", || says.map(|said| (said.to_owned(), vec![1, 2, 3])))
        };
        let answer = |said: &str| Ok((said.to_owned(), vec![1, 2, 3]));
        assert_eq!(ask(&program, Err(())), Err(()));
        assert_eq!(ask(&program, Ok("first")), answer("first"));
        assert_eq!(ask(&program, Err(())), answer("first"));
        let file = std::fs::read_dir(&kept).unwrap().next().unwrap().unwrap().path();
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            for bytes in [&damaged[..], &whole[..at]] {
                std::fs::write(&file, bytes).unwrap();
                assert_eq!(read(&file), None, "byte {at}");
            }
        }
        assert_eq!(ask(&program, Ok("second")), answer("second"));
        assert_eq!(ask(&program, Ok("third")), answer("second"));
        let absent = folder.path().join("absent");
        assert_eq!([ask(&absent, Ok("one")), ask(&absent, Ok("two"))], [answer("one"), answer("two")]);
    }
}
