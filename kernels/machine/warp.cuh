// Threads of a warp: who am I, and reductions over neighbouring lanes.
#pragma once

constexpr int WARP_SIZE = 32;
constexpr unsigned ALL_LANES = 0xffffffff;

// threadIdx.x, read anew at each call. The compiler computes what follows from threadIdx.x once and
// keeps it in registers across the whole loop over the key tiles; where registers are scarce it is
// cheaper to work out a lane's place and its addresses again in each phase. (Signed on purpose:
// from an unsigned index NVRTC 13.0 no longer merges neighbouring stores into wide ones.)
__device__ inline int thread_index() {
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// LANES is a power of two up to the whole warp. Every lane of the warp takes part; every lane of a
// group gets its group's result.
template <int LANES>
__device__ inline float group_sum(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        x += __shfl_xor_sync(ALL_LANES, x, distance);
    }
    return x;
}

template <int LANES>
__device__ inline float group_max(float x) {
#pragma unroll
    for (int distance = LANES / 2; distance > 0; distance /= 2) {
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, distance));
    }
    return x;
}

// Of a 4×4 matrix whose columns four neighbouring lanes hold, each lane gets a row; `member` is the
// lane's place among the four.
__device__ inline void transpose_among_four(unsigned (&x)[4], int member) {
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2) {
        const bool upper = member & bit;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i & bit) continue;
            const unsigned mine = upper ? x[i] : x[i | bit];
            const unsigned theirs = __shfl_xor_sync(ALL_LANES, mine, bit);
            if (upper) {
                x[i] = theirs;
            } else {
                x[i | bit] = theirs;
            }
        }
    }
}
