// V2d: fragments in registers. mma.sync and ldmatrix on swizzled shared memory; scores never leave
// the registers.
//
// parent: v2c
// idea:   the layout of an mma fragment is documented where WMMA's is not, so scores, weights and
//         output can stay in registers for good: the accumulator layout of Q·Kᵀ is the operand
//         layout of P·V. Shared memory holds nothing but Q, K and V, permuted instead of padded.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|256 -DWARPS=4|8 -DROW_BLOCKS=1|2 -DTILE_KEYS=32|64|128
//         -DSTAGES=1|2, with one stage keys and values are waited for apart; f16 or -DDTYPE_BF16
#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/swizzled_tile.cuh"
#include "machine/tensor_core.cuh"
#include "machine/warp.cuh"

// Tile laws. With two blocks of 16 rows per warp, every K and V fragment that is loaded serves
// twice, which takes shared memory off the critical path; with one block there are twice as many
// warps for a short problem.
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int WARP_ROWS = 16 * ROW_BLOCKS;
constexpr int TILE_ROWS = WARPS * WARP_ROWS;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart
static_assert(TILE_KEYS % 16 == 0 && HEAD_DIM % 16 == 0, "whole mma steps");

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    SwizzledTile<TILE_KEYS, HEAD_DIM> key[STAGES];
    SwizzledTile<TILE_KEYS, HEAD_DIM> value[STAGES];
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

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

// FIX: v2c sends scores, weights and factors through shared memory and back for every tile, because
// it may not know which element a lane holds. Here nothing of that leaves the registers.
//
// The rows of one warp: its queries, their output so far, and the steps of one tile of keys.
class WarpRows {
    static constexpr int KEY_BLOCKS = TILE_KEYS / 8;    // columns of a score fragment
    static constexpr int COLUMN_BLOCKS = HEAD_DIM / 8;  // columns of an output fragment
    static constexpr int DEPTH_STEPS = HEAD_DIM / 16;   // of Q·Kᵀ
    static constexpr int KEY_STEPS = TILE_KEYS / 16;    // of P·V
    static constexpr int BLOCK_BYTES = 16 * HEAD_DIM * sizeof(Element);  // 16 rows of a tile
    using Tile = SwizzledTile<TILE_KEYS, HEAD_DIM>;

    // Q stays in registers if the output leaves room for it.
    static constexpr bool KEEP_QUERY = ROW_BLOCKS * HEAD_DIM <= 128;
    static constexpr int KEPT_STEPS = KEEP_QUERY ? DEPTH_STEPS : 1;

    // Measured on an H200 at 64 and 128 columns: 3 % slower and 4 % faster.
    static constexpr bool VOTE = ROW_BLOCKS * HEAD_DIM > 128;

    unsigned query[KEPT_STEPS][ROW_BLOCKS][4];
    float output[ROW_BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics statistics[ROW_BLOCKS][LANE_ROWS];
    float exponent_scale;

public:
    using Scores = float[ROW_BLOCKS][KEY_BLOCKS][4];

    // `query_start` as in LaneStart. The scale must have been made positive: see `negate_own`.
    __device__ WarpRows(const AttentionParams& params, unsigned query_start) {
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

    // S = Q · Kᵀ, added to scores of 0.
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
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(score[block][2 * pair], left[block], right[0], right[1]);
                    multiply_accumulate(score[block][2 * pair + 1], left[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // -infinity where a row does not see the key. `visible(row)` says how many keys it sees from
    // the tile's first one on; `row` counts from the warp's first.
    template <typename Visible>
    __device__ static void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const int lane_visible = visible(16 * block + 8 * half + lane / 4) - lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if (8 * column + i >= lane_visible) {
                            score[block][column][2 * half + i] = NEGATIVE_INFINITY;
                        }
                    }
                }
            }
        }
    }

    // Lets the maxima of the rows grow; sums and output follow.
    __device__ void raise_maxima(const Scores& score) {
        float factor[ROW_BLOCKS][LANE_ROWS];
        bool grown = false;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                float maximum = NEGATIVE_INFINITY;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
                    maximum = fmaxf(maximum, fmaxf(score[block][column][2 * half],
                                                   score[block][column][2 * half + 1]));
                }
                // INSIGHT: where the scale is positive, the largest score has the largest exponent:
                // one product per row instead of one per score.
                factor[block][half] = raise_maximum(
                    statistics[block][half], exponent_above(group_max<4>(maximum), exponent_scale));
                grown |= factor[block][half] != 1.0f;
            }
        }
        // After the first tiles a maximum seldom grows. A wide output is worth a vote that saves
        // the products with 1; a narrow one is not. The result is the same to the bit.
        if (VOTE && !__any_sync(ALL_LANES, grown)) return;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
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
    __device__ void multiply_values(const Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
            unsigned weight[ROW_BLOCKS][4];
#pragma unroll
            for (int block = 0; block < ROW_BLOCKS; ++block) {
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
            const unsigned value = start.value + step * BLOCK_BYTES;
#pragma unroll
            for (int pair = 0; pair < COLUMN_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices_transposed(right, Tile::advanced(value, pair));
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(output[block][2 * pair], weight[block], right[0], right[1]);
                    multiply_accumulate(output[block][2 * pair + 1], weight[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // Calls `visit(row, statistics, columns)` for both rows that this lane holds of every block:
    // `row` counts from the warp's first, `columns(c)` are the lane's two neighbours at column 8·c
    // + 2·(lane % 4), not yet divided by the sum.
    template <typename Visit>
    __device__ void for_each_row(Visit visit) {
        const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                RowStatistics& total = statistics[block][half];
                total.sum = group_sum<4>(total.sum);
                visit(16 * block + 8 * half + lane / 4, total, [&](int column) {
                    const float* pair = &output[block][column][2 * half];
                    return make_float2(pair[0], pair[1]);
                });
            }
        }
    }

    // Divides by the sums and writes the rows; `first_row` is the warp's within its head.
    __device__ void store(const AttentionParams& params, const QueryTile& tile, int first_row) {
        Element* const head = head_data(params.output, tile.batch, tile.head);
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int warp_row, const RowStatistics& total, auto columns) {
            const int row = first_row + warp_row;
            if (row >= params.len_q) return;
            const float normalise = normaliser(total.sum);
            Element* destination = head + row * params.output.row_stride + lane % 4 * 2;
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                if (8 * column >= params.head_dim) break;
                const float2 pair = columns(column);
                *reinterpret_cast<unsigned*>(destination + 8 * column) =
                    to_element_pair(pair.x * normalise, pair.y * normalise);
            }
            if (lane % 4 == 0) store_lse(params, tile, row, row_lse(total));
        });
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            const float maxima[] = {statistics[block][0].maximum, statistics[block][1].maximum};
            attend_exactly_to_output(params, tile, first_row + 16 * block, maxima);
        }
    }

