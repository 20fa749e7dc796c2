// V2e: keys split over the warps of a block, so that a short problem uses the whole chip.
//
// parent: v2d
// idea:   a head of 512 queries is 8 tiles of 64 rows: 8 heads leave half of the multiprocessors
//         idle and give the others 4 warps each. Here a block takes fewer rows, and KEY_GROUPS
//         groups of warps take its keys in turn, each with a softmax of its own; at the end the
//         groups' parts are weighed and added in shared memory. One launch, no workspace, and
//         always the same order of additions. Long problems have warps enough and run v2d's kernel.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|256 -DROW_WARPS=2 -DKEY_GROUPS=4 -DTILE_KEYS=16|32|64 -DSTAGES=1|2,
//         f16 or -DDTYPE_BF16
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

// Tile laws. One block of 16 rows per warp: with a second one, half as many warps could work at
// once.
constexpr int ROW_BLOCKS = 1;
constexpr int GROUP_THREADS = ROW_WARPS * WARP_SIZE;
constexpr int THREADS = KEY_GROUPS * GROUP_THREADS;
constexpr int WARP_ROWS = 16 * ROW_BLOCKS;
constexpr int TILE_ROWS = ROW_WARPS * WARP_ROWS;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart
static_assert(TILE_KEYS % 16 == 0 && HEAD_DIM % 16 == 0, "whole mma steps");

// What the groups hand to one another when the keys are through. Eight floats more per row put the
// 8-byte stores of the four rows that half a warp writes 8 banks apart.
struct Parts {
    float output[KEY_GROUPS][TILE_ROWS][HEAD_DIM + 8];
    RowStatistics statistics[KEY_GROUPS][TILE_ROWS];

    __device__ Parts() {}
};

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    union {
        struct {
            SwizzledTile<TILE_KEYS, HEAD_DIM> key[KEY_GROUPS][STAGES];
            SwizzledTile<TILE_KEYS, HEAD_DIM> value[KEY_GROUPS][STAGES];
        };
        Parts parts;
    };
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

    // Leaves the rows, not yet divided by their sums, among the parts of the block's groups;
    // `first_row` is the warp's within the tile.
    __device__ void hand_over(Parts& parts, int group, int first_row) {
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int warp_row, const RowStatistics& total, auto columns) {
            const int row = first_row + warp_row;
            float* part = &parts.output[group][row][lane % 4 * 2];
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                const float2 pair = columns(column);
                *reinterpret_cast<float2*>(part + 8 * column) = pair;
            }
            if (lane % 4 == 0) parts.statistics[group][row] = total;
        });
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

