// V1: scalar, streaming softmax, no pipeline. The plainest kernel that is right.
//
// parent: none
// idea:   softmax needs no second pass: keep the maximum and the sum so far, and shrink what was
//         accumulated whenever the maximum grows. One warp walks the keys of one query row, one key
//         at a time; its lanes share the columns of the head.
// needs:  element alignment only, any strides
// build:  -DHEAD_DIM=64|128, f16
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/warp.cuh"

constexpr int TILE_ROWS = 8;  // one a warp
constexpr int THREADS = TILE_ROWS * WARP_SIZE;
constexpr int LANE_COLUMNS = HEAD_DIM / WARP_SIZE;  // lane, lane + 32, …
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(HEAD_DIM % WARP_SIZE == 0, "every lane holds equally many columns");

// What one lane holds of a row; columns beyond head_dim count as zero and are never read.
__device__ inline void load_columns(const Element* row, int lane, int head_dim,
                                    float (&columns)[LANE_COLUMNS]) {
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) {
        const int column = i * WARP_SIZE + lane;
        columns[i] = column < head_dim ? to_float(row[column]) : 0.0f;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const __grid_constant__ AttentionParams params) {
    const int lane = threadIdx.x % WARP_SIZE;
    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int row = tile.first_row + threadIdx.x / WARP_SIZE;
    if (row >= params.len_q) return;

    float query[LANE_COLUMNS];
    load_columns(head_data(params.query, tile.batch, tile.head) + row * params.query.row_stride,
                 lane, params.head_dim, query);

    const int head_kv = key_head(params, tile.head);
    const Element* key_row = head_data(params.key, tile.batch, head_kv);
    const Element* value_row = head_data(params.value, tile.batch, head_kv);
    const int keys = visible_keys(params, row);

    RowStatistics statistics;
    float accumulator[LANE_COLUMNS] = {};
    for (int j = 0; j < keys; ++j) {
        float key[LANE_COLUMNS], value[LANE_COLUMNS];
        load_columns(key_row, lane, params.head_dim, key);
        load_columns(value_row, lane, params.head_dim, value);

        float score = 0.0f;
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; ++i) score = fmaf(query[i], key[i], score);
        score = group_sum<WARP_SIZE>(score);

        const float factor = raise_maximum(statistics, exponent_above(score, params.scale_log2e));
        const float weight = softmax_weight(score, params.scale_log2e, statistics.maximum);
        statistics.sum += weight;
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; ++i) {
            accumulator[i] = fmaf(weight, value[i], accumulator[i] * factor);
        }

        key_row += params.key.row_stride;
        value_row += params.value.row_stride;
    }

    if (is_large(statistics.maximum)) {
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; ++i) accumulator[i] = 0.0f;
        statistics = attend_exactly<WARP_SIZE>(
            params, tile.batch, tile.head, row, true,
            [&](float factor, float weight, const Element* value_row) {
                float value[LANE_COLUMNS];
                load_columns(value_row, lane, params.head_dim, value);
#pragma unroll
                for (int i = 0; i < LANE_COLUMNS; ++i) {
                    accumulator[i] = fmaf(weight, value[i], accumulator[i] * factor);
                }
            });
    }

    Element* output =
        head_data(params.output, tile.batch, tile.head) + row * params.output.row_stride;
    const float normalise = normaliser(statistics.sum);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) {
        const int column = i * WARP_SIZE + lane;
        if (column < params.head_dim) output[column] = to_element(accumulator[i] * normalise);
    }
    if (lane == 0) store_lse(params, tile, row, row_lse(statistics));
}
