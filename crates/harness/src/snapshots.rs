//! What the tests remember of each generation, as text: what it plans, and what it executes. A file per generation, so that a
//! new one brings its own and changes nobody's; `sdpa gate ID --accept` writes them anew.

use std::path::{Path, PathBuf};

use sdpa_core::{Attention, DeviceKind, DeviceLimits, Dtype, Error, Layout, Operand, Problem, ProblemBuilder, Strides};
use sdpa_toolchain::{KernelTexts, write_whole};

use crate::acceptance;
use crate::case::Case;
use crate::counters::{CASES, count, render};
use crate::execute::RunError;
use crate::needs::as_needed;

/// A text that a test remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// What is launched for the acceptance shapes, and what is taken.
    Plans,
    /// What the interpreter counts for [`CASES`].
    Counters,
}

impl Snapshot {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Plans, Self::Counters];

    /// What it is called in file names and for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plans => "plans",
            Self::Counters => "counters",
        }
    }

    /// The name that its test gives insta.
    pub fn title(self, id: &str) -> String {
        format!("{}_{id}", self.name())
    }

    /// Its file, relative to the checkout's root.
    pub fn path(self, id: &str) -> PathBuf {
        match self {
            Self::Plans => format!("crates/harness/tests/suite/snapshots/suite__plans__plans_{id}.snap"),
            Self::Counters => {
                format!("crates/harness/tests/interpreter/snapshots/interpreter__counters__counters_{id}.snap")
            }
        }
        .into()
    }

    /// The text as it is now, with the kernels of `texts`.
    ///
    /// # Errors
    /// [`RunError`] if the kernels cannot be counted.
    pub fn now(self, generation: &dyn Attention, texts: &KernelTexts) -> Result<String, RunError> {
        match self {
            Self::Plans => Ok(plans(generation)),
            Self::Counters => counters(generation, texts),
        }
    }

    /// The text that the test remembers; empty if there is none yet.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn remembered(self, root: &Path, id: &str) -> std::io::Result<String> {
        match std::fs::read_to_string(root.join(self.path(id))) {
            Ok(file) => Ok(parts(&file).1.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(error),
        }
    }

    /// Makes the test remember this text.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn accept(self, root: &Path, id: &str, text: &str) -> std::io::Result<()> {
        let path = root.join(self.path(id));
        let file = std::fs::read_to_string(&path).unwrap_or_default();
        let header = match parts(&file).0 {
            "" => format!("---\nsource: crates/harness/src/snapshots.rs\nexpression: {}\n---\n", self.name()),
            header => header.to_owned(),
        };
        let file = format!("{header}{}\n", text.trim_end());
        write_whole(&path, file.as_bytes()).map_err(|error| error.source)
    }
}

/// What insta writes about a snapshot, and its text.
fn parts(file: &str) -> (&str, &str) {
    let header = file.strip_prefix("---\n").and_then(|rest| rest.find("\n---\n")).map_or(0, |end| end + 9);
    file.split_at(header)
}

const DEVICES: [(&str, DeviceLimits); 3] =
    [("A100", DeviceLimits::A100), ("L4", DeviceLimits::L4), ("H200", DeviceLimits::H200)];

fn plan(generation: &dyn Attention, problem: &Problem, limits: &DeviceLimits) -> String {
    match generation.plan(problem, limits) {
        Ok(plan) => plan.to_string(),
        // The reason is told by whoever asks: what matters here is who declines.
        Err(_) => "declined".to_owned(),
    }
}

/// Devices that agree share a line.
fn plans_of_the_acceptance_shapes(generation: &dyn Attention) -> Vec<String> {
    let mut lines = Vec::new();
    for case in acceptance::cases(DeviceKind::Cuda) {
        let problem = &as_needed(generation, &case.case.problem);
        let mut plans: Vec<(String, Vec<&str>)> = Vec::new();
        for (name, limits) in &DEVICES {
            let plan = plan(generation, problem, limits);
            match plans.iter_mut().find(|(known, _)| *known == plan) {
                Some((_, names)) => names.push(name),
                None => plans.push((plan, vec![name])),
            }
        }
        for (plan, names) in plans {
            let names = if names.len() == DEVICES.len() { String::new() } else { format!(" ({})", names.join(", ")) };
            lines.push(format!("{problem}: {plan}{names}"));
        }
    }
    lines
}

/// What not every kernel can do, and who takes it.
fn capabilities(generation: &dyn Attention) -> Vec<String> {
    let base = || Problem::new(2, 4, 128, 64);
    let odd_rows = |heads: i64| Strides { batch: heads * 128 * 65, head: 128 * 65, row: 65 };
    let abilities: [(&str, ProblemBuilder); 9] = [
        ("f16", base()),
        ("bf16", base().dtype(Dtype::Bf16)),
        ("d8", Problem::new(1, 1, 16, 8)),
        ("d128", Problem::new(1, 1, 16, 128)),
        ("d256", Problem::new(1, 1, 16, 256)),
        ("blhd", base().layout(Layout::Blhd)),
        ("odd strides", base().strides(Operand::Key, odd_rows(4))),
        ("grouped", base().heads_kv(2)),
        ("no queries", base().len_q(0)),
    ];
    let line = |(name, problem): (&str, ProblemBuilder)| {
        let problem = as_needed(generation, &problem.build().expect("a valid problem"));
        let takes = DEVICES.iter().filter(|(_, limits)| generation.plan(&problem, limits).is_ok());
        let takes: Vec<&str> = takes.map(|(device, _)| *device).collect();
        format!("{name}: {}", if takes.is_empty() { "-".to_owned() } else { takes.join(", ") })
    };
    abilities.into_iter().map(line).collect()
}

fn plans(generation: &dyn Attention) -> String {
    [plans_of_the_acceptance_shapes(generation), capabilities(generation)].concat().join("\n")
}

/// A table for each case. `sdpa counters` puts generations side by side.
fn counters(generation: &dyn Attention, texts: &KernelTexts) -> Result<String, RunError> {
    let table = |text: &str| -> Result<String, RunError> {
        let case: Case = text.parse().expect("the list holds valid cases");
        match count(generation, &case, texts) {
            // Without the line of ids, whose width is each id's own.
            Ok(counted) => {
                let text = render(&[counted]).replace('\u{a0}', " ");
                Ok(text.lines().skip(1).map(|line| format!("{line}\n")).collect())
            }
            Err(RunError::Device(Error::Unsupported(_))) => Ok("declined\n".to_owned()),
            Err(error) => Err(error),
        }
    };
    let tables: Vec<String> =
        CASES.iter().map(|case| Ok(format!("{case}\n{}", table(case)?))).collect::<Result<_, RunError>>()?;
    Ok(tables.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_accepted_is_remembered_and_its_header_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(Snapshot::Plans.path("v9"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        assert_eq!(Snapshot::Plans.remembered(folder.path(), "v9").unwrap(), "");
        std::fs::write(&path, "---\nsource: a.rs\nexpression: lines\n---\none\ntwo\n").unwrap();
        assert_eq!(Snapshot::Plans.remembered(folder.path(), "v9").unwrap(), "one\ntwo");
        Snapshot::Plans.accept(folder.path(), "v9", "one\nthree\n").unwrap();
        let file = std::fs::read_to_string(&path).unwrap();
        assert_eq!(file, "---\nsource: a.rs\nexpression: lines\n---\none\nthree\n");
        std::fs::remove_file(&path).unwrap();
        Snapshot::Plans.accept(folder.path(), "v9", "one").unwrap();
        assert_eq!(Snapshot::Plans.remembered(folder.path(), "v9").unwrap(), "one");
    }
}
