//! `sdpa report` as its users see it.

use std::path::Path;
use std::process::Command;

const RECORD: &str = r#"{
  "device": "NVIDIA H200 (sm_90, 132 multiprocessors)",
  "figures": [
    { "contender": "v1", "batch": 1, "heads_q": 8, "heads_kv": 8, "len_q": 512, "len_kv": 512, "head_dim": 64,
      "dtype": "f16", "mask": "full", "median_us": 169.6, "low_us": 169.5, "high_us": 169.7, "kernel": "c0ffee" },
    { "contender": "cudnn", "batch": 1, "heads_q": 8, "heads_kv": 8, "len_q": 512, "len_kv": 512, "head_dim": 64,
      "dtype": "f16", "mask": "full", "median_us": 8.91, "low_us": 8.9, "high_us": 8.92 }
  ]
}"#;

fn report(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sdpa"))
        .arg("report")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let code = output.status.code().map_or("killed".to_owned(), |code| code.to_string());
    format!("{}{}exit {code}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn what_is_missing_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let report = |arguments: &[&str]| report(folder.path(), arguments);
    insta::assert_snapshot!(report(&[]), @r"
    error: results: No such file or directory (os error 2)
    exit 2
    ");
    std::fs::create_dir(path("results")).unwrap();
    insta::assert_snapshot!(report(&[]), @r"
    error: results: no record there; `sdpa bench --peers --record DIR` makes one on a GPU
    exit 2
    ");
    std::fs::write(path("results/record.json"), RECORD).unwrap();
    insta::assert_snapshot!(report(&[]), @r"
    error: README.md: No such file or directory (os error 2)
    exit 2
    ");
    std::fs::write(path("README.md"), "# No table\n").unwrap();
    insta::assert_snapshot!(report(&[]), @r"
    error: README.md: expected one line `<!-- headline:begin -->` and after it one line `<!-- headline:end -->`
    exit 2
    ");
    assert!(!path("docs/ladder.svg").exists(), "something was written all the same");
    insta::assert_snapshot!(report(&["--resources", "no.json"]), @r"
    error: no.json: No such file or directory (os error 2)
    exit 2
    ");
    std::fs::write(path("results/broken.json"), "{").unwrap();
    insta::assert_snapshot!(report(&[]), @r"
    error: results/broken.json: EOF while parsing an object at line 1 column 1
    exit 2
    ");
}

#[test]
fn a_report_is_written_once_and_checked_ever_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let report = |arguments: &[&str]| report(folder.path(), arguments);
    std::fs::create_dir_all(path("docs")).unwrap();
    std::fs::create_dir(path("results")).unwrap();
    std::fs::write(path("results/record.json"), RECORD).unwrap();
    std::fs::write(path("results/other.json"), r#"{ "score": 1 }"#).unwrap();
    std::fs::write(path("docs/speed-d64-full.svg"), "from records that are gone").unwrap();
    let region = |name: &str| format!("<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n\n");
    let before = format!("# Title\n\n{}{}{}after\n", region("headline"), region("tree"), region("results"));
    std::fs::write(path("README.md"), &before).unwrap();

    insta::assert_snapshot!(report(&["--check"]), @r"
    README.md: out of date
    docs/speed-d64-full.svg: out of date
    docs/peers.md: out of date
    docs/ladder.svg: out of date
    exit 1
    ");
    assert_eq!(std::fs::read_to_string(path("README.md")).unwrap(), before);
    insta::assert_snapshot!(report(&[]), @r"
    README.md: written
    docs/speed-d64-full.svg: removed: no record is enough for it
    docs/peers.md: written
    docs/ladder.svg: written
    exit 0
    ");
    let after = std::fs::read_to_string(path("README.md")).unwrap();
    assert!(after.contains("|**v1**||170\\*||declines||declines||\n"), "{after}");
    assert!(after.contains("**faster on 0, ambiguous on 0, slower on 1** of 1 problems"), "{after}");
    assert!(after.contains("Stale: kernels have changed since.") && after.contains("├─ v2e"), "{after}");
    assert!(!after.contains("old\n") && after.ends_with("<!-- results:end -->\n\nafter\n"), "{after}");
    insta::assert_snapshot!(report(&["--check"]), @r"
    up to date
    exit 0
    ");
    insta::assert_snapshot!(report(&[]), @r"
    up to date
    exit 0
    ");
}

/// Of two sittings, in one of which v1 is said to be faster than cuDNN.
#[test]
fn a_claim_needs_every_sitting() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("results")).unwrap();
    let regions = ["headline", "tree", "results"].map(|name| format!("<!-- {name}:begin -->\n<!-- {name}:end -->\n"));
    let fast = RECORD.replace("169.", "5.");
    for (sittings, verdicts) in [
        (format!("{RECORD}, {RECORD}"), "faster on 0, ambiguous on 0, slower on 1"),
        (format!("{RECORD}, {fast}"), "faster on 0, ambiguous on 1, slower on 0"),
        (format!("{fast}, {fast}"), "faster on 1, ambiguous on 0, slower on 0"),
    ] {
        std::fs::write(path("README.md"), regions.concat()).unwrap();
        std::fs::write(path("results/record.json"), format!(r#"{{ "sittings": [{sittings}] }}"#)).unwrap();
        report(folder.path(), &[]);
        let page = std::fs::read_to_string(path("README.md")).unwrap();
        assert!(page.contains(&format!("**{verdicts}** of 1 problems")) && page.contains("2 sittings"), "{page}");
    }
}

#[test]
fn every_generation_has_its_figures_in_its_own_readme() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("results")).unwrap();
    std::fs::write(path("results/record.json"), RECORD).unwrap();
    let regions = ["headline", "tree", "results"].map(|name| format!("<!-- {name}:begin -->\n<!-- {name}:end -->\n"));
    std::fs::write(path("README.md"), regions.concat()).unwrap();
    let ids = sdpa::generations::ids();
    for id in &ids {
        std::fs::create_dir_all(path(&format!("crates/sdpa-{id}"))).unwrap();
        std::fs::write(
            path(&format!("crates/sdpa-{id}/README.md")),
            "<!-- measured:begin -->\n<!-- measured:end -->\n",
        )
        .unwrap();
    }
    report(folder.path(), &[]);
    let page = |id: &str| std::fs::read_to_string(path(&format!("crates/sdpa-{id}/README.md"))).unwrap();
    assert!(
        page("v1").contains("|short: (1,8,512,64) f16 full|170 (stale)||0.05 × cudnn, slower (stale)|"),
        "{}",
        page("v1")
    );
    assert!(ids[1..].iter().all(|id| page(id).contains("Not timed ")));

    // A page that someone edited between the markers is out of date; one without markers is an error.
    std::fs::write(path("crates/sdpa-v1/README.md"), page("v1").replace("170", "17")).unwrap();
    assert_eq!(report(folder.path(), &["--check"]), "crates/sdpa-v1/README.md: out of date\nexit 1");
    std::fs::write(path("crates/sdpa-v1/README.md"), "# V1\n").unwrap();
    insta::assert_snapshot!(report(folder.path(), &[]), @r"
    error: crates/sdpa-v1/README.md: expected one line `<!-- measured:begin -->` and after it one line `<!-- measured:end -->`
    exit 2
    ");
}
