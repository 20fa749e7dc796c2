//! Kernels of other projects, timed by `bench/peers.py` in the same minutes: a question and its answer are a line each.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use harness::regime::ExtensionData;
use sdpa_core::{Dtype, Packing, Problem, Window};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Cache, Ceiling, Contender, Options, Sample};

/// Why the peers do not answer.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Python did not start.
    #[error("{python} did not start: {source}")]
    Start {
        /// The interpreter tried.
        python: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// It ended, or said something that is no answer; its own words are on standard error.
    #[error("bench/peers.py gave no answer to {question}: {reason}")]
    NoAnswer {
        /// What it was asked.
        question: String,
        /// What came instead.
        reason: String,
    },
    /// Its figures would be of another card.
    #[error("bench/peers.py runs on {theirs}, the generations on {ours}: set CUDA_VISIBLE_DEVICES to one GPU")]
    OtherDevice {
        /// UUID of the generations' card.
        ours: String,
        /// UUID of the peers' card.
        theirs: String,
    },
    /// It answered that it cannot.
    #[error("bench/peers.py: {0}")]
    Refused(String),
}

/// A running `bench/peers.py --serve`.
pub struct Peers {
    process: Child,
    pipes: RefCell<Pipes>,
    /// What it says of itself: versions above all.
    pub environment: Map<String, Value>,
}

struct Pipes {
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// What the peers say to a problem.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ReadyPeers {
    /// Those that are ready, by name.
    pub peers: Vec<String>,
    /// In which way those take it that have several: the fastest of a trial.
    #[serde(default)]
    pub ways: BTreeMap<String, String>,
    /// Those that do not take it, and ways that failed, with the reasons.
    pub skipped: BTreeMap<String, String>,
}

