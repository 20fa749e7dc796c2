// Which tiles a persistent block works on. Blocks start with the tile of their own number and then
// draw tickets for the rest, so that none idles while another still has a long way to go.
#pragma once

#include "common/mask.cuh"
#include "common/mbarrier.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/warp.cuh"

// What a block has to do for one tile of queries. Negative `key_tiles`: nothing, ever again.
struct alignas(16) Work {
    int batch;
    int head;
    int first_row;
    int key_tiles;

    __device__ static Work none() { return {0, 0, 0, -1}; }
    __device__ bool exists() const { return key_tiles >= 0; }
    // What this lane of the warp holds.
    __device__ Work of_lane(int lane) const {
        return {__shfl_sync(ALL_LANES, batch, lane), __shfl_sync(ALL_LANES, head, lane),
                __shfl_sync(ALL_LANES, first_row, lane), __shfl_sync(ALL_LANES, key_tiles, lane)};
    }
    __device__ QueryTile tile() const { return {batch, head, first_row}; }
};

template <int ROWS, int KEYS>
class PersistentTiles {
    // Keys and values of heads that are worked on at once should stay in the L2 cache (50 MB on an
    // H100 or H200, in two halves). 16, 32 and 64 MB measured the same there.
    static constexpr float SECTION_BYTES = 32.0f * 1024 * 1024;

    const AttentionParams& params;
    int tiles;    // of a head
    int heads;    // of all sequences
    int section;  // heads whose tiles are dealt out together

public:
    __device__ explicit PersistentTiles(const AttentionParams& params) : params(params) {
        tiles = (params.len_q + ROWS - 1) / ROWS;
        heads = params.heads_q * params.batch;
        // Without a mask all tiles are alike and go head by head.
        section = 1;
        if (params.causal) {
            const float head_bytes = 2.0f * sizeof(Element) * params.len_kv * params.head_dim *
                                     params.heads_kv / params.heads_q;
            section = max(1, min(heads, static_cast<int>(SECTION_BYTES / fmaxf(head_bytes, 1.0f))));
        }
    }

    __device__ int total() const { return tiles * heads; }

    // Sections one after the other; in a section the longest tiles of all heads first.
    __device__ Work operator[](int index) const {
        const int first_head = index / (section * tiles) * section;
        const int heads_here = min(section, heads - first_head);
        const int within = index - first_head * tiles;
        int tile = within / heads_here;
        const int head = first_head + within - tile * heads_here;
        // Causal rows see more keys the later they come.
        if (params.causal) tile = tiles - 1 - tile;
        const int first_row = tile * ROWS;
        return {head / params.heads_q, head % params.heads_q, first_row,
                key_tile_count(params, first_row, ROWS, KEYS)};
    }

    // The number of the block's next tile; at least `total` where there is none. To be asked for
    // when a tile is nearly done: a tile that was drawn early waits for its block.
    __device__ int draw() const {
        if (gridDim.x >= total()) return total();
        const int ticket = atomicAdd(params.tickets, 1u);
        // A block draws once for each of its tiles, so as many tickets are drawn as there are tiles;
        // the last one leaves the word as it was found. By an atomic operation, too: nothing but the
        // word itself orders the blocks' accesses to it.
        if (ticket == total() - 1) atomicExch(params.tickets, 0u);
        return gridDim.x + ticket;
    }
};
