// Clusters, bulk copies, relaxed mbarriers, wgmma and register budgets, on sm_90a.
#include <cooperative_groups.h>
namespace cg = cooperative_groups;
#define KERNEL extern "C" __global__ void
#define DEVICE __device__ __forceinline__
DEVICE unsigned address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }
DEVICE void init(unsigned long long* b, int n) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address(b)), "r"(n) : "memory"); }
DEVICE void arrive(unsigned long long* b) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address(b)) : "memory"); }
DEVICE void arrive_relaxed(unsigned long long* b) { asm volatile("mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [%0];" ::"r"(address(b)) : "memory"); }
DEVICE void expect(unsigned long long* b, int n) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address(b)), "r"(n) : "memory"); }
DEVICE void wait(unsigned long long* b, int parity) {
    asm volatile("{.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@!p bra L;}" ::"r"(address(b)), "r"(parity) : "memory");
}
DEVICE void wait_relaxed(unsigned long long* b, int parity) {
    asm volatile("{.reg .pred p;\nL: mbarrier.try_wait.parity.relaxed.cta.shared::cta.b64 p, [%0], %1;\n@!p bra L;}" ::"r"(address(b)), "r"(parity) : "memory");
}
DEVICE void none() {}

#define HAND_OVER(name, before, arrives, waits, after)                   \
    KERNEL name(const int* in, int* out) {                                \
        __shared__ int cells[32];                                          \
        __shared__ unsigned long long b;                                   \
        if (threadIdx.x == 0) init(&b, 32);                                \
        __syncthreads();                                                   \
        int lane = threadIdx.x % 32;                                       \
        if (threadIdx.x < 32) { cells[lane] = in[lane]; before; arrives(&b); } \
        else { waits(&b, 0); after; out[lane] = cells[31 - lane]; }        \
    }
//@ clean grid=1 block=64 args=i32:32:iota,i32:32:zero
HAND_OVER(mbarrier, none(), arrive, wait, none())
//@ clean grid=1 block=64 args=i32:32:iota,i32:32:zero
HAND_OVER(mbarrier_relaxed_with_fences, __threadfence_block(), arrive_relaxed, wait_relaxed, __threadfence_block())
//@ finds=SharedRace grid=1 block=64 args=i32:32:iota,i32:32:zero
HAND_OVER(mbarrier_relaxed_arrival, none(), arrive_relaxed, wait, none())
//@ finds=SharedRace grid=1 block=64 args=i32:32:iota,i32:32:zero
HAND_OVER(mbarrier_relaxed_wait, none(), arrive, wait_relaxed, none())

// Two blocks exchange through shared memory of the cluster, by generic addresses.
#define EXCHANGE(name, first, last)                                        \
    KERNEL __cluster_dims__(2) name(const int* in, int* out) {              \
        __shared__ int cells[32];                                            \
        auto cluster = cg::this_cluster();                                   \
        cells[threadIdx.x] = in[blockIdx.x * 32 + threadIdx.x];              \
        first;                                                               \
        int* other = cluster.map_shared_rank(cells, cluster.block_rank() ^ 1); \
        out[blockIdx.x * 32 + threadIdx.x] = other[31 - threadIdx.x];        \
        last;                                                                \
    }
//@ clean grid=4 block=32 args=i32:128:iota,i32:128:zero
EXCHANGE(cluster_exchange, cluster.sync(), cluster.sync())
//@ finds=SharedRace,UninitializedRead,OutOfBounds grid=4 block=32 args=i32:128:iota,i32:128:zero
EXCHANGE(cluster_exchange_with_block_barriers, __syncthreads(), cluster.sync())
//@ finds=OutOfBounds grid=4 block=32 args=i32:128:iota,i32:128:zero
EXCHANGE(cluster_exchange_that_ends_early, cluster.sync(), none())
//@ finds=SharedRace,UninitializedRead grid=4 block=32 args=i32:128:iota,i32:128:zero
EXCHANGE(cluster_exchange_relaxed, asm volatile("barrier.cluster.arrive.relaxed.aligned; barrier.cluster.wait.aligned;" ::: "memory"), cluster.sync())

