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
#include "machine/boxed_tile.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/tickets.cuh"
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
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP_WARPS;
constexpr int WORK_STAGES = 2;
// Registers per thread; in units of 8, together at most what the launch has for all.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : CONSUMERS == 3 ? 160 : 112;

// How much of the softmax runs before the wait for the product; ptxas may move it. Measured on an
// H200: at the end with three warpgroups, after three quarters with two.
constexpr int EIGHTHS_BEFORE_WAIT = CONSUMERS == 3 ? 8 : 6;

// Powers of two that a maximum may lag behind. Weights up to 2^8 are as exact as those up to 1.
constexpr int SLACK = 8;

// Whether warpgroups take turns in issuing their products, so that one multiplies while another
// takes exponentials. Measured on an H200: 3 to 8 % at head dimension 64, with four warpgroups only
// where no mask makes their turns unequal; nothing where the products take longer than the softmax.
enum class TakeTurns { NEVER, UNLESS_CAUSAL, ALWAYS };
constexpr TakeTurns TAKE_TURNS = TakeTurns::TURNS;
__device__ inline bool takes_turns(const AttentionParams& params) {
    return TAKE_TURNS == TakeTurns::ALWAYS ||
           (TAKE_TURNS == TakeTurns::UNLESS_CAUSAL && !params.causal);
}

// What a block has to do for one tile of queries. Negative `key_tiles`: nothing, ever again.
struct alignas(16) Work {
    int batch;
    int head;
    int first_row;
    int key_tiles;

    __device__ static Work none() { return {0, 0, 0, -1}; }
    __device__ bool exists() const { return key_tiles >= 0; }
    // What `lane` of the warp holds.
    __device__ Work of_lane(int lane) const {
        return {__shfl_sync(ALL_LANES, batch, lane), __shfl_sync(ALL_LANES, head, lane),
                __shfl_sync(ALL_LANES, first_row, lane), __shfl_sync(ALL_LANES, key_tiles, lane)};
    }
    __device__ QueryTile tile() const { return {batch, head, first_row}; }
};

// Which tiles a persistent block works on. Blocks start with the tile of their own number and then
// draw tickets for the rest, so that none idles while another still has a long way to go.
class PersistentTiles {
    // Keys and values of heads that are worked on at once should stay in the L2 cache (50 MB on an
    // H100 or H200, in two halves). 16, 32 and 64 MB measured the same there.
    static constexpr float SECTION_BYTES = 32.0f * 1024 * 1024;

    const AttentionParams& params;
    int tiles;    // per head
    int heads;    // of all sequences
    int section;  // heads whose tiles are dealt out together

public:
    __device__ explicit PersistentTiles(const AttentionParams& params) : params(params) {
        tiles = (params.len_q + TILE_ROWS - 1) / TILE_ROWS;
        heads = params.heads_q * params.batch;
        // Without a mask all tiles are alike and go head by head.
        section = 1;
        if (params.causal) {
            const float head_bytes = 2.0f * sizeof(Element) * params.len_kv * params.head_dim *
                                     params.heads_kv / params.heads_q;
            section = max(1, min(heads, static_cast<int>(SECTION_BYTES / fmaxf(head_bytes, 1.0f))));
        }
    }

    __device__ int total() const { return tiles * heads; }

    // Sections one after the other; in a section the longest tiles of all heads first.
    __device__ Work operator[](int index) const {
        const int first_head = index / (section * tiles) * section;
        const int section_heads = min(section, heads - first_head);
        const int within = index - first_head * tiles;
        int tile = within / section_heads;
        const int head = first_head + within - tile * section_heads;
        // Causal rows see more keys the later they come.
        if (params.causal) tile = tiles - 1 - tile;
        const int first_row = tile * TILE_ROWS;
        return {head / params.heads_q, head % params.heads_q, first_row,
                key_tile_count(params, first_row, TILE_ROWS, TILE_KEYS)};
    }

    // The number of the block's next tile; at least `total` where there is none. To be asked for
    // when a tile is nearly done: a tile that was drawn early waits for its block.
    __device__ int draw() const {
        if (gridDim.x >= total()) return total();
        // A block draws once for each of its tiles, so there are as many draws as tiles.
        return gridDim.x + draw_ticket(params.tickets, total());
    }
};

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

