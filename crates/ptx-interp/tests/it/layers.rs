//! The source's layers: a file uses its own layer and those below it, so that no circle can come back.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Modules of the library, from the bottom up; those of one line do not use each other.
const LAYERS: &[&[&str]] = &[
    &["address_space", "parse", "random", "simd", "spelling", "tensor_map"],
    &["memory"],
    &["decode"],
    &["registers"],
    &["alu", "counters", "diagnostics"],
    &["coverage", "order", "settings"],
    &["machine"],
    &["execute"],
    &["turn"],
    &["schedule"],
    &["module"],
    &["launch"],
    &["lib"],
];

fn layer_of(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("`{module}` has no layer in this test"))
}

fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("is a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Names that follow `start` in a text.
fn names_after<'t>(text: &'t str, start: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(start).skip(1).map(|rest| {
        let end = rest.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn imports_point_down() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    let mut wrong = BTreeSet::new();
    let mut seen = 0;
    for path in &all {
        let inside = path.strip_prefix(&source).expect("lies inside").to_string_lossy().replace('\\', "/");
        let module = inside.split('/').next().unwrap_or_default().trim_end_matches(".rs");
        let text = fs::read_to_string(path).expect("is readable");
        let modules = names_after(&text, "crate::").filter(|used| used.starts_with(char::is_lowercase));
        for used in modules.filter(|used| *used != module) {
            seen += 1;
            if layer_of(used) >= layer_of(module) {
                wrong.insert(format!("{inside} uses `{used}`"));
            }
        }
    }
    assert!(seen > 100, "the test reads no imports");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The families of instructions use `machine`, and none uses another.
#[test]
fn families_do_not_use_each_other() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/execute");
    let mut all = Vec::new();
    files(&folder, &mut all);
    for path in all {
        let text = fs::read_to_string(&path).expect("is readable");
        assert!(!text.contains("crate::execute::"), "{} uses another family", path.display());
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    files(&source, &mut all);
    for path in all {
        let lines = fs::read_to_string(&path).expect("is readable").lines().count();
        assert!(lines <= 600, "{} has {lines} lines", path.display());
    }
}
