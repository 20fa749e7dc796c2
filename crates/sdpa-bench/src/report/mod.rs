//! Figures in pages: the regions of READMEs that the program writes, `docs/peers.md` and the plots, from records of
//! `sdpa bench --record`.
//!
//! [`Evidence`] is what was measured, each figure with whether its kernel has changed since. The modules are pure functions
//! over it, so the same records give the same bytes on every machine, with or without a GPU.

pub mod blind;
pub mod grounds;
pub mod headline;
pub mod markers;
pub mod measured;
pub mod peers;
pub mod plot;
pub mod programs;
pub mod ragged;
mod scores;
pub mod sittings;
pub mod standing;
pub mod table;
pub mod tree;

use std::path::{Path, PathBuf};

use sdpa_core::{Attention, DeviceLimits, Launch, Problem};
use serde::de::DeserializeOwned;

use crate::timing::{Absent, Ceiling, Figure, Record, Regime, Sittings};
use grounds::GROUNDS;
use harness::case::Case;
use sdpa_toolchain::resources::{Cost, Multiprocessor};
use sdpa_toolchain::{Fingerprint, ptx_hash};

pub use scores::{MutationScore, read_scores};
pub use sittings::Beside;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// Not there, not readable.
    #[error("{}: {source}", path.display())]
    System {
        /// Which file or folder.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// Not JSON, or figures of another format.
    #[error("{}: {source}", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// The parser's words.
        source: serde_json::Error,
    },
    /// Nothing to report.
    #[error("{}: no record there; `sdpa bench --peers --record DIR` makes one on a GPU", .0.display())]
    NoRecord(PathBuf),
    /// Times of different devices are no ladder.
    #[error("{first} is of {first_device}, {second} of {second_device}: a folder of records is of one device")]
    SeveralDevices {
        /// A record's file.
        first: String,
        /// Its device.
        first_device: String,
        /// Another record's file.
        second: String,
        /// Its device.
        second_device: String,
    },
    /// It is not known which kernels a plan takes on such a device.
    #[error("{file}: device {device:?}: expected `NAME (sm_NN, N multiprocessors)` with sm_80, sm_89 or sm_90")]
    UnknownDevice {
        /// The record's file.
        file: String,
        /// Its device.
        device: String,
    },
    /// Sources that do not fit together.
    #[error(transparent)]
    Kernel(#[from] sdpa_core::Error),
    /// A region's markers are not there, or not once.
    #[error("expected one line `{}` and after it one line `{}`", markers::begin(.0), markers::end(.0))]
    Markers(&'static str),
    /// A plot that could not be drawn.
    #[error("a plot could not be drawn: {0}")]
    Drawing(String),
}

/// Everything the report is made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence {
    /// The generations, oldest first.
    pub rungs: Vec<Rung>,
    /// What was measured in short turns, in the order of the files' names; all on one device.
    pub records: Vec<EvidenceRecord>,
    /// What was measured in sustained turns. A list of its own, so that figures of the two are never compared.
    pub sustained: Vec<EvidenceRecord>,
}

/// One generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rung {
    /// Its id.
    pub id: String,
    /// Its one idea.
    pub title: String,
    /// The generation it evolved from.
    pub parent: Option<String>,
    /// Mutations noticed, mutations tried, and whether a kernel has changed since; where recorded.
    pub mutation: Option<(usize, usize, bool)>,
    /// What it makes of the problem of each ground.
    pub on: [Taken; GROUNDS.len()],
}

/// What a generation makes of a problem.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// False if it declines the problem.
    pub takes: bool,
    /// Registers per thread and bytes of shared memory per block of its costliest kernel for it, where recorded.
    pub cost: Option<(u32, u32)>,
}

/// One record: all sittings of a file in one regime.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceRecord {
    /// The file's name.
    pub file: String,
    /// The device.
    pub device: String,
    /// The sittings, the oldest first.
    pub sittings: Vec<EvidenceSitting>,
    /// Figures of peers and of today's generations, of dense problems.
    pub entries: Vec<Entry>,
}

