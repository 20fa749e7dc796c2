//! Blocks that reach into each other's shared memory, mbarriers, bulk copies, and what a block's warps do together.

use crate::Probe;
use crate::ProbeMap;
use crate::block::{Parts, build};
use crate::inputs::Numbers;
use crate::tensor_copy::{INIT, MAP_FENCE, WAIT};
use ptx_interp::{ElementType, OutOfBoundsFill, Swizzle, TensorMapDescription};

/// All threads have written before the first one reads; no block exits while others read.
const MEET: &str = "barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;\n";
/// `%r20` and `%r21`: the image's and the mbarriers' addresses in the next block of the cluster, `%r22` its rank.
const NEXT: &str = "add.s32 %r22, %r5, 1;\nmov.u32 %r23, %cluster_nctarank;\nrem.u32 %r22, %r22, %r23;\n\
                    mapa.shared::cluster.u32 %r20, %r2, %r22;\nmapa.shared::cluster.u32 %r21, %r4, %r22;\n";
/// The thread's 16 bytes of the image into `%r30` to `%r33`.
const READ_OWN: &str = "ld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r7];\n";

fn random(count: usize, seed: u32) -> Vec<u32> {
    let mut numbers = Numbers::new(seed);
    (0..count).map(|_| numbers.bits()).collect()
}

/// Four results a thread, blocks in clusters of so many.
fn probe(name: &str, cluster: u32, body: &str) -> Probe {
    let blocks = 4.max(cluster);
    build(Parts {
        name: name.into(),
        body,
        blocks,
        cluster,
        image: random(blocks as usize * 512, 600),
        second: random(blocks as usize * 512, 601),
        results: 4,
        folded: true,
        ..Parts::default()
    })
}

