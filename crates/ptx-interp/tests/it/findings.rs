//! Single mistakes in small texts: the kind, the words and the place of what is reported.

use ptx_interp::{
    Checks, ElementType, Finding, FindingKind, KernelError, Launch, LaunchError, Memory, Missing, Module,
    OutOfBoundsFill, Report, Swizzle, TensorMapDescription,
};

/// A kernel of one buffer parameter around these statements.
fn text(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 buffer)\n{{\n.reg .pred %p<8>;\n.reg .b16 %h<8>;\n\
         .reg .b32 %r<16>;\n.reg .f32 %f<8>;\n.reg .b64 %rd<8>;\n.shared .align 16 .b8 cells[1024];\n\
         ld.param.u64 %rd1, [buffer];\nmov.u32 %r1, %tid.x;\nmov.u32 %r2, cells;\n{body}\nret;\n}}\n"
    )
}

fn run(body: &str, blocks: u32, threads: u32) -> Report {
    run_limited(body, blocks, threads, 1_000_000)
}

fn run_limited(body: &str, blocks: u32, threads: u32, instructions: u64) -> Report {
    let kernel = Module::parse(&text(body)).expect("parses").kernel("k").expect("decodes");
    let mut memory = Memory::new();
    let buffer = memory.allocate("values", 64, 256);
    let mut launch = Launch::new([blocks, 1, 1], [threads, 1, 1]);
    launch.params = buffer.to_le_bytes().to_vec();
    launch.limits.instructions = instructions;
    launch.run(&kernel, &mut memory).expect("is accepted")
}

fn only(report: &Report) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    &report.findings[0]
}

#[test]
fn overrun_names_the_buffer() {
    let report = run("st.global.u32 [%rd1+76], %r1;", 1, 1);
    let finding = only(&report);
    assert_eq!(finding.kind, FindingKind::OutOfBounds);
    assert!(finding.message.contains("12 bytes past the end of `values`"), "{}", finding.message);
    assert!(!report.completed);
    assert_eq!(finding.place.ptx, "st.global.u32 [%rd1+76], %r1");
    assert_eq!(finding.place.ptx_line, 15);
}

#[test]
fn misaligned_and_shared_overrun() {
    assert_eq!(only(&run("st.global.u32 [%rd1+2], %r1;", 1, 1)).kind, FindingKind::Misaligned);
    assert_eq!(only(&run("st.shared.u32 [%r2+1024], %r1;", 1, 1)).kind, FindingKind::OutOfBounds);
    assert_eq!(only(&run("st.shared.v4.u32 [%r2+8], {%r1,%r1,%r1,%r1};", 1, 1)).kind, FindingKind::Misaligned);
}

/// Stores a box of 4 lines of 64 bytes to the first line of a tensor; each of twelve threads has written a piece of 16
/// bytes, the first three of a line.
fn store_a_box(columns: u64, lines: u64) -> Report {
    let text = ".version 8.0\n.target sm_90a\n.address_size 64\n.entry k(.param .align 64 .b8 map[128])\n{\n\
                .reg .pred %p<2>;\n.reg .b32 %r<8>;\n.reg .b64 %rd<2>;\n.shared .align 128 .b8 cells[256];\n\
                mov.u32 %r1, %tid.x;\nmov.u32 %r2, cells;\nmov.b64 %rd1, map;\ncvta.param.u64 %rd1, %rd1;\nmov.u32 %r3, 0;\n\
                div.u32 %r4, %r1, 3;\nadd.u32 %r4, %r4, %r1;\nmad.lo.u32 %r4, %r4, 16, %r2;\n\
                st.shared.v4.b32 [%r4], {%r1, %r1, %r1, %r1};\nfence.proxy.async.shared::cta;\nbar.sync 0;\n\
                setp.ne.u32 %p1, %r1, 0;\n@%p1 ret;\n\
                cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd1, {%r3, %r3}], [%r2];\n\
                cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;\nret;\n}\n";
    let kernel = Module::parse(text).expect("parses").kernel("k").expect("decodes");
    let mut memory = Memory::new();
    let map = TensorMapDescription {
        address: memory.allocate("values", 1024, 256),
        element: ElementType::F16,
        dims: vec![columns, lines],
        strides: vec![64],
        box_dims: vec![32, 4],
        element_strides: vec![1, 1],
        swizzle: Swizzle::None,
        fill: OutOfBoundsFill::Zeros,
    };
    let mut launch = Launch::new([1, 1, 1], [12, 1, 1]);
    launch.params = map.encode().expect("map is valid").to_vec();
    launch.run(&kernel, &mut memory).expect("is accepted")
}

/// Of what lies outside of the tensor nothing arrives anywhere.
#[test]
fn a_store_reads_what_lies_inside_of_the_tensor() {
    for (columns, lines) in [(24, 4), (17, 2)] {
        let report = store_a_box(columns, lines);
        assert!(report.is_clean(), "{:#?}", report.findings);
    }
    assert_eq!(only(&store_a_box(25, 2)).kind, FindingKind::UninitializedRead);
}

