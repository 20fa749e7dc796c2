// Mutant of v2g: blocks count their arrivals and order nothing else by it.
// wrong: a relaxed counter says that the others are done, not that their parts can be seen.
// shows: races between the blocks that wrote the parts and the one that merges them.
#include "machine/tickets.cuh"
__device__ inline bool block_arrives_unordered(unsigned* counter, unsigned expected) {
    __syncthreads();
    return __syncthreads_or(threadIdx.x == 0 &&
                            atomicInc(counter, expected - 1) == expected - 1);
}
#define block_arrives_last block_arrives_unordered
#include "v2g.cu"