fn neighbours(all: &mut Vec<Probe>) {
    for cluster in [2, 4] {
        let own = "add.s32 %r24, %r20, %r7;\nsub.s32 %r24, %r24, %r2;\n";
        all.push(probe(
            &format!("ld.shared::cluster, {cluster} blocks"),
            cluster,
            &format!("{NEXT}{own}{MEET}ld.shared::cluster.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r24];\n{MEET}"),
        ));
        all.push(probe(
            &format!("st.shared::cluster, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}{own}{MEET}st.shared::cluster.v4.u32 [%r24], {{%r10, %r11, %r12, %r13}};\n{MEET}{READ_OWN}"
            ),
        ));
        all.push(probe(
            &format!("atom.shared::cluster, {cluster} blocks"),
            cluster,
            &format!(
                "mapa.shared::cluster.u32 %r24, %r2, 0;\n{MEET}atom.shared::cluster.add.u32 %r25, [%r24], %r10;\n\
                 red.shared::cluster.max.u32 [%r24+4], %r11;\nred.relaxed.cluster.shared::cluster.xor.b32 [%r24+8], %r12;\n{MEET}\
                 ld.shared::cluster.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r24];\n{MEET}"
            ),
        ));
        all.push(probe(
            &format!("special registers of clusters, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}mov.u32 %r30, %cluster_ctarank;\nmov.u32 %r31, %clusterid.x;\nmov.u32 %r24, %nclusterid.x;\nmad.lo.u32 %r31, %r31, 100, %r24;\n\
                 mov.u32 %r32, %cluster_ctaid.x;\nmov.u32 %r24, %cluster_nctaid.x;\nmad.lo.u32 %r32, %r32, 100, %r24;\nmad.lo.u32 %r32, %r32, 100, %r23;\n\
                 getctarank.shared::cluster.u32 %r33, %r20;\nmov.b32 %r24, %r2;\ncvt.u64.u32 %rd20, %r24;\ncvta.shared.u64 %rd20, %rd20;\n\
                 mapa.u64 %rd21, %rd20, %r22;\ngetctarank.u64 %r24, %rd21;\nmad.lo.u32 %r33, %r33, 100, %r24;\n{MEET}"
            ),
        ));
        all.push(probe(
            &format!("single words of a cluster, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}{own}{MEET}ld.shared::cluster.u32 %r25, [%r24];\n{MEET}st.shared::cluster.u32 [%r24+4], %r10;\n\
                 red.shared::cluster.add.u32 [%r24+8], %r11;\nst.shared.u32 [%r7+12], %r25;\n{MEET}{READ_OWN}{MEET}"
            ),
        ));
        // The one before tells this block's mbarrier what to expect, and delivers it.
        all.push(probe(
            &format!("mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}{own}setp.eq.u32 %p1, %r1, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r4], 1;\n{MEET}\
                 @%p1 mbarrier.expect_tx.relaxed.cluster.shared::cluster.b64 [%r21], 1024;\n\
                 @%p1 mbarrier.arrive.expect_tx.release.cluster.shared::cluster.b64 _, [%r21], 1024;\n{MEET}\
                 st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%r24], {{%r10, %r11, %r12, %r13}}, [%r21];\n{WAIT}{READ_OWN}{MEET}"
            ),
        ));
        // Every thread of the block before arrives at this block's mbarrier, its write before it.
        all.push(probe(
            &format!("mbarrier.arrive.release.cluster.shared::cluster.b64, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}{own}setp.eq.u32 %p1, %r1, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r4], 128;\n{MEET}\
                 st.shared::cluster.v4.u32 [%r24], {{%r10, %r11, %r12, %r13}};\n\
                 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r21];\n\
                 WAIT:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p2, [%r4], 0;\n@!%p2 bra WAIT;\n{READ_OWN}{MEET}"
            ),
        ));
        for (form, list, bytes) in [
            ("b32", "%r10", 4),
            ("v2.b32", "{%r10, %r11}", 8),
            ("v4.b32", "{%r10, %r11, %r12, %r13}", 16),
            ("b64", "%rd20", 8),
            ("v2.b64", "{%rd20, %rd21}", 16),
        ] {
            let spelling = format!("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.{form}");
            all.push(probe(
                &format!("{spelling}, {cluster} blocks"),
                cluster,
                &format!(
                    "{NEXT}{own}{INIT}@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], {};\nmov.b64 %rd20, {{%r10, %r11}};\n\
                     mov.b64 %rd21, {{%r12, %r13}};\n{MEET}{spelling} [%r24], {list}, [%r21];\n{WAIT}{READ_OWN}{MEET}",
                    128 * bytes
                ),
            ));
        }
        // Shared memory to shared memory of the next block.
        let spelling = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
        all.push(probe(
            &format!("{spelling}, {cluster} blocks"),
            cluster,
            &format!(
                "{NEXT}{INIT}@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 1024;\n{MEET}\
                 @%p1 {spelling} [%r20+512], [%r2+1024], 1024, [%r21];\n{WAIT}{READ_OWN}{MEET}"
            )
            // What is read must not be written by the block before.
            .replace("[%r20+512], [%r2+1024]", "[%r20], [%r2+1024]"),
        ));
    }
}

/// The first block of four hands pieces to some of the others.
fn multicast(all: &mut Vec<Probe>) {
    let mut numbers = Numbers::new(610);
    let source: Vec<u8> = (0..2048).map(|_| numbers.bits() as u8).collect();
    let map = ProbeMap {
        buffer: 2,
        description: TensorMapDescription {
            address: 128,
            element: ElementType::F16,
            dims: vec![64, 16],
            strides: vec![128],
            box_dims: vec![64, 8],
            element_strides: vec![1, 1],
            swizzle: Swizzle::Bytes128,
            fill: OutOfBoundsFill::Zeros,
        },
    };
    let receivers = "and.b32 %r24, %r5, 1;\nsetp.eq.u32 %p3, %r24, 1;\nsetp.eq.u32 %p4, %r5, 0;\nand.pred %p4, %p4, %p1;\n\
                     and.pred %p5, %p3, %p1;\n@%p5 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 1024;\nmov.u16 %h1, 10;\n";
    for (spelling, operands) in [
        (
            "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "[%r2], [%rd12, {0, 5}], [%r4], %h1",
        ),
        (
            "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "[%r2], [%rd12, {0, 5, 0}], [%r4], %h1",
        ),
        (
            "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "[%r2], [%rd12, {0, 5, 0, 0}], [%r4], %h1",
        ),
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster",
            "[%r2], [%rd12+144], 1024, [%r4], %h1",
        ),
    ] {
        let wait =
            WAIT.replace("mbarrier.try_wait", "@%p3 mbarrier.try_wait").replace("WAIT:\n", "@!%p3 bra PAST;\nWAIT:\n");
        let wait = wait.replace("@%p3 mbarrier", "mbarrier") + "PAST:\n";
        let operands = operands.replace("{0, 5", "{%r25, %r26").replace(", 0", ", %r25");
        let mut map = map.clone();
        let rank = operands.matches("%r25").count() + 1;
        for _ in 2..rank {
            map.description.dims.push(1);
            map.description.strides.push(2048);
            map.description.box_dims.push(1);
            map.description.element_strides.push(1);
        }
        all.push(build(Parts {
            name: spelling.into(),
            body: &format!(
                "{INIT}{MAP_FENCE}{receivers}mov.u32 %r25, 0;\nmov.u32 %r26, 5;\n{MEET}@%p4 {spelling} {operands};\n{wait}{READ_OWN}{MEET}"
            ),
            blocks: 4,
            cluster: 4,
            image: random(2048, 611),
            third: source.clone(),
            maps: vec![map],
            results: 4,
            folded: true,
            ..Parts::default()
        }));
    }
}

