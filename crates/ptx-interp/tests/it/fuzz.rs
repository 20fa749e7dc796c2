//! Whatever the text, the parser and the decoder return; whatever the kernel, the launch ends.

use proptest::prelude::*;
use ptx_interp::Module;

use crate::fixtures::{ALL, Fixture};
use mutator::{Draws, Fate, changed_kernel, execute};

#[path = "../../examples/fuzz/mutator.rs"]
mod mutator;

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

/// The first kernels that `cargo run --example fuzz` makes. They may do anything but panic or hang, and enough of them must
/// get as far as the executor.
#[test]
fn changed_kernels_end() {
    let mut executed = 0;
    for seed in 0..400 {
        let mut draws = Draws::new(seed);
        let text = changed_kernel(&mut draws);
        executed += u32::from(execute(&text, &mut draws) == Fate::Executed);
    }
    assert!(executed > 100, "only {executed} of 400 were executed");
}
