//! Places of the source that a kernel's trials reach, and those that they do not.

use std::collections::BTreeMap;
use std::fmt;

use sdpa_core::{Coverage, SourceLine};
use sdpa_toolchain::source_text;
use serde::Serialize;

use super::KernelCoverage;

/// A line of the source, and the calls that it was inlined through: file and line of each, the innermost first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place(pub Vec<(String, u32)>);

impl Place {
    fn new(source: &SourceLine) -> Self {
        Self(source.frames.iter().rev().map(|frame| (frame.file.clone(), frame.line)).collect())
    }

    /// What a comment at the line, or at one of the calls, says of why nothing reaches it.
    fn reason(&self) -> Option<String> {
        self.0.iter().find_map(|(file, line)| reason_in(source_text(file)?, *line))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (file, line)) in self.0.iter().enumerate() {
            let before = ["", ", called from ", ", "][index.min(2)];
            write!(f, "{before}{file}:{line}")?;
        }
        Ok(())
    }
}

/// `// UNREACHED: reason` on a line, on lines of their own right above it, or further up in the same statement: the
/// compiler names a line of a statement over several lines that need not be the one that the reason is about.
fn reason_in(text: &str, line: u32) -> Option<String> {
    const MARK: &str = "// UNREACHED:";
    let lines: Vec<&str> = text.lines().collect();
    let index = (line as usize).checked_sub(1).filter(|index| *index < lines.len())?;
    let of_line = |text: &str| text.split_once(MARK).map(|(_, reason)| reason.trim().to_owned());
    let goes_on = |line: &&&str| {
        let code = line.split("//").next().unwrap_or_default().trim();
        line.trim_start().starts_with("//") || !code.is_empty() && !code.ends_with([';', '{', '}'])
    };
    let above = lines[..index].iter().rev().take_while(goes_on);
    of_line(lines[index]).or_else(|| above.filter_map(|line| of_line(line)).next())
}

/// What happens at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A statement runs.
    Runs,
    /// A condition holds.
    Holds,
    /// A condition does not hold.
    Fails,
}

/// Something that no trial makes happen.
#[derive(Clone, Debug, Serialize)]
pub struct Missed {
    /// Where.
    pub place: Place,
    /// What.
    pub event: Event,
    /// One of the statements of the PTX that it is about, and its line.
    pub ptx_line: u32,
    /// That statement.
    pub ptx: String,
    /// Why nothing can, where a comment says so.
    pub reason: Option<String>,
}

impl Missed {
    /// What does not happen, in words.
    pub fn what(&self) -> &'static str {
        match self.event {
            Event::Runs => "never runs",
            Event::Holds => "the condition of its jump never holds",
            Event::Fails => "the condition of its jump always holds",
        }
    }
}

/// A kernel's places, by what its trials executed; nothing is reached where no trial takes it.
pub(super) fn judge(kernel: String, fingerprint: String, coverage: Option<&Coverage>) -> KernelCoverage {
    let mut events: BTreeMap<(Place, Event), (bool, u32, String)> = BTreeMap::new();
    let mut loops = [0; 5];
    for line in coverage.iter().flat_map(|coverage| coverage.instructions()) {
        let Some(source) = &line.source else { continue };
        let place = Place::new(source);
        let is_branch =
            line.ptx.starts_with('@') && line.ptx.split_whitespace().nth(1).is_some_and(|word| word.starts_with("bra"));
        let mut note = |event, happens| {
            let entry = (false, line.ptx_line, line.ptx.clone());
            events.entry((place.clone(), event)).or_insert(entry).0 |= happens;
        };
        // A statement without a guard runs whenever it is come to; of a jump both ways count instead.
        if is_branch {
            note(Event::Holds, line.executed > 0);
            note(Event::Fails, line.skipped > 0);
        } else {
            note(Event::Runs, line.executed > 0);
        }
    }
    for turning in coverage.iter().flat_map(|coverage| coverage.loops()) {
        loops[4] += 1;
        loops.iter_mut().zip(turning.turns).for_each(|(count, seen)| *count += usize::from(seen));
    }
    let seen = events.iter().filter(|(_, (happens, ..))| *happens).map(|(event, _)| event.clone()).collect();
    let places = events.len();
    let missed = events.into_iter().filter(|(_, (happens, ..))| !happens);
    let missed: Vec<Missed> = missed
        .map(|((place, event), (_, ptx_line, ptx))| Missed { reason: place.reason(), place, event, ptx_line, ptx })
        .collect();
    let explained = missed.iter().filter(|missed| missed.reason.is_some()).count();
    KernelCoverage { kernel, fingerprint, places, reached: places - missed.len(), explained, loops, missed, seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_stands_at_the_line_or_above_it() {
        let text = "a();\n// UNREACHED: no plan has it\n// more\nb();\nc();  // UNREACHED: neither\nd();\n";
        let reason = |line| reason_in(text, line);
        assert_eq!(reason(4).as_deref(), Some("no plan has it"));
        assert_eq!(reason(5).as_deref(), Some("neither"));
        assert_eq!([reason(0), reason(1), reason(6), reason(7)], [None, None, None, None]);
    }

    #[test]
    fn a_reason_within_a_statement_is_about_its_later_lines() {
        let text = "if (a) {\n    asm(\n        \"wait;\"\n        // UNREACHED: nobody waits\n        \"\" ::\"r\"(a),\n        \"r\"(b));\n    c();\n}\n";
        let reason = |line| reason_in(text, line);
        assert_eq!([5, 6].map(reason), [Some("nobody waits".to_owned()), Some("nobody waits".to_owned())]);
        assert_eq!([2, 3, 7, 8].map(reason), [None, None, None, None]);
    }
}
