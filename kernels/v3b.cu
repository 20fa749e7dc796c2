// V3b: the softmax under the products. While a warpgroup makes weights of one tile's scores, the
// tensor cores add the last tile's weighted values for it.
//
// parent: v3
// idea:   the products are asynchronous, so none has to be waited for before its result is needed:
//         Q·Kᵀ of a tile and P·V of the tile before are issued together, the scores are waited for,
//         and the output only late in their softmax. The output is rescaled only where a maximum
//         grew by more than 8 powers of two; until then the weights may well exceed 1.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|192|256 -DCONSUMERS=2|3 -DTILE_KEYS=64|96|128, f16 or -DDTYPE_BF16
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/single_tile_block.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

// After how much of a softmax stands the wait for the products beside it, from where the assembler
// moves it. Measured on an H200: at the end with three warpgroups, after three quarters with two.
constexpr int EIGHTHS_BEFORE_WAIT = CONSUMERS == 3 ? 8 : 6;

// Powers of two that a maximum may lag behind. Weights up to 2^8 are as exact as those up to 1.
constexpr int SLACK = 8;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ AttentionParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);
    if (threadIdx.x == 0) shared.initialise();
    __syncthreads();

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);
    const int warpgroup = warpgroup_index();

    if (warpgroup == CONSUMERS) {
        shrink_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x != CONSUMERS * WARPGROUP_SIZE || key_tiles == 0) return;
        produce(shared, params, maps, tile, key_tiles);
        return;
    }

    grow_registers<CONSUMER_REGISTERS>();
    const int lane = threadIdx.x % WARP_SIZE;
    const int warpgroup_row = warpgroup * WARPGROUP_ROWS;  // within the tile, as the warp's
    const int warp_row = threadIdx.x / WARP_SIZE * WARP_ROWS;
    TileConsumer keys(shared.key, shared.key_turns);
    TileConsumer values(shared.value, shared.value_turns);
    WarpgroupAttention<TILE_KEYS, HEAD_DIM> rows(params, lane);

    if (key_tiles > 0) {
        shared.query_full.wait(0);
        if (params.scale < 0.0f) {
            // Moves into Q, so that the softmax may count on the scale being positive.
            shared.query.negate_rows(warp_row, lane);
            fence_for_async_proxy();
            warpgroup_sync(warpgroup);
        }
        const Descriptor query = shared.query.along_columns(warpgroup_row);

        // The first row sees the fewest keys: up to there no tile needs a mask.
        const int unmasked_tiles =
            visible_keys(params, tile.first_row + warpgroup_row) / TILE_KEYS;
        int key_tile = key_tiles - 1;
        keys.wait();
        rows.begin_products();
        rows.template multiply_keys<QueryBoxes>(query, keys.tile());
        rows.end_products();
        keys.release(lane);
        const int first_row = tile.first_row + warp_row;
        if (key_tile >= unmasked_tiles) {
            rows.template softmax<true, SLACK>(params, first_row, key_tile * TILE_KEYS);
        } else {
            rows.template softmax<false, SLACK>(params, first_row, key_tile * TILE_KEYS);
        }
        rows.round_weights();

        // FIX: v3 waits for both products and lets the tensor cores rest while it takes exponentials.
        const auto attend = [&](auto masked) {
            keys.wait();
            rows.begin_products();
            rows.template multiply_keys<QueryBoxes>(query, keys.tile());
            values.wait();
            rows.multiply_values(values.tile());
            rows.await_scores();
            keys.release(lane);
            rows.template softmax<masked.value, SLACK, EIGHTHS_BEFORE_WAIT>(
                params, first_row, key_tile * TILE_KEYS, [&] {
                    rows.await_output();
                    values.release(lane);
                });
            rows.round_weights();
            rows.rescale_output_if_needed();
        };
#pragma unroll 1
        for (--key_tile; key_tile >= unmasked_tiles; --key_tile) attend(Masked{});
#pragma unroll 1
        for (; key_tile >= 0; --key_tile) attend(Unmasked{});

        values.wait();
        rows.begin_products();
        rows.multiply_values(values.tile());
        rows.end_products();
    }

    // Every warp of the warpgroup is done with its rows of Q, whose place the output takes.
    warpgroup_sync(warpgroup);
    rows.finish(params, tile, tile.first_row + warp_row, shared.query, warp_row);
    fence_for_async_proxy();
    warpgroup_sync(warpgroup);
    if (threadIdx.x % WARPGROUP_SIZE == 0) {
        shared.query.store_async(maps.output, warpgroup_row, tile.first_row + warpgroup_row,
                                 tile.head, tile.batch);
        wait_until_stores_have_read();
    }
}
