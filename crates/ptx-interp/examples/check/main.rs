//! Checks a kernel in a PTX file with buffers and numbers from the command line.
//!
//! ```text
//! cargo run -p ptx-interp --example check -- FILE.ptx --entry NAME --grid 2 --block 128 \
//!     --buffer f32:1024:iota --buffer f32:1024 --scalar u32:7
//! ```
//!
//! `--buffer`, `--scalar` and `--struct` are the kernel's parameters, in order. It exits with 1 if there are findings and
//! with 2 if nothing could be checked.

mod arguments;
mod outcome;

use std::io::Write as _;
use std::process::ExitCode;

use arguments::{Argument, Placed, number, sides};
use outcome::Outcome;
use ptx_interp::{Kernel, Launch, Memory, Module};

const USAGE: &str = "\
usage: check FILE.ptx [options]
  --entry NAME        the kernel; the only one if there is no other
  --grid X[,Y[,Z]]    blocks (1)
  --block X[,Y[,Z]]   threads of a block (what the kernel was compiled for, or 32)
  --cluster X[,Y[,Z]] blocks of a cluster
  --shared BYTES      dynamic shared memory (0)
  --seed N            chooses the schedule (0)
  --seeds N           runs N schedules from --seed on (1)
  --limit N           warp instructions before a launch counts as endless (200000000)
  --buffer TYPE:COUNT[:CONTENTS]
                      a pointer parameter: TYPE is u8, i8, u16, u32, i32, u64, i64, f16, bf16, f32 or f64;
                      CONTENTS is none (never written), zero, one, iota or random (zero)
  --scalar TYPE:VALUE a parameter by value
  --struct MEMBER,... a structure by value: a member is TYPE=VALUE, or TYPE:COUNT[:CONTENTS] for a pointer
  --coverage          names the instructions that no thread has executed
  --show N            prints the first N elements of every buffer afterwards";

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::from(2)
        }
    }
}

/// What the command line asks for.
struct Request {
    file: String,
    entry: Option<String>,
    grid: [u32; 3],
    block: Option<[u32; 3]>,
    cluster: Option<[u32; 3]>,
    shared: u32,
    seed: u64,
    seeds: u64,
    limit: u64,
    arguments: Vec<Argument>,
    coverage: bool,
    show: usize,
}

