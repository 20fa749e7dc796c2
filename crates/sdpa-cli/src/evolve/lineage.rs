//! The record of a run: lines of JSON that are only ever added to, the first of them the run itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sdpa_bench::timing::Verdict;
use sdpa_toolchain::write_whole;
use serde::{Deserialize, Serialize};

use super::candidate::{Claim, Genome};
use super::choose::{Guide, Population};
use super::judge::{Effort, JobNiche, Judged};
use harness::counters::INSTRUCTIONS;

/// What a run is, in its file's first line. A file is continued by the same run alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// The generation that it starts from.
    pub generation: String,
    /// In what the first candidate differs from the checkout.
    pub first: Genome,
    /// The generator's name or command.
    pub generator: String,
    /// What it is told.
    pub guide: Guide,
    /// Who becomes a parent.
    pub population: Population,
    /// The problems.
    pub niches: Vec<JobNiche>,
    /// Decides everything that is drawn.
    pub seed: u64,
    /// Candidates that are asked for before any of them is judged.
    pub batch: usize,
    /// How thoroughly they are judged.
    pub effort: Effort,
    /// What they run on.
    pub device: String,
    /// Of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It failed a step.
    Rejected,
    /// It is one that was judged before.
    Repeated,
    /// It passed all that could be asked without a GPU.
    Right,
    /// Faster than its parent on a problem, and slower on none.
    Faster,
    /// As fast as its parent.
    Same,
    /// The spreads do not allow to say.
    Ambiguous,
    /// Slower than its parent on a problem.
    Slower,
}

impl Standing {
    /// True for what may be built on.
    pub fn is_right(self) -> bool {
        !matches!(self, Self::Rejected | Self::Repeated)
    }

    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Repeated => "repeated",
            Self::Right => "right",
            Self::Faster => "faster",
            Self::Same => "same",
            Self::Ambiguous => "ambiguous",
            Self::Slower => "slower",
        }
    }
}

/// How many times better than the first of the lineage a candidate is on a problem.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Times the first's speed; without a GPU its instructions over the candidate's.
    pub ratio: f64,
    /// The least that the quartiles allow.
    pub low: f64,
    /// The most.
    pub high: f64,
    /// True if it is counted and not timed.
    pub guess: bool,
}

/// A candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `c0` is the first.
    pub id: String,
    /// What it was made of.
    pub parents: Vec<String>,
    /// The niche that its parent was chosen in.
    pub niche: String,
    /// What its generator was told.
    pub guide: Guide,
    /// Why it should be better.
    pub rationale: String,
    /// What its generator believes to have learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insight: Option<Claim>,
    /// The insights that it builds on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<String>,
    /// What it is.
    pub genome: Genome,
    /// Stands for what it is.
    pub fingerprint: String,
    /// What became of it.
    pub standing: Standing,
    /// Niche → how much better than the first.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub gains: BTreeMap<String, Gain>,
    /// The judge's words.
    pub judged: Judged,
    /// Of the program that judged it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// The best of a niche, measured again in a process of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Winner {
    /// The niche.
    pub niche: String,
    /// Which candidate.
    pub id: String,
    /// How much better than the first, with more samples.
    pub gain: Option<Gain>,
    /// What the spreads allow to be said of it and the first.
    pub verdict: Option<Verdict>,
    /// What the second judgement said.
    pub judged: Judged,
}

/// A line of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Run(Box<Header>),
    Candidate(Box<Entry>),
    Winner(Box<Winner>),
}

/// Why a lineage cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// The system's words.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Not a line of a lineage.
    #[error("{}, line {line}: no line of a lineage: {reason}", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of another run.
    #[error("{} is the lineage of another run: {difference}; name another file with --lineage", path.display())]
    OtherRun {
        /// Which file.
        path: PathBuf,
        /// In what they differ.
        difference: String,
    },
    /// A file that could not be written.
    #[error(transparent)]
    Write(#[from] sdpa_toolchain::WriteError),
}

/// A lineage and its file.
#[derive(Clone, Debug)]
pub struct Lineage {
    path: PathBuf,
    /// The run.
    pub header: Header,
    /// The candidates, in their order.
    pub entries: Vec<Entry>,
    /// The best of each niche, once the run is over.
    pub winners: Vec<Winner>,
}

