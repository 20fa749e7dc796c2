// What a block does for its part of the keys: attention of a tile of packed rows, by warps that
// share out the rows or, where sixteen rows are too few for that, the keys.
#pragma once

#include "common/async_copy.cuh"
#include "common/split_keys.cuh"
#include "common/swizzled_tile.cuh"
#include "common/warp.cuh"
#include "common/warp_attention.cuh"

// A group of warps may take the keys of two, one after the other: then half as many warps come to
// the same sums, bit by bit.
#ifndef PASSES
#define PASSES 1
#endif

// Tile laws.
constexpr int GROUP_THREADS = ROW_WARPS * WARP_SIZE;
constexpr int THREADS = KEY_GROUPS * GROUP_THREADS;
constexpr int PART_GROUPS = PASSES * KEY_GROUPS;
static_assert(PASSES == 1 || PASSES == 2, "passes are written out");
static_assert(PART_STEP % (PART_GROUPS * TILE_KEYS) == 0, "the groups of a part have equal shares");

// What the groups of a block hand to one another when the part is through. Eight floats more a row
// put the 8-byte stores of the four rows that half a warp writes 8 banks apart.
struct GroupParts {
    float output[PART_GROUPS][TILE_ROWS][HEAD_DIM + 8];
    RowStatistics statistics[PART_GROUPS][TILE_ROWS];

