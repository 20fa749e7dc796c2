// V2b: one warp owns a row. Legal cp.async, padded shared memory, still scalar arithmetic.
//
// parent: v1
// idea:   a block takes 64 query rows and streams tiles of keys and values through shared memory,
//         the next tiles under way while one is worked on. Each row belongs to one warp, so its
//         softmax needs no barrier.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|128 -DSTAGES=2|3, f16
#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/tile_stream.cuh"
#include "machine/warp.cuh"

constexpr int TILE_ROWS = 64;
constexpr int TILE_KEYS = HEAD_DIM == 64 ? 64 : 32;  // at 128, 64 keys and values are 34 KB a stage
constexpr int WARPS = 8;
constexpr int THREADS = WARPS * WARP_SIZE;

// Each half of a warp takes four of its eight rows; its 16 lanes split the keys of the tile for the
// scores and the columns of the head for the output.
constexpr int GROUP = WARP_SIZE / 2;
constexpr int LANE_ROWS = TILE_ROWS / WARPS / 2;
constexpr int LANE_KEYS = TILE_KEYS / GROUP;    // lane, lane + 16, …
constexpr int LANE_COLUMNS = HEAD_DIM / GROUP;  // neighbours

// Rows of 36 or 68 words: each starts 4 banks on, so 8 neighbouring rows have 16-byte chunks of one
// column in all 32 banks. 4 words more a row of weights: row r + 4, which the other half of the
// warp reads at the same time as this half reads row r, is 16 banks on.
constexpr int ROW_STRIDE = HEAD_DIM + 8;
constexpr int WEIGHT_STRIDE = TILE_KEYS + 4;

struct SharedMemory {
    Element query[TILE_ROWS][ROW_STRIDE];
    Element key[STAGES][TILE_KEYS][ROW_STRIDE];
    Element value[STAGES][TILE_KEYS][ROW_STRIDE];
    // Of these, a row is read and written by the half warp that owns it and by no other.
    float weight[TILE_ROWS][WEIGHT_STRIDE];
    RowStatistics statistics[TILE_ROWS];
};

static_assert(sizeof(SharedMemory) <= 96 * 1024, "an L4 gives a block 99 KB; 96 is our budget");
static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(STAGES >= 2, "one tile is under way while another is worked on");
static_assert(TILE_ROWS % (2 * WARPS) == 0, "a row belongs to one half warp");
static_assert(TILE_KEYS % GROUP == 0, "the lanes of a half warp split the keys evenly");
static_assert(LANE_COLUMNS == 4 || LANE_COLUMNS == 8, "a lane's columns are one 8 or 16-byte load");
static_assert(WEIGHT_STRIDE % 4 == 0, "four weights are one 16-byte load");

using Scores = float[LANE_ROWS][LANE_KEYS];
using Accumulator = float[LANE_ROWS][LANE_COLUMNS];

struct Owner {
    int lane;       // within the half warp
    int first_row;  // of its four, within the tile
};

__device__ inline Owner owner() {
    const int thread = thread_index();
    return {thread % GROUP, thread / GROUP * LANE_ROWS};
}

// Each lane multiplies its four rows with its own keys: a query value serves all its keys, a key
// value all its rows.
__device__ inline void multiply_query_key(const SharedMemory& shared, int stage, Scores& score) {
    const auto [lane, first_row] = owner();
    // 16 lanes × 8 bytes fill the 32 banks only if they use both halves of the chunks that 8 rows
    // spread over them: the upper 8 lanes take the halves in the other order.
    const int swap_halves = lane / 8 * 4;
#pragma unroll 1
    for (int step = 0; step < HEAD_DIM; step += 4) {
        const int column = step ^ swap_halves;
        float key[LANE_KEYS][4];
#pragma unroll
        for (int k = 0; k < LANE_KEYS; ++k) {
            load_as_float(&shared.key[stage][k * GROUP + lane][column], key[k]);
        }
#pragma unroll
        for (int r = 0; r < LANE_ROWS; ++r) {
            float query[4];
            load_as_float(&shared.query[first_row + r][column], query);
#pragma unroll
            for (int k = 0; k < LANE_KEYS; ++k) {
#pragma unroll
                for (int i = 0; i < 4; ++i) score[r][k] = fmaf(query[i], key[k][i], score[r][k]);
            }
        }
    }
}

// m' = max(m, max s), alpha = exp(m - m'), l' = alpha · l + sum exp(s - m'), O' = alpha · O.
__device__ inline void update_softmax(SharedMemory& shared, const AttentionParams& params,
                                      int first_query, int first_key, const Scores& score,
                                      Accumulator& accumulator) {
    const auto [lane, first_row] = owner();
    RowStatistics statistics[LANE_ROWS];
#pragma unroll
    for (int r = 0; r < LANE_ROWS; ++r) {
        const int visible = visible_keys(params, first_query + first_row + r) - first_key;
        float maximum = NEGATIVE_INFINITY;
#pragma unroll
        for (int k = 0; k < LANE_KEYS; ++k) {
            const float exponent = exponent_above(score[r][k], params.scale_log2e);
            if (k * GROUP + lane < visible) maximum = fmaxf(maximum, exponent);
        }
        statistics[r] = shared.statistics[first_row + r];
        const float alpha = raise_maximum(statistics[r], group_max<GROUP>(maximum));

        float sum = 0.0f;
#pragma unroll
        for (int k = 0; k < LANE_KEYS; ++k) {
            float weight = softmax_weight(score[r][k], params.scale_log2e, statistics[r].maximum);
            if (k * GROUP + lane >= visible) weight = 0.0f;
            shared.weight[first_row + r][k * GROUP + lane] = weight;
            sum += weight;
        }
        statistics[r].sum += group_sum<GROUP>(sum);
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; ++c) accumulator[r][c] *= alpha;
    }
    // FIX: v2 let several warps update one row's statistics (mutants/shared_statistics_race.cu).
    // INSIGHT: ownership beats synchronisation. What this warp's lanes wrote, only they will read,
    // and only they had the old statistics to read: no other warp waits.
    __syncwarp();
    if (lane == 0) {
#pragma unroll
        for (int r = 0; r < LANE_ROWS; ++r) shared.statistics[first_row + r] = statistics[r];
    }
}

