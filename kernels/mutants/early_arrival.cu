// Mutant of v2g: a block arrives as soon as its first thread has written its columns.
// wrong: what the block's other threads wrote may come later.
// shows: races between the blocks that wrote the parts and the one that merges them.
#include "machine/tickets.cuh"
__device__ inline bool block_arrives_early(unsigned* counter, unsigned expected) {
    return __syncthreads_or(threadIdx.x == 0 && arrives_last(counter, expected));
}
#define block_arrives_last block_arrives_early
#include "v2g.cu"
