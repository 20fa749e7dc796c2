//! `docs/parallel.md` says what `results/parallel` holds.

use std::path::Path;

use serde_json::Value;

/// The page's rows of times, as the records have them: length, mask, way, pass and how many times one GPU.
fn rows(record: &str) -> Vec<String> {
    let figures: Vec<Value> = serde_json::from_str(record).unwrap();
    let row = |figure: &Value| {
        let problem = figure["problem"].as_str().unwrap();
        let length = problem.split(' ').find_map(|word| word.strip_prefix('L')).unwrap();
        let mask = if problem.ends_with("causal") { "causal" } else { "none" };
        let milliseconds = figure["seconds"].as_f64().unwrap() * 1e3;
        let decimals = if milliseconds < 100.0 { 3 } else { 1 };
        let (way, times) = (figure["way"].as_str().unwrap(), figure["speed_up"].as_f64().unwrap());
        format!("| {length} | {mask} | {way} | {milliseconds:.decimals$} ms | {times:.3} |")
    };
    figures.iter().map(row).collect()
}

#[test]
fn the_page_has_the_recorded_times_and_no_others() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/parallel.md")).unwrap();
    let records = std::fs::read_dir(root.join("results/parallel")).unwrap();
    let recorded: Vec<String> =
        records.flat_map(|record| rows(&std::fs::read_to_string(record.unwrap().path()).unwrap())).collect();
    assert!(!recorded.is_empty());
    for row in &recorded {
        assert!(page.contains(row.as_str()), "docs/parallel.md lacks {row}");
    }
    let measured = page.split("## Measured").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let shown = measured.lines().filter(|line| line.contains(" ms |")).count();
    assert_eq!(shown, recorded.len(), "docs/parallel.md has rows that results/parallel does not");
}