/// What belongs to all figures of one sitting.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EvidenceSitting {
    /// Versions, clocks and commit, by name.
    pub environment: serde_json::Map<String, serde_json::Value>,
    /// What the device reached in the same run.
    pub ceilings: Vec<Ceiling>,
    /// Peers, and ways of peers, without a figure of a dense problem.
    pub absent: Vec<Absent>,
}

/// A figure and what it is worth today.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// How long who took on what.
    pub figure: Figure,
    /// Of which of the record's sittings.
    pub sitting: usize,
    /// True for other people's kernels.
    pub peer: bool,
    /// True where today's plan takes another kernel, or the kernel's source has changed. Figures of problems that the
    /// generation declines today are left out.
    pub stale: bool,
}

/// A figure in its record.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// The record.
    pub record: &'a EvidenceRecord,
    /// The figure.
    pub entry: &'a Entry,
}

/// The problem that the ladder is about: the short one.
pub fn mission() -> Problem {
    GROUNDS[0].problem()
}

/// Reads every file of records in a folder, by name. JSON without figures is something else's and passed over.
///
/// # Errors
/// [`ReportError::System`], [`ReportError::Format`] or [`ReportError::NoRecord`].
pub fn read_records(folder: &Path) -> Result<Vec<(String, Sittings)>, ReportError> {
    let mut records = Vec::new();
    for path in json_files(folder)? {
        if let Some(sittings) = Sittings::of_value(read_json(&path)?) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let sittings = sittings.map_err(|source| ReportError::Format { path, source })?;
            records.push((name, sittings));
        }
    }
    if records.is_empty() { Err(ReportError::NoRecord(folder.to_owned())) } else { Ok(records) }
}

/// What one JSON file holds.
fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ReportError> {
    let text = std::fs::read_to_string(path).map_err(|source| ReportError::System { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| ReportError::Format { path: path.to_owned(), source })
}

/// What each JSON file of a folder holds, by name; none where there is no such folder.
fn read_folder<T: DeserializeOwned>(folder: &Path) -> Result<Vec<T>, ReportError> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    json_files(folder)?.iter().map(|path| read_json(path)).collect()
}

