//! `sdpa prove` with stand-ins for every program that it runs: no GPU, no compute-sanitizer.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

const FAILED: &str = "**Something failed here.**";
/// Runs under the sanitizer's tools: v2d's stand-in takes every case, v1's no bf16 and not the widest.
const V2D: usize = 4 * 15;
const V1: usize = 4 * 6;
const ALL: usize = V1 + V2D;
/// A case that v1 does not take.
const WIDE: &str = "h2 q70 kv193 d256 f16 full normal seed=3";
const RAGGED: &str = "h2 L300 d64 f16 causal normal seed=3";
const LONG: &str = "b2 h8 L2048 d128 bf16 causal normal seed=3";
const SUITE_TITLE: &str = "`SDPA_DEVICE=cuda";

/// As `sdpa verify ID CASE --json --repeat N` speaks; a test's own commands come in before it starts or after the work.
const SDPA: &str = r#"
[ "$SDPA_DEVICE" = cuda ] || { echo "error: asked to run on ${SDPA_DEVICE:-anything}" >&2; exit 2; }
again=1; [ "$5" = --repeat ] && again=$6
say() { echo "{\"generation\":\"$1\",\"case\":\"$2\",\"device\":\"H200\",\"outcome\":\"$3\",\"said\":\"$4\",\"same_runs\":$5,\"judged_rows\":600,\"unjudged_rows\":0}"; }
@BEFORE@
case "$2 $3" in
    v1*d256*) say "$2" "$3" declined "v1 takes head_dim up to 128; this problem has 256" 0; exit 2 ;;
    v1*bf16*) say "$2" "$3" declined "v1 has no bf16 kernel" 0; exit 2 ;;
esac
@AFTER@
say "$2" "$3" right "relative Frobenius error 2.00e-4; the same bits in $((again + 1)) runs" $((again + 1))
"#;
const SANITIZER: &str = r#"
echo "========= COMPUTE-SANITIZER"
tool=$2; shift 4
"$@"; code=$?
@AFTER@
[ "$tool" = racecheck ] && echo "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)" ||
    echo "========= ERROR SUMMARY: 0 errors"
exit $code
"#;
const SUITE: &str = r#"
[ "$SDPA_DEVICE" = cuda ] && [ -e "$INSTA_WORKSPACE_ROOT/crates/harness/tests/suite/snapshots" ] || exit 3
echo "running 2 tests"
@BEFORE@
echo "v1::real_model: MiniLM's first layer, error full 0.97 × ideal (on NVIDIA H200)"
echo "v1::matches_reference: 256 cases on NVIDIA H200; declined: 30 × head_dim over 128"
@AFTER@
echo "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 72.88s"
"#;
const WRONG: &str =
    r#"{ say "$2" "$3" wrong "a second run of the same input differs: out[b0 h1 i2 d3] is 1e0" 0; exit 1; }"#;

fn stand_in(script: &str, before: &str, after: &str) -> String {
    format!("#!/bin/sh\n{}", script.replace("@BEFORE@", before).replace("@AFTER@", after))
}

