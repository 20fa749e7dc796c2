// Blocks that each have a share of one result: the last to be done with its own finds those of all
// the others in memory.
#pragma once

// Counts an arrival at `counter`; true for the last of `expected`. Releases what the thread has
// seen written, and acquires what the arrivals before it released. The last arrival wraps the
// counter around to 0, so that it is found as it was left, by whoever comes next.
__device__ inline bool arrives_last(unsigned* counter, unsigned expected) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(expected - 1)
                 : "memory");
    return before == expected - 1;
}

// The same for a block, by all its threads: what each of them wrote before is there for each of the
// last block's to read behind it.
__device__ inline bool block_arrives_last(unsigned* counter, unsigned expected) {
    __syncthreads();
    return __syncthreads_or(threadIdx.x == 0 && arrives_last(counter, expected));
}
