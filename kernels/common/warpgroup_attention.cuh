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

// Whether none of the warpgroup's rows from `first_row` on sees a key from `first_key` on.
__device__ inline bool sees_nothing_from(const AttentionParams& params, int first_row,
                                         int first_key) {
    const int last_row = min(first_row + WARPGROUP_ROWS, params.len_q) - 1;
    return visible_keys(params, last_row) <= first_key;
}

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

    // For the next rows.
    __device__ void start_over() {
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; ++i) output[i] = 0.0f;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) statistics[half] = {};
    }

    // Before products are issued, and once they are waited for: no use of their registers crosses
    // these lines.
    __device__ void begin_products() {
        pin(score);
        pin(output);
    }
    __device__ void end_products() {
        wgmma_wait<0>();
        pin(score);
        pin(output);
    }

    // Of two groups of products under way, the scores first: waits for the one, then for both.
    __device__ void await_scores() {
        wgmma_wait<1>();
        pin(score);
    }
    __device__ void await_output() {
        wgmma_wait<0>();
        pin(output);
    }

    // S = Q · Kᵀ, issued as a group; `query` starts at the first row of the warpgroup. Of the tile's
    // keys the first COUNT.
    template <typename QueryTile, int COUNT = KEYS>
    __device__ void multiply_keys(Descriptor query, const BoxedTile<KEYS, COLUMNS>& keys) {
        const Descriptor key = keys.along_columns();
        auto& first_scores = reinterpret_cast<float(&)[COUNT / 2]>(score);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < COLUMNS / 16; ++step) {
            Wgmma<COUNT>::multiply_shared(first_scores,
                                          query.advanced(QueryTile::column_step(step)),
                                          key.advanced(keys.column_step(step)), step != 0);
        }
        wgmma_commit();
    }

    // O += P · V, issued as a group.
    __device__ void multiply_values(const BoxedTile<KEYS, COLUMNS>& values) {
        const Descriptor value = values.along_rows();
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            Wgmma<COLUMNS>::multiply_registers(output, weight + 4 * step,
                                               value.advanced(values.row_step(step)), 1);
        }
        wgmma_commit();
    }

    // Makes unnormalised weights of the first COUNT scores, in place, and lets the maxima grow. Where
    // MASKED, keys that a row does not see weigh nothing; `first_row` is the warp's within its head,
    // `first_key` the tile's. A maximum that would grow by no more than SLACK (as a power of two)
    // stays what it is.
    template <bool MASKED, int SLACK = 0, int COUNT = KEYS>
    __device__ void softmax(const AttentionParams& params, int first_row, int first_key) {
        softmax<MASKED, SLACK, 0, COUNT>(params, first_row, first_key, [] {});
    }

    // The same, with `meanwhile` called when EIGHTHS of the exponentials are done. Where a wait in
    // it ends up is up to the assembler, which moves exponentials across waits as it sees fit: the
    // number is measured, not derived.
    template <bool MASKED, int SLACK, int EIGHTHS, int COUNT = KEYS, typename Meanwhile>
    __device__ void softmax(const AttentionParams& params, int first_row, int first_key,
                            Meanwhile meanwhile) {
        if constexpr (MASKED) mask_scores<COUNT>(params, first_row, first_key);
        float subtrahend[LANE_ROWS];
        raise_maxima<SLACK, COUNT>(subtrahend);
        float sum[LANE_ROWS][2] = {};  // two chains of additions a row instead of one
        constexpr int BLOCKS = COUNT / 8;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            if (EIGHTHS < 8 && block == BLOCKS * EIGHTHS / 8) meanwhile();
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& x = score[4 * block + i];
                x = exp2_approx(fmaf(x, exponent_scale, -subtrahend[i / 2]));
                sum[i / 2][i % 2] += x;  // unrounded: the sum does not inherit P's rounding
            }
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            statistics[half].sum += sum[half][0] + sum[half][1];
        }
        if (EIGHTHS == 8) meanwhile();
    }

    // P, rounded to the dtype, once the products that read the last P are done. Keys behind the first
    // COUNT weigh nothing.
    template <int COUNT = KEYS>
    __device__ void round_weights() {
#pragma unroll
        for (int i = 0; i < KEYS / 4; ++i) {
            weight[i] = i < COUNT / 4 ? to_element_pair(score[2 * i], score[2 * i + 1]) : 0;
        }
    }

    // Brings the output to the new maxima, once the products that add to it are done.
    __device__ void rescale_output() { scale_output(factor); }

    // The same where most maxima stay: a vote of the warp saves the products with 1.
    __device__ void rescale_output_if_needed() {
        if (__any_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f)) scale_output(factor);
    }

    // Divides by the sums, gives out the log-sum-exp, and leaves the rows at `first` of `staging`.
    template <typename StagingTile>
    __device__ void finish(const AttentionParams& params, const QueryTile& tile, int first_row,
                           StagingTile& staging, int first) {
        normalise(params, tile, first_row);
        staging.store_fragment(output, first, lane);
    }

    // The same, straight to the tensor. The four lanes that share a row hold pairs of its columns;
    // they exchange them until each holds a chunk of 16 bytes.
    __device__ void finish(const AttentionParams& params, const QueryTile& tile, int first_row) {
        normalise(params, tile, first_row);
        Element* const tensor = head_data(params.output, tile.batch, tile.head);
        const int member = lane % 4;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int query = first_row + 8 * half + lane / 4;
#pragma unroll
            for (int first = 0; first < COLUMNS / 8; first += 4) {
                unsigned chunk[4];
#pragma unroll
                for (int block = 0; block < 4; ++block) {
                    const float* pair = output + 4 * (first + block) + 2 * half;
                    chunk[block] = to_element_pair(pair[0], pair[1]);
                }
                transpose_among_four(chunk, member);
                const int column = 8 * (first + member);
                if (query < params.len_q && column < params.head_dim) {
                    *reinterpret_cast<uint4*>(tensor + query * params.output.row_stride + column) =
                        make_uint4(chunk[0], chunk[1], chunk[2], chunk[3]);
                }
            }
        }
    }

