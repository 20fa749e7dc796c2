//! The list of generations, their crates, their kernels and their packs say the same.

use std::collections::BTreeSet;
use std::path::PathBuf;

use harness::{for_each_property, mutants, properties};
use sdpa::generations;
use sdpa_core::{Attention as _, PackedPtx, Specialisation};
use sdpa_toolchain::{Checkout, CodePack, KernelTexts, Pack, Sources};

/// The repository's root: where this test is run, or in a copied executable, where it was built.
fn root() -> PathBuf {
    checkout().root().to_owned()
}

fn checkout() -> Checkout {
    Checkout::find().unwrap_or_else(|error| panic!("{error}"))
}

fn sources() -> Sources {
    checkout().sources().unwrap_or_else(|error| panic!("{error}"))
}

fn listed() -> BTreeSet<String> {
    generations::ids().into_iter().map(str::to_owned).collect()
}

/// Every pack with what must be in it.
fn packs() -> Vec<(&'static PackedPtx, Vec<Specialisation>)> {
    let of = |kernels: &[Specialisation]| (kernels[0].ptx, kernels.to_vec());
    let generations = generations::ALL.iter().map(|generation| of(generation.generation().specialisations));
    let mutants = mutants::ALL.iter().flat_map(|mutant| mutant.generation().specialisations).copied();
    generations.chain([(&mutants::PTX, mutants.collect())]).collect()
}

#[test]
fn every_generation_has_a_crate_with_a_readme_and_a_pack() {
    let folders = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let ids = folders.filter_map(|entry| entry.file_name().to_str()?.strip_prefix("sdpa-").map(str::to_owned));
    let is_generation =
        |id: &String| id.strip_prefix('v').is_some_and(|rest| rest.starts_with(|digit: char| digit.is_ascii_digit()));
    let crates: BTreeSet<String> = ids.filter(is_generation).collect();
    assert_eq!(crates, listed(), "crates/sdpa-v* and crates/sdpa/src/generations.rs");
    for id in crates {
        for file in ["README.md".to_owned(), format!("{id}.ptx.zst")] {
            let path = root().join(format!("crates/sdpa-{id}/{file}"));
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}

/// Or a program that asks for machine code would get none of a generation, in silence.
#[test]
fn every_generation_embeds_its_machine_code_if_asked() {
    let read =
        |path: String| std::fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let list = read("crates/sdpa/Cargo.toml".to_owned());
    for generation in generations::ALL.iter().map(|generation| generation.generation()) {
        let id = generation.id;
        let architectures = generation.specialisations[0].architecture.machine_code().join("\", \"");
        let line = format!("sdpa_core::packed!(\"{id}\", \"{architectures}\")");
        assert!(read(format!("crates/sdpa-{id}/src/lib.rs")).contains(&line), "crates/sdpa-{id}/src/lib.rs: {line}");
        assert!(read(format!("crates/sdpa-{id}/Cargo.toml")).contains("\nmachine-code = []\n"), "crates/sdpa-{id}");
        assert!(list.contains(&format!("\"{id}?/machine-code\"")), "crates/sdpa/Cargo.toml: {id}?/machine-code");
    }
}

#[test]
fn every_generation_has_a_kernel() {
    let sources = sources();
    let kernels = sources.iter().filter_map(|(path, _)| path.strip_suffix(".cu")).filter(|path| !path.contains('/'));
    let kernels: BTreeSet<String> = kernels.map(str::to_owned).collect();
    assert_eq!(kernels, listed(), "kernels/*.cu and crates/sdpa/src/generations.rs");
}

/// A kernel's header, its crate and the list name the same parent.
#[test]
fn kernels_name_their_parents() {
    let sources = sources();
    for generation in generations::ALL.iter().map(|generation| generation.generation()) {
        let source = sources.get(&format!("{}.cu", generation.id)).unwrap();
        let parent = source.lines().find_map(|line| line.strip_prefix("// parent: ")).map(str::trim);
        assert_eq!(parent, Some(generation.parent.unwrap_or("none")), "kernels/{}.cu", generation.id);
        assert!(generation.parent.is_none_or(|parent| generations::find(parent).is_some()));
        for kernel in generation.specialisations {
            assert_eq!([kernel.stem(), kernel.ptx.id()], [generation.id; 2], "{kernel}");
        }
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
    let sources = sources();
    let kernels = sources.iter().filter_map(|(path, _)| path.strip_prefix("mutants/")?.strip_suffix(".cu"));
    let listed: BTreeSet<&str> = mutants::ALL.iter().map(|mutant| mutant.generation().id).collect();
    assert_eq!(kernels.collect::<BTreeSet<_>>(), listed, "kernels/mutants/*.cu and crates/harness/src/mutants");
    for mutant in mutants::ALL.iter().map(|mutant| mutant.generation()) {
        assert!(!mutant.specialisations.is_empty(), "{} names no specialisation of its parent", mutant.id);
        let source = sources.get(mutant.specialisations[0].source).unwrap();
        let header = format!("// Mutant of {}:", mutant.parent.unwrap());
        assert!(source.starts_with(&header), "kernels/mutants/{}.cu should begin {header:?}", mutant.id);
    }
}

/// What the proof runs is what the sources on disk make, by their fingerprints; `sdpa build-ptx --check` compares texts.
#[test]
fn packs_are_made_from_the_sources_on_disk() {
    let (sources, mut stale) = (sources(), Vec::new());
    for (_, kernels) in packs() {
        stale.extend(KernelTexts::stale(&kernels, &sources).unwrap().iter().map(ToString::to_string));
    }
    assert!(stale.is_empty(), "missing or made from other sources, run `sdpa build-ptx`:\n{}", stale.join("\n"));
}

/// The machine code that programs embed is that of the packed PTX; `sdpa build-ptx --check` assembles it anew.
#[test]
fn machine_code_is_made_of_the_packed_ptx() {
    let (checkout, mut stale, mut count) = (checkout(), Vec::new(), 0);
    for generation in generations::ALL {
        for pack in CodePack::of(&Pack::of(generation.generation())) {
            let old = pack.stale(&checkout, Specialisation::packed_ptx).unwrap_or_else(|error| panic!("{error}"));
            stale.extend(old.iter().map(|kernel| format!("{} of {}", kernel, pack.path.display())));
            count += pack.kernels.len();
        }
    }
    assert!(stale.is_empty(), "missing or made of another PTX, run `sdpa build-ptx`:\n{}", stale.join("\n"));
    assert!(count > 200, "{count}");
}

#[test]
fn packs_hold_the_kernels_of_their_tables_and_no_others() {
    for (pack, kernels) in packs() {
        let held: Vec<&str> = pack.kernels().unwrap().map(|(name, _)| name).collect();
        let wanted: Vec<String> = kernels.iter().map(Specialisation::packed_name).collect();
        assert_eq!(held, wanted, "the pack of {}", pack.id());
    }
}
