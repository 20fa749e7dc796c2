// What one warpgroup does for its 64 rows, with scores, weights and output in registers (sm_90a). In
// which order products and softmax follow one another is the business of the kernel around it.
#pragma once

#include "common/boxed_tile.cuh"
#include "common/mask.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/warp.cuh"
#include "common/warpgroup.cuh"
#include "common/wgmma.cuh"

constexpr int WARPGROUP_ROWS = 64;
constexpr int WARP_ROWS = 16;

// Separate loops for tiles that need a mask and tiles that do not, from one lambda.
struct Unmasked {
    static constexpr bool value = false;
};
struct Masked {
    static constexpr bool value = true;
};

template <int KEYS, int COLUMNS>
class WarpgroupAttention {
    static constexpr int LANE_ROWS = 2;  // fragments give each lane two rows, 8 apart
    static_assert(KEYS % 16 == 0, "whole wgmma steps");

    // [j][half][i]: column 8·j + 2·(lane % 4) + i of the row 8·half + lane / 4 of the warp's 16.
    float score[KEYS / 2];
    unsigned weight[KEYS / 4];  // in pairs of columns; element for element the operand of P·V
    float output[COLUMNS / 2] = {};
    RowStatistics statistics[LANE_ROWS];
    float factor[LANE_ROWS];  // what the last softmax asks the output to be multiplied by
    float exponent_scale;
    int lane;

public:
    // The scale must have been made positive: see `negate_rows`.
    __device__ WarpgroupAttention(const AttentionParams& params, int lane) : lane(lane) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
    }

    // Before products are issued, and once they are waited for: no use of their registers crosses
    // these lines.
    __device__ void begin_products() {
        pin(score);
        pin(output);
        wgmma_fence();
    }
    __device__ void end_products() {
        wgmma_wait<0>();
        pin(score);
        pin(output);
    }

    // S = Q · Kᵀ, issued as a group; `query` starts at the first row of the warpgroup.
    template <typename QueryTile>
    __device__ void multiply_keys(Descriptor query, const BoxedTile<KEYS, COLUMNS>& keys) {
        const Descriptor key = keys.along_columns();
#pragma unroll
        for (int step = 0; step < COLUMNS / 16; ++step) {
            Wgmma<KEYS>::multiply_shared(score, query.advanced(QueryTile::column_step(step)),
                                         key.advanced(keys.column_step(step)), step != 0);
        }
        wgmma_commit();
    }

    // O += P · V, issued as a group.
    __device__ void multiply_values(const BoxedTile<KEYS, COLUMNS>& values) {
        const Descriptor value = values.along_rows();
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            Wgmma<COLUMNS>::multiply_registers(output, weight + 4 * step,
                                               value.advanced(values.row_step(step)), 1);
        }
        wgmma_commit();
    }

    // Makes unnormalised weights of the scores, in place, and lets the maxima grow. Where MASKED,
    // keys that a row does not see weigh nothing; `first_row` is the warp's within its head,
    // `first_key` the tile's.
    template <bool MASKED>
    __device__ void softmax(const AttentionParams& params, int first_row, int first_key) {
        if constexpr (MASKED) mask_scores(params, first_row, first_key);
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            float maximum = NEGATIVE_INFINITY;
#pragma unroll
            for (int i = 2 * half; i < KEYS / 2; i += 4) {
                maximum = fmaxf(maximum, fmaxf(score[i], score[i + 1]));
            }
            RowStatistics& row = statistics[half];
            factor[half] = raise_maximum(row, group_max<4>(maximum) * exponent_scale);
            const float subtrahend = safe_maximum(row.maximum);
            float even = 0.0f, odd = 0.0f;  // two chains of additions instead of one
#pragma unroll
            for (int i = 2 * half; i < KEYS / 2; i += 4) {
                score[i] = exp2_approx(fmaf(score[i], exponent_scale, -subtrahend));
                score[i + 1] = exp2_approx(fmaf(score[i + 1], exponent_scale, -subtrahend));
                even += score[i];
                odd += score[i + 1];
            }
            row.sum += even + odd;  // unrounded: the sum does not inherit P's rounding
        }
    }

    // P, rounded to the dtype, once the products that read the last P are done.
    __device__ void round_weights() {
#pragma unroll
        for (int i = 0; i < KEYS / 4; ++i) {
            weight[i] = to_element_pair(score[2 * i], score[2 * i + 1]);
        }
    }

    // Brings the output to the new maxima, once the products that add to it are done.
    __device__ void rescale_output() { scale_output(factor); }

    // Divides by the sums, gives out the log-sum-exp, and leaves the rows at `first` of `staging`.
    template <typename StagingTile>
    __device__ void finish(const AttentionParams& params, const QueryTile& tile, int first_row,
                           StagingTile& staging, int first) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics& row = statistics[half];
            row.sum = group_sum<4>(row.sum);
            factor[half] = normaliser(row.sum);
            const int query = first_row + 8 * half + lane / 4;
            if (lane % 4 == 0 && query < params.len_q) store_lse(params, tile, query, row_lse(row));
        }
        scale_output(factor);
        staging.store_fragment(output, first, lane);
    }

private:
    __device__ void mask_scores(const AttentionParams& params, int first_row, int first_key) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int query = first_row + 8 * half + lane / 4;
            const int visible = visible_keys(params, query) - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < KEYS / 8; ++block) {
                float* pair = score + 4 * block + 2 * half;
                if (8 * block >= visible) pair[0] = NEGATIVE_INFINITY;
                if (8 * block + 1 >= visible) pair[1] = NEGATIVE_INFINITY;
            }
        }
    }

    __device__ void scale_output(const float (&by)[LANE_ROWS]) {
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; ++i) output[i] *= by[i / 2 % LANE_ROWS];
    }
};