private:
    __device__ static void load_query(unsigned (&fragment)[ROW_BLOCKS][4], unsigned start,
                                      int step) {
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            load_matrices(fragment[block], Tile::advanced(start, step) + block * BLOCK_BYTES);
        }
    }
};

// Eight warps per multiprocessor, in one block or in two: 255 registers for each thread.
extern "C" __global__ void __launch_bounds__(THREADS, 8 / WARPS)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int head_kv = key_head(params, tile.head);
    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);

    const auto load = [&](auto& stages, const TensorView& tensor, int key_tile) {
        if (key_tile >= key_tiles) return;
        stages[ring_stage<STAGES>(key_tile)].template load_async<THREADS>(
            threadIdx.x, tensor, tile.batch, head_kv, key_tile * TILE_KEYS, params.len_kv,
            params.head_dim);
    };
    // Each commits a group even past the last tile, so that counting groups counts tiles.
    const auto load_keys = [&](int key_tile) {
        load(shared.key, params.key, key_tile);
        cp_async_commit();
    };
    const auto load_values = [&](int key_tile) {
        load(shared.value, params.value, key_tile);
        cp_async_commit();
    };
    const auto load_both = [&](int key_tile) {
        load(shared.key, params.key, key_tile);
        load(shared.value, params.value, key_tile);
        cp_async_commit();
    };

    shared.query.template load_async<THREADS>(threadIdx.x, params.query, tile.batch, tile.head,
                                              tile.first_row, params.len_q, params.head_dim);
    cp_async_commit();
#if STAGES == 1
    load_keys(0);
    cp_async_wait<1>();
#else
    static_assert(STAGES == 2, "one tile is under way while another is worked on");
    load_both(0);
    cp_async_wait<1>();
#endif

    // The copies of Q have landed: this thread's and, behind the barrier, every thread's. A
    // negative scale moves into Q, so that the softmax may count on it being positive.
    if (params.scale < 0.0f) shared.query.template negate_own<THREADS>(threadIdx.x);
    __syncthreads();
    const int warp_row = threadIdx.x / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile
    const LaneStart lane_start(shared.query, warp_row, shared.key[0], shared.value[0]);
    WarpRows rows(params, lane_start.query);

    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked_tiles = visible_keys(params, tile.first_row) / TILE_KEYS;
    const auto attend = [&](int key_tile, auto masked) {
    // This thread's copies have landed; behind the barrier, every thread's have. The barrier
    // also says that all are done with what lies where the next copies go.
#if STAGES == 1
        cp_async_wait<0>();
        __syncthreads();
        load_values(key_tile);
#else
        cp_async_wait<0>();
        __syncthreads();
        load_both(key_tile + 1);
#endif
        // Only now: ahead of the copies it would be in the way of their addresses, and spill.
        auto stage = lane_start;
        stage.key += ring_offset<STAGES>(key_tile, sizeof(shared.key[0]));
        stage.value += ring_offset<STAGES>(key_tile, sizeof(shared.value[0]));
        WarpRows::Scores score = {};
        rows.multiply_keys(score, stage);
#if STAGES == 1
        cp_async_wait<0>();
        __syncthreads();
        load_keys(key_tile + 1);
#endif
        if constexpr (masked.value) {
            const int first_key = key_tile * TILE_KEYS;
            rows.mask_scores(score, [&](int row) {
                const int query = tile.first_row + warp_row + row;
                return visible_keys(params, query) - first_key;
            });
        }
        rows.raise_maxima(score);
        rows.multiply_values(score, stage);
    };
    int key_tile = 0;
    for (; key_tile < unmasked_tiles; ++key_tile) attend(key_tile, Unmasked{});
    for (; key_tile < key_tiles; ++key_tile) attend(key_tile, Masked{});

    rows.store(params, tile, tile.first_row + warp_row);
}
