// Mutant of v2g: an arrival releases and acquires within its block only.
// wrong: what other blocks wrote of their parts need not be visible to the one that merges them.
// shows: races between the blocks that wrote the parts and the one that merges them; seldom on a GPU.
#include "machine/tickets.cuh"
__device__ inline bool arrives_last_of_block(unsigned* counter, unsigned expected) {
    unsigned before;
    asm volatile("atom.acq_rel.cta.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(expected - 1)
                 : "memory");
    return before == expected - 1;
}
__device__ inline bool block_arrives_in_scope(unsigned* counter, unsigned expected) {
    __syncthreads();
    return __syncthreads_or(threadIdx.x == 0 && arrives_last_of_block(counter, expected));
}
#define block_arrives_last block_arrives_in_scope
#include "v2g.cu"
