// V2k: values of another width than keys, as multi-head latent attention has them when it reads a
// prompt: 192 columns of a key and 128 of its value.
//
// parent: v2i
// idea:   the products' two right sides are tiles of their own shapes. The scores' depth is the
//         width of a key, the output's columns are those of a value, and nothing else asks for
//         either: shared memory and registers hold what there is, not twice the larger one.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|128|192|256 -DVALUE_DIM=64|128|256 -DWARPS=4 -DROW_BLOCKS=1 -DTILE_KEYS=64
//         -DSTAGES=1|2 -DSHAPE=PLAIN|SLOPED|CAPPED -DBLOCKS_PER_SM=2|4; f16 or -DDTYPE_BF16
#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/exact_value_rows.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/packed_sequences.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
#include "machine/softmax.cuh"
#include "machine/swizzled_tile.cuh"
#include "machine/tensor_core.cuh"
#include "machine/value_params.cuh"
#include "machine/warp.cuh"

// Tile laws. With two blocks of 16 rows per warp, every K and V fragment that is loaded serves
// twice, which takes shared memory off the critical path; with one block there are twice as many
// warps for a short problem.
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int WARP_ROWS = 16 * ROW_BLOCKS;
constexpr int TILE_ROWS = WARPS * WARP_ROWS;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart
static_assert(TILE_KEYS % 16 == 0 && HEAD_DIM % 16 == 0 && VALUE_DIM % 16 == 0, "whole mma steps");

constexpr ScoreShape SCORE_SHAPE = ScoreShape::SHAPE;
constexpr bool IS_PLAIN = SCORE_SHAPE == ScoreShape::PLAIN;

// Short sequences end early in a tile: with small tiles of rows, the last tile of keys is worked on
// by halves.
constexpr int HALF_KEYS = TILE_ROWS <= 64 ? TILE_KEYS / 2 : TILE_KEYS;

// How many of a tile's keys a step is for.
template <int COUNT>
struct Keys {
    static constexpr int count = COUNT;
};

// The output takes half of the registers or more.
constexpr bool WIDE = ROW_BLOCKS * VALUE_DIM > 128;

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    SwizzledTile<TILE_KEYS, HEAD_DIM> key[STAGES];
    SwizzledTile<TILE_KEYS, VALUE_DIM> value[STAGES];
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// A block's tile, whose rows count from its sequence's first; no rows where the tile is one too
// many.
struct Work {
    QueryTile tile;
    Sequence sequence;

    __device__ explicit Work(const ExtendedParams& params) {
        if (params.sequences == 0) {
            tile = locate_query_tile<TILE_ROWS>(params);
            sequence = dense_sequence(params, tile.batch);
            return;
        }
        // Heads of the same rows side by side, as they lie in memory.
        int number = blockIdx.x / params.heads_q;
        const int head = blockIdx.x - number * params.heads_q;
        // The last tiles of a sequence see the most keys: start with them.
        if (params.causal) number = gridDim.x / params.heads_q - 1 - number;
        const int index = sequence_of_tile<TILE_ROWS>(params, number);
        sequence = packed_sequence(params, index);
        tile = {0, head, (number - first_tile<TILE_ROWS>(params, index)) * TILE_ROWS};
    }

    __device__ bool exists() const {
        return tile.first_row >= 0 && tile.first_row < sequence.len_q;
    }
};

// The tensor from row `row` on.
__device__ inline TensorView from_row(TensorView tensor, int row) {
    tensor.data = static_cast<Element*>(tensor.data) + row * tensor.row_stride;
    return tensor;
}

// Where a lane reads `steps` pairs of chunks further on. `SwizzledTile::advanced` is an XOR, which
// leaves a row whose lines of 128 bytes are no power of two: within a line XOR, from one to the next
// add.
template <typename Tile>
__device__ inline unsigned advanced(unsigned start, int steps) {
    static_assert(Tile::CHUNKS % 8 == 0, "rows of whole lines");
    constexpr int LINE_STEPS = 4;
    return (start ^ steps % LINE_STEPS * 2 * CHUNK_BYTES) +
           steps / LINE_STEPS * LINE_STEPS * 2 * CHUNK_BYTES;
}

// Where a lane starts reading the fragments of each operand in shared memory; the rest of its way
// is a constant. ldmatrix takes the rows of one 8×8 matrix from each eight lanes. For Q the
// matrices are the quarters of a 16×16 block; for K two blocks of 8 keys, each with both halves of
// a depth step; for V two blocks of 8 keys, each with both halves of 16 columns.
struct LaneStart {
    unsigned query;
    unsigned key;
    unsigned value;

