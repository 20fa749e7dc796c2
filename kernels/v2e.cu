// V2e: keys split over the warps of a block, so that a short problem uses the whole chip.
//
// parent: v2d
// idea:   a head of 512 queries is 8 tiles of 64 rows: 8 heads leave half of the multiprocessors
//         idle and give the others 4 warps each. Here a block takes fewer rows, and KEY_GROUPS
//         groups of warps take its keys in turn, each with a softmax of its own; at the end the
//         groups' parts are weighed and added in shared memory. One launch, no workspace, and always
//         the same order of additions. Long problems have warps enough and run v2d's kernel.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|256 -DROW_WARPS=2 -DKEY_GROUPS=4 -DTILE_KEYS=16|32|64 -DSTAGES=1|2,
//         f16 or -DDTYPE_BF16
#include "common/async_copy.cuh"
#include "common/element.cuh"
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/swizzled_tile.cuh"
#include "common/warp.cuh"
#include "common/warp_attention.cuh"

// Tile laws.
constexpr int GROUP_THREADS = ROW_WARPS * WARP_SIZE;
constexpr int THREADS = KEY_GROUPS * GROUP_THREADS;
constexpr int WARP_ROWS = 16;  // with a second block a warp, half as many could work at once
constexpr int TILE_ROWS = ROW_WARPS * WARP_ROWS;

// What the groups hand to one another when the keys are through. Eight floats more a row put the
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

// Adds the groups' parts of the tile's rows, each weighed by what its maximum has to the row's.
__device__ inline void combine_parts(const Parts& parts, const AttentionParams& params,
                                     const QueryTile& tile) {
    Element* output = head_data(params.output, tile.batch, tile.head);
    // Four columns a thread: eight threads read a whole line of shared memory.
    constexpr int COLUMNS = 4;
    constexpr int QUARTETS = HEAD_DIM / COLUMNS;
    for (int index = threadIdx.x; index < TILE_ROWS * QUARTETS; index += THREADS) {
        const int own_row = index / QUARTETS;
        const int column = index % QUARTETS * COLUMNS;
        const int row = tile.first_row + own_row;
        if (row >= params.len_q || column >= params.head_dim) continue;

        float sum[COLUMNS] = {};
        const RowStatistics total = merge_parts<KEY_GROUPS>(
            [&](int group) { return parts.statistics[group][own_row]; },
            [&](int group, float (&columns)[COLUMNS]) {
                load(&parts.output[group][own_row][column], columns);
            },
            sum);
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
    const int first_row = thread / WARP_SIZE * WARP_ROWS;  // the warp's, within the tile

    // A group takes every KEY_GROUPS-th tile, so that with a causal mask none gets all the short
    // rows. Keys and values are groups of their own, committed even past the last tile, so that
    // counting commits counts tiles.
    const auto load_key_tile = [&](int key_tile) {
        const auto load = [&](auto& stages, const TensorView& tensor) {
            if (key_tile < key_tiles) {
                const int stage = ring_stage<STAGES>(key_tile / KEY_GROUPS);
                stages[group][stage].template load_async<GROUP_THREADS>(
                    thread, tensor, tile.batch, head_kv, key_tile * TILE_KEYS, params.len_kv,
                    params.head_dim);
            }
            cp_async_commit();
        };
        load(shared.key, params.key);
        load(shared.value, params.value);
    };

    shared.query.template load_async<THREADS>(threadIdx.x, params.query, tile.batch, tile.head,
                                              tile.first_row, params.len_q, params.head_dim);
    cp_async_commit();
    // INSIGHT: a short problem is over before a pipeline fills: every stage is asked for at once,
    // and where a group has no more tiles than stages it never waits for a second round trip.
#pragma unroll
    for (int stage = 0; stage < STAGES; ++stage) load_key_tile(group + stage * KEY_GROUPS);

    // The copies of Q have landed, this thread's and, behind the barrier, everyone's. A negative
    // scale moves into Q, so that the softmax may count on it being positive.
    cp_async_wait<2 * STAGES>();
    if (params.scale < 0.0f) shared.query.template negate_own<THREADS>(threadIdx.x);
    __syncthreads();
    const LaneStart start(shared.query, first_row, shared.key[group][0], shared.value[group][0]);
    using Rows = WarpAttention<WARP_ROWS / 16, TILE_KEYS>;
    Rows rows(params, start.query);

    // The groups go in step. Barriers of their own would let them drift apart, but a short problem
    // is through after two rounds and then waits for all of them anyway.
    const int rounds = (key_tiles + KEY_GROUPS - 1) / KEY_GROUPS;
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked_tiles = visible_keys(params, tile.first_row) / TILE_KEYS;
    for (int round = 0; round < rounds; ++round) {
        // This thread's copies of the round's keys have landed; behind the barrier, everyone's
        // have. Likewise, further down, the values, which the weights wait for.
        cp_async_wait<2 * STAGES - 1>();
        __syncthreads();
        const int key_tile = round * KEY_GROUPS + group;
        LaneStart here = start;
        here.key += ring_offset<STAGES>(round, sizeof(shared.key[0][0]));
        here.value += ring_offset<STAGES>(round, sizeof(shared.value[0][0]));
        const auto visible = [&](int row) {
            return visible_keys(params, tile.first_row + first_row + row) - key_tile * TILE_KEYS;
        };
        // The groups differ in whether they need a mask, or have a tile at all: the barriers stand
        // where all of them pass.
        typename Rows::Scores score = {};
        if (key_tile < unmasked_tiles) {
            rows.template attend_to_keys<false>(score, here, visible);
        } else if (key_tile < key_tiles) {
            rows.template attend_to_keys<true>(score, here, visible);
        }
        cp_async_wait<2 * (STAGES - 1)>();
        __syncthreads();
        if (key_tile < key_tiles) rows.attend_to_values(score, here);

        // Everyone is done with the round's tiles before the next ones take their place.
        if (round + STAGES < rounds) __syncthreads();
        load_key_tile(key_tile + STAGES * KEY_GROUPS);
    }

    // The parts take the place of keys and values: everyone is done with those, and every copy has
    // been waited for, since the last rounds' commits are empty.
    __syncthreads();
    const int lane = threadIdx.x % WARP_SIZE;
    rows.for_each_row([&](int own_row, const RowStatistics& own, auto columns) {
        float* part = &shared.parts.output[group][first_row + own_row][lane % 4 * 2];
#pragma unroll
        for (int column = 0; column < HEAD_DIM / 8; ++column) {
            *reinterpret_cast<float2*>(part + 8 * column) = columns(column);
        }
        if (lane % 4 == 0) shared.parts.statistics[group][first_row + own_row] = own;
    });
    __syncthreads();
    combine_parts(shared.parts, params, tile);
}