/// The stand-ins by their names; a test replaces some and takes others away.
struct Programs(BTreeMap<&'static str, String>);

impl Programs {
    fn usual() -> Self {
        Self(BTreeMap::from([
            ("sdpa", stand_in(SDPA, "", "")),
            ("suite", stand_in(SUITE, "", "")),
            ("nvidia-smi", stand_in("echo 'name, driver_version'; echo 'NVIDIA H200, 580.159.04'", "", "")),
            ("compute-sanitizer", stand_in(SANITIZER, "", "")),
        ]))
    }

    fn with(mut self, name: &'static str, script: String) -> Self {
        self.0.insert(name, script);
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.remove(name);
        self
    }

    fn prove(&self) -> Proof {
        self.prove_with(&["v1", "v2d"], "page.md")
    }

    /// Runs the proof; nothing outside of the stand-ins' folder is on PATH.
    fn prove_with(&self, ids: &[&str], page: &str) -> Proof {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, script) in &self.0 {
            std::fs::write(path(name), script).unwrap();
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let output = Command::new(env!("CARGO_BIN_EXE_sdpa"))
            .arg("prove")
            .args(ids)
            .args([Path::new("--program"), &path("sdpa"), Path::new("--suite"), &path("suite")])
            .args([Path::new("-o"), &path(page)])
            .env("PATH", folder.path())
            .env_remove("LD_LIBRARY_PATH")
            .output()
            .unwrap();
        let page = std::fs::read_to_string(path(page)).unwrap_or_default();
        Proof { code: output.status.code(), page, said: String::from_utf8_lossy(&output.stderr).into_owned() }
    }
}

struct Proof {
    code: Option<i32>,
    page: String,
    said: String,
}

impl Proof {
    /// What follows a title, by the title's first word.
    fn sections(&self) -> BTreeMap<&str, &str> {
        let parts = self.page.split("\n## ").skip(1);
        parts.map(|part| (part.split_whitespace().next().unwrap_or_default().trim_end_matches(':'), part)).collect()
    }

    /// The exit code, and the titles under which something failed.
    fn failed(&self) -> (Option<i32>, Vec<&str>) {
        let failed = self.sections().into_iter().filter(|(_, text)| text.contains(FAILED));
        (self.code, failed.map(|(title, _)| title).collect())
    }

    fn has(&self, line: &str) {
        assert!(self.page.contains(line), "{line}\nis not in\n{}", self.page);
    }
}

#[test]
fn a_clean_proof_says_what_every_tool_said() {
    let proof = Programs::usual().prove();
    assert_eq!(proof.failed(), (Some(0), vec![]), "{}{}", proof.page, proof.said);
    proof.has("NVIDIA H200, 580.159.04");
    proof.has("exit 0 | test result: ok. 2 passed");
    proof.has("v1::real_model: MiniLM's first layer");
    proof.has("v1::matches_reference: 256 cases on NVIDIA H200; declined: 30");
    proof.has(&format!("\n## compute-sanitizer: {ALL} of {ALL} runs clean\n"));
    proof.has(&format!("\nv1 | memcheck | {RAGGED} | exit 0 | ERROR SUMMARY: 0 errors\n"));
    proof.has(&format!("\nv2d | racecheck | {WIDE} | exit 0 | RACECHECK SUMMARY: 0 hazards displayed (0 err"));
    proof.has(&format!(
        "\nv2d | {LONG} | exit 0 | ok: judged 600 rows; relative Frobenius error 2.00e-4; the same bits in 101 runs\n"
    ));
}

#[test]
fn what_a_generation_declines_is_said_and_no_failure() {
    let proof = Programs::usual().prove();
    proof.has(&format!("\nv1 | {WIDE} | declined: v1 takes head_dim up to 128; this problem has 256\n"));
    proof.has(&format!("\nv1 | {LONG} | declined: v1 has no bf16 kernel\n"));
    assert!(!proof.page.contains(&format!("v1 | memcheck | {WIDE}")) && !proof.page.contains("v2d | declined"));
    let proof = Programs::usual().prove_with(&["v2d"], "page.md");
    proof.has(&format!("compute-sanitizer: {V2D} of {V2D} runs clean"));
    assert!(!proof.page.contains("\nv1 | "));
}

#[test]
fn a_proof_of_nothing_is_none() {
    let declines = SDPA.replace("v1*d256*)", "v*)");
    let proof = Programs::usual().with("sdpa", stand_in(&declines, "", "")).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["The", "compute-sanitizer"]));
    proof.has("compute-sanitizer: 0 of 0 runs clean");
}

#[test]
fn a_case_that_could_not_be_run_is_not_declined() {
    let refused = r#"{ echo "error: no CUDA driver: libcuda could not be loaded" >&2; exit 2; }"#;
    for script in [stand_in(SDPA, refused, ""), stand_in(SDPA, "", refused)] {
        let proof = Programs::usual().with("sdpa", script).prove();
        assert_eq!(proof.failed(), (Some(1), vec!["The", "compute-sanitizer"]));
        let line = "| exit 2 | ERROR SUMMARY: 0 errors | error: no CUDA driver: libcuda could not";
        proof.has(&format!("\nv1 | memcheck | {RAGGED} {line}"));
        proof.has(&format!("\nv2d | {LONG} | exit 2 | error: no CUDA driver: libcuda could not be loaded\n"));
    }
}

