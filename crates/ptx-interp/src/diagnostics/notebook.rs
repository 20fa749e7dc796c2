//! Findings of one execution unit, one entry for each kind and pair of lines.

use std::collections::HashMap;

use super::{Finding, FindingKind, Missing, Mistake, Site, describe};
use crate::decode::Program;

/// What makes two findings the same: their kinds, and their source lines, or their PTX lines where there is no source.
type Key = (FindingKind, Line, Option<Line>);
type Line = (u32, u32, u32);

fn line(program: &Program, pc: u32) -> Line {
    let origin = &program.origins[(pc as usize).min(program.origins.len() - 1)];
    let location = origin.location;
    if location.line == 0 { (u32::MAX, origin.line, 0) } else { (location.file, location.line, location.call_site) }
}

#[derive(Debug)]
struct Entry {
    key: Key,
    /// None once it has been told to be the same as another.
    finding: Option<Finding>,
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    entries: Vec<Entry>,
    index: HashMap<Key, usize>,
    limit: usize,
}

impl Findings {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, ..Default::default() }
    }

    /// Notes a finding; its number if it is a new one.
    pub(crate) fn report(
        &mut self,
        program: &Program,
        seed: u64,
        mistake: impl Into<Mistake>,
        at: Site,
        other: Option<Site>,
        message: impl FnOnce() -> String,
    ) -> Option<usize> {
        let Mistake { kind, missing } = mistake.into();
        let key = (kind, line(program, at.pc), other.map(|other| line(program, other.pc)));
        if let Some(&known) = self.index.get(&key) {
            if let Some(finding) = &mut self.entries[known].finding {
                finding.count += 1;
                finding.missing = wider(finding.missing, missing);
            }
            return None;
        }
        let finding = Finding {
            kind,
            message: message(),
            place: describe(program, at),
            other: other.map(|other| describe(program, other)),
            missing,
            seed,
            count: 1,
        };
        self.add(key, finding)
    }

    fn add(&mut self, key: Key, finding: Finding) -> Option<usize> {
        if self.entries.len() >= self.limit {
            return None;
        }
        self.index.insert(key, self.entries.len());
        self.entries.push(Entry { key, finding: Some(finding) });
        Some(self.entries.len() - 1)
    }

    /// A finding turns out to be another mistake than it seemed when it was noted, perhaps with another thread.
    pub(crate) fn amend(
        &mut self,
        program: &Program,
        number: usize,
        mistake: Mistake,
        other: Option<Site>,
        message: String,
    ) {
        let Some(entry) = self.entries.get_mut(number) else { return };
        let Some(mut finding) = entry.finding.take() else { return };
        let other_line = other.map(|other| line(program, other.pc)).or(entry.key.2);
        let key = (mistake.kind, entry.key.1, other_line);
        let seemed = std::mem::replace(&mut entry.key, key);
        let same = *self.index.entry(key).or_insert(number);
        // Later ones that seem so at first are this.
        self.index.insert(seemed, same);
        if let Some(known) = self.entries[same].finding.as_mut().filter(|_| same != number) {
            known.count += finding.count;
            known.missing = wider(known.missing, mistake.missing);
            return;
        }
        (finding.kind, finding.missing, finding.message) = (mistake.kind, mistake.missing, message);
        finding.other = other.map(|other| describe(program, other)).or(finding.other);
        self.entries[number].finding = Some(finding);
    }

    /// Adds the findings of a later unit.
    pub(crate) fn absorb(&mut self, later: Self) {
        for Entry { key, finding } in later.entries {
            let Some(finding) = finding else { continue };
            match self.index.get(&key) {
                Some(&known) => {
                    if let Some(known) = &mut self.entries[known].finding {
                        known.count += finding.count;
                        known.missing = wider(known.missing, finding.missing);
                    }
                }
                None => {
                    self.add(key, finding);
                }
            }
        }
    }

    pub(crate) fn into_entries(self) -> Vec<Finding> {
        self.entries.into_iter().filter_map(|entry| entry.finding).collect()
    }
}

/// What two findings of the same lines lack: where threads of two warps meet, too, the warp's barrier is not enough.
fn wider(known: Option<Missing>, other: Option<Missing>) -> Option<Missing> {
    match (known, other) {
        (Some(Missing::WarpBarrier), Some(Missing::Barrier)) => other,
        _ => known,
    }
}