    template <typename QueryTile, typename KeyTile, typename ValueTile>
    __device__ LaneStart(const QueryTile& queries, int first_row, const KeyTile& keys,
                         const ValueTile& values) {
        const int lane = thread_index() % WARP_SIZE;
        query = queries.start(first_row + lane % 16, lane / 16);
        key = keys.start(lane % 8 + lane / 16 * 8, lane / 8 % 2);
        value = values.start(lane % 16, lane / 16);
    }
};

// The rows of one warp: its queries, their output so far, and the steps of one tile of keys.
class WarpRows {
    static constexpr int KEY_BLOCKS = TILE_KEYS / 8;     // columns of a score fragment
    static constexpr int COLUMN_BLOCKS = VALUE_DIM / 8;  // columns of an output fragment
    static constexpr int DEPTH_STEPS = HEAD_DIM / 16;    // of Q·Kᵀ
    using KeyTile = SwizzledTile<TILE_KEYS, HEAD_DIM>;
    using ValueTile = SwizzledTile<TILE_KEYS, VALUE_DIM>;
    // 16 rows of a tile.
    static constexpr int KEY_BLOCK_BYTES = 16 * KeyTile::ROW_BYTES;
    static constexpr int VALUE_BLOCK_BYTES = 16 * ValueTile::ROW_BYTES;

    // Q stays in registers if the output leaves room for it.
    static constexpr bool KEEP_QUERY = !WIDE;
    static constexpr int KEPT_STEPS = KEEP_QUERY ? DEPTH_STEPS : 1;

    // As V2d has it, where it was 3 % slower at 64 columns and 4 % faster at 128, on an H200.
    static constexpr bool VOTE = WIDE;

