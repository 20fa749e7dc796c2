//! The kernels in `tests/kernels`, each launched as the `//@` line before it says: right ones show nothing, wrong ones
//! show what they are made to show, whatever the seed.
//!
//! ```text
//! //@ clean grid=2 block=64 args=i32:128:iota,i32:64:zero,i32=5
//! //@ finds=GlobalRace,Deadlock grid=1 block=32 shared=1024 instructions=100000 args=…
//! ```
//!
//! An argument `type:count:contents` is a buffer, `type=value` a scalar. `varies` is for kernels whose counts of
//! instructions depend on the schedule. The kernels of other compilers are in `foreign`.

use ptx_interp::{Kernel, Launch, Memory, Module, Report};

const SOURCES: [(&str, &str, &str); 6] = [
    ("order", include_str!("../kernels/order.cu"), include_str!("../kernels/order.ptx")),
    ("tiles", include_str!("../kernels/tiles.cu"), include_str!("../kernels/tiles.ptx")),
    ("functions", include_str!("../kernels/functions.cu"), include_str!("../kernels/functions.ptx")),
    ("pipelines", include_str!("../kernels/pipelines.cu"), include_str!("../kernels/pipelines.ptx")),
    ("debug", include_str!("../kernels/debug.cu"), include_str!("../kernels/debug.ptx")),
    ("hopper", include_str!("../kernels/hopper.cu"), include_str!("../kernels/hopper.ptx")),
];

const SEEDS: u64 = 6;

/// A kernel and its launch.
pub(crate) struct Case {
    pub name: String,
    /// Kinds of findings of which one must be there; none for a right kernel.
    pub finds: Vec<String>,
    grid: u32,
    block: u32,
    shared: u32,
    instructions: u64,
    args: Vec<String>,
}

/// The name in what follows a `//@` line: a kernel's, or the first argument of a macro that makes one.
fn name_of(text: &str) -> &str {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let start = if line.starts_with("KERNEL") {
        let open = line.rfind(" __cluster_dims__").map_or(0, |at| at + line[at..].find(')').unwrap_or(0));
        let call = open + line[open..].find('(').expect("a kernel has parameters");
        line[..call].rsplit(' ').next().unwrap_or_default()
    } else {
        line.split_once('(').expect("a macro has arguments").1.split([',', ')']).next().unwrap_or_default()
    };
    start.trim()
}

impl Case {
    /// A kernel's name, and what stands behind the mark in the line before it.
    pub(crate) fn parse(name: &str, line: &str) -> Self {
        let mut case = Self {
            name: name.to_string(),
            finds: Vec::new(),
            grid: 1,
            block: 1,
            shared: 0,
            instructions: 2_000_000,
            args: Vec::new(),
        };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("finds", kinds)) => case.finds = kinds.split(',').map(str::to_string).collect(),
                Some(("grid", value)) => case.grid = value.parse().expect("a number"),
                Some(("block", value)) => case.block = value.parse().expect("a number"),
                Some(("shared", value)) => case.shared = value.parse().expect("a number"),
                Some(("instructions", value)) => case.instructions = value.parse().expect("a number"),
                Some(("args", list)) => case.args = list.split(',').map(str::to_string).collect(),
                _ => assert!(matches!(word, "clean" | "varies"), "{word}"),
            }
        }
        case
    }

    /// What is wrong with what the interpreter says of the kernel, if anything.
    pub(crate) fn judge(&self, kernel: &Kernel) -> Option<String> {
        let mut first = None;
        for seed in 0..SEEDS {
            let (report, bytes) = self.run(kernel, seed);
            let all: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
            if self.finds.is_empty() {
                if !report.is_clean() {
                    return Some(format!("{} is right, seed {seed}: {}", self.name, all.join("\n")));
                }
                let first = first.get_or_insert_with(|| bytes.clone());
                // Locks and counters may leave different traces, but not different results.
                if *first != bytes {
                    return Some(format!("{}, seed {seed}: other results", self.name));
                }
            } else if !report.findings.iter().any(|finding| self.finds.contains(&format!("{:?}", finding.kind))) {
                return Some(format!("{}, seed {seed}: none of {:?} in\n{}", self.name, self.finds, all.join("\n")));
            }
        }
        None
    }

    /// Launches the kernel: what was found, and what its buffers hold afterwards.
    pub(crate) fn run(&self, kernel: &Kernel, seed: u64) -> (Report, Vec<Vec<u8>>) {
        let mut memory = Memory::new();
        let mut launch = Launch::new([self.grid, 1, 1], [self.block, 1, 1]);
        launch.seed = seed;
        launch.dynamic_shared = self.shared;
        launch.limits.instructions = self.instructions;
        let mut buffers = Vec::new();
        for (index, argument) in self.args.iter().enumerate() {
            let bytes = if let Some((kind, value)) = argument.split_once('=') {
                element(kind, value.parse().expect("a number"))
            } else {
                let parts: Vec<_> = argument.split(':').collect();
                let &[kind, count, contents] = parts.as_slice() else { panic!("{argument}") };
                let count: u64 = count.parse().expect("a number");
                let data: Vec<u8> =
                    (0..count).flat_map(|index| element(kind, if contents == "iota" { index } else { 0 })).collect();
                let address = memory.allocate(&format!("argument {index}"), data.len(), 256);
                if contents != "none" {
                    memory.write(address, &data).expect("just allocated");
                }
                buffers.push((address, data.len()));
                address.to_le_bytes().to_vec()
            };
            launch.params.resize(launch.params.len().next_multiple_of(bytes.len()), 0);
            launch.params.extend(bytes);
        }
        let report = launch.run(kernel, &mut memory).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let bytes = buffers.into_iter().map(|(address, length)| memory.read_vec(address, length).expect("is there"));
        (report, bytes.collect())
    }
}