/// The JSON files of a folder, by name.
pub fn json_files(folder: &Path) -> Result<Vec<PathBuf>, ReportError> {
    let system = |source| ReportError::System { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(system)? {
        let path = entry.map_err(system)?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

impl Evidence {
    /// Holds the records to today's generations and their kernels; `costs` and `scores` may be empty.
    ///
    /// # Errors
    /// Records of several devices or of an unknown one; kernels' sources that are not there.
    pub fn new(
        generations: &[&dyn Attention],
        records: Vec<(String, Sittings)>,
        costs: &[Cost],
        scores: &[MutationScore],
    ) -> Result<Self, ReportError> {
        let mut evidence = Self::default();
        let mut first: Option<(String, String)> = None;
        for (file, Sittings { sittings }) in records {
            for regime in Regime::ALL {
                let mut record =
                    EvidenceRecord { file: file.clone(), device: String::new(), sittings: vec![], entries: vec![] };
                for sitting in &sittings {
                    let Some(limits) = limits_of(&sitting.device) else {
                        return Err(ReportError::UnknownDevice { file, device: sitting.device.clone() });
                    };
                    match &first {
                        None => {
                            first = Some((file.clone(), sitting.device.clone()));
                            let rung = |generation: &&dyn Attention| rung(*generation, &limits, costs, scores);
                            evidence.rungs = generations.iter().map(rung).collect::<Result<_, _>>()?;
                        }
                        Some((first, device)) if *device != sitting.device => {
                            return Err(ReportError::SeveralDevices {
                                first: first.clone(),
                                first_device: device.clone(),
                                second: file,
                                second_device: sitting.device.clone(),
                            });
                        }
                        Some(_) => {}
                    }
                    record.device.clone_from(&sitting.device);
                    record.add(generations, sitting, regime, &limits)?;
                }
                let records = match regime {
                    Regime::Short => &mut evidence.records,
                    Regime::Sustained => &mut evidence.sustained,
                };
                if !record.entries.is_empty() || regime == Regime::Short {
                    records.push(record);
                }
            }
        }
        Ok(evidence)
    }

    /// What was measured in sustained turns, as evidence of its own.
    pub fn in_sustained_turns(&self) -> Self {
        Self { rungs: self.rungs.clone(), records: self.sustained.clone(), sustained: Vec::new() }
    }

    /// A contender's figure of a problem. Of several records the one whose kernel is still the same, then the one with
    /// the most contenders on the problem, then the first by name.
    pub fn pick<'a>(&'a self, contender: &str, problem: &Problem) -> Option<Pick<'a>> {
        let found =
            self.records.iter().filter_map(|record| record.of(contender, problem).map(|entry| Pick { record, entry }));
        found.min_by_key(|pick| (pick.entry.stale, std::cmp::Reverse(pick.record.on(problem).count())))
    }

    /// A generation's figures of a problem beside its nearest ancestor that was timed, each of the same sitting.
    pub fn beside_ancestor(&self, rung: &Rung, record: &EvidenceRecord, problem: &Problem) -> Option<Beside> {
        let parent = |rung: &Rung| self.rungs.iter().find(|other| Some(&other.id) == rung.parent.as_ref());
        let ancestors = std::iter::successors(parent(rung), |rung| parent(rung)).take(self.rungs.len());
        let mut timed = ancestors.filter(|ancestor| record.of(&ancestor.id, problem).is_some());
        let ancestor = timed.next()?;
        record.beside(&rung.id, problem, |sitting| record.in_sitting(sitting, &ancestor.id, problem))
    }

    /// The device without what only plans want to know.
    pub fn device(&self) -> &str {
        let device = self.records.first().map_or("unknown device", |record| record.device.as_str());
        device.split_once(" (").map_or(device, |(name, _)| name)
    }

    /// Multiprocessors of the device; 0 if no record says.
    pub fn multiprocessors(&self) -> usize {
        let limits = self.records.first().and_then(|record| limits_of(&record.device));
        limits.map_or(0, |limits| limits.multiprocessors as usize)
    }

    /// Peers with a figure of a problem that `wanted` holds of, in the order they were first timed.
    pub fn peers(&self, wanted: impl Fn(&Figure) -> bool) -> Vec<&str> {
        peers_among(self.records.iter().flat_map(|record| &record.entries), wanted)
    }
}

/// Peers with a figure that `wanted` holds of, in the order of their first.
fn peers_among<'a>(entries: impl Iterator<Item = &'a Entry>, wanted: impl Fn(&Figure) -> bool) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for entry in entries.filter(|entry| entry.peer && wanted(&entry.figure)) {
        let name = entry.figure.contender.as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl EvidenceRecord {
    /// Adds a sitting's figures of one regime, if it has any.
    fn add(
        &mut self,
        generations: &[&dyn Attention],
        sitting: &Record,
        regime: Regime,
        limits: &DeviceLimits,
    ) -> Result<(), ReportError> {
        let (index, before) = (self.sittings.len(), self.entries.len());
        let known = |id: &str| generations.iter().copied().find(|generation| generation.generation().id == id);
        // The pages and plots are about dense attention.
        let figures = sitting.figures.iter().filter(|figure| figure.extensions.is_none() && figure.regime == regime);
        for figure in figures.cloned() {
            match known(&figure.contender) {
                Some(generation) => {
                    let now = kernel_today(generation, &figure, limits)?;
                    // What a generation leaves to its parent by now is no figure of its.
                    if now.is_some() {
                        let stale = figure.kernel != now;
                        self.entries.push(Entry { figure, sitting: index, peer: false, stale });
                    }
                }
                None if figure.kernel.is_none() => {
                    self.entries.push(Entry { figure, sitting: index, peer: true, stale: false });
                }
                // A generation that is no more.
                None => {}
            }
        }
        if self.entries.len() == before {
            return Ok(());
        }
        let is_dense = |problem: &str| problem.parse::<Case>().is_ok_and(|case| case.extensions().is_empty());
        let absent =
            sitting.absent.iter().filter(|absent| known(&absent.contender).is_none() && is_dense(&absent.problem));
        self.sittings.push(EvidenceSitting {
            environment: sitting.environment.clone(),
            ceilings: sitting.ceilings.iter().filter(|ceiling| ceiling.regime == regime).cloned().collect(),
            absent: absent.cloned().collect(),
        });
        Ok(())
    }

    /// A contender's figure of a problem: the median of its sittings, the faster of two in the middle. If the kernel of some
    /// sittings is today's, only those count.
    pub fn of<'a>(&'a self, contender: &str, problem: &Problem) -> Option<&'a Entry> {
        let sorted = self.sorted(contender, problem);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied()
    }

    /// The longest time of the same sittings.
    pub fn worst<'a>(&'a self, contender: &str, problem: &Problem) -> Option<&'a Entry> {
        self.sorted(contender, problem).last().copied()
    }

    fn sorted<'a>(&'a self, contender: &str, problem: &Problem) -> Vec<&'a Entry> {
        let mut found: Vec<&Entry> = self.on(problem).filter(|entry| entry.figure.contender == contender).collect();
        if found.iter().any(|entry| !entry.stale) {
            found.retain(|entry| !entry.stale);
        }
        found.sort_by(|left, right| left.figure.median_us.total_cmp(&right.figure.median_us));
        found
    }

    /// A contender's figure of a problem in one sitting.
    pub fn in_sitting<'a>(&'a self, sitting: usize, contender: &str, problem: &Problem) -> Option<&'a Entry> {
        self.on(problem).find(|entry| entry.sitting == sitting && entry.figure.contender == contender)
    }

    /// A contender's figures of a problem, each beside what `theirs` gives for its sitting.
    pub fn beside<'a>(
        &'a self,
        contender: &str,
        problem: &Problem,
        theirs: impl Fn(usize) -> Option<&'a Entry>,
    ) -> Option<Beside> {
        Beside::of(
            self.sorted(contender, problem)
                .into_iter()
                .filter_map(|ours| Some((ours, theirs(ours.sitting)?)))
                .collect(),
        )
    }

    /// A contender's figures of a problem, each beside the fastest peer of its sitting.
    pub fn beside_best_peer(&self, contender: &str, problem: &Problem) -> Option<Beside> {
        self.beside(contender, problem, |sitting| self.best_peer(sitting, problem))
    }

    /// All figures of a problem, of all sittings.
    pub fn on<'a, 'p>(&'a self, problem: &'p Problem) -> impl Iterator<Item = &'a Entry> + use<'a, 'p> {
        self.entries.iter().filter(move |entry| entry.figure.is_of(problem))
    }

    /// Its problems, in the order in which they were measured.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for problem in self.entries.iter().filter_map(|entry| entry.figure.problem()) {
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
        problems
    }

    /// The fastest of the generations on a problem, each by its median.
    pub fn fastest_of_ours<'a>(&'a self, problem: &Problem) -> Option<&'a Entry> {
        let ours = self.on(problem).filter(|entry| !entry.peer);
        let medians = ours.filter_map(|entry| self.of(&entry.figure.contender, problem));
        medians.min_by(|left, right| left.figure.median_us.total_cmp(&right.figure.median_us))
    }

    /// The fastest peer's figure of a problem in a sitting.
    pub fn best_peer<'a>(&'a self, sitting: usize, problem: &Problem) -> Option<&'a Entry> {
        let peers = self.on(problem).filter(|entry| entry.sitting == sitting && entry.peer);
        peers.min_by(|left, right| left.figure.median_us.total_cmp(&right.figure.median_us))
    }

    /// The days on which it was taken, as far as it says.
    pub fn days(&self) -> Vec<&str> {
        self.sittings.iter().filter_map(EvidenceSitting::day).collect()
    }

    /// All peers, in the order they were first timed.
    fn peers(&self) -> Vec<&str> {
        peers_among(self.entries.iter(), |_| true)
    }
}

