//! Coverage of a launch: instructions, blocks, branches and turns of loops, and that launches add up.

use ptx_interp::{Coverage, Launch, Memory, Module};

use crate::fixtures::Fixture;

/// A loop that each thread goes through as often as its number says, and a branch.
const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u32 least)\n{\n.reg .pred %p<3>;\n.reg .b32 %r<5>;\n\
    mov.u32 %r1, %tid.x;\nld.param.u32 %r2, [least];\nsetp.lt.u32 %p1, %r1, %r2;\n@%p1 bra END;\nmov.u32 %r3, 0;\nLOOP:\nadd.u32 %r3, %r3, 1;\n\
    setp.lt.u32 %p2, %r3, %r1;\n@%p2 bra LOOP;\n@%p1 add.u32 %r4, %r3, 1;\nEND:\nret;\n}\n";

fn cover(threads: u32, least: u32) -> Coverage {
    let kernel = Module::parse(PTX).expect("parses").kernel("k").expect("decodes");
    let mut launch = Launch::new([1, 1, 1], [threads, 1, 1]);
    launch.params = least.to_le_bytes().to_vec();
    launch.coverage = true;
    let report = launch.run(&kernel, &mut Memory::new()).expect("is accepted");
    assert!(report.is_clean());
    report.coverage.expect("it was asked for")
}

#[test]
fn threads_are_counted_by_instruction_and_branch() {
    let coverage = cover(4, 1);
    let named = |start: &str| coverage.instructions().find(|line| line.ptx.contains(start)).expect("there is one");
    assert_eq!((named("mov.u32 %r1").executed, named("mov.u32 %r1").skipped), (4, 0));
    // Threads 1, 2 and 3 go round once, once again, and twice again.
    assert_eq!(named("add.u32 %r3").executed, 6);
    assert_eq!((named("add.u32 %r4").executed, named("add.u32 %r4").skipped), (0, 3));
    assert_eq!(named("add.u32 %r3").ptx_line, 14);
    let branches: Vec<_> = coverage.branches().iter().map(|branch| (branch.taken, branch.not_taken)).collect();
    assert_eq!(branches, [(1, 3), (3, 3)]);
    let blocks: Vec<_> = coverage.blocks().iter().map(|block| (block.ptx_line, block.executed)).collect();
    assert_eq!(blocks[..4], [(8, 4), (12, 3), (14, 6), (17, 3)]);
}

#[test]
fn turns_of_loops_are_told_apart() {
    let turns = |threads, least| cover(threads, least).loops()[0].turns;
    assert_eq!(turns(1, 0), [true, false, false, false]);
    assert_eq!(turns(3, 2), [false, true, false, false]);
    assert_eq!(turns(4, 1), [true, true, true, false]);
    assert_eq!(turns(32, 9), [false, false, false, true]);
    assert_eq!(turns(2, 2), [false; 4]);
}

#[test]
fn launches_add_up() {
    let mut both = cover(2, 2);
    assert!(both.blocks().iter().any(|block| block.executed == 0));
    assert!(both.merge(&cover(4, 1)));
    assert_eq!(both.branches()[0].taken, 3);
    assert_eq!(both.loops()[0].turns, [true, true, true, false]);
    let other = Fixture::ColumnSums;
    let mut launched = None;
    other.run_with(other.ptx(), 0, |launch| launch.coverage = true).report.coverage.clone_into(&mut launched);
    assert!(!both.merge(&launched.expect("it was asked for")));
}

#[test]
fn lines_have_their_sources_and_the_schedule_changes_nothing() {
    let run = |seed| {
        let fixture = Fixture::PipelinedSums;
        fixture
            .run_with(fixture.ptx(), seed, |launch| launch.coverage = true)
            .report
            .coverage
            .expect("it was asked for")
    };
    let coverage = run(0);
    assert_eq!(coverage.kernel(), "pipelined_sums");
    assert!(coverage.instructions().any(|line| line.source.is_some_and(|source| source.file == "pipelined_sums.cu")));
    let missed: Vec<_> = coverage.blocks().into_iter().filter(|block| block.executed == 0).collect();
    assert!(missed.len() * 4 < coverage.blocks().len(), "{missed:#?}");
    assert_eq!(coverage, run(1));
}

/// Every block writes how many blocks there are to its own word.
const BLOCKS: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k(.param .u64 out)\n{\n.reg .b32 %r<3>;\n.reg .b64 %rd<4>;\n\
    ld.param.u64 %rd1, [out];\nmov.u32 %r1, %ctaid.x;\nmov.u32 %r2, %nctaid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd3, %rd1, %rd2;\n\
    st.global.u32 [%rd3], %r2;\nret;\n}\n";

#[test]
fn the_first_blocks_see_the_whole_grid() {
    let kernel = Module::parse(BLOCKS).expect("parses").kernel("k").expect("decodes");
    let written = |first_clusters| {
        let mut memory = Memory::new();
        let out = memory.allocate("out", 20, 256);
        memory.write(out, &[0xff; 20]).expect("just allocated");
        let mut launch = Launch::new([5, 1, 1], [1, 1, 1]);
        launch.params = out.to_le_bytes().to_vec();
        launch.first_clusters = first_clusters;
        let report = launch.run(&kernel, &mut memory).expect("is accepted");
        assert!(report.is_clean(), "{:#?}", report.findings);
        let bytes = memory.read_vec(out, 20).expect("output is there");
        bytes.chunks_exact(4).map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect::<Vec<_>>()
    };
    assert_eq!(written(2), [5, 5, -1, -1, -1]);
    assert_eq!(written(u64::MAX), [5; 5]);
}
