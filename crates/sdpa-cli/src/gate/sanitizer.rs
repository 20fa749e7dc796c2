//! The GPU's own view of races: compute-sanitizer.

use std::process::Command;

use harness::case::Case;
use harness::check::{self, trials};
use sdpa_core::{Attention, Device};
use sdpa_toolchain::find_tool;

use super::steps::{Outcome, Progress};

/// compute-sanitizer finds nothing in this program's own `verify`, where the tool is on PATH.
pub fn sanitizer(generation: &dyn Attention, device: &dyn Device, progress: Progress<'_>) -> Outcome {
    let Some(tool) = find_tool("compute-sanitizer") else {
        return Outcome::not_run("no compute-sanitizer on PATH, so the GPU's own view of races was not asked for");
    };
    let Ok(program) = std::env::current_exe() else {
        return Outcome::not_run("this program does not know where it is");
    };
    let id = generation.generation().id;
    let takes = |trial: &check::Trial| {
        trial.multiprocessors.is_none() && generation.plan(&trial.case.problem, device.limits()).is_ok()
    };
    let cases: Vec<Case> = trials(generation).into_iter().filter(takes).map(|trial| trial.case).collect();
    // Of the ragged shapes the first, and some from all over the list: head dimensions, masks, element types.
    let chosen: Vec<&Case> = cases.iter().step_by(cases.len().div_ceil(4).max(1)).collect();
    if chosen.is_empty() {
        return Outcome::not_run("it takes none of the shapes of `sdpa check` on this device");
    }
    let mut runs = 0;
    for check in ["memcheck", "racecheck", "synccheck", "initcheck"] {
        for case in &chosen {
            progress(format!("compute-sanitizer --tool {check}, {case}"));
            let line = case.to_string();
            let output = Command::new(&tool)
                .args(["--tool", check, "--error-exitcode", &COMPLAINT.to_string()])
                .arg(&program)
                .args(["verify", id, &line])
                .env("SDPA_DEVICE", "cuda")
                .output();
            let output = match output {
                Ok(output) => output,
                Err(error) => return Outcome::not_run(&format!("{}: {error}", tool.display())),
            };
            runs += 1;
            let said =
                [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
            if let Some(outcome) = judge_sanitizer(output.status.code(), &said, &format!("{check}, {id} on {line}")) {
                return outcome;
            }
        }
    }
    Outcome::passed(&format!("{runs} runs under compute-sanitizer, no complaint"))
}

/// What compute-sanitizer is told to exit with where it complains; no exit code of `sdpa verify`.
const COMPLAINT: i32 = 99;

/// What a run under compute-sanitizer means; nothing where it went well.
fn judge_sanitizer(code: Option<i32>, said: &str, what: &str) -> Option<Outcome> {
    let tools: Vec<&str> = said.lines().filter(|line| line.starts_with("=========")).collect();
    let programs: Vec<&str> = said.lines().filter(|line| !line.starts_with("=========") && !line.is_empty()).collect();
    // Whoever never ran the program has said nothing of it: a tool that this driver or GPU does not suit.
    let ran = programs.iter().any(|line| line.starts_with("device: "));
    let story = |lines: &[&str]| lines.iter().take(24).copied().collect::<Vec<_>>().join("\n");
    match code {
        Some(0) if ran => None,
        Some(COMPLAINT) if ran => Some(Outcome::failed(
            &format!("compute-sanitizer complains: {what}\n{}", story(&tools)),
            "the first hazard or invalid access above: the kernel's PTX carries line numbers",
        )),
        Some(code @ 1) if ran => Some(Outcome::failed(
            &format!("wrong under compute-sanitizer (exit code {code}): {what}\n{}", story(&programs)),
            "the tool slows warps down unevenly: an order that usually holds and that nothing enforces",
        )),
        code => {
            let code = code.map_or("no exit code".to_owned(), |code| format!("exit code {code}"));
            let said = story(&[tools, programs].concat());
            Some(Outcome::not_run(&format!("compute-sanitizer did not get through ({code}): {what}\n{said}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Status;

    #[test]
    fn a_tool_that_complains_is_told_from_one_that_did_not_run() {
        let ran = "========= COMPUTE-SANITIZER\ndevice: some GPU\n========= Invalid __global__ write\nok: right\n";
        let status = |code, said: &str| judge_sanitizer(code, said, "memcheck").map(|outcome| outcome.status);
        assert_eq!(status(Some(0), ran), None);
        assert_eq!(status(Some(99), ran), Some(Status::Failed));
        assert_eq!(status(Some(1), ran), Some(Status::Failed));
        assert_eq!(status(Some(2), ran), Some(Status::NotRun));
        assert_eq!(status(None, ran), Some(Status::NotRun));
        let refused = "========= Error: Target application terminated before first instrumented API call\n";
        assert_eq!([status(Some(99), refused), status(Some(0), refused)], [Some(Status::NotRun); 2]);
        let complaint = judge_sanitizer(Some(99), ran, "memcheck, v9 on L1").unwrap().detail;
        assert!(
            complaint.starts_with("compute-sanitizer complains: memcheck, v9 on L1\n=====")
                && !complaint.contains("ok:")
        );
    }
}
