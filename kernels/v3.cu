// V3: Hopper's machinery. One thread asks the copy engine for tiles, warpgroups multiply them
// straight from shared memory, and barriers that count bytes carry the news.
//
// parent: v2d
// idea:   mma.sync keeps a warp busy with fetching its operands; wgmma reads them from shared
//         memory itself, 64 rows at a time, and TMA writes them there, addresses, swizzle and zero
//         padding included. So the warps that compute do nothing else: one warpgroup gives its
//         registers to the others and only loads.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|192|256 -DCONSUMERS=2|3 -DTILE_KEYS=64|96|128, f16 or -DDTYPE_BF16
#include "machine/boxed_tile.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/tile_ring.cuh"
#include "machine/warp.cuh"
#include "machine/warpgroup.cuh"
#include "machine/wgmma.cuh"

// Tile laws.
constexpr int THREADS = (CONSUMERS + 1) * WARPGROUP_SIZE;
constexpr int WARPGROUP_ROWS = 64;
constexpr int WARP_ROWS = 16;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows, 8 apart
constexpr int TILE_ROWS = CONSUMERS * WARPGROUP_ROWS;
constexpr int STAGES = 2;
// Registers per thread; in units of 8, together at most what the launch has for all.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : 160;

using QueryBoxes = BoxedTile<TILE_ROWS, HEAD_DIM>;
using KeyBoxes = BoxedTile<TILE_KEYS, HEAD_DIM>;

struct SharedMemory {
    QueryBoxes query;  // in the end the output: a warpgroup's rows are its own
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

static_assert(TILE_KEYS % 16 == 0, "whole wgmma steps");
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
    // UNNOTICED: the first load of a ring finds its stage empty.
    keys.load(maps.key, (key_tiles - 1) * TILE_KEYS, head_kv, tile.batch, Keep::LONG);
#pragma unroll 1
    for (int key_tile = key_tiles - 1; key_tile >= 0; --key_tile) {
        const int row = key_tile * TILE_KEYS;
        if (key_tile > 0) keys.load(maps.key, row - TILE_KEYS, head_kv, tile.batch, Keep::LONG);
        values.load(maps.value, row, head_kv, tile.batch, Keep::LONG);
    }
}

// The 64 rows of one warpgroup: scores, weights and output are in registers, queries, keys and
// values in shared memory.
class WarpgroupRows {
    // [j][half][i]: column 8·j + 2·(lane % 4) + i of the row 8·half + lane / 4 of the warp's 16.
    float score[TILE_KEYS / 2];
    unsigned weight[TILE_KEYS / 4];  // in pairs of columns; element for element the operand of P·V
    float output[HEAD_DIM / 2] = {};
    RowStatistics statistics[LANE_ROWS];
    float factor[LANE_ROWS];  // what the last softmax asks the output to be multiplied by
    float exponent_scale;
    int lane;

public:
    // The scale must have been made positive: see `negate_rows`.
    __device__ WarpgroupRows(const AttentionParams& params, int lane) : lane(lane) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
    }

    // Before products are issued, and once they are waited for: no use of their registers crosses
    // these lines.
    __device__ void begin_products() {
        pin(score);
        pin(output);
    }
    __device__ void end_products() {
        wgmma_wait<0>();
        pin(score);
        pin(output);
    }

    // S = Q · Kᵀ, issued as a group; `query` starts at the first row of the warpgroup.
    __device__ void multiply_keys(Descriptor query, const KeyBoxes& keys) {
        const Descriptor key = keys.along_columns();
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; ++step) {
            Wgmma<TILE_KEYS>::multiply_shared(score, query.advanced(QueryBoxes::column_step(step)),
                                              key.advanced(keys.column_step(step)), step != 0);
        }
        wgmma_commit();
    }

    // O += P · V, issued as a group.
    __device__ void multiply_values(const KeyBoxes& values) {
        const Descriptor value = values.along_rows();
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < TILE_KEYS / 16; ++step) {
            Wgmma<HEAD_DIM>::multiply_registers(output, weight + 4 * step,
                                                value.advanced(values.row_step(step)), 1);
        }
        wgmma_commit();
    }

    // -infinity where a row does not see the key; `first_row` is the warp's within its head,
    // `first_key` the tile's.
    __device__ void mask_scores(const AttentionParams& params, int first_row, int first_key) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int query = first_row + 8 * half + lane / 4;
            const int visible = visible_keys(params, query) - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < TILE_KEYS / 8; ++block) {
                float* pair = score + 4 * block + 2 * half;
                if (8 * block >= visible) pair[0] = NEGATIVE_INFINITY;
                if (8 * block + 1 >= visible) pair[1] = NEGATIVE_INFINITY;
            }
        }
    }

    // Makes unnormalised weights of the scores, in place, and lets the maxima grow.
    __device__ void softmax() {
        float subtrahend[LANE_ROWS];
        raise_maxima(subtrahend);
        float sum[LANE_ROWS][2] = {};  // two chains of additions per row instead of one
#pragma unroll
        for (int block = 0; block < TILE_KEYS / 8; ++block) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& x = score[4 * block + i];
                x = exp2_approx(fmaf(x, exponent_scale, -subtrahend[i / 2]));
                sum[i / 2][i % 2] += x;  // unrounded: the sum does not inherit P's rounding
            }
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            statistics[half].sum += sum[half][0] + sum[half][1];
        }
    }

    // P, rounded to the dtype, once the products that read the last P are done.
    __device__ void round_weights() {
#pragma unroll
        for (int i = 0; i < TILE_KEYS / 4; ++i) {
            weight[i] = to_element_pair(score[2 * i], score[2 * i + 1]);
        }
    }

    // Brings the output to the new maxima, once the products that add to it are done.
    __device__ void rescale_output() { scale_output(factor); }

    // Divides by the sums, gives out the log-sum-exp, and leaves the rows at `staging_row` of
    // `staging`; `first_row` is the warp's within its head.
    __device__ void finish(const AttentionParams& params, const QueryTile& tile, int first_row,
                           QueryBoxes& staging, int staging_row) {
        normalise(params, tile, first_row);
        staging.store_fragment(output, staging_row, lane);
        const float maxima[] = {statistics[0].maximum, statistics[1].maximum};
        attend_exactly_to_rows(params, tile, first_row, maxima, true,
                               [&](int row, int column, const float (&columns)[4]) {
                                   staging.store_columns(columns, staging_row + row, column);
                               });
    }

