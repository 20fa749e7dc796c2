// Barriers in shared memory that count arrivals and bytes: how the producer's copies and the
// consumers' reads take turns (PTX ISA, "mbarrier"). A barrier goes through phases; waiting for a
// phase names its parity.
#pragma once

#include "machine/shared_address.cuh"

struct Barrier {
    unsigned long long state;

    // By one thread, before anybody else touches it; `publish_barriers` and a block barrier follow.
    __device__ void initialise(unsigned arrivals) {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)),
                     "r"(arrivals)
                     : "memory");
    }

    __device__ void arrive() {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this))
                     : "memory");
    }

    // One arrival that also says how many bytes of copies the phase waits for.
    __device__ void arrive_and_expect(unsigned bytes) {
        asm volatile(
            "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)),
            "r"(bytes)
            : "memory");
    }

    // Until the phase with this parity is complete. A fresh barrier counts as having completed a
    // phase of parity 1.
    __device__ void wait(unsigned parity) {
        asm volatile(
            "{\n"
            ".reg .pred done;\n"
            "again:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@!done bra again;\n"
            // UNREACHED: the interpreter wakes a waiting thread when its phase is complete, so no
            // wait is tried twice.
            "}" ::"r"(shared_address(this)),
            "r"(parity)
            : "memory");
    }
};

// Makes initialised barriers visible to the copy engine.
__device__ inline void publish_barriers() {
    // UNNOTICED: PTX demands it; the interpreter's copies see barriers at once.
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Where a walk through a ring of stages stands: which stage, and the parity of its current phase.
template <int SIZE>
struct RingPosition {
    int stage = 0;
    unsigned parity = 0;

    __device__ void advance() {
        if (++stage == SIZE) {
            stage = 0;
            parity ^= 1;
        }
    }
};