impl EvidenceSitting {
    fn fact(&self, key: &str) -> Option<&str> {
        self.environment.get(key).and_then(|value| value.as_str())
    }

    /// The day on which it was taken, if it says.
    pub fn day(&self) -> Option<&str> {
        self.fact("date")?.split(' ').next()
    }

    /// Day and commit, as far as it says; docs/benchmarking.md has the rest.
    pub fn origin(&self) -> String {
        let commit = self.fact("commit").map(|commit| format!(", commit {}", short_commit(commit)));
        format!("{}{}", self.day().unwrap_or("on an unknown day"), commit.unwrap_or_default())
    }
}

/// The first digits of a commit, and whether files had changed since: `c0ffee1-dirty`.
pub(crate) fn short_commit(commit: &str) -> String {
    let (hash, dirty) = commit.strip_suffix("-dirty").map_or((commit, ""), |hash| (hash, "-dirty"));
    format!("{}{dirty}", hash.get(..7).unwrap_or(hash))
}

fn rung(
    generation: &dyn Attention,
    limits: &DeviceLimits,
    costs: &[Cost],
    scores: &[MutationScore],
) -> Result<Rung, sdpa_core::Error> {
    let who = generation.generation();
    let score = scores.iter().find(|score| score.generation == who.id);
    let stale = score.map(|score| score.is_stale(who)).transpose()?;
    let mutation = score.zip(stale).map(|(score, stale)| (score.killed, score.total, stale));
    let on = GROUNDS.map(|ground| {
        let problem = ground.problem();
        let takes = generation.plan(&problem, limits).is_ok();
        Taken { takes, cost: cost_of(generation, &problem, limits, costs) }
    });
    Ok(Rung { id: who.id.to_owned(), title: who.title.to_owned(), parent: who.parent.map(str::to_owned), mutation, on })
}