// Each lane adds its own columns of the values, weighted by its four rows.
__device__ inline void multiply_weight_value(const SharedMemory& shared, int stage,
                                             Accumulator& accumulator) {
    const auto [lane, first_row] = owner();
#pragma unroll 1
    for (int first_key = 0; first_key < TILE_KEYS; first_key += 4) {
        float weight[LANE_ROWS][4];
#pragma unroll
        for (int r = 0; r < LANE_ROWS; ++r) {
            load(&shared.weight[first_row + r][first_key], weight[r]);
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            float value[LANE_COLUMNS];
            load_as_float(&shared.value[stage][first_key + k][lane * LANE_COLUMNS], value);
#pragma unroll
            for (int r = 0; r < LANE_ROWS; ++r) {
#pragma unroll
                for (int c = 0; c < LANE_COLUMNS; ++c) {
                    accumulator[r][c] = fmaf(weight[r][k], value[c], accumulator[r][c]);
                }
            }
        }
    }
}

// O = accumulator / l.
__device__ inline void store_output(const SharedMemory& shared, const AttentionParams& params,
                                    const QueryTile& tile, Accumulator& accumulator) {
    const auto [lane, first_row] = owner();
    const int column = lane * LANE_COLUMNS;
    Element* output = head_data(params.output, tile.batch, tile.head) + column;
#pragma unroll
    for (int r = 0; r < LANE_ROWS; ++r) {
        const int row = tile.first_row + first_row + r;
        if (row >= params.len_q) break;
        const RowStatistics statistics = shared.statistics[first_row + r];
        const float normalise = normaliser(statistics.sum);
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; ++c) accumulator[r][c] *= normalise;
        if (column < params.head_dim) {
            store_from_float(output + row * params.output.row_stride, accumulator[r]);
        }
        if (lane == 0) store_lse(params, tile, row, row_lse(statistics));
    }
    // Once more for the rare rows whose logits are large.
#pragma unroll 1
    for (int r = 0; r < LANE_ROWS; ++r) {
        const int row = tile.first_row + first_row + r;
        if (row >= params.len_q || column >= params.head_dim) break;
        if (!is_large(shared.statistics[first_row + r].maximum)) continue;
        float exact[LANE_COLUMNS];
        const RowStatistics total =
            attend_exactly_to(params, tile.batch, tile.head, row, column, exact);
        const float normalise = normaliser(total.sum);
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; ++c) exact[c] *= normalise;
        store_from_float(output + row * params.output.row_stride, exact);
        if (lane == 0) store_lse(params, tile, row, row_lse(total));
    }
}

// FIX: v1 loads every key and value anew for every row; here 64 rows share them.
// 72 registers let three blocks share a multiprocessor; launch bounds could only ask for 64 or 80.
extern "C" __global__ void __maxnreg__(72)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int head_kv = key_head(params, tile.head);
    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);
    TileStream<THREADS> queries(params.query, tile.batch, tile.head, tile.first_row, params.len_q,
                                params.head_dim);
    TileStream<THREADS> keys(params.key, tile.batch, head_kv, 0, params.len_kv, params.head_dim);
    TileStream<THREADS> values(params.value, tile.batch, head_kv, 0, params.len_kv,
                               params.head_dim);

    // Commits a group even past the last tile, so that counting groups counts tiles.
    const auto load_key_tile = [&](int key_tile) {
        if (key_tile < key_tiles) {
            keys.load_next(shared.key[key_tile % STAGES]);
            values.load_next(shared.value[key_tile % STAGES]);
        }
        cp_async_commit();
    };

    queries.load_next(shared.query);
#pragma unroll
    for (int key_tile = 0; key_tile < STAGES - 1; ++key_tile) load_key_tile(key_tile);

    // INSIGHT: the accumulator lives in registers, since each of its elements belongs to one lane
    // for the whole loop. In shared memory its 34 KB at head_dim 128 would leave no third stage.
    Accumulator accumulator = {};
    const auto [lane, first_row] = owner();
    if (lane < LANE_ROWS) shared.statistics[first_row + lane] = RowStatistics{};

    for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
        const int stage = key_tile % STAGES;
        // This thread's copies of the tile have landed; behind the barrier, everyone's have. It
        // also says that everyone is done with the previous tile, whose place the next copies take.
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load_key_tile(key_tile + STAGES - 1);

        Scores score = {};
        multiply_query_key(shared, stage, score);
        update_softmax(shared, params, tile.first_row, key_tile * TILE_KEYS, score, accumulator);
        multiply_weight_value(shared, stage, accumulator);
    }

    __syncwarp();
    store_output(shared, params, tile, accumulator);
}
