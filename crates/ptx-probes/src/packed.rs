//! Pairs of f16 and bf16, and other spellings of one thread that need compute capability 9.0.

use crate::scalar::{build, everyday, input};
use crate::{Bound, Probe};

/// An f16 result as f32: one unit in its last place, or of its subnormals.
const F16_STEP: Bound = Bound::Near { ulps: 1 << 13, absolute: -24 };
/// A bf16 result as f32: one unit in its last place.
const BF16_STEP: Bound = Bound::Ulps(1 << 16);
/// The manual's error of tanh, 2^-10.987 for f16 and 2^-8 for bf16, and the rounding of the result.
const TANH_F16: Bound = Bound::Near { ulps: 1 << 13, absolute: -10 };
const TANH_BF16: Bound = Bound::Near { ulps: 1 << 16, absolute: -7 };

/// As the scalar probes: three 32-bit inputs `%r1 %r2 %r3` (as floats `%f1 %f2 %f3`), result in `%r4`.
const PROBES: &[(&str, &str, Bound)] = &[
    ("add.bf16x2", "add.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("add.rn.bf16x2", "add.rn.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("sub.bf16x2", "sub.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("mul.bf16x2", "mul.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("mul.rn.bf16x2", "mul.rn.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("fma.rn.relu.bf16x2", "fma.rn.relu.bf16x2 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("fma.rn.relu.f16x2", "fma.rn.relu.f16x2 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("max.NaN.f16x2", "max.NaN.f16x2 %r4, %r1, %r2;", Bound::Exact),
    ("max.NaN.bf16x2", "max.NaN.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("min.NaN.f16x2", "min.NaN.f16x2 %r4, %r1, %r2;", Bound::Exact),
    ("neg.bf16x2", "neg.bf16x2 %r4, %r1;", Bound::Exact),
    ("abs.bf16x2", "abs.bf16x2 %r4, %r1;", Bound::Exact),
    ("cvt.f32.bf16", "mov.b32 {%h1, %h2}, %r1; cvt.f32.bf16 %f4, %h1; mov.b32 %r4, %f4;", Bound::Exact),
    ("cvt.rn.bf16.f32", "cvt.rn.bf16.f32 %h1, %f1; cvt.u32.u16 %r4, %h1;", Bound::Exact),
    ("cvt.rz.bf16x2.f32", "cvt.rz.bf16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rn.relu.bf16x2.f32", "cvt.rn.relu.bf16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("div.full.f32", "div.full.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("dp4a.u32.u32", "dp4a.u32.u32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("dp4a.s32.s32", "dp4a.s32.s32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("set.gt.ftz.f32.f32", "set.gt.ftz.f32.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    (
        "setp.lt.and.f32",
        "setp.gt.s32 %p1, %r3, 0; setp.lt.and.f32 %p0|%p3, %f1, %f2, %p1; selp.u32 %r4, 1, 0, %p0; selp.u32 %r5, 2, 0, %p3; or.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        "predicates",
        "setp.gt.s32 %p0, %r1, 0; setp.gt.s32 %p1, %r2, 0; or.pred %p3, %p0, %p1; not.pred %p1, %p1; xor.pred %p1, %p1, %p3; \
         and.pred %p0, %p0, %p1; selp.u32 %r4, 1, 0, %p0; selp.u32 %r5, 2, 0, %p3; or.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        "comparisons of 16 bits",
        "mov.b32 {%h1, %h2}, %r1; setp.eq.s16 %p0, %h1, %h2; setp.lt.s16 %p1, %h1, %h2; setp.lt.u16 %p3, %h1, %h2; \
         selp.u32 %r4, 1, 0, %p0; @%p1 add.u32 %r4, %r4, 2; @%p3 add.u32 %r4, %r4, 4; selp.b16 %h1, %h1, %h2, %p1; cvt.u32.u16 %r5, %h1; \
         shl.b32 %r5, %r5, 8; add.u32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        "setp.eq.s64",
        "cvt.u64.u32 %rd1, %r1; cvt.u64.u32 %rd2, %r2; setp.eq.s64 %p0, %rd1, %rd2; setp.ne.s64 %p1, %rd1, %rd2; selp.u32 %r4, 1, 0, %p0; \
         @%p1 add.u32 %r4, %r4, 2;",
        Bound::Exact,
    ),
    ("redux.sync.max.u32", "redux.sync.max.u32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.min.u32", "redux.sync.min.u32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.max.s32", "redux.sync.max.s32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.min.s32", "redux.sync.min.s32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.and.b32", "redux.sync.and.b32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.or.b32", "redux.sync.or.b32 %r4, %r1, -1;", Bound::Exact),
    ("redux.sync.xor.b32", "redux.sync.xor.b32 %r4, %r1, -1;", Bound::Exact),
    ("activemask.b32", "activemask.b32 %r4;", Bound::Exact),
    (
        "red.global.add.s32",
        "st.global.u32 [%rd14], %r1; red.global.add.s32 [%rd14], %r2; ld.global.u32 %r4, [%rd14];",
        Bound::Exact,
    ),
    (
        "red.global.add.noftz.bf16x2",
        "st.global.u32 [%rd14], %r1; red.global.add.noftz.bf16x2 [%rd14], %r2; ld.global.u32 %r4, [%rd14];",
        Bound::Exact,
    ),
    (
        "st.global.b16",
        "mov.b32 {%h1, %h2}, %r1; st.global.b16 [%rd14], %h2; st.global.b16 [%rd14+2], %h1; ld.global.b16 %h1, [%rd14+2]; \
         ld.global.b16 %h2, [%rd14]; mov.b32 %r4, {%h2, %h1};",
        Bound::Exact,
    ),
    (
        "ld.param.v2.b32",
        "ld.param.v2.b32 {%r4, %r5}, [out]; mov.b64 %rd1, {%r4, %r5}; ld.param.u64 %rd2, [out]; sub.s64 %rd1, %rd1, %rd2; cvt.u32.u64 %r4, %rd1;",
        Bound::Exact,
    ),
    (
        "addresses of shared memory",
        "mov.u64 %rd1, here; cvta.shared.u64 %rd2, %rd1; cvta.to.shared.u64 %rd3, %rd2; sub.s64 %rd3, %rd3, %rd1; cvt.u32.u64 %r4, %rd3; \
         isspacep.shared %p0, %rd2; isspacep.global %p1, %rd2; isspacep.shared::cluster %p3, %rd2; @%p0 add.u32 %r4, %r4, 1; \
         @%p1 add.u32 %r4, %r4, 2; @%p3 add.u32 %r4, %r4, 4; isspacep.global %p0, %rd14; isspacep.shared %p1, %rd14; \
         @%p0 add.u32 %r4, %r4, 8; @%p1 add.u32 %r4, %r4, 16; cvta.to.global.u64 %rd3, %rd14; sub.s64 %rd3, %rd3, %rd14; \
         cvta.shared::cluster.u64 %rd1, %rd1; sub.s64 %rd1, %rd1, %rd2; or.b64 %rd3, %rd3, %rd1; cvt.u32.u64 %r5, %rd3; \
         shl.b32 %r5, %r5, 8; add.u32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        // What only orders or hints: it must run, and change nothing.
        "fences and hints",
        "mov.u32 %r4, %r1; prefetch.global.L2 [%rd11]; prefetchu.L1 [%rd11]; fence.acq_rel.cta; fence.acq_rel.cluster; fence.acq_rel.gpu; \
         fence.sc.cta; membar.cta; membar.gl; membar.sys; fence.proxy.async; fence.proxy.async.global; fence.proxy.async.shared::cta; \
         fence.proxy.async.shared::cluster; fence.proxy.alias; fence.acquire.sync_restrict::shared::cluster.cluster; fence.release.sync_restrict::shared::cta.cluster; fence.proxy.tensormap::generic.release.gpu; \
         fence.mbarrier_init.release.cluster; nanosleep.u32 20; createpolicy.fractional.L2::evict_last.b64 %rd1; \
         createpolicy.range.L2::evict_last.L2::evict_unchanged.b64 %rd1, [%rd11], 0x1000, 0x1000; \
         ld.global.L2::cache_hint.u32 %r5, [%rd11], %rd1; xor.b32 %r4, %r4, %r5; \
         and.b64 %rd2, %rd11, -16; cp.async.bulk.prefetch.L2.global [%rd2], 16; wgmma.fence.sync.aligned; wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;",
        Bound::Exact,
    ),
];

/// The same with everyday floats, whose pairs of halves are everyday ones, too.
const EVERYDAY: &[(&str, &str, Bound)] = &[
    (
        "red.global.add.v4.f32",
        "st.global.f32 [%rd14], %f1; and.b32 %r5, %r13, 3; setp.eq.u32 %p0, %r5, 0; mov.f32 %f4, 0f40000000; bar.warp.sync -1; \
         @%p0 red.global.add.v4.f32 [%rd14], {%f4, %f1, %f2, %f3}; bar.warp.sync -1; ld.relaxed.gpu.global.u32 %r4, [%rd14];",
        Bound::Exact,
    ),
    (
        "ex2.approx.f16",
        "cvt.rn.f16.f32 %h1, %f1; ex2.approx.f16 %h2, %h1; cvt.f32.f16 %f4, %h2; mov.b32 %r4, %f4;",
        F16_STEP,
    ),
    (
        "ex2.approx.f16x2",
        "cvt.rn.f16x2.f32 %r5, %f2, %f1; ex2.approx.f16x2 %r5, %r5; mov.b32 {%h1, %h2}, %r5; cvt.f32.f16 %f4, %h1; mov.b32 %r4, %f4;",
        F16_STEP,
    ),
    (
        "ex2.approx.ftz.bf16",
        "cvt.rn.bf16.f32 %h1, %f1; ex2.approx.ftz.bf16 %h2, %h1; cvt.f32.bf16 %f4, %h2; mov.b32 %r4, %f4;",
        BF16_STEP,
    ),
    (
        "ex2.approx.ftz.bf16x2",
        "cvt.rn.bf16x2.f32 %r5, %f1, %f2; ex2.approx.ftz.bf16x2 %r5, %r5; mov.b32 {%h1, %h2}, %r5; cvt.f32.bf16 %f4, %h2; mov.b32 %r4, %f4;",
        BF16_STEP,
    ),
    (
        "tanh.approx.f16x2",
        "cvt.rn.f16x2.f32 %r5, %f1, %f3; tanh.approx.f16x2 %r5, %r5; mov.b32 {%h1, %h2}, %r5; cvt.f32.f16 %f4, %h1; mov.b32 %r4, %f4;",
        TANH_F16,
    ),
    (
        "tanh.approx.bf16x2",
        "cvt.rn.bf16x2.f32 %r5, %f1, %f3; tanh.approx.bf16x2 %r5, %r5; mov.b32 {%h1, %h2}, %r5; cvt.f32.bf16 %f4, %h1; mov.b32 %r4, %f4;",
        TANH_BF16,
    ),
    (
        "red.global.add.f32",
        "st.global.f32 [%rd14], %f1; red.global.add.f32 [%rd14], %f2; ld.global.u32 %r4, [%rd14];",
        Bound::Exact,
    ),
];

pub(crate) fn probes() -> Vec<Probe> {
    let edges = || [0, 1, 2].map(|which| input(which).iter().flat_map(|value| value.to_le_bytes()).collect());
    let all = PROBES.iter().map(|&(name, body, bound)| build(name, body, bound, 4, edges()));
    let everyday = EVERYDAY.iter().map(|&(name, body, bound)| build(name, body, bound, 4, everyday()));
    all.chain(everyday).map(newer).collect()
}

fn newer(mut probe: Probe) -> Probe {
    probe.ptx = probe
        .ptx
        .replace(".version 8.0\n.target sm_80\n", ".version 8.6\n.target sm_90a\n")
        .replace("mov.u32 %r10, %ctaid.x;", ".shared .align 16 .b8 here[16];\nmov.u32 %r10, %ctaid.x;");
    probe
}
