//! What an mbarrier forbids: each mistake in a small text, beside the same text without it.

use ptx_interp::{FindingKind, Launch, Memory, Module, Report};

/// One block, or a cluster, of one warp each; `cells` has room for mbarriers.
fn run(body: &str, blocks: u32) -> Report {
    let text = format!(
        ".version 8.0\n.target sm_90\n.address_size 64\n.entry k()\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<16>;\n\
         .reg .b64 %rd<8>;\n.shared .align 16 .b8 cells[1024];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, cells;\n\
         setp.eq.u32 %p1, %r1, 0;\nmov.u32 %r9, %cluster_ctarank;\n{body}\nret;\n}}\n"
    );
    let kernel = Module::parse(&text).expect("parses").kernel("k").expect("decodes");
    let mut launch = Launch::new([blocks, 1, 1], [32, 1, 1]);
    launch.cluster = Some([blocks, 1, 1]);
    launch.limits.instructions = 100_000;
    launch.run(&kernel, &mut Memory::new()).expect("is accepted")
}

#[track_caller]
fn refuses(right: &str, wrong: &str, blocks: u32, words: &str) {
    assert_eq!(run(right, blocks).findings, [], "{right}");
    let report = run(wrong, blocks);
    let found = report.findings.iter().find(|finding| finding.kind == FindingKind::BadMbarrier);
    let found = found.unwrap_or_else(|| panic!("{wrong}: {:#?}", report.findings));
    assert!(found.message.contains(words), "{}", found.message);
}

const INIT: &str = "@%p1 mbarrier.init.shared.b64 [%r2], 1;\n";

#[test]
fn one_that_is_in_use_is_not_made_again() {
    let again = format!("{INIT}@%p1 mbarrier.inval.shared.b64 [%r2];\n{INIT}");
    refuses(&again, &again.replace("@%p1 mbarrier.inval.shared.b64 [%r2];\n", ""), 1, "again without mbarrier.inval");
}

#[test]
fn one_that_is_in_use_is_not_overwritten() {
    let beside = format!("{INIT}@%p1 st.shared.v2.u32 [%r2+8], {{%r1, %r1}};");
    refuses(&beside, &beside.replace("[%r2+8]", "[%r2]"), 1, "writes over the mbarrier");
    let after = format!("{INIT}@%p1 mbarrier.inval.shared.b64 [%r2];\n@%p1 st.shared.u32 [%r2+4], %r1;");
    refuses(&after, &after.replace("mbarrier.inval.shared.b64 [%r2]", "add.u32 %r3, %r3, 1"), 1, "writes over");
}

#[test]
fn bytes_are_counted_in_twenty_bits() {
    let few = format!("{INIT}@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r2], 1048575;");
    refuses(&few, &few.replace("1048575", "1048576"), 1, "counts up to 1048575");
    let twice = "\n@%p1 mbarrier.expect_tx.relaxed.cta.shared.b64 [%r2], 1;";
    refuses(&few, &format!("{few}{twice}"), 1, "1048576 are awaited");
}

#[test]
fn only_its_own_block_waits_for_one() {
    let wait = |rank: u32| {
        format!(
            "{INIT}fence.mbarrier_init.release.cluster;\nbarrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n\
             mov.u32 %r3, {rank};\nmov.u64 %rd1, cells;\ncvta.shared.u64 %rd1, %rd1;\nmapa.u64 %rd2, %rd1, %r3;\n\
             setp.eq.u32 %p2, %r9, 0;\n@%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];\n\
             @%p2 mbarrier.try_wait.parity.b64 %p3, [%rd2], 0;\n\
             barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;"
        )
    };
    refuses(&wait(0), &wait(1), 2, "waits for an mbarrier of block 1");
    let state = |rank: u32| {
        wait(0).replace("@%p2 mbarrier.try_wait.parity.b64 %p3, [%rd2], 0;", "").replace(
            "@%p1 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r2];",
            &format!("mov.u32 %r4, {rank};\nmapa.u64 %rd3, %rd1, %r4;\nsetp.eq.and.u32 %p4, %r9, 0, %p1;\n@%p4 mbarrier.arrive.b64 %rd4, [%rd3];"),
        )
    };
    refuses(&state(0), &state(1), 2, "takes the state of an mbarrier of block 1");
}

#[test]
fn warps_of_a_warpgroup_share_registers_together() {
    let run = |threads_that_do: u32| {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k()\n.maxntid 256, 1, 1\n{{\n.reg .pred %p<2>;\n\
             .reg .b32 %r<2>;\nmov.u32 %r1, %tid.x;\nsetp.ge.u32 %p1, %r1, {threads_that_do};\n@%p1 bra DONE;\n\
             setmaxnreg.dec.sync.aligned.u32 24;\nDONE:\nret;\n}}\n"
        );
        let kernel = Module::parse(&text).expect("parses").kernel("k").expect("decodes");
        Launch::new([1, 1, 1], [256, 1, 1]).run(&kernel, &mut Memory::new()).expect("is accepted").findings
    };
    assert_eq!(run(128), []);
    assert_eq!(run(256), []);
    let found = run(96);
    assert!(found.iter().any(|finding| finding.message.contains("the same setmaxnreg")), "{found:?}");
}
