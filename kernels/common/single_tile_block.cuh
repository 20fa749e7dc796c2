// A block for one tile of queries (sm_90a): one warpgroup loads it and the keys and values that it
// sees, the others compute. Its measures are the kernel's build flags; what the others do with the
// tiles is the kernel.
#pragma once

#include "common/boxed_tile.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/tile_ring.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

// Tile laws.
constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP_SIZE;
constexpr int TILE_ROWS = CONSUMERS * WARPGROUP_ROWS;
constexpr int STAGES = 2;
// Registers a thread; in units of 8, together at most what the launch has for all.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : 160;

using QueryBoxes = BoxedTile<TILE_ROWS, HEAD_DIM>;
using KeyBoxes = BoxedTile<TILE_KEYS, HEAD_DIM>;

struct SharedMemory {
    QueryBoxes query;  // in the end the output: a warpgroup's rows are nobody else's
    KeyBoxes key[STAGES];
    KeyBoxes value[STAGES];
    Barrier query_full;
    Turns<STAGES> key_turns;
    Turns<STAGES> value_turns;

    // By one thread, before the others meet it.
    __device__ void initialise() {
        query_full.initialise(1);
        key_turns.initialise(CONSUMERS * WARPGROUP_WARPS);
        value_turns.initialise(CONSUMERS * WARPGROUP_WARPS);
        publish_barriers();
    }
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(TILE_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS && WARPGROUP_ROWS == LAUNCH_OUTPUT_BOX_ROWS,
              "what the maps are made for");

// One thread: loads all that the block needs, ahead of the consumers as far as the rings let it.
// Tiles are walked from the last to the first: those that need a mask, whose softmax takes longest,
// come while there is nothing to overlap it with anyway.
__device__ inline void produce(SharedMemory& shared, const AttentionParams& params,
                               const TensorMaps& maps, const QueryTile& tile, int key_tiles) {
    const int head_kv = key_head(params, tile.head);
    TileProducer keys(shared.key, shared.key_turns);
    TileProducer values(shared.value, shared.value_turns);
    shared.query.load_async(maps.query, shared.query_full, tile.first_row, tile.head, tile.batch,
                            Keep::BRIEFLY);
    keys.load(maps.key, (key_tiles - 1) * TILE_KEYS, head_kv, tile.batch, Keep::LONG);
#pragma unroll 1
    for (int key_tile = key_tiles - 1; key_tile >= 0; --key_tile) {
        const int row = key_tile * TILE_KEYS;
        if (key_tile > 0) keys.load(maps.key, row - TILE_KEYS, head_kv, tile.batch, Keep::LONG);
        values.load(maps.value, row, head_kv, tile.batch, Keep::LONG);
    }
}