private:
    // Lets the maxima of both rows grow over the first COUNT scores; the sums and `factor` follow.
    template <int SLACK, int COUNT>
    __device__ void raise_maxima(float (&subtrahend)[LANE_ROWS]) {
        float maximum[LANE_ROWS];
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            // Four chains of comparisons: each waits for its last one's result.
            float chain[4] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, NEGATIVE_INFINITY,
                              NEGATIVE_INFINITY};
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& longest = chain[block % 2 * 2 + i];
                    longest = fmaxf(longest, score[4 * block + 2 * half + i]);
                }
            }
            maximum[half] = fmaxf(fmaxf(chain[0], chain[1]), fmaxf(chain[2], chain[3]));
        }
#pragma unroll
        for (int distance = 2; distance > 0; distance /= 2) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const float other = __shfl_xor_sync(ALL_LANES, maximum[half], distance);
                maximum[half] = fmaxf(maximum[half], other);
            }
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics& row = statistics[half];
            const float grown = fmaxf(row.maximum, maximum[half] * exponent_scale);
            const bool keeps = SLACK > 0 && grown - row.maximum <= float(SLACK);
            factor[half] = raise_maximum(row, keeps ? row.maximum : grown);
            subtrahend[half] = safe_maximum(row.maximum);
        }
    }

    template <int COUNT>
    __device__ void mask_scores(const AttentionParams& params, int first_row, int first_key) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int query = first_row + 8 * half + lane / 4;
            const int visible = visible_keys(params, query) - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
                float* pair = score + 4 * block + 2 * half;
                if (8 * block >= visible) pair[0] = NEGATIVE_INFINITY;
                if (8 * block + 1 >= visible) pair[1] = NEGATIVE_INFINITY;
            }
        }
    }

    // Divides by the sums and gives out the log-sum-exp.
    __device__ void normalise(const AttentionParams& params, const QueryTile& tile, int first_row) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics& row = statistics[half];
            row.sum = group_sum<4>(row.sum);
            factor[half] = normaliser(row.sum);
            const int query = first_row + 8 * half + lane / 4;
            if (lane % 4 == 0 && query < params.len_q) store_lse(params, tile, query, row_lse(row));
        }
        scale_output(factor);
    }

    __device__ void scale_output(const float (&by)[LANE_ROWS]) {
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; ++i) output[i] *= by[i / 2 % LANE_ROWS];
    }
};
