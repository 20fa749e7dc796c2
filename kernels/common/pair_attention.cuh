// What two warps do together for 32 rows of a wide head: each multiplies the queries with half of a
// tile's keys, and the weights with half of the values' columns.
//
// Sixteen rows a warp need a fragment from shared memory for every second product, and 32 rows of
// 256 columns have no place in one warp's registers. Split like this every fragment of K and V
// serves 32 rows, and shared memory is asked for a quarter less; in exchange the weights of the
// other half of the keys come from the neighbour, and so do the maxima of its rows.
#pragma once

#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/swizzled_tile.cuh"
#include "common/tensor_core.cuh"
#include "common/warp.cuh"

constexpr int PAIR_ROWS = 32;
constexpr int PAIR_THREADS = 2 * WARP_SIZE;

// Where a pair's warps meet.
template <int KEYS>
struct PairExchange {
    SwizzledTile<PAIR_ROWS, KEYS> weights;
    float rows[2][PAIR_ROWS];  // of each warp, a number a row: its maximum, in the end its sum
};

template <int KEYS>
class PairAttention {
    static constexpr int BLOCKS = PAIR_ROWS / 16;
    static constexpr int OWN_KEYS = KEYS / 2;
    static constexpr int KEY_BLOCKS = OWN_KEYS / 8;
    static constexpr int KEY_STEPS = OWN_KEYS / 16;
    static constexpr int COLUMNS = HEAD_DIM / 2;
    static constexpr int COLUMN_BLOCKS = COLUMNS / 8;
    static constexpr int DEPTH_STEPS = HEAD_DIM / 16;
    static constexpr int LANE_ROWS = 2;
    static constexpr int BLOCK_BYTES = 16 * HEAD_DIM * sizeof(Element);
    static_assert(OWN_KEYS % 16 == 0 && COLUMNS % (8 * CHUNK) == 0, "whole mma steps, whole lines");

    using Tile = SwizzledTile<KEYS, HEAD_DIM>;
    using WeightTile = SwizzledTile<PAIR_ROWS, KEYS>;
    using Scores = float[BLOCKS][KEY_BLOCKS][4];

    PairExchange<KEYS>& exchange;
    int side;     // 0 or 1: which half of the keys and of the columns
    int barrier;  // the pair's own
    float output[BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics statistics[BLOCKS][LANE_ROWS];  // the sums of this warp's keys alone
    float exponent_scale;

public:
    struct LaneStart {
        unsigned query;
        unsigned key;
        unsigned value;
    };

    __device__ PairAttention(const AttentionParams& params, PairExchange<KEYS>& exchange, int pair,
                             int side)
        : exchange(exchange), side(side), barrier(1 + pair) {
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
    }

    template <typename QueryTile>
    __device__ LaneStart lane_start(const QueryTile& queries, int first_row, const Tile& keys,
                                    const Tile& values) const {
        const int lane = threadIdx.x % WARP_SIZE;
        return {queries.start(first_row + lane % 16, lane / 16),
                keys.start(side * OWN_KEYS + lane % 8 + lane / 16 * 8, lane / 8 % 2),
                values.start(lane % 16, lane / 16 + side * (COLUMNS / CHUNK))};
    }

    // As in WarpAttention.
    template <bool MASKED, typename Visible, typename KeysRead>
    __device__ void attend(const LaneStart& start, Visible visible, KeysRead keys_read) {
        Scores score = {};
        multiply_keys(score, start);
        keys_read();
        if constexpr (MASKED) mask_scores(score, visible);
        raise_maxima(score);
        multiply_values(score, start.value);
    }

    __device__ void store(const AttentionParams& params, const QueryTile& tile, int first_row) {
        Element* output_head = head_data(params.output, tile.batch, tile.head);
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int row, RowStatistics& own, int, int) {
            own.sum = group_sum<4>(own.sum);
            if (lane % 4 == 0) exchange.rows[side][row] = own.sum;
        });
        synchronize_pair();
        for_each_row([&](int own_row, RowStatistics& own, int block, int half) {
            own.sum = exchange.rows[0][own_row] + exchange.rows[1][own_row];
            const int row = first_row + own_row;
            if (row >= params.len_q) return;
            const float normalise = normaliser(own.sum);
            Element* destination =
                output_head + row * params.output.row_stride + side * COLUMNS + lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                if (side * COLUMNS + 8 * column >= params.head_dim) break;
                const float* pair = &output[block][column][2 * half];
                *reinterpret_cast<unsigned*>(destination + 8 * column) =
                    to_element_pair(pair[0] * normalise, pair[1] * normalise);
            }
            if (side == 0 && lane % 4 == 0) store_lse(params, tile, row, row_lse(own));
        });
    }

