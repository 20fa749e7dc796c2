//! Registers whose value the decoder knows beforehand give what executing their statements gives.

use ptx_interp::{Launch, Memory, Module};

/// Runs one warp of a kernel that takes a pointer and the numbers 7 and 11; what its 32 words are then.
fn run(body: &str) -> Vec<u32> {
    let text = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .align 8 .b8 p[16])\n{{\n.reg .pred %p<4>;\n\
         .reg .b32 %r<16>;\n.reg .b64 %rd<16>;\nmov.b64 %rd1, p;\nadd.s64 %rd2, %rd1, 12;\nmov.u64 %rd3, %rd2;\n\
         mov.u32 %r1, %tid.x;\n{body}\nld.param.u64 %rd8, [p];\nmul.wide.u32 %rd9, %r1, 4;\nadd.s64 %rd9, %rd8, %rd9;\n\
         st.global.u32 [%rd9], %r2;\nret;\n}}"
    );
    let kernel = Module::parse(&text).expect("parses").kernel("k").expect("decodes");
    let mut memory = Memory::new();
    let out = memory.allocate("out", 128, 256);
    let mut launch = Launch::new([1, 1, 1], [32, 1, 1]);
    launch.params = [out.to_le_bytes().as_slice(), &7u32.to_le_bytes(), &11u32.to_le_bytes()].concat();
    let report = launch.run(&kernel, &mut memory).expect("is accepted");
    assert!(report.is_clean(), "{:?}", report.findings);
    let bytes = memory.read_vec(out, 128).expect("is there");
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

#[test]
fn addresses_in_parameters_are_followed() {
    assert_eq!(run("ld.param.u32 %r2, [%rd3+-4];"), [7; 32]);
    assert_eq!(run("ld.param.u32 %r2, [%rd3];"), [11; 32]);
    // Written twice: the newest counts.
    let moved = "mov.b64 %rd4, p;\nadd.s64 %rd4, %rd4, 12;\nld.param.u32 %r2, [%rd4];";
    assert_eq!(run(moved), [11; 32]);
}

#[test]
fn a_register_that_is_written_once_without_a_guard_has_its_literal() {
    assert_eq!(run("mov.u32 %r3, 5;\nadd.u32 %r2, %r3, 1;"), [6; 32]);
    let expected: Vec<u32> = (0..32).map(|lane| if lane < 9 { 4 } else { 0 }).collect();
    let guarded = "mov.u32 %r2, 0;\nsetp.lt.u32 %p1, %r1, 9;\n@%p1 mov.u32 %r2, 4;";
    assert_eq!(run(guarded), expected);
    // By a guard alone: %r3 has no value where the guard does not hold, and is read where it does.
    let once = "setp.lt.u32 %p1, %r1, 9;\n@%p1 mov.u32 %r3, 4;\nselp.b32 %r2, %r3, 0, %p1;";
    assert_eq!(run(once), expected);
    let twice = "mov.u32 %r3, 1;\nadd.u32 %r2, %r3, 0;\nmov.u32 %r3, 2;\nadd.u32 %r2, %r2, %r3;";
    assert_eq!(run(twice), [3; 32]);
    // As part of a vector and of a pair, too.
    let unpacked = "mov.b64 %rd4, 0x300000002;\nmov.u32 %r3, 9;\nmov.b64 {%r4, %r3}, %rd4;\nmov.u32 %r2, %r3;";
    assert_eq!(run(unpacked), [3; 32]);
}

#[test]
fn butterflies_of_known_distance_exchange_lanes() {
    for (distance, clamp, members) in [(1, 31, -1), (2, 31, -1), (5, 31, -1), (16, 31, -1), (48, 31, -1), (16, 15, -1)]
    {
        let text = format!(
            "mov.u32 %r3, {distance};\nmov.u32 %r4, {clamp};\nmov.u32 %r5, {members};\n\
             shfl.sync.bfly.b32 %r6|%p1, %r1, %r3, %r4, %r5;\nselp.b32 %r2, %r6, 99, %p1;"
        );
        let source = |lane: u32| lane ^ (distance & 31);
        let expected: Vec<u32> = (0..32).map(|lane| if source(lane) <= clamp { source(lane) } else { 99 }).collect();
        assert_eq!(run(&text), expected, "{distance} {clamp}");
    }
}
