//! Checks a kernel in a PTX file with buffers and numbers from the command line.
//!
//! ```text
//! cargo run -p ptx-interp --example check -- FILE.ptx --entry NAME --grid 2 --block 128 \
//!     --buffer f32:1024:iota --buffer f32:1024 --scalar u32:7
//! ```
//!
//! `--buffer` and `--scalar` are the kernel's parameters, in order. It exits with 1 if there are findings and with 2 if
//! nothing could be checked.

use std::process::ExitCode;

use ptx_interp::{Launch, Memory, Module};

const USAGE: &str = "\
usage: check FILE.ptx [options]
  --entry NAME        the kernel; the only one if there is no other
  --grid X[,Y[,Z]]    blocks (1)
  --block X[,Y[,Z]]   threads of a block (32)
  --cluster X[,Y[,Z]] blocks of a cluster
  --shared BYTES      dynamic shared memory (0)
  --seed N            chooses the schedule (0)
  --seeds N           runs N schedules from --seed on (1)
  --limit N           warp instructions before a launch counts as endless
  --buffer TYPE:COUNT[:CONTENTS]
                      a pointer parameter: TYPE is u8, i8, u16, u32, i32, u64, i64, f16, bf16, f32 or f64;
                      CONTENTS is none (never written), zero, one, iota or random (zero)
  --scalar TYPE:VALUE a parameter by value
  --coverage          says which lines no thread has executed
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

/// A kernel parameter as it was asked for.
enum Argument {
    Buffer { kind: Kind, count: usize, contents: String },
    Scalar(Vec<u8>),
}

#[derive(Clone, Copy)]
enum Kind {
    Integer(usize),
    Half,
    BrainHalf,
    Single,
    Double,
}

impl Kind {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "u8" | "i8" => Self::Integer(1),
            "u16" | "i16" => Self::Integer(2),
            "u32" | "i32" => Self::Integer(4),
            "u64" | "i64" => Self::Integer(8),
            "f16" => Self::Half,
            "bf16" => Self::BrainHalf,
            "f32" => Self::Single,
            "f64" => Self::Double,
            _ => return Err(format!("`{name}` is not a type; u32, i32, f16, f32 and others are")),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::Integer(bytes) => bytes,
            Self::Half | Self::BrainHalf => 2,
            Self::Single => 4,
            Self::Double => 8,
        }
    }

    fn encode(self, value: f64) -> Vec<u8> {
        match self {
            Self::Integer(bytes) => (value as i64).to_le_bytes()[..bytes].to_vec(),
            Self::Half => half::f16::from_f64(value).to_le_bytes().to_vec(),
            Self::BrainHalf => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            Self::Single => (value as f32).to_le_bytes().to_vec(),
            Self::Double => value.to_le_bytes().to_vec(),
        }
    }

    fn show(self, bytes: &[u8]) -> String {
        let mut wide = [0; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::Integer(bytes) => {
                let unused = 64 - 8 * bytes as u32;
                ((bits << unused) as i64 >> unused).to_string()
            }
            Self::Half => half::f16::from_bits(bits as u16).to_string(),
            Self::BrainHalf => half::bf16::from_bits(bits as u16).to_string(),
            Self::Single => f32::from_bits(bits as u32).to_string(),
            Self::Double => f64::from_bits(bits).to_string(),
        }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("`{text}` is not a number that fits here"))
}

fn sides(text: &str) -> Result<[u32; 3], String> {
    let mut sides = [1; 3];
    let parts: Vec<_> = text.split(',').collect();
    if parts.len() > 3 {
        return Err(format!("`{text}` has more than three sides"));
    }
    for (side, part) in sides.iter_mut().zip(parts) {
        *side = number(part)?;
    }
    Ok(sides)
}

fn buffer(text: &str) -> Result<Argument, String> {
    let parts: Vec<_> = text.split(':').collect();
    let (kind, count, contents) = match *parts.as_slice() {
        [kind, count] => (kind, count, "zero"),
        [kind, count, contents] => (kind, count, contents),
        _ => return Err(format!("`{text}` is not TYPE:COUNT or TYPE:COUNT:CONTENTS")),
    };
    if !["none", "zero", "one", "iota", "random"].contains(&contents) {
        return Err(format!("`{contents}` is none of none, zero, one, iota and random"));
    }
    Ok(Argument::Buffer { kind: Kind::parse(kind)?, count: number(count)?, contents: contents.into() })
}

fn scalar(text: &str) -> Result<Argument, String> {
    let (kind, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not TYPE:VALUE"))?;
    let kind = Kind::parse(kind)?;
    if let Kind::Integer(bytes) = kind {
        let value: i128 = number(value)?;
        return Ok(Argument::Scalar(value.to_le_bytes()[..bytes].to_vec()));
    }
    Ok(Argument::Scalar(kind.encode(number(value)?)))
}

fn fill(kind: Kind, count: usize, contents: &str) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let value = |index: usize| match contents {
        "iota" => index as f64,
        "one" => 1.0,
        "random" => {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let unit = (state >> 11) as f64 / (1u64 << 53) as f64;
            if matches!(kind, Kind::Integer(_)) { (unit * 100.0).floor() } else { 2.0 * unit - 1.0 }
        }
        _ => 0.0,
    };
    (0..count).map(value).flat_map(|value| kind.encode(value)).collect()
}

