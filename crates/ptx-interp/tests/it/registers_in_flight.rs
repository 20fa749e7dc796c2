//! Registers of a wgmma under way, where A is in registers, too.

use ptx_interp::{FindingKind, Launch, Memory, Module, Report};

const PRODUCT: &str =
    "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%f0, %f1, %f2, %f3}, {%r4, %r5, %r6, %r7}, %rd3, 1, 1, 1, 0;";

/// Two products, a commit, a wait and a sum of what came out, with statements put in between.
fn run(before: &str, between: &str, after: &str) -> Report {
    let text = format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.entry k(.param .u64 buffer)\n{{\n.reg .pred %p<8>;\n.reg .b32 %r<16>;\n\
         .reg .f32 %f<16>;\n.reg .b64 %rd<8>;\n.shared .align 1024 .b8 cells[1024];\nld.param.u64 %rd1, [buffer];\n\
         mov.u32 %r1, %tid.x;\nmov.u32 %r2, cells;\nshl.b32 %r3, %r1, 3;\nadd.u32 %r3, %r3, %r2;\nst.shared.u64 [%r3], 0;\n\
         fence.proxy.async;\nbar.sync 0;\nbfe.u32 %r3, %r2, 4, 14;\ncvt.u64.u32 %rd3, %r3;\nor.b64 %rd3, %rd3, 0x4000080000;\n\
         mov.u32 %r4, 0;\nmov.u32 %r5, 0;\nmov.u32 %r6, 0;\nmov.u32 %r7, 0;\nmov.f32 %f0, 0f00000000;\nmov.f32 %f1, 0f00000000;\n\
         mov.f32 %f2, 0f00000000;\nmov.f32 %f3, 0f00000000;\n{before}\n{PRODUCT}\n{between}\n{PRODUCT}\n{after}\n\
         add.f32 %f0, %f0, %f1;\nmul.wide.u32 %rd2, %r1, 4;\nadd.u64 %rd1, %rd1, %rd2;\nst.global.f32 [%rd1], %f0;\nret;\n}}\n"
    );
    let kernel = Module::parse(&text).expect("parses").kernel("k").expect("decodes");
    let mut memory = Memory::new();
    let buffer = memory.allocate("sums", 512, 256);
    let mut launch = Launch::new([1, 1, 1], [128, 1, 1]);
    launch.params = buffer.to_le_bytes().to_vec();
    launch.run(&kernel, &mut memory).expect("is accepted")
}

const FENCE: &str = "wgmma.fence.sync.aligned;";
const WAIT: &str = "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;";

/// There are findings, and all of this kind.
fn only(report: &Report, kind: FindingKind) -> bool {
    !report.findings.is_empty() && report.findings.iter().all(|finding| finding.kind == kind)
}

fn kinds(report: &Report) -> Vec<FindingKind> {
    report.findings.iter().map(|finding| finding.kind).collect()
}

#[test]
fn products_of_one_shape_follow_at_once() {
    assert_eq!(kinds(&run(FENCE, "", WAIT)), []);
    // In other registers nothing is under way.
    assert_eq!(kinds(&run(FENCE, "add.f32 %f5, %f6, %f7;\nadd.u32 %r8, %r1, %r2;", WAIT)), []);
    // After a wait all of them are the warp's own again, and go back with a fence.
    let between = format!("{WAIT}\nadd.f32 %f0, %f0, %f1;\nmov.u32 %r4, 0;\n{FENCE}");
    assert_eq!(kinds(&run(FENCE, &between, WAIT)), []);
}

#[test]
fn operands_and_sums_under_way_are_not_touched() {
    let early = FindingKind::AsyncReadBeforeWait;
    for touch in ["mov.u32 %r4, 1;", "add.u32 %r8, %r7, 1;", "mov.f32 %f2, 0f00000000;", "add.f32 %f5, %f3, %f3;"] {
        let report = run(FENCE, &format!("{touch}\n{FENCE}"), WAIT);
        assert_eq!(kinds(&report), [early], "{touch}");
        assert_eq!(report.findings[0].place.ptx, touch.trim_end_matches(';'));
        assert!(report.findings[0].other.as_ref().is_some_and(|other| other.ptx.starts_with("wgmma.mma_async")));
        // A committed group is under way all the same, until the wait.
        let late = WAIT.replace('\n', &format!("\n{touch}\n"));
        assert_eq!(kinds(&run(FENCE, "", &late)), [early], "{touch}");
    }
    assert!(kinds(&run(FENCE, "", "")).contains(&early), "the sum before any wait");
    assert!(kinds(&run(FENCE, "", &WAIT.replace(" 0;", " 1;"))).contains(&early), "the wait lets one group go on");
}

#[test]
fn one_register_has_one_role() {
    let sums = "{%f3, %f2, %f1, %f0}";
    let swapped = PRODUCT.replace("{%f0, %f1, %f2, %f3}", sums);
    assert!(only(&run(FENCE, &swapped, WAIT), FindingKind::AsyncReadBeforeWait));
}

#[test]
fn registers_are_handed_over_by_a_fence() {
    let missing = FindingKind::MissingMatrixFence;
    assert!(only(&run("", "", WAIT), missing));
    for touch in ["mov.u32 %r5, 1;", "add.f32 %f5, %f1, %f1;"] {
        assert!(only(&run(FENCE, &format!("{WAIT}\n{touch}"), WAIT), missing), "{touch}");
        assert!(only(&run(&format!("{FENCE}\n{touch}"), "", WAIT), missing), "{touch}");
    }
}
