; Kernels as clang hands them to LLVM's NVPTX back end: address spaces, intrinsics, structures by value, allocas.
; llvm.ptx is what LLVM 14 makes of it: llc -O2 -mcpu=sm_70 -mattr=+ptx63 llvm.ll -o llvm.ptx
;
; `;@` before a kernel says how it is launched and what the interpreter finds: see tests/it/kernels.rs.
target datalayout = "e-i64:64-i128:128-v16:16-v32:32-n16:32:64"
target triple = "nvptx64-nvidia-cuda"

%struct.pair = type { i32, [3 x float] }

@tile = internal addrspace(3) global [128 x float] undef, align 4
@weights = internal addrspace(4) constant [4 x float] [float 1.0, float 2.0, float 4.0, float 8.0], align 4
@total = addrspace(1) global i32 0, align 4

declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
declare void @llvm.nvvm.barrier0()
declare float @llvm.nvvm.shfl.sync.down.f32(i32, float, i32, i32)
declare float @llvm.fma.f32(float, float, float)

@tile2 = internal addrspace(3) global [128 x float] undef, align 4

; Sums of blocks of 128: in shared memory first, then by shuffles of one warp.
;@ clean grid=2 block=128 args=f32:256:iota,f32:2:zero
define void @block_sums(float addrspace(1)* %in, float addrspace(1)* %out) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %n = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
  %base = mul i32 %b, %n
  %i = add i32 %base, %t
  %p = getelementptr float, float addrspace(1)* %in, i32 %i
  %v = load float, float addrspace(1)* %p
  %s = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i32 0, i32 %t
  store float %v, float addrspace(3)* %s
  call void @llvm.nvvm.barrier0()
  %first = icmp ult i32 %t, 32
  br i1 %first, label %warp, label %end
warp:
  %j1 = add i32 %t, 32
  %s1 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i32 0, i32 %j1
  %v1 = load float, float addrspace(3)* %s1
  %j2 = add i32 %t, 64
  %s2 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i32 0, i32 %j2
  %v2 = load float, float addrspace(3)* %s2
  %j3 = add i32 %t, 96
  %s3 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile, i32 0, i32 %j3
  %v3 = load float, float addrspace(3)* %s3
  %a1 = fadd float %v, %v1
  %a2 = fadd float %v2, %v3
  %a3 = fadd float %a1, %a2
  br label %loop
loop:
  %acc = phi float [ %a3, %warp ], [ %next, %loop ]
  %d = phi i32 [ 16, %warp ], [ %half, %loop ]
  %o = call float @llvm.nvvm.shfl.sync.down.f32(i32 -1, float %acc, i32 %d, i32 31)
  %next = fadd float %acc, %o
  %half = lshr i32 %d, 1
  %more = icmp ne i32 %half, 0
  br i1 %more, label %loop, label %done
done:
  %zero = icmp eq i32 %t, 0
  br i1 %zero, label %write, label %end
write:
  %q = getelementptr float, float addrspace(1)* %out, i32 %b
  store float %next, float addrspace(1)* %q
  br label %end
end:
  ret void
}

;@ finds=SharedRace grid=2 block=128 args=f32:256:iota,f32:2:zero
define void @block_sums_without_the_barrier(float addrspace(1)* %in, float addrspace(1)* %out) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %n = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
  %base = mul i32 %b, %n
  %i = add i32 %base, %t
  %p = getelementptr float, float addrspace(1)* %in, i32 %i
  %v = load float, float addrspace(1)* %p
  %s = getelementptr [128 x float], [128 x float] addrspace(3)* @tile2, i32 0, i32 %t
  store float %v, float addrspace(3)* %s
  %first = icmp ult i32 %t, 32
  br i1 %first, label %warp, label %end
warp:
  %j1 = add i32 %t, 32
  %s1 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile2, i32 0, i32 %j1
  %v1 = load float, float addrspace(3)* %s1
  %j2 = add i32 %t, 64
  %s2 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile2, i32 0, i32 %j2
  %v2 = load float, float addrspace(3)* %s2
  %j3 = add i32 %t, 96
  %s3 = getelementptr [128 x float], [128 x float] addrspace(3)* @tile2, i32 0, i32 %j3
  %v3 = load float, float addrspace(3)* %s3
  %a1 = fadd float %v, %v1
  %a2 = fadd float %v2, %v3
  %a3 = fadd float %a1, %a2
  br label %loop
loop:
  %acc = phi float [ %a3, %warp ], [ %next, %loop ]
  %d = phi i32 [ 16, %warp ], [ %half, %loop ]
  %o = call float @llvm.nvvm.shfl.sync.down.f32(i32 -1, float %acc, i32 %d, i32 31)
  %next = fadd float %acc, %o
  %half = lshr i32 %d, 1
  %more = icmp ne i32 %half, 0
  br i1 %more, label %loop, label %done
done:
  %zero = icmp eq i32 %t, 0
  br i1 %zero, label %write, label %end
write:
  %q = getelementptr float, float addrspace(1)* %out, i32 %b
  store float %next, float addrspace(1)* %q
  br label %end
end:
  ret void
}

