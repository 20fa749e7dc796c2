//! A driver that fails on demand: `stub.c` as a libcuda of its own folder, under which a child process runs a scenario.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

/// A folder with a library that calls itself the driver's.
pub(crate) struct Stub {
    folder: TempDir,
    settings: Vec<(&'static str, String)>,
}

/// What a scenario said and what the driver heard.
pub(crate) struct Ran {
    /// What the scenario gave to [`say`], line by line.
    pub(crate) said: Vec<String>,
    /// Every call of the driver, in order.
    pub(crate) calls: Vec<String>,
}

/// The start of a line that a scenario says.
const SAID: &str = "scenario says: ";

/// Tells the test that started this process.
pub(crate) fn say(text: impl std::fmt::Display) {
    println!("\n{SAID}{}", text.to_string().replace('\n', " | "));
}

impl Stub {
    /// A healthy driver.
    pub(crate) fn new() -> Self {
        Self::without(None)
    }

    /// A driver that lacks a function.
    pub(crate) fn without(function: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Under another name the function is not found.
        let removed = function.map(|name| format!("-D{name}=removed_{name}"));
        compile("stub.c", &folder.path().join("libcuda.so.1"), removed.as_deref());
        Self::linked(folder)
    }

    /// A file of the right name that is no library.
    pub(crate) fn broken() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("libcuda.so.1"), "no library").expect("a file in a folder of our own");
        Self::linked(folder)
    }

    /// No driver at all, even on a machine that has one.
    pub(crate) fn absent() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let preloaded = folder.path().join("absent.so");
        compile("absent.c", &preloaded, None);
        Self { folder, settings: vec![] }.set("LD_PRELOAD", preloaded.display().to_string())
    }

    /// Found by either name, before the machine's own.
    fn linked(folder: TempDir) -> Self {
        std::os::unix::fs::symlink("libcuda.so.1", folder.path().join("libcuda.so")).expect("a link in our folder");
        Self { folder, settings: vec![] }
    }

    /// With a setting of `stub.c`.
    pub(crate) fn set(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.settings.push((name, value.into()));
        self
    }

    /// Runs the ignored test `scenarios::NAME` in a process of its own under this driver.
    pub(crate) fn run(&self, scenario: &str) -> Ran {
        let log = self.folder.path().join("log");
        std::fs::write(&log, "").expect("a file in a folder of our own");
        let output = Command::new(std::env::current_exe().expect("a test knows itself"))
            .args(["--exact", &format!("scenarios::{scenario}"), "--ignored", "--nocapture"])
            .env_remove("SDPA_DEVICE")
            .env("LD_LIBRARY_PATH", self.folder.path())
            .env("STUB_LOG", &log)
            .envs(self.settings.iter().map(|(name, value)| (*name, value)))
            .output()
            .expect("a test runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{scenario} failed:\n{text}\n{errors}");
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let said = lines(&text).iter().filter_map(|line| line.strip_prefix(SAID)).map(str::to_owned).collect();
        Ran { said, calls: lines(&std::fs::read_to_string(&log).expect("the log is there")) }
    }
}

impl Ran {
    /// The names of the functions that were called between two others.
    pub(crate) fn between(&self, first: &str, last: &str) -> Vec<&str> {
        let calls = self.calls.iter().map(String::as_str).skip_while(|call| *call != first).skip(1);
        calls.take_while(|call| !call.starts_with(last)).collect()
    }

    /// Calls that a driver would have answered with an error, or that it would have run in another context.
    pub(crate) fn wrong_calls(&self) -> Vec<&str> {
        self.calls.iter().map(String::as_str).filter(|call| call.contains(' ') && !call.contains(" nodes=")).collect()
    }
}

/// Compiles a C file beside this one into a library. There is no test without a C compiler.
fn compile(source: &str, library: &Path, define: Option<&str>) {
    let output = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-pthread"])
        .args(define)
        .arg("-o")
        .arg(library)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it").join(source))
        .arg("-ldl")
        .output()
        .expect("a C compiler called `cc` makes the stand-in for the driver");
    assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
}
