// Tiles of a warp, shuffles, votes and reductions.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
namespace cg = cooperative_groups;
#define KERNEL extern "C" __global__ void
#define LANE (threadIdx.x % 32)

//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_sums(const int* in, int* out) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int value = in[threadIdx.x];
    for (int offset = 4; offset > 0; offset /= 2) value += tile.shfl_xor(value, offset);
    out[threadIdx.x] = value;
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_reduce(const int* in, int* out) {
    auto tile = cg::tiled_partition<4>(cg::this_thread_block());
    out[threadIdx.x] = cg::reduce(tile, in[threadIdx.x], cg::plus<int>());
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_scan(const int* in, int* out) {
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    out[threadIdx.x] = cg::inclusive_scan(tile, in[threadIdx.x]);
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_votes(const int* in, int* out) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    out[threadIdx.x] = tile.ballot(in[threadIdx.x] & 1) + tile.any(in[threadIdx.x] == 9) + 2 * tile.all(in[threadIdx.x] < 70);
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_match(const int* in, int* out) {
    auto tile = cg::tiled_partition<16>(cg::this_thread_block());
    out[threadIdx.x] = tile.match_any(in[threadIdx.x] / 3);
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_exchange_in_shared_memory(const int* in, int* out) {
    __shared__ int cells[64];
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    cells[threadIdx.x] = in[threadIdx.x];
    tile.sync();
    out[threadIdx.x] = cells[threadIdx.x / 8 * 8 + 7 - threadIdx.x % 8];
}
//@ finds=SharedRace grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tile_exchange_with_the_next_tile(const int* in, int* out) {
    __shared__ int cells[64];
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    cells[threadIdx.x] = in[threadIdx.x];
    tile.sync();
    out[threadIdx.x] = cells[(threadIdx.x + 8) % 64];
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL tiles_go_their_own_ways(const int* in, int* out) {
    auto tile = cg::tiled_partition<8>(cg::this_thread_block());
    int value = in[threadIdx.x];
    // Each tile another number of times.
    for (unsigned turn = 0; turn <= tile.meta_group_rank() % 4; ++turn) value += tile.shfl_xor(value, 1);
    out[threadIdx.x] = value;
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL coalesced_group(const int* in, int* out) {
    out[threadIdx.x] = 0;
    if (in[threadIdx.x] % 3 == 0) {
        auto active = cg::coalesced_threads();
        out[threadIdx.x] = active.thread_rank() + 100 * active.size();
    }
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:1:zero
KERNEL aggregated_atomic(const int* in, int* count) {
    if (in[threadIdx.x] % 3 == 0) {
        auto active = cg::coalesced_threads();
        if (active.thread_rank() == 0) atomicAdd(count, active.size());
    }
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL binary_partition(const int* in, int* out) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    auto part = cg::binary_partition(warp, in[threadIdx.x] % 5 < 2);
    out[threadIdx.x] = cg::reduce(part, in[threadIdx.x], cg::plus<int>());
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL labeled_partition(const int* in, int* out) {
    auto warp = cg::tiled_partition<32>(cg::this_thread_block());
    auto part = cg::labeled_partition(warp, in[threadIdx.x] % 3);
    out[threadIdx.x] = part.size() * 100 + part.thread_rank();
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL halves_by_mask(const int* in, int* out) {
    unsigned mask = LANE < 16 ? 0xffffu : 0xffff0000u;
    int value = in[threadIdx.x];
    for (int offset = 8; offset > 0; offset /= 2) value += __shfl_xor_sync(mask, value, offset);
    __syncwarp(mask);
    out[threadIdx.x] = value + __reduce_add_sync(mask, 1) + __popc(__ballot_sync(mask, value & 1));
}
//@ clean grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL halves_exchange(const int* in, int* out) {
    __shared__ int cells[64];
    unsigned mask = LANE < 16 ? 0xffffu : 0xffff0000u;
    cells[threadIdx.x] = in[threadIdx.x];
    __syncwarp(mask);
    out[threadIdx.x] = cells[threadIdx.x ^ 15];
}
//@ finds=SharedRace grid=1 block=64 args=i32:64:iota,i32:64:zero
KERNEL halves_exchange_across(const int* in, int* out) {
    __shared__ int cells[64];
    unsigned mask = LANE < 16 ? 0xffffu : 0xffff0000u;
    cells[threadIdx.x] = in[threadIdx.x];
    __syncwarp(mask);
    out[threadIdx.x] = cells[threadIdx.x ^ 31];
}
//@ finds=DivergentShuffle grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL overlapping_masks(const int* in, int* out) {
    unsigned mask = LANE < 16 ? 0xffffu : 0xffffffffu;
    out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 1);
}
//@ finds=DivergentShuffle grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL not_in_its_own_mask(const int* in, int* out) {
    out[threadIdx.x] = __shfl_xor_sync(0x0000ffffu, in[threadIdx.x], 1);
}
//@ finds=DivergentShuffle grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL reads_a_lane_of_another_tile(const int* in, int* out) {
    unsigned mask = LANE < 16 ? 0xffffu : 0xffff0000u;
    out[threadIdx.x] = __shfl_xor_sync(mask, in[threadIdx.x], 16);
}
//@ finds=DivergentShuffle,DivergentBarrier,Deadlock grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL full_mask_in_a_branch(const int* in, int* out) {
    out[threadIdx.x] = 0;
    if (in[threadIdx.x] < 10) out[threadIdx.x] = __reduce_add_sync(0xffffffffu, in[threadIdx.x]);
    // Lanes that had exited would not be missed.
    __syncwarp();
    out[threadIdx.x] += 1;
}
//@ finds=DivergentBarrier,DivergentShuffle grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL warp_barrier_with_overlapping_masks(const int* in, int* out) {
    __syncwarp(LANE < 16 ? 0xffffu : 0xffffffffu);
    out[threadIdx.x] = in[threadIdx.x];
}
//@ clean grid=1 block=32 args=i32:32:iota,i32:32:zero
KERNEL match_and_elect(const int* in, int* out) {
    unsigned same = __match_any_sync(0xffffffffu, in[threadIdx.x] / 4);
    int leader = __ffs(same) - 1;
    out[threadIdx.x] = __shfl_sync(same, in[threadIdx.x], leader) + __reduce_max_sync(same, in[threadIdx.x]);
}
//@ clean grid=1 block=128 args=i32:128:iota,i32:128:zero
KERNEL block_scan(const int* in, int* out) {
    __shared__ int sums[4];
    int value = in[threadIdx.x], warp = threadIdx.x / 32;
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(0xffffffffu, value, offset);
        if (LANE >= offset) value += other;
    }
    if (LANE == 31) sums[warp] = value;
    __syncthreads();
    for (int before = 0; before < warp; ++before) value += sums[before];
    out[threadIdx.x] = value;
}
//@ finds=SharedRace grid=1 block=128 args=i32:128:iota,i32:128:zero
KERNEL block_scan_without_the_barrier(const int* in, int* out) {
    __shared__ int sums[4];
    int value = in[threadIdx.x], warp = threadIdx.x / 32;
    if (threadIdx.x < 4) sums[threadIdx.x] = 0;
    __syncthreads();
    for (int offset = 1; offset < 32; offset *= 2) {
        int other = __shfl_up_sync(0xffffffffu, value, offset);
        if (LANE >= offset) value += other;
    }
    if (LANE == 31) sums[warp] = value;
    for (int before = 0; before < warp; ++before) value += sums[before];
    out[threadIdx.x] = value;
}
//@ clean grid=2 block=128 args=i32:256:iota,i32:2:zero
KERNEL block_reduce(const int* in, int* out) {
    auto block = cg::this_thread_block();
    auto warp = cg::tiled_partition<32>(block);
    __shared__ int parts[4];
    int sum = cg::reduce(warp, in[blockIdx.x * 128 + threadIdx.x], cg::plus<int>());
    if (warp.thread_rank() == 0) parts[warp.meta_group_rank()] = sum;
    block.sync();
    if (threadIdx.x == 0) out[blockIdx.x] = parts[0] + parts[1] + parts[2] + parts[3];
}
//@ finds=SharedRace grid=2 block=128 args=i32:256:iota,i32:2:zero
KERNEL tree_reduce_with_one_barrier_too_few(const int* in, int* out) {
    __shared__ int cells[128];
    cells[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x];
    __syncthreads();
    for (int half = 64; half > 0; half /= 2) {
        if (threadIdx.x < half) cells[threadIdx.x] += cells[threadIdx.x + half];
        if (half > 32) __syncthreads();
    }
    if (threadIdx.x == 0) out[blockIdx.x] = cells[0];
}
//@ clean grid=2 block=128 args=i32:256:iota,i32:2:zero
KERNEL tree_reduce(const int* in, int* out) {
    __shared__ int cells[128];
    cells[threadIdx.x] = in[blockIdx.x * 128 + threadIdx.x];
    for (int half = 64; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) cells[threadIdx.x] += cells[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = cells[0];
}
//@ clean grid=2 block=64 args=i32:128:iota,i32:8:zero
KERNEL shared_histogram(const int* in, int* out) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1);
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}
//@ finds=SharedRace grid=2 block=64 args=i32:128:iota,i32:8:zero
KERNEL shared_histogram_without_the_last_barrier(const int* in, int* out) {
    __shared__ int bins[8];
    if (threadIdx.x < 8) bins[threadIdx.x] = 0;
    __syncthreads();
    atomicAdd(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1);
    if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}
//@ finds=UninitializedRead grid=2 block=64 args=i32:128:iota,i32:8:zero
KERNEL shared_histogram_without_zeros(const int* in, int* out) {
    __shared__ int bins[8];
    atomicAdd(&bins[in[blockIdx.x * 64 + threadIdx.x] % 8], 1);
    __syncthreads();
    if (threadIdx.x < 8) atomicAdd(&out[threadIdx.x], bins[threadIdx.x]);
}