//@ clean grid=4 block=32 args=i32:128:iota,i32:4:zero
KERNEL __cluster_dims__(4) cluster_atomics(const int* in, int* out) {
    __shared__ int sum;
    auto cluster = cg::this_cluster();
    if (threadIdx.x == 0) sum = 0;
    cluster.sync();
    atomicAdd(cluster.map_shared_rank(&sum, 0), in[blockIdx.x * 32 + threadIdx.x]);
    cluster.sync();
    if (threadIdx.x == 0) out[blockIdx.x] = *cluster.map_shared_rank(&sum, 0);
    cluster.sync();
}
//@ finds=SharedRace grid=4 block=32 args=i32:128:iota,i32:4:zero
KERNEL __cluster_dims__(4) cluster_atomics_of_the_block(const int* in, int* out) {
    __shared__ int sum;
    auto cluster = cg::this_cluster();
    if (threadIdx.x == 0) sum = 0;
    cluster.sync();
    atomicAdd_block(cluster.map_shared_rank(&sum, 0), in[blockIdx.x * 32 + threadIdx.x]);
    cluster.sync();
    if (threadIdx.x == 0) out[blockIdx.x] = *cluster.map_shared_rank(&sum, 0);
    cluster.sync();
}

// Blocks of a cluster hand over through global memory, by cluster scope, and other clusters are too far.
#define GLOBAL_FLAG(name, reader)                                                                     \
    KERNEL __cluster_dims__(2) name(int* data, int* flag, int* out) {                                  \
        if (threadIdx.x == 0 && blockIdx.x == 0) { data[0] = 1; asm volatile("st.release.cluster.global.s32 [%0], 1;" ::"l"(flag) : "memory"); } \
        if (threadIdx.x == 0 && blockIdx.x == reader) {                                                \
            int seen;                                                                                  \
            do asm volatile("ld.acquire.cluster.global.s32 %0, [%1];" : "=r"(seen) : "l"(flag) : "memory"); while (!seen); \
            out[0] = data[0];                                                                          \
        }                                                                                              \
    }
//@ clean grid=4 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
GLOBAL_FLAG(flag_in_a_cluster, 1)
//@ finds=GlobalRace grid=4 block=32 args=i32:1:zero,i32:1:zero,i32:1:zero
GLOBAL_FLAG(flag_between_clusters, 2)

//@ clean grid=4 block=32 args=f32:64:zero
KERNEL bulk_reductions(float* out) {
    __shared__ alignas(16) float cells[64];
    for (int i = threadIdx.x; i < 64; i += 32) cells[i] = i;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], 256;" ::"l"(out), "r"(address(cells)) : "memory");
        asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
//@ finds=GlobalRace grid=4 block=32 args=f32:64:zero
KERNEL bulk_stores_to_one_place(float* out) {
    __shared__ alignas(16) float cells[64];
    for (int i = threadIdx.x; i < 64; i += 32) cells[i] = i + blockIdx.x;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (threadIdx.x == 0) {
        asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 256;" ::"l"(out), "r"(address(cells)) : "memory");
        asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");
    }
}
#define BULK_STORE(name, fence)                                                                      \
    KERNEL name(float* out) {                                                                         \
        __shared__ alignas(16) float cells[32];                                                        \
        cells[threadIdx.x] = threadIdx.x;                                                              \
        asm volatile(fence ::: "memory");                                                              \
        __syncthreads();                                                                               \
        if (threadIdx.x == 0) {                                                                        \
            asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 128;" ::"l"(out), "r"(address(cells)) : "memory"); \
            asm volatile("cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;" ::: "memory");      \
        }                                                                                              \
    }
//@ clean grid=1 block=32 args=f32:32:zero
BULK_STORE(bulk_store, "fence.proxy.async.shared::cta;")
//@ clean grid=1 block=32 args=f32:32:zero
BULK_STORE(bulk_store_with_the_wide_fence, "fence.proxy.async;")
//@ finds=MissingProxyFence grid=1 block=32 args=f32:32:zero
BULK_STORE(bulk_store_with_the_fence_of_global_memory, "fence.proxy.async.global;")
//@ finds=MissingProxyFence grid=1 block=32 args=f32:32:zero
BULK_STORE(bulk_store_without_a_fence, "")

#define BULK_LOAD(name, fence)                                                                        \
    KERNEL name(float* data, float* out) {                                                             \
        __shared__ alignas(16) float cells[32];                                                         \
        __shared__ unsigned long long b;                                                                \
        data[threadIdx.x] = threadIdx.x;                                                                \
        asm volatile(fence ::: "memory");                                                               \
        if (threadIdx.x == 0) init(&b, 1);                                                              \
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");                              \
        __syncthreads();                                                                                \
        if (threadIdx.x == 0) {                                                                         \
            expect(&b, 128);                                                                            \
            asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 128, [%2];" ::"r"(address(cells)), "l"(data), "r"(address(&b)) : "memory"); \
        }                                                                                               \
        wait(&b, 0);                                                                                    \
        out[threadIdx.x] = cells[31 - threadIdx.x];                                                     \
    }
