//! The loop: choose a parent, ask the generator, judge, record.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use harness::random::Random;
use sdpa_core::{Attention, DeviceLimits, Specialisation};
use sdpa_toolchain::Sources;
use sha2::{Digest as _, Sha256};
use similar::TextDiff;

use super::candidate::{Genome, Proposal};
use super::choose::{self, Guide};
use super::generator::{Generator, GeneratorError};
use super::insight::insights;
use super::judge::{Job, Judged};
use super::lineage::{self, Entry, Gain, Header, Lineage, LineageError, Standing, Winner};
use super::niche::Niche;
use super::program::RunnerError;
use super::request::{self, Budget, Elite, Failure, Number, Parent, Request, Tried};
use super::timed::Samples;

/// The best candidates that a generator is told of.
const TOLD_ELITES: usize = 4;
/// The last failures that a generator is told of.
const TOLD_FAILURES: usize = 8;

/// What a run may spend.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Candidates, the first not counted.
    pub candidates: usize,
    /// Minutes of a GPU.
    pub minutes: Option<f64>,
    /// Candidates that are judged side by side.
    pub workers: usize,
    /// Ends with the first candidate that is right.
    pub until_right: bool,
    /// Samples with which the best are measured again, on a GPU.
    pub confirm: Samples,
}

/// Why a run ended before its budget did.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The record.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The generator.
    #[error(transparent)]
    Generator(#[from] GeneratorError),
    /// The judge.
    #[error("{id} could not be judged: {source}")]
    Judge {
        /// Which candidate.
        id: String,
        /// Why not.
        source: RunnerError,
    },
}

/// Judges one candidate.
pub type Judging<'a> = &'a (dyn Fn(&Job) -> Result<Judged, RunnerError> + Sync);

/// A run at work.
pub struct Run<'a> {
    /// What it may spend.
    pub plan: Plan,
    /// The generation that it starts from.
    pub generation: &'static dyn Attention,
    /// The problems.
    pub niches: Vec<Niche>,
    /// Numbers that may be others: name → values.
    pub numbers: BTreeMap<String, Vec<String>>,
    /// The checkout's kernels.
    pub sources: &'a Sources,
    /// Who judges.
    pub judging: Judging<'a>,
    /// Hears of each candidate that is recorded.
    pub recorded: &'a dyn Fn(&Entry),
}

/// A candidate that is not judged yet.
struct Draft {
    id: String,
    parent: Option<Entry>,
    niche: String,
    proposal: Proposal,
    /// What it is made of, or why it cannot be made.
    genome: Result<Genome, String>,
}

