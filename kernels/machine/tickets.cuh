// Words of the device that blocks count in: 0 before every kernel, and left 0 by every kernel.
// Blocks draw their next tile from one, or count in one which of them are done.
#pragma once

// The next number, from 0 on, of as many as `expected` draws. The last draw leaves the word as it
// was found; by an atomic operation, too: nothing but the word itself orders the blocks' accesses.
__device__ inline int draw_ticket(unsigned* word, int expected) {
    const int ticket = atomicAdd(word, 1u);
    if (ticket == expected - 1) atomicExch(word, 0u);
    return ticket;
}

// Counts an arrival at `counter`; true for the last of `expected`. Releases what the thread has
// seen written, and acquires what the arrivals before it released. The last arrival wraps the
// counter around to 0, so that the next kernel finds it as this one did.
__device__ inline bool arrives_last(unsigned* counter, unsigned expected) {
    unsigned before;
    asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(expected - 1)
                 : "memory");
    return before == expected - 1;
}

// The same for a block, by all its threads: what each of them wrote before, each thread of the last
// block can read after.
__device__ inline bool block_arrives_last(unsigned* counter, unsigned expected) {
    __syncthreads();
    return __syncthreads_or(threadIdx.x == 0 && arrives_last(counter, expected));
}
