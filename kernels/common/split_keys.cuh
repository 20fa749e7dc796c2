// Keys split over blocks for a few queries: which rows and which part of the keys a block has, and
// where the parts' results lie until they are merged.
#pragma once

#include "common/element.cuh"
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"

constexpr int WARP_ROWS = 16;
constexpr int TILE_ROWS = ROW_WARPS * WARP_ROWS;

// A key head's queries: row r is query r / group of the group's head r % group, so that the keys
// are read once for all the query heads that share them, and the rows of a tile see nearly the same.
struct PackedRows {
    int group;  // query heads that share the key head
    int count;
    bool one_query;

    __device__ explicit PackedRows(const AttentionParams& params)
        : group(static_cast<unsigned>(params.heads_q) / params.heads_kv),
          count(group * params.len_q),
          one_query(params.len_q == 1) {}

    __device__ int query(int row) const { return one_query ? 0 : row / group; }
    __device__ int head(int row) const { return row - query(row) * group; }
    __device__ int tiles() const { return (count + TILE_ROWS - 1) / TILE_ROWS; }
};

// Keys of a part: whole steps of the widest kernel, so that a part's keys, and with them a row's
// bits, do not depend on how many heads and sequences there are.
constexpr int PART_STEP = 128;

__device__ inline int part_keys(const AttentionParams& params, unsigned parts) {
    const int even = (params.len_kv + parts - 1) / parts;
    return (even + PART_STEP - 1) / PART_STEP * PART_STEP;
}

// What a block has to do. The grid is 1-D: blockIdx.x = ((batch · heads_kv + head_kv) · parts +
// part) · tiles + tile. Neighbouring blocks read the same keys.
struct Share {
    PackedRows rows;
    int tile;
    int part;
    int parts;
    int batch;
    int head_kv;
    int heads_kv;
    int keys;       // of a part
    int first_row;  // of the tile
    int last_row;

    __device__ explicit Share(const AttentionParams& params)
        : rows(params), heads_kv(params.heads_kv) {
        // INSIGHT: nothing is loaded before these divisions are done, of more than a hundred cycles
        // each: unsigned ones are cheaper, and those with a known answer are left out.
        const unsigned tiles = rows.tiles();
        const unsigned head_tiles = tiles * params.batch * heads_kv;
        parts = gridDim.x / head_tiles;
        const unsigned head_part = tiles == 1 ? blockIdx.x : blockIdx.x / tiles;
        tile = blockIdx.x - head_part * tiles;
        const unsigned batch_head = head_part / static_cast<unsigned>(parts);
        part = head_part - batch_head * parts;
        batch = params.batch == 1 ? 0 : batch_head / static_cast<unsigned>(heads_kv);
        head_kv = batch_head - batch * heads_kv;
        keys = part_keys(params, parts);
        first_row = tile * TILE_ROWS;
        last_row = min(first_row + TILE_ROWS, rows.count) - 1;
    }

    __device__ int query(int row) const { return rows.query(row); }
    __device__ int head(int row) const { return head_kv * rows.group + rows.head(row); }
    __device__ QueryTile head_of(int row) const { return {batch, head(row), 0}; }
    // The tile's number among those of all heads.
    __device__ int head_tile() const {
        return (batch * heads_kv + head_kv) * rows.tiles() + tile;
    }
    // The parts, from the first one on, in which the row sees keys.
    __device__ int visible_parts(const AttentionParams& params, int row) const {
        return (visible_keys(params, query(row)) + keys - 1) / keys;
    }
};

// What the parts leave behind to be merged: for every row of every head its parts in order, columns
// first, then statistics. A part that no row of a tile sees is neither written nor read.
struct Workspace {
    float* columns;
    RowStatistics* statistics;
    int parts;
    int head_dim;

    __device__ Workspace(const AttentionParams& params, int parts)
        : columns(static_cast<float*>(params.workspace)),
          parts(parts),
          head_dim(params.head_dim) {
        const long long rows =
            static_cast<long long>(params.batch) * params.heads_q * params.len_q;
        statistics = reinterpret_cast<RowStatistics*>(columns + rows * parts * head_dim);
    }

    __device__ static long long index(const Share& share, int row) {
        const long long batch_head = share.batch * share.heads_kv + share.head_kv;
        return batch_head * share.rows.count + row;
    }

    __device__ float* columns_of(long long row, int part) const {
        return columns + (row * parts + part) * head_dim;
    }
    __device__ RowStatistics& statistics_of(long long row, int part) const {
        return statistics[row * parts + part];
    }
};

__device__ inline Element* output_row(const AttentionParams& params, const Share& share, int row) {
    return head_data(params.output, share.batch, share.head(row)) +
           share.query(row) * params.output.row_stride;
}

// Columns of a row that a thread merges: as wide as a load, so that neighbours read whole lines.
constexpr int LANE_COLUMNS = 4;

// Columns of a row of which everything is known: divided by the sum, to the output.
__device__ inline void store_output(const AttentionParams& params, const Share& share, int row,
                                    int column, const RowStatistics& own,
                                    float (&sum)[LANE_COLUMNS]) {
    const float normalise = normaliser(own.sum);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) sum[i] *= normalise;
    store_from_float(output_row(params, share, row) + column, sum);
    if (column == 0) store_lse(params, share.head_of(row), share.query(row), row_lse(own));
}

// The same columns of one part, to be merged; to the output where there is no other part.
__device__ inline void store_part(const AttentionParams& params, const Share& share, int row,
                                  int column, const RowStatistics& own,
                                  float (&sum)[LANE_COLUMNS]) {
    if (share.parts == 1) {
        store_output(params, share, row, column, own, sum);
        return;
    }
    const Workspace workspace(params, share.parts);
    const long long index = Workspace::index(share, row);
    store(workspace.columns_of(index, share.part) + column, sum);
    if (column == 0) workspace.statistics_of(index, share.part) = own;
}
