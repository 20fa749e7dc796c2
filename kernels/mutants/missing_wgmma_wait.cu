// Mutant of v3: nobody waits for the products.
// wrong: stages go back to the producer, and scores are used, while wgmma still works on them.
// shows: reports of tiles overwritten while they are read. ptxas puts waits in for the registers'
//        sake and says so, which `sdpa resources` does not let pass.
#include "machine/wgmma.cuh"
template <int PENDING>
__device__ inline void do_not_wait() {}
#define wgmma_wait do_not_wait
#include "v3.cu"