impl Run<'_> {
    /// Goes on until the budget is spent or the generator has nothing more to propose.
    ///
    /// # Errors
    /// [`RunError`]. What was recorded stays, and the next run goes on from there.
    pub fn go(&self, lineage: &mut Lineage, generator: &mut Generator) -> Result<(), RunError> {
        let mut over = false;
        while !over && !self.is_spent(lineage) {
            let next = lineage.entries.len();
            let drafts = if next == 0 {
                vec![self.first(&lineage.header)]
            } else {
                // A round is asked for before any of it is judged, wherever an earlier run was interrupted.
                let start = start_of(next, lineage.header.batch);
                let end = (start + lineage.header.batch.max(1)).min(self.plan.candidates + 1);
                let mut drafts = Vec::new();
                for number in next..end {
                    match self.draft(lineage, start, number, &drafts, generator)? {
                        Some(draft) => drafts.push(draft),
                        None => {
                            over = true;
                            break;
                        }
                    }
                }
                drafts
            };
            self.judge_all(lineage, start_of(next, lineage.header.batch), drafts)?;
        }
        if lineage.winners.is_empty() && lineage.entries.iter().any(|entry| !entry.judged.times.is_empty()) {
            self.confirm(lineage)?;
        }
        Ok(())
    }

    fn is_spent(&self, lineage: &Lineage) -> bool {
        let minutes = lineage.device_seconds() / 60.0;
        lineage.entries.len() > self.plan.candidates
            || self.plan.minutes.is_some_and(|most| minutes >= most)
            || self.plan.until_right && lineage.entries.iter().any(|entry| entry.standing.is_right())
    }

    fn first(&self, header: &Header) -> Draft {
        Draft {
            id: "c0".to_owned(),
            parent: None,
            niche: self.niches[0].name.clone(),
            proposal: Proposal { rationale: format!("{} as it is", header.generation), ..Proposal::default() },
            genome: Ok(header.first.clone()),
        }
    }

    /// Asks the generator for a candidate; `None` if it is done. It is told what was known when the round began.
    fn draft(
        &self,
        lineage: &Lineage,
        start: usize,
        number: usize,
        drafts: &[Draft],
        generator: &mut Generator,
    ) -> Result<Option<Draft>, RunError> {
        let header = &lineage.header;
        let known = &lineage.entries[..start];
        let niche = &self.niches[(number - 1) % self.niches.len()];
        let mut random = Random::new(header.seed, &[number as u64, 0x0070_6172]);
        let Some(parent) = choose::parent(known, &niche.name, header.population, &mut random) else { return Ok(None) };
        let request = self.request(lineage, known, parent, niche, number, start, drafts);
        let answer = generator.propose(&request)?;
        let (proposal, genome) = match answer {
            Ok(proposal) if proposal.done => return Ok(None),
            Ok(proposal) => {
                let base = if proposal.from_first { &header.first } else { &parent.genome };
                let genome = base.changed(&proposal, self.generation.generation(), self.sources);
                (proposal, genome)
            }
            Err(reason) => (Proposal::default(), Err(reason)),
        };
        let parent = if proposal.from_first { known.first() } else { Some(parent) };
        let id = format!("c{number}");
        Ok(Some(Draft { id, parent: parent.cloned(), niche: niche.name.clone(), proposal, genome }))
    }

    fn request(
        &self,
        lineage: &Lineage,
        known: &[Entry],
        parent: &Entry,
        niche: &Niche,
        number: usize,
        start: usize,
        drafts: &[Draft],
    ) -> Request {
        let header = &lineage.header;
        let kernel = self.generation.generation().specialisations.first().map_or("", |kernel| kernel.source);
        let mut files = parent.genome.files.clone();
        if let Some(text) = parent.genome.text(kernel, self.sources) {
            files.entry(kernel.to_owned()).or_insert_with(|| text.to_owned());
        }
        let failures: Vec<Failure> = known.iter().rev().filter_map(Failure::of).take(TOLD_FAILURES).collect();
        let (tells_insights, tells_elites) = (header.guide != Guide::Free, header.guide == Guide::Full);
        let elite = |entry: &&Entry| {
            let gain = *entry.gains.get(&niche.name)?;
            Some(Elite {
                id: entry.id.clone(),
                niche: niche.name.clone(),
                gain,
                rationale: entry.rationale.clone(),
                defines: entry.genome.defines.clone(),
                diff: diff(&header.first, &entry.genome, self.sources),
            })
        };
        let elites = choose::elites(known, &niche.name);
        let tried = |id: &str, parents: Vec<String>, rationale: &str, genome: &Genome, standing| Tried {
            id: id.to_owned(),
            parents,
            rationale: rationale.to_owned(),
            defines: genome.defines.clone(),
            edited: genome.files != header.first.files,
            standing,
        };
        let nothing = Genome::default();
        let before = lineage.entries.iter().enumerate().map(|(index, entry)| {
            // What a round knows does not depend on how far an earlier run came in it.
            let standing = (index < start).then_some(entry.standing);
            tried(&entry.id, entry.parents.clone(), &entry.rationale, &entry.genome, standing)
        });
        let pending = drafts.iter().map(|draft| {
            let parents = draft.parent.iter().map(|parent| parent.id.clone()).collect();
            tried(&draft.id, parents, &draft.proposal.rationale, draft.genome.as_ref().unwrap_or(&nothing), None)
        });
        Request {
            task: request::TASK.to_owned(),
            contract: request::CONTRACT.to_owned(),
            generation: header.generation.clone(),
            parent: Parent {
                id: parent.id.clone(),
                files,
                kernel: kernel.to_owned(),
                defines: parent.genome.defines.clone(),
                standing: parent.standing,
                failure: Failure::of(parent),
                counters: parent.judged.counters.clone(),
                costs: parent.judged.costs.clone(),
            },
            niche: niche.name.clone(),
            problem: niche.timed.to_string(),
            vocabulary: self
                .sources
                .iter()
                .filter(|(path, _)| path.starts_with("machine/"))
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
                .collect(),
            numbers: self.numbers_of(&parent.genome),
            elites: if tells_elites { elites.iter().filter_map(elite).take(TOLD_ELITES).collect() } else { Vec::new() },
            insights: if tells_insights { insights(known) } else { Vec::new() },
            failures: if tells_insights { failures } else { Vec::new() },
            tried: before.chain(pending).collect(),
            budget: Budget {
                candidates: self.plan.candidates + 1 - number,
                device_minutes: self.plan.minutes.map(|most| (most - lineage.device_seconds() / 60.0).max(0.0)),
            },
            guide: header.guide,
            seed: seed_of(header.seed, number, "generator"),
            sibling: number - start,
            number,
        }
    }

    /// The numbers that may be others, with what a genome has.
    fn numbers_of(&self, genome: &Genome) -> BTreeMap<String, Number> {
        let kernels: Vec<Specialisation> = self
            .niches
            .iter()
            .filter_map(|niche| self.generation.plan(&niche.timed.problem, &DeviceLimits::H200).ok())
            .flat_map(|plan| plan.launches.into_iter().map(|launch| launch.kernel))
            .collect();
        let mut numbers = BTreeMap::new();
        for (name, values) in &self.numbers {
            let of_table = kernels.iter().filter_map(|kernel| kernel.define(name));
            let mut now: Vec<String> =
                of_table.map(|value| genome.defines.get(name).map_or(value, String::as_str).to_owned()).collect();
            now.dedup();
            // A number that none of these kernels has changes nothing.
            if !now.is_empty() {
                numbers.insert(name.clone(), Number { values: values.clone(), now });
            }
        }
        numbers
    }

    /// Judges drafts side by side and records them in their order, each as soon as those before it are.
    fn judge_all(&self, lineage: &mut Lineage, start: usize, drafts: Vec<Draft>) -> Result<(), RunError> {
        let baseline = lineage.entries[..start].iter().find(|entry| entry.standing.is_right()).cloned();
        let fingerprints: Vec<Option<String>> =
            drafts.iter().map(|draft| draft.genome.as_ref().ok().map(Genome::fingerprint)).collect();
        let before = |index: usize| -> Option<String> {
            let own = fingerprints[index].as_ref()?;
            let known = lineage.entries.iter().find(|entry| entry.fingerprint == *own).map(|entry| entry.id.clone());
            let sibling = fingerprints[..index].iter().position(|other| other.as_ref() == Some(own));
            known.or_else(|| sibling.map(|sibling| drafts[sibling].id.clone()))
        };
        let repeated: Vec<Option<String>> = (0..drafts.len()).map(before).collect();
        let header = lineage.header.clone();
        let verdict = |index: usize| -> Result<Judged, RunnerError> {
            let draft = &drafts[index];
            match (&draft.genome, &repeated[index]) {
                (Err(reason), _) => Ok(Judged::refused("applies", reason.clone(), "what a candidate may change")),
                (Ok(_), Some(known)) => Ok(Judged { device: format!("judged as {known}"), ..Judged::default() }),
                (Ok(genome), None) => {
                    (self.judging)(&job(&header, &draft.id, genome, draft.parent.as_ref(), baseline.as_ref()))
                }
            }
        };
        let next = AtomicUsize::new(0);
        let (send, receive) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.plan.workers.clamp(1, drafts.len().max(1)) {
                let send = send.clone();
                let (next, verdict, count) = (&next, &verdict, drafts.len());
                scope.spawn(move || {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        // Nobody listens any more once something went wrong.
                        if index >= count || send.send((index, verdict(index))).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(send);
            let mut waiting: BTreeMap<usize, Result<Judged, RunnerError>> = BTreeMap::new();
            let mut recorded = 0;
            for (index, judged) in &receive {
                waiting.insert(index, judged);
                while let Some(judged) = waiting.remove(&recorded) {
                    let draft = &drafts[recorded];
                    let judged = judged.map_err(|source| {
                        next.store(drafts.len(), Ordering::Relaxed);
                        RunError::Judge { id: draft.id.clone(), source }
                    })?;
                    let entry = entry_of(&header, draft, judged, repeated[recorded].is_some(), baseline.as_ref());
                    lineage.push(entry.clone())?;
                    (self.recorded)(&entry);
                    recorded += 1;
                }
            }
            Ok(())
        })
    }

    /// Measures the best of each niche again, in a process of its own, beside the first.
    fn confirm(&self, lineage: &mut Lineage) -> Result<(), RunError> {
        let Some(baseline) = lineage.entries.iter().find(|entry| entry.standing.is_right()).cloned() else {
            return Ok(());
        };
        let mut seen: Vec<(String, Judged)> = Vec::new();
        for niche in &self.niches {
            let Some(best) = choose::elites(&lineage.entries, &niche.name).first().map(|best| (*best).clone()) else {
                continue;
            };
            if best.id == baseline.id {
                continue;
            }
            let judged = match seen.iter().find(|(id, _)| *id == best.id) {
                Some((_, judged)) => judged.clone(),
                None => {
                    let header = &lineage.header;
                    let mut job = job(header, &best.id, &best.genome, None, Some(&baseline));
                    job.seed = seed_of(header.seed, lineage.entries.len(), "confirmed");
                    job.effort.samples = self.plan.confirm;
                    let judge = |source| RunError::Judge { id: best.id.clone(), source };
                    (self.judging)(&job).map_err(judge)?
                }
            };
            seen.push((best.id.clone(), judged.clone()));
            let gain: Option<Gain> = lineage::gains(&judged, &baseline.judged).get(&niche.name).copied();
            let verdict = judged.times.get(&niche.name).map(|times| times.verdict);
            lineage.crown(Winner { niche: niche.name.clone(), id: best.id, gain, verdict, judged })?;
        }
        Ok(())
    }
}