#[test]
fn findings_and_warnings_of_a_sanitizer_fail() {
    let found = r#"[ "$tool $3" = "memcheck v1" ] && { echo "========= ERROR SUMMARY: 3 errors"; exit 9; }"#;
    let proof = Programs::usual().with("compute-sanitizer", stand_in(SANITIZER, "", found)).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has(&format!("compute-sanitizer: {} of {ALL} runs clean", ALL - V1 / 4));
    proof.has(&format!("\nv1 | memcheck | {RAGGED} | exit 9 | ERROR SUMMARY: 3 errors\n"));
    let warned = r#"[ "$tool" = racecheck ] && { echo "========= RACECHECK SUMMARY: 1 hazard displayed"; exit 0; }"#;
    let proof = Programs::usual().with("compute-sanitizer", stand_in(SANITIZER, "", warned)).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has(&format!("compute-sanitizer: {} of {ALL} runs clean", ALL * 3 / 4));
}

#[test]
fn a_sanitizer_that_sums_nothing_up_or_is_not_there_proves_nothing() {
    let silent = stand_in("echo '========= Error: no attachable process found'", "", "");
    let proof = Programs::usual().with("compute-sanitizer", silent).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has(&format!("| {RAGGED} | exit 0 | Error: no attachable process found\n"));
    let proof = Programs::usual().without("compute-sanitizer").prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has("not on PATH");
}

#[test]
fn bits_that_differ_and_runs_that_are_missing_fail() {
    let differs = format!(r#"[ "$2 $again" = "v2d 100" ] && {WRONG}"#);
    let proof = Programs::usual().with("sdpa", stand_in(SDPA, "", &differs)).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["The"]));
    proof.has(&format!("\nv2d | {LONG} | exit 1 | a second run of the same input differs: out[b0 h1 i2 d3] is 1e0\n"));
    proof.has("\nv1 | b1 h8 L512 d64 f16 causal normal seed=3 | exit 0 | ok: ");
    let fewer = SDPA.replace("again=$6", "again=2");
    let proof = Programs::usual().with("sdpa", stand_in(&fewer, "", "")).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["The"]));
}

#[test]
fn a_wrong_result_under_a_sanitizer_is_told_from_a_finding() {
    let differs = format!(r#"[ "$2 $again" = "v2d 1" ] && {WRONG}"#);
    // The stand-in hears no --repeat from under the sanitizer, and of the question before it a single one.
    let under = differs.replace("[ \"$2", "[ -z \"$5\" ] && [ \"$2");
    let proof = Programs::usual().with("sdpa", stand_in(SDPA, "", &under)).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has(&format!("compute-sanitizer: {V1} of {ALL} runs clean"));
    let line = "exit 1 | ERROR SUMMARY: 0 errors | a second run of the same input differs";
    proof.has(&format!("\nv2d | memcheck | {RAGGED} | {line}"));
}

#[test]
fn a_suite_that_fails_names_its_tests() {
    let said = "echo 'test plans::every_generation_plans_as_it_did ... FAILED'\n\
                echo 'test v1::causal_prefix - should panic ... FAILED'\necho 'test v1::empty_lengths ... ok'\n\
                echo 'test result: FAILED. 247 passed; 2 failed; 0 ignored'\nexit 101";
    let proof = Programs::usual().with("suite", stand_in(SUITE, "", said)).prove();
    assert_eq!(proof.failed(), (Some(1), vec![SUITE_TITLE]));
    proof.has("\nexit 101 | test result: FAILED. 247 passed; 2 failed; 0 ignored\n");
    proof.has("\nfailed: plans::every_generation_plans_as_it_did\nfailed: v1::causal_prefix\nv1::matches_ref");
    assert!(!proof.page.contains("failed: v1::empty_lengths"));
}

#[test]
fn every_generation_that_is_asked_for_has_a_suite_of_its_own() {
    let script = stand_in(SUITE, "[ \"$*\" = v2d:: ] && kill -9 $$\n[ \"$*\" = v1:: ] || exit 3", "");
    let proof = Programs::usual().with("suite", script).prove();
    let verdicts: Vec<(&str, bool)> = proof
        .page
        .split("\n## ")
        .filter(|part| part.contains("--test suite"))
        .map(|part| (part.lines().next().unwrap().rsplit(' ').next().unwrap(), part.contains(FAILED)))
        .collect();
    assert_eq!(verdicts, [("v1::`", false), ("v2d::`", true)]);
    assert_eq!(proof.code, Some(1));
}

#[test]
fn programs_that_crash_or_cannot_be_started_fail() {
    for (script, line) in [
        (stand_in(SUITE, "kill -ABRT $$", ""), "signal: 6"),
        (stand_in(SUITE, "exit 0", ""), "\nexit 0 | running 2 tests\n"),
        (stand_in(&format!("{SUITE}kill -SEGV $$"), "", ""), "signal: 11"),
        ("#!/no/such/interpreter\n".to_owned(), "suite cannot be started: "),
    ] {
        let proof = Programs::usual().with("suite", script).prove();
        assert_eq!(proof.failed(), (Some(1), vec![SUITE_TITLE]), "{}", proof.page);
        proof.has(line);
    }
    let crash = format!("{SDPA}[ \"$again\" = 1 ] || kill -SEGV $$");
    let proof = Programs::usual().with("sdpa", stand_in(&crash, "", "")).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["The"]));
    let proof = Programs::usual().with("compute-sanitizer", "#!/no/such/interpreter\n".to_owned()).prove();
    assert_eq!(proof.failed(), (Some(1), vec!["compute-sanitizer"]));
    proof.has(&format!("{RAGGED} | not started | compute-sanitizer cannot be started: "));
}

