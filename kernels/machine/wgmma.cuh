// Hopper's tensor cores (sm_90a): a warpgroup multiplies 64 rows at a time, asynchronously,
// straight from shared memory. PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

#include "machine/element.cuh"
#include "machine/shared_address.cuh"

// A matrix in shared memory as wgmma sees it: boxes of 64 columns (128 bytes a row) in the 128-byte
// swizzle, 1024-byte aligned, which is what `load_box` makes. PTX ISA, "Matrix descriptor".
class Descriptor {
    // Only this half differs from matrix to matrix. Sums of 64 bits would carry, and every one of
    // them is taken between a tile's arrival and its product.
    unsigned low;

    static constexpr unsigned EIGHT_ROWS = 8 * 128;  // bytes: the unit that the swizzle permutes
    static constexpr unsigned SWIZZLE_128_BYTES = 1u << 30;
    static constexpr unsigned HIGH = EIGHT_ROWS >> 4 | SWIZZLE_128_BYTES;

    __device__ explicit Descriptor(unsigned low) : low(low) {}

public:
    // `box_bytes` lie between a box and the next 64 columns: needed where rows are the depth of the
    // product (V), not where columns are (Q and K).
    __device__ Descriptor(unsigned address, unsigned box_bytes)
        : low((address & 0x3ffff) >> 4 | box_bytes >> 4 << 16) {}

    // The same matrix, `bytes` (a multiple of 16) further on.
    __device__ Descriptor advanced(unsigned bytes) const { return Descriptor(low + (bytes >> 4)); }
    __device__ unsigned long long encoded() const {
        return static_cast<unsigned long long>(HIGH) << 32 | low;
    }
};

// Before the first product, and whenever registers that a product uses were touched.
__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most PENDING groups of products are under way.
template <int PENDING>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

// The compiler takes an accumulator for finished when the product is issued: this keeps its uses
// behind the wait, and its earlier changes before the issue.
template <int COUNT>
__device__ inline void pin(float (&registers)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

#ifdef DTYPE_BF16
#define WGMMA_TYPES "f32.bf16.bf16"
#else
#define WGMMA_TYPES "f32.f16.f16"
#endif

// Wgmma<N>: accumulator[64×N] (+)= left[64×16] · right[16×N].
//   multiply_shared     left in shared memory, right as its transpose; depth along columns in both
//   multiply_registers  left in registers, as mma.sync's operand; right with its depth along rows
// Where `accumulate` is 0 the accumulator is overwritten. A thread holds, like an mma.sync
// accumulator, [row 16 · warp + lane / 4 + 8 · half][column 8 · j + lane % 4 · 2 + i] at
// 4 · j + 2 · half + i.
template <int N>
struct Wgmma;

// Operands are numbered, accumulators first: WGMMA(N, accumulators, the six numbers after them).
#define WGMMA(N, COUNT, O0, O1, O2, O3, O4, O5)                                                  \
    template <>                                                                                  \
    struct Wgmma<N> {                                                                            \
        __device__ static void multiply_shared(float (&c)[COUNT], Descriptor left,               \
                                               Descriptor right, int accumulate) {               \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #O2                                \
                         ", 0;\n"                                                                \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16." WGMMA_TYPES               \
                         " {" NAMES_##COUNT "}, %" #O0 ", %" #O1 ", p, 1, 1, 0, 0;\n}"           \
                         : REGISTERS_##COUNT(c)                                                  \
                         : "l"(left.encoded()), "l"(right.encoded()), "r"(accumulate));          \
        }                                                                                        \
        __device__ static void multiply_registers(float (&c)[COUNT], const unsigned* left,       \
                                                  Descriptor right, int accumulate) {            \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #O5                                \
                         ", 0;\n"                                                                \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16." WGMMA_TYPES               \
                         " {" NAMES_##COUNT "}, {%" #O0 ", %" #O1 ", %" #O2 ", %" #O3 "}, %" #O4 \
                                            ", p, 1, 1, 1;\n}"                                   \
                         : REGISTERS_##COUNT(c)                                                  \
                         : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]),               \
                           "l"(right.encoded()), "r"(accumulate));                               \
        }                                                                                        \
    };

