//! Kernels of the corpus with a few changes, and what becomes of them: parsed, decoded, executed.

use ptx_interp::{Launch, Memory, Module};

/// Texts that compilers have made: calls, variables of modules, tensor copies, clusters, locks and others.
const CORPUS: [&str; 12] = [
    include_str!("../../tests/kernels/order.ptx"),
    include_str!("../../tests/kernels/tiles.ptx"),
    include_str!("../../tests/kernels/functions.ptx"),
    include_str!("../../tests/kernels/pipelines.ptx"),
    include_str!("../../tests/kernels/hopper.ptx"),
    include_str!("../../tests/kernels/debug.ptx"),
    include_str!("../../tests/kernels/llvm.ptx"),
    include_str!("../../tests/kernels/triton/product.ptx"),
    include_str!("../../tests/kernels/triton/product_of_tensors.ptx"),
    include_str!("../../tests/fixtures/wmma_product.ptx"),
    include_str!("../../tests/fixtures/mma_product.ptx"),
    include_str!("../../tests/fixtures/cluster_exchange.ptx"),
];

/// Numbers at which something may change.
const NUMBERS: [&str; 18] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "15",
    "16",
    "31",
    "32",
    "33",
    "255",
    "1024",
    "65535",
    "2147483647",
    "4294967295",
    "0x7fffffffffffffff",
    "18446744073709551615",
];

/// Qualifiers and types, any of which may stand where another one does.
const QUALIFIERS: [&str; 44] = [
    "u8", "s16", "b16", "u32", "s32", "b32", "f32", "u64", "s64", "b64", "f64", "f16", "f16x2", "bf16", "pred",
    "global", "shared", "local", "param", "const", "v2", "v4", "relaxed", "acquire", "release", "acq_rel", "volatile",
    "cta", "cluster", "gpu", "sys", "sync", "aligned", "nc", "wide", "hi", "lo", "sat", "ftz", "rn", "rz", "uni", "x4",
    "trans",
];

/// Numbers from a seed.
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below another; 0 below 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn of<'t>(&mut self, all: &[&'t str]) -> &'t str {
        all[self.below(all.len())]
    }
}

/// Where the kernels of a text begin: its lines before the first, and each kernel's.
fn kernels(text: &str) -> (Vec<&str>, Vec<Vec<&str>>) {
    let (mut before, mut found): (_, Vec<Vec<&str>>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let starts = line.contains(".entry");
        match found.last_mut() {
            _ if starts => found.push(vec![line]),
            Some(kernel) => kernel.push(line),
            None => before.push(line),
        }
    }
    (before, found)
}

/// One kernel of the corpus, changed.
pub(crate) fn changed_kernel(draws: &mut Draws) -> String {
    let text = draws.of(&CORPUS);
    let (mut lines, mut found) = kernels(text);
    let chosen = draws.below(found.len());
    lines.append(&mut found[chosen]);
    let mut lines: Vec<String> = lines.into_iter().map(str::to_string).collect();
    for _ in 0..1 + draws.below(12) {
        if lines.is_empty() {
            break;
        }
        change(&mut lines, draws);
    }
    let mut text = lines.join("\n");
    if draws.below(32) == 0 {
        noise(&mut text, draws);
    }
    text
}

/// A change that leaves the line one that may mean something, mostly.
fn change(lines: &mut Vec<String>, draws: &mut Draws) {
    // Mostly statements: a header that does not parse hides everything behind it.
    let is_statement = |line: &String| line.ends_with(';') && !line.trim_start().starts_with(['.', '{', '(', ')', '/']);
    let statements: Vec<usize> = (0..lines.len()).filter(|&at| is_statement(&lines[at])).collect();
    let at = match statements.get(draws.below(statements.len())) {
        Some(&at) if draws.below(64) > 0 => at,
        _ => draws.below(lines.len()),
    };
    let line = lines[at].clone();
    match draws.below(10) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, line),
        2 => {
            let other = draws.below(lines.len());
            lines.swap(at, other);
        }
        // A line of another text of the corpus.
        3 => {
            let other = draws.of(&CORPUS);
            let rest = &other[floor(other, draws.below(other.len()))..];
            lines.extend(
                rest.lines().skip(1).find(|line| line.starts_with('\t') && line.ends_with(';')).map(str::to_string),
            );
            let last = lines.len() - 1;
            lines[at..].rotate_right(usize::from(last > at));
        }
        4 => replace_number(&mut lines[at], draws),
        5 => {
            let with = char::from(b'0' + draws.below(10) as u8).to_string();
            replace_at(&mut lines[at], |character| character.is_ascii_digit(), &with, draws);
        }
        6 => change_qualifier(&mut lines[at], draws),
        7 => {
            // Two operands change places.
            let Some((opcode, operands)) = line.trim_end_matches(';').rsplit_once('\t') else { return };
            let mut parts: Vec<&str> = operands.split(", ").collect();
            let (left, right) = (draws.below(parts.len()), draws.below(parts.len()));
            parts.swap(left, right);
            lines[at] = format!("{opcode}\t{};", parts.join(", "));
        }
        8 => {
            let guard = if draws.below(2) == 0 { "@%p1 " } else { "@!%p2 " };
            lines[at] = format!("{guard}{}", line.trim_start());
        }
        _ => {
            // A stretch of lines goes, or comes twice.
            let most = (at + 1 + draws.below(12)).min(lines.len());
            let end = (at..most).find(|&line| !lines[line].ends_with(';')).unwrap_or(most).max(at + 1);
            let stretch: Vec<String> = lines.drain(at..end).collect();
            if draws.below(2) == 0 && !statements.is_empty() {
                let to = statements[draws.below(statements.len())].min(lines.len());
                lines.splice(to..to, stretch.iter().chain(&stretch).cloned());
            }
        }
    }
}

