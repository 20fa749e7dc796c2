// V3c: persistent blocks. Each multiprocessor keeps one block, which loads its next tile of queries
// while it still computes the last one, and draws a ticket for it.
//
// parent: v3b
// idea:   a block that ends leaves its multiprocessor empty until another has started and loaded
//         its first tiles. A block that stays hides both under the work before; the producer runs
//         ahead into the next tile and tells the consumers what it is. Who takes which tile is
//         decided by tickets, longest tiles first, so that causal tiles even out. A warpgroup lets
//         the key tiles pass that none of its own rows sees.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|192|256 -DCONSUMERS=2|3|4 -DTILE_KEYS=64|96|112|128
//         -DKEY_STAGES=2|3|6 -DQUERY_STAGES=1|2 -DSTAGED_OUTPUT=0|1
//         -DTURNS=NEVER|UNLESS_CAUSAL|ALWAYS, f16 or -DDTYPE_BF16
#include "common/mask.cuh"
#include "common/persistent_block.cuh"
#include "common/warpgroup.cuh"
#include "common/warpgroup_attention.cuh"

// As in v3b.
constexpr int EIGHTHS_BEFORE_WAIT = CONSUMERS == 3 ? 8 : 6;
constexpr int SLACK = 8;

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
    const int warpgroup_row = warpgroup * WARPGROUP_ROWS;  // within the tile, as the warp's
    const int warp_row = threadIdx.x / WARP_SIZE * WARP_ROWS;
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

    // Everything between a tile of queries and its output.
    const auto attend_to = [&](const Work& work) {
        const int first_row = work.first_row + warp_row;
        // The warpgroup's last row sees the most keys, its first the fewest: up to there no tile
        // needs a mask.
        const int own_first_row = work.first_row + warpgroup_row;
        const int own_tiles = max(
            1, min(work.key_tiles,
                   key_tile_count(params, own_first_row, WARPGROUP_ROWS, TILE_KEYS)));
        const int unmasked_tiles = visible_keys(params, own_first_row) / TILE_KEYS;

        // FIX: v3b multiplies its way through tiles that only other warpgroups' rows see.
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
        keys.wait();
        rows.begin_products();
        rows.template multiply_keys<QueryBoxes>(query, keys.tile());
        rows.end_products();
        keys.release(lane);
        if (key_tile >= unmasked_tiles) {
            rows.template softmax<true, SLACK>(params, first_row, key_tile * TILE_KEYS);
        } else {
            rows.template softmax<false, SLACK>(params, first_row, key_tile * TILE_KEYS);
        }
        rows.round_weights();

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

    for (Work work = next_work(); work.exists(); work = next_work()) {
        rows.start_over();
        if (work.key_tiles > 0) attend_to(work);
        const int first_row = work.first_row + warp_row;

#if STAGED_OUTPUT
        // INSIGHT: the copy engine stores while the warps go on. Where shared memory has no room for
        // the output beside the next Q, storing from registers costs less than waiting with that Q.
        const bool leader = threadIdx.x % WARPGROUP_SIZE == 0;
        if (leader) wait_until_stores_have_read();
        warpgroup_sync(warpgroup);
        rows.finish(params, work.tile(), first_row, shared.output, warp_row);
        fence_for_async_proxy();
        warpgroup_sync(warpgroup);
        if (leader) {
            shared.output.store_async(maps.output, warpgroup_row, work.first_row + warpgroup_row,
                                      work.head, work.batch);
        }
#else
        rows.finish(params, work.tile(), first_row);
#endif
    }
#if STAGED_OUTPUT
    if (threadIdx.x % WARPGROUP_SIZE == 0) wait_until_stores_have_read();
#endif
}
