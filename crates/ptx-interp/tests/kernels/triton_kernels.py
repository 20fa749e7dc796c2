"""Makes triton/*.ptx with Triton 3.9, or checks that they are the same. It needs no GPU.

usage: triton_kernels.py [--check]

The PTX of Triton is another compiler's: scalars are loaded by all threads, guards stand on single instructions of inline
assembly, tensor copies and wgmma are scheduled by it. `#@` before a kernel says how it is launched and what the
interpreter finds: see tests/it/kernels.rs. Two pointers that Triton adds to every kernel are the last arguments.
"""
import pathlib
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from make import compact

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = []


def kernel(*types, arch=80, warps=2, **constants):
    """Notes a kernel with the types of its arguments and the values of its constants."""

    def note(function):
        KERNELS.append((triton.jit(function), types, arch, warps, constants))
        return function

    return note


#@ clean grid=4 block=64 args=f32:1000:iota,f32:1000:iota,f32:1000:zero,i32=1000,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", "*fp32", "i32", BLOCK=256)
def sums(x, y, out, length, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = at < length
    tl.store(out + at, tl.load(x + at, mask=keep) + tl.load(y + at, mask=keep), mask=keep)


#@ finds=OutOfBounds grid=4 block=64 args=f32:1000:iota,f32:1000:iota,f32:1000:zero,i32=1001,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", "*fp32", "i32", BLOCK=256)
def sums_of_one_too_many(x, y, out, length, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = at < length
    tl.store(out + at, tl.load(x + at, mask=keep) + tl.load(y + at, mask=keep), mask=keep)


#@ clean grid=4 block=128 shared=1024 args=f32:1000:iota,f32:1000:zero,i32=250,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", "i32", BLOCK=256, warps=4)
def softmax(x, out, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0) * columns
    at = tl.arange(0, BLOCK)
    keep = at < columns
    value = tl.load(x + row + at, mask=keep, other=float("-inf"))
    value = tl.exp(value - tl.max(value, 0))
    tl.store(out + row + at, value / tl.sum(value, 0), mask=keep)


#@ clean grid=4 block=64 args=i32:500:iota,i32:8:zero,i32=500,i32:4:zero,i32:4:zero
@kernel("*i32", "*i32", "i32", BLOCK=128)
def histogram(x, bins, length, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = at < length
    tl.atomic_add(bins + tl.load(x + at, mask=keep, other=0) % 8, 1, mask=keep)


#@ clean grid=1 block=128 shared=1024 args=f32:256:iota,f32:256:zero,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", BLOCK=256, warps=4, arch=90)
def prefix(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.cumsum(tl.load(x + at), 0))


#@ clean grid=1 block=64 shared=2048 args=f32:128:iota,f32:128:zero,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", BLOCK=128, arch=90)
def reverse(x, out, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out + at, tl.sort(tl.load(x + at), descending=True))


# Copies of cp.async in two stages, ldmatrix and mma.sync.
#@ clean grid=1 block=128 shared=65536 args=f16:8192:iota,f16:8192:iota,f32:4096:zero,i32=128,i32:4:zero,i32:4:zero
@kernel("*fp16", "*fp16", "*fp32", "i32", M=64, N=64, BK=32, warps=4)
def product(a, b, c, depth, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    rows, columns, within = tl.arange(0, M), tl.arange(0, N), tl.arange(0, BK)
    sums = tl.zeros((M, N), tl.float32)
    for k in range(0, depth, BK):
        left = tl.load(a + rows[:, None] * depth + (k + within)[None, :])
        sums = tl.dot(left, tl.load(b + (k + within)[:, None] * N + columns[None, :]), sums)
    tl.store(c + rows[:, None] * N + columns[None, :], sums)


# The same with wgmma.
#@ clean grid=1 block=128 shared=65536 args=f16:8192:iota,f16:8192:iota,f32:4096:zero,i32=128,i32:4:zero,i32:4:zero
@kernel("*fp16", "*fp16", "*fp32", "i32", M=64, N=64, BK=32, warps=4, arch=90)
def product_of_a_warpgroup(a, b, c, depth, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    rows, columns, within = tl.arange(0, M), tl.arange(0, N), tl.arange(0, BK)
    sums = tl.zeros((M, N), tl.float32)
    for k in range(0, depth, BK):
        left = tl.load(a + rows[:, None] * depth + (k + within)[None, :])
        sums = tl.dot(left, tl.load(b + (k + within)[:, None] * N + columns[None, :]), sums)
    tl.store(c + rows[:, None] * N + columns[None, :], sums)


# All threads load the scalar, and thread 0 stores it: without a barrier in between, the block races with itself.
#@ finds=GlobalRace grid=3 block=64 shared=1024 args=i32:1:zero,f32:1:zero,f32:384:iota,i32:4:zero,i32:4:zero
@kernel("*i32", "*fp32", "*fp32", BLOCK=128)
def lock_without_a_barrier(lock, total, x, BLOCK: tl.constexpr):
    value = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    tl.store(total, tl.load(total) + value)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


#@ clean grid=3 block=64 shared=1024 args=i32:1:zero,f32:1:zero,f32:384:iota,i32:4:zero,i32:4:zero
@kernel("*i32", "*fp32", "*fp32", BLOCK=128)
def lock(lock, total, x, BLOCK: tl.constexpr):
    value = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    value += tl.load(total)
    tl.debug_barrier()
    tl.store(total, value)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)


#@ clean grid=4 block=64 shared=1024 args=f32:512:iota,f32:4:zero,i32:1:zero,f32:1:zero,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", "*i32", "*fp32", BLOCK=128, BLOCKS=4, arch=90)
def last_block(x, partial, count, out, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    own = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0)
    tl.store(partial + tl.program_id(0), own)
    tl.debug_barrier()
    if tl.atomic_add(count, 1, sem="acq_rel") == BLOCKS - 1:
        tl.store(out, tl.sum(tl.load(partial + tl.arange(0, BLOCKS)), 0))


#@ finds=GlobalRace grid=4 block=64 shared=1024 args=f32:512:iota,f32:4:zero,i32:1:zero,f32:1:zero,i32:4:zero,i32:4:zero
@kernel("*fp32", "*fp32", "*i32", "*fp32", BLOCK=128, BLOCKS=4, arch=90)
def last_block_relaxed(x, partial, count, out, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    own = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), 0)
    tl.store(partial + tl.program_id(0), own)
    tl.debug_barrier()
    if tl.atomic_add(count, 1, sem="relaxed") == BLOCKS - 1:
        tl.store(out, tl.sum(tl.load(partial + tl.arange(0, BLOCKS)), 0))


# Tensor copies with mbarriers in three stages, wgmma, and a store by a tensor copy; tests/it/foreign.rs launches it.
@kernel("tensordesc<fp16[64,64]>", "tensordesc<fp16[64,64]>", "tensordesc<fp16[64,64]>", "i32", M=64, N=64, BK=64, warps=4, arch=90)
def product_of_tensors(a, b, c, depth, M: tl.constexpr, N: tl.constexpr, BK: tl.constexpr):
    sums = tl.zeros((M, N), tl.float32)
    for k in range(0, depth, BK):
        sums = tl.dot(a.load([0, k]), b.load([k, 0]), sums)
    c.store([0, 0], sums.to(tl.float16))


def main():
    for function, types, arch, warps, constants in KERNELS:
        names = function.arg_names
        signature = dict(zip(names, types)) | {name: "constexpr" for name in names[len(types) :]}
        source = ASTSource(function, signature, constants)
        options = {"num_warps": warps, "num_stages": 3}
        compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
        ptx, path = compact(compiled.asm["ptx"]), HERE / "triton" / f"{function.__name__}.ptx"
        if "--check" not in sys.argv:
            path.write_text(ptx)
        elif path.read_text() != ptx:
            sys.exit(f"{path.name} is not what {pathlib.Path(__file__).name} makes")


main()
