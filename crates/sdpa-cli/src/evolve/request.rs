//! What a generator is asked, one line of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::choose::Guide;
use super::insight::Insight;
use super::judge::Step;
use super::lineage::{Entry, Gain, Standing};
use crate::findings;
use sdpa_toolchain::resources::Cost;

/// A question to a generator. It is complete: a generator needs to remember nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// What to do, for a reader.
    pub task: String,
    /// What a kernel must hold to.
    pub contract: String,
    /// The generation that is bred from.
    pub generation: String,
    /// What to change.
    pub parent: Parent,
    /// Which kind of problem the next candidate should be better at.
    pub niche: String,
    /// The problem of that kind that is timed.
    pub problem: String,
    /// Headers that a kernel may include: path → text.
    pub vocabulary: BTreeMap<String, String>,
    /// Numbers that kernels are compiled with and that may be others.
    pub numbers: BTreeMap<String, Number>,
    /// The best so far; of a guide that tells them.
    pub elites: Vec<Elite>,
    /// What was learned; of a guide that tells it.
    pub insights: Vec<Insight>,
    /// What failed last, the gate's words with it; of a guide that tells it.
    pub failures: Vec<Failure>,
    /// Everything that was asked so far, candidates that are being judged among them.
    pub tried: Vec<Tried>,
    /// What is left to spend.
    pub budget: Budget,
    /// How much the generator is told.
    pub guide: Guide,
    /// For what the generator draws.
    pub seed: u64,
    /// Candidates that were asked for since the last one was judged.
    pub sibling: usize,
    /// The candidate's number.
    pub number: usize,
}

/// The candidate that is to be changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Parent {
    /// Its id.
    pub id: String,
    /// Its kernel and the headers that are its own: path → text.
    pub files: BTreeMap<String, String>,
    /// The kernel among them.
    pub kernel: String,
    /// Definitions in which it differs from the generation's table.
    pub defines: BTreeMap<String, String>,
    /// What became of it.
    pub standing: Standing,
    /// How it fails, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Niche → figure → count.
    pub counters: BTreeMap<String, BTreeMap<String, u64>>,
    /// Registers, shared memory and spills.
    pub costs: Vec<Cost>,
}

/// A number that kernels are compiled with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Number {
    /// Values worth trying.
    pub values: Vec<String>,
    /// The parent's, of each kernel that has it.
    pub now: Vec<String>,
}

/// How a candidate failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// Which candidate.
    pub id: String,
    /// What it was made of.
    pub parents: Vec<String>,
    /// What it tried.
    pub rationale: String,
    /// The step and its words.
    pub step: Step,
    /// What was found, as `sdpa check --json` has it.
    pub findings: Vec<findings::Entry>,
}

/// A candidate that is among the best.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Elite {
    /// Its id.
    pub id: String,
    /// What it is the best at.
    pub niche: String,
    /// How much better than the first.
    pub gain: Gain,
    /// What it tried.
    pub rationale: String,
    /// Definitions in which it differs from the generation's table.
    pub defines: BTreeMap<String, String>,
    /// In what its files differ from those of the first.
    pub diff: String,
}

/// What was asked before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its id.
    pub id: String,
    /// What it was made of.
    pub parents: Vec<String>,
    /// What it tried.
    pub rationale: String,
    /// Its definitions.
    pub defines: BTreeMap<String, String>,
    /// True if it has files of its own.
    pub edited: bool,
    /// What became of it; none while it is being judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
}

/// What is left to spend.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Candidates, this one among them.
    pub candidates: usize,
    /// Minutes of a GPU; none if they are not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_minutes: Option<f64>,
}

impl Failure {
    /// How a candidate failed, if it did.
    pub(super) fn of(entry: &Entry) -> Option<Self> {
        let step = entry.judged.failed()?;
        Some(Self {
            id: entry.id.clone(),
            parents: entry.parents.clone(),
            rationale: entry.rationale.clone(),
            step: step.clone(),
            findings: entry.judged.findings.clone(),
        })
    }
}

/// What to do.
pub(super) const TASK: &str = "Make the attention kernel of this parent faster on the problem of the niche, or right if it is not. Answer \
    with one line of JSON: `files` (path → whole text) or `diff` (unified, against the parent's files) or `defines`, with `rationale`, and \
    if something was learned `insight` {text, figure, moves: down|up}; `uses` names the insights that it builds on. `from_first` begins \
    anew, without the parent's changes. `done` ends the run.";

/// What must hold.
pub(super) const CONTRACT: &str = "A kernel computes softmax(scale · Q·Kᵀ + mask) · V and the log-sum-exp for every shape that its plan takes: \
    ragged lengths, grouped heads, strides, rows without keys (0 and -inf), NaN that stays in its row. It is a function of its tensors: no \
    variable in device memory, no clock, no call out. Grid, block and shared memory are the plan's: LAUNCH_THREADS and \
    LAUNCH_SHARED_BYTES are defined, and a static_assert holds the tiles to them. Every barrier, wait and fence is needed: a check \
    must notice when it is removed, or a comment `// UNNOTICED: reason` stands above it. Only the generation's kernel may be \
    changed; new headers go to machine/NAME.cuh.";