#define NAMES_FROM_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define NAMES_FROM_8 "%8, %9, %10, %11, %12, %13, %14, %15"
#define NAMES_FROM_16 "%16, %17, %18, %19, %20, %21, %22, %23"
#define NAMES_FROM_24 "%24, %25, %26, %27, %28, %29, %30, %31"
#define NAMES_FROM_32 "%32, %33, %34, %35, %36, %37, %38, %39"
#define NAMES_FROM_40 "%40, %41, %42, %43, %44, %45, %46, %47"
#define NAMES_FROM_48 "%48, %49, %50, %51, %52, %53, %54, %55"
#define NAMES_FROM_56 "%56, %57, %58, %59, %60, %61, %62, %63"
#define NAMES_FROM_64 "%64, %65, %66, %67, %68, %69, %70, %71"
#define NAMES_FROM_72 "%72, %73, %74, %75, %76, %77, %78, %79"
#define NAMES_FROM_80 "%80, %81, %82, %83, %84, %85, %86, %87"
#define NAMES_FROM_88 "%88, %89, %90, %91, %92, %93, %94, %95"
#define NAMES_FROM_96 "%96, %97, %98, %99, %100, %101, %102, %103"
#define NAMES_FROM_104 "%104, %105, %106, %107, %108, %109, %110, %111"
#define NAMES_FROM_112 "%112, %113, %114, %115, %116, %117, %118, %119"
#define NAMES_FROM_120 "%120, %121, %122, %123, %124, %125, %126, %127"
#define REGISTERS_FROM(c, i)                                                                    \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]), \
        "+f"(c[i + 6]), "+f"(c[i + 7])

#define NAMES_8 NAMES_FROM_0
#define REGISTERS_8(c) REGISTERS_FROM(c, 0)
#define NAMES_16 NAMES_8 ", " NAMES_FROM_8
#define REGISTERS_16(c) REGISTERS_8(c), REGISTERS_FROM(c, 8)
#define NAMES_24 NAMES_16 ", " NAMES_FROM_16
#define REGISTERS_24(c) REGISTERS_16(c), REGISTERS_FROM(c, 16)
#define NAMES_32 NAMES_24 ", " NAMES_FROM_24
#define REGISTERS_32(c) REGISTERS_24(c), REGISTERS_FROM(c, 24)
#define NAMES_40 NAMES_32 ", " NAMES_FROM_32
#define REGISTERS_40(c) REGISTERS_32(c), REGISTERS_FROM(c, 32)
#define NAMES_48 NAMES_40 ", " NAMES_FROM_40
#define REGISTERS_48(c) REGISTERS_40(c), REGISTERS_FROM(c, 40)
#define NAMES_56 NAMES_48 ", " NAMES_FROM_48
#define REGISTERS_56(c) REGISTERS_48(c), REGISTERS_FROM(c, 48)
#define NAMES_64 NAMES_56 ", " NAMES_FROM_56
#define REGISTERS_64(c) REGISTERS_56(c), REGISTERS_FROM(c, 56)
#define NAMES_72 NAMES_64 ", " NAMES_FROM_64
#define REGISTERS_72(c) REGISTERS_64(c), REGISTERS_FROM(c, 64)
#define NAMES_80 NAMES_72 ", " NAMES_FROM_72
#define REGISTERS_80(c) REGISTERS_72(c), REGISTERS_FROM(c, 72)
#define NAMES_88 NAMES_80 ", " NAMES_FROM_80
#define REGISTERS_88(c) REGISTERS_80(c), REGISTERS_FROM(c, 80)
#define NAMES_96 NAMES_88 ", " NAMES_FROM_88
#define REGISTERS_96(c) REGISTERS_88(c), REGISTERS_FROM(c, 88)
#define NAMES_104 NAMES_96 ", " NAMES_FROM_96
#define REGISTERS_104(c) REGISTERS_96(c), REGISTERS_FROM(c, 96)
#define NAMES_112 NAMES_104 ", " NAMES_FROM_104
#define REGISTERS_112(c) REGISTERS_104(c), REGISTERS_FROM(c, 104)
#define NAMES_120 NAMES_112 ", " NAMES_FROM_112
#define REGISTERS_120(c) REGISTERS_112(c), REGISTERS_FROM(c, 112)
#define NAMES_128 NAMES_120 ", " NAMES_FROM_120
#define REGISTERS_128(c) REGISTERS_120(c), REGISTERS_FROM(c, 120)

WGMMA(64, 32, 32, 33, 34, 35, 36, 37)
WGMMA(80, 40, 40, 41, 42, 43, 44, 45)
WGMMA(96, 48, 48, 49, 50, 51, 52, 53)
WGMMA(112, 56, 56, 57, 58, 59, 60, 61)
WGMMA(128, 64, 64, 65, 66, 67, 68, 69)
WGMMA(176, 88, 88, 89, 90, 91, 92, 93)
WGMMA(192, 96, 96, 97, 98, 99, 100, 101)
WGMMA(256, 128, 128, 129, 130, 131, 132, 133)
#undef WGMMA