private:
    __device__ void synchronize_pair() const {
        asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(PAIR_THREADS) : "memory");
    }

    // Both rows that this lane holds of every block; `row` counts from the pair's first.
    template <typename Visit>
    __device__ void for_each_row(Visit visit) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                visit(16 * block + 8 * half + lane / 4, statistics[block][half], block, half);
            }
        }
    }

    __device__ static void multiply_keys(Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < DEPTH_STEPS; ++step) {
            unsigned left[BLOCKS][4];
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                load_matrices(left[block], Tile::advanced(start.query, step) + block * BLOCK_BYTES);
            }
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

    template <typename Visible>
    __device__ void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
        for_each_row([&](int row, RowStatistics&, int block, int half) {
            const int visible_here = visible(row) - side * OWN_KEYS - lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < KEY_BLOCKS; ++column) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (8 * column + i >= visible_here) {
                        score[block][column][2 * half + i] = NEGATIVE_INFINITY;
                    }
                }
            }
        });
    }

    // Both warps come to the same maxima, each from its own and its neighbour's.
    __device__ void raise_maxima(const Scores& score) {
        const int lane = thread_index() % WARP_SIZE;
        float maxima[BLOCKS][LANE_ROWS];
        for_each_row([&](int row, RowStatistics&, int block, int half) {
            float maximum = NEGATIVE_INFINITY;
#pragma unroll
            for (int column = 0; column < KEY_BLOCKS; ++column) {
                maximum = fmaxf(maximum, fmaxf(score[block][column][2 * half],
                                               score[block][column][2 * half + 1]));
            }
            maxima[block][half] = group_max<4>(maximum);
            if (lane % 4 == 0) exchange.rows[side][row] = maxima[block][half];
        });
        synchronize_pair();
        float factor[BLOCKS][LANE_ROWS];
        bool grown = false;
        for_each_row([&](int row, RowStatistics& own, int block, int half) {
            const float maximum = fmaxf(maxima[block][half], exchange.rows[1 - side][row]);
            factor[block][half] = raise_maximum(own, maximum * exponent_scale);
            grown |= factor[block][half] != 1.0f;
        });
        // As in WarpAttention: after the first tiles a maximum seldom grows.
        if (!__any_sync(ALL_LANES, grown)) return;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
#pragma unroll
                for (int i = 0; i < 4; ++i) output[block][column][i] *= factor[block][i / 2];
            }
        }
    }

    // O += P · V: first with this warp's own weights, straight from its registers and passed on on
    // the way; then, when the neighbour's have arrived, with those.
    __device__ void multiply_values(const Scores& score, unsigned value_start) {
        const int lane = thread_index() % WARP_SIZE;
        unsigned weight[KEY_STEPS][BLOCKS][4];
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
#pragma unroll
                for (int quarter = 0; quarter < 4; ++quarter) {
                    const int half = quarter % 2;
                    const int column = 2 * step + quarter / 2;
                    const float* pair = &score[block][column][2 * half];
                    RowStatistics& row = statistics[block][half];
                    const float low = softmax_weight(pair[0], exponent_scale, row.maximum);
                    const float high = softmax_weight(pair[1], exponent_scale, row.maximum);
                    row.sum += low + high;  // unrounded: the sum does not inherit P's rounding
                    weight[step][block][quarter] = to_element_pair(low, high);
                    unsigned char* place =
                        exchange.weights.bytes +
                        WeightTile::offset(16 * block + 8 * half + lane / 4,
                                           side * KEY_BLOCKS + column) +
                        lane % 4 * sizeof(unsigned);
                    *reinterpret_cast<unsigned*>(place) = weight[step][block][quarter];
                }
            }
        }
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
            add_products(weight[step], value_start + (side * KEY_STEPS + step) * BLOCK_BYTES);
        }
        synchronize_pair();
        const int other = 1 - side;
        const unsigned weights =
            exchange.weights.start(lane % 16, other * KEY_BLOCKS + lane / 16);
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
            unsigned left[BLOCKS][4];
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                load_matrices(left[block], WeightTile::advanced(weights, step) +
                                               block * 16 * WeightTile::ROW_BYTES);
            }
            add_products(left, value_start + (other * KEY_STEPS + step) * BLOCK_BYTES);
        }
    }

    // O += weights of 16 keys · their values, whose fragments start at `value`.
    __device__ void add_products(const unsigned (&weight)[BLOCKS][4], unsigned value) {
#pragma unroll
        for (int pair = 0; pair < COLUMN_BLOCKS / 2; ++pair) {
            unsigned right[4];
            load_matrices_transposed(right, Tile::advanced(value, pair));
#pragma unroll
            for (int block = 0; block < BLOCKS; ++block) {
                multiply_accumulate(output[block][2 * pair], weight[block], right[0], right[1]);
                multiply_accumulate(output[block][2 * pair + 1], weight[block], right[2], right[3]);
            }
        }
    }
};
