// V2d: fragments in registers. mma.sync and ldmatrix on swizzled shared memory; scores never leave
// the registers.
//
// parent: v2c
// idea:   the layout of an mma fragment is documented where WMMA's is not, so scores, weights and
//         output can stay in registers for good: the accumulator layout of Q·Kᵀ is the operand
//         layout of P·V. Shared memory holds nothing but Q, K and V, permuted instead of padded.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|256 -DWARPS=4|8 -DROW_BLOCKS=1|2 -DTILE_KEYS=32|64|128
//         -DSTAGES=1|2, -DAPART to wait for keys and values apart; f16
//         or -DDTYPE_BF16
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
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int WARP_ROWS = 16 * ROW_BLOCKS;
constexpr int TILE_ROWS = WARPS * WARP_ROWS;

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    SwizzledTile<TILE_KEYS, HEAD_DIM> key[STAGES];
    SwizzledTile<TILE_KEYS, HEAD_DIM> value[STAGES];
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// FIX: v2c sends scores, weights and factors through shared memory and back for every tile, because
// it may not know which element a lane holds. Here nothing of that leaves the registers.
// Eight warps a multiprocessor, in one block or in two: 255 registers for each thread.
extern "C" __global__ void __launch_bounds__(THREADS, 8 / WARPS)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int head_kv = key_head(params, tile.head);
    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);

    const auto load = [&](auto& stages, const TensorView& tensor, int key_tile) {
        stages[ring_stage<STAGES>(key_tile)].template load_async<THREADS>(
            threadIdx.x, tensor, tile.batch, head_kv, key_tile * TILE_KEYS, params.len_kv,
            params.head_dim);
    };
    // Each commits a group even past the last tile, so that counting groups counts tiles.
    const auto load_keys = [&](int key_tile) {
        if (key_tile < key_tiles) load(shared.key, params.key, key_tile);
        cp_async_commit();
    };
    const auto load_values = [&](int key_tile) {
        if (key_tile < key_tiles) load(shared.value, params.value, key_tile);
        cp_async_commit();
    };
    const auto load_both = [&](int key_tile) {
        if (key_tile < key_tiles) {
            load(shared.key, params.key, key_tile);
            load(shared.value, params.value, key_tile);
        }
        cp_async_commit();
    };

    shared.query.template load_async<THREADS>(threadIdx.x, params.query, tile.batch, tile.head,
                                              tile.first_row, params.len_q, params.head_dim);
    cp_async_commit();
#ifdef APART
#pragma unroll
    for (int key_tile = 0; key_tile < STAGES - 1; ++key_tile) {
        load_keys(key_tile);
        load_values(key_tile);
    }
    load_keys(STAGES - 1);
    cp_async_wait<2 * STAGES - 1>();
#else
    static_assert(STAGES == 2, "one tile is under way while another is worked on");
    load_both(0);
    cp_async_wait<1>();
#endif

    // The copies of Q have landed, this thread's and, behind the barrier, everyone's. A negative
    // scale moves into Q, so that the softmax may count on it being positive.
    if (params.scale < 0.0f) shared.query.template negate_own<THREADS>(threadIdx.x);
    __syncthreads();
    const int warp = threadIdx.x / WARP_SIZE;
    const int first_row = warp * WARP_ROWS;  // the warp's, within the tile
    const LaneStart start(shared.query, first_row, shared.key[0], shared.value[0]);
    WarpAttention<ROW_BLOCKS, TILE_KEYS> rows(params, start.query);

    const auto attend = [&](int key_tile, auto masked) {
        const auto visible = [&](int row) {
            return visible_keys(params, tile.first_row + first_row + row) - key_tile * TILE_KEYS;
        };
        // This thread's copies have landed; behind the barrier, everyone's have. It also says that
        // everyone is done with what lies where the next copies go.
#ifdef APART
        cp_async_wait<2 * (STAGES - 1)>();
        __syncthreads();
        load_values(key_tile + STAGES - 1);
        const auto keys_read = [&] {
            cp_async_wait<2 * (STAGES - 1)>();
            __syncthreads();
            load_keys(key_tile + STAGES);
        };
#else
        cp_async_wait<0>();
        __syncthreads();
        load_both(key_tile + 1);
        const Nothing keys_read;
#endif
        // Only now: ahead of the copies it would be in the way of their addresses, and spill.
        auto here = start;
        here.key += ring_offset<STAGES>(key_tile, sizeof(shared.key[0]));
        here.value += ring_offset<STAGES>(key_tile, sizeof(shared.value[0]));
        rows.template attend<masked.value>(here, visible, keys_read);
    };
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked_tiles = visible_keys(params, tile.first_row) / TILE_KEYS;
    int key_tile = 0;
    for (; key_tile < unmasked_tiles; ++key_tile) attend(key_tile, Unmasked{});
    for (; key_tile < key_tiles; ++key_tile) attend(key_tile, Masked{});

    rows.store(params, tile, tile.first_row + first_row);
}
