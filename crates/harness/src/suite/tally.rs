//! What ran and what was declined, told at the end of each test.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sdpa_core::{Device, SizeRange, Unsupported};
use sdpa_ref::Judged;

/// A line that is seen whether or not the test passes: the test harness captures `println!`, not the stream itself.
pub(super) fn say(line: &str) {
    // In one write, since other tests print, too. An error is ignored: there is no one left to tell.
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// A test's name without its program's.
pub(super) fn short(test: &str) -> &str {
    test.split_once("::").map_or(test, |(_, name)| name)
}

/// Counts what ran and what was declined in the process that runs the cases, and hands it to the one that reports.
#[derive(Clone)]
pub(super) struct Tally {
    test: &'static str,
    file: PathBuf,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Default)]
struct Counts {
    device: String,
    ran: u32,
    judged: Judged,
    declined: BTreeMap<String, u32>,
    text: String,
    /// Some case failed because it could not be run.
    unjudged: bool,
}

impl Tally {
    pub(super) fn new(test: &'static str, forks: bool) -> Self {
        let is_child = std::env::var_os("_PROPTEST_FORKFILE").is_some();
        let owner = if forks && is_child { parent_process() } else { std::process::id() };
        let file = std::env::temp_dir().join(format!("sdpa-{owner}-{}.tally", test.replace("::", ".")));
        Self { test, file, counts: Arc::default() }
    }

    fn update(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut counts);
        let Counts { device, ran, judged, declined, text, unjudged } = &*counts;
        let mut line = format!("{}: ", short(self.test));
        match text.is_empty() {
            true if device.is_empty() => line += "no case ran",
            true => line += &format!("{ran} cases on {device}, {}", rows_of(*judged)),
            false => line += &format!("{text} (on {device})"),
        }
        if !declined.is_empty() {
            let reasons: Vec<String> = declined.iter().map(|(reason, count)| format!("{count} × {reason}")).collect();
            line += &format!("; declined: {}", reasons.join(", "));
        }
        if text.is_empty() && *ran > 0 && judged.rows == judged.unjudged {
            line += NOTHING;
        }
        if *unjudged {
            line += UNJUDGED;
        }
        // Without the line the report is shorter; the verdict is the same.
        let _ = std::fs::write(&self.file, line);
    }

    pub(super) fn runs_on(&self, device: &dyn Device) {
        // The name without its particulars: the line is one of many.
        let name = device.name();
        self.update(|counts| counts.device = name.split(" (").next().unwrap_or(&name).to_owned());
    }

    pub(super) fn ran(&self, judged: Judged) {
        self.update(|counts| {
            counts.ran += 1;
            counts.judged += judged;
        });
    }

    pub(super) fn decline(&self, reason: String) {
        self.update(|counts| *counts.declined.entry(reason).or_default() += 1);
    }

    pub(super) fn say(&self, text: String) {
        self.update(|counts| counts.text = text);
    }

    pub(super) fn failed(&self, judged: bool) {
        self.update(|counts| counts.unjudged |= !judged);
    }

    /// Says what the process that ran the cases counted.
    pub(super) fn report(&self) -> Report {
        let Ok(line) = std::fs::read_to_string(&self.file) else { return Report::CouldNotRun };
        let _ = std::fs::remove_file(&self.file);
        say(&line);
        match (line.ends_with(UNJUDGED), line.ends_with(NOTHING)) {
            (true, _) => Report::CouldNotRun,
            (_, true) => Report::JudgedNothing,
            _ => Report::Judged,
        }
    }
}

/// What a test's cases came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// Rows were judged.
    Judged,
    /// Cases ran, and not a row of them could be judged.
    JudgedNothing,
    /// Some case could not be run at all.
    CouldNotRun,
}

/// `5120 rows`, with the share of them that could be anything.
fn rows_of(Judged { rows, unjudged }: Judged) -> String {
    match unjudged {
        0 => format!("{rows} rows"),
        _ => format!("{rows} rows, of which {unjudged} ({:.1} %) could not be judged", percent(unjudged, rows)),
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// Ends the report of a test that judged no row.
const NOTHING: &str = "; nothing was judged";

/// Ends the report of a test in which a case could not be run.
const UNJUDGED: &str = "; some could not be run";

#[cfg(unix)]
fn parent_process() -> u32 {
    std::os::unix::process::parent_id()
}

/// Elsewhere a process does not know its parent: the counts are not reported.
#[cfg(not(unix))]
fn parent_process() -> u32 {
    std::process::id()
}

/// A reason without the figures of the case, so that equal reasons are counted together.
pub(super) fn kind_of(reason: &Unsupported) -> String {
    match reason {
        Unsupported::Dtype { dtype, .. } => format!("no {dtype} kernel"),
        Unsupported::Extension { extension, .. } => format!("takes no {extension}"),
        Unsupported::OnlyWith { extension, .. } => format!("takes only {extension}"),
        Unsupported::Size { quantity, range: SizeRange::UpTo(most), .. } => format!("{quantity} over {most}"),
        Unsupported::Size { quantity, range: SizeRange::From(least), .. } => format!("{quantity} under {least}"),
        Unsupported::Stride { multiple, .. } => format!("stride no multiple of {multiple}"),
        Unsupported::LongStride { .. } => "stride beyond a tensor map".to_owned(),
        Unsupported::ComputeCapability { needed, .. } => format!("needs compute capability {}.{}", needed.0, needed.1),
        Unsupported::SharedMemory { kernel, .. } => format!("{kernel} does not fit shared memory"),
        Unsupported::Grid { .. } => "grid too large".to_owned(),
        Unsupported::Tickets { limit, .. } => format!("more than {limit} counters"),
        Unsupported::NoMultiprocessors { .. } => "no multiprocessor".to_owned(),
        Unsupported::NotBuilt { kernel, .. } => format!("{kernel} not built"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a test whose cases judged these rows says, and what that comes to.
    fn told(test: &'static str, judged: &[Judged]) -> (String, Report) {
        let tally = Tally::new(test, false);
        tally.update(|counts| counts.device = "a device".to_owned());
        judged.iter().for_each(|judged| tally.ran(*judged));
        let line = std::fs::read_to_string(&tally.file).unwrap();
        (line, tally.report())
    }

    #[test]
    fn a_share_of_rows_that_went_unjudged_is_said() {
        let (line, report) = told("tally::all", &[Judged::all(20), Judged::all(0)]);
        assert_eq!((line.as_str(), report), ("all: 2 cases on a device, 20 rows", Report::Judged));
        let (line, report) = told("tally::some", &[Judged::all(20), Judged { rows: 20, unjudged: 1 }]);
        let expected = "some: 2 cases on a device, 40 rows, of which 1 (2.5 %) could not be judged";
        assert_eq!((line.as_str(), report), (expected, Report::Judged));
        let (line, report) = told("tally::none", &[Judged::default()]);
        let expected = "none: 1 cases on a device, 0 rows; nothing was judged";
        assert_eq!((line.as_str(), report), (expected, Report::JudgedNothing));
    }
}
