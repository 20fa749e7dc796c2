// Rows whose logits are too large for one fused instruction per weight: the rare way out.
#pragma once

#include "machine/element.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/warp.cuh"

// Whether the rounding of a row's maximum, up to 2^-23 of itself, could show in the weights: from
// here on they may be off by a factor of 4, at 2^28 by more than f16 holds.
__device__ inline bool is_large(float maximum) {
    return fabsf(maximum) >= 16777216.0f && maximum != NEGATIVE_INFINITY;
}

// Attention of one row once more, one key at a time, with differences of scores taken before they
// are scaled. LANES neighbouring lanes share the row; all lanes of the warp take part unless LANES
// is 1, those whose row is not `wanted` for its shuffles alone. For each key `add(factor, weight,
// value)` brings the lane's columns up to date: what they hold shrinks by `factor`, then `weight`
// times the row at `value` is added. They must be 0 before.
template <int LANES, typename Add>
__device__ inline RowStatistics attend_exactly(const AttentionParams& params, int batch, int head,
                                               int row, bool wanted, Add add) {
    // Opaque, so that nothing of this is worked out ahead of the kernel's loop and kept for its
    // sake.
    asm volatile("" : "+r"(batch), "+r"(head), "+r"(row));
    const int lane = thread_index() % LANES;
    const int head_kv = key_head(params, head);
    const Element* query =
        head_data(params.query, batch, head) + (wanted ? row : 0) * params.query.row_stride;
    const Element* key = head_data(params.key, batch, head_kv);
    const Element* value = head_data(params.value, batch, head_kv);
    const int visible = wanted ? visible_keys(params, row) : 0;
    const float exponent_scale = fabsf(params.scale_log2e);

    RowStatistics total;
#pragma unroll 1
    for (int j = 0; j < params.len_kv; ++j) {
        float score = 0.0f;
        if (j < visible) {
#pragma unroll 1
            for (int column = lane; column < params.head_dim; column += LANES) {
                score = fmaf(to_float(query[column]), to_float(key[column]), score);
            }
        }
        if constexpr (LANES > 1) score = group_sum<LANES>(score);
        if (j < visible) {
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

// The same by one thread, for COUNT neighbouring columns of the row's output; not yet divided.
template <int COUNT>
__device__ inline RowStatistics attend_exactly_to(const AttentionParams& params, int batch,
                                                  int head, int row, int first_column,
                                                  float (&sum)[COUNT]) {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) sum[c] = 0.0f;
    return attend_exactly<1>(params, batch, head, row, true,
                             [&](float factor, float weight, const Element* value) {
                                 float columns[COUNT];
                                 load_as_float(value + first_column, columns);
#pragma unroll
                                 for (int c = 0; c < COUNT; ++c) {
                                     sum[c] = fmaf(weight, columns[c], sum[c] * factor);
                                 }
                             });
}

// The same by a warp, for the rows of its 16 from `first_row` on whose maxima are large, as
// fragments give them to lanes: [8 · half + lane / 4]. Calls `store(row, column, columns)` for 4
// columns of a row, divided by the sum, `row` counting from the first; gives out the log-sum-exp if
// `with_lse`.
template <typename Store>
__device__ inline void attend_exactly_to_rows(const AttentionParams& params, const QueryTile& tile,
                                              int first_row, const float (&maxima)[2],
                                              bool with_lse, Store store) {
    if (!__any_sync(ALL_LANES, is_large(maxima[0]) || is_large(maxima[1]))) return;
    // What the other lanes stored of these rows must not come later.
    __syncwarp();
    const int lane = thread_index() % WARP_SIZE;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = 8 * half + lane / 4;
        const bool large = is_large(maxima[half]) && first_row + row < params.len_q;
#pragma unroll 1
        for (int column = 4 * (lane % 4); column < HEAD_DIM; column += 16) {
            float sum[4] = {};
            const RowStatistics total =
                attend_exactly<4>(params, tile.batch, tile.head, first_row + row, large,
                                  [&](float factor, float weight, const Element* value) {
                                      if (column >= params.head_dim) return;
                                      float columns[4];
                                      load_as_float(value + column, columns);
#pragma unroll
                                      for (int c = 0; c < 4; ++c)
                                          sum[c] = fmaf(weight, columns[c], sum[c] * factor);
                                  });
            if (!large) continue;
            if (column < params.head_dim) {
                // UNREACHED: a row with a large maximum has seen a key, so its sum is not 0.
                const float normalise = normaliser(total.sum);
#pragma unroll
                for (int c = 0; c < 4; ++c) sum[c] *= normalise;
                store(row, column, sum);
            }
            if (column == 0 && with_lse) store_lse(params, tile, first_row + row, row_lse(total));
        }
    }
}

// The same, straight to the output. (A template, as the above, for kernels that have no HEAD_DIM.)
template <typename Tile>
__device__ inline void attend_exactly_to_output(const AttentionParams& params, const Tile& tile,
                                                int first_row, const float (&maxima)[2]) {
    Element* const head = head_data(params.output, tile.batch, tile.head);
    const auto store = [&](int row, int column, const float (&columns)[4]) {
        store_from_float(head + (first_row + row) * params.output.row_stride + column, columns);
    };
    attend_exactly_to_rows(params, tile, first_row, maxima, true, store);
}