/// Copies without a tensor map, and reductions in global memory.
fn bulk(all: &mut Vec<Probe>) {
    for (space, hint, policy) in [("cluster", "", ""), ("cluster", ".L2::cache_hint", ", %rd20"), ("cta", "", "")] {
        let spelling = format!("cp.async.bulk.shared::{space}.global.mbarrier::complete_tx::bytes{hint}");
        all.push(probe(
            &spelling,
            1,
            &format!(
                "{INIT}createpolicy.fractional.L2::evict_first.b64 %rd20, 1.0;\n@%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], 1536;\n\
                 @%p1 {spelling} [%r2+256], [%rd13+64], 1536, [%r4]{policy};\n{WAIT}{READ_OWN}"
            ),
        ));
    }
    let number = |scalar: &str, value: f32| match scalar {
        "f32" => value.to_bits(),
        "f16" => u32::from(half::f16::from_f32(value).to_bits()) * 0x1_0001,
        "bf16" => u32::from(half::bf16::from_f32(value).to_bits()) * 0x1_0001,
        _ => value as i32 as u32,
    };
    for (kind, scalar) in [
        ("", "u32"),
        ("add", "u32"),
        ("add", "s32"),
        ("add", "f32"),
        ("add.noftz", "f16"),
        ("add.noftz", "bf16"),
        ("min", "s32"),
        ("max", "u32"),
        ("min", "f16"),
        ("max", "bf16"),
        ("and", "b32"),
        ("or", "b32"),
        ("xor", "b32"),
    ] {
        let spelling = match kind {
            "" => "cp.async.bulk.global.shared::cta.bulk_group".to_owned(),
            kind => format!("cp.reduce.async.bulk.global.shared::cta.bulk_group.{kind}.{scalar}"),
        };
        let mut numbers = Numbers::new(620);
        all.push(build(Parts {
            name: spelling.clone(),
            body: &format!(
                "setp.eq.u32 %p1, %r1, 0;\nmov.u32 %r20, {:#x};\nmul.wide.u32 %rd20, %r1, 16;\nadd.s64 %rd20, %rd14, %rd20;\n\
                 st.global.v4.u32 [%rd20], {{%r20, %r20, %r20, %r20}};\nfence.proxy.async;\nbar.sync 0;\n\
                 @%p1 {spelling} [%rd14+32], [%r2+64], 1040;\n@%p1 cp.async.bulk.commit_group;\n@%p1 cp.async.bulk.wait_group.read 0;\n\
                 @%p1 cp.async.bulk.wait_group 0;\n",
                number(scalar, 7.0)
            ),
            image: (0..512).map(|_| number(scalar, numbers.whole(60))).collect(),
            results: 0,
            output_bytes: 2048,
            ..Parts::default()
        }));
    }
}

