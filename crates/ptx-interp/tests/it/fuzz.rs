//! Whatever the text, the parser and the decoder return; whatever the kernel, the launch ends.

use proptest::prelude::*;
use ptx_interp::{Launch, Memory, Module};

use crate::fixtures::{ALL, Fixture};

fn decode_all(text: &str) {
    if let Ok(module) = Module::parse(text) {
        let names: Vec<String> = module.kernel_names().map(str::to_string).collect();
        for name in names {
            let _ = module.kernel(&name);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let text = String::from_utf8_lossy(&bytes);
        decode_all(&text);
        decode_all(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry k() {{ {text} }}"));
    }

    #[test]
    fn random_tokens_never_panic(tokens in proptest::collection::vec(
        prop::sample::select(vec![".reg", ".b32", "%r<4>", "%r1", ";", ",", "[", "]", "{", "}", "@", "!", "add.s32", "ld.global.v4.f32",
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32", "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16", "mov.b64", "bra", "L:", "L",
            "1", "-1", "0x7fffffffffffffff", "0f3f800000", ".shared", ".align", "x[4]", ".param", ".loc", ".file", "\"a\"", "%tid.x", "_", "|", "+",
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group", "setp.lt.and.s32", "atom.global.add.f32", "<", ">", "(", ")", ".entry", "=", "\n"]), 0..60)) {
        let text = tokens.join(" ");
        decode_all(&text);
        decode_all(&format!(".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 p) {{ .reg .b32 %r<4>; {text} ; ret; }}"));
    }

    #[test]
    fn mutated_kernels_never_panic(which in 0..ALL.len(), cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6)) {
        let mut bytes = ALL[which].ptx().as_bytes().to_vec();
        for (index, byte, action) in cuts {
            let at = index.index(bytes.len());
            match action {
                0 => bytes[at] = byte & 0x7f,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, byte & 0x7f),
                _ => {
                    let other = (at * 7 + 13) % bytes.len();
                    bytes.swap(at, other);
                }
            }
        }
        decode_all(&String::from_utf8_lossy(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Kernels with a statement missing may do anything but panic or hang.
    #[test]
    fn kernels_with_a_line_missing_end(line in any::<prop::sample::Index>(), seed in 0u64..4) {
        let ptx = Fixture::PipelinedSums.ptx();
        let lines: Vec<&str> = ptx.lines().collect();
        let gone = line.index(lines.len());
        let text: Vec<&str> = lines.iter().enumerate().filter(|(index, _)| *index != gone).map(|(_, line)| *line).collect();
        let text = text.join("\n");
        if let Ok(module) = Module::parse(&text) && module.kernel("pipelined_sums").is_ok_and(|kernel| kernel.parameter_bytes() == 20) {
            let _ = Fixture::PipelinedSums.run_with(&text, seed, |launch| launch.limits.instructions = 200_000);
        }
    }
}

/// Every text of the corpus.
const CORPUS: [&str; 5] = [
    include_str!("../kernels/order.ptx"),
    include_str!("../kernels/tiles.ptx"),
    include_str!("../kernels/functions.ptx"),
    include_str!("../kernels/pipelines.ptx"),
    include_str!("../kernels/hopper.ptx"),
];

/// Runs one kernel of a text on a few small buffers, whatever it takes.
fn execute(text: &str, which: usize, seed: u64) {
    let Ok(module) = Module::parse(text) else { return };
    let names: Vec<_> = module.kernel_names().map(str::to_string).collect();
    let Some(name) = names.get(which % names.len().max(1)) else { return };
    let Ok(kernel) = module.kernel(name) else { return };
    let mut memory = Memory::new();
    let mut launch = Launch::new([2, 1, 1], [64, 1, 1]);
    launch.cluster = kernel.required_cluster();
    if let Some([x, ..]) = launch.cluster {
        launch.grid[0] = x.clamp(1, 8);
    }
    launch.params = vec![0; kernel.parameter_bytes()];
    for parameter in kernel.parameters().iter().filter(|parameter| parameter.size == 8) {
        let address = memory.allocate(&parameter.name, 256, 256);
        memory.fill(address, 256, 1).expect("just allocated");
        launch.params[parameter.offset..parameter.offset + 8].copy_from_slice(&address.to_le_bytes());
    }
    launch.seed = seed;
    launch.coverage = true;
    launch.limits.instructions = 20_000;
    launch.limits.local_bytes_per_thread = 4096;
    if let Ok(report) = launch.run(&kernel, &mut memory) {
        report.findings.iter().for_each(|finding| drop(finding.to_string()));
        let coverage = report.coverage.expect("it was asked for");
        let _ = (coverage.blocks(), coverage.branches(), coverage.loops(), coverage.instructions().count());
    }
}

/// Changes of a line that leave it a line: other numbers, other operands, a qualifier less, another place.
fn changed(lines: &mut Vec<String>, at: usize, action: u8, with: usize) {
    let line = lines[at].clone();
    match action {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, line),
        2 => {
            let other = with % lines.len();
            lines.swap(at, other);
        }
        3 => {
            // Another register of the same family, or another number.
            let digits: Vec<_> = line.char_indices().filter(|(_, character)| character.is_ascii_digit()).collect();
            if let Some((index, _)) = digits.get(with % digits.len().max(1)) {
                let digit = char::from(b'0' + (with % 10) as u8);
                lines[at] = format!("{}{digit}{}", &line[..*index], &line[index + 1..]);
            }
        }
        4 => {
            let dots: Vec<_> = line.match_indices('.').map(|(index, _)| index).collect();
            if let Some(start) = dots.get(with % dots.len().max(1)) {
                let length = line[start + 1..].find(|character: char| !character.is_ascii_alphanumeric());
                let end = length.map_or(line.len(), |length| start + 1 + length);
                lines[at] = format!("{}{}", &line[..*start], &line[end..]);
            }
        }
        _ => {
            let parts: Vec<_> = line.split(", ").collect();
            if parts.len() > 2 {
                let mut parts = parts;
                let last = parts.len() - 1;
                parts.swap(1 + with % (last - 1).max(1), last);
                lines[at] = parts.join(", ");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Changed kernels of the corpus go through parser, decoder and executor, and may do anything but panic or hang.
    #[test]
    fn changed_kernels_end(
        text in 0..CORPUS.len(),
        which in 0usize..64,
        seed in 0u64..4,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..6, any::<prop::sample::Index>()), 1..24),
    ) {
        let mut lines: Vec<String> = CORPUS[text].lines().map(str::to_string).collect();
        for (at, action, with) in changes {
            let at = at.index(lines.len());
            changed(&mut lines, at, action, with.index(usize::MAX));
        }
        execute(&lines.join("\n"), which, seed);
    }
}