/// The first candidate of the round that a candidate belongs to. The first of the lineage is a round of its own.
fn start_of(number: usize, batch: usize) -> usize {
    let batch = batch.max(1);
    number.checked_sub(1).map_or(0, |before| 1 + before / batch * batch)
}

/// What the judge is asked of a candidate.
fn job(header: &Header, id: &str, genome: &Genome, parent: Option<&Entry>, baseline: Option<&Entry>) -> Job {
    let number = id.trim_start_matches('c').parse().unwrap_or(0);
    Job {
        id: id.to_owned(),
        generation: header.generation.clone(),
        genome: genome.clone(),
        parent: parent.filter(|parent| parent.standing.is_right()).map(|parent| parent.genome.clone()),
        first: baseline.map_or(genome, |baseline| &baseline.genome).clone(),
        niches: header.niches.clone(),
        seed: seed_of(header.seed, number, "hidden"),
        effort: header.effort,
        turn: None,
    }
}

impl Lineage {
    /// What the judge was asked of a candidate; `None` if there was nothing to judge.
    pub fn job_of(&self, entry: &Entry) -> Option<Job> {
        if entry.standing == Standing::Repeated || entry.judged.failed().is_some_and(|step| step.name == "applies") {
            return None;
        }
        // What was recorded before the candidate's round is what its judge could know.
        let at = self.entries.iter().position(|other| other.id == entry.id)?;
        let baseline = self.entries[..start_of(at, self.header.batch)].iter().find(|entry| entry.standing.is_right());
        let parent = entry.parents.first().and_then(|id| self.find(id));
        Some(job(&self.header, &entry.id, &entry.genome, parent, baseline))
    }
}