/// One thread's view of an mbarrier: which phases are over, and how many arrivals are missing.
fn mbarriers(all: &mut Vec<Probe>) {
    let test = |bit: u32| {
        format!(
            "mbarrier.test_wait.parity.shared::cta.b64 %p3, [%r4], 0;\nmbarrier.test_wait.parity.shared::cta.b64 %p4, [%r4], 1;\n\
             selp.u32 %r24, 1, 0, %p3;\nselp.u32 %r25, 2, 0, %p4;\nor.b32 %r24, %r24, %r25;\nshl.b32 %r24, %r24, {};\nor.b32 %r30, %r30, %r24;\n",
            2 * bit
        )
    };
    let state = |bit: u32| {
        format!(
            "mbarrier.test_wait.shared::cta.b64 %p3, [%r4], %rd20;\nselp.u32 %r24, 1, 0, %p3;\nshl.b32 %r24, %r24, {bit};\nor.b32 %r31, %r31, %r24;\n"
        )
    };
    let start = "mov.u32 %r30, 0;\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\nsetp.ne.u32 %p1, %r1, 0;\n@%p1 bra PAST;\n";
    let pending = |into: u32| format!("mbarrier.pending_count.b64 %r{into}, %rd20;\n");
    all.push(probe(
        "mbarrier.arrive",
        1,
        &format!(
            "{start}mbarrier.init.shared::cta.b64 [%r4], 3;\n{}mbarrier.arrive.shared::cta.b64 %rd20, [%r4];\n{}{}{}\
             mbarrier.arrive.shared::cta.b64 _, [%r4], 2;\n{}{}mbarrier.arrive.shared.b64 %rd20, [%r4], 2;\n{}{}\
             mbarrier.arrive.release.cta.shared::cta.b64 _, [%r4];\n{}{}PAST:\n",
            test(0),
            pending(32),
            test(1),
            state(0),
            test(2),
            state(1),
            test(3),
            pending(33),
            test(4),
            state(2),
        ),
    ));
    all.push(probe(
        "mbarrier.expect_tx",
        1,
        &format!(
            "{start}mbarrier.init.shared::cta.b64 [%r4], 1;\nmbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%r4], 64;\n{}\
             mbarrier.arrive.expect_tx.shared::cta.b64 %rd20, [%r4], 16;\n{}{}\
             mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r4], 48;\n{}\
             mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [%r4], 32;\n{}{}PAST:\n",
            test(0),
            test(1),
            state(0),
            test(2),
            test(3),
            state(1),
        ),
    ));
    all.push(probe(
        "mbarrier.arrive_drop",
        1,
        &format!(
            "{start}mbarrier.init.shared::cta.b64 [%r4], 2;\nmbarrier.arrive_drop.shared::cta.b64 %rd20, [%r4];\n{}{}\
             mbarrier.arrive.noComplete.shared::cta.b64 %rd21, [%r4+8], 1;\nmbarrier.arrive.shared::cta.b64 _, [%r4];\n{}{}\
             mbarrier.arrive.shared::cta.b64 _, [%r4];\n{}{}PAST:\n",
            test(0),
            state(0),
            test(1),
            state(1),
            test(2),
            pending(32),
        )
        .replace("[%r4], 2;\nmbarrier.arrive_drop", "[%r4], 2;\nmbarrier.init.shared::cta.b64 [%r4+8], 4;\nmbarrier.arrive_drop"),
    ));
    all.push(probe(
        "mbarrier.try_wait and mbarrier.inval",
        1,
        &format!(
            "{start}mbarrier.init.shared::cta.b64 [%r4], 1;\nmbarrier.arrive.shared::cta.b64 %rd20, [%r4];\n\
             AGAIN:\nmbarrier.try_wait.shared::cta.b64 %p3, [%r4], %rd20;\n@!%p3 bra AGAIN;\nmbarrier.inval.shared::cta.b64 [%r4];\n\
             mbarrier.init.shared::cta.b64 [%r4], 2;\n{}PAST:\n",
            test(0),
        ),
    ));
    // Each thread adds an arrival and then makes it: the one that was expected is made at the end.
    all.push(probe(
        "cp.async.mbarrier.arrive.shared.b64",
        1,
        &format!(
            "setp.eq.u32 %p1, %r1, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r4], 1;\nbar.sync 0;\n\
             cp.async.ca.shared.global [%r7], [%rd10], 16;\ncp.async.mbarrier.arrive.shared.b64 [%r4];\nbar.sync 0;\n\
             @%p1 mbarrier.arrive.shared::cta.b64 _, [%r4];\n{WAIT}\
             xor.b32 %r24, %r7, 16;\nld.shared.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r24];\n"
        ),
    ));
    all.push(probe(
        "cp.async.mbarrier.arrive.noinc.shared.b64",
        1,
        &format!(
            "setp.eq.u32 %p1, %r1, 0;\n@%p1 mbarrier.init.shared::cta.b64 [%r4], 128;\nbar.sync 0;\n\
             cp.async.cg.shared.global [%r7], [%rd10], 16;\ncp.async.mbarrier.arrive.noinc.shared.b64 [%r4];\n{WAIT}\
             xor.b32 %r24, %r7, 16;\nld.shared.v4.u32 {{%r30, %r31, %r32, %r33}}, [%r24];\n"
        ),
    ));
}