static_assert(TILE_KEYS % 16 == 0, "whole wgmma steps");
static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(TILE_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS && WARPGROUP_ROWS == LAUNCH_OUTPUT_BOX_ROWS,
              "what the maps are made for");

// One thread: loads tile after tile, ahead of the consumers as far as the rings let it.
__device__ inline void produce(SharedMemory& shared, const AttentionParams& params,
                               const TensorMaps& maps) {
    const PersistentTiles tiles(params);
    TileProducer queries(shared.query, shared.query_turns);
    TileProducer keys(shared.key, shared.key_turns);
    TileProducer values(shared.value, shared.value_turns);
    RingPosition<WORK_STAGES> position;
    const auto announce = [&](const Work& work) {
        shared.work_turns.empty[position.stage].wait(position.parity ^ 1);
        shared.work[position.stage] = work;
        shared.work_turns.full[position.stage].arrive();
        position.advance();
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

    // For the next rows.
    __device__ void start_over() {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) output[i] = 0.0f;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) statistics[half] = {};
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

    // Of two groups of products under way, the scores first: waits for the one, then for both.
    __device__ void await_scores() {
        wgmma_wait<1>();
        pin(score);
    }
    __device__ void await_output() {
        wgmma_wait<0>();
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

    // Makes unnormalised weights of the scores, in place, and lets the maxima grow. Calls
    // `meanwhile` when EIGHTHS_BEFORE_WAIT of the exponentials are done.
    template <typename Meanwhile>
    __device__ void softmax(Meanwhile meanwhile) {
        float subtrahend[LANE_ROWS];
        raise_maxima(subtrahend);
        float sum[LANE_ROWS][2] = {};  // two chains of additions per row instead of one
        constexpr int BLOCKS = TILE_KEYS / 8;
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
            if (EIGHTHS_BEFORE_WAIT < 8 && block == BLOCKS * EIGHTHS_BEFORE_WAIT / 8) meanwhile();
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
        if (EIGHTHS_BEFORE_WAIT == 8) meanwhile();
    }

    // P, rounded to the dtype, once the products that read the last P are done.
    __device__ void round_weights() {
#pragma unroll
        for (int i = 0; i < TILE_KEYS / 4; ++i) {
            weight[i] = to_element_pair(score[2 * i], score[2 * i + 1]);
        }
    }

    // Brings the output to the new maxima, once the products that add to it are done. Most maxima
    // stay: a vote of the warp saves the products with 1.
    __device__ void rescale_output_if_needed() {
        if (__any_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f)) scale_output(factor);
    }

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

    // The same, straight to the tensor. The four lanes that share a row hold pairs of its columns;
    // they exchange them until each holds a chunk of 16 bytes.
    __device__ void finish(const AttentionParams& params, const QueryTile& tile, int first_row) {
        normalise(params, tile, first_row);
        Element* const tensor = head_data(params.output, tile.batch, tile.head);
        const int member = lane % 4;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
#pragma unroll
            for (int first = 0; first < HEAD_DIM / 8; first += 4) {
                unsigned chunk[4];
#pragma unroll
                for (int block = 0; block < 4; ++block) {
                    const float* pair = output + 4 * (first + block) + 2 * half;
                    chunk[block] = to_element_pair(pair[0], pair[1]);
                }
                transpose_among_four(chunk, member);
                const int column = 8 * (first + member);
                if (row < params.len_q && column < params.head_dim) {
                    *reinterpret_cast<uint4*>(tensor + row * params.output.row_stride + column) =
                        make_uint4(chunk[0], chunk[1], chunk[2], chunk[3]);
                }
            }
        }
        const float maxima[] = {statistics[0].maximum, statistics[1].maximum};
        attend_exactly_to_output(params, tile, first_row, maxima);
    }

