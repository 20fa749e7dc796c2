// V3d: causal tiles in even shares. Of the tile on the diagonal a warpgroup leaves out the keys that
// none of its rows sees, and warpgroups trade rows from tile to tile.
//
// parent: v3c
// idea:   under a causal mask a tile's first rows see the fewest keys and its last the most. With a
//         fixed share the last warpgroup is always the last to finish, and the first multiplies a
//         diagonal tile of which its rows see no more than half. Left out, that half costs nothing;
//         traded from tile to tile, what is left comes out even.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128 -DCONSUMERS=2|3|4 -DTILE_KEYS=64|112|128 -DKEY_STAGES=2|3|6
//         -DQUERY_STAGES=1|2 -DSTAGED_OUTPUT=1 -DTURNS=UNLESS_CAUSAL|ALWAYS
//         -DEIGHTHS_BEFORE_WAIT=2|6|8, f16 or -DDTYPE_BF16
#include "common/mask.cuh"
#include "common/persistent_block.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

// As in v3b.
constexpr int SLACK = 8;

// A warpgroup's rows end on the diagonal: of a tile of more keys than that they may see none beyond.
constexpr int NEAR_KEYS = WARPGROUP_ROWS < TILE_KEYS ? WARPGROUP_ROWS : TILE_KEYS;

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ AttentionParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);
    if (threadIdx.x == 0) shared.initialise();
    __syncthreads();

    const int warpgroup = warpgroup_index();
    if (warpgroup == CONSUMERS) {
        shrink_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x == CONSUMERS * WARPGROUP_SIZE) produce(shared, params, maps);
        return;
    }

    grow_registers<CONSUMER_REGISTERS>();
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp_of_group = threadIdx.x % WARPGROUP_SIZE / WARP_SIZE;
    TileConsumer queries(shared.query, shared.query_turns);
    TileConsumer keys(shared.key, shared.key_turns);
    TileConsumer values(shared.value, shared.value_turns);
    WarpgroupAttention<TILE_KEYS, HEAD_DIM> rows(params, lane);

    RingPosition<WORK_STAGES> at;
    const auto next_work = [&] {
        shared.work_turns.full[at.stage].wait(at.parity);
        // One lane reads for all, and says so itself.
        Work work = Work::none();
        if (lane == 0) {
            work = shared.work[at.stage];
            shared.work_turns.empty[at.stage].arrive();
        }
        at.advance();
        return work.of_lane(0);
    };
    const TurnTaking<CONSUMERS> turn(warpgroup, takes_turns(params));

    // Everything between a tile of queries and its output; the rows are counted within the tile.
    const auto attend_to = [&](const Work& work, int warpgroup_row, int warp_row) {
        const int first_row = work.first_row + warp_row;
        // The warpgroup's last row sees the most keys, its first the fewest: up to there no tile
        // needs a mask.
        const int own_first_row = work.first_row + warpgroup_row;
        const int own_tiles = max(
            1, min(work.key_tiles,
                   key_tile_count(params, own_first_row, WARPGROUP_ROWS, TILE_KEYS)));
        const int unmasked_tiles = visible_keys(params, own_first_row) / TILE_KEYS;

        // Tiles that only other warpgroups' rows see.
#pragma unroll 1
        for (int key_tile = work.key_tiles; key_tile > own_tiles; --key_tile) {
            keys.wait();
            keys.release(lane);
            values.wait();
            values.release(lane);
            turn.pass_unused();
        }

        queries.wait();
        if (params.scale < 0.0f) {
            // Moves into Q, so that the softmax may count on the scale being positive.
            queries.tile().negate_rows(warp_row, lane);
            fence_for_async_proxy();
            warpgroup_sync(warpgroup);
        }
        const Descriptor query = queries.tile().along_columns(warpgroup_row);

        int key_tile = own_tiles - 1;
        const int first_key = key_tile * TILE_KEYS;
        keys.wait();
        rows.begin_products();
        // FIX: v3c multiplies what lies beyond the diagonal as far as the tile goes.
        if (NEAR_KEYS < TILE_KEYS &&
            sees_nothing_from(params, own_first_row, first_key + NEAR_KEYS)) {
            rows.template multiply_keys<QueryBoxes, NEAR_KEYS>(query, keys.tile());
            rows.end_products();
            keys.release(lane);
            rows.template softmax<true, SLACK, NEAR_KEYS>(params, first_row, first_key);
            rows.template round_weights<NEAR_KEYS>();
        } else {
            rows.template multiply_keys<QueryBoxes>(query, keys.tile());
            rows.end_products();
            keys.release(lane);
            if (key_tile >= unmasked_tiles) {
                rows.template softmax<true, SLACK>(params, first_row, first_key);
            } else {
                rows.template softmax<false, SLACK>(params, first_row, first_key);
            }
            rows.round_weights();
        }

        const auto attend = [&](auto masked) {
            keys.wait();
            turn.take();
            rows.begin_products();
            rows.template multiply_keys<QueryBoxes>(query, keys.tile());
            values.wait();
            rows.multiply_values(values.tile());
            turn.pass();
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

        queries.release(lane);  // the next tile's may come
        values.wait();
        rows.begin_products();
        rows.multiply_values(values.tile());
        rows.end_products();
        values.release(lane);
    };

    // Which 64 rows of a tile are this warpgroup's.
    int place = warpgroup;
    for (Work work = next_work(); work.exists(); work = next_work()) {
        const int warpgroup_row = place * WARPGROUP_ROWS;
        const int warp_row = warpgroup_row + warp_of_group * WARP_ROWS;
        rows.start_over();
        if (work.key_tiles > 0) attend_to(work, warpgroup_row, warp_row);
        const int first_row = work.first_row + warp_row;

#if STAGED_OUTPUT
        // INSIGHT: the copy engine stores while the warps go on. Where shared memory has no room for
        // the output beside the next Q, storing from registers costs less than waiting with that Q.
        // The place in shared memory is not traded: only this warpgroup's own store reads it.
        const bool leader = threadIdx.x % WARPGROUP_SIZE == 0;
        const int staged_row = warpgroup * WARPGROUP_ROWS;
        if (leader) wait_until_stores_have_read();
        warpgroup_sync(warpgroup);
        rows.finish(params, work.tile(), first_row, shared.output,
                    staged_row + warp_of_group * WARP_ROWS);
        fence_for_async_proxy();
        warpgroup_sync(warpgroup);
        if (leader) {
            shared.output.store_async(maps.output, staged_row, work.first_row + warpgroup_row,
                                      work.head, work.batch);
        }
#else
        rows.finish(params, work.tile(), first_row);
#endif
        // FIX: in v3c the last warpgroup always has the most keys; here the first gets them next.
        place = CONSUMERS - 1 - place;
    }
#if STAGED_OUTPUT
    if (threadIdx.x % WARPGROUP_SIZE == 0) wait_until_stores_have_read();
#endif
}
