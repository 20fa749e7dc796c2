//! What all runs together have found and executed.

use std::path::Path;

use ptx_interp::{Coverage, Finding, Report};

#[derive(Default)]
pub(crate) struct Outcome {
    runs: u64,
    /// Different findings, with the number of runs that showed each.
    found: Vec<(Finding, u64)>,
    unfinished: bool,
    covered: Option<Coverage>,
}

fn is_same(left: &Finding, right: &Finding) -> bool {
    let lines = |finding: &Finding| {
        let places = std::iter::once(&finding.place).chain(&finding.other);
        places.map(|place| (place.source.clone(), place.source.is_none().then_some(place.ptx_line))).collect::<Vec<_>>()
    };
    left.kind == right.kind && lines(left) == lines(right)
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl Outcome {
    pub(crate) fn add(&mut self, report: Report) {
        self.runs += 1;
        self.unfinished |= !report.completed;
        for finding in report.findings {
            match self.found.iter_mut().find(|(known, _)| is_same(known, &finding)) {
                Some((_, runs)) => *runs += 1,
                None => self.found.push((finding, 1)),
            }
        }
        match (&mut self.covered, report.coverage) {
            (Some(all), Some(part)) => {
                all.merge(&part);
            }
            (all, part) => *all = part.or(all.take()),
        }
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.found.is_empty() && !self.unfinished
    }

    /// The findings, each with the lines of the source that it names.
    pub(crate) fn findings(&self) -> String {
        let mut text = String::new();
        for (finding, runs) in &self.found {
            text += &format!("{finding}\n");
            if *runs < self.runs {
                text += &format!("   = in {runs} of {} runs\n", self.runs);
            }
            let places = std::iter::once(&finding.place).chain(&finding.other);
            let frames = places.filter_map(|place| place.source.as_ref()?.frames.first());
            let mut lines: Vec<_> = frames.map(|frame| (&frame.file, frame.line)).collect();
            lines.dedup();
            for (file, line) in lines {
                if let Some(quoted) = quote(file, line) {
                    text += &format!(
                        "{line:>6} | {quoted}
"
                    );
                }
            }
            text.push('\n');
        }
        text.truncate(text.trim_end_matches('\n').len());
        if !text.is_empty() {
            text.push('\n');
        }
        text
    }

    /// Instructions that no thread has executed.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let lines = self.covered.iter().flat_map(Coverage::instructions);
        let lines = lines.filter(|line| line.executed + line.skipped == 0);
        let gap = |line: ptx_interp::InstructionCoverage| {
            let source = line.source.map_or_else(String::new, |source| format!(" ({source})"));
            format!("never executed: PTX line {}{source}: {}", line.ptx_line, line.ptx)
        };
        lines.map(gap).collect()
    }

    pub(crate) fn summary(&self, entry: &str) -> String {
        let runs = counted(self.runs, "run", "runs");
        match self.found.len() as u64 {
            0 => format!("{entry}: {runs}, no finding"),
            count => format!("{entry}: {runs}, {}", counted(count, "finding", "findings")),
        }
    }
}

/// A line of a source file, if it can be read.
fn quote(file: &str, line: u32) -> Option<String> {
    let text = std::fs::read_to_string(Path::new(file)).ok()?;
    text.lines().nth(line.checked_sub(1)? as usize).map(|line| line.trim_end().to_string())
}
