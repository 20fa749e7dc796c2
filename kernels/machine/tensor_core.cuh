// Tensor cores as the portable hardware wants them (sm_80): fragments are registers whose layout is
// part of the instruction, filled by ldmatrix and consumed by mma.sync. PTX ISA, "Matrix
// multiply-accumulate operation using mma instruction".
#pragma once

#include "machine/element.cuh"

// Four 8×8 matrices of 16-bit elements: lane l gives the shared-memory address of row l % 8 of
// matrix l / 8, and receives of each matrix the two neighbours [l / 4][2 · (l % 4)].
__device__ inline void load_matrices(unsigned (&fragment)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed: what a row-major V needs to be the column operand.
__device__ inline void load_matrices_transposed(unsigned (&fragment)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(address)
                 : "memory");
}

// accumulator[16×8] += left[16×16] · right[16×8], in f32.
__device__ inline void multiply_accumulate(float (&accumulator)[4], const unsigned (&left)[4],
                                           unsigned right_low, unsigned right_high) {
#ifdef DTYPE_BF16
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
#endif
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(accumulator[0]), "+f"(accumulator[1]), "+f"(accumulator[2]), "+f"(accumulator[3])
        : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right_low), "r"(right_high));
}
