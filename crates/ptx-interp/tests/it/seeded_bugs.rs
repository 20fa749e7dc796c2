//! Bugs put into right kernels, one at a time: each must be found, whatever the seed.

use ptx_interp::FindingKind::{self, *};

use crate::fixtures::{Fixture, replaced, without};

/// The changed kernel must show one of these, for every one of a few seeds.
fn found(fixture: Fixture, ptx: &str, kinds: &[FindingKind]) {
    for seed in 0..6 {
        let report = fixture.run(ptx, seed).report;
        let hit = report.findings.iter().any(|finding| kinds.contains(&finding.kind));
        let all: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert!(hit, "seed {seed}: none of {kinds:?} among:\n{}", all.join("\n"));
    }
}

macro_rules! bugs {
    ($($name:ident: $fixture:ident, $ptx:expr, [$($kind:expr),+];)+) => {
        $(#[test]
        fn $name() {
            let fixture = Fixture::$fixture;
            let change: fn(&str) -> String = $ptx;
            found(fixture, &change(fixture.ptx()), &[$($kind),+]);
        })+
    };
}

bugs! {
    scalar_without_the_barrier_after_the_load: ColumnSums, |ptx| without(ptx, "bar.sync", 0), [SharedRace, UninitializedRead];
    scalar_without_the_barrier_before_the_next_load: ColumnSums, |ptx| without(ptx, "bar.sync", 1), [SharedRace];
    scalar_with_a_shuffle_for_half_a_warp: ColumnSums,
        |ptx| replaced(ptx, "shfl.sync.bfly", 3, |line| format!(
            "{{\n.reg .pred half;\n.reg .b32 lane;\nmov.u32 lane, %laneid;\nsetp.lt.u32 half, lane, 16;\n@half {line}\n}}")),
        [DivergentShuffle];
    pipeline_without_a_wait: PipelinedSums, |ptx| without(&without(ptx, "cp.async.wait_group 1", 0), "cp.async.wait_group 0", 0), [AsyncReadBeforeWait];
    pipeline_that_keeps_one_group_at_the_end: PipelinedSums,
        |ptx| replaced(ptx, "cp.async.wait_group 0", 0, |line| line.replace("group 0", "group 1")), [AsyncReadBeforeWait];
    pipeline_that_keeps_two_groups: PipelinedSums,
        |ptx| replaced(ptx, "cp.async.wait_group 1", 0, |line| line.replace("group 1", "group 2")), [AsyncReadBeforeWait];
    pipeline_without_the_barrier_after_the_wait: PipelinedSums, |ptx| without(ptx, "bar.sync", 0), [SharedRace, AsyncReadBeforeWait];
    pipeline_without_the_barrier_at_the_end: PipelinedSums, |ptx| without(ptx, "bar.sync", 1), [SharedRace];
    pipeline_without_the_first_commit: PipelinedSums, |ptx| without(ptx, "cp.async.commit_group", 0), [AsyncReadBeforeWait];
    pipeline_without_a_commit_in_the_loop: PipelinedSums, |ptx| without(ptx, "cp.async.commit_group", 1), [AsyncReadBeforeWait];
    statistics_of_two_warps_at_once: RunningMaximum, |ptx| without(ptx, "bar.sync", 1), [SharedRace];
    statistics_without_the_last_barrier: RunningMaximum, |ptx| without(ptx, "bar.sync", 2), [SharedRace];
    wmma_without_a_wait: WmmaProduct, |ptx| without(ptx, "cp.async.wait_all", 0), [AsyncReadBeforeWait];
    wmma_without_a_barrier: WmmaProduct, |ptx| without(ptx, "bar.sync", 0), [SharedRace, AsyncReadBeforeWait];
    wmma_without_the_warp_barrier_after_the_store: WmmaProduct, |ptx| without(ptx, "bar.warp.sync", 0), [SharedRace];
    wmma_without_the_warp_barrier_before_the_next_store: WmmaProduct, |ptx| without(ptx, "bar.warp.sync", 1), [SharedRace];
    mma_without_the_barrier_after_the_wait: MmaProduct, |ptx| without(ptx, "bar.sync", 0), [SharedRace, AsyncReadBeforeWait];
    mma_without_the_barrier_at_the_end: MmaProduct, |ptx| without(ptx, "bar.sync", 1), [SharedRace];
    mma_without_the_first_commit: MmaProduct, |ptx| without(ptx, "cp.async.commit_group", 0), [AsyncReadBeforeWait];
    mma_that_keeps_one_group_at_the_end: MmaProduct,
        |ptx| replaced(ptx, "cp.async.wait_group 0", 0, |line| line.replace("group 0", "group 1")), [AsyncReadBeforeWait];
    tma_producer_that_ignores_empty_stages: WgmmaProduct, |ptx| ignore_wait(ptx, 0), [SharedRace, AsyncReadBeforeWait, BadMbarrier];
    tma_consumer_that_does_not_wait: WgmmaProduct, |ptx| ignore_wait(ptx, 1), [SharedRace, AsyncReadBeforeWait, UninitializedRead];
    tma_producer_with_the_wrong_parity: WgmmaProduct,
        |ptx| replaced(ptx, "mbarrier.try_wait", 0, |line| format!("xor.b32 %r113, %r113, 1;\n{line}")), [Deadlock, SharedRace, AsyncReadBeforeWait];
    tma_that_expects_too_few_bytes: WgmmaProduct,
        |ptx| replaced(ptx, "mbarrier.arrive.expect_tx", 0, |line| format!("mov.u32 %r115, 8192;\n{line}")), [Deadlock, SharedRace, AsyncReadBeforeWait];
    tma_that_expects_too_many_bytes: WgmmaProduct,
        |ptx| replaced(ptx, "mbarrier.arrive.expect_tx", 0, |line| format!("mov.u32 %r115, 16400;\n{line}")), [Deadlock];
    tma_without_the_barrier_after_the_initialisation: WgmmaProduct, |ptx| without(ptx, "bar.sync \t0", 0), [SharedRace, BadMbarrier];
    tma_without_the_proxy_fence: WgmmaProduct, |ptx| without(ptx, "fence.proxy.async", 0), [MissingProxyFence];
    tma_without_the_barrier_before_the_store: WgmmaProduct, |ptx| without(ptx, "bar.sync 2", 0), [SharedRace];
    tma_consumer_that_frees_a_stage_too_early: WgmmaProduct,
        |ptx| without(ptx, "wgmma.wait_group", 0), [SharedRace];
    tma_with_one_arrival_too_many_expected: WgmmaProduct,
        |ptx| replaced(ptx, "mbarrier.init", 1, |line| line.rsplit_once(',').map_or_else(String::new, |(start, _)| format!("{start}, 129;"))), [Deadlock];
    wgmma_accumulators_read_before_the_wait: WgmmaProduct,
        |ptx| replaced(ptx, "wgmma.wait_group", 0, |line| format!("mov.f32 %f1, %f476;\n{line}")), [AsyncReadBeforeWait];
    wgmma_accumulators_written_before_the_wait: WgmmaProduct,
        |ptx| replaced(ptx, "wgmma.commit_group", 0, |line| format!("{line}\nmov.f32 %f475, 0f00000000;")), [AsyncReadBeforeWait];
    wgmma_that_keeps_one_group_under_way: WgmmaProduct,
        |ptx| replaced(ptx, "wgmma.wait_group", 0, |line| line.replace(" 0;", " 1;")), [AsyncReadBeforeWait];
    wgmma_without_a_commit: WgmmaProduct, |ptx| without(ptx, "wgmma.commit_group", 0), [AsyncReadBeforeWait];
    wgmma_without_a_fence: WgmmaProduct, |ptx| without(ptx, "wgmma.fence", 0), [MissingMatrixFence];
    wgmma_with_a_base_offset: WgmmaProduct,
        |ptx| replaced(ptx, "wgmma.fence", 0, |line| format!("{line}\n{}", with_base_offset(ptx))), [BadMatrixOperation];
    tensor_store_that_nobody_waits_for: WgmmaProduct,
        |ptx| without(ptx, "cp.async.bulk.wait_group", 0), [AsyncReadBeforeWait];
    tensor_store_without_its_commit: WgmmaProduct,
        |ptx| without(ptx, "cp.async.bulk.commit_group", 0), [AsyncReadBeforeWait];
    cluster_without_the_last_barrier: ClusterExchange,
        |ptx| without(&without(ptx, "barrier.cluster.arrive", 1), "barrier.cluster.wait", 1), [OutOfBounds];
    cluster_without_the_first_barrier: ClusterExchange,
        |ptx| without(&without(ptx, "barrier.cluster.arrive", 0), "barrier.cluster.wait", 0), [SharedRace, UninitializedRead];
    cluster_that_arrives_and_does_not_wait: ClusterExchange, |ptx| without(ptx, "barrier.cluster.wait", 0), [SharedRace, UninitializedRead];
    last_block_without_the_fence: LastBlock, |ptx| without(ptx, "membar.gl", 0), [GlobalRace];
    last_block_without_the_barrier: LastBlock, |ptx| without(ptx, "bar.sync", 1), [SharedRace];
}

/// Sets a bit of the base offset in the first product's second descriptor.
fn with_base_offset(ptx: &str) -> String {
    let product =
        ptx.lines().find(|line| line.trim_start().starts_with("wgmma.mma_async")).expect("there is a product");
    let descriptor = product.rsplit(',').nth(5).expect("has a descriptor of B").trim();
    format!("or.b64 {descriptor}, {descriptor}, {:#x};", 1u64 << 50)
}

/// Turns the nth wait for an mbarrier into one that is always done.
fn ignore_wait(ptx: &str, nth: usize) -> String {
    replaced(ptx, "mbarrier.try_wait", nth, |_| "setp.eq.u32 done, 0, 0;".to_string())
}
