// V3: Hopper's machinery. One thread asks the copy engine for tiles, warpgroups multiply them
// straight from shared memory, and barriers that count bytes carry the news.
//
// parent: v2e
// idea:   mma.sync keeps a warp busy with fetching its operands; wgmma reads them from shared
//         memory itself, 64 rows at a time, and TMA writes them there, addresses, swizzle and zero
//         padding included. So the warps that compute do nothing else: one warpgroup gives its
//         registers to the others and only loads.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|192|256 -DCONSUMERS=2|3 -DTILE_KEYS=64|96|128, f16 or -DDTYPE_BF16
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/single_tile_block.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

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
        const auto softmax = [&](int key_tile, auto masked) {
            rows.template softmax<masked.value>(params, tile.first_row + warp_row,
                                                key_tile * TILE_KEYS);
            rows.round_weights();
        };

        int key_tile = key_tiles - 1;
        keys.wait();
        rows.begin_products();
        rows.template multiply_keys<QueryBoxes>(query, keys.tile());
        rows.end_products();
        keys.release(lane);
        if (key_tile >= unmasked_tiles) {
            softmax(key_tile, Masked{});
        } else {
            softmax(key_tile, Unmasked{});
        }

        // The weights of the tile before meet their values while the scores of this one are made.
        const auto attend = [&](auto masked) {
            keys.wait();
            values.wait();
            rows.begin_products();
            rows.multiply_values(values.tile());
            rows.template multiply_keys<QueryBoxes>(query, keys.tile());
            rows.end_products();
            values.release(lane);
            keys.release(lane);
            softmax(key_tile, masked);
            rows.rescale_output();
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

    // Every warp of the warpgroup is done with Q, whose rows the output takes. (That a warp's part
    // of a product reads only the warp's own rows is nowhere promised.)
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