impl Request {
    /// None where only help was asked for.
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut request = Self {
            file: String::new(),
            entry: None,
            grid: [1; 3],
            block: None,
            cluster: None,
            shared: 0,
            seed: 0,
            seeds: 1,
            limit: 200_000_000,
            arguments: Vec::new(),
            coverage: false,
            show: 0,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--entry" => request.entry = Some(value()?),
                "--grid" => request.grid = sides(&value()?)?,
                "--block" => request.block = Some(sides(&value()?)?),
                "--cluster" => request.cluster = Some(sides(&value()?)?),
                "--shared" => request.shared = number(&value()?)?,
                "--seed" => request.seed = number(&value()?)?,
                "--seeds" => request.seeds = number(&value()?)?,
                "--limit" => request.limit = number(&value()?)?,
                "--show" => request.show = number(&value()?)?,
                "--buffer" => request.arguments.push(Argument::buffer(&value()?)?),
                "--scalar" => request.arguments.push(Argument::scalar(&value()?)?),
                "--struct" => request.arguments.push(Argument::structure(&value()?)?),
                "--coverage" => request.coverage = true,
                option if option.starts_with('-') => return Err(format!("there is no option {option}\n{USAGE}")),
                _ if request.file.is_empty() => request.file = word,
                _ => return Err(format!("one file is enough, and `{word}` is another\n{USAGE}")),
            }
        }
        if request.file.is_empty() {
            return Err(format!("a PTX file is missing\n{USAGE}"));
        }
        if request.seeds == 0 {
            return Err("--seeds 0 checks nothing".into());
        }
        Ok(Some(request))
    }

    fn kernel(&self) -> Result<Kernel, String> {
        let file = &self.file;
        let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let module = Module::parse(&text).map_err(|error| format!("{file}: {error}"))?;
        let names: Vec<_> = module.kernel_names().collect();
        let entry = match (&self.entry, names.as_slice()) {
            (Some(entry), _) => entry.as_str(),
            (None, [only]) => only,
            (None, []) => return Err(format!("{file} has no kernel")),
            (None, names) => return Err(format!("--entry is missing; {file} has {}", names.join(", "))),
        };
        let kernel = module.kernel(entry).map_err(|error| format!("{file}: {error}"))?;
        let (taken, given) = (kernel.parameters(), self.arguments.len());
        if given != taken.len() {
            let wanted: Vec<_> = taken.iter().map(|it| format!("{} ({})", it.name, advice(it.size))).collect();
            let wanted = if wanted.is_empty() { "none".into() } else { wanted.join(", ") };
            return Err(format!("`{entry}` takes {} parameters, {given} are given: {wanted}", taken.len()));
        }
        Ok(kernel)
    }

    /// One launch; what the buffers hold afterwards is shown if that was asked for.
    fn launch(&self, kernel: &Kernel, seed: u64, outcome: &mut Outcome) -> Result<(), String> {
        let mut memory = Memory::new();
        let block = self.block.or(kernel.max_threads()).unwrap_or([32, 1, 1]);
        let mut launch = Launch::new(self.grid, block);
        (launch.cluster, launch.dynamic_shared, launch.seed) = (self.cluster, self.shared, seed);
        (launch.limits.instructions, launch.coverage) = (self.limit, true);
        launch.params = vec![0; kernel.parameter_bytes()];
        let mut buffers: Vec<Placed> = Vec::new();
        for (parameter, argument) in kernel.parameters().iter().zip(&self.arguments) {
            let bytes = argument.place(&parameter.name, &mut memory, &mut buffers)?;
            if bytes.len() != parameter.size {
                let (name, given) = (&parameter.name, bytes.len());
                return Err(format!("parameter {name} has {}, {given} bytes are given", advice(parameter.size)));
            }
            launch.params[parameter.offset..parameter.offset + bytes.len()].copy_from_slice(&bytes);
        }
        outcome.add(launch.run(kernel, &mut memory).map_err(|error| error.to_string())?);
        for Placed { name, address, kind, count } in buffers.iter().filter(|_| self.show > 0) {
            let shown = memory.read_vec(*address, self.show.min(*count) * kind.bytes());
            let shown = shown.map_err(|error| error.to_string())?;
            let shown: Vec<_> = shown.chunks_exact(kind.bytes()).map(|bytes| kind.show(bytes)).collect();
            say(format_args!("{name}: {}", shown.join(" ")));
        }
        Ok(())
    }
}

/// Prints without a panic where a pipe's reader has gone: nothing is lost that anybody would have read.
fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A parameter's size, and which options give so many bytes.
fn advice(bytes: usize) -> String {
    match bytes {
        8 => "8 bytes: --buffer TYPE:COUNT, or --scalar u64:VALUE".into(),
        4 => "4 bytes: --scalar u32:VALUE or f32:VALUE".into(),
        1 | 2 => format!("{bytes} bytes: --scalar u{}:VALUE", 8 * bytes),
        _ => format!("{bytes} bytes: --struct MEMBER,..."),
    }
}

fn run(words: impl Iterator<Item = String>) -> Result<bool, String> {
    let Some(request) = Request::parse(words)? else {
        say(USAGE);
        return Ok(true);
    };
    let kernel = request.kernel()?;
    for unsupported in kernel.unsupported() {
        eprintln!("note: {unsupported}; a thread that gets there stops the check");
    }
    let mut outcome = Outcome::default();
    for seed in request.seed..request.seed.saturating_add(request.seeds) {
        request.launch(&kernel, seed, &mut outcome)?;
    }
    let findings = outcome.findings();
    if !findings.is_empty() {
        say(findings);
    }
    let gaps = outcome.gaps();
    if request.coverage {
        gaps.iter().for_each(say);
    } else if !gaps.is_empty() {
        say(format_args!("note: no thread has executed {} of the instructions; --coverage names them", gaps.len()));
    }
    say(outcome.summary(kernel.name()));
    Ok(outcome.is_clean())
}

