// A block that stays on its multiprocessor (sm_90a): one warpgroup loads tile after tile of queries
// and the keys and values that they see, ahead of the warpgroups that compute. Its measures are the
// kernel's build flags; what the others do with the tiles is the kernel.
#pragma once

#include "common/boxed_tile.cuh"
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/persistent_tiles.cuh"
#include "common/tile_ring.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

// Tile laws.
constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP_SIZE;
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP_WARPS;
constexpr int TILE_ROWS = CONSUMERS * WARPGROUP_ROWS;
constexpr int WORK_STAGES = 2;
// Registers a thread; in units of 8, together at most what the launch has for all.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : CONSUMERS == 3 ? 160 : 112;

// Whether warpgroups take turns in issuing their products, so that one multiplies while another
// takes exponentials. Measured on an H200: 3 to 8 % at head dimension 64, with four warpgroups only
// where no mask makes their turns unequal; nothing where the products take longer than the softmax.
enum class TakeTurns { NEVER, UNLESS_CAUSAL, ALWAYS };
constexpr TakeTurns TAKE_TURNS = TakeTurns::TURNS;
__device__ inline bool takes_turns(const AttentionParams& params) {
    return TAKE_TURNS == TakeTurns::ALWAYS ||
           (TAKE_TURNS == TakeTurns::UNLESS_CAUSAL && !params.causal);
}

using QueryBoxes = BoxedTile<TILE_ROWS, HEAD_DIM>;
using KeyBoxes = BoxedTile<TILE_KEYS, HEAD_DIM>;

struct SharedMemory {
    QueryBoxes query[QUERY_STAGES];
#if STAGED_OUTPUT
    QueryBoxes output;
#endif
    KeyBoxes key[KEY_STAGES];
    KeyBoxes value[KEY_STAGES];
    Work work[WORK_STAGES];
    Turns<WORK_STAGES> work_turns;
    Turns<QUERY_STAGES> query_turns;
    Turns<KEY_STAGES> key_turns;
    Turns<KEY_STAGES> value_turns;

    // By one thread, before the others meet it.
    __device__ void initialise() {
        work_turns.initialise(CONSUMER_WARPS);
        query_turns.initialise(CONSUMER_WARPS);
        key_turns.initialise(CONSUMER_WARPS);
        value_turns.initialise(CONSUMER_WARPS);
        publish_barriers();
    }
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(TILE_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS && WARPGROUP_ROWS == LAUNCH_OUTPUT_BOX_ROWS,
              "what the maps are made for");

// One thread: loads tile after tile, ahead of the consumers as far as the rings let it.
__device__ inline void produce(SharedMemory& shared, const AttentionParams& params,
                               const TensorMaps& maps) {
    const PersistentTiles<TILE_ROWS, TILE_KEYS> tiles(params);
    TileProducer queries(shared.query, shared.query_turns);
    TileProducer keys(shared.key, shared.key_turns);
    TileProducer values(shared.value, shared.value_turns);
    RingPosition<WORK_STAGES> at;
    const auto announce = [&](const Work& work) {
        shared.work_turns.empty[at.stage].wait(at.parity ^ 1);
        shared.work[at.stage] = work;
        shared.work_turns.full[at.stage].arrive();
        at.advance();
    };
    for (int index = blockIdx.x; index < tiles.total(); index = tiles.draw()) {
        const Work work = tiles[index];
        announce(work);
        if (work.key_tiles == 0) continue;
        queries.load(maps.query, work.first_row, work.head, work.batch, Keep::BRIEFLY);
        const int head_kv = key_head(params, work.head);
        const int last = work.key_tiles - 1;
        keys.load(maps.key, last * TILE_KEYS, head_kv, work.batch, Keep::LONG);
#pragma unroll 1
        for (int key_tile = last; key_tile >= 0; --key_tile) {
            const int row = key_tile * TILE_KEYS;
            if (key_tile > 0) keys.load(maps.key, row - TILE_KEYS, head_kv, work.batch, Keep::LONG);
            values.load(maps.value, row, head_kv, work.batch, Keep::LONG);
        }
    }
    announce(Work::none());
}