// Adds the groups' parts of the tile's rows, each weighed by how far its maximum lies below the
// row's.
__device__ inline void combine_parts(const Parts& parts, const AttentionParams& params,
                                     const QueryTile& tile) {
    Element* output = head_data(params.output, tile.batch, tile.head);
    // Four columns per thread: eight threads read a whole line of shared memory.
    constexpr int COLUMNS = 4;
    constexpr int QUARTETS = HEAD_DIM / COLUMNS;
    for (int index = threadIdx.x; index < TILE_ROWS * QUARTETS; index += THREADS) {
        const int tile_row = index / QUARTETS;
        const int column = index % QUARTETS * COLUMNS;
        const int row = tile.first_row + tile_row;
        if (row >= params.len_q || column >= params.head_dim) continue;

        float sum[COLUMNS] = {};
        RowStatistics total =
            merge_parts<KEY_GROUPS>([&](int group) { return parts.statistics[group][tile_row]; },
                                    [&](int group, float (&columns)[COLUMNS]) {
                                        load(&parts.output[group][tile_row][column], columns);
                                    },
                                    sum);
        if (is_large(total.maximum)) {
            total = attend_exactly_to(params, tile.batch, tile.head, row, column, sum);
        }
        const float normalise = normaliser(total.sum);
#pragma unroll
        for (int i = 0; i < COLUMNS; ++i) sum[i] *= normalise;
        store_from_float(output + row * params.output.row_stride + column, sum);
        if (column == 0) store_lse(params, tile, row, row_lse(total));
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int head_kv = key_head(params, tile.head);
    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);
    const int group = threadIdx.x / GROUP_THREADS;
    const int thread = threadIdx.x % GROUP_THREADS;
    const int warp_row = thread / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile

    // A group takes every KEY_GROUPS-th tile, so that with a causal mask none gets all the short
    // rows.
    const auto load = [&](auto& stages, const TensorView& tensor, int key_tile) {
        if (key_tile >= key_tiles) return;
        stages[group][ring_stage<STAGES>(key_tile / KEY_GROUPS)].template load_async<GROUP_THREADS>(
            thread, tensor, tile.batch, head_kv, key_tile * TILE_KEYS, params.len_kv,
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

    shared.query.template load_async<THREADS>(threadIdx.x, params.query, tile.batch, tile.head,
                                              tile.first_row, params.len_q, params.head_dim);
    cp_async_commit();
    // INSIGHT: a short problem is over before a pipeline fills: every stage is asked for at once,
    // and where a group has no more tiles than stages it never waits for a second round trip.
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) {
        load_keys(group + stage * KEY_GROUPS);
        load_values(group + stage * KEY_GROUPS);
    }

    // The copies of Q have landed: this thread's and, behind the barrier, every thread's. A
    // negative scale moves into Q, so that the softmax may count on it being positive.
    cp_async_wait<2 * STAGES>();
    if (params.scale < 0.0f) shared.query.template negate_own<THREADS>(threadIdx.x);
    __syncthreads();
    const LaneStart lane_start(shared.query, warp_row, shared.key[group][0],
                               shared.value[group][0]);
    WarpRows rows(params, lane_start.query);

    // The groups go in step. Barriers of their own would let them drift apart, but a short problem
    // is through after two rounds and then waits for all of them anyway.
    const int rounds = (key_tiles + KEY_GROUPS - 1) / KEY_GROUPS;
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked_tiles = visible_keys(params, tile.first_row) / TILE_KEYS;
    for (int round = 0; round < rounds; ++round) {
        // This thread's copies of the round's keys have landed; behind the barrier, every thread's
        // have. Likewise, further down, the values, which the weights wait for.
        cp_async_wait<2 * STAGES - 1>();
        __syncthreads();
        const int key_tile = round * KEY_GROUPS + group;
        auto stage = lane_start;
        stage.key += ring_offset<STAGES>(round, sizeof(shared.key[0][0]));
        stage.value += ring_offset<STAGES>(round, sizeof(shared.value[0][0]));
        WarpRows::Scores score = {};
        const auto attend = [&](int key_tile, auto masked) {
            rows.multiply_keys(score, stage);
            if constexpr (masked.value) {
                const int first_key = key_tile * TILE_KEYS;
                rows.mask_scores(score, [&](int row) {
                    const int query = tile.first_row + warp_row + row;
                    return visible_keys(params, query) - first_key;
                });
            }
            rows.raise_maxima(score);
        };
        // The groups differ in whether they need a mask, or have a tile at all: the barriers stand
        // where all of them pass.
        if (key_tile < unmasked_tiles) {
            attend(key_tile, Unmasked{});
        } else if (key_tile < key_tiles) {
            attend(key_tile, Masked{});
        }
        cp_async_wait<2 * (STAGES - 1)>();
        __syncthreads();
        if (key_tile < key_tiles) rows.multiply_values(score, stage);

        // All are done with the round's tiles before the next ones take their place.
        if (round + STAGES < rounds) __syncthreads();
        load_keys(key_tile + STAGES * KEY_GROUPS);
        load_values(key_tile + STAGES * KEY_GROUPS);
    }

    // The parts take the place of keys and values: all are done with those, and every copy has been
    // waited for, since the last rounds' commits are empty.
    // UNNOTICED: where parts lie over keys alone, the last round's barrier has freed the
    // keys.
    __syncthreads();
    rows.hand_over(shared.parts, group, warp_row);
    __syncthreads();
    combine_parts(shared.parts, params, tile);
}