impl Peers {
    /// Starts the script with this Python.
    ///
    /// # Errors
    /// [`PeerError`] where Python, PyTorch or the GPU is missing.
    pub fn start(python: &str) -> Result<Self, PeerError> {
        // The program may have been copied to another machine, where it is run from the repository's root.
        let here = PathBuf::from("bench/peers.py");
        let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/peers.py");
        let script = if here.is_file() { here } else { built_from };
        let started = Command::new(python)
            .arg(script)
            .arg("--serve")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| PeerError::Start { python: python.to_owned(), source });
        let mut process = started?;
        let (Some(questions), Some(answers)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both pipes were asked for")
        };
        let pipes = RefCell::new(Pipes { questions, answers: BufReader::new(answers) });
        let mut peers = Self { process, pipes, environment: Map::new() };
        match peers.ask(&json!({"hello": true}))? {
            Value::Object(environment) => peers.environment = environment,
            _ => return Err(PeerError::Refused("its greeting is no object".to_owned())),
        }
        Ok(peers)
    }

    /// Checks that the peers run on the generations' card, where both say which it is.
    ///
    /// # Errors
    /// [`PeerError::OtherDevice`].
    pub fn check_card(&self, ours: Option<&str>) -> Result<(), PeerError> {
        let theirs = self.environment.get("uuid").and_then(Value::as_str);
        match ours.zip(theirs) {
            Some((ours, theirs)) if !ours.eq_ignore_ascii_case(theirs) => {
                Err(PeerError::OtherDevice { ours: ours.to_owned(), theirs: theirs.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Makes the peers ready for a problem, each checked against f32 arithmetic first. They get the lengths and sinks that
    /// the generations are timed with.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn prepare(
        &self,
        problem: &Problem,
        extension: &ExtensionData,
        options: &Options,
    ) -> Result<ReadyPeers, PeerError> {
        let mut asked = json!({
            "batch": problem.batch(),
            "heads_q": problem.heads_q(),
            "heads_kv": problem.heads_kv(),
            "len_q": problem.len_q(),
            "len_kv": problem.len_kv(),
            "head_dim": problem.head_dim(),
            "dtype": problem.dtype().name(),
            "mask": problem.mask().name(),
            "cold": options.cache == Cache::Cold,
            "regime": options.regime.name(),
            "sample_ms": options.sample.as_secs_f64() * 1e3,
        });
        for (field, value) in extension_fields(problem, extension) {
            asked[field] = value;
        }
        let answer = self.ask(&json!({"prepare": asked}))?;
        serde_json::from_value(answer)
            .map_err(|error| PeerError::NoAnswer { question: "prepare".to_owned(), reason: error.to_string() })
    }

    /// Measures a large matrix product of this element type, and kernels that read and that copy a large tensor.
    ///
    /// # Errors
    /// [`PeerError`].
    pub fn ceiling(&self, dtype: Dtype, options: &Options) -> Result<Ceiling, PeerError> {
        let answer = self.ask(&json!({"ceiling": {
            "dtype": dtype.name(),
            "regime": options.regime.name(),
            "samples": options.samples,
            "sample_ms": options.sample.as_secs_f64() * 1e3,
        }}))?;
        serde_json::from_value(answer)
            .map_err(|error| PeerError::NoAnswer { question: "ceiling".to_owned(), reason: error.to_string() })
    }

    /// A peer that [`prepare`](Self::prepare) named, as a contender.
    pub fn contender<'p>(&'p self, name: &str) -> impl Contender<Error = PeerError> + use<'p> {
        Peer { peers: self, name: name.to_owned() }
    }

    fn ask(&self, question: &Value) -> Result<Value, PeerError> {
        let no_answer = |reason: String| {
            let question = question.as_object().and_then(|question| question.keys().next()).cloned();
            PeerError::NoAnswer { question: question.unwrap_or_default(), reason }
        };
        let Pipes { questions, answers } = &mut *self.pipes.borrow_mut();
        let mut line = question.to_string();
        line.push('\n');
        questions
            .write_all(line.as_bytes())
            .and_then(|()| questions.flush())
            .map_err(|error| no_answer(error.to_string()))?;
        let mut answer = String::new();
        match answers.read_line(&mut answer) {
            Ok(0) => return Err(no_answer("it ended".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(no_answer(error.to_string())),
        }
        let answer: Value = serde_json::from_str(&answer).map_err(|_| no_answer(answer.trim().to_owned()))?;
        match answer.get("error").and_then(Value::as_str) {
            Some(error) => Err(PeerError::Refused(error.to_owned())),
            None => Ok(answer),
        }
    }
}

/// What a question says of a problem's extensions; nothing of a dense problem.
fn extension_fields(problem: &Problem, data: &ExtensionData) -> Vec<(&'static str, Value)> {
    let mut fields = Vec::new();
    if let Some(Packing { longest_q, longest_kv, .. }) = problem.packing() {
        fields.push(("cu_seqlens_q", json!(data.cu_seqlens_q)));
        fields.push(("cu_seqlens_k", json!(data.cu_seqlens_k)));
        fields.push(("longest_q", json!(longest_q)));
        fields.push(("longest_kv", json!(longest_kv)));
    }
    if problem.window() != Window::ALL {
        fields.push(("window", json!([problem.window().left, problem.window().right])));
    }
    if let Some(cap) = problem.softcap() {
        fields.push(("softcap", json!(cap)));
    }
    // JSON has no infinity: a sink of −∞ is null.
    fields.extend(problem.sinks().then(|| ("sinks", json!(data.sinks))));
    fields.extend(problem.slopes().then(|| ("slopes", json!(data.slopes))));
    let value_dim = Some(problem.value_dim()).filter(|value_dim| *value_dim != problem.head_dim());
    fields.extend(value_dim.map(|value_dim| ("value_dim", json!(value_dim))));
    fields.extend(problem.kv_storage().name().map(|name| ("kv_storage", json!(name))));
    fields.extend(problem.key_lengths().then(|| ("key_lengths", json!(data.key_lengths))));
    fields
}

impl Drop for Peers {
    fn drop(&mut self) {
        // It holds GPU memory and has nothing to save. If it has ended already there is nothing to do.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Peer<'p> {
    peers: &'p Peers,
    name: String,
}

impl Contender for Peer<'_> {
    type Error = PeerError;

    fn sample(&mut self) -> Result<Sample, PeerError> {
        let answer = self.peers.ask(&json!({"sample": self.name}))?;
        let number = |name: &str| answer.get(name).and_then(Value::as_f64);
        let us = number("us")
            .ok_or_else(|| PeerError::NoAnswer { question: "sample".to_owned(), reason: answer.to_string() })?;
        Ok(Sample { us, joules: number("joules") })
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// A stand-in that answers as the script does, without a GPU.
    fn started(answers: &str) -> Result<Peers, PeerError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("python");
        let script = format!("#!/bin/sh\nwhile read -r line; do case \"$line\" in\n{answers}\nesac; done\n");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        loop {
            match Peers::start(&path.display().to_string()) {
                // Another test's child process may still hold the file open for writing, for a moment.
                Err(PeerError::Start { source, .. }) if source.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                started => return started,
            }
        }
    }

    #[test]
    fn questions_are_answered_in_turn() {
        let peers = started(concat!(
            "*hello*) echo '{\"torch\": \"2.11\", \"uuid\": \"GPU-0a\"}';;\n",
            "*ceiling*'\"regime\":\"short\",\"sample_ms\":5.0,\"samples\":15'*) echo '{\"dtype\": \"f16\", \"matmul\": \"8192\", \"matmul_tflops\": 700.0, ",
            "\"copy\": \"1 GiB\", \"copy_gb_s\": 4300.0}';;\n",
            "*prepare*'\"regime\":\"sustained\",\"sample_ms\":100.0'*) echo '{\"peers\": [], \"skipped\": {}}';;\n",
            "*prepare*'\"mask\":\"causal\",\"regime\":\"short\"'*) echo '{\"peers\": [\"flash\"], \"ways\": {\"flash\": \"blhd\"}, \"skipped\": {\"fa3\": \"not installed\"}}';;\n",
            "*'\"sample\":\"flash\"'*) echo '{\"us\": 9.5}';;\n",
            "*'\"sample\":\"fa3\"'*) echo '{\"us\": 9.0, \"joules\": 0.5}';;\n",
            "*) echo '{\"error\": \"RuntimeError: out of memory\"}';;",
        ))
        .unwrap();
        assert_eq!(peers.environment["torch"], "2.11");
        let options = Options::default();
        assert_eq!(peers.ceiling(Dtype::F16, &options).unwrap().matmul_tflops, 700.0);
        let problem = Problem::new(1, 8, 512, 64).mask(sdpa_core::Mask::Causal).build().unwrap();
        let ready = peers.prepare(&problem, &ExtensionData::default(), &options).unwrap();
        assert_eq!((ready.peers, ready.skipped["fa3"].as_str()), (vec!["flash".to_owned()], "not installed"));
        assert_eq!(ready.ways["flash"], "blhd");
        let sustained = Options::of(super::super::Regime::Sustained);
        assert_eq!(peers.prepare(&problem, &ExtensionData::default(), &sustained).unwrap().peers, [""; 0]);
        assert_eq!(peers.contender("flash").sample().unwrap(), Sample { us: 9.5, joules: None });
        assert_eq!(peers.contender("fa3").sample().unwrap(), Sample { us: 9.0, joules: Some(0.5) });
        let card = |ours: Option<&str>| peers.check_card(ours).map_err(|error| error.to_string());
        assert_eq!([card(None), card(Some("GPU-0A"))], [Ok(()), Ok(())]);
        let other = card(Some("GPU-0b")).unwrap_err();
        assert!(other.starts_with("bench/peers.py runs on GPU-0a, the generations on GPU-0b: "), "{other}");
        let refused = peers.contender("cudnn").sample().unwrap_err().to_string();
        assert_eq!(refused, "bench/peers.py: RuntimeError: out of memory");
    }

    #[test]
    fn peers_hear_what_generations_are_timed_with() {
        let fields = |line: &str| {
            let case: harness::case::Case = line.parse().unwrap();
            let mut data = case.data().extension;
            data.sinks.first_mut().into_iter().for_each(|sink| *sink = f32::NEG_INFINITY);
            data.sinks.iter_mut().skip(1).for_each(|sink| *sink = 0.5);
            Value::Object(
                extension_fields(&case.problem, &data)
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect(),
            )
        };
        assert_eq!(fields("h2 L42 d64"), json!({}));
        assert_eq!(
            fields("h2 L42 d64 packed=4,30,31 lengths=5,0,30,7 softcap=2 sinks"),
            json!({
                "cu_seqlens_q": [0, 5, 5, 35, 42], "cu_seqlens_k": [0, 5, 5, 35, 42], "longest_q": 30, "longest_kv": 31,
                "softcap": 2.0, "sinks": [null, 0.5],
            })
        );
        assert_eq!(fields("h2 L42 d64 causal window=7,all"), json!({"window": [7, null]}));
        assert_eq!(fields("h2 L42 d64 value_dim=32"), json!({"value_dim": 32}));
        assert_eq!(fields("h2 L42 d64 kv=e4m3-per-head"), json!({"kv_storage": "e4m3-per-head"}));
    }

    #[test]
    fn whoever_does_not_answer_is_named() {
        let error = |answers: &str| started(answers).err().unwrap().to_string();
        assert_eq!(error("*) exit;;"), "bench/peers.py gave no answer to hello: it ended");
        assert_eq!(error("*) echo Traceback;;"), "bench/peers.py gave no answer to hello: Traceback");
        let missing = Peers::start("no-such-python").err().unwrap().to_string();
        assert!(missing.starts_with("no-such-python did not start: "), "{missing}");
    }
}
