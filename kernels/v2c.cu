// V2c: tensor cores. V2b with WMMA 16×16×16 for the two products.
//
// parent: v2b
// idea:   a warp multiplies 16×16 blocks. So four warps own 16 rows each, the scores pass through
//         shared memory to leave the opaque fragment layout, and the weights return in the dtype.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|128 -DSTAGES=2|3, f16 or -DDTYPE_BF16
#include <mma.h>

#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/tile_stream.cuh"
#include "machine/warp.cuh"

namespace wmma = nvcuda::wmma;

constexpr int BLOCK = 16;  // WMMA's edge: a warp multiplies 16×16 by 16×16

template <typename Layout>
using LeftBlock = wmma::fragment<wmma::matrix_a, BLOCK, BLOCK, BLOCK, Element, Layout>;
template <typename Layout>
using RightBlock = wmma::fragment<wmma::matrix_b, BLOCK, BLOCK, BLOCK, Element, Layout>;
using SumBlock = wmma::fragment<wmma::accumulator, BLOCK, BLOCK, BLOCK, float>;

#ifdef DTYPE_BF16
// load_matrix_sync for bf16 takes a generic address, whatever the pointer points to: ten times as
// many instructions as ldmatrix, which wants a shared one. So the instruction is written out.
#define LOAD_BLOCK(BlockType, operand, layout)                                     \
    __device__ inline void load_block(BlockType<wmma::layout##_major>& block,      \
                                      const Element* source, int row_stride) {     \
        auto* registers = reinterpret_cast<unsigned*>(&block);                     \
        asm volatile("wmma.load." operand ".sync.aligned." #layout                 \
                     ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;"          \
                     : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), \
                       "=r"(registers[3])                                          \
                     : "l"(__cvta_generic_to_shared(source)), "r"(row_stride)      \
                     : "memory");                                                  \
    }
LOAD_BLOCK(LeftBlock, "a", row)
LOAD_BLOCK(RightBlock, "b", row)
LOAD_BLOCK(RightBlock, "b", col)
#undef LOAD_BLOCK
#else
template <typename BlockType>
__device__ inline void load_block(BlockType& block, const Element* source, int row_stride) {
    wmma::load_matrix_sync(block, source, row_stride);
}
#endif

constexpr int TILE_ROWS = 64;
constexpr int TILE_KEYS = HEAD_DIM == 64 ? 64 : 32;  // at 128, 64 keys and values are 34 KB a stage
constexpr int WARPS = 4;
constexpr int THREADS = WARPS * WARP_SIZE;

// A warp owns as many rows as a block has. In the softmax two lanes share a row; each takes every
// other group of four keys.
constexpr int GROUP = WARP_SIZE / BLOCK;
constexpr int LANE_KEYS = TILE_KEYS / GROUP;

// Rows of 36 or 68 words: each starts 4 banks on, so 8 neighbouring rows, which the tensor cores
// load together, have 16-byte chunks of one column in all 32 banks. A row of scores starts 8 banks
// on: the 16-byte chunks that 4 rows × 2 lanes load together fill the 32 banks.
constexpr int ROW_STRIDE = HEAD_DIM + 8;
constexpr int SCORE_STRIDE = TILE_KEYS + 8;
constexpr int WEIGHT_STRIDE = TILE_KEYS + 8;

struct SharedMemory {
    Element query[TILE_ROWS][ROW_STRIDE];
    Element key[STAGES][TILE_KEYS][ROW_STRIDE];
    Element value[STAGES][TILE_KEYS][ROW_STRIDE];
    // Of these, a row is read and written by the warp that owns it and by no other.
    float score[TILE_ROWS][SCORE_STRIDE];
    Element weight[TILE_ROWS][WEIGHT_STRIDE];
};

static_assert(sizeof(SharedMemory) <= 96 * 1024, "an L4 gives a block 99 KB; 96 is our budget");
static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(STAGES >= 2, "one tile is under way while another is worked on");
static_assert(TILE_ROWS == BLOCK * WARPS, "a row belongs to one warp");
static_assert(TILE_KEYS % BLOCK == 0 && HEAD_DIM % BLOCK == 0, "tiles are whole blocks");
static_assert(ROW_STRIDE % 8 == 0 && WEIGHT_STRIDE % 8 == 0, "WMMA: rows 16 bytes aligned");

using Accumulator = SumBlock[HEAD_DIM / BLOCK];

struct Owner {
    int lane;       // within the two that share a row
    int row;        // theirs, within the tile
    int first_row;  // of the warp's sixteen
};

__device__ inline Owner owner() {
    const int thread = thread_index();
    return {thread % GROUP, thread / GROUP, thread / WARP_SIZE * BLOCK};
}

// FIX: v2b spends an FMA a product, and an instruction in three on loading f16 and making f32 of
// it. A block product takes the dtype as it is.
__device__ inline void multiply_query_key(SharedMemory& shared, int stage) {
    const int first_row = owner().first_row;
    SumBlock score[TILE_KEYS / BLOCK];
#pragma unroll
    for (int k = 0; k < TILE_KEYS / BLOCK; ++k) wmma::fill_fragment(score[k], 0.0f);
#pragma unroll
    for (int column = 0; column < HEAD_DIM; column += BLOCK) {
        LeftBlock<wmma::row_major> query;
        load_block(query, &shared.query[first_row][column], ROW_STRIDE);
#pragma unroll
        for (int k = 0; k < TILE_KEYS / BLOCK; ++k) {
            RightBlock<wmma::col_major> key;  // the transpose is only a way of reading
            load_block(key, &shared.key[stage][k * BLOCK][column], ROW_STRIDE);
            wmma::mma_sync(score[k], query, key, score[k]);
        }
    }
#pragma unroll
    for (int k = 0; k < TILE_KEYS / BLOCK; ++k) {
        wmma::store_matrix_sync(&shared.score[first_row][k * BLOCK], score[k], SCORE_STRIDE,
                                wmma::mem_row_major);
    }
    __syncwarp();
}

// m' = max(m, max s), alpha = exp(m - m'), l' = alpha · l + sum exp(s - m'); alpha is left in the
// place of the row's first 16 scores.
__device__ inline void update_softmax(SharedMemory& shared, const AttentionParams& params,
                                      int first_query, int first_key, RowStatistics& statistics) {
    const auto [lane, row, first_row] = owner();
    const int visible = visible_keys(params, first_query + row) - first_key;
    float score[LANE_KEYS / 4][4];
    float maximum = NEGATIVE_INFINITY;
#pragma unroll
    for (int k = 0; k < LANE_KEYS / 4; ++k) {
        const int key = (k * GROUP + lane) * 4;
        load(&shared.score[row][key], score[k]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float exponent = exponent_above(score[k][i], params.scale_log2e);
            if (key + i < visible) maximum = fmaxf(maximum, exponent);
        }
    }
    const float alpha = raise_maximum(statistics, group_max<GROUP>(maximum));

    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < LANE_KEYS / 4; ++k) {
        const int key = (k * GROUP + lane) * 4;
        float weight[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            weight[i] = softmax_weight(score[k][i], params.scale_log2e, statistics.maximum);
            if (key + i >= visible) weight[i] = 0.0f;
            sum += weight[i];  // unrounded: the sum does not inherit the weights' rounding
        }
        store_from_float(&shared.weight[row][key], weight);
    }
    statistics.sum += group_sum<GROUP>(sum);

    // Each lane overwrites scores that it has read itself: there is nobody to wait for.
    const float alphas[4] = {alpha, alpha, alpha, alpha};
#pragma unroll
    for (int i = 0; i < BLOCK; i += 4 * GROUP) store(&shared.score[row][i + lane * 4], alphas);
    __syncwarp();
}

// O' = alpha · O + weights · values.
__device__ inline void multiply_weight_value(const SharedMemory& shared, int stage,
                                             Accumulator& accumulator) {
    const int first_row = owner().first_row;
    // INSIGHT: which element of a block a lane holds is not ours to know, but all blocks of one
    // type hold them alike. So a block whose row r is all alpha[r] rescales the rows element by
    // element.
    SumBlock alpha;
    wmma::load_matrix_sync(alpha, &shared.score[first_row][0], SCORE_STRIDE, wmma::mem_row_major);
#pragma unroll
    for (int c = 0; c < HEAD_DIM / BLOCK; ++c) {
#pragma unroll
        for (int i = 0; i < alpha.num_elements; ++i) accumulator[c].x[i] *= alpha.x[i];
    }
#pragma unroll
    for (int first_key = 0; first_key < TILE_KEYS; first_key += BLOCK) {
        LeftBlock<wmma::row_major> weight;
        load_block(weight, &shared.weight[first_row][first_key], WEIGHT_STRIDE);
#pragma unroll
        for (int c = 0; c < HEAD_DIM / BLOCK; ++c) {
            RightBlock<wmma::row_major> value;
            load_block(value, &shared.value[stage][first_key][c * BLOCK], ROW_STRIDE);
            wmma::mma_sync(accumulator[c], weight, value, accumulator[c]);
        }
    }
}

// O = accumulator / l, 16 columns at a time through the place of the scores.
__device__ inline void store_output(SharedMemory& shared, const AttentionParams& params,
                                    const QueryTile& tile, const Accumulator& accumulator,
                                    const RowStatistics& statistics) {
    const auto [lane, row_in_tile, first_row] = owner();
    const int row = tile.first_row + row_in_tile;
    Element* output =
        head_data(params.output, tile.batch, tile.head) + row * params.output.row_stride;
    RowStatistics total = statistics;
    float normalise = normaliser(total.sum);
#pragma unroll
    for (int c = 0; c < HEAD_DIM / BLOCK; ++c) {
        __syncwarp();  // the previous columns have been read
        wmma::store_matrix_sync(&shared.score[first_row][0], accumulator[c], SCORE_STRIDE,
                                wmma::mem_row_major);
        __syncwarp();
        float columns[BLOCK / GROUP];
        load(&shared.score[row_in_tile][lane * (BLOCK / GROUP)], columns);
        const int column = c * BLOCK + lane * (BLOCK / GROUP);
        const bool valid = row < params.len_q && column < params.head_dim;
        if (valid && is_large(statistics.maximum)) {
            total = attend_exactly_to(params, tile.batch, tile.head, row, column, columns);
            normalise = normaliser(total.sum);
        }
#pragma unroll
        for (int i = 0; i < BLOCK / GROUP; ++i) columns[i] *= normalise;
        if (valid) {
            store_from_float(output + column, columns);
        }
    }
    if (row < params.len_q && lane == 0) store_lse(params, tile, row, row_lse(total));
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
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

    Accumulator accumulator;
#pragma unroll
    for (int c = 0; c < HEAD_DIM / BLOCK; ++c) wmma::fill_fragment(accumulator[c], 0.0f);
    RowStatistics statistics;  // one row a lane, so registers have room for it

    for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
        const int stage = key_tile % STAGES;
        // This thread's copies of the tile have landed; behind the barrier, everyone's have. It
        // also says that everyone is done with the previous tile, whose place the next copies take.
        cp_async_wait<STAGES - 2>();
        __syncthreads();
        load_key_tile(key_tile + STAGES - 1);

        multiply_query_key(shared, stage);
        update_softmax(shared, params, tile.first_row, key_tile * TILE_KEYS, statistics);
        multiply_weight_value(shared, stage, accumulator);
    }

    store_output(shared, params, tile, accumulator, statistics);
}