fn run(mut words: impl Iterator<Item = String>) -> Result<bool, String> {
    let (mut file, mut entry, mut cluster) = (None, None, None);
    let (mut grid, mut block, mut shared) = ([1, 1, 1], [32, 1, 1], 0);
    let (mut seed, mut seeds, mut limit, mut show, mut coverage) = (0u64, 1u64, None, 0usize, false);
    let mut arguments = Vec::new();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(true);
            }
            "--entry" => entry = Some(value()?),
            "--grid" => grid = sides(&value()?)?,
            "--block" => block = sides(&value()?)?,
            "--cluster" => cluster = Some(sides(&value()?)?),
            "--shared" => shared = number(&value()?)?,
            "--seed" => seed = number(&value()?)?,
            "--seeds" => seeds = number(&value()?)?,
            "--limit" => limit = Some(number(&value()?)?),
            "--show" => show = number(&value()?)?,
            "--buffer" => arguments.push(buffer(&value()?)?),
            "--scalar" => arguments.push(scalar(&value()?)?),
            "--coverage" => coverage = true,
            option if option.starts_with('-') => return Err(format!("there is no option {option}\n{USAGE}")),
            _ if file.is_none() => file = Some(word),
            _ => return Err(format!("one file is enough, and `{word}` is another\n{USAGE}")),
        }
    }
    let file = file.ok_or_else(|| format!("a PTX file is missing\n{USAGE}"))?;
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let module = Module::parse(&text).map_err(|error| format!("{file}: {error}"))?;
    let names: Vec<_> = module.kernel_names().map(str::to_string).collect();
    let entry = match (entry, names.as_slice()) {
        (Some(entry), _) => entry,
        (None, [only]) => only.clone(),
        (None, names) => return Err(format!("--entry is missing; {file} has {}", names.join(", "))),
    };
    let kernel = module.kernel(&entry).map_err(|error| format!("{file}: {error}"))?;
    for unsupported in kernel.unsupported() {
        eprintln!("note: {unsupported}; a thread that gets there stops the check");
    }
    if arguments.len() != kernel.parameters().len() {
        let wanted: Vec<_> = kernel.parameters().iter().map(|it| format!("{} ({} bytes)", it.name, it.size)).collect();
        let wanted = if wanted.is_empty() { "none".into() } else { wanted.join(", ") };
        return Err(format!(
            "`{entry}` takes {} parameters, {} are given: {wanted}",
            kernel.parameters().len(),
            arguments.len()
        ));
    }
    let (mut clean, mut covered) = (true, None::<ptx_interp::Coverage>);
    for seed in seed..seed.saturating_add(seeds) {
        let mut memory = Memory::new();
        let mut launch = Launch::new(grid, block);
        (launch.cluster, launch.dynamic_shared, launch.seed, launch.coverage) = (cluster, shared, seed, coverage);
        if let Some(limit) = limit {
            launch.limits.instructions = limit;
        }
        launch.params = vec![0; kernel.parameter_bytes()];
        let mut buffers = Vec::new();
        for (parameter, argument) in kernel.parameters().iter().zip(&arguments) {
            let bytes = match argument {
                Argument::Scalar(bytes) => bytes.clone(),
                Argument::Buffer { kind, count, contents } => {
                    let size = count.checked_mul(kind.bytes()).filter(|size| *size <= 1 << 32);
                    let size = size.ok_or_else(|| format!("{}: {count} elements are too many", parameter.name))?;
                    let address = memory.allocate(&parameter.name, size, 256);
                    if contents != "none" {
                        memory.write(address, &fill(*kind, *count, contents)).map_err(|error| error.to_string())?;
                    }
                    buffers.push((parameter.name.clone(), address, *kind, *count));
                    address.to_le_bytes().to_vec()
                }
            };
            if bytes.len() != parameter.size {
                return Err(format!(
                    "parameter {} has {} bytes, {} are given",
                    parameter.name,
                    parameter.size,
                    bytes.len()
                ));
            }
            launch.params[parameter.offset..parameter.offset + bytes.len()].copy_from_slice(&bytes);
        }
        let report = launch.run(&kernel, &mut memory).map_err(|error| error.to_string())?;
        for finding in &report.findings {
            println!("{finding}\n");
        }
        clean &= report.is_clean();
        for (name, address, kind, count) in buffers.iter().filter(|_| show > 0) {
            let shown =
                memory.read_vec(*address, show.min(*count) * kind.bytes()).map_err(|error| error.to_string())?;
            let shown: Vec<_> = shown.chunks_exact(kind.bytes()).map(|bytes| kind.show(bytes)).collect();
            println!("{name}: {}", shown.join(" "));
        }
        match (&mut covered, report.coverage) {
            (Some(all), Some(part)) => {
                all.merge(&part);
            }
            (all, part) => *all = part,
        }
    }
    if let Some(covered) = covered {
        for line in covered.instructions().filter(|line| line.executed + line.skipped == 0) {
            let source = line.source.map_or_else(String::new, |source| format!(" ({source})"));
            println!("never executed: PTX line {}{source}: {}", line.ptx_line, line.ptx);
        }
    }
    println!("{entry}: {}", if clean { "no finding" } else { "there are findings" });
    Ok(clean)
}

#[cfg(test)]
mod tests {
    use super::run;

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
        assert!(error(&few).contains("has 8 bytes, 4 are given"), "{}", error(&few));
    }
}