private:
    // Lets the maxima of both rows grow; the sums and `factor` follow. A maximum that would grow by
    // no more than SLACK (as a power of two) stays what it is.
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
            const float grown = fmaxf(row.maximum, exponent_above(maximum[half], exponent_scale));
            const bool keeps = grown - row.maximum <= float(SLACK);
            factor[half] = raise_maximum(row, keeps ? row.maximum : grown);
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
    WarpgroupRows rows(params, lane);

    RingPosition<WORK_STAGES> position;
    const auto next_work = [&] {
        shared.work_turns.full[position.stage].wait(position.parity);
        __syncwarp();  // the others have looked before the first lane lets new phases begin
        // One lane reads for all, and says so itself.
        Work work = Work::none();
        if (lane == 0) {
            work = shared.work[position.stage];
            shared.work_turns.empty[position.stage].arrive();
        }
        position.advance();
        return work.of_lane(0);
    };
    const TurnTaking<CONSUMERS> turn(warpgroup, takes_turns(params));

    // Everything between a tile of queries and its output.
    const auto attend_to = [&](const Work& work) {
        const int first_row = work.first_row + warp_row;
        // The warpgroup's last row sees the most keys, its first the fewest: up to there no tile
        // needs a mask.
        const int warpgroup_first_row = work.first_row + warpgroup_row;
        const int warpgroup_tiles =
            max(1, min(work.key_tiles,
                       key_tile_count(params, warpgroup_first_row, WARPGROUP_ROWS, TILE_KEYS)));
        const int unmasked_tiles = visible_keys(params, warpgroup_first_row) / TILE_KEYS;

        // FIX: v3b multiplies its way through tiles that only other warpgroups' rows see.
#pragma unroll 1
        for (int key_tile = work.key_tiles; key_tile > warpgroup_tiles; --key_tile) {
            // UNNOTICED: keeps a warp from arriving twice in one phase of a stage;
            // no schedule tried lets the others lag so far.
            keys.wait();
            __syncwarp();
            keys.release(lane);
            // UNNOTICED: keeps a warp from arriving twice in one phase of a stage;
            // no schedule tried lets the others lag so far.
            values.wait();
            __syncwarp();
            values.release(lane);
            // UNREACHED: where turns depend on the mask, none are taken under one.
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

        const auto softmax = [&](int key_tile, auto masked, auto meanwhile) {
            if constexpr (masked.value) {
                rows.mask_scores(params, first_row, key_tile * TILE_KEYS);
            }
            rows.softmax(meanwhile);
        };
        const auto nothing = [] {};

        int key_tile = warpgroup_tiles - 1;
        keys.wait();
        rows.begin_products();
        rows.multiply_keys(query, keys.tile());
        rows.end_products();
        keys.release(lane);
        if (key_tile >= unmasked_tiles) {
            softmax(key_tile, Masked{}, nothing);
        } else {
            softmax(key_tile, Unmasked{}, nothing);
        }
        rows.round_weights();

        const auto attend = [&](auto masked) {
            keys.wait();
            turn.take();
            rows.begin_products();
            rows.multiply_keys(query, keys.tile());
            values.wait();
            // UNNOTICED: begin_products has fenced the same registers, and nothing
            // touches them in between.
            rows.multiply_values(values.tile());
            turn.pass();
            rows.await_scores();
            keys.release(lane);
            softmax(key_tile, masked, [&] {
                rows.await_output();
                values.release(lane);
            });
            rows.round_weights();
            rows.rescale_output_if_needed();
        };
#pragma unroll 1
        // UNREACHED: as above, of turns.
        for (--key_tile; key_tile >= unmasked_tiles; --key_tile) attend(Masked{});
#pragma unroll 1
        for (; key_tile >= 0; --key_tile) attend(Unmasked{});

        queries.release(lane);  // the next tile's may come
        values.wait();
        rows.begin_products();
        // UNNOTICED: begin_products has fenced the same registers, and nothing touches
        // them in between.
        rows.multiply_values(values.tile());
        rows.end_products();
        values.release(lane);
    };

    for (Work work = next_work(); work.exists(); work = next_work()) {
        rows.start_over();
        if (work.key_tiles > 0) attend_to(work);
        const int first_row = work.first_row + warp_row;

#if STAGED_OUTPUT
        // INSIGHT: the copy engine stores while the warps go on. Where shared memory has no room
        // for the output beside the next Q, storing from registers costs less than waiting with
        // that Q.
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