fn entry_of(header: &Header, draft: &Draft, judged: Judged, is_repeated: bool, baseline: Option<&Entry>) -> Entry {
    let genome = draft.genome.clone().unwrap_or_default();
    let standing = if is_repeated { Standing::Repeated } else { lineage::standing(&judged) };
    let gains = match is_repeated {
        true => BTreeMap::new(),
        false => lineage::gains(&judged, baseline.map_or(&judged, |baseline| &baseline.judged)),
    };
    Entry {
        id: draft.id.clone(),
        parents: draft.parent.iter().map(|parent| parent.id.clone()).collect(),
        niche: draft.niche.clone(),
        guide: header.guide,
        rationale: draft.proposal.rationale.clone(),
        insight: draft.proposal.insight.clone(),
        uses: draft.proposal.uses.clone(),
        // One that could not be made has no text that another could repeat.
        fingerprint: draft.genome.as_ref().map_or_else(|_| format!("none of {}", draft.id), Genome::fingerprint),
        genome,
        standing,
        gains,
        judged,
        commit: header.commit.clone(),
    }
}

/// In what the files of one candidate differ from another's, as a unified diff.
pub(super) fn diff(from: &Genome, to: &Genome, sources: &Sources) -> String {
    let mut paths: Vec<&String> = from.files.keys().chain(to.files.keys()).collect();
    paths.sort();
    paths.dedup();
    let mut text = String::new();
    for path in paths {
        let before = from.text(path, sources).unwrap_or_default();
        let after = to.text(path, sources).unwrap_or_default();
        if before != after {
            let names = (format!("a/kernels/{path}"), format!("b/kernels/{path}"));
            text += &TextDiff::from_lines(before, after).unified_diff().header(&names.0, &names.1).to_string();
        }
    }
    text
}

