// Which rows of which head a block works on, and where their data begin.
#pragma once

#include "machine/element.cuh"
#include "machine/params.cuh"

struct QueryTile {
    int batch;
    int head;
    int first_row;
};

// The grid is 1-D: blockIdx.x = (batch · heads_q + head) · tiles + tile.
template <int TILE_ROWS>
__device__ inline QueryTile locate_query_tile(const AttentionParams& params) {
    const int tiles = (params.len_q + TILE_ROWS - 1) / TILE_ROWS;
    const int batch_head = blockIdx.x / tiles;
    int tile = blockIdx.x - batch_head * tiles;
    // INSIGHT: a division takes more than a hundred cycles, and nothing can be loaded before: it is
    // left out where the answer is known.
    const int batch = params.batch == 1 ? 0 : batch_head / params.heads_q;
    // Causal rows see more keys the later they come: start with the longest, so that no block
    // begins a long tile while the others are already done.
    if (params.causal) tile = tiles - 1 - tile;
    return {batch, batch_head - batch * params.heads_q, tile * TILE_ROWS};
}

// Grouped-query attention: neighbouring query heads share a key head.
__device__ inline int key_head(const AttentionParams& params, int head) {
    if (params.heads_q == params.heads_kv) return head;
    return head / (params.heads_q / params.heads_kv);
}

__device__ inline Element* head_data(const TensorView& tensor, int batch, int head) {
    return static_cast<Element*>(tensor.data) + batch * tensor.batch_stride +
           head * tensor.head_stride;
}

__device__ inline void store_lse(const AttentionParams& params, const QueryTile& tile, int row,
                                 float lse) {
    const long long batch_head = static_cast<long long>(tile.batch) * params.heads_q + tile.head;
    if (params.lse) params.lse[batch_head * params.len_q + row] = lse;
}
