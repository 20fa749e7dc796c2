// cp.async, mbarriers, named barriers and warps with roles, on sm_80.
#include <cuda_pipeline.h>
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
DEVICE unsigned address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
DEVICE void init(unsigned long long* b, int n) { asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address(b)), "r"(n) : "memory"); }
DEVICE void arrive(unsigned long long* b) { asm volatile("{.reg .b64 t; mbarrier.arrive.shared.b64 t, [%0];}" ::"r"(address(b)) : "memory"); }
DEVICE bool done(unsigned long long* b, int parity) {
    int ok;
    asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.b32 %0, 1, 0, p;}" : "=r"(ok) : "r"(address(b)), "r"(parity) : "memory");
    return ok;
}
DEVICE void wait(unsigned long long* b, int parity) { while (!done(b, parity)) {} }

#define ROUND_TRIP(name, commit, waits, sync)                                      \
    KERNEL name(const int4* in, int4* out) {                                        \
        __shared__ int4 cells[64];                                                   \
        __pipeline_memcpy_async(&cells[threadIdx.x], &in[threadIdx.x], 16);          \
        commit;                                                                      \
        waits;                                                                       \
        sync;                                                                        \
        out[threadIdx.x] = cells[63 - threadIdx.x];                                  \
    }
//@ clean grid=1 block=64 args=i32:256:iota,i32:256:zero
ROUND_TRIP(copy, __pipeline_commit(), __pipeline_wait_prior(0), __syncthreads())
//@ finds=AsyncReadBeforeWait grid=1 block=64 args=i32:256:iota,i32:256:zero
ROUND_TRIP(copy_without_a_wait, __pipeline_commit(), (void)0, __syncthreads())
//@ finds=AsyncReadBeforeWait grid=1 block=64 args=i32:256:iota,i32:256:zero
ROUND_TRIP(copy_that_keeps_one_group, __pipeline_commit(), __pipeline_wait_prior(1), __syncthreads())
//@ finds=SharedRace,AsyncReadBeforeWait grid=1 block=64 args=i32:256:iota,i32:256:zero
ROUND_TRIP(copy_without_a_barrier, __pipeline_commit(), __pipeline_wait_prior(0), (void)0)
//@ finds=SharedRace,AsyncReadBeforeWait grid=1 block=64 args=i32:256:iota,i32:256:zero
ROUND_TRIP(copy_with_the_barrier_before_the_wait, __syncthreads(), __pipeline_commit(), __pipeline_wait_prior(0))

#define STAGES(name, between)                                                        \
    KERNEL name(const int* in, int* out, int tiles) {                                 \
        __shared__ int stages[2][64];                                                  \
        __pipeline_memcpy_async(&stages[0][threadIdx.x], &in[threadIdx.x], 4);         \
        __pipeline_commit();                                                           \
        int sum = 0;                                                                   \
        for (int tile = 0; tile < tiles; ++tile) {                                     \
            if (tile + 1 < tiles) __pipeline_memcpy_async(&stages[(tile + 1) & 1][threadIdx.x], &in[(tile + 1) * 64 + threadIdx.x], 4); \
            __pipeline_commit();                                                       \
            __pipeline_wait_prior(1);                                                  \
            __syncthreads();                                                           \
            sum += stages[tile & 1][63 - threadIdx.x];                                 \
            between;                                                                   \
        }                                                                              \
        out[threadIdx.x] = sum;                                                        \
    }
//@ clean grid=1 block=64 args=i32:320:iota,i32:64:zero,i32=5
STAGES(two_stages, __syncthreads())
//@ finds=SharedRace grid=1 block=64 args=i32:320:iota,i32:64:zero,i32=5
STAGES(two_stages_without_the_second_barrier, (void)0)

// The first warp writes what the second one reads, by mbarriers.
#define ROLES(name, full, empty)                                                       \
    KERNEL name(const int* in, int* out, int tiles) {                                   \
        __shared__ int stage[32];                                                        \
        __shared__ unsigned long long filled, emptied;                                   \
        if (threadIdx.x == 0) { init(&filled, 32); init(&emptied, 32); }                 \
        __syncthreads();                                                                 \
        int lane = threadIdx.x % 32;                                                     \
        for (int tile = 0; tile < tiles; ++tile) {                                       \
            if (threadIdx.x < 32) {                                                      \
                empty;                                                                   \
                stage[lane] = in[tile * 32 + lane];                                      \
                arrive(&filled);                                                         \
            } else {                                                                     \
                full;                                                                    \
                out[tile * 32 + lane] = stage[31 - lane];                                \
                arrive(&emptied);                                                        \
            }                                                                            \
        }                                                                                \
    }