/// What one candidate of a run draws for a purpose. A generator cannot tell the seed of another purpose from its own.
fn seed_of(seed: u64, number: usize, purpose: &str) -> u64 {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((number as u64).to_le_bytes());
    hash.update(purpose);
    let bytes = hash.finalize();
    // JSON's numbers are exact up to 2^53.
    u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], 0, 0])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::Mutex;

    use super::super::lineage::tests::header;
    use super::*;
    use harness::counters::INSTRUCTIONS;
    use sdpa::generations;

    /// A judge that counts 100 instructions, less what the candidate's number of keys says; the largest is wrong.
    fn stand_in(job: &Job) -> Result<Judged, RunnerError> {
        let keys: u64 = job.genome.defines.get("TILE_KEYS").map_or(0, |keys| keys.parse().unwrap_or(0));
        if keys == 128 {
            return Ok(Judged::refused("right", format!("wrong, drawn by {}", job.seed), ""));
        }
        let mut judged = Judged { device: "stand-in".to_owned(), ..Judged::default() };
        judged.counters.insert("short".to_owned(), [(INSTRUCTIONS.to_owned(), 100 - keys / 4)].into());
        Ok(judged)
    }

    /// A run from v2d, whose tunable numbers are left as they are.
    fn of_v2d<'r>(candidates: usize, workers: usize, sources: &'r Sources, judging: Judging<'r>) -> Run<'r> {
        let generation = generations::find("v2d").unwrap();
        let confirm = Samples { count: 1, milliseconds: 1 };
        Run {
            plan: Plan { candidates, minutes: None, workers, until_right: false, confirm },
            generation,
            niches: vec![Niche::of_case("short", "L193 d64 f16 full".parse().unwrap(), generation)],
            numbers: BTreeMap::new(),
            sources,
            judging,
            recorded: &|_| (),
        }
    }

    /// A lineage of so many candidates, begun or continued in this file.
    fn run(path: &std::path::Path, candidates: usize, judging: Judging<'_>) -> Result<Lineage, RunError> {
        let mut lineage = Lineage::open(path, header())?;
        let values = ["16", "32", "48", "64", "96", "128"].map(str::to_owned).to_vec();
        let sources = Sources::default();
        let numbers = [("TILE_KEYS".to_owned(), values)].into();
        let run = Run { numbers, ..of_v2d(candidates, 2, &sources, judging) };
        run.go(&mut lineage, &mut Generator::Numbers).map(|()| lineage)
    }

    #[test]
    fn the_same_seed_gives_the_same_lineage_also_when_it_was_interrupted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        let whole = run(&path("whole"), 5, &stand_in).unwrap();
        assert_eq!(whole.entries.len(), 6);
        run(&path("again"), 5, &stand_in).unwrap();
        assert_eq!(text("whole"), text("again"));
        // Killed after each line, and in the middle of a round: the fourth judgement never returns.
        for lines in 1..=6 {
            let kept: String = text("whole").split_inclusive('\n').take(lines).collect();
            std::fs::write(path("killed"), kept).unwrap();
            run(&path("killed"), 5, &stand_in).unwrap();
            assert_eq!(text("whole"), text("killed"), "killed after {lines} lines");
        }
        let calls = Mutex::new(0);
        let breaks = |job: &Job| {
            *calls.lock().unwrap() += 1;
            match *calls.lock().unwrap() {
                4 => Err(RunnerError::Unjudged("the machine is gone".to_owned())),
                _ => stand_in(job),
            }
        };
        assert!(run(&path("broken"), 5, &breaks).is_err());
        run(&path("broken"), 5, &stand_in).unwrap();
        assert_eq!(text("whole"), text("broken"));
    }

    #[test]
    fn the_best_becomes_the_parent_and_what_is_wrong_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let lineage = run(&folder.path().join("run"), 9, &stand_in).unwrap();
        let wrong: Vec<&Entry> = lineage.entries.iter().filter(|entry| entry.standing == Standing::Rejected).collect();
        assert!(!wrong.is_empty(), "the largest was tried");
        for entry in &lineage.entries {
            assert!(!wrong.iter().any(|wrong| entry.parents.contains(&wrong.id)), "{} has a wrong parent", entry.id);
        }
        let best = lineage.entries.iter().filter_map(|entry| entry.gain()).fold(0.0, f64::max);
        assert_eq!(best, 100.0 / 76.0, "96 keys, of those that are right");
        assert!(lineage.entries.iter().skip(3).any(|entry| entry.parents != ["c0"]));
    }

    #[test]
    fn a_generator_hears_of_failures_only_if_its_guide_tells() {
        let folder = tempfile::tempdir().unwrap();
        let lineage = run(&folder.path().join("run"), 6, &stand_in).unwrap();
        let sources = Sources::default();
        let heard = RefCell::new(Vec::new());
        for guide in [Guide::Free, Guide::Insight, Guide::Full] {
            let mut lineage = lineage.clone();
            lineage.header.guide = guide;
            let mut run = of_v2d(9, 1, &sources, &stand_in);
            run.plan.minutes = Some(2.0);
            let known = &lineage.entries;
            let request = run.request(&lineage, known, &known[0], &run.niches[0], 7, 7, &[]);
            assert_eq!((request.budget.candidates, request.budget.device_minutes), (3, Some(2.0)));
            heard.borrow_mut().push((request.failures.len(), request.elites.is_empty()));
        }
        let wrong = lineage.entries.iter().filter(|entry| entry.standing == Standing::Rejected).count();
        assert_eq!(*heard.borrow(), [(0, true), (wrong, true), (wrong, false)]);
    }

    #[test]
    fn what_is_no_candidate_is_recorded_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut lineage = Lineage::open(&folder.path().join("run"), header()).unwrap();
        let sources = Sources::default();
        let run = of_v2d(3, 1, &sources, &stand_in);
        let kind = "read -r line; echo nonsense; read -r line; echo '{\"files\":{\"machine/../x\":\"\"}}'; \
                    for i in 1 2 3; do read -r line; echo '{\"defines\":{\"TILE_KEYS\":\"32\"}}'; done";
        let mut generator = Generator::start(&kind.parse().unwrap(), folder.path()).unwrap();
        run.go(&mut lineage, &mut generator).unwrap();
        let said: Vec<String> = lineage
            .entries
            .iter()
            .map(|entry| {
                let step = entry.judged.failed().map(|step| format!("{}: {}", step.name, step.detail));
                format!("{} {}", entry.standing.name(), step.unwrap_or_default())
            })
            .collect();
        assert!(said[1].starts_with("rejected applies: the answer is no proposal"), "{said:?}");
        assert!(said[2].starts_with("rejected applies: kernels/machine/../x may not be changed"), "{said:?}");
        assert!(said[3].starts_with("right"), "{said:?}");
        let mut longer = lineage.clone();
        let run = Run { plan: Plan { candidates: 4, ..run.plan }, ..run };
        run.go(&mut longer, &mut generator).unwrap();
        assert_eq!(longer.entries[4].standing, Standing::Repeated);
    }
}