impl Lineage {
    /// Reads a file.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn read(path: &Path) -> Result<Self, LineageError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| LineageError::System { path: path.to_owned(), source })?;
        let (mut header, mut entries, mut winners) = (None, Vec::new(), Vec::new());
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let broken = |reason: String| LineageError::Line { path: path.to_owned(), line: index + 1, reason };
            match serde_json::from_str(line).map_err(|error| broken(error.to_string()))? {
                Line::Run(run) if header.is_none() => header = Some(*run),
                Line::Run(_) => return Err(broken("a second run".to_owned())),
                Line::Candidate(entry) => entries.push(*entry),
                Line::Winner(winner) => winners.push(*winner),
            }
        }
        let header = header.ok_or_else(|| LineageError::Line {
            path: path.to_owned(),
            line: 1,
            reason: "the run is missing".to_owned(),
        })?;
        Ok(Self { path: path.to_owned(), header, entries, winners })
    }

    /// Goes on with a file, or begins it.
    ///
    /// # Errors
    /// [`LineageError`]: above all a file of another run.
    pub fn open(path: &Path, header: Header) -> Result<Self, LineageError> {
        if path.exists() {
            let found = Self::read(path)?;
            return match difference(&found.header, &header) {
                None => Ok(found),
                Some(difference) => Err(LineageError::OtherRun { path: path.to_owned(), difference }),
            };
        }
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| LineageError::System { path: folder.to_owned(), source })?;
        }
        let lineage = Self { path: path.to_owned(), header, entries: Vec::new(), winners: Vec::new() };
        lineage.append(&Line::Run(Box::new(lineage.header.clone())))?;
        Ok(lineage)
    }

    /// Adds a candidate.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn push(&mut self, entry: Entry) -> Result<(), LineageError> {
        self.append(&Line::Candidate(Box::new(entry.clone())))?;
        self.entries.push(entry);
        Ok(())
    }

    /// Adds the winner of a niche.
    ///
    /// # Errors
    /// [`LineageError`].
    pub fn crown(&mut self, winner: Winner) -> Result<(), LineageError> {
        self.append(&Line::Winner(Box::new(winner.clone())))?;
        self.winners.push(winner);
        Ok(())
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The candidate with this id.
    pub fn find(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// How long a GPU was held.
    pub fn device_seconds(&self) -> f64 {
        self.entries.iter().map(|entry| entry.judged.device_seconds).sum()
    }

    /// The file is whole at every moment: a program that is killed loses the line that it was about to add.
    fn append(&self, line: &Line) -> Result<(), LineageError> {
        let system = |source| LineageError::System { path: self.path.clone(), source };
        let mut text =
            if self.path.exists() { std::fs::read_to_string(&self.path).map_err(system)? } else { String::new() };
        let line = serde_json::to_string(line).map_err(|error| LineageError::Line {
            path: self.path.clone(),
            line: text.lines().count() + 1,
            reason: error.to_string(),
        })?;
        text += &line;
        text.push('\n');
        Ok(write_whole(&self.path, text.as_bytes())?)
    }
}

/// In what two runs differ; the commit is no difference.
fn difference(found: &Header, wanted: &Header) -> Option<String> {
    let value = |header: &Header| serde_json::to_value(Header { commit: None, ..header.clone() }).unwrap_or_default();
    let (found, wanted) = (value(found), value(wanted));
    let fields = found.as_object()?;
    let other = |name: &String| wanted.get(name).cloned().unwrap_or_default();
    fields.iter().find(|(name, value)| **value != other(name)).map(|(name, value)| match name.as_str() {
        "first" => "it starts from another kernel".to_owned(),
        _ => format!("its {name} is {value}, not {}", other(name)),
    })
}

impl Entry {
    /// Counts of a figure on all niches together.
    pub fn count(&self, figure: &str) -> Option<u64> {
        let counts = self.judged.counters.values().map(|figures| figures.get(figure).copied().unwrap_or(0));
        (!self.judged.counters.is_empty()).then(|| counts.sum())
    }

    /// The geometric mean of its gains: how much better it is on the whole.
    pub fn gain(&self) -> Option<f64> {
        let logs: f64 = self.gains.values().map(|gain| gain.ratio.ln()).sum();
        (!self.gains.is_empty()).then(|| (logs / self.gains.len() as f64).exp())
    }
}

/// How much better than the first a candidate is, on each niche.
pub(super) fn gains(judged: &Judged, first: &Judged) -> BTreeMap<String, Gain> {
    if judged.failed().is_some() {
        return BTreeMap::new();
    }
    if !judged.times.is_empty() {
        let gain = |times: &super::timed::Times| Gain {
            ratio: times.first.median_us / times.own.median_us,
            low: times.first.low_us / times.own.high_us,
            high: times.first.high_us / times.own.low_us,
            guess: false,
        };
        return judged.times.iter().map(|(niche, times)| (niche.clone(), gain(times))).collect();
    }
    let gain = |(niche, figures): (&String, &BTreeMap<String, u64>)| {
        let own = *figures.get(INSTRUCTIONS)?;
        let first = *first.counters.get(niche)?.get(INSTRUCTIONS)?;
        let ratio = first as f64 / own.max(1) as f64;
        Some((niche.clone(), Gain { ratio, low: ratio, high: ratio, guess: true }))
    };
    judged.counters.iter().filter_map(gain).collect()
}

/// What became of a candidate, from the judge's words.
pub(super) fn standing(judged: &Judged) -> Standing {
    if judged.failed().is_some() {
        return Standing::Rejected;
    }
    if judged.times.is_empty() {
        return Standing::Right;
    }
    let any = |verdict| judged.times.values().any(|times| times.verdict == verdict);
    match (any(Verdict::Slower), any(Verdict::Faster), any(Verdict::Ambiguous)) {
        (true, _, _) => Standing::Slower,
        (_, true, _) => Standing::Faster,
        (_, _, true) => Standing::Ambiguous,
        _ => Standing::Same,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn header() -> Header {
        Header {
            generation: "v2d".to_owned(),
            first: Genome::default(),
            generator: "numbers".to_owned(),
            guide: Guide::Full,
            population: Population::Best,
            niches: vec![JobNiche { name: "short".to_owned(), case: "L193 d64 f16 full".to_owned() }],
            seed: 1,
            batch: 2,
            effort: Effort::default(),
            device: "PTX interpreter".to_owned(),
            commit: None,
        }
    }

    pub(crate) fn entry(id: &str, parent: Option<&str>, instructions: Option<u64>) -> Entry {
        let mut judged = Judged::default();
        match instructions {
            Some(count) => {
                judged.counters.insert("short".to_owned(), [(INSTRUCTIONS.to_owned(), count)].into());
            }
            None => judged = Judged::refused("right", "wrong result".to_owned(), "the mask"),
        }
        let first = {
            let mut first = Judged::default();
            first.counters.insert("short".to_owned(), [(INSTRUCTIONS.to_owned(), 100)].into());
            first
        };
        let defines = [("TILE_KEYS".to_owned(), id.to_owned())].into();
        let genome = Genome { defines, ..Genome::default() };
        Entry {
            id: id.to_owned(),
            parents: parent.into_iter().map(str::to_owned).collect(),
            niche: "short".to_owned(),
            guide: Guide::Full,
            rationale: format!("idea of {id}"),
            insight: None,
            uses: Vec::new(),
            fingerprint: genome.fingerprint(),
            genome,
            standing: standing(&judged),
            gains: gains(&judged, &first),
            judged,
            commit: None,
        }
    }

    #[test]
    fn a_lineage_is_appended_to_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/run.jsonl");
        let mut lineage = Lineage::open(&path, header()).unwrap();
        lineage.push(entry("c0", None, Some(100))).unwrap();
        lineage.push(entry("c1", Some("c0"), Some(80))).unwrap();
        let again = Lineage::open(&path, header()).unwrap();
        assert_eq!(again.entries, lineage.entries);
        assert_eq!(again.find("c1").unwrap().gain(), Some(1.25));
        let other = Lineage::open(&path, Header { seed: 2, ..header() }).unwrap_err().to_string();
        assert!(other.contains("its seed is 1, not 2"), "{other}");
        std::fs::write(&path, std::fs::read_to_string(&path).unwrap() + "{\"candidate\":").unwrap();
        assert!(Lineage::read(&path).unwrap_err().to_string().contains("line 4: no line of a lineage"));
    }
}
