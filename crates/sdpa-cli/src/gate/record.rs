//! `results/gate/<id>.json`, and the line a step is for people.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Status, Verdict};

/// A run of the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateRecord {
    /// Which generation.
    pub generation: String,
    /// Its one idea.
    pub title: String,
    /// The generation it evolved from.
    pub parent: Option<String>,
    /// What became of it.
    pub verdict: Verdict,
    /// The device that the kernels ran on.
    pub device: String,
    /// Date, commit, versions and clocks.
    pub environment: Map<String, Value>,
    /// Fingerprint of each kernel: a record is of these and no others.
    pub kernels: BTreeMap<String, String>,
    /// In their order.
    pub steps: Vec<StepRecord>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// What became of it.
    pub status: Status,
    /// What was found: one line where it passed, the whole story where it failed.
    pub detail: String,
    /// Where it failed, the lines of the kernel that were edited: the first suspects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edited: Option<String>,
    /// Where it failed, the next thing to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub look_at: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// A step for people: its line, and below it what to do where it failed.
pub fn render_line(number: usize, step: &StepRecord) -> String {
    let status = match step.status {
        Status::Passed => "ok",
        Status::Failed => "FAILED",
        Status::NotRun => "not run",
        Status::NotReached => "–",
    };
    let mut lines = step.detail.lines();
    let mut text = format!("{number} {:<11} {status:<8} {}", step.name, lines.next().unwrap_or_default());
    text.truncate(text.trim_end().len());
    text.push('\n');
    // An author looks at the last edit first: a finding's story may fill the screen.
    text += &labelled("edited", step.edited.as_deref());
    for line in lines {
        text += &format!("    {line}\n");
    }
    text + &labelled("look at", step.look_at.as_deref())
}

/// Lines behind a label.
fn labelled(label: &str, text: Option<&str>) -> String {
    let lines = text.into_iter().flat_map(str::lines).enumerate();
    lines.map(|(index, line)| format!("    {:<10} {line}\n", if index == 0 { label } else { "" })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, status: Status) -> StepRecord {
        let detail = "found\nmore".to_owned();
        StepRecord { name: name.to_owned(), status, detail, edited: None, look_at: None, seconds: 0.5 }
    }

    #[test]
    fn one_failure_fails_and_what_could_not_be_run_is_no_pass() {
        use Status::{Failed, NotReached, NotRun, Passed};
        let verdict = |statuses: &[Status]| {
            Verdict::of(&statuses.iter().map(|status| step("speed", *status)).collect::<Vec<_>>()).exit_code()
        };
        assert_eq!(verdict(&[Passed, Passed]), 0);
        assert_eq!(verdict(&[Passed, Failed, NotReached]), 1);
        assert_eq!(verdict(&[NotRun, Failed]), 1);
        assert_eq!(verdict(&[Passed, NotRun]), 3);
        // A gate that asked nothing has proved nothing.
        assert_eq!(verdict(&[]), 3);
    }

    #[test]
    fn a_record_reads_back() {
        let record = GateRecord {
            generation: "v9".to_owned(),
            title: "for tests".to_owned(),
            parent: None,
            verdict: Verdict::Incomplete,
            device: "some GPU".to_owned(),
            environment: Map::new(),
            kernels: BTreeMap::from([("v9/f16_d64".to_owned(), "c0ffee".to_owned())]),
            steps: vec![step("compiles", Status::Passed), step("speed", Status::NotRun)],
        };
        let text = serde_json::to_string(&record).unwrap();
        assert!(text.contains(r#""verdict":"incomplete""#) && text.contains(r#""status":"not-run""#), "{text}");
        assert_eq!(serde_json::from_str::<GateRecord>(&text).unwrap(), record);
    }

    #[test]
    fn a_step_is_a_line_and_a_failure_says_what_to_look_at() {
        let failed = StepRecord {
            edited: Some("kernels/v9.cu:7: `a` is new\nkernels/v9.cu:9: `b` is gone".to_owned()),
            look_at: Some("the line\nthe mask".to_owned()),
            ..step("acceptance", Status::Failed)
        };
        let text = render_line(3, &failed)
            + &render_line(8, &StepRecord { detail: "no GPU".to_owned(), ..step("speed", Status::NotRun) });
        insta::assert_snapshot!(text, @r"
        3 acceptance  FAILED   found
            edited     kernels/v9.cu:7: `a` is new
                       kernels/v9.cu:9: `b` is gone
            more
            look at    the line
                       the mask
        8 speed       not run  no GPU
        ");
    }
}