#[test]
fn uninitialised_reads() {
    assert_eq!(only(&run("ld.shared.u32 %r3, [%r2];", 1, 1)).kind, FindingKind::UninitializedRead);
    let report = run("ld.global.u32 %r3, [%rd1];", 1, 1);
    assert_eq!(only(&report).kind, FindingKind::UninitializedRead);
    assert!(report.findings[0].message.contains("`values`"));
    assert!(run("st.global.u32 [%rd1], %r1; ld.global.u32 %r3, [%rd1];", 1, 1).is_clean());
}

#[test]
fn races_between_lanes_warps_and_blocks() {
    let lanes = "and.b32 %r3, %r1, 1; shl.b32 %r3, %r3, 2; add.s32 %r3, %r2, %r3; st.shared.u32 [%r3], %r1;";
    assert_eq!(only(&run(lanes, 1, 4)).kind, FindingKind::SharedRace);
    let blocks = "mov.u32 %r3, %ctaid.x; st.global.u32 [%rd1], %r3;";
    let report = run(blocks, 2, 1);
    assert_eq!(only(&report).kind, FindingKind::GlobalRace);
    let (here, other) =
        (report.findings[0].place.thread, report.findings[0].other.as_ref().expect("both sides").thread);
    assert_ne!(here.block, other.block);
    // The same value from all threads is no race.
    assert!(run("st.shared.u32 [%r2], 7;", 1, 64).is_clean());
}

#[test]
fn shuffles_order_nothing_and_warp_barriers_do() {
    let body = |sync: &str| {
        format!(
            "shl.b32 %r3, %r1, 2; add.s32 %r3, %r2, %r3; st.shared.u32 [%r3], %r1; {sync}\n\
             xor.b32 %r4, %r1, 1; shl.b32 %r4, %r4, 2; add.s32 %r4, %r2, %r4; ld.shared.u32 %r5, [%r4];"
        )
    };
    let shuffle = body("shfl.sync.idx.b32 %r6, %r1, 0, 31, -1;");
    assert_eq!(only(&run(&shuffle, 1, 32)).kind, FindingKind::SharedRace);
    assert!(run(&body("bar.warp.sync -1;"), 1, 32).is_clean());
}

/// Each thread writes what its neighbour may not have read yet. Most pairs are of one warp, and two are not: a barrier of
/// the warp would not be enough.
#[test]
fn the_widest_barrier_is_the_one_that_is_missing() {
    let neighbours = "shl.b32 %r3, %r1, 2;\nadd.u32 %r4, %r2, %r3;\nst.shared.u32 [%r4], %r1;\nbar.sync 0;\n\
                      add.u32 %r3, %r3, 4;\nand.b32 %r3, %r3, 255;\nadd.u32 %r3, %r2, %r3;\n\
                      ld.shared.u32 %r5, [%r3];\nst.shared.u32 [%r4], %r5;";
    let missing = |threads: u32, mask: &str| {
        let report = run(&neighbours.replace("255", mask), 1, threads);
        let writes = report.findings.iter().find(|finding| finding.place.ptx.starts_with("st.shared"));
        writes.expect("a race").missing
    };
    assert_eq!(missing(64, "255"), Some(Missing::Barrier));
    assert_eq!(missing(32, "127"), Some(Missing::WarpBarrier));
}

#[test]
fn divergent_barriers_and_deadlocks() {
    let divergent = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nbar.sync 0;\nbra.uni B;\nA:\nbar.sync 0;\nB:\n";
    assert_eq!(only(&run(divergent, 1, 32)).kind, FindingKind::DivergentBarrier);
    let missing = "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1, 64;\nA:\n";
    assert_eq!(only(&run(missing, 1, 64)).kind, FindingKind::Deadlock);
    let shuffle =
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nshfl.sync.bfly.b32 %r3, %r1, 1, 31, -1;\nA:\nbar.warp.sync -1;";
    assert_eq!(only(&run(shuffle, 1, 32)).kind, FindingKind::DivergentBarrier.max(FindingKind::DivergentShuffle));
}

#[test]
fn endless_loops_end() {
    assert_eq!(only(&run_limited("A:\nbra.uni A;", 1, 1, 1000)).kind, FindingKind::Livelock);
}

#[test]
fn lanes_of_a_warp_may_wait_for_each_other() {
    // Lane 0 spins until lane 1 has written: a stack of reconvergence points would hang here.
    let body = "setp.eq.u32 %p1, %r1, 0;\nst.shared.u32 [%r2+16], 0;\nbar.warp.sync -1;\n@!%p1 bra W;\n\
                S:\nld.volatile.shared.u32 %r3, [%r2+16];\nsetp.eq.u32 %p2, %r3, 0;\n@%p2 bra S;\nbra D;\n\
                W:\nst.volatile.shared.u32 [%r2+16], 1;\nD:\n";
    let report = run(body, 1, 2);
    assert!(report.completed, "{:#?}", report.findings);
}