private:
    // Lets the maxima of both rows grow; the sums and `factor` follow.
    __device__ void raise_maxima(float (&subtrahend)[LANE_ROWS]) {
        float maximum[LANE_ROWS];
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            // Four chains of comparisons: each waits for its last one's result.
            float chain[4] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, NEGATIVE_INFINITY,
                              NEGATIVE_INFINITY};
#pragma unroll
            for (int block = 0; block < TILE_KEYS / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& longest = chain[block % 2 * 2 + i];
                    longest = fmaxf(longest, score[4 * block + 2 * half + i]);
                }
            }
            maximum[half] = fmaxf(fmaxf(chain[0], chain[1]), fmaxf(chain[2], chain[3]));
        }
#pragma unroll
        for (int distance = 2; distance > 0; distance /= 2) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const float other = __shfl_xor_sync(ALL_LANES, maximum[half], distance);
                maximum[half] = fmaxf(maximum[half], other);
            }
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics& row = statistics[half];
            factor[half] = raise_maximum(row, exponent_above(maximum[half], exponent_scale));
            subtrahend[half] = safe_maximum(row.maximum);
        }
    }

    // Divides by the sums and gives out the log-sum-exp.
    __device__ void normalise(const AttentionParams& params, const QueryTile& tile, int first_row) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics& total = statistics[half];
            total.sum = group_sum<4>(total.sum);
            factor[half] = normaliser(total.sum);
            const int row = first_row + 8 * half + lane / 4;
            if (lane % 4 == 0 && row < params.len_q) store_lse(params, tile, row, row_lse(total));
        }
        scale_output(factor);
    }

    __device__ void scale_output(const float (&by)[LANE_ROWS]) {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) output[i] *= by[i / 2 % LANE_ROWS];
    }
};

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
    WarpgroupRows rows(params, lane);

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
        const int unmasked_tiles = visible_keys(params, tile.first_row + warpgroup_row) / TILE_KEYS;
        const auto softmax = [&](int key_tile, auto masked) {
            if constexpr (masked.value) {
                rows.mask_scores(params, tile.first_row + warp_row, key_tile * TILE_KEYS);
            }
            rows.softmax();
            rows.round_weights();
        };

        int key_tile = key_tiles - 1;
        keys.wait();
        rows.begin_products();
        rows.multiply_keys(query, keys.tile());
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
            // UNNOTICED: its products, uncommitted, join the group that
            // multiply_keys commits, and both are waited for at once.
            rows.multiply_values(values.tile());
            // UNNOTICED: begin_products has fenced the same registers, and nothing
            // touches them in between.
            rows.multiply_keys(query, keys.tile());
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
        // UNNOTICED: its products, uncommitted, join the group that multiply_keys
        // commits, and both are waited for at once.
        rows.multiply_values(values.tile());
        rows.end_products();
    }

    // Every warp of the warpgroup is done with Q, whose rows the output takes. (That a warp's part
    // of a product reads only the warp's own rows is nowhere promised.)
    // UNNOTICED: PTX allows a product to read all rows of its warpgroup; hardware and
    // interpreter read a warp's own rows.
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