; A polynomial through a function that takes a structure by value and is not inlined.
define internal float @horner(%struct.pair* byval(%struct.pair) align 4 %c, float %x) noinline {
  %n.p = getelementptr %struct.pair, %struct.pair* %c, i32 0, i32 0
  %n = load i32, i32* %n.p
  br label %loop
loop:
  %i = phi i32 [ 0, %0 ], [ %i1, %loop ]
  %acc = phi float [ 0.0, %0 ], [ %f, %loop ]
  %cp = getelementptr %struct.pair, %struct.pair* %c, i32 0, i32 1, i32 %i
  %cv = load float, float* %cp
  %f = call float @llvm.fma.f32(float %acc, float %x, float %cv)
  %i1 = add i32 %i, 1
  %more = icmp slt i32 %i1, %n
  br i1 %more, label %loop, label %end
end:
  ret float %f
}
;@ clean grid=1 block=64 args=i32=3,f32=1,f32=2,f32=3,f32:64:iota
define void @polynomials(%struct.pair* byval(%struct.pair) align 4 %c, float addrspace(1)* %x) {
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %p = getelementptr float, float addrspace(1)* %x, i32 %t
  %v = load float, float addrspace(1)* %p
  %r = call float @horner(%struct.pair* byval(%struct.pair) align 4 %c, float %v)
  %k = and i32 %t, 3
  %w.p = getelementptr [4 x float], [4 x float] addrspace(4)* @weights, i32 0, i32 %k
  %w = load float, float addrspace(4)* %w.p
  %m = fmul float %r, %w
  store float %m, float addrspace(1)* %p
  ret void
}

; A switch, a local array indexed at run time, and an atomic on a variable of the module.
;@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
define void @counts(i32 addrspace(1)* %in, i32 addrspace(1)* %out) {
  %a = alloca [8 x i32], align 4
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  br label %fill
fill:
  %f = phi i32 [ 0, %0 ], [ %f1, %fill ]
  %fp = getelementptr [8 x i32], [8 x i32]* %a, i32 0, i32 %f
  store volatile i32 %f, i32* %fp
  %f1 = add i32 %f, 1
  %fm = icmp ult i32 %f1, 8
  br i1 %fm, label %fill, label %go
go:
  %p = getelementptr i32, i32 addrspace(1)* %in, i32 %t
  %v = load i32, i32 addrspace(1)* %p
  %k = and i32 %v, 7
  %kp = getelementptr [8 x i32], [8 x i32]* %a, i32 0, i32 %k
  %kv = load volatile i32, i32* %kp
  switch i32 %kv, label %other [ i32 0, label %zero
                                 i32 1, label %one
                                 i32 2, label %two
                                 i32 3, label %three
                                 i32 4, label %four ]
zero: br label %join
one: br label %join
two:
  %sq = mul i32 %v, %v
  br label %join
three: br label %join
four:
  %sh = shl i32 %v, 3
  br label %join
other:
  %old = atomicrmw add i32 addrspace(1)* @total, i32 1 monotonic
  br label %join
join:
  %r = phi i32 [ 100, %zero ], [ 7, %one ], [ %sq, %two ], [ 33, %three ], [ %sh, %four ], [ 1, %other ]
  %q = getelementptr i32, i32 addrspace(1)* %out, i32 %t
  store i32 %r, i32 addrspace(1)* %q
  ret void
}

;@ finds=UninitializedRead,OutOfBounds grid=1 block=64 args=i32:64:iota,i32:64:zero
define void @counts_of_other_places(i32 addrspace(1)* %in, i32 addrspace(1)* %out) {
  %a = alloca [8 x i32], align 4
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  br label %fill
fill:
  %f = phi i32 [ 0, %0 ], [ %f1, %fill ]
  %fp = getelementptr [8 x i32], [8 x i32]* %a, i32 0, i32 %f
  store volatile i32 %f, i32* %fp
  %f1 = add i32 %f, 1
  %fm = icmp ult i32 %f1, 8
  br i1 %fm, label %fill, label %go
go:
  %p = getelementptr i32, i32 addrspace(1)* %in, i32 %t
  %v = load i32, i32 addrspace(1)* %p
  %k = and i32 %v, 15
  %kp = getelementptr [8 x i32], [8 x i32]* %a, i32 0, i32 %k
  %kv = load volatile i32, i32* %kp
  switch i32 %kv, label %other [ i32 0, label %zero
                                 i32 1, label %one
                                 i32 2, label %two
                                 i32 3, label %three
                                 i32 4, label %four ]
zero: br label %join
one: br label %join
two:
  %sq = mul i32 %v, %v
  br label %join
three: br label %join
four:
  %sh = shl i32 %v, 3
  br label %join
other:
  %old = atomicrmw add i32 addrspace(1)* @total, i32 1 monotonic
  br label %join
join:
  %r = phi i32 [ 100, %zero ], [ 7, %one ], [ %sq, %two ], [ 33, %three ], [ %sh, %four ], [ 1, %other ]
  %q = getelementptr i32, i32 addrspace(1)* %out, i32 %t
  store i32 %r, i32 addrspace(1)* %q
  ret void
}

!nvvm.annotations = !{!0, !1, !2, !3, !4}
!0 = !{void (float addrspace(1)*, float addrspace(1)*)* @block_sums, !"kernel", i32 1}
!1 = !{void (%struct.pair*, float addrspace(1)*)* @polynomials, !"kernel", i32 1}
!2 = !{void (i32 addrspace(1)*, i32 addrspace(1)*)* @counts, !"kernel", i32 1}
!3 = !{void (float addrspace(1)*, float addrspace(1)*)* @block_sums_without_the_barrier, !"kernel", i32 1}
!4 = !{void (i32 addrspace(1)*, i32 addrspace(1)*)* @counts_of_other_places, !"kernel", i32 1}
