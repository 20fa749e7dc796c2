//! The list of generations, their crates, their kernels and the committed PTX say the same.

use std::collections::BTreeSet;
use std::path::PathBuf;

use harness::{for_each_generation, for_each_property, generations, mutants, properties, ptx};
use sdpa_core::{Attention as _, Fingerprint, embedded_file, embedded_files, fingerprint};

/// The repository's root: where this was built, or, in a copied executable, where it is run.
fn root() -> PathBuf {
    let candidates =
        [PathBuf::from("."), PathBuf::from("../.."), PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")];
    let is_root = |path: &PathBuf| path.join("crates/harness").is_dir() && path.join("kernels").is_dir();
    candidates.into_iter().find(is_root).expect("run in the repository's root")
}

fn listed() -> BTreeSet<String> {
    generations::ids().into_iter().map(str::to_owned).collect()
}

#[test]
fn every_generation_has_a_crate_with_a_readme() {
    let folders = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let ids = folders.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("sdpa-").map(str::to_owned));
    let crates: BTreeSet<String> = ids.filter(|id| id.starts_with('v')).collect();
    assert_eq!(crates, listed(), "crates/sdpa-v* and crates/harness/src/generations.rs");
    for id in crates {
        let readme = root().join(format!("crates/sdpa-{id}/README.md"));
        assert!(readme.is_file(), "{} is missing", readme.display());
    }
}

#[test]
fn every_generation_has_a_kernel() {
    let sources = embedded_files().iter().filter_map(|(path, _)| path.strip_suffix(".cu"));
    let kernels: BTreeSet<String> = sources.filter(|path| !path.contains('/')).map(str::to_owned).collect();
    assert_eq!(kernels, listed(), "kernels/*.cu and crates/harness/src/generations.rs");
}

/// A kernel's header, its crate and the list name the same parent.
#[test]
fn kernels_name_their_parents() {
    for generation in generations::ALL.iter().map(|generation| generation.generation()) {
        let source = embedded_file(&format!("{}.cu", generation.id)).unwrap();
        let parent = source.lines().find_map(|line| line.strip_prefix("// parent: ")).map(str::trim);
        assert_eq!(parent, Some(generation.parent.unwrap_or("none")), "kernels/{}.cu", generation.id);
        assert!(generation.parent.is_none_or(|parent| generations::find(parent).is_some()));
        assert!(generation.specialisations.iter().all(|kernel| kernel.stem() == generation.id));
    }
}

macro_rules! ids {
    ($(($id:ident, $generation:expr);)*) => {
        [$((stringify!($id), $generation.generation().id)),*]
    };
}

#[test]
fn modules_are_named_after_their_generation() {
    for (module, id) in for_each_generation!(ids) {
        assert_eq!(module, id);
    }
}

macro_rules! names {
    ([] $($name:ident)*) => { [$(stringify!($name)),*] };
}

#[test]
fn property_names_are_unique_and_found() {
    let names = for_each_property!(names, []);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), properties::ALL.len());
    assert!(names.iter().all(|name| properties::find(name).is_some_and(|found| found.name == *name)));
}

#[test]
fn every_mutant_has_a_kernel_and_is_built() {
    let sources = embedded_files().iter().filter_map(|(path, _)| path.strip_prefix("mutants/")?.strip_suffix(".cu"));
    let listed: BTreeSet<&str> = mutants::ALL.iter().map(|mutant| mutant.generation().id).collect();
    assert_eq!(sources.collect::<BTreeSet<_>>(), listed, "kernels/mutants/*.cu and crates/harness/src/mutants");
    for mutant in mutants::ALL.iter().map(|mutant| mutant.generation()) {
        assert!(!mutant.specialisations.is_empty(), "{} names no specialisation of its parent", mutant.id);
        let source = embedded_file(mutant.specialisations[0].source).unwrap();
        let header = format!("// Mutant of {}:", mutant.parent.unwrap());
        assert!(source.starts_with(&header), "kernels/mutants/{}.cu should begin {header:?}", mutant.id);
    }
}

#[test]
fn committed_ptx_is_fresh() {
    let mut stale = Vec::new();
    for kernel in ptx::specialisations() {
        let committed = embedded_file(&kernel.ptx_path()).and_then(Fingerprint::of_ptx);
        if committed != Some(fingerprint(&kernel).unwrap()) {
            stale.push(kernel.ptx_path());
        }
    }
    assert!(stale.is_empty(), "missing or made from another source, run `sdpa build-ptx`:\n{}", stale.join("\n"));
}

#[test]
fn no_committed_ptx_is_an_orphan() {
    let wanted: BTreeSet<String> = ptx::specialisations().iter().map(|kernel| kernel.ptx_path()).collect();
    let committed = embedded_files().iter().map(|(path, _)| *path).filter(|path| path.starts_with("ptx/"));
    let orphans: Vec<&str> = committed.filter(|path| !wanted.contains(*path)).collect();
    assert!(orphans.is_empty(), "nothing is made into these, run `sdpa build-ptx`:\n{}", orphans.join("\n"));
}
