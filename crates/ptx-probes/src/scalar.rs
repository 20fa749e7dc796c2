//! One thread, one result: arithmetic, bits, comparisons, conversions, and what a warp exchanges.
//!
//! Thread i reads word i of each input and writes word i.

use crate::inputs::{Numbers, bytes};
use crate::{Bound, Probe};

/// Edge values that every operation must get right.
const EDGES: [u32; 24] = [
    0,
    1,
    2,
    31,
    32,
    33,
    63,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x3f80_0000,
    0xbf80_0000,
    0x3f00_0000,
    0x4000_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0xff80_0000,
    0x7fc0_0000,
    0x0080_0000,
    0x007f_ffff,
    0x8000_0001,
    0x7e80_0001,
    0x3c00_7c00,
    0xfc00_0001,
];

/// Three 32-bit inputs `%r1 %r2 %r3` (as floats `%f1 %f2 %f3`), result in `%r4` or `%f4`.
const WORD_PROBES: &[(&str, &str, Bound)] = &[
    ("add.s32", "add.s32 %r4, %r1, %r2;", Bound::Exact),
    ("sub.s32", "sub.s32 %r4, %r1, %r2;", Bound::Exact),
    ("mul.lo.s32", "mul.lo.s32 %r4, %r1, %r2;", Bound::Exact),
    ("mul.hi.s32", "mul.hi.s32 %r4, %r1, %r2;", Bound::Exact),
    ("mul.hi.u32", "mul.hi.u32 %r4, %r1, %r2;", Bound::Exact),
    ("mad.lo.s32", "mad.lo.s32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("div.u32", "or.b32 %r2, %r2, 1; div.u32 %r4, %r1, %r2;", Bound::Exact),
    ("div.s32", "or.b32 %r2, %r2, 1; abs.s32 %r2, %r2; div.s32 %r4, %r1, %r2;", Bound::Exact),
    ("rem.s32", "or.b32 %r2, %r2, 1; abs.s32 %r2, %r2; rem.s32 %r4, %r1, %r2;", Bound::Exact),
    ("rem.u32", "or.b32 %r2, %r2, 1; rem.u32 %r4, %r1, %r2;", Bound::Exact),
    ("min.s32", "min.s32 %r4, %r1, %r2;", Bound::Exact),
    ("max.s32", "max.s32 %r4, %r1, %r2;", Bound::Exact),
    ("min.u32", "min.u32 %r4, %r1, %r2;", Bound::Exact),
    ("max.u32", "max.u32 %r4, %r1, %r2;", Bound::Exact),
    ("and.b32", "and.b32 %r4, %r1, %r2;", Bound::Exact),
    ("or.b32", "or.b32 %r4, %r1, %r2;", Bound::Exact),
    ("xor.b32", "xor.b32 %r4, %r1, %r2;", Bound::Exact),
    ("not.b32", "not.b32 %r4, %r1;", Bound::Exact),
    ("neg.s32", "neg.s32 %r4, %r1;", Bound::Exact),
    ("abs.s32", "abs.s32 %r4, %r1;", Bound::Exact),
    ("shl.b32", "shl.b32 %r4, %r1, %r2;", Bound::Exact),
    ("shr.s32", "shr.s32 %r4, %r1, %r2;", Bound::Exact),
    ("shr.u32", "shr.u32 %r4, %r1, %r2;", Bound::Exact),
    ("bfi.b32", "bfi.b32 %r4, %r1, %r2, %r3, 7;", Bound::Exact),
    ("bfe.u32", "bfe.u32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("bfe.s32", "bfe.s32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("prmt.b32", "prmt.b32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("lop3.b32", "lop3.b32 %r4, %r1, %r2, %r3, 0x96;", Bound::Exact),
    ("shf.l.wrap.b32", "shf.l.wrap.b32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("shf.r.clamp.b32", "shf.r.clamp.b32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("popc.b32", "popc.b32 %r4, %r1;", Bound::Exact),
    ("clz.b32", "clz.b32 %r4, %r1;", Bound::Exact),
    ("brev.b32", "brev.b32 %r4, %r1;", Bound::Exact),
    ("bfind.u32", "bfind.u32 %r4, %r1;", Bound::Exact),
    ("bfind.s32", "bfind.s32 %r4, %r1;", Bound::Exact),
    ("slct.b32.s32", "slct.b32.s32 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("setp.lt.s32", "setp.lt.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.eq.s32", "setp.eq.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ne.s32", "setp.ne.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.le.s32", "setp.le.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.gt.s32", "setp.gt.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ge.s32", "setp.ge.s32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.lt.u32", "setp.lt.u32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.le.u32", "setp.le.u32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.gt.u32", "setp.gt.u32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ge.u32", "setp.ge.u32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.eq.f32", "setp.eq.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.lt.f32", "setp.lt.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.le.f32", "setp.le.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.gt.f32", "setp.gt.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ge.f32", "setp.ge.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.equ.f32", "setp.equ.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ltu.f32", "setp.ltu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.neu.f32", "setp.neu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.gtu.f32", "setp.gtu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.geu.f32", "setp.geu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.nan.f32", "setp.nan.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.hi.u32", "setp.hi.u32 %p1, %r1, %r2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.leu.f32", "setp.leu.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.ne.f32", "setp.ne.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("setp.num.f32", "setp.num.f32 %p1, %f1, %f2; selp.b32 %r4, 1, 0, %p1;", Bound::Exact),
    ("add.f32", "add.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("add.ftz.f32", "add.ftz.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("add.rz.f32", "add.rz.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("sub.f32", "sub.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("mul.f32", "mul.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("mul.rp.f32", "mul.rp.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("fma.rn.f32", "fma.rn.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", Bound::Exact),
    ("fma.rm.f32", "fma.rm.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", Bound::Exact),
    ("fma.rn.ftz.f32", "fma.rn.ftz.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", Bound::Exact),
    ("min.f32", "min.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("max.f32", "max.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("max.NaN.f32", "max.NaN.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("neg.f32", "neg.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("abs.f32", "abs.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("copysign.f32", "copysign.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("div.rn.f32", "div.rn.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("rcp.rn.f32", "rcp.rn.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("sqrt.rn.f32", "sqrt.rn.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("div.approx.f32", "div.approx.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("rcp.approx.ftz.f32", "rcp.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(1)),
    ("rsqrt.approx.f32", "rsqrt.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("sqrt.approx.f32", "sqrt.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    // Below 2^-126 the device squares the root, which doubles the relative error.
    ("ex2.approx.f32", "ex2.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(4)),
    ("ex2.approx.ftz.f32", "ex2.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("lg2.approx.f32", "lg2.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", LG2),
    ("lg2.approx.ftz.f32", "lg2.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", LG2),
    ("rcp.approx.f32", "rcp.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(1)),
    ("tanh.approx.f32", "tanh.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(8192)),
    ("cvt.sat.f32.f32", "cvt.sat.f32.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("cvt.rn.f32.s32", "cvt.rn.f32.s32 %f4, %r1; mov.b32 %r4, %f4;", Bound::Exact),
    ("cvt.rn.f32.u32", "cvt.rn.f32.u32 %f4, %r1; mov.b32 %r4, %f4;", Bound::Exact),
    ("cvt.rzi.s32.f32", "cvt.rzi.s32.f32 %r4, %f1;", Bound::Exact),
    ("cvt.rni.s32.f32", "cvt.rni.s32.f32 %r4, %f1;", Bound::Exact),
    ("cvt.rzi.u32.f32", "cvt.rzi.u32.f32 %r4, %f1;", Bound::Exact),
    ("cvt.rn.f16x2.f32", "cvt.rn.f16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rn.bf16x2.f32", "cvt.rn.bf16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rn.relu.f16x2.f32", "cvt.rn.relu.f16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rn.f16.f32", "cvt.rn.f16.f32 %h1, %f1; mov.b32 %r4, {%h1, %h1};", Bound::Exact),
    ("cvt.f32.f16", "mov.b32 {%h1, %h2}, %r1; cvt.f32.f16 %f4, %h1; mov.b32 %r4, %f4;", Bound::Exact),
    ("cvt.s32.s16", "mov.b32 {%h1, %h2}, %r1; cvt.s32.s16 %r4, %h2;", Bound::Exact),
    ("cvt.u32.u8", "cvt.u32.u8 %r4, %r1;", Bound::Exact),
    ("add.f16x2", "add.f16x2 %r4, %r1, %r2;", Bound::Exact),
    ("mul.f16x2", "mul.f16x2 %r4, %r1, %r2;", Bound::Exact),
    ("fma.rn.f16x2", "fma.rn.f16x2 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("max.f16x2", "max.f16x2 %r4, %r1, %r2;", Bound::Exact),
    ("fma.rn.bf16x2", "fma.rn.bf16x2 %r4, %r1, %r2, %r3;", Bound::Exact),
    ("max.bf16x2", "max.bf16x2 %r4, %r1, %r2;", Bound::Exact),
    ("shfl.sync.bfly.b32", "shfl.sync.bfly.b32 %r4, %r1, 5, 31, -1;", Bound::Exact),
    ("shfl.sync.bfly.b32 1", "shfl.sync.bfly.b32 %r4, %r1, 1, 31, -1;", Bound::Exact),
    ("shfl.sync.bfly.b32 2", "shfl.sync.bfly.b32 %r4, %r1, 2, 31, -1;", Bound::Exact),
    ("shfl.sync.bfly.b32 4", "shfl.sync.bfly.b32 %r4, %r1, 4, 31, -1;", Bound::Exact),
    ("shfl.sync.bfly.b32 8", "shfl.sync.bfly.b32 %r4, %r1, 8, 31, -1;", Bound::Exact),
    ("shfl.sync.bfly.b32 16", "shfl.sync.bfly.b32 %r4, %r1, 16, 31, -1;", Bound::Exact),
    (
        "shfl.sync.bfly.b32 eights",
        "shfl.sync.bfly.b32 %r4|%p1, %r1, 9, 0x181f, -1; selp.b32 %r5, 1, 0, %p1; xor.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        "shfl.sync.idx.b32 in range",
        "shfl.sync.idx.b32 %r4|%p1, %r1, %r2, 0x101f, -1; selp.b32 %r5, 1, 0, %p1; xor.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    (
        "shfl.sync.up.b32 in range",
        "shfl.sync.up.b32 %r4|%p1, %r1, 3, 0, -1; selp.b32 %r5, 1, 0, %p1; xor.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    ("shfl.sync.up.b32", "shfl.sync.up.b32 %r4, %r1, 3, 0, -1;", Bound::Exact),
    ("shfl.sync.down.b32", "shfl.sync.down.b32 %r4, %r1, 3, 0x1c1f, -1;", Bound::Exact),
    ("shfl.sync.idx.b32", "shfl.sync.idx.b32 %r4, %r1, %r2, 31, -1;", Bound::Exact),
    ("vote.sync.ballot.b32", "setp.lt.s32 %p1, %r1, %r2; vote.sync.ballot.b32 %r4, %p1, -1;", Bound::Exact),
    (
        "vote.sync.any.pred",
        "setp.eq.s32 %p1, %r1, %r2; vote.sync.any.pred %p3, %p1, -1; selp.b32 %r4, 1, 0, %p3;",
        Bound::Exact,
    ),
    (
        "vote.sync.all.pred",
        "setp.ne.s32 %p1, %r1, %r2; vote.sync.all.pred %p3, %p1, -1; selp.b32 %r4, 1, 0, %p3;",
        Bound::Exact,
    ),
    (
        "vote.sync.uni.pred",
        "setp.lt.s32 %p1, %r2, 0; vote.sync.uni.pred %p3, %p1, -1; selp.b32 %r4, 1, 0, %p3;",
        Bound::Exact,
    ),
    ("redux.sync.add.s32", "redux.sync.add.s32 %r4, %r1, -1;", Bound::Exact),
    (
        "atom.global.add.u32",
        "st.global.u32 [%rd14], %r1; atom.global.add.u32 %r5, [%rd14], %r2; ld.global.u32 %r4, [%rd14]; \
         xor.b32 %r4, %r4, %r5;",
        Bound::Exact,
    ),
    ("match.any.sync.b32", "match.any.sync.b32 %r4, %r1, -1;", Bound::Exact),
];

/// The manual's bound of lg2.approx for arguments in (0.5, 2) is absolute.
const LG2: Bound = Bound::Near { ulps: 3, absolute: -22 };

/// As [`WORD_PROBES`], with floats of everyday size: |first| ≤ 32, second in [0.5, 2), third in [-1, 1).
const EVERYDAY_PROBES: &[(&str, &str, Bound)] = &[
    ("ex2.approx.ftz.f32 everyday", "ex2.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("ex2.approx.f32 everyday", "ex2.approx.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("lg2.approx.f32 everyday", "lg2.approx.f32 %f4, %f2; mov.b32 %r4, %f4;", LG2),
    ("lg2.approx.ftz.f32 everyday", "lg2.approx.ftz.f32 %f4, %f2; mov.b32 %r4, %f4;", LG2),
    ("rcp.approx.ftz.f32 everyday", "rcp.approx.ftz.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Ulps(1)),
    ("rcp.rn.f32 everyday", "rcp.rn.f32 %f4, %f1; mov.b32 %r4, %f4;", Bound::Exact),
    ("div.approx.f32 everyday", "div.approx.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Ulps(2)),
    ("div.rn.f32 everyday", "div.rn.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("sqrt.rn.f32 everyday", "sqrt.rn.f32 %f4, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("fma.rn.f32 everyday", "fma.rn.f32 %f4, %f1, %f2, %f3; mov.b32 %r4, %f4;", Bound::Exact),
    ("add.f32 everyday", "add.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("mul.f32 everyday", "mul.f32 %f4, %f1, %f2; mov.b32 %r4, %f4;", Bound::Exact),
    ("tanh.approx.f32 everyday", "tanh.approx.f32 %f4, %f3; mov.b32 %r4, %f4;", Bound::Ulps(8192)),
    ("cvt.rn.f16x2.f32 everyday", "cvt.rn.f16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rn.bf16x2.f32 everyday", "cvt.rn.bf16x2.f32 %r4, %f1, %f2;", Bound::Exact),
    ("cvt.rni.s32.f32 everyday", "cvt.rni.s32.f32 %r4, %f1;", Bound::Exact),
];

/// Three 64-bit inputs `%rd1 %rd2 %rd3`, result in `%rd4`.
const DOUBLE_PROBES: &[(&str, &str)] = &[
    ("add.s64", "add.s64 %rd4, %rd1, %rd2;"),
    ("sub.s64", "sub.s64 %rd4, %rd1, %rd2;"),
    ("mul.lo.s64", "mul.lo.s64 %rd4, %rd1, %rd2;"),
    ("mul.hi.u64", "mul.hi.u64 %rd4, %rd1, %rd2;"),
    ("mad.lo.s64", "mad.lo.s64 %rd4, %rd1, %rd2, %rd3;"),
    ("shl.b64", "cvt.u32.u64 %r1, %rd2; shl.b64 %rd4, %rd1, %r1;"),
    ("shr.s64", "cvt.u32.u64 %r1, %rd2; shr.s64 %rd4, %rd1, %r1;"),
    ("shr.u64", "cvt.u32.u64 %r1, %rd2; shr.u64 %rd4, %rd1, %r1;"),
    ("mul.wide.s32", "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mul.wide.s32 %rd4, %r1, %r2;"),
    ("mul.wide.u32", "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mul.wide.u32 %rd4, %r1, %r2;"),
    ("mad.wide.u32", "cvt.u32.u64 %r1, %rd1; cvt.u32.u64 %r2, %rd2; mad.wide.u32 %rd4, %r1, %r2, %rd3;"),
    ("cvt.s64.s32", "cvt.u32.u64 %r1, %rd1; cvt.s64.s32 %rd4, %r1;"),
    ("setp.lt.s64", "setp.lt.s64 %p1, %rd1, %rd2; selp.b64 %rd4, %rd1, %rd2, %p1;"),
    ("setp.lt.u64", "setp.lt.u64 %p1, %rd1, %rd2; selp.b64 %rd4, %rd1, %rd2, %p1;"),
    ("and.b64", "and.b64 %rd4, %rd1, %rd2;"),
    ("or.b64", "or.b64 %rd4, %rd1, %rd2;"),
    ("xor.b64", "xor.b64 %rd4, %rd1, %rd2;"),
    ("min.s64", "min.s64 %rd4, %rd1, %rd2;"),
    ("max.u64", "max.u64 %rd4, %rd1, %rd2;"),
    ("bfi.b64", "cvt.u32.u64 %r1, %rd3; bfi.b64 %rd4, %rd1, %rd2, %r1, 9;"),
];

pub(crate) fn probes() -> Vec<Probe> {
    let words = WORD_PROBES.iter().map(|&(name, body, bound)| {
        let inputs = [0, 1, 2].map(|which| input(which).iter().flat_map(|value| value.to_le_bytes()).collect());
        build(name, body, bound, 4, inputs)
    });
    let doubles = DOUBLE_PROBES.iter().map(|&(name, body)| {
        let wide = |which: usize| {
            let (low, high) = (input(which), input((which + 1) % 3));
            low.iter()
                .zip(&high)
                .flat_map(|(low, high)| (u64::from(*high) << 32 | u64::from(*low)).to_le_bytes())
                .collect()
        };
        build(name, body, Bound::Exact, 8, [wide(0), wide(1), wide(2)])
    });
    let everyday = EVERYDAY_PROBES.iter().map(|&(name, body, bound)| build(name, body, bound, 4, everyday()));
    words.chain(everyday).chain(doubles).collect()
}

/// Every pair of edge values for the first two inputs, and random bits after them.
pub(crate) fn input(which: usize) -> Vec<u32> {
    const COUNT: usize = 1024;
    let mut state = 0x9e37_79b9u32.wrapping_mul(which as u32 + 1);
    (0..COUNT)
        .map(|index| {
            if index < EDGES.len() * EDGES.len() {
                return match which {
                    0 => EDGES[index % EDGES.len()],
                    1 => EDGES[index / EDGES.len()],
                    _ => EDGES[(index * 7 + 3) % EDGES.len()],
                };
            }
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        })
        .collect()
}

pub(crate) fn everyday() -> [Vec<u8>; 3] {
    let mut numbers = Numbers::new(7);
    let mut fill = |value: &dyn Fn(f32) -> f32| {
        let words: Vec<u32> = (0..1024).map(|_| value(numbers.signed_unit()).to_bits()).collect();
        bytes(&words)
    };
    [fill(&|unit| 32.0 * unit), fill(&|unit| 1.25 + 0.75 * unit), fill(&|unit| unit)]
}

pub(crate) fn build(name: &str, body: &str, bound: Bound, bytes: usize, inputs: [Vec<u8>; 3]) -> Probe {
    let threads = (inputs[0].len() / bytes) as u32;
    let (load, store) = if bytes == 4 {
        (
            "ld.global.u32 %r1, [%rd11];\nld.global.u32 %r2, [%rd12];\nld.global.u32 %r3, [%rd13];\n\
          mov.b32 %f1, %r1;\nmov.b32 %f2, %r2;\nmov.b32 %f3, %r3;",
            "st.global.u32 [%rd14], %r4;",
        )
    } else {
        (
            "ld.global.u64 %rd1, [%rd11];\nld.global.u64 %rd2, [%rd12];\nld.global.u64 %rd3, [%rd13];",
            "st.global.u64 [%rd14], %rd4;",
        )
    };
    let ptx = format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n\n.visible .entry probe(\n.param .u64 a,\n.param .u64 b,\n.param .u64 c,\n\
         .param .u64 out,\n.param .u32 count\n)\n{{\n.reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .f32 %f<8>;\n.reg .b32 %r<16>;\n\
         .reg .b64 %rd<24>;\nmov.u32 %r10, %ctaid.x;\nmov.u32 %r11, %ntid.x;\nmov.u32 %r12, %tid.x;\n\
         mad.lo.s32 %r13, %r10, %r11, %r12;\nld.param.u32 %r14, [count];\nsetp.ge.u32 %p2, %r13, %r14;\n@%p2 bra DONE;\n\
         ld.param.u64 %rd11, [a];\nld.param.u64 %rd12, [b];\nld.param.u64 %rd13, [c];\nld.param.u64 %rd14, [out];\n\
         mul.wide.u32 %rd15, %r13, {bytes};\nadd.s64 %rd11, %rd11, %rd15;\nadd.s64 %rd12, %rd12, %rd15;\n\
         add.s64 %rd13, %rd13, %rd15;\nadd.s64 %rd14, %rd14, %rd15;\n{load}\n{body}\n{store}\nDONE:\nret;\n}}\n"
    );
    let output_bytes = inputs[0].len();
    Probe {
        name: name.to_string(),
        ptx,
        inputs,
        output_bytes,
        threads,
        bound,
        magnitudes: Vec::new(),
        maps: Vec::new(),
        map_parameter: None,
    }
}
