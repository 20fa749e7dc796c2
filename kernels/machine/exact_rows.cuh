// Rows whose logits are too large for one fused instruction per weight, where a row's keys are a
// range and a sink may weigh, too: the rare way out of kernels that take extensions.
#pragma once

#include "machine/element.cuh"
#include "machine/key_range.cuh"
#include "machine/large_logits.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
#include "machine/softmax.cuh"
#include "machine/warp.cuh"

// Attention of one row once more, by the four lanes that share it, one key at a time, with
// differences of scores taken before they are scaled. All lanes of the warp take part, those whose
// row is not `wanted` for its shuffles alone; `keys` holds what any of the warp's rows sees. For
// each key `add(factor, weight, value)` brings the lane's columns up to date: what they hold
// shrinks by `factor`, then `weight` times the row at `value` is added. They must be 0 before.
template <typename Add>
__device__ inline RowStatistics attend_exactly_in_range(const ExtendedParams& params,
                                                        const QueryTile& tile,
                                                        const Sequence& sequence, KeyRange keys,
                                                        int row, bool wanted, Add add) {
    constexpr int LANES = 4;
    int batch = tile.batch;
    int head = tile.head;
    // Opaque, so that nothing of this is worked out ahead of the kernel's loop and kept for its
    // sake.
    asm volatile("" : "+r"(batch), "+r"(head), "+r"(row));
    const int lane = thread_index() % LANES;
    const int head_kv = key_head(params, head);
    const Element* query = head_data(params.query, batch, head) +
                           (sequence.first_query + (wanted ? row : 0)) * params.query.row_stride;
    const Element* key = head_data(params.key, batch, head_kv) +
                         (sequence.first_key + keys.begin) * params.key.row_stride;
    const Element* value = head_data(params.value, batch, head_kv) +
                           (sequence.first_key + keys.begin) * params.value.row_stride;
    const KeyRange own = visible_range(params, sequence, row);
    const float exponent_scale = fabsf(params.scale_log2e);

    RowStatistics total;
#pragma unroll 1
    for (int j = keys.begin; j < keys.end; ++j) {
        const bool seen = wanted && j >= own.begin && j < own.end;
        float score = 0.0f;
        if (seen) {
#pragma unroll 1
            for (int column = lane; column < params.head_dim; column += LANES) {
                score = fmaf(to_float(query[column]), to_float(key[column]), score);
            }
        }
        score = group_sum<LANES>(score);
        if (seen) {
            if (params.scale < 0.0f) score = -score;
            const float maximum = fmaxf(total.maximum, score);
            const float subtrahend = safe_maximum(maximum);
            const float factor = exp2_approx((total.maximum - subtrahend) * exponent_scale);
            const float weight = exp2_approx((score - subtrahend) * exponent_scale);
            total = {maximum, fmaf(total.sum, factor, weight)};
            add(factor, weight, value);
        }
        key += params.key.row_stride;
        value += params.value.row_stride;
    }
    total.maximum *= exponent_scale;
    return total;
}

// By a warp, for those of its 16 rows from `first_row` of the sequence on whose maxima are large,
// as fragments give them to lanes: [8 · half + lane / 4]. Calls `store(row, column, columns)` for 4
// columns of a row, divided by the sum, `row` counting from the first; gives out the log-sum-exp.
template <typename Store>
__device__ inline void attend_exactly_to_rows(const ExtendedParams& params, const QueryTile& tile,
                                              const Sequence& sequence, int first_row,
                                              const float (&maxima)[2], Store store) {
    if (!__any_sync(ALL_LANES, is_large(maxima[0]) || is_large(maxima[1]))) return;
    // What the other lanes stored of these rows must not come later.
    __syncwarp();
    const int lane = thread_index() % WARP_SIZE;
    const float sink = params.sinks ? params.sinks[tile.head] * LOG2_E : NEGATIVE_INFINITY;
    // Both ends of the range only grow with the row.
    const KeyRange keys = {visible_range(params, sequence, first_row).begin,
                           visible_range(params, sequence, first_row + 15).end};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = 8 * half + lane / 4;
        const bool large = is_large(maxima[half]) && first_row + row < sequence.len_q;
#pragma unroll 1
        for (int column = 4 * (lane % 4); column < HEAD_DIM; column += 16) {
            float sum[4] = {};
            RowStatistics total =
                attend_exactly_in_range(params, tile, sequence, keys, first_row + row, large,
                                        [&](float factor, float weight, const Element* value) {
                                            if (column >= params.head_dim) return;
                                            float columns[4];
                                            load_as_float(value + column, columns);
#pragma unroll
                                            for (int c = 0; c < 4; ++c)
                                                sum[c] = fmaf(weight, columns[c], sum[c] * factor);
                                        });
            if (!large) continue;
            const float share = params.sinks ? add_sink(total, sink) : 1.0f;
            if (column < params.head_dim) {
                // UNREACHED: a row with a large maximum has seen a key, so its sum is not 0.
                const float normalise = share * normaliser(total.sum);
#pragma unroll
                for (int c = 0; c < 4; ++c) sum[c] *= normalise;
                store(row, column, sum);
            }
            if (column == 0) {
                store_lse(params, tile, sequence.first_query + first_row + row, row_lse(total));
            }
        }
    }
}

// The same, straight to the output.
__device__ inline void attend_exactly_to_output(const ExtendedParams& params, const QueryTile& tile,
                                                const Sequence& sequence, int first_row,
                                                const float (&maxima)[2]) {
    Element* const rows = head_data(params.output, tile.batch, tile.head) +
                          (sequence.first_query + first_row) * params.output.row_stride;
    attend_exactly_to_rows(params, tile, sequence, first_row, maxima,
                           [&](int row, int column, const float (&columns)[4]) {
                               store_from_float(rows + row * params.output.row_stride + column,
                                                columns);
                           });
}
