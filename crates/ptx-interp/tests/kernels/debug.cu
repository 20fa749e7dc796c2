// Kernels compiled for debugging, where every little function is a call.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;
#define KERNEL extern "C" __global__ void

//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL debug_tile_reduce(const int* in, int* out) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    out[threadIdx.x] = cg::reduce(tile, in[threadIdx.x], cg::plus<int>());
}
//@ finds=SharedRace grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL debug_tile_exchange_with_the_next_tile(const int* in, int* out) {
    __shared__ int cells[64];
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    cells[threadIdx.x] = in[threadIdx.x];
    tile.sync();
    out[threadIdx.x] = cells[(threadIdx.x + 8) % 64];
}
//@ clean grid=3 block=64 args=i32:1:zero,i32:1:zero
KERNEL debug_lock(int* lock, int* count) {
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence();
        count[0] += 1;
        __threadfence();
        atomicExch(lock, 0);
    }
}
//@ finds=GlobalRace grid=3 block=64 args=i32:1:zero,i32:1:zero
KERNEL debug_lock_with_block_fences(int* lock, int* count) {
    if (threadIdx.x % 32 == 0) {
        while (atomicCAS(lock, 0, 1) != 0) {}
        __threadfence_block();
        count[0] += 1;
        __threadfence_block();
        atomicExch(lock, 0);
    }
}
