//! Who becomes a parent, and what a generator is told.

use std::fmt;
use std::str::FromStr;

use harness::random::Random;
use ptx_interp::FindingKind;
use serde::{Deserialize, Serialize};

use super::lineage::{Entry, Standing};

/// What a generator is told beside the task and the parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guide {
    /// Nothing more.
    Free,
    /// The insights, and what failed last.
    Insight,
    /// These, and the best candidates so far.
    #[default]
    Full,
}

impl FromStr for Guide {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "free" => Ok(Self::Free),
            "insight" => Ok(Self::Insight),
            "full" => Ok(Self::Full),
            _ => Err(format!("{text:?} is no guide: there are free, insight and full")),
        }
    }
}

/// Who becomes a parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Population {
    /// The best so far.
    #[default]
    Best,
    /// One of the best so many, drawn by the seed.
    Elite(usize),
    /// The first, always: candidates are drawn independently, as in best-of-N.
    First,
}

impl fmt::Display for Population {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Elite(count) => write!(f, "elite:{count}"),
            Self::First => f.write_str("first"),
        }
    }
}

impl From<Population> for String {
    fn from(population: Population) -> Self {
        population.to_string()
    }
}

impl TryFrom<String> for Population {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Population {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is no population: there are best, elite:K and first, as in elite:4");
        match text.split_once(':') {
            None if text == "best" => Ok(Self::Best),
            None if text == "first" => Ok(Self::First),
            Some(("elite", count)) => match count.parse() {
                Ok(count) if count > 0 => Ok(Self::Elite(count)),
                _ => Err(error()),
            },
            _ => Err(error()),
        }
    }
}

/// The best candidates of a niche, the best first: the first of the lineage, and those that passed every step. On a GPU these are clearly
/// faster than their parent: what looks better by chance is no winner.
pub(super) fn elites<'e>(entries: &'e [Entry], niche: &str) -> Vec<&'e Entry> {
    let is_first = |entry: &Entry| entry.standing.is_right() && entry.parents.is_empty();
    let mut elites: Vec<&Entry> = entries
        .iter()
        .filter(|entry| matches!(entry.standing, Standing::Right | Standing::Faster) || is_first(entry))
        .filter(|entry| entry.gains.contains_key(niche))
        .collect();
    let ratio = |entry: &Entry| entry.gains.get(niche).map_or(0.0, |gain| gain.ratio);
    // Stable: of two that are as good the older one is first.
    elites.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
    elites
}

/// Where nothing is right yet, whoever came farthest: passed most steps, with the fewest different findings in the one that failed. What
/// hangs comes to fewer findings than it has.
fn farthest(entries: &[Entry]) -> Option<&Entry> {
    let judged = entries.iter().filter(|entry| entry.standing != Standing::Repeated);
    // The first of equals, so that a step aside is no step forward.
    let hangs = |entry: &Entry| {
        let ends_early = [FindingKind::Deadlock, FindingKind::Livelock].map(FindingKind::name);
        entry.judged.findings.iter().any(|finding| ends_early.contains(&finding.kind.as_str()))
    };
    judged.min_by_key(|entry| (std::cmp::Reverse(entry.judged.passed()), hangs(entry), entry.judged.faults))
}

/// The parent of the next candidate.
pub(super) fn parent<'e>(
    entries: &'e [Entry],
    niche: &str,
    population: Population,
    random: &mut Random,
) -> Option<&'e Entry> {
    let first = entries.first()?;
    let elites = elites(entries, niche);
    match population {
        Population::First => Some(first),
        _ if elites.is_empty() => farthest(entries),
        Population::Best => elites.first().copied(),
        Population::Elite(count) => elites.get(random.below(elites.len().min(count))).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::lineage::tests::entry;
    use super::*;

    fn chosen(entries: &[Entry], population: Population, seed: u64) -> String {
        parent(entries, "short", population, &mut Random::new(seed, &[])).unwrap().id.clone()
    }

    #[test]
    fn the_best_the_elite_or_the_first() {
        let entries = [
            entry("c0", None, Some(100)),
            entry("c1", Some("c0"), Some(80)),
            entry("c2", Some("c0"), None),
            entry("c3", Some("c1"), Some(90)),
        ];
        assert_eq!(chosen(&entries, Population::Best, 0), "c1");
        assert_eq!(chosen(&entries, Population::First, 0), "c0");
        let mut drawn: Vec<String> = (0..40).map(|seed| chosen(&entries, Population::Elite(2), seed)).collect();
        drawn.sort();
        drawn.dedup();
        assert_eq!(drawn, ["c1", "c3"]);
    }

    #[test]
    fn what_is_ahead_by_chance_is_no_best() {
        let mut lucky = entry("c1", Some("c0"), Some(10));
        lucky.standing = Standing::Ambiguous;
        let mut faster = entry("c2", Some("c0"), Some(90));
        faster.standing = Standing::Faster;
        let entries = [entry("c0", None, Some(100)), lucky, faster];
        assert_eq!(chosen(&entries, Population::Best, 0), "c2");
    }

    #[test]
    fn of_wrong_ones_the_one_that_came_farthest() {
        let mut nearer = entry("c1", Some("c0"), None);
        nearer.judged.faults = 1;
        let mut first = entry("c0", None, None);
        first.judged.faults = 3;
        assert_eq!(chosen(&[first.clone(), nearer.clone()], Population::Best, 0), "c1");
        // Of what hangs nobody knows what else would have been found.
        let place = r#"{"kind":"deadlock","message":"all threads wait","case":"L1","again":0,"repeat":"check"}"#;
        nearer.judged.findings = vec![serde_json::from_str(place).unwrap()];
        assert_eq!(chosen(&[first, nearer], Population::Best, 0), "c0");
    }

    #[test]
    fn texts_read_back() {
        for text in ["best", "elite:4", "first"] {
            assert_eq!(text.parse::<Population>().unwrap().to_string(), text);
        }
        for wrong in ["elite", "elite:0", "elite:x", "worst"] {
            assert!(wrong.parse::<Population>().is_err(), "{wrong}");
        }
        assert!("much".parse::<Guide>().is_err());
    }
}