fn floor(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn replace_at(line: &mut String, fits: impl Fn(char) -> bool, with: &str, draws: &mut Draws) {
    let places: Vec<usize> = line.char_indices().filter(|(_, character)| fits(*character)).map(|(at, _)| at).collect();
    if let Some(&at) = places.get(draws.below(places.len())) {
        line.replace_range(at..=at, with);
    }
}

fn replace_number(line: &mut String, draws: &mut Draws) {
    let starts: Vec<usize> = (0..line.len())
        .filter(|&at| {
            let bytes = line.as_bytes();
            bytes[at].is_ascii_digit() && at > 0 && matches!(bytes[at - 1], b' ' | b'[' | b'+' | b'\t' | b'{' | b'-')
        })
        .collect();
    let Some(&start) = starts.get(draws.below(starts.len())) else { return };
    let length = line[start..].find(|character: char| !character.is_ascii_alphanumeric());
    let end = length.map_or(line.len(), |length| start + length);
    line.replace_range(start..end, draws.of(&NUMBERS));
}

/// Another qualifier, one more, or one less.
fn change_qualifier(line: &mut String, draws: &mut Draws) {
    let dots: Vec<usize> = line.match_indices('.').map(|(index, _)| index).collect();
    let Some(&start) = dots.get(draws.below(dots.len())) else { return };
    let length = line[start + 1..].find(|character: char| !character.is_ascii_alphanumeric());
    let end = length.map_or(line.len(), |length| start + 1 + length);
    let with = format!(".{}", draws.of(&QUALIFIERS));
    match draws.below(3) {
        0 => line.replace_range(start..end, ""),
        1 => line.replace_range(start..end, &with),
        _ => line.insert_str(start, &with),
    }
}

/// Bytes that mean nothing.
fn noise(text: &mut String, draws: &mut Draws) {
    for _ in 0..1 + draws.below(8) {
        let at = floor(text, draws.below(text.len()));
        let character = char::from(draws.below(128) as u8);
        match draws.below(3) {
            0 => text.insert(at, character),
            1 if at < text.len() => drop(text.remove(at)),
            _ => text.truncate(text.len().saturating_sub(draws.below(40))),
        }
        if !text.is_char_boundary(text.len()) || text.is_empty() {
            return;
        }
    }
}

/// What a text has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Unparsed,
    Undecoded,
    Refused,
    Executed,
}

/// Parses a text, decodes its first kernel, and runs it on a few small buffers, whatever it takes.
pub(crate) fn execute(text: &str, draws: &mut Draws) -> Fate {
    let Ok(module) = Module::parse(text) else { return Fate::Unparsed };
    let Some(name) = module.kernel_names().next().map(str::to_string) else { return Fate::Unparsed };
    let Ok(kernel) = module.kernel(&name) else { return Fate::Undecoded };
    let _ = (kernel.unsupported().len(), kernel.parameters().len());
    let mut memory = Memory::new();
    let threads = [1, 32, 64, 64, 100, 128][draws.below(6)];
    let mut launch = Launch::new([1 + draws.below(3) as u32, 1, 1], [threads, 1, 1]);
    launch.cluster = kernel.required_cluster();
    if let Some([x, y, z]) = launch.cluster {
        launch.grid = [x.clamp(1, 8), y.clamp(1, 2), z.clamp(1, 2)];
    }
    launch.params = vec![0; kernel.parameter_bytes()];
    for parameter in kernel.parameters() {
        let place = &mut launch.params[parameter.offset..parameter.offset + parameter.size];
        if parameter.size == 8 {
            let address = memory.allocate(&parameter.name, 512, 256);
            let fill = draws.below(4) as u8;
            if fill < 3 {
                memory.fill(address, 512, fill).expect("just allocated");
            }
            place.copy_from_slice(&address.to_le_bytes());
        } else if parameter.size == 4 {
            place[0] = draws.below(40) as u8;
        }
    }
    launch.seed = draws.next();
    launch.dynamic_shared = [0, 1024, 65_536][draws.below(3)];
    launch.coverage = draws.below(2) == 0;
    launch.limits.instructions = 20_000;
    launch.limits.local_bytes_per_thread = 4096;
    let Ok(report) = launch.run(&kernel, &mut memory) else { return Fate::Refused };
    report.findings.iter().for_each(|finding| drop(finding.to_string()));
    if let Some(coverage) = report.coverage {
        let _ = (coverage.blocks(), coverage.branches(), coverage.loops(), coverage.instructions().count());
    }
    Fate::Executed
}
