//! Findings tell every frame of inlining, for both threads, and say in words what is missing.

use ptx_interp::{Finding, FindingKind, Launch, Memory, Missing, Module};

use crate::kernels;

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

/// Whatever the schedule, every finding of a kernel says that this is missing, in one of these words.
fn says(source: &str, kernel: &str, missing: Missing, words: &[&str]) {
    let (kernel, case) = kernels::case(source, kernel);
    for seed in 0..12 {
        let (report, _) = case.run(&kernel, seed);
        assert!(!report.findings.is_empty(), "{}, seed {seed}", case.name);
        for finding in report.findings {
            assert_eq!(finding.missing, Some(missing), "{}, seed {seed}: {finding}", case.name);
            assert!(words.iter().any(|words| finding.message.contains(words)), "{}, seed {seed}: {finding}", case.name);
            assert!(finding.to_string().contains(&format!("= missing: {missing}")), "{finding}");
            assert!(finding.other.is_some(), "{finding}");
        }
    }
}

#[test]
fn a_missing_wait_and_a_missing_barrier_are_told_apart() {
    let wait = &["must wait for it"];
    // A schedule in which the reader comes before the copy is started does not show the wait.
    let barrier = &["covers its own copies; between it and thread ", "writes them: no barrier"];
    says("pipelines", "copy_without_a_wait", Missing::Wait, wait);
    says("pipelines", "copy_that_keeps_one_group", Missing::Wait, wait);
    says("pipelines", "copy_without_a_barrier", Missing::Barrier, barrier);
    says("pipelines", "copy_with_the_barrier_before_the_wait", Missing::Barrier, barrier);
    let (kernel, case) = kernels::case("pipelines", "copy_without_a_barrier");
    let mut told = 0;
    // Few schedules stop a thread between its copy and its wait.
    for seed in 0..400 {
        let (report, _) = case.run(&kernel, seed);
        assert_eq!(report.findings.len(), 1, "one mistake is one finding: {:#?}", report.findings);
        assert_eq!(report.findings[0].kind, FindingKind::SharedRace);
        told += u32::from(report.findings[0].message.contains("'s wait, at pipelines.cu:31, "));
    }
    assert!(told > 0, "no schedule shows the wait");
}

#[test]
fn the_order_that_is_missing_between_threads_is_named() {
    let ordered = &["no barrier and nothing else orders"];
    says("tiles", "halves_exchange_across", Missing::WarpBarrier, ordered);
    says("tiles", "block_scan_without_the_barrier", Missing::Barrier, ordered);
    says("order", "flag_without_the_readers_fence", Missing::Fence, &["no fence stands between"]);
    let scope = &["a scope that does not hold both", "a scope does not hold both"];
    says("order", "flag_release_of_the_block", Missing::Scope, scope);
    says("order", "flag_acquire_of_the_block", Missing::Scope, scope);
    says("order", "flag_without_the_writers_fence", Missing::ReleaseAcquire, &["blocks run at the same time"]);
    says("order", "histogram_atomic_in_the_block", Missing::Scope, &["both are atomic"]);
    says("hopper", "bulk_store_without_a_fence", Missing::ProxyFence, &["without `fence.proxy.async`"]);
}
