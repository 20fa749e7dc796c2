//! Findings tell every frame of inlining, for both threads, and say in words what is missing.

use ptx_interp::{Finding, FindingKind, Launch, Memory, Module};

fn findings(source: &str, kernel: &str, block: u32, buffers: &[usize]) -> Vec<Finding> {
    let kernel = Module::parse(source).expect("parses").kernel(kernel).expect("decodes");
    let mut memory = Memory::new();
    let mut launch = Launch::new([1, 1, 1], [block, 1, 1]);
    for bytes in buffers {
        let address = memory.allocate("buffer", *bytes, 256);
        memory.fill(address, *bytes, 0).expect("just allocated");
        launch.params.extend(address.to_le_bytes());
    }
    launch.run(&kernel, &mut memory).expect("is accepted").findings
}

fn names(finding: &Finding) -> Vec<(String, Option<String>)> {
    let source = finding.place.source.as_ref().expect("-lineinfo");
    source.frames.iter().map(|frame| (frame.file.clone(), frame.function.clone())).collect()
}

#[test]
fn all_frames_are_told_outermost_first() {
    let found = findings(include_str!("../kernels/tiles.ptx"), "tile_exchange_with_the_next_tile", 64, &[256, 256]);
    let place = found.iter().find(|finding| finding.kind == FindingKind::SharedRace).expect("a race");
    assert_eq!(names(place), [("tiles.cu".into(), None)]);
    // A shuffle of cooperative groups is inlined twice over.
    let text = include_str!("../kernels/tiles.ptx");
    let broken = text.replacen("shfl.sync.bfly", "frobnicate.bfly", 1);
    let found = findings(&broken, "tile_sums", 64, &[256, 256]);
    let frames = names(&found[0]);
    assert_eq!(frames.len(), 3, "{frames:?}");
    assert_eq!(frames[0], ("tiles.cu".into(), None));
    assert!(frames[1..].iter().all(|(file, function)| file.ends_with(".h") && function.is_some()), "{frames:?}");
    assert!(frames[1].1.as_ref().is_some_and(|name| name.contains("shfl_xor")), "{frames:?}");
    let source = found[0].place.source.as_ref().expect("-lineinfo");
    let (last, caller) = (&source.frames[2], &source.frames[1]);
    assert_eq!((&last.file, last.line), (&source.file, source.line));
    assert_eq!(source.inlined_at, Some((caller.file.clone(), caller.line)));
    let shown = found[0].to_string();
    let lines: Vec<_> = source.frames.iter().map(|frame| shown.find(&frame.to_string()).expect("is shown")).collect();
    assert!(lines.is_sorted(), "{shown}");
}

#[test]
fn the_message_says_what_is_missing() {
    let pipelines = include_str!("../kernels/pipelines.ptx");
    let says = |kernel: &str, words: &str| {
        let found = findings(pipelines, kernel, 64, &[1024, 1024]);
        assert!(found.iter().any(|finding| finding.message.contains(words)), "{kernel}: {found:#?}");
    };
    let barrier = "wait covers its own copies; between it and thread";
    let kernel = "copy_with_the_barrier_before_the_wait";
    let found = findings(pipelines, kernel, 64, &[1024, 1024]);
    assert!(
        found.iter().any(|finding| finding.message.contains(barrier) || finding.message.contains("must wait for it"))
    );
    says("copy_without_a_wait", "must wait for it, and a barrier must stand");
    says("copies_that_nobody_waits_for", "wait");
    let own = findings(pipelines, "copy_without_a_wait", 64, &[1024, 1024]);
    assert!(own.iter().all(|finding| finding.other.is_some()));
}