/// What the costliest kernel costs that the plan takes for a problem; none where one is not recorded as it is now.
fn cost_of(generation: &dyn Attention, problem: &Problem, limits: &DeviceLimits, costs: &[Cost]) -> Option<(u32, u32)> {
    let architecture = Multiprocessor::of(limits.compute_capability)?.name;
    let plan = generation.plan(problem, limits).ok()?;
    let recorded = |launch: &Launch| {
        let name = launch.kernel.to_string();
        let is_of = |cost: &&Cost| cost.kernel == name && cost.architecture == architecture;
        // Of another PTX than today's, such as a parent's, it says nothing.
        let hash = ptx_hash(launch.kernel.packed_ptx().ok()?);
        costs.iter().find(is_of).filter(|cost| cost.ptx == hash)
    };
    let costs = plan.launches.iter().map(recorded).collect::<Option<Vec<_>>>()?;
    Some((costs.iter().map(|cost| cost.registers).max()?, costs.iter().map(|cost| cost.shared_bytes()).max()?))
}

/// What `kernel` of a figure would be if it were measured today; none where today's plan declines the problem.
fn kernel_today(
    generation: &dyn Attention,
    figure: &Figure,
    limits: &DeviceLimits,
) -> Result<Option<String>, sdpa_core::Error> {
    let Some(plan) = figure.problem().and_then(|problem| generation.plan(&problem, limits).ok()) else {
        return Ok(None);
    };
    Fingerprint::of_plan(&plan).map(Some)
}

