//! What `sdpa check` found, as programs read it.

use harness::check::{Checked, Fault, What};
use ptx_interp::SourceFrame;
use serde::{Deserialize, Serialize};

/// What was found in one generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which generation.
    pub generation: String,
    /// Runs that there were.
    pub runs: usize,
    /// Rows that were compared with the oracle.
    pub judged_rows: usize,
    /// Rows that could not be compared.
    pub unjudged_rows: usize,
    /// Each different finding.
    pub findings: Vec<Entry>,
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// For example `race in shared memory`, or `wrong result`.
    pub kind: String,
    /// What happened.
    pub message: String,
    /// What would have ordered the accesses, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// The access, then the other one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
    /// The first case that showed it.
    pub case: String,
    /// In how many more runs it was seen.
    pub again: usize,
    /// The command that shows it alone.
    pub repeat: String,
}

/// Where a thread accessed something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// The file as the compiler names it; none without line information.
    pub file: Option<String>,
    /// Its line.
    pub line: Option<u32>,
    /// The lines that lead there, outermost first; the last one is the line itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub frames: Vec<Frame>,
    /// Line of the PTX.
    pub ptx_line: u32,
    /// The statement.
    pub ptx: String,
    /// Which thread.
    pub thread: String,
}

/// A line of source on the way to an instruction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The file as the compiler names it.
    pub file: String,
    /// Its line.
    pub line: u32,
    /// The function that was inlined there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
}

impl Frame {
    fn of(frame: &SourceFrame) -> Self {
        Self { file: frame.file.clone(), line: frame.line, function: frame.function.clone() }
    }
}

impl Report {
    /// What a check found.
    pub fn of(checked: &Checked) -> Self {
        let Checked { generation, runs, judged, .. } = *checked;
        Self {
            generation: generation.to_owned(),
            runs,
            judged_rows: judged.rows - judged.unjudged,
            unjudged_rows: judged.unjudged,
            findings: checked.faults.iter().map(|fault| Entry::of(generation, fault)).collect(),
        }
    }
}

impl Entry {
    /// One fault of a generation.
    pub fn of(generation: &str, fault: &Fault) -> Self {
        let (kind, message, missing, places) = match &fault.what {
            What::Finding(finding) => {
                let places = std::iter::once(&finding.place).chain(&finding.other).map(|place| Place {
                    file: place.source.as_ref().map(|source| source.file.clone()),
                    line: place.source.as_ref().map(|source| source.line),
                    frames: place.source.iter().flat_map(|source| &source.frames).map(Frame::of).collect(),
                    ptx_line: place.ptx_line,
                    ptx: place.ptx.clone(),
                    thread: place.thread.to_string(),
                });
                let missing = finding.missing.map(|missing| missing.to_string());
                (finding.kind.name().to_owned(), finding.message.clone(), missing, places.collect())
            }
            What::Wrong(failure) => ("wrong result".to_owned(), failure.reason.to_string(), None, Vec::new()),
        };
        let repeat = fault.trial.repeat_command(generation);
        Self { kind, message, missing, places, case: fault.trial.to_string(), again: fault.again, repeat }
    }
}