fn cases(source: &str) -> Vec<Case> {
    let parts = source.split("\n//@ ").skip(1);
    let parts = parts.map(|part| part.split_once('\n').expect("a kernel follows"));
    parts.map(|(line, rest)| Case::parse(name_of(rest), line)).collect()
}

fn element(kind: &str, value: u64) -> Vec<u8> {
    match kind {
        "i8" => vec![value as u8],
        "i32" | "u32" => (value as u32).to_le_bytes().to_vec(),
        "i64" | "u64" => value.to_le_bytes().to_vec(),
        "f16" => half::f16::from_f32(value as f32).to_le_bytes().to_vec(),
        "f32" => (value as f32).to_le_bytes().to_vec(),
        "f64" => (value as f64).to_le_bytes().to_vec(),
        _ => panic!("{kind}"),
    }
}

/// One of the kernels, and how it is launched.
pub(crate) fn case(source: &str, name: &str) -> (Kernel, Case) {
    let (_, text, ptx) = SOURCES.into_iter().find(|(known, ..)| *known == source).expect("there is such a source");
    let case = cases(text).into_iter().find(|case| case.name == name).expect("there is such a kernel");
    (Module::parse(ptx).expect("parses").kernel(name).expect("decodes"), case)
}

fn check(source: &str) -> Vec<String> {
    let (_, text, ptx) = SOURCES.into_iter().find(|(name, ..)| *name == source).expect("there is such a source");
    let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{source}: {error}"));
    let mut wrong = Vec::new();
    for case in cases(text) {
        let kernel = match module.kernel(&case.name) {
            Ok(kernel) => kernel,
            Err(error) => {
                wrong.push(format!("{}: {error}", case.name));
                continue;
            }
        };
        wrong.extend(case.judge(&kernel));
    }
    wrong
}

macro_rules! sources {
    ($($name:ident),+) => {
        $(#[test]
        fn $name() {
            let wrong = check(stringify!($name));
            assert!(wrong.is_empty(), "{} of them:\n{}", wrong.len(), wrong.join("\n\n"));
        })+
    };
}

sources!(order, tiles, functions, pipelines, debug, hopper);

#[test]
fn there_are_enough_of_both_kinds_and_all_are_run() {
    let (mut right, mut wrong) = (0, 0);
    for (name, text, ptx) in SOURCES {
        let module = Module::parse(ptx).unwrap_or_else(|error| panic!("{name}: {error}"));
        let cases = cases(text);
        assert_eq!(cases.len(), module.kernel_names().count(), "{name}: a kernel has no line that says what it shows");
        right += cases.iter().filter(|case| case.finds.is_empty()).count();
        wrong += cases.iter().filter(|case| !case.finds.is_empty()).count();
    }
    println!("{right} right kernels, {wrong} wrong ones");
    assert!(right >= 60 && wrong >= 60, "{right} right kernels, {wrong} wrong ones");
}
