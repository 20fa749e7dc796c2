// Mutant of v2g: nobody puts the counter back.
// wrong: the next kernel finds arrivals that were not its own, and merges too early or never.
// shows: the interpreter's device looks at its words of tickets after each kernel.
#include "machine/tickets.cuh"
__device__ inline bool block_arrives_once(unsigned* counter, unsigned expected) {
    __syncthreads();
    bool last = false;
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicAdd(counter, 1u) == expected - 1;
        __threadfence();
    }
    return __syncthreads_or(last);
}
#define block_arrives_last block_arrives_once
#include "v2g.cu"
