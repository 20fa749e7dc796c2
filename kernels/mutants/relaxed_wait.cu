// Mutant of v3: waits on barriers are relaxed.
// wrong: that a phase is complete does not make visible what the arrivals before it released.
// shows: races and copies read before their wait; never on a GPU so far.
#include "machine/shared_address.cuh"
#define Barrier AcquiringBarrier
#include "machine/mbarrier.cuh"
#undef Barrier
struct Barrier : AcquiringBarrier {
    __device__ void wait(unsigned parity) {
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 done, [%0], %1;\n"
            "@!done bra again;\n"
            "}" ::"r"(shared_address(this)),
            "r"(parity)
            : "memory");
    }
};
#include "v3.cu"
