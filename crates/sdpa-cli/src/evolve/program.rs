//! The judge in a process of its own.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sdpa_toolchain::{Checkout, Nvrtc, Sources, ToolchainError};

use super::judge::{Job, Judged};

/// Why a candidate could not be judged at all.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// A file or a process.
    #[error("{what}: {source}")]
    System {
        /// What was done.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The judge said that it cannot judge.
    #[error("{0}")]
    Unjudged(String),
    /// No compiler, or no sources.
    #[error(transparent)]
    Toolchain(#[from] ToolchainError),
}

/// Starts judges. Each gets a folder with the checkout's kernels and the candidate's in their place.
pub struct Judge {
    program: PathBuf,
    sources: Sources,
    /// The toolkit's folder.
    toolkit: PathBuf,
    limit: Duration,
    /// Threads of each judge; as many as there are cores if none are said.
    threads: Option<usize>,
    /// Holds the file that says which judge uses the GPU.
    turns: tempfile::TempDir,
}

impl Judge {
    /// Judges are started from this program, which must know the verb `judge-candidate`. One that takes longer than `limit` is ended,
    /// and its candidate rejected.
    ///
    /// # Errors
    /// [`RunnerError::Toolchain`]: no compiler where one is needed.
    pub fn new(program: &Path, checkout: &Checkout, limit: Duration) -> Result<Self, RunnerError> {
        let toolkit = Nvrtc::find(checkout)?.home().to_owned();
        let system = |source| RunnerError::System { what: "a folder for the judges".to_owned(), source };
        let turns = tempfile::tempdir().map_err(system)?;
        Ok(Self { program: program.to_owned(), sources: checkout.sources()?, toolkit, limit, threads: None, turns })
    }

    /// Each judge works on so many cores: for several side by side.
    #[must_use]
    pub fn on_cores(self, cores: usize) -> Self {
        Self { threads: Some(cores.max(1)), ..self }
    }

    /// The checkout's kernels.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Judges one candidate.
    ///
    /// # Errors
    /// [`RunnerError`].
    pub fn judge(&self, job: &Job) -> Result<Judged, RunnerError> {
        let system = |what: &str| {
            let what = what.to_owned();
            move |source| RunnerError::System { what, source }
        };
        let folder = tempfile::tempdir().map_err(system("a folder for the judge"))?;
        self.lay_out(folder.path(), job).map_err(system("the judge's kernels"))?;
        let mut command = Command::new(&self.program);
        command.arg("judge-candidate").current_dir(folder.path()).env("CUDA_HOME", &self.toolkit);
        if let Some(threads) = self.threads {
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(system("the judge's process"))?;
        // Read on threads of their own, so that no full pipe stops the judge.
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let job = Job { turn: Some(self.turn()), ..job.clone() };
        let question = serde_json::to_string(&job).map_err(|error| system("the judge's question")(error.into()))?;
        let asking = std::thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(question.as_bytes())));
        let hearing = std::thread::spawn(move || {
            let mut text = String::new();
            stdout.map(|mut stdout| stdout.read_to_string(&mut text));
            text
        });
        let complaining = std::thread::spawn(move || {
            let mut text = String::new();
            stderr.map(|mut stderr| stderr.read_to_string(&mut text));
            text
        });
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(system("the judge's process"))? {
                break Some(status);
            }
            if started.elapsed() > self.limit {
                let _ = child.kill();
                let _ = child.wait();
                self.give_back_turn(child.id());
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.give_back_turn(child.id());
        let _ = asking.join();
        let said = hearing.join().unwrap_or_default();
        let complaint = complaining.join().unwrap_or_default();
        let Some(status) = status else {
            let detail = format!("not judged within {} s", self.limit.as_secs());
            return Ok(Judged::refused("time", detail, "what takes the compiler or the interpreter so long"));
        };
        if let Ok(judged) = serde_json::from_str(&said) {
            return Ok(judged);
        }
        // The judge catches what a candidate does; a crash is one that it could not catch, a compiler's for example.
        match status.code() {
            Some(_) => Err(RunnerError::Unjudged(complaint.trim().trim_start_matches("error: ").to_owned())),
            None => {
                let detail = format!("the judge's process ended by {status}\n{}", complaint.trim());
                Ok(Judged::refused("compiles", detail, "what ends a compiler"))
            }
        }
    }

    fn turn(&self) -> PathBuf {
        self.turns.path().join("turn")
    }

    /// A judge that was ended cannot give back its turn itself.
    fn give_back_turn(&self, judge: u32) {
        if std::fs::read_to_string(self.turn()).is_ok_and(|holder| holder == judge.to_string()) {
            let _ = std::fs::remove_file(self.turn());
        }
    }

    /// A checkout of kernels alone.
    fn lay_out(&self, folder: &Path, job: &Job) -> std::io::Result<()> {
        std::fs::write(folder.join("Cargo.toml"), "[workspace]\n")?;
        for (path, text) in job.genome.sources(&self.sources).iter() {
            let file = folder.join("kernels").join(path);
            if let Some(parent) = file.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(file, text)?;
        }
        Ok(())
    }
}
