//! Sealed generations stay as they are, `kernels/machine/` is vocabulary, and the table of steps is what the kernels say.

use sdpa::generations;
use sdpa_bench::report::markers;
use sdpa_cli::sealed::{Seals, not_vocabulary};
use sdpa_cli::steps;
use sdpa_toolchain::{Checkout, Sources};

fn checkout() -> Checkout {
    Checkout::find().unwrap_or_else(|error| panic!("{error}"))
}

fn kernels() -> Vec<String> {
    generations::ids().iter().map(|id| format!("{id}.cu")).collect()
}

fn complaints(sources: &Sources) -> Vec<String> {
    not_vocabulary(sources, &kernels()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn sealed_generations_are_as_they_were_sealed() {
    let checkout = checkout();
    let broken = Seals::read(&checkout).and_then(|seals| seals.broken(&checkout));
    let broken = broken.unwrap_or_else(|error| panic!("{error}"));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn machine_headers_are_vocabulary() {
    let complaints = complaints(&checkout().sources().unwrap());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn what_is_no_vocabulary_is_noticed() {
    let sources = checkout().sources().unwrap();
    let with = |path: &str, text: &str| {
        let mut sources = sources.clone();
        sources.insert(path, text);
        complaints(&sources).join("\n")
    };
    // Of one generation only, whether or not through another header.
    assert!(with("machine/lonely.cuh", "#pragma once\n").contains("machine/lonely.cuh is no vocabulary: no kernel"));
    let v1 = sources.get("v1.cu").unwrap();
    let mut lonely = sources.clone();
    lonely.insert("machine/lonely.cuh", "#include \"machine/lonelier.cuh\"\n");
    lonely.insert("machine/lonelier.cuh", "");
    lonely.insert("v1.cu", format!("#include \"machine/lonely.cuh\"\n{v1}"));
    let said = complaints(&lonely);
    assert!(said.iter().all(|line| line.contains("v1.cu alone includes it")) && said.len() == 2, "{said:?}");
    // A loop over keys that slips into a header which everyone includes.
    let warp = sources.get("machine/warp.cuh").unwrap();
    let slipped =
        format!("{warp}\n__device__ inline void pipeline(int key_tiles) {{\n    while (key_tiles-- > 0) {{}}\n}}\n");
    let said = with("machine/warp.cuh", &slipped);
    assert!(said.contains(": pipeline loops over keys"), "{said}");
    // Each exception is for one function, and ends when it is not needed.
    for (header, function) in
        [("machine/large_logits.cuh", "attend_exactly("), ("machine/exact_rows.cuh", "attend_exactly_in_range(")]
    {
        let rare = sources.get(header).unwrap();
        let said = with(header, &rare.replace(function, "attend_all("));
        assert!(said.contains("attend_all loops over keys") && said.contains("take it out of KEY_LOOPS"), "{said}");
    }
}

/// What a step must keep of the parent's lines for the difference to be the lesson, in percent: 80 if it changes one thing in
/// the loop. From v2d to v2e the two loops over tiles become one over rounds, and from v2e to v3e the loads are another
/// machine's.
const LEAST_KEPT: [(&str, &str, usize); 6] = [
    ("v2d", "v2e", 75),
    ("v2f", "v2g", 80),
    ("v3", "v3b", 80),
    ("v3b", "v3c", 80),
    ("v3c", "v3d", 80),
    ("v2e", "v3e", 60),
];

#[test]
fn the_difference_of_two_kernels_is_the_lesson() {
    let steps = steps::steps(&checkout().sources().unwrap()).unwrap();
    for (parent, child, least) in LEAST_KEPT {
        let step = steps.iter().find(|step| (step.parent.as_str(), step.child.as_str()) == (parent, child));
        let step = step.unwrap_or_else(|| panic!("there is no step {parent} → {child}"));
        assert!(step.percent_kept() >= least, "{parent} → {child} keeps {} %, not {least}", step.percent_kept());
    }
}

#[test]
fn the_table_of_steps_is_what_the_kernels_say() {
    let checkout = checkout();
    let page = std::fs::read_to_string(checkout.root().join("ARCHITECTURE.md")).unwrap();
    let table = steps::render_markdown(&steps::steps(&checkout.sources().unwrap()).unwrap());
    let expected = markers::splice(&page, steps::REGION, &table).unwrap_or_else(|error| panic!("{error}"));
    assert!(page == expected, "out of date: `sdpa steps --write` writes it");
}

/// Options in a kernel's file that every specialisation sets alike: text that nothing compiles.
fn idle_options(source: &str, defines: &[&[&str]]) -> Vec<String> {
    let directive = |line: &str| {
        let mut words = line.trim().strip_prefix('#')?.split_whitespace();
        matches!(words.next()?, "if" | "ifdef" | "ifndef").then(|| words.next().map(str::to_owned))?
    };
    let is_set = |define: &&str, name: &str| {
        let (key, value) = define.split_once('=').unwrap_or((define, "1"));
        key == name && value != "0"
    };
    let mut names: Vec<String> = source.lines().filter_map(directive).collect();
    names.retain(|name| {
        // `#if STAGES == 1` asks for a value: it is idle if all or none have that one.
        let asked = source
            .lines()
            .find_map(|line| line.trim().strip_prefix("#if ")?.strip_prefix(name.as_str())?.trim().strip_prefix("=="));
        let holds = |define: &&str| match asked {
            Some(value) => define.split_once('=').is_some_and(|(key, own)| key == name && own == value.trim()),
            None => is_set(define, name),
        };
        let set = defines.iter().filter(|kernel| kernel.iter().any(holds)).count();
        set == 0 || set == defines.len()
    });
    names
}

#[test]
fn every_option_of_a_kernel_is_used_and_left_out_by_some_specialisation() {
    let sources = checkout().sources().unwrap();
    for who in generations::ALL.iter().map(|generation| generation.generation()) {
        let defines: Vec<&[&str]> = who.specialisations.iter().map(|kernel| kernel.defines).collect();
        let idle = idle_options(sources.get(&format!("{}.cu", who.id)).unwrap(), &defines);
        assert_eq!(idle, [""; 0], "kernels/{}.cu", who.id);
    }
    let source = "#ifdef A\n#endif\n  #if B\n#ifndef C\n#include \"x\"\n";
    assert_eq!(idle_options(source, &[&["A", "B=1"], &["B=0", "C"]]), [""; 0]);
    assert_eq!(idle_options(source, &[&["A", "B=0"], &["A", "C"]]), ["A", "B"]);
}
