// WMMA blocks of 16×16 and how they get out of shared memory.
#pragma once

#include <mma.h>

#include "common/element.cuh"

namespace wmma = nvcuda::wmma;

constexpr int BLOCK = 16;  // WMMA's edge: a warp multiplies 16×16 by 16×16

template <typename Layout>
using LeftBlock = wmma::fragment<wmma::matrix_a, BLOCK, BLOCK, BLOCK, Element, Layout>;
template <typename Layout>
using RightBlock = wmma::fragment<wmma::matrix_b, BLOCK, BLOCK, BLOCK, Element, Layout>;
using SumBlock = wmma::fragment<wmma::accumulator, BLOCK, BLOCK, BLOCK, float>;

#ifdef DTYPE_BF16
// load_matrix_sync for bf16 takes a generic address, whatever the pointer points to: ten times as
// many instructions as ldmatrix, which wants a shared one. So we say the word ourselves.
#define LOAD_BLOCK(BlockType, operand, layout)                                                    \
    __device__ inline void load_block(BlockType<wmma::layout##_major>& block,                     \
                                      const Element* source, int row_stride) {                    \
        auto* registers = reinterpret_cast<unsigned*>(&block);                                    \
        asm volatile("wmma.load." operand ".sync.aligned." #layout                                \
                     ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;"                         \
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]),                \
                       "=r"(registers[3])                                                         \
                     : "l"(__cvta_generic_to_shared(source)), "r"(row_stride)                     \
                     : "memory");                                                                 \
    }
LOAD_BLOCK(LeftBlock, "a", row)
LOAD_BLOCK(RightBlock, "b", row)
LOAD_BLOCK(RightBlock, "b", col)
#undef LOAD_BLOCK
#else
template <typename BlockType>
__device__ inline void load_block(BlockType& block, const Element* source, int row_stride) {
    wmma::load_matrix_sync(block, source, row_stride);
}
#endif