/// Named barriers, votes over barriers, and statements that only tell the hardware something.
fn together(all: &mut Vec<Probe>) {
    all.push(probe(
        "bar.arrive and bar.sync",
        1,
        "setp.lt.u32 %p1, %r1, 64;\n@%p1 bra PRODUCE;\nbar.sync 3, 128;\nsub.s32 %r24, %r7, 1024;\n\
         ld.shared.v4.u32 {%r30, %r31, %r32, %r33}, [%r24];\nbra PAST;\n\
         PRODUCE:\nst.shared.v4.u32 [%r7], {%r10, %r11, %r12, %r13};\nbar.arrive 3, 128;\n\
         mov.u32 %r30, 0;\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\nPAST:\n",
    ));
    all.push(probe(
        "bar.red",
        1,
        "and.b32 %r24, %r10, 1;\nsetp.eq.u32 %p1, %r24, 1;\nbar.red.popc.u32 %r30, 1, %p1;\nbar.red.or.pred %p2, 1, %p1;\nbar.red.and.pred %p3, 1, %p1;\n\
         selp.u32 %r31, 1, 0, %p2;\nselp.u32 %r32, 1, 0, %p3;\nbar.red.popc.u32 %r33, 2, 128, !%p1;\n",
    ));
    all.push(probe(
        "elect.sync",
        1,
        "elect.sync %r30|%p1, -1;\nselp.u32 %r31, 1, 0, %p1;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\nand.b32 %r24, %r1, 31;\nsetp.lt.u32 %p2, %r24, 7;\n\
         @%p2 bra PAST;\nelect.sync %r32|%p3, 0xffffff80;\nselp.u32 %r33, 1, 0, %p3;\nPAST:\nbar.warp.sync -1;\n",
    ));
    all.push(probe(
        "cvta.param",
        1,
        "mov.b64 %rd20, a;\ncvta.param.u64 %rd21, %rd20;\nld.u64 %rd22, [%rd21];\nsub.s64 %rd22, %rd22, %rd10;\ncvt.u32.u64 %r30, %rd22;\n\
         mov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\n",
    ));
    let mut registers = probe(
        "setmaxnreg and griddepcontrol",
        1,
        "griddepcontrol.wait;\nsetmaxnreg.dec.sync.aligned.u32 64;\nsetmaxnreg.inc.sync.aligned.u32 80;\ngriddepcontrol.launch_dependents;\n\
         add.s32 %r30, %r10, %r11;\nmov.u32 %r31, 0;\nmov.u32 %r32, 0;\nmov.u32 %r33, 0;\n",
    );
    // The number of registers at the start must be known.
    registers.ptx = registers.ptx.replace(".reqntid 128, 1, 1\n", ".reqntid 128, 1, 1\n.maxnreg 80\n");
    all.push(registers);
}

pub(crate) fn probes() -> Vec<Probe> {
    let mut all = Vec::new();
    neighbours(&mut all);
    multicast(&mut all);
    bulk(&mut all);
    mbarriers(&mut all);
    together(&mut all);
    all
}
