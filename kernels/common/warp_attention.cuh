// What one warp does for its rows, all in registers: scores, streaming softmax, output. Where the
// tiles of keys and values come from is the business of the kernel around it.
#pragma once

#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/swizzled_tile.cuh"
#include "common/tensor_core.cuh"
#include "common/warp.cuh"

// Where a lane starts reading the fragments of each operand in shared memory; the rest of its way
// is a constant. ldmatrix takes the rows of one 8×8 matrix from each eight lanes. For Q the
// matrices are the quarters of a 16×16 block; for K two blocks of 8 keys, each with both halves of
// a depth step; for V two blocks of 8 keys, each with both halves of 16 columns.
struct LaneStart {
    unsigned query;
    unsigned key;
    unsigned value;

    template <typename QueryTile, typename KeyTile>
    __device__ LaneStart(const QueryTile& queries, int first_row, const KeyTile& keys,
                         const KeyTile& values) {
        const int lane = threadIdx.x % WARP_SIZE;
        query = queries.start(first_row + lane % 16, lane / 16);
        key = keys.start(lane % 8 + lane / 16 * 8, lane / 8 % 2);
        value = values.start(lane % 16, lane / 16);
    }
};

// Separate loops for tiles that need a mask and tiles that do not, from one lambda.
struct Unmasked {
    static constexpr bool value = false;
};
struct Masked {
    static constexpr bool value = true;
};

// What `attend` does between its steps where a kernel has nothing to do there.
struct Nothing {
    __device__ void operator()() const {}
};

// A warp owns BLOCKS blocks of 16 rows: with two, every K and V fragment that is loaded serves
// twice, which takes shared memory off the critical path; with one there are twice as many warps
// for a short problem.
template <int BLOCKS, int KEYS>
class WarpAttention {
    static constexpr int KEY_BLOCKS = KEYS / 8;         // columns of a score fragment
    static constexpr int COLUMN_BLOCKS = HEAD_DIM / 8;  // columns of an output fragment
    static constexpr int DEPTH_STEPS = HEAD_DIM / 16;   // of Q·Kᵀ
    static constexpr int KEY_STEPS = KEYS / 16;         // of P·V
    static constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart
    static constexpr int BLOCK_BYTES = 16 * HEAD_DIM * sizeof(Element);  // 16 rows of a tile
    static_assert(KEYS % 16 == 0 && HEAD_DIM % 16 == 0, "whole mma steps");

    // Q stays in registers where the output leaves room for it.
    static constexpr bool KEEP_QUERY = BLOCKS * HEAD_DIM <= 128;
    static constexpr int KEPT_STEPS = KEEP_QUERY ? DEPTH_STEPS : 1;

    // Measured on an H200 at 64 and 128 columns: 3 % slower and 4 % faster.
    static constexpr bool VOTE = BLOCKS * HEAD_DIM > 128;

    using Tile = SwizzledTile<KEYS, HEAD_DIM>;

    unsigned query[KEPT_STEPS][BLOCKS][4];
    float output[BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics statistics[BLOCKS][LANE_ROWS];
    float exponent_scale;

public:
    using Scores = float[BLOCKS][KEY_BLOCKS][4];

    // `query_start` as in LaneStart. The scale must have been made positive: see `negate_own`.
    __device__ WarpAttention(const AttentionParams& params, unsigned query_start) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
        if constexpr (KEEP_QUERY) {
#pragma unroll
            for (int step = 0; step < DEPTH_STEPS; ++step) {
                load_query(query[step], query_start, step);
            }
        }
    }

    // One tile of keys and values, whose fragments start at `start`. Where MASKED, keys that a row
    // does not see are left out: `visible(row)` says how many it sees from the tile's first one on,
    // `row` counting from the warp's first. The kernel is called when the keys have been read, and
    // before the values are: to wait for what is still under way, and to start what comes next.
    template <bool MASKED, typename Visible, typename KeysRead = Nothing,
              typename ValuesNext = Nothing>
    __device__ void attend(const LaneStart& start, Visible visible, KeysRead keys_read = {},
                           ValuesNext values_next = {}) {
        Scores score = {};
        attend_to_keys<MASKED>(score, start, visible, keys_read);
        values_next();
        multiply_values(score, start.value);
    }

    // The two halves of `attend`, for kernels whose warps must meet in between: scores of zeros
    // become those of the tile and the maxima grow; then its values are added, weighted.
    template <bool MASKED, typename Visible, typename KeysRead = Nothing>
    __device__ void attend_to_keys(Scores& score, const LaneStart& start, Visible visible,
                                   KeysRead keys_read = {}) {
        multiply_keys(score, start);
        keys_read();
        if constexpr (MASKED) mask_scores(score, visible);
        raise_maxima(score);
    }
    __device__ void attend_to_values(const Scores& score, const LaneStart& start) {
        multiply_values(score, start.value);
    }

    // The first half where one copy of the products had better serve tiles of both kinds.
    template <typename Visible>
    __device__ void attend_to_keys(Scores& score, const LaneStart& start, bool masked,
                                   Visible visible) {
        multiply_keys(score, start);
        if (masked) mask_scores(score, visible);
        raise_maxima(score);
    }