//@ clean grid=1 block=64 args=i32:128:iota,i32:128:zero,i32=4
ROLES(roles, wait(&filled, tile & 1), wait(&emptied, (tile & 1) ^ 1))
//@ finds=SharedRace,UninitializedRead,BadMbarrier grid=1 block=64 args=i32:128:iota,i32:128:zero,i32=4
ROLES(roles_without_waiting_for_full, (void)0, wait(&emptied, (tile & 1) ^ 1))
//@ finds=SharedRace,BadMbarrier,Livelock grid=1 block=64 instructions=100000 args=i32:128:iota,i32:128:zero,i32=4
ROLES(roles_without_waiting_for_empty, wait(&filled, tile & 1), (void)0)
//@ finds=Deadlock,Livelock grid=1 block=64 args=i32:128:iota,i32:128:zero,i32=4 instructions=100000
ROLES(roles_with_the_wrong_parity, wait(&filled, tile & 1), wait(&emptied, tile & 1))

//@ finds=BadMbarrier,SharedRace,UninitializedRead grid=1 block=64 args=i32:1:zero
KERNEL mbarrier_without_a_barrier_after_its_start(int* out) {
    __shared__ unsigned long long b;
    if (threadIdx.x == 0) init(&b, 64);
    arrive(&b);
    wait(&b, 0);
    if (threadIdx.x == 0) out[0] = 1;
}
//@ finds=BadMbarrier grid=1 block=64 args=i32:1:zero
KERNEL mbarrier_with_too_many_arrivals(int* out) {
    __shared__ unsigned long long b;
    if (threadIdx.x == 0) init(&b, 48);
    __syncthreads();
    if (threadIdx.x < 2) asm volatile("{.reg .b64 t; mbarrier.arrive.noComplete.shared.b64 t, [%0], 40;}" ::"r"(address(&b)) : "memory");
    if (threadIdx.x == 0) out[0] = 1;
}

// Named barriers: a warp writes, another reads.
#define NAMED(name, produce, consume)                                                    \
    KERNEL name(const int* in, int* out) {                                                \
        __shared__ int cells[32];                                                          \
        int lane = threadIdx.x % 32;                                                       \
        if (threadIdx.x < 32) { cells[lane] = in[lane]; asm volatile(produce ::: "memory"); } \
        else { asm volatile(consume ::: "memory"); out[lane] = cells[31 - lane]; }         \
    }
//@ clean grid=1 block=64 args=i32:32:iota,i32:32:zero
NAMED(named_barrier, "bar.arrive 1, 64;", "bar.sync 1, 64;")
//@ finds=SharedRace,Deadlock,DivergentBarrier grid=1 block=64 args=i32:32:iota,i32:32:zero
NAMED(named_barrier_of_another_number, "bar.arrive 1, 64;", "bar.arrive 2, 64;")
//@ finds=Deadlock grid=1 block=64 args=i32:32:iota,i32:32:zero
NAMED(named_barrier_of_too_many_threads, "bar.arrive 1, 96;", "bar.sync 1, 96;")
//@ finds=SharedRace,UninitializedRead grid=1 block=64 args=i32:32:iota,i32:32:zero
NAMED(named_barrier_that_only_arrives, "bar.arrive 1, 64;", "bar.arrive 1, 64;")

//@ finds=DivergentBarrier,Deadlock grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL barrier_in_a_branch(const int* in, int* out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = in[threadIdx.x];
    if (in[threadIdx.x] % 2) __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x];
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:1:zero
KERNEL barrier_that_counts(const int* in, int* out) {
    int odd = __syncthreads_count(in[threadIdx.x] % 2);
    if (threadIdx.x == 0) { out[0] = odd; if (odd != 32) __trap(); }
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL copies_that_arrive_at_an_mbarrier(const int* in, int* out) {
    __shared__ int cells[64];
    __shared__ unsigned long long b;
    if (threadIdx.x == 0) init(&b, 64);
    __syncthreads();
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address(&cells[threadIdx.x])), "l"(in + threadIdx.x) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address(&b)) : "memory");
    wait(&b, 0);
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
//@ finds=SharedRace,AsyncReadBeforeWait grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL copies_that_nobody_waits_for(const int* in, int* out) {
    __shared__ int cells[64];
    __shared__ unsigned long long b;
    if (threadIdx.x == 0) init(&b, 64);
    __syncthreads();
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(address(&cells[threadIdx.x])), "l"(in + threadIdx.x) : "memory");
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address(&b)) : "memory");
    out[threadIdx.x] = cells[63 - threadIdx.x];
}