#[test]
fn what_is_missing_is_told_before_the_work() {
    for missing in ["sdpa", "suite"] {
        let proof = Programs::usual().without(missing).prove();
        assert_eq!((proof.code, proof.page.as_str()), (Some(2), ""));
        assert!(proof.said.contains(&format!("{missing}: no such program; build it as --help says")), "{}", proof.said);
    }
    let proof = Programs::usual().prove_with(&["v1"], "no/such/folder/page.md");
    assert!(proof.code == Some(2) && proof.said.contains("/no/such/folder: no such folder"), "{}", proof.said);
    let proof = Programs::usual().prove_with(&["v0"], "page.md");
    assert!(proof.code == Some(2) && proof.said.contains("no generation `v0`"), "{}", proof.said);
    // The proof had a GPU; only the page's head is poorer.
    let proof = Programs::usual().without("nvidia-smi").prove();
    assert_eq!(proof.failed(), (Some(0), vec![]));
    proof.has("nvidia-smi cannot be started: ");
}

/// What the stand-ins say, said by `sdpa` on the interpreter.
#[test]
fn the_real_program_speaks_as_the_stand_ins_do() {
    let ask = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sdpa"));
        let output =
            command.arg("verify").args(words).arg("--json").env("SDPA_DEVICE", "interpreter").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), serde_json::from_str::<serde_json::Value>(&text).ok())
    };
    let (code, said) = ask(&["v1", WIDE]);
    let said = said.unwrap();
    assert_eq!((code, said["outcome"].as_str()), (Some(2), Some("declined")));
    assert_eq!(said["said"], "v1 takes head_dim up to 128; this problem has 256");
    for words in [&["v0", WIDE][..], &["v1", "no case"], &["v1", WIDE, "--property", "none"]] {
        assert_eq!(ask(words), (Some(2), None), "{words:?}");
    }
    let (code, said) = ask(&["v1", "h1 L9 d64 f16", "--repeat", "2"]);
    let said = said.unwrap();
    assert_eq!((code, said["outcome"].as_str(), said["same_runs"].as_u64()), (Some(0), Some("right"), Some(3)));
    assert!(said["said"].as_str().unwrap().ends_with("; the same bits in 3 runs"), "{said}");
    let (code, said) = ask(&["no_scale", "h1 L9 d64 f16"]);
    let said = said.unwrap();
    assert_eq!((code, said["outcome"].as_str()), (Some(1), Some("wrong")));
    assert!(said["said"].as_str().unwrap().starts_with("output is wrong; "), "{said}");
}