#[cfg(test)]
mod tests {
    use super::{Argument, Memory, Outcome, Request, run};

    fn check(arguments: &str) -> Result<bool, String> {
        run(arguments.split_whitespace().map(str::to_string))
    }

    const ORDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/order.ptx");

    #[test]
    fn right_and_wrong_kernels_are_told_apart() {
        let launch = "--grid 4 --block 64 --buffer i32:256:iota --buffer i32:8";
        assert_eq!(check(&format!("{ORDER} --entry histogram {launch} --seeds 3 --show 4 --coverage")), Ok(true));
        assert_eq!(check(&format!("{ORDER} --entry histogram_without_atomics {launch}")), Ok(false));
    }

    #[test]
    fn errors_are_sentences() {
        let error = |arguments: &str| check(arguments).expect_err("is refused");
        assert!(error("").starts_with("a PTX file is missing"));
        assert!(error("nowhere.ptx").starts_with("nowhere.ptx: "));
        assert!(error(ORDER).contains("--entry is missing; "));
        assert!(error(&format!("{ORDER} --entry nothing")).contains("no kernel `nothing` in the module; it has "));
        assert!(error(&format!("{ORDER} --entry histogram")).contains("takes 2 parameters, 0 are given"));
        assert!(error("x --buffer f31:4").contains("`f31` is not a type"));
        assert!(error("x --grid").contains("--grid needs a value"));
        let few = format!("{ORDER} --entry histogram --buffer i32:4 --scalar u32:5");
        assert!(error(&few).contains("has 8 bytes: --buffer TYPE:COUNT, or"), "{}", error(&few));
        assert!(error(&few).ends_with("4 bytes are given"), "{}", error(&few));
        assert!(error(&format!("{ORDER} --seeds 0")).contains("checks nothing"));
    }

    #[test]
    fn structures_are_laid_out_as_in_c() {
        let llvm = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/llvm.ptx");
        let launch = format!("{llvm} --entry polynomials --block 32 --buffer f32:32:iota");
        let members =
            format!("{llvm} --entry polynomials --block 32 --struct i32=3,f32=1,f32=2,f32=3 --buffer f32:32:iota");
        assert_eq!(check(&members), Ok(true));
        assert!(check(&launch).expect_err("is refused").contains("16 bytes: --struct"));
        let placed = |text: &str| {
            let argument = Argument::structure(text).expect("is one");
            argument.place("p", &mut Memory::new(), &mut Vec::new()).expect("fits").len()
        };
        assert_eq!(placed("u8=1,u32=2"), 8);
        assert_eq!(placed("f32:8:iota,i32=3,f32=1"), 16);
        assert_eq!(placed("f32:8,u8=3"), 16);
    }

    #[test]
    fn one_mistake_is_told_once_for_all_runs() {
        let kernel = Request::parse(
            format!("{ORDER} --entry lock_without_fences --grid 2 --block 32 --buffer i32:1 --buffer i32:1")
                .split_whitespace()
                .map(str::to_string),
        );
        let request = kernel.expect("is right").expect("is a request");
        let kernel = request.kernel().expect("is there");
        let mut outcome = Outcome::default();
        for seed in 0..8 {
            request.launch(&kernel, seed, &mut outcome).expect("runs");
        }
        assert!(!outcome.is_clean());
        let told = outcome.findings();
        let first = told.lines().next().unwrap_or_default();
        assert!(first.starts_with("error: race in global memory: "), "{told}");
        let heads = told.lines().filter(|line| line.starts_with("  --> ") || line.starts_with("  ::: "));
        let heads: Vec<_> = heads.collect();
        assert!(
            heads.chunks(2).enumerate().all(|(at, pair)| !heads.chunks(2).take(at).any(|known| known == pair)),
            "{told}"
        );
        assert!(outcome.summary("k").starts_with("k: 8 runs, "), "{}", outcome.summary("k"));
    }
}
