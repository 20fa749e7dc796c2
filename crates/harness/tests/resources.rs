//! Holds what the kernels cost to a committed record, which may only improve.

use std::path::{Path, PathBuf};

use harness::resources::{self, Cost};
use harness::{files, generations};
use sdpa_core::Generation;

/// Makes the record anew from what the kernels cost now.
const ACCEPT: &str = "SDPA_ACCEPT_RESOURCES";

/// Where ptxas must be there, because nobody else would notice that this test did not run.
const REQUIRE: &str = "SDPA_REQUIRE_PTXAS";

fn record() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/resources.json")
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

#[test]
fn kernels_cost_no_more_than_recorded_and_keep_their_budgets() {
    let Some(ptxas) = resources::find_ptxas() else {
        assert!(!is_set(REQUIRE), "{REQUIRE} is set and there is no ptxas: install kernels/requirements.txt");
        eprintln!("not run: there is no ptxas; install kernels/requirements.txt");
        return;
    };
    let generations: Vec<&Generation> = generations::ALL.iter().map(|generation| generation.generation()).collect();
    let now = resources::assemble(&ptxas, &generations, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    let over = resources::over_budget(&generations, &now);
    assert!(over.is_empty(), "over budget:\n  {}", over.join("\n  "));

    if is_set(ACCEPT) {
        let text = serde_json::to_string_pretty(&now).expect("costs serialise") + "\n";
        files::write_whole(&record(), text.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
        return;
    }
    let how = format!("to accept: {ACCEPT}=1 cargo test -p harness --test resources");
    let recorded =
        std::fs::read_to_string(record()).unwrap_or_else(|error| panic!("tests/resources.json: {error}; {how}"));
    let before: Vec<Cost> =
        serde_json::from_str(&recorded).unwrap_or_else(|error| panic!("tests/resources.json: {error}; {how}"));
    let drift = resources::drift(&before, &now);
    assert!(drift.worse.is_empty(), "kernels cost more than recorded:\n  {}\n{how}", drift.worse.join("\n  "));
    // Or a kernel could improve, and get worse again, and nobody would know.
    assert!(!drift.outdated, "kernels improved, came or went; {how}\n{}", resources::render(&generations, &now, false));
}
