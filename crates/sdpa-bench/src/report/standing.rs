//! How one side's figures stand beside another's over many problems, in the words of the verdicts.

use std::fmt;

use super::{Beside, Evidence, EvidenceRecord, Rung};
use crate::timing::Verdict;

/// Verdicts over several problems, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Problems on which the first side is clearly faster.
    pub faster: usize,
    /// Problems on which the two take the same time.
    pub same: usize,
    /// Problems on which the spreads do not allow to tell.
    pub ambiguous: usize,
    /// Problems on which the first side is clearly slower.
    pub slower: usize,
}

impl Tally {
    /// Counts one verdict more.
    pub fn add(&mut self, verdict: Verdict) {
        *match verdict {
            Verdict::Faster => &mut self.faster,
            Verdict::Same => &mut self.same,
            Verdict::Ambiguous => &mut self.ambiguous,
            Verdict::Slower => &mut self.slower,
        } += 1;
    }

    /// All problems.
    pub const fn problems(&self) -> usize {
        self.faster + self.same + self.ambiguous + self.slower
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { faster, same, ambiguous, slower } = self;
        write!(f, "faster on {faster}, ")?;
        if *same > 0 {
            write!(f, "the same on {same}, ")?;
        }
        write!(f, "ambiguous on {ambiguous}, slower on {slower}")
    }
}

/// One side's figures beside another's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// The verdicts.
    pub tally: Tally,
    /// Geometric mean of the other side's time by the first's, a median of the sittings for each problem.
    pub mean: f64,
    /// The least of these ratios in any sitting.
    pub least: f64,
    /// True if a kernel of ours has changed since.
    pub stale: bool,
}

impl Standing {
    /// What comparisons say, one a problem; none without any.
    pub fn of(found: &[Beside]) -> Option<Self> {
        if found.is_empty() {
            return None;
        }
        let mut tally = Tally::default();
        for beside in found {
            tally.add(beside.verdict);
        }
        Some(Self {
            tally,
            mean: (found.iter().map(|beside| beside.speedup.ln()).sum::<f64>() / found.len() as f64).exp(),
            least: found.iter().map(|beside| beside.least).fold(f64::INFINITY, f64::min),
            stale: found.iter().any(|beside| beside.stale),
        })
    }

    /// The fastest of ours beside the fastest peer, over all problems of a record.
    pub fn of_ours(record: &EvidenceRecord) -> Option<Self> {
        let found: Vec<_> = record
            .problems()
            .iter()
            .filter_map(|problem| record.beside_best_peer(&record.fastest_of_ours(problem)?.figure.contender, problem))
            .collect();
        Self::of(&found)
    }

    /// A generation beside the fastest peer, over all problems of a record that it has a figure of.
    pub fn of_generation(record: &EvidenceRecord, id: &str) -> Option<Self> {
        let problems = record.problems();
        Self::of(&problems.iter().filter_map(|problem| record.beside_best_peer(id, problem)).collect::<Vec<_>>())
    }

    /// A generation beside its nearest ancestor that was timed, over the same.
    pub fn of_step(evidence: &Evidence, record: &EvidenceRecord, rung: &Rung) -> Option<Self> {
        let problems = record.problems();
        let beside = |problem| evidence.beside_ancestor(rung, record, problem);
        Self::of(&problems.iter().filter_map(beside).collect::<Vec<_>>())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, mean, least, stale } = self;
        write!(f, "{tally}; geometric mean {mean:.3} ×, least {least:.3} ×")?;
        f.write_str(if *stale { " (stale)" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::mission;
    use crate::report::tests::{entry, record};
    use sdpa_core::{Dtype, Mask};

    #[test]
    fn verdicts_are_those_of_the_program() {
        let long = crate::timing::Shape::square([2, 8, 2048, 64]).problem(Dtype::F16, Mask::Causal).unwrap();
        let record = record(
            "a.json",
            vec![
                entry("v7", &mission(), 9.0),
                entry("v8", &mission(), 7.8),
                entry("v8", &long, 60.0),
                entry("flash", &mission(), 9.0),
                entry("cudnn", &mission(), 8.0),
                entry("cudnn", &long, 30.0),
            ],
        );
        // 7.8 beside 8.0 is less than 0.4 µs, so that no more can be said of it.
        let ours = Standing::of_ours(&record).unwrap();
        assert_eq!(ours.tally, Tally { ambiguous: 1, slower: 1, ..Tally::default() });
        assert_eq!((ours.tally.problems(), ours.least, ours.stale), (2, 0.5, false));
        assert!((ours.mean - (8.0 / 7.8 / 2.0_f64).sqrt()).abs() < 1e-12, "{}", ours.mean);
        let alone = Standing::of_generation(&record, "v7").unwrap();
        assert_eq!(alone.tally, Tally { slower: 1, ..Tally::default() });
        assert_eq!(Standing::of_generation(&record, "v6"), None);
        assert_eq!(ours.to_string(), "faster on 0, ambiguous on 1, slower on 1; geometric mean 0.716 ×, least 0.500 ×");
    }

    #[test]
    fn a_kernel_that_has_changed_since_marks_the_standing() {
        let mut entries = vec![entry("v7", &mission(), 9.0), entry("cudnn", &mission(), 9.0)];
        entries[0].stale = true;
        let text = Standing::of_ours(&record("a.json", entries)).unwrap().to_string();
        assert_eq!(
            text,
            "faster on 0, the same on 1, ambiguous on 0, slower on 0; geometric mean 1.000 ×, least 1.000 × (stale)"
        );
    }
}
