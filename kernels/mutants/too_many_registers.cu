// Mutant of v3c: the consumers ask for more registers than the block was launched with.
// wrong: together with the producer's they are more than there are, so the block waits for ever.
// shows: never in values; registers must be added up.
#include "machine/warpgroup.cuh"
template <int REGISTERS>
__device__ inline void grow_too_far() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS + 8));
}
#define grow_registers grow_too_far
#include "v3c.cu"
