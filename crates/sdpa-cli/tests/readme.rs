//! What the front page shows is what the program prints, and what it tells a user to type is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use toml_edit::DocumentMut;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The first block of code in this language.
fn block<'a>(page: &'a str, language: &str) -> &'a str {
    let start = format!("```{language}\n");
    let from = page.find(&start).unwrap_or_else(|| panic!("the README has no block of {language}")) + start.len();
    &page[from..from + page[from..].find("```").expect("the block ends")]
}

/// The command in the README, and what it prints up to the first empty line.
fn race_report() -> String {
    const COMMAND: &str = "check shared_statistics_race --cases 1 --seeds 1";
    let output = Command::new(env!("CARGO_BIN_EXE_sdpa"))
        .args(COMMAND.split(' '))
        .current_dir(root())
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "a planted race is found: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).expect("the report is text");
    let (finding, _) = printed.split_once("\n\n").expect("several findings, with an empty line after each");
    format!("```console\n$ cargo run --release -- {COMMAND}\n{finding}\n```\n")
}

/// `README_UPDATE=1 cargo test -p sdpa-cli --test readme` writes the report anew.
#[test]
fn the_race_report_is_what_check_prints() {
    const REGION: &str = "race";
    let page = read("README.md");
    let expected = sdpa_bench::report::markers::splice(&page, REGION, &race_report()).expect("the markers are there");
    if std::env::var_os("README_UPDATE").is_some() {
        std::fs::write(root().join("README.md"), &expected).expect("writes");
    } else {
        assert!(
            page == expected,
            "the README's race report is not what the program prints: \
             README_UPDATE=1 cargo test -p sdpa-cli --test readme writes it anew. Expected:\n{expected}"
        );
    }
}

#[test]
fn the_dependency_lines_are_those_of_the_workspace() {
    let page = read("README.md");
    let lines: DocumentMut = block(&page, "toml").parse().expect("the README's dependencies are TOML");
    let workspace: DocumentMut = read("Cargo.toml").parse().expect("the workspace's manifest is TOML");
    for (name, wanted) in lines["dependencies"].as_table().expect("a table") {
        if let Some(path) = wanted.get("path") {
            let path = path.as_str().and_then(|path| path.strip_prefix("evo-sdpa/")).expect("a path into the checkout");
            assert!(root().join(path).join("Cargo.toml").is_file(), "{name}: {path} is no crate");
        } else {
            let ours = workspace["workspace"]["dependencies"][name].as_str();
            assert_eq!(wanted.as_str(), ours, "{name}: the workspace takes another version");
        }
    }
    // That the snippet compiles and runs is tested by rustdoc: see the end of src/lib.rs.
    assert!(block(&page, "rust").contains("DeviceChoice::from_env()"), "the snippet reads SDPA_DEVICE");
}

#[test]
fn the_front_page_is_short_and_its_links_lead_somewhere() {
    let page = read("README.md");
    let words = page.split_whitespace().count();
    assert!(words <= 900, "README.md has {words} words: at most 900 are read");
    let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    for target in targets.filter(|target| !target.contains("://")) {
        assert!(root().join(target).exists(), "README.md links to {target}, which is not there");
    }
}

/// Names of fields in JSON, wherever they stand.
fn fields(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (name, value) in map {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_that_programs_read_is_described_for_them() {
    let case = "b1 h1 L20 d64 f16";
    let page = read("AGENTS.md");
    let commands: [&[&str]; 4] = [
        &["check", "shared_statistics_race", "--case", case, "--seeds", "1", "--json"],
        &["counters", "v1", "--case", case, "--json"],
        &["verify", "v1", case, "--json"],
        &["soak", "--steps", "1", "--json"],
    ];
    for arguments in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_sdpa"))
            .args(arguments)
            .current_dir(root())
            .env("SDPA_DEVICE", "interpreter")
            .output()
            .expect("the program starts");
        let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        let mut names = std::collections::BTreeSet::new();
        fields(&json, &mut names);
        assert!(!names.is_empty(), "{arguments:?} printed nothing");
        for name in names {
            // `name`, or the last part of `list[].name`.
            let is_described = page.contains(&format!("`{name}`"))
                || page.contains(&format!("[].{name}`"))
                || page.contains(&format!(".{name}[]`"));
            assert!(is_described || page.contains(&format!("`{name}[]")), "AGENTS.md has no `{name}` of {arguments:?}");
        }
    }
}