    unsigned query[KEPT_STEPS][ROW_BLOCKS][4];
    float output[ROW_BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics statistics[ROW_BLOCKS][LANE_ROWS];
    float exponent_scale;
    ScoreShaper<SCORE_SHAPE> shaper;

public:
    using Scores = float[ROW_BLOCKS][KEY_BLOCKS][4];

    // `query_start` as in LaneStart. The scale must have been made positive: see `negate_own`.
    __device__ WarpRows(const ExtendedParams& params, int head, unsigned query_start)
        : shaper(params, head) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = IS_PLAIN ? fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f) : 1.0f;
        if constexpr (KEEP_QUERY) {
#pragma unroll
            for (int step = 0; step < DEPTH_STEPS; ++step) {
                load_query(query[step], query_start, step);
            }
        }
    }

    // S = Q · Kᵀ, added to scores of 0. Of the tile's keys the first COUNT, here and in the next
    // steps.
    template <int COUNT>
    __device__ void multiply_keys(Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < DEPTH_STEPS; ++step) {
            auto& left = query[KEEP_QUERY ? step : 0];
            if constexpr (!KEEP_QUERY) load_query(left, start.query, step);
            const unsigned key = advanced<KeyTile>(start.key, step);
#pragma unroll
            for (int pair = 0; pair < COUNT / 16; ++pair) {
                unsigned right[4];
                load_matrices(right, key + pair * KEY_BLOCK_BYTES);
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(score[block][2 * pair], left[block], right[0], right[1]);
                    multiply_accumulate(score[block][2 * pair + 1], left[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // What slopes and soft caps make of the scores. `diagonal(row)` is the key on the row's
    // diagonal, counted from the tile's first; `row` counts from the warp's first.
    template <int COUNT, typename Diagonal>
    __device__ void shape_scores(Scores& score, Diagonal diagonal) const {
        if constexpr (IS_PLAIN) return;
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const float distance = diagonal(16 * block + 8 * half + lane / 4) - lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < COUNT / 8; ++column) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        float& entry = score[block][column][2 * half + i];
                        entry = shaper.shaped(entry, distance - (8 * column + i));
                    }
                }
            }
        }
    }

    // -infinity where a row does not see the key. `visible(row)` is the range of keys that it sees,
    // counted from the tile's first one; `row` counts from the warp's first.
    // Unless masks come FROM_BELOW, too, no row has a key in front of its range.
    template <int COUNT, bool FROM_BELOW, typename Visible>
    __device__ static void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const KeyRange seen = visible(16 * block + 8 * half + lane / 4);
                const int begin = seen.begin - lane % 4 * 2;
                const int end = seen.end - lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < COUNT / 8; ++column) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if ((FROM_BELOW && 8 * column + i < begin) || 8 * column + i >= end) {
                            score[block][column][2 * half + i] = NEGATIVE_INFINITY;
                        }
                    }
                }
            }
        }
    }

    // Lets the maxima of the rows grow; sums and output follow.
    template <int COUNT>
    __device__ void raise_maxima(const Scores& score) {
        float factor[ROW_BLOCKS][LANE_ROWS];
        bool grown = false;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                float maximum = NEGATIVE_INFINITY;
#pragma unroll
                for (int column = 0; column < COUNT / 8; ++column) {
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
    template <int COUNT>
    __device__ void multiply_values(const Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < COUNT / 16; ++step) {
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
            const unsigned value = start.value + step * VALUE_BLOCK_BYTES;
#pragma unroll
            for (int pair = 0; pair < COLUMN_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices_transposed(right, advanced<ValueTile>(value, pair));
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(output[block][2 * pair], weight[block], right[0], right[1]);
                    multiply_accumulate(output[block][2 * pair + 1], weight[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // Divides by the sums, in which the head's sink has its part, and writes the rows; `first_row`
    // is the warp's within its sequence.
    __device__ void store(const ValueParams& params, const QueryTile& tile,
                          const Sequence& sequence, int first_row) {
        const float sink = params.sinks ? params.sinks[tile.head] * LOG2_E : NEGATIVE_INFINITY;
        Element* const head = head_data(params.output, tile.batch, tile.head);
        const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                RowStatistics total = statistics[block][half];
                total.sum = group_sum<4>(total.sum);
                const int row = first_row + 16 * block + 8 * half + lane / 4;
                if (row >= sequence.len_q) continue;
                // How much less everything weighs where the sink is larger than all scores.
                const float factor = params.sinks ? add_sink(total, sink) : 1.0f;
                const float normalise = factor * normaliser(total.sum);
                const int position = sequence.first_query + row;
                Element* destination = head + position * params.output.row_stride + lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                    if (8 * column >= params.value_dim) break;
                    const float* pair = &output[block][column][2 * half];
                    *reinterpret_cast<unsigned*>(destination + 8 * column) =
                        to_element_pair(pair[0] * normalise, pair[1] * normalise);
                }
                if (lane % 4 == 0) store_lse(params, tile, position, row_lse(total));
            }
        }
        // Shaped scores are exponents already, and nothing rounds the difference of two of them.
        if constexpr (!IS_PLAIN) return;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            const float maxima[] = {statistics[block][0].maximum, statistics[block][1].maximum};
            const int first = first_row + 16 * block;
            const auto store = [&](int row, int column, const float (&columns)[4]) {
                const int position = sequence.first_query + first + row;
                store_from_float(head + position * params.output.row_stride + column, columns);
            };
            attend_exactly_to_value_rows(params, tile, sequence, first, maxima, store);
        }
    }

private:
    __device__ static void load_query(unsigned (&fragment)[ROW_BLOCKS][4], unsigned start,
                                      int step) {
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            load_matrices(fragment[block],
                          advanced<KeyTile>(start, step) + block * KEY_BLOCK_BYTES);
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ ValueParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const Work work(params);
    if (!work.exists()) return;
    const QueryTile& tile = work.tile;
    const Sequence& sequence = work.sequence;
    const int head_kv = key_head(params, tile.head);
    const KeyTiles key_tiles(params, sequence, tile.first_row, TILE_ROWS, TILE_KEYS);

    const auto load = [&](auto& stages, const TensorView& tensor, int key_tile, int columns) {
        if (key_tile >= key_tiles.end) return;
        stages[ring_stage<STAGES>(key_tile)].template load_async<THREADS>(
            threadIdx.x, from_row(tensor, sequence.first_key), tile.batch, head_kv,
            key_tile * TILE_KEYS, sequence.len_kv, columns);
    };
    // Each commits a group even past the last tile, so that counting groups counts tiles.
    const auto load_keys = [&](int key_tile) {
        load(shared.key, params.key, key_tile, params.head_dim);
        cp_async_commit();
    };
    const auto load_values = [&](int key_tile) {
        load(shared.value, params.value, key_tile, params.value_dim);
        cp_async_commit();
    };
    const auto load_both = [&](int key_tile) {
        load(shared.key, params.key, key_tile, params.head_dim);
        load(shared.value, params.value, key_tile, params.value_dim);
        cp_async_commit();
    };

    shared.query.template load_async<THREADS>(
        threadIdx.x, from_row(params.query, sequence.first_query), tile.batch, tile.head,
        tile.first_row, sequence.len_q, params.head_dim);
    cp_async_commit();
    static_assert(STAGES <= 2, "one tile is under way while another is worked on");
    if constexpr (STAGES == 1) {
        load_keys(key_tiles.begin);
        load_values(key_tiles.begin);
        cp_async_wait<2>();
    } else {
        load_both(key_tiles.begin);
        cp_async_wait<1>();
    }

    // The copies of Q have landed: this thread's and, behind the barrier, every thread's. A
    // negative scale moves into Q, so that the softmax may count on it being positive.
    // UNREACHED: what is left of a loop unrolled by four, whose turns are a multiple of four.
    if (params.scale < 0.0f) shared.query.template negate_own<THREADS>(threadIdx.x);
    __syncthreads();
    const int warp_row = threadIdx.x / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile
    const auto start_of_lane = [&] {
        return LaneStart(shared.query, warp_row, shared.key[0], shared.value[0]);
    };
    const LaneStart lane_start = start_of_lane();
    WarpRows rows(params, tile.head, lane_start.query);

    const auto attend = [&](int key_tile, auto keys) {
        constexpr int COUNT = decltype(keys)::count;
        constexpr bool IS_LAST = COUNT < TILE_KEYS;  // behind a half comes nothing
        // This thread's copies have landed, of keys and values that are waited for apart the keys';
        // behind the barrier, every thread's have. The barrier also says that all are done with
        // what lies where the next copies go.
        if (STAGES == 1 && key_tile == key_tiles.begin) {
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        if constexpr (STAGES == 1) {
            // UNREACHED: the tile in hand is in front of the end.
            if (key_tile > key_tiles.begin) load_values(key_tile);
        } else if constexpr (!IS_LAST) {
            load_both(key_tile + 1);
        }
        // Only now: ahead of the copies it would be in the way of their addresses, and spill.
        // Worked out again where the output needs the registers.
        LaneStart stage = WIDE ? start_of_lane() : lane_start;
        stage.key += ring_offset<STAGES>(key_tile, sizeof(shared.key[0]));
        stage.value += ring_offset<STAGES>(key_tile, sizeof(shared.value[0]));
        WarpRows::Scores score = {};
        rows.multiply_keys<COUNT>(score, stage);
        if constexpr (STAGES == 1) {
            // All are done with the keys, whose stage the next ones take, and the values are there.
            cp_async_wait<0>();
            __syncthreads();
            if constexpr (!IS_LAST) load_keys(key_tile + 1);
        }
        // Opaque, so that what follows from the row is worked out again for every tile instead of
        // being kept in registers.
        int first_row = tile.first_row;
        asm volatile("" : "+r"(first_row));
        const KeyTiles seen_tiles(params, sequence, first_row, TILE_ROWS, TILE_KEYS);
        first_row += warp_row;
        const int first_key = key_tile * TILE_KEYS;
        rows.shape_scores<COUNT>(score, [&](int row) {
            return diagonal_key(params, sequence, first_row + row) - first_key;
        });
        if (IS_LAST || !seen_tiles.is_whole(key_tile)) {
            const auto visible = [&](int row) {
                const KeyRange seen = visible_range(params, sequence, first_row + row);
                return KeyRange{seen.begin - first_key, seen.end - first_key};
            };
            if (params.window_left == UNBOUNDED) {
                rows.mask_scores<COUNT, false>(score, visible);
            } else {
                // UNREACHED: the range asks again whether the window has a left side.
                rows.mask_scores<COUNT, true>(score, visible);
            }
        }
        rows.raise_maxima<COUNT>(score);
        rows.multiply_values<COUNT>(score, stage);
    };
    int key_tile = key_tiles.begin;
    if constexpr (HALF_KEYS == TILE_KEYS) {
#pragma unroll 1
        for (; key_tile < key_tiles.end; ++key_tile) attend(key_tile, Keys<TILE_KEYS>{});
    } else {
        // Behind these tiles comes a half, or nothing.
        const int whole_tiles = (key_tiles.keys_end + TILE_KEYS - 1 - HALF_KEYS) / TILE_KEYS;
#pragma unroll 1
        for (; key_tile < min(whole_tiles, key_tiles.end); ++key_tile) {
            attend(key_tile, Keys<TILE_KEYS>{});
        }
        if (key_tile < key_tiles.end) attend(key_tile, Keys<HALF_KEYS>{});
    }

    rows.store(params, tile, sequence, tile.first_row + warp_row);
}