/// The limits of a device from its name in a record, `NVIDIA H200 (sm_90, 132 multiprocessors)`.
fn limits_of(device: &str) -> Option<DeviceLimits> {
    let (_, facts) = device.strip_suffix(" multiprocessors)")?.rsplit_once(" (sm_")?;
    let (capability, multiprocessors) = facts.split_once(", ")?;
    let known = [DeviceLimits::A100, DeviceLimits::L4, DeviceLimits::H200];
    let like = known.into_iter().find(|limits| {
        let (major, minor) = limits.compute_capability;
        capability == format!("{major}{minor}")
    })?;
    Some(DeviceLimits { multiprocessors: multiprocessors.parse().ok()?, ..like })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::timing::Timing;
    use sdpa::generations;

    pub(crate) const DEVICE: &str = "NVIDIA H200 (sm_90, 132 multiprocessors)";

    pub(crate) fn figure(contender: &str, problem: &Problem, us: f64) -> Figure {
        Figure::new(contender, problem, &Timing::new(vec![us]))
    }

    pub(crate) fn record(file: &str, entries: Vec<Entry>) -> EvidenceRecord {
        let last = entries.iter().map(|entry| entry.sitting).max().unwrap_or(0);
        let sittings = vec![EvidenceSitting::default(); last + 1];
        EvidenceRecord { file: file.to_owned(), device: DEVICE.to_owned(), sittings, entries }
    }

    pub(crate) fn entry(contender: &str, problem: &Problem, us: f64) -> Entry {
        Entry { figure: figure(contender, problem, us), sitting: 0, peer: !contender.starts_with('v'), stale: false }
    }

    /// A file of one sitting.
    fn one(file: &str, record: Record) -> (String, Sittings) {
        (file.to_owned(), Sittings { sittings: vec![record] })
    }

    /// A generation that takes no problem, until `on` says otherwise.
    pub(crate) fn rung(id: &str, parent: Option<&str>) -> Rung {
        let parent = parent.map(str::to_owned);
        Rung { id: id.to_owned(), title: format!("idea of {id}"), parent, mutation: None, on: Default::default() }
    }

    pub(crate) fn taken(cost: Option<(u32, u32)>) -> Taken {
        Taken { takes: true, cost }
    }

    #[test]
    fn a_figure_is_stale_once_its_kernel_is_another() {
        let generation = generations::ALL[0];
        let id = generation.generation().id;
        let problem = mission();
        let now = kernel_today(generation, &figure(id, &problem, 9.0), &DeviceLimits::H200).unwrap();
        assert!(now.is_some());
        let stale = |kernel: Option<String>| {
            let figures = vec![Figure { kernel, ..figure(id, &problem, 9.0) }];
            let record = Record { device: DEVICE.to_owned(), figures, ..Record::default() };
            let evidence = Evidence::new(generations::ALL, vec![one("a.json", record)], &[], &[]).unwrap();
            evidence.records[0].entries[0].stale
        };
        assert_eq!([now, Some("c0ffee".to_owned()), None].map(stale), [false, true, true]);
    }

    #[test]
    fn figures_with_extensions_are_not_among_the_dense_ones() {
        let problem = mission();
        let sinks = problem.to_builder().sinks().build().unwrap();
        let figures = vec![figure("flash", &problem, 9.0), figure("flash", &sinks, 1.0)];
        let record = Record { device: DEVICE.to_owned(), figures, ..Record::default() };
        let evidence = Evidence::new(generations::ALL, vec![one("a.json", record)], &[], &[]).unwrap();
        let times: Vec<f64> = evidence.records[0].entries.iter().map(|entry| entry.figure.median_us).collect();
        assert_eq!(times, [9.0]);
    }

    /// A file may hold both regimes and several sittings.
    #[test]
    fn regimes_are_records_of_their_own() {
        let problem = mission();
        let absent = |problem: &str| Absent {
            contender: "fa3".to_owned(),
            problem: problem.to_owned(),
            reason: "not installed".to_owned(),
        };
        let sitting = |us: f64| {
            let long = Figure { regime: Regime::Sustained, ..figure("flash", &problem, 2.0 * us) };
            let ceiling = |regime| Ceiling { regime, ..Ceiling::default() };
            Record {
                device: DEVICE.to_owned(),
                figures: vec![figure("flash", &problem, us), long],
                absent: vec![absent(&problem.to_string()), absent("h2 L42 d64 bf16 full sinks")],
                ceilings: Regime::ALL.map(ceiling).to_vec(),
                ..Record::default()
            }
        };
        let file = ("a.json".to_owned(), Sittings { sittings: [9.0, 8.0, 10.0].map(sitting).to_vec() });
        let short =
            Record { figures: vec![figure("flash", &problem, 1.0)], device: DEVICE.to_owned(), ..Record::default() };
        let evidence = Evidence::new(generations::ALL, vec![file, one("b.json", short)], &[], &[]).unwrap();
        let times = |records: &[EvidenceRecord]| -> Vec<(f64, f64)> {
            let found = records.iter().map(|record| {
                [record.of("flash", &problem), record.worst("flash", &problem)]
                    .map(|found| found.unwrap().figure.median_us)
            });
            found.map(|[median, worst]| (median, worst)).collect()
        };
        assert_eq!(
            (times(&evidence.records), times(&evidence.sustained)),
            (vec![(9.0, 10.0), (1.0, 1.0)], vec![(18.0, 20.0)])
        );
        assert_eq!(evidence.in_sustained_turns().records, evidence.sustained);
        for records in [&evidence.records, &evidence.sustained] {
            let EvidenceSitting { absent, ceilings, .. } = &records[0].sittings[2];
            assert_eq!((absent.len(), ceilings.len()), (1, 1), "of dense problems, and of the regime");
        }
    }

    #[test]
    fn commits_are_short() {
        assert_eq!(
            ["0123456789ab-dirty", "0123456789ab", "c0ffee-dirty"].map(short_commit),
            ["0123456-dirty", "0123456", "c0ffee-dirty"]
        );
    }

    #[test]
    fn records_of_unknown_or_several_devices_are_refused() {
        let error = |devices: &[&str]| {
            let record = |device: &&str| Record { device: (*device).to_owned(), ..Record::default() };
            let records = devices.iter().map(|device| one(&format!("{}.json", device.len()), record(device))).collect();
            Evidence::new(generations::ALL, records, &[], &[]).unwrap_err().to_string()
        };
        insta::assert_snapshot!(error(&["some GPU"]), @r#"8.json: device "some GPU": expected `NAME (sm_NN, N multiprocessors)` with sm_80, sm_89 or sm_90"#);
        insta::assert_snapshot!(error(&[DEVICE, "NVIDIA L4 (sm_89, 58 multiprocessors)"]), @"40.json is of NVIDIA H200 (sm_90, 132 multiprocessors), 37.json of NVIDIA L4 (sm_89, 58 multiprocessors): a folder of records is of one device");
    }

    #[test]
    fn of_several_records_the_fresh_one_with_the_most_contenders_counts() {
        let problem = mission();
        let stale = |us| Entry { stale: true, ..entry("v9", &problem, us) };
        let evidence = Evidence {
            rungs: vec![],
            sustained: vec![],
            records: vec![
                record("a.json", vec![stale(1.0), entry("flash", &problem, 5.0), entry("cudnn", &problem, 4.0)]),
                record("b.json", vec![entry("v9", &problem, 2.0)]),
                record("c.json", vec![entry("v9", &problem, 3.0), entry("flash", &problem, 6.0)]),
            ],
        };
        let picked =
            |name| evidence.pick(name, &problem).map(|pick| (pick.record.file.as_str(), pick.entry.figure.median_us));
        assert_eq!(picked("v9"), Some(("c.json", 3.0)));
        assert_eq!(picked("flash"), Some(("a.json", 5.0)));
        assert_eq!(picked("v8"), None);
        assert_eq!(evidence.peers(|_| true), ["flash", "cudnn"]);
    }

    #[test]
    fn costs_are_of_the_kernel_that_the_mission_takes() {
        let generation = generations::ALL[0];
        let plan = generation.plan(&mission(), &DeviceLimits::H200).unwrap();
        let cost = |architecture: &str, registers| Cost {
            kernel: plan.launches[0].kernel.to_string(),
            architecture: architecture.to_owned(),
            threads: 256,
            registers,
            spill_bytes: 0,
            static_shared_bytes: 512,
            dynamic_shared_bytes: 1024,
            blocks_per_multiprocessor: 1,
            warnings: vec![],
            ptx: ptx_hash(plan.launches[0].kernel.packed_ptx().unwrap()),
        };
        let costs = [cost("sm_80", 40), cost("sm_90a", 48)];
        assert_eq!(cost_of(generation, &mission(), &DeviceLimits::H200, &costs), Some((48, 1536)));
        assert_eq!(cost_of(generation, &mission(), &DeviceLimits::H200, &costs[..1]), None);
        for ptx in ["", "of the parent"] {
            let other = [Cost { ptx: ptx.to_owned(), ..costs[1].clone() }];
            assert_eq!(cost_of(generation, &mission(), &DeviceLimits::H200, &other), None, "{ptx:?}");
        }
    }
}
