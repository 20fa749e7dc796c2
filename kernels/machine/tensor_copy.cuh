// Copies of boxes of a tensor by the tensor memory accelerator (sm_90): one thread asks, the copy
// engine computes addresses, permutes, and fills what lies outside of the tensor with zeros. PTX
// ISA, "cp.async.bulk.tensor".
#pragma once

#include "machine/mbarrier.cuh"
#include "machine/params.cuh"

// Made by the host; opaque. What it describes is [batch, heads, length, head_dim] as in the
// parameter block, cut into boxes of BOX_COLUMNS columns whose rows of 128 bytes are permuted among
// themselves (the 128-byte swizzle, which wgmma and `BoxedTile` know).
struct alignas(64) TensorMap {
    unsigned long long opaque[16];
};

struct TensorMaps {
    TensorMap query;
    TensorMap key;
    TensorMap value;
    TensorMap output;
};

constexpr int BOX_COLUMNS = 64;

// How long what is copied should stay in the L2 cache; the constants are the encodings that
// createpolicy would make of "evict first" and "evict last" for whole lines.
enum class Keep : unsigned long long {
    BRIEFLY = 0x12f0000000000000,
    LONG = 0x14f0000000000000,
};

// Asks for the box that starts at [batch, head, row, column]; its bytes arrive at `barrier`.
__device__ inline void load_box(unsigned destination, const TensorMap& map, Barrier& barrier,
                                int column, int row, int head, int batch, Keep keep) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
        " [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(destination),
        "l"(&map), "r"(shared_address(&barrier)), "r"(column), "r"(row), "r"(head), "r"(batch),
        "l"(static_cast<unsigned long long>(keep))
        : "memory");
}

// The other way; rows and columns outside of the tensor are left out.
__device__ inline void store_box(const TensorMap& map, unsigned source, int column, int row,
                                 int head, int batch) {
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
            &map),
        "r"(source), "r"(column), "r"(row), "r"(head), "r"(batch)
        : "memory");
}

__device__ inline void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Until this thread's stores have read their shared memory, so that it may be written again.
__device__ inline void wait_until_stores_have_read() {
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// What this thread wrote to shared memory can be read by the copy engine and the tensor cores.
__device__ inline void fence_for_async_proxy() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
