// Warpgroups (sm_90): four warps that multiply together, share registers out among themselves and
// meet at barriers of their own.
#pragma once

#include "machine/warp.cuh"

constexpr int WARPGROUP_SIZE = 128;
constexpr int WARPGROUP_WARPS = WARPGROUP_SIZE / WARP_SIZE;

// This thread's; from the warp's first lane, so that the compiler sees that a warp agrees on it.
__device__ inline int warpgroup_index() {
    return __shfl_sync(ALL_LANES, threadIdx.x / WARPGROUP_SIZE, 0);
}

// Gives registers back, or takes some that others gave back. The whole warpgroup takes part.
template <int REGISTERS>
__device__ inline void shrink_registers() {
    // UNNOTICED: a kernel that keeps the registers it was launched with computes the same.
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}
template <int REGISTERS>
__device__ inline void grow_registers() {
    // UNNOTICED: a kernel that keeps the registers it was launched with computes the same.
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

// Named barriers, 16 a block: 0 is __syncthreads, and the warpgroups have the first ones after it.
__device__ inline void named_barrier_sync(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void named_barrier_arrive(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Where the warps of one warpgroup meet.
__device__ inline void warpgroup_sync(int warpgroup) {
    named_barrier_sync(1 + warpgroup, WARPGROUP_SIZE);
}

// Warpgroups that take turns, in a circle: `take` waits until the one before has passed its turn
// on.
template <int WARPGROUPS>
class TurnTaking {
    static constexpr int FIRST_BARRIER = 8;  // behind those of `warpgroup_sync`
    static constexpr int PAIR = 2 * WARPGROUP_SIZE;
    int warpgroup;
    bool enabled;

public:
    __device__ TurnTaking(int warpgroup, bool enabled) : warpgroup(warpgroup), enabled(enabled) {
        if (warpgroup == WARPGROUPS - 1) pass();  // the first one begins
    }
    __device__ void take() const {
        if (enabled) named_barrier_sync(FIRST_BARRIER + warpgroup, PAIR);
    }
    __device__ void pass() const {
        const int next = (warpgroup + 1) % WARPGROUPS;
        if (enabled) named_barrier_arrive(FIRST_BARRIER + next, PAIR);
    }
    // All have as many turns; who has nothing to do in one passes it on.
    __device__ void pass_unused() const {
        take();
        pass();
    }
};
