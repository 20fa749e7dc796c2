//! Who proposes: a program that answers questions, or one of those that are built in.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

use harness::random::Random;

use super::candidate::Proposal;
use super::lineage::{Lineage, LineageError};
use super::request::Request;

/// Which generator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The generation's tunable numbers, one changed at a time, then two.
    Numbers,
    /// All tunable numbers drawn at random, whatever the parent is.
    Random,
    /// The candidates of another lineage, in their order.
    Replay(PathBuf),
    /// A program: a question is a line of JSON on its standard input, an answer a line on its standard output.
    Command(String),
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" => Err("no generator: there are `numbers`, `random`, `replay FILE` and any command".to_owned()),
            "numbers" => Ok(Self::Numbers),
            "random" => Ok(Self::Random),
            other => match other.strip_prefix("replay ") {
                Some(path) => Ok(Self::Replay(path.trim().into())),
                None => Ok(Self::Command(other.to_owned())),
            },
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers => f.write_str("numbers"),
            Self::Random => f.write_str("random"),
            Self::Replay(path) => write!(f, "replay {}", path.display()),
            Self::Command(command) => f.write_str(command),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GeneratorError {
    /// The program does not start, or its pipes are broken.
    #[error("the generator `{command}`: {source}")]
    System {
        /// The command.
        command: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The program ended without an answer.
    #[error("the generator `{command}` ended without an answer; what it wrote to standard error says why")]
    Ended {
        /// The command.
        command: String,
    },
    /// The lineage to be replayed.
    #[error(transparent)]
    Lineage(#[from] LineageError),
}

/// A generator at work.
pub enum Generator {
    /// See [`Kind::Numbers`].
    Numbers,
    /// See [`Kind::Random`].
    Random,
    /// See [`Kind::Replay`].
    Replay(Box<Lineage>),
    /// See [`Kind::Command`].
    Program(Box<Program>),
}

/// A program that answers.
pub struct Program {
    command: String,
    child: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What a generator said: a proposal, or what is wrong with it.
pub(super) type Answer = Result<Proposal, String>;

impl Generator {
    /// Starts it in a folder.
    ///
    /// # Errors
    /// [`GeneratorError`].
    pub fn start(kind: &Kind, folder: &Path) -> Result<Self, GeneratorError> {
        match kind {
            Kind::Numbers => Ok(Self::Numbers),
            Kind::Random => Ok(Self::Random),
            Kind::Replay(path) => Ok(Self::Replay(Box::new(Lineage::read(&folder.join(path))?))),
            Kind::Command(command) => {
                let system = |source| GeneratorError::System { command: command.clone(), source };
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(command).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
                let mut child = shell.spawn().map_err(system)?;
                let pipes = child.stdin.take().zip(child.stdout.take());
                let (questions, answers) = pipes.ok_or_else(|| system(std::io::Error::other("it has no pipes")))?;
                let answers = BufReader::new(answers);
                Ok(Self::Program(Box::new(Program {
                    command: command.clone(),
                    child,
                    questions: Some(questions),
                    answers,
                })))
            }
        }
    }

    /// Its answer.
    ///
    /// # Errors
    /// [`GeneratorError`] if there is none. An answer that is no proposal is the inner `Err`, in words for the generator.
    pub(super) fn propose(&mut self, request: &Request) -> Result<Answer, GeneratorError> {
        match self {
            Self::Numbers => Ok(Ok(numbers(request))),
            Self::Random => Ok(Ok(random(request))),
            Self::Replay(lineage) => Ok(Ok(replayed(lineage, request))),
            Self::Program(program) => program.ask(request),
        }
    }
}

impl Program {
    fn ask(&mut self, request: &Request) -> Result<Answer, GeneratorError> {
        let command = self.command.clone();
        let system = |source| GeneratorError::System { command: command.clone(), source };
        let question = serde_json::to_string(request).map_err(|error| system(error.into()))?;
        let ended = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::BrokenPipe => GeneratorError::Ended { command: command.clone() },
            _ => system(error),
        };
        if let Some(questions) = &mut self.questions {
            writeln!(questions, "{question}").and_then(|()| questions.flush()).map_err(ended)?;
        }
        let mut answer = String::new();
        self.answers.read_line(&mut answer).map_err(system)?;
        match answer.trim() {
            "" if answer.is_empty() => Err(GeneratorError::Ended { command: command.clone() }),
            line => Ok(serde_json::from_str(line)
                .map_err(|error| format!("the answer is no proposal: {error}; it must be one line of JSON"))),
        }
    }
}

/// A program that gets no more questions has time to end by itself.
impl Drop for Program {
    fn drop(&mut self) {
        self.questions.take();
        for _ in 0..20 {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(std::time::Duration::from_millis(50)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nothing more to propose.
fn done() -> Proposal {
    Proposal { done: true, ..Proposal::default() }
}

/// True if a candidate with the parent's files and these definitions was tried before.
fn was_tried(request: &Request, defines: &BTreeMap<String, String>, edited: bool) -> bool {
    request.tried.iter().any(|tried| tried.defines == *defines && tried.edited == edited)
}

/// The next value of a number that was not tried with the parent's others; then the next pair.
fn numbers(request: &Request) -> Proposal {
    let parent = &request.parent;
    let edited = request.tried.iter().find(|tried| tried.id == parent.id).is_some_and(|tried| tried.edited);
    let single: Vec<(&String, &String)> = request
        .numbers
        .iter()
        .flat_map(|(name, number)| number.values.iter().map(move |value| (name, value)))
        .filter(|(name, value)| !request.numbers[*name].now.iter().all(|now| now == *value))
        .collect();
    // Another order for each parent and seed, so that no number is always the first to be tried.
    let mut order: Vec<usize> = (0..single.len()).collect();
    let mut random = Random::new(request.seed, &[0x6e75_6d62]);
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last + 1));
    }
    let (order, single) = (order.as_slice(), single.as_slice());
    let pairs = order.iter().flat_map(|a| order.iter().map(move |b| vec![single[*a], single[*b]]));
    let pairs = pairs.filter(|pair| pair[0].0 < pair[1].0);
    for changes in order.iter().map(|index| vec![single[*index]]).chain(pairs) {
        let mut defines = parent.defines.clone();
        defines.extend(changes.iter().map(|(name, value)| ((*name).clone(), (*value).clone())));
        if was_tried(request, &defines, edited) {
            continue;
        }
        let words: Vec<String> = changes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let defines = changes.into_iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        return Proposal { defines, rationale: words.join(" "), ..Proposal::default() };
    }
    done()
}

/// Every number drawn anew.
fn random(request: &Request) -> Proposal {
    const TRIES: usize = 500;
    let mut random = Random::new(request.seed, &[0x7261_6e64]);
    for _ in 0..TRIES {
        let mut defines = BTreeMap::new();
        for (name, number) in &request.numbers {
            // One choice more than there are values: as the table has it.
            if let Some(value) = number.values.get(random.below(number.values.len() + 1)) {
                defines.insert(name.clone(), value.clone());
            }
        }
        if !defines.is_empty() && !was_tried(request, &defines, false) {
            let words: Vec<String> = defines.iter().map(|(name, value)| format!("{name}={value}")).collect();
            return Proposal { defines, rationale: words.join(" "), from_first: true, ..Proposal::default() };
        }
    }
    done()
}

/// The candidate of the same number.
fn replayed(lineage: &Lineage, request: &Request) -> Proposal {
    let Some(entry) = lineage.entries.get(request.number) else { return done() };
    Proposal {
        files: entry.genome.files.clone(),
        defines: entry.genome.defines.clone(),
        rationale: entry.rationale.clone(),
        insight: entry.insight.clone(),
        uses: entry.uses.clone(),
        from_first: true,
        ..Proposal::default()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::choose::Guide;
    use super::super::lineage::Standing;
    use super::super::request::{Budget, Number, Parent, Tried};
    use super::*;

    pub(crate) fn request() -> Request {
        let number = |values: &[&str], now: &str| Number {
            values: values.iter().map(|value| (*value).to_owned()).collect(),
            now: vec![now.to_owned()],
        };
        Request {
            task: String::new(),
            contract: String::new(),
            generation: "v2d".to_owned(),
            parent: Parent {
                id: "c0".to_owned(),
                files: BTreeMap::new(),
                kernel: "v2d.cu".to_owned(),
                defines: BTreeMap::new(),
                standing: Standing::Right,
                failure: None,
                counters: BTreeMap::new(),
                costs: Vec::new(),
            },
            niche: "short".to_owned(),
            problem: String::new(),
            vocabulary: BTreeMap::new(),
            numbers: [
                ("KEYS".to_owned(), number(&["32", "64", "128"], "64")),
                ("TURNS".to_owned(), number(&["A", "B"], "A")),
            ]
            .into(),
            elites: Vec::new(),
            insights: Vec::new(),
            failures: Vec::new(),
            tried: Vec::new(),
            budget: Budget { candidates: 9, device_minutes: None },
            guide: Guide::Full,
            seed: 3,
            sibling: 0,
            number: 1,
        }
    }

    /// Every answer of a generator that is asked until it is done.
    fn all(mut next: impl FnMut(&Request) -> Proposal) -> Vec<String> {
        let (mut request, mut words) = (request(), Vec::new());
        loop {
            let proposal = next(&request);
            if proposal.done {
                return words;
            }
            request.tried.push(Tried {
                id: format!("c{}", words.len() + 1),
                parents: vec!["c0".to_owned()],
                rationale: proposal.rationale.clone(),
                defines: proposal.defines,
                edited: false,
                standing: None,
            });
            words.push(proposal.rationale);
        }
    }

    #[test]
    fn numbers_are_tried_alone_and_then_in_pairs_and_never_twice() {
        let mut words = all(numbers);
        let singles: Vec<String> = words.drain(..3).collect();
        let mut sorted = singles.clone();
        sorted.sort();
        assert_eq!(sorted, ["KEYS=128", "KEYS=32", "TURNS=B"]);
        words.sort();
        assert_eq!(words, ["KEYS=128 TURNS=B", "KEYS=32 TURNS=B"]);
        assert_eq!(all(numbers)[..3], singles, "the same seed, the same order");
    }

    #[test]
    fn random_draws_every_combination_once() {
        let mut words = all(random);
        assert_eq!(words, all(random));
        words.sort();
        words.dedup();
        // 4 × 3 choices, but for the one that changes nothing.
        assert_eq!(words.len(), 11);
    }

    #[test]
    fn a_program_answers_line_by_line_and_what_is_no_answer_is_said() {
        let start = |command: &str| Generator::start(&command.parse().unwrap(), Path::new(".")).unwrap();
        let mut program =
            start("while read -r line; do echo '{\"defines\":{\"KEYS\":\"32\"},\"rationale\":\"small\"}'; done");
        for _ in 0..2 {
            let answer = program.propose(&request()).unwrap().unwrap();
            assert_eq!((answer.rationale.as_str(), answer.defines["KEYS"].as_str()), ("small", "32"));
        }
        let said = start("read -r line; echo hello").propose(&request()).unwrap().unwrap_err();
        assert!(said.starts_with("the answer is no proposal"), "{said}");
        let said = start("read -r line; echo '{\"kernel\":\"x\"}'").propose(&request()).unwrap().unwrap_err();
        assert!(said.contains("unknown field `kernel`"), "{said}");
        let said = start("true").propose(&request()).map(drop).unwrap_err().to_string();
        assert!(said.contains("ended without an answer"), "{said}");
    }

    #[test]
    fn kinds_read_back() {
        for text in ["numbers", "random", "replay a b.jsonl", "python3 mend.py"] {
            assert_eq!(text.parse::<Kind>().unwrap().to_string(), text);
        }
        assert!(" ".parse::<Kind>().is_err());
    }
}