//@ clean grid=1 block=32 args=f32:32:zero,f32:32:zero
BULK_LOAD(bulk_load, "fence.proxy.async;")
//@ clean grid=1 block=32 args=f32:32:zero,f32:32:zero
BULK_LOAD(bulk_load_with_the_fence_of_global_memory, "fence.proxy.async.global;")
//@ finds=MissingProxyFence grid=1 block=32 args=f32:32:zero,f32:32:zero
BULK_LOAD(bulk_load_with_the_fence_of_shared_memory, "fence.proxy.async.shared::cta;")
//@ finds=MissingProxyFence grid=1 block=32 args=f32:32:zero,f32:32:zero
BULK_LOAD(bulk_load_without_a_fence, "")

// wgmma: zeros times zeros.
#define PRODUCT "{.reg .f32 d<4>; mov.f32 d0, 0f00000000; mov.f32 d1, 0f00000000; mov.f32 d2, 0f00000000; mov.f32 d3, 0f00000000;\n" \
    "wgmma.fence.sync.aligned;\nwgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {d0,d1,d2,d3}, %0, %1, 1, 1, 1, 0, 0;\n"          \
    "wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;}"
#define WGMMA(name, who)                                                                              \
    KERNEL name(int* out) {                                                                            \
        __shared__ alignas(128) short cells[2048];                                                      \
        for (int i = threadIdx.x; i < 2048; i += blockDim.x) cells[i] = 0;                              \
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");                                    \
        __syncthreads();                                                                                \
        unsigned long long d = (address(cells) >> 4 & 0x3fff) | 8ull << 16 | 16ull << 32;               \
        if (who) asm volatile(PRODUCT ::"l"(d), "l"(d) : "memory");                                     \
        out[threadIdx.x] = 1;                                                                           \
    }
//@ clean grid=1 block=128 args=i32:128:zero
WGMMA(wgmma_of_a_warpgroup, true)
//@ finds=BadMatrixOperation grid=1 block=64 args=i32:64:zero
WGMMA(wgmma_of_two_warps, true)
//@ finds=BadMatrixOperation grid=1 block=128 args=i32:128:zero
WGMMA(wgmma_of_three_warps, threadIdx.x < 96)
//@ clean grid=1 block=256 args=i32:256:zero
WGMMA(wgmma_of_the_second_warpgroup, threadIdx.x >= 128)

// 384 threads begin with 168 registers each.
#define BUDGET(name, dec, inc)                                                                        \
    KERNEL __launch_bounds__(384, 1) name(int* out) {                                                  \
        if (threadIdx.x < 128) asm volatile("setmaxnreg.dec.sync.aligned.u32 " #dec ";" ::: "memory");  \
        else asm volatile("setmaxnreg.inc.sync.aligned.u32 " #inc ";" ::: "memory");                    \
        out[threadIdx.x] = 1;                                                                           \
    }
//@ clean grid=1 block=384 args=i32:384:zero
BUDGET(registers_shared_out, 24, 240)
//@ clean grid=1 block=384 args=i32:384:zero
BUDGET(registers_left_over, 40, 224)
//@ finds=Deadlock grid=1 block=384 args=i32:384:zero
BUDGET(registers_that_are_not_there, 40, 240)
//@ finds=Deadlock grid=1 block=384 args=i32:384:zero
BUDGET(registers_that_nobody_gives, 168, 176)