#[test]
fn findings_are_counted_not_repeated() {
    let report =
        run("shr.u32 %r3, %r1, 1; shl.b32 %r3, %r3, 2; add.s32 %r3, %r2, %r3; st.shared.u32 [%r3], %r1;", 1, 32);
    assert_eq!(only(&report).count, 16);
    assert!(report.findings[0].to_string().contains("16 times"));
}

#[test]
fn checks_can_be_switched_off() {
    let kernel = Module::parse(&text("ld.shared.u32 %r3, [%r2];")).expect("parses").kernel("k").expect("decodes");
    let mut launch = Launch::new([1, 1, 1], [1, 1, 1]);
    launch.params = vec![0; 8];
    launch.checks = Checks::none();
    assert!(launch.run(&kernel, &mut Memory::new()).expect("is accepted").is_clean());
}

#[test]
fn unknown_opcodes_name_their_line() {
    let module = Module::parse(&text("frobnicate.u32 %r1, %r2;")).expect("parses");
    let kernel = module.kernel("k").expect("a statement that is not known is no reason to refuse a kernel");
    let [error] = kernel.unsupported() else { panic!("{:?}", kernel.unsupported()) };
    assert_eq!((error.line, error.text.as_str()), (15, "frobnicate.u32 %r1, %r2"));
    assert!(matches!(module.kernel("other"), Err(KernelError::NotFound { .. })));
    // A thread that gets there is told; one that does not runs on.
    let report = run("frobnicate.u32 %r1, %r2;", 1, 1);
    assert_eq!(only(&report).kind, FindingKind::Unsupported);
    assert_eq!(only(&report).place.ptx_line, 15);
    assert!(run("setp.eq.u32 %p1, %r1, 99;\n@%p1 frobnicate.u32 %r1, %r2;", 1, 1).is_clean());
}

#[test]
fn two_of_one_name_are_refused() {
    let error = |text: &str| Module::parse(text).expect_err("is refused").to_string();
    let twice = format!("{}{}", text(""), &text("")[text("").find(".entry").expect("an entry")..]);
    assert!(error(&twice).contains("two entries of this name: `k`"), "{}", error(&twice));
    assert!(error(&text("L:\nL:\n")).contains("two labels of this name: `L`"));
    // Another scope may have it again.
    assert!(Module::parse(&text("{\nL:\n}\n{\nL:\n}\n")).is_ok());
    let function = ".func f() { ret; }\n";
    let twice = text("").replace(".entry", &format!("{function}{function}.entry"));
    assert!(error(&twice).contains("two functions of this name"), "{}", error(&twice));
}

#[test]
fn register_budgets_are_checked() {
    for count in ["7", "16", "25", "264"] {
        let module = Module::parse(&text(&format!("setmaxnreg.inc.sync.aligned.u32 {count};"))).expect("parses");
        assert!(module.kernel("k").is_err(), "{count}");
    }
}

#[test]
fn wrong_widths_are_refused() {
    assert!(Module::parse(&text("add.s32 %r1, %r2, %rd1;")).expect("parses").kernel("k").is_err());
    assert!(Module::parse(&text("add.s64 %rd1, %rd1, %r1;")).expect("parses").kernel("k").is_err());
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let kernel = Module::parse(&text("")).expect("parses").kernel("k").expect("decodes");
    let mut memory = Memory::new();
    let launch = |change: &dyn Fn(&mut Launch)| {
        let mut launch = Launch::new([1, 1, 1], [32, 1, 1]);
        launch.params = vec![0; 8];
        change(&mut launch);
        launch
    };
    let mut refused = |change: &dyn Fn(&mut Launch)| launch(change).run(&kernel, &mut memory).expect_err("is refused");
    assert!(matches!(refused(&|launch| launch.params.clear()), LaunchError::Parameters { .. }));
    assert!(matches!(refused(&|launch| launch.block = [2048, 1, 1]), LaunchError::Block { .. }));
    assert!(matches!(refused(&|launch| launch.grid = [0, 1, 1]), LaunchError::Grid { .. }));
    assert!(matches!(refused(&|launch| launch.dynamic_shared = 1 << 20), LaunchError::SharedMemory { .. }));
    assert!(matches!(refused(&|launch| launch.cluster = Some([2, 1, 1])), LaunchError::Cluster { .. }));
}

#[test]
fn line_information_reaches_the_finding() {
    use crate::fixtures::{Fixture, without};
    let report = Fixture::ColumnSums.run(&without(Fixture::ColumnSums.ptx(), "bar.sync", 1), 3).report;
    let source = report.findings[0].place.source.as_ref().expect("-lineinfo");
    assert_eq!(source.file, "column_sums.cu");
    assert!(report.findings[0].to_string().contains("column_sums.cu:"));
}