    // Divides by the sums and writes the rows; `first_row` is the warp's within its head.
    __device__ void store(const AttentionParams& params, const QueryTile& tile, int first_row) {
        Element* output = head_data(params.output, tile.batch, tile.head);
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int own_row, const RowStatistics& own, auto columns) {
            const int row = first_row + own_row;
            if (row >= params.len_q) return;
            const float normalise = normaliser(own.sum);
            Element* destination = output + row * params.output.row_stride + lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                if (8 * column >= params.head_dim) break;
                const float2 pair = columns(column);
                *reinterpret_cast<unsigned*>(destination + 8 * column) =
                    to_element_pair(pair.x * normalise, pair.y * normalise);
            }
            if (lane % 4 == 0) store_lse(params, tile, row, row_lse(own));
        });
    }

    // Calls `visit(row, statistics, columns)` for both rows that this lane holds of every block:
    // `row` counts from the warp's first, `columns(c)` are the lane's two neighbours at column 8·c
    // + 2·(lane % 4), not yet divided by the sum.
    template <typename Visit>
    __device__ void for_each_row(Visit visit) {
        const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                RowStatistics& own = statistics[block][half];
                own.sum = group_sum<4>(own.sum);
                visit(16 * block + 8 * half + lane / 4, own, [&](int column) {
                    const float* pair = &output[block][column][2 * half];
                    return make_float2(pair[0], pair[1]);
                });
            }
        }
    }

    // What this lane holds of the only block: the statistics of both rows, 8 apart, sums completed;
    // and their output in column 8·column + 2·(lane % 4) and its neighbour, the first row's pair
    // first.
    __device__ void complete_statistics(RowStatistics (&rows)[LANE_ROWS]) {
        static_assert(BLOCKS == 1, "the only block");
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            rows[half] = statistics[0][half];
            rows[half].sum = group_sum<4>(rows[half].sum);
        }
    }
    __device__ float4 columns_of_both_rows(int column) const {
        static_assert(BLOCKS == 1, "the only block");
        const float(&own)[4] = output[0][column];
        return make_float4(own[0], own[1], own[2], own[3]);
    }

private:
    __device__ static void load_query(unsigned (&fragment)[BLOCKS][4], unsigned start, int step) {
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            load_matrices(fragment[block], Tile::advanced(start, step) + block * BLOCK_BYTES);
        }
    }

    // S = Q · Kᵀ.
    __device__ void multiply_keys(Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < DEPTH_STEPS; ++step) {
            auto& left = query[KEEP_QUERY ? step : 0];
            if constexpr (!KEEP_QUERY) load_query(left, start.query, step);
            const unsigned key = Tile::advanced(start.key, step);
#pragma unroll
            for (int pair = 0; pair < KEY_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices(right, key + pair * BLOCK_BYTES);
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block) {
                    multiply_accumulate(score[block][2 * pair], left[block], right[0], right[1]);
                    multiply_accumulate(score[block][2 * pair + 1], left[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // -infinity where the row does not see the key.
    template <typename Visible>
    __device__ static void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const int visible_here = visible(16 * block + 8 * half + lane / 4) - lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if (8 * column + i >= visible_here) {
                            score[block][column][2 * half + i] = NEGATIVE_INFINITY;
                        }
                    }
                }
            }
        }
    }

    // Lets the maxima of the rows grow; sums and output follow.
    __device__ void raise_maxima(const Scores& score) {
        float factor[BLOCKS][LANE_ROWS];
        bool grown = false;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                float maximum = NEGATIVE_INFINITY;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
                    maximum = fmaxf(maximum, fmaxf(score[block][column][2 * half],
                                                   score[block][column][2 * half + 1]));
                }
                // INSIGHT: where the scale is positive, the largest score has the largest exponent:
                // one product a row instead of one a score.
                factor[block][half] =
                    raise_maximum(statistics[block][half], group_max<4>(maximum) * exponent_scale);
                grown |= factor[block][half] != 1.0f;
            }
        }
        // After the first tiles a maximum seldom grows. A wide output is worth a vote that saves
        // the products with 1; a narrow one is not. The result is the same to the bit.
        if (VOTE && !__any_sync(ALL_LANES, grown)) return;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
#pragma unroll
                for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                    output[block][column][2 * half] *= factor[block][half];
                    output[block][column][2 * half + 1] *= factor[block][half];
                }
            }
        }
    }

    // O += P · V, with P = 2^(score · exponent_scale - maximum) rounded to the dtype on the way.
    // The accumulator fragments of two neighbouring key blocks are, element for element, one
    // operand fragment of 16 keys. Taken 16 keys at a time, the exponentials of the next keys have
    // the products of the last ones to hide behind.
    __device__ void multiply_values(const Scores& score, unsigned value_start) {
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
            unsigned weight[BLOCKS][4];
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
                for (int quarter = 0; quarter < 4;
                     ++quarter) {  // of 16×16: two of rows by two of keys
                    const int half = quarter % 2;
                    const float* pair = &score[block][2 * step + quarter / 2][2 * half];
                    RowStatistics& row = statistics[block][half];
                    const float low = softmax_weight(pair[0], exponent_scale, row.maximum);
                    const float high = softmax_weight(pair[1], exponent_scale, row.maximum);
                    row.sum += low + high;  // unrounded: the sum does not inherit P's rounding
                    weight[block][quarter] = to_element_pair(low, high);
                }
            }
            const unsigned value = value_start + step * BLOCK_BYTES;
#pragma unroll
            for (int pair = 0; pair < COLUMN_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices_transposed(right, Tile::advanced(value, pair));
#pragma unroll
                for (int block = 0; block < BLOCKS; ++block) {
                    multiply_accumulate(output[block][2 * pair], weight[block], right[0], right[1]);
                    multiply_accumulate(output[block][2 * pair + 1], weight[block], right[2],
                                        right[3]);
                }
            }
        }
    }
};