    __device__ GroupParts() {}
};

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    union {
        struct {
            SwizzledTile<TILE_KEYS, HEAD_DIM> key[KEY_GROUPS][STAGES];
            SwizzledTile<TILE_KEYS, HEAD_DIM> value[KEY_GROUPS][STAGES];
        };
        GroupParts parts;
    };
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// The threads that share a ring of key tiles.
// INSIGHT: where that is one warp, nothing in the loop waits for another warp: sixteen queries have
// no more rows to share out, so the warps take other keys instead, and each has its own ring.
__device__ inline void synchronize_group() {
    static_assert(ROW_WARPS == 1 || KEY_GROUPS == 1, "a group is a warp or the block");
    if constexpr (ROW_WARPS == 1) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

// Calls `visit(chunk in shared memory, row, column)` for this thread's share of the query tile.
template <typename Visit>
__device__ inline void for_own_chunks(SharedMemory& shared, Visit visit) {
    constexpr int CHUNKS = HEAD_DIM / CHUNK;
    for (int index = threadIdx.x; index < TILE_ROWS * CHUNKS; index += THREADS) {
        const int row = index / CHUNKS;
        const int chunk = index % CHUNKS;
        visit(shared.query.bytes + shared.query.offset(row, chunk), row, chunk * CHUNK);
    }
}

// The rows of the block's tile attend to the keys of its part. All threads take part.
__device__ inline void attend_to_part(SharedMemory& shared, const AttentionParams& params,
                                      const Share& share) {
    const int first_row = share.first_row;
    const int first_key = share.part * share.keys;
    // The last row sees the most.
    const int seen =
        min(visible_keys(params, share.query(share.last_row)) - first_key, share.keys);

    const int group = threadIdx.x / GROUP_THREADS;
    const int thread = threadIdx.x % GROUP_THREADS;
    const int warp_row = thread / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile
    // Of the part's tiles a group takes every PART_GROUPS-th; in a second pass it is the group
    // KEY_GROUPS further on. The tiles of both passes go through the ring in one row.
    const int tiles = (seen + TILE_KEYS - 1) / TILE_KEYS;
    const auto share_of = [&](int tiles, int pass) {
        return (tiles - (group + pass * KEY_GROUPS) + PART_GROUPS - 1) / PART_GROUPS;
    };
    const int first_tiles = share_of(tiles, 0);
    const int own_tiles = first_tiles + (PASSES == 2 ? share_of(tiles, 1) : 0);
    const auto tile_key = [&](int index) {
        const bool second = PASSES == 2 && index >= first_tiles;
        const int turn = second ? index - first_tiles : index;
        return first_key +
               (group + second * KEY_GROUPS + turn * PART_GROUPS) * TILE_KEYS;
    };

    const auto copy = [&](auto& stages, const TensorView& tensor, int index) {
        if (index >= own_tiles) return;
        stages[group][ring_stage<STAGES>(index)].template load_async<GROUP_THREADS>(
            thread, tensor, share.batch, share.head_kv, tile_key(index), params.len_kv,
            params.head_dim);
    };
    // Each commits even past the last tile, so that counting commits counts tiles.
    const auto load_keys = [&](int index) {
        copy(shared.key, params.key, index);
        cp_async_commit();
    };
    const auto load_values = [&](int index) {
        copy(shared.value, params.value, index);
        cp_async_commit();
    };

    // The first keys go ahead of Q, whose rows take longer to find, and are committed with it.
    copy(shared.key, params.key, 0);
    for_own_chunks(shared, [&](unsigned char* chunk, int row, int column) {
        const int packed = first_row + row;
        const bool valid = packed < share.rows.count && column < params.head_dim;
        const Element* source =
            head_data(params.query, share.batch, share.head(packed)) +
            share.query(packed) * params.query.row_stride + column;
        cp_async_16(chunk, source, valid);
    });
    cp_async_commit();
#pragma unroll
    for (int index = 0; index < STAGES - 1; ++index) {
        load_values(index);
        load_keys(index + 1);
    }

    // The copies of Q have landed, this thread's and, behind the barrier, everyone's. A negative
    // scale moves into Q, so that the softmax may count on it being positive.
    cp_async_wait<2 * (STAGES - 1)>();
    if (params.scale < 0.0f) {
        for_own_chunks(shared, [&](unsigned char* chunk, int, int) {
            constexpr unsigned SIGNS = 0x80008000;
            auto& own = *reinterpret_cast<uint4*>(chunk);
            own = {own.x ^ SIGNS, own.y ^ SIGNS, own.z ^ SIGNS, own.w ^ SIGNS};
        });
    }
    __syncthreads();
    const LaneStart start(shared.query, warp_row, shared.key[group][0], shared.value[group][0]);
    using Rows = WarpAttention<1, TILE_KEYS>;

    // Keys and values are waited for apart, with 2 · STAGES - 1 tiles of them under way. A group
    // that waits for keys is done with the last values, whose place the next ones take; and the
    // other way round.
    const auto attend = [&](Rows& rows, int index, auto masked) {
        LaneStart here = start;
        here.key += ring_offset<STAGES>(index, sizeof(shared.key[0][0]));
        here.value += ring_offset<STAGES>(index, sizeof(shared.value[0][0]));
        cp_async_wait<2 * (STAGES - 1)>();
        synchronize_group();
        load_values(index + STAGES - 1);
        rows.template attend<masked.value>(
            here,
            [&](int row) {
                const int query = share.query(first_row + warp_row + row);
                return visible_keys(params, query) - tile_key(index);
            },
            [&] {
                cp_async_wait<2 * (STAGES - 1)>();
                synchronize_group();
                load_keys(index + STAGES);
            });
    };
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked =
        max(visible_keys(params, share.query(first_row)) - first_key, 0) / TILE_KEYS;
    const auto attend_pass = [&](Rows& rows, int pass) {
        int index = pass == 0 ? 0 : first_tiles;
        const int end = pass == 0 ? first_tiles : own_tiles;
        const int end_unmasked = min(index + share_of(unmasked, pass), end);
        for (; index < end_unmasked; ++index) attend(rows, index, Unmasked{});
        for (; index < end; ++index) attend(rows, index, Masked{});
    };
    const auto hand_over = [&](Rows& rows, int pass) {
        const int lane = threadIdx.x % WARP_SIZE;
        const int part_group = group + pass * KEY_GROUPS;
        rows.for_each_row([&](int own_row, const RowStatistics& own, auto columns) {
            float* part = &shared.parts.output[part_group][warp_row + own_row][lane % 4 * 2];
#pragma unroll
            for (int column = 0; column < HEAD_DIM / 8; ++column) {
                *reinterpret_cast<float2*>(part + 8 * column) = columns(column);
            }
            if (lane % 4 == 0) shared.parts.statistics[part_group][warp_row + own_row] = own;
        });
    };

    Rows rows(params, start.query);
    attend_pass(rows, 0);
    if constexpr (PASSES == 1) {
        __syncthreads();  // the groups' parts take the place of keys and values
        hand_over(rows, 0);
    } else {
        Rows others(params, start.query);
        attend_pass(others, 1);
        __syncthreads();
        hand_over(rows, 0);
        hand_over(others, 1);
    }
    __syncthreads();
    constexpr int QUARTETS = HEAD_DIM / LANE_COLUMNS;
    for (int index = threadIdx.x; index < TILE_ROWS * QUARTETS; index += THREADS) {
        const int row = index / QUARTETS;
        const int column = index % QUARTETS * LANE_COLUMNS;
        if (first_row + row >= share.rows.count || column >= params.head_dim) continue;
        float sum[LANE_COLUMNS] = {};
        const RowStatistics total = merge_parts<PART_GROUPS>(
            [&](int group) { return shared.parts.statistics[group][row]; },
            [&](int group, float (&columns)[LANE_COLUMNS]) {
                ::load(&shared.parts.output[group][row][column], columns);
            },
            sum);
        store_part(params, share, first_row + row, column, total, sum);
    }
}

