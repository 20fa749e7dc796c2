// V3f: ragged work on Hopper. The pipeline of persistent blocks over packed sequences, key lengths
// and windows: tiles are found from cu_seqlens, and each has a range of keys.
//
// parent: v3d
// idea:   the copy engine does not know where a sequence ends: the map is of the packed rows, so
//         the last tiles of a sequence hold rows of the next one. Scores of theirs are masked,
//         queries of theirs not stored. Only values may do harm, as 0 times infinity is NaN; the
//         producer sets them to 0 before it passes the tile on, so consumers know nothing of it.
//         A tile of queries goes from the last key that a row sees to the first, and no further.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|128|256 -DCONSUMERS=2|3 -DTILE_KEYS=64|128 -DKEY_STAGES=2|3
//         -DQUERY_STAGES=1|2|3 -DSTAGED_OUTPUT=0|1 -DTURNS=NEVER|IF_CAUSAL|ALWAYS
//         -DEIGHTHS_BEFORE_WAIT=5|6|7|8 -DSHAPE=PLAIN|SLOPED|CAPPED, f16 or -DDTYPE_BF16
#include "machine/boxed_tile.cuh"
#include "machine/exact_rows.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/mask.cuh"
#include "machine/packed_sequences.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
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
constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP_WARPS;
constexpr int WORK_STAGES = QUERY_STAGES + 1;  // the last one waits for a stage of queries
// Registers per thread; in units of 8, together at most what the launch has for all.
constexpr int PRODUCER_REGISTERS = CONSUMERS == 2 ? 40 : 32;
constexpr int CONSUMER_REGISTERS = CONSUMERS == 2 ? 232 : 160;

constexpr ScoreShape SCORE_SHAPE = ScoreShape::SHAPE;
constexpr bool IS_PLAIN = SCORE_SHAPE == ScoreShape::PLAIN;

// Powers of two that a maximum may lag behind. Weights up to 2^8 are as exact as those up to 1.
constexpr int SLACK = 8;

// A sequence may end, or a warpgroup's rows reach the diagonal, in the first half of a tile; and a
// window may begin in the second half of one.
constexpr int HALF = TILE_KEYS / 2;
constexpr bool HAS_HALVES = HALF >= WARPGROUP_ROWS;

// Whether warpgroups take turns in issuing their products, so that one multiplies while another
// takes exponentials: worth it where the products do not take longer than the softmax.
enum class TakeTurns { NEVER, IF_CAUSAL, ALWAYS };
constexpr TakeTurns TAKE_TURNS = TakeTurns::TURNS;
__device__ inline bool takes_turns(const ExtendedParams& params) {
    return TAKE_TURNS == TakeTurns::ALWAYS || (TAKE_TURNS == TakeTurns::IF_CAUSAL && params.causal);
}

// What a block has to do for one tile of queries, whose rows count from its sequence's first.
struct alignas(16) Work {
    Sequence sequence;
    QueryTile tile;
    int key_begin;  // tiles of keys, counted from the sequence's first
    int key_end;    // negative: nothing, ever again
    float slope;    // of the head's exponents, for each key of distance; negative: it lowers scores
    float sink;     // the head's, as an exponent; -infinity where there is none

    __device__ static Work none() { return {{}, {}, 0, -1, 0.0f, 0.0f}; }
    __device__ bool is_last() const { return key_end < 0; }
    // A packed tile may be one too many.
    __device__ bool has_rows() const {
        return tile.first_row >= 0 && tile.first_row < sequence.len_q;
    }
};

// Which tiles a persistent block works on. Blocks start with the tile of their own number and then
// draw tickets for the rest, so that none idles while another still has a long way to go. By all
// lanes of the producer's warp.
class RaggedTiles {
    // Keys and values of heads that are worked on at once should stay in the L2 cache (50 MB on an
    // H100 or H200, in two halves). 16, 32 and 64 MB measured the same there.
    static constexpr float SECTION_BYTES = 32.0f * 1024 * 1024;

    const ExtendedParams& params;
    int lane;
    int tiles;    // per head
    int heads;    // of all sequences
    int section;  // heads whose tiles are dealt out together

public:
    __device__ RaggedTiles(const ExtendedParams& params, int lane) : params(params), lane(lane) {
        if (params.sequences > 0) {
            tiles = params.len_q / TILE_ROWS + params.sequences;
            heads = params.heads_q;
            // Heads of the same rows side by side, as they lie in memory.
            section = heads;
            return;
        }
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

    // Sections one after the other; in a section the last tiles of all heads first, as causal rows
    // see more keys the later they come.
    __device__ Work operator[](int index) const {
        const int first_head = index / (section * tiles) * section;
        const int section_heads = min(section, heads - first_head);
        const int within = index - first_head * tiles;
        int tile = within / section_heads;
        const int head = first_head + within - tile * section_heads;
        if (params.causal) tile = tiles - 1 - tile;

        Work work;
        if (params.sequences > 0) {
            const int index = sequence_of_tile<TILE_ROWS>(params, tile);
            work.sequence = packed_sequence(params, index);
            work.tile = {0, head, (tile - first_tile<TILE_ROWS>(params, index)) * TILE_ROWS};
        } else {
            work.tile = {head / params.heads_q, head % params.heads_q, tile * TILE_ROWS};
            work.sequence = dense_sequence(params, work.tile.batch);
        }
        const KeyTiles keys(params, work.sequence, work.tile.first_row, TILE_ROWS, TILE_KEYS);
        work.key_begin = keys.begin;
        work.key_end = keys.end;
        const int head_q = work.tile.head;
        work.slope = !IS_PLAIN && params.slopes ? -params.slopes[head_q] * LOG2_E : 0.0f;
        work.sink = params.sinks ? params.sinks[head_q] * LOG2_E : NEGATIVE_INFINITY;
        return work;
    }

    // Draws the ticket for the block's next tile, the first lane alone. A block draws once for each
    // of its tiles, so there are as many draws as tiles.
    __device__ int draw() const {
        return lane == 0 && gridDim.x < total() ? atomicAdd(params.tickets, 1u) : 0;
    }

    // The number of the tile that the ticket is for; at least `total` where there is none.
    __device__ int number(int ticket) const {
        if (gridDim.x >= total()) return total();
        // The last draw leaves the word as it was found.
        if (lane == 0 && ticket == total() - 1) atomicExch(params.tickets, 0u);
        return gridDim.x + __shfl_sync(ALL_LANES, ticket, 0);
    }
};

using QueryBoxes = BoxedTile<TILE_ROWS, HEAD_DIM>;
using KeyBoxes = BoxedTile<TILE_KEYS, HEAD_DIM>;

// What makes scores of products, but for the slope. Like `ScoreShaper`, and for all scores of a
// lane at once: whether the short way will do is asked once for AT_ONCE. Lies in shared memory, as
// registers are scarce.
class Shaper {
    // tanh(x) = x · p(x² + SHIFT) where that sum is below 2^-3, to 2^-22 of itself.
    static constexpr float SHIFT = 0.0078125f;
    static constexpr int TERMS = 4;
    static constexpr int AT_ONCE = 8;
    // INSIGHT: the sums are from 2^-7 on, so those below 2^-3 have exponents of 120 to 123, in
    // which neither of these bits is set, nor in whatever bits they have together; in all others
    // one is. So one instruction looks at two scores.
    static constexpr unsigned FAR_BITS = 0x42000000;

    float factor;       // of the product: to the exponent, or to what tanh takes
    float cap;          // of the exponent
    float term[TERMS];  // of p, times the cap

    __device__ float capped_near(float x, float sum) const {
        float series = term[TERMS - 1];
#pragma unroll
        for (int i = TERMS - 2; i >= 0; --i) series = fmaf(series, sum, term[i]);
        return series * x;
    }
    __device__ float capped_far(float x) const {
        const float power = exp2_approx(fabsf(x) * (2.0f * LOG2_E));
        return copysignf(fmaf(-cap, __fdividef(2.0f, power + 1.0f), cap), x);
    }

public:
    // The products' scale must have been made positive.
    __device__ void initialise(const ExtendedParams& params) {
        factor = fabsf(params.scale_log2e);
        if constexpr (SCORE_SHAPE == ScoreShape::CAPPED) {
            factor = fabsf(params.scale) / params.softcap;
            cap = params.softcap * LOG2_E;
            constexpr float P[TERMS] = {1.00261223f, -0.335412264f, 0.134140775f, -0.0491618477f};
#pragma unroll
            for (int i = 0; i < TERMS; ++i) term[i] = cap * P[i];
        }
    }

    template <int COUNT>
    __device__ void shape(float (&score)[COUNT]) const {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) score[i] *= factor;
        if constexpr (SCORE_SHAPE == ScoreShape::CAPPED) {
            // Logits are seldom as large as a third of the cap. The vote changes no bit.
#pragma unroll
            for (int first = 0; first < COUNT; first += AT_ONCE) {
                float sum[AT_ONCE];
                unsigned bits = 0;
#pragma unroll
                for (int i = 0; i < AT_ONCE; ++i) {
                    sum[i] = fmaf(score[first + i], score[first + i], SHIFT);
                    bits |= __float_as_uint(sum[i]);
                }
                if (!__any_sync(ALL_LANES, (bits & FAR_BITS) != 0)) {
#pragma unroll
                    for (int i = 0; i < AT_ONCE; ++i) {
                        score[first + i] = capped_near(score[first + i], sum[i]);
                    }
                } else {
#pragma unroll
                    for (int i = 0; i < AT_ONCE; ++i) {
                        float& x = score[first + i];
                        const bool is_far = (__float_as_uint(sum[i]) & FAR_BITS) != 0;
                        x = is_far ? capped_far(x) : capped_near(x, sum[i]);
                    }
                }
            }
        }
    }
};

struct SharedMemory {
    QueryBoxes query[QUERY_STAGES];
#if STAGED_OUTPUT
    QueryBoxes output;
#endif
    KeyBoxes key[KEY_STAGES];
    KeyBoxes value[KEY_STAGES];
    Work work[WORK_STAGES];
    KeyTiles seen[WORK_STAGES][CONSUMERS];  // by each 64 rows of the work's tile
    Shaper shaper;
    Turns<WORK_STAGES> work_turns;
    Turns<QUERY_STAGES> query_turns;
    Turns<KEY_STAGES> key_turns;
    Turns<KEY_STAGES> value_turns;
    Barrier landed;  // values that the producer has to look through

    // By one thread, before the others meet it.
    __device__ void initialise(const ExtendedParams& params) {
        if (!IS_PLAIN) shaper.initialise(params);
        // Each thread says for itself what it has read or written of the work, so that
        // compute-sanitizer sees the order, too.
        for (int stage = 0; stage < WORK_STAGES; ++stage) {
            work_turns.full[stage].initialise(CONSUMERS);
            work_turns.empty[stage].initialise(CONSUMERS * WARPGROUP_SIZE);
        }
        query_turns.initialise(CONSUMER_WARPS);
        key_turns.initialise(CONSUMER_WARPS);
        value_turns.initialise(CONSUMER_WARPS);
        landed.initialise(1);
        publish_barriers();
    }
};

static_assert(TILE_KEYS % 16 == 0, "whole wgmma steps");
static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(TILE_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS && WARPGROUP_ROWS == LAUNCH_OUTPUT_BOX_ROWS,
              "what the maps are made for");

// Where a row of the output begins, counted from its sequence's first.
__device__ inline Element* output_row(const ExtendedParams& params, const Work& work, int row) {
    return head_data(params.output, work.tile.batch, work.tile.head) +
           (work.sequence.first_query + row) * params.output.row_stride;
}

// Writes those of a warp's 16 rows that are the sequence's, from where it has staged them.
__device__ inline void store_staged(const ExtendedParams& params, const Work& work, int first_row,
                                    const QueryBoxes& staging, int staging_row, int lane) {
    constexpr int ROW_CHUNKS = BOX_ROW_BYTES / sizeof(uint4);
#pragma unroll
    for (int box = 0; box < QueryBoxes::BOXES; ++box) {
        const unsigned char* const rows =
            staging.bytes + box * QueryBoxes::BOX_BYTES + staging_row * BOX_ROW_BYTES;
#pragma unroll
        for (int i = lane; i < 16 * ROW_CHUNKS; i += WARP_SIZE) {
            const int row = i / ROW_CHUNKS;
            const int chunk = i % ROW_CHUNKS;
            const int column = box * BOX_COLUMNS + chunk * 8;
            if (first_row + row >= work.sequence.len_q || column >= params.head_dim) continue;
            *reinterpret_cast<uint4*>(output_row(params, work, first_row + row) + column) =
                *reinterpret_cast<const uint4*>(rows + row * BOX_ROW_BYTES +
                                                (chunk ^ (row & 7)) * sizeof(uint4));
        }
    }
}

// The rows of a tile from `first` on become 0; by one warp. The permutation stays inside of a row.
__device__ inline void clear_rows_from(KeyBoxes& tile, int first, int lane) {
#pragma unroll
    for (int box = 0; box < KeyBoxes::BOXES; ++box) {
        uint4* const chunks = reinterpret_cast<uint4*>(tile.bytes + box * KeyBoxes::BOX_BYTES);
        constexpr int ROW_CHUNKS = BOX_ROW_BYTES / sizeof(uint4);
#pragma unroll 1
        for (int i = first * ROW_CHUNKS + lane; i < TILE_KEYS * ROW_CHUNKS; i += WARP_SIZE) {
            chunks[i] = {0, 0, 0, 0};
        }
    }
}

// Passes tiles of values on; by one warp.
class ValueProducer {
    SharedMemory& shared;
    int lane;
    RingPosition<KEY_STAGES> at;
    unsigned parity = 0;  // of `landed`

public:
    __device__ ValueProducer(SharedMemory& shared, int lane) : shared(shared), lane(lane) {}

    // Starts copying the tile as soon as a stage is empty. If the `rows` that are left to the
    // sequence end in it and others follow, waits for the copy, and makes zeros of the others.
    __device__ void load(const TensorMap& map, int row, int head, int batch, int rows,
                         bool others_follow) {
        KeyBoxes& tile = shared.value[at.stage];
        Barrier& full = shared.value_turns.full[at.stage];
        shared.value_turns.empty[at.stage].wait(at.parity ^ 1);  // of a fresh barrier: no wait
        __syncwarp();  // the others have looked before the first lane lets new phases begin
        at.advance();
        const bool is_mixed = others_follow && rows < TILE_KEYS;
        if (lane == 0) {
            tile.load_async(map, is_mixed ? shared.landed : full, row, head, batch, Keep::LONG);
        }
        if (!is_mixed) return;
        shared.landed.wait(parity);
        parity ^= 1;
        clear_rows_from(tile, rows, lane);
        fence_for_async_proxy();
        __syncwarp();
        if (lane == 0) full.arrive();
    }
};

// One warp: loads tile after tile, ahead of the consumers as far as the rings let it.
__device__ inline void produce(SharedMemory& shared, const ExtendedParams& params,
                               const TensorMaps& maps) {
    const int lane = threadIdx.x % WARP_SIZE;
    const RaggedTiles tiles(params, lane);
    // The first lane's alone.
    TileProducer queries(shared.query, shared.query_turns);
    TileProducer keys(shared.key, shared.key_turns);
    ValueProducer values(shared, lane);
    RingPosition<WORK_STAGES> position;
    // Gives back what it was given, from shared memory: registers are scarce here.
    const auto announce = [&](const Work& work) -> const Work& {
        shared.work_turns.empty[position.stage].wait(position.parity ^ 1);
        if (lane == 0) shared.work[position.stage] = work;
        if (lane < CONSUMERS) {
            shared.seen[position.stage][lane] =
                KeyTiles(params, work.sequence, work.tile.first_row + lane * WARPGROUP_ROWS,
                         WARPGROUP_ROWS, TILE_KEYS);
        }
        __syncwarp();
        if (lane < CONSUMERS) shared.work_turns.full[position.stage].arrive();
        const Work& announced = shared.work[position.stage];
        position.advance();
        return announced;
    };
    const auto load = [&](const Work& work) {
        const Sequence& sequence = work.sequence;
        const int batch = work.tile.batch;
        const int head_kv = key_head(params, work.tile.head);
        const bool others_follow = sequence.first_key + sequence.len_kv < params.len_kv;
        const auto load_keys = [&](int key_tile) {
            if (lane != 0) return;
            keys.load(maps.key, sequence.first_key + key_tile * TILE_KEYS, head_kv, batch,
                      Keep::LONG);
        };
        if (lane == 0) {
            queries.load(maps.query, sequence.first_query + work.tile.first_row, work.tile.head,
                         batch, Keep::BRIEFLY);
        }
        load_keys(work.key_end - 1);
#pragma unroll 1
        for (int key_tile = work.key_end - 1; key_tile >= work.key_begin; --key_tile) {
            if (key_tile > work.key_begin) load_keys(key_tile - 1);
            const int row = key_tile * TILE_KEYS;
            values.load(maps.value, sequence.first_key + row, head_kv, batch, sequence.len_kv - row,
                        others_follow);
        }
    };
    int ticket = 0;
    for (int index = blockIdx.x; index < tiles.total(); index = tiles.number(ticket)) {
        const Work next = tiles[index];
        if (!next.has_rows()) {
            ticket = tiles.draw();
            continue;
        }
        const Work& work = announce(next);
        // INSIGHT: a tile that is drawn early waits for its block, and others may be idle by then.
        // Of a short tile that is less than what a ticket takes to come.
        const bool is_short = work.key_end - work.key_begin <= KEY_STAGES;
        if (is_short) ticket = tiles.draw();
        if (work.key_begin < work.key_end) load(work);
        if (!is_short) ticket = tiles.draw();
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
    __device__ WarpgroupRows(const ExtendedParams& params, int lane) : lane(lane) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = IS_PLAIN ? fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f) : 1.0f;
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

    // S = Q · Kᵀ, issued as a group; `query` starts at the first row of the warpgroup. Of the
    // tile's keys COUNT from `first` on, here and in the steps of the softmax.
    template <int COUNT = TILE_KEYS>
    __device__ void multiply_keys(Descriptor query, const KeyBoxes& keys, int first = 0) {
        const Descriptor key = keys.along_columns(first);
        auto& first_scores = reinterpret_cast<float (&)[COUNT / 2]>(score);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; ++step) {
            Wgmma<COUNT>::multiply_shared(first_scores,
                                          query.advanced(QueryBoxes::column_step(step)),
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

    // What slopes and soft caps make of the products; `first_row` is the warp's within its
    // sequence, `first_key` the tile's.
    template <int COUNT = TILE_KEYS>
    __device__ void shape_scores(const ExtendedParams& params, const Work& work,
                                 const Shaper& shaper, int first_row, int first_key) {
        if constexpr (IS_PLAIN) return;
        shaper.shape(reinterpret_cast<float (&)[COUNT / 2]>(score));
        if (!params.slopes) return;
        const float slope = work.slope;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
            const float distance =
                diagonal_key(params, work.sequence, row) - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    float& x = score[4 * block + 2 * half + i];
                    x = fmaf(slope, fabsf(distance - (8 * block + i)), x);
                }
            }
        }
    }

    // -infinity where a row does not see the key.
    template <int COUNT = TILE_KEYS>
    __device__ void mask_scores(const ExtendedParams& params, const Work& work, int first_row,
                                int first_key) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
            const KeyRange seen = visible_range(params, work.sequence, row);
            const int begin = seen.begin - first_key - lane % 4 * 2;
            const int end = seen.end - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    const int key = 8 * block + i;
                    if (key < begin || key >= end) {
                        score[4 * block + 2 * half + i] = NEGATIVE_INFINITY;
                    }
                }
            }
        }
    }

    // Makes unnormalised weights of the scores, in place, and lets the maxima grow. Calls
    // `meanwhile` when EIGHTHS_BEFORE_WAIT of the exponentials are done.
    template <int COUNT = TILE_KEYS, typename Meanwhile>
    __device__ void softmax(Meanwhile meanwhile) {
        float subtrahend[LANE_ROWS];
        raise_maxima<COUNT>(subtrahend);
        float sum[LANE_ROWS][2] = {};  // two chains of additions per row instead of one
        constexpr int BLOCKS = COUNT / 8;
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

    // P, rounded to the dtype, once the products that read the last P are done. Other keys than the
    // COUNT from `FIRST` on weigh nothing.
    template <int FIRST = 0, int COUNT = TILE_KEYS>
    __device__ void round_weights() {
#pragma unroll
        for (int i = 0; i < TILE_KEYS / 4; ++i) {
            const int own = i - FIRST / 4;
            weight[i] = own >= 0 && own < COUNT / 4
                            ? to_element_pair(score[2 * own], score[2 * own + 1])
                            : 0;
        }
    }

    // Brings the output to the new maxima, once the products that add to it are done. Most maxima
    // stay: a vote of the warp saves the products with 1.
    __device__ void rescale_output_if_needed() {
        if (__any_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f)) scale_output(factor);
    }

    // Divides by the sums, in which the head's sink has its part, and gives out the log-sum-exp;
    // `first_row` is the warp's within its sequence.
    __device__ void normalise(const ExtendedParams& params, const Work& work, int first_row) {
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics total = statistics[half];
            total.sum = group_sum<4>(total.sum);
            // How much less everything weighs where the sink is larger than all scores.
            const float weight = params.sinks ? add_sink(total, work.sink) : 1.0f;
            factor[half] = weight * normaliser(total.sum);
            const int row = first_row + 8 * half + lane / 4;
            if (lane % 4 == 0 && row < work.sequence.len_q) {
                store_lse(params, work.tile, work.sequence.first_query + row, row_lse(total));
            }
        }
        scale_output(factor);
    }

    // Leaves the output at `staging_row` of `staging`.
    __device__ void stage(const ExtendedParams& params, const Work& work, int first_row,
                          QueryBoxes& staging, int staging_row) const {
        staging.store_fragment(output, staging_row, lane);
        mend_large_rows(params, work, first_row,
                        [&](int row, int column, const float (&columns)[4]) {
                            staging.store_columns(columns, staging_row + row, column);
                        });
    }

    // Writes the rows that are the sequence's. The four lanes that share a row hold pairs of its
    // columns; they exchange them until each holds a chunk of 16 bytes.
    __device__ void store(const ExtendedParams& params, const Work& work, int first_row) const {
        const int member = lane % 4;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
            Element* const destination = output_row(params, work, row);
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
                if (row < work.sequence.len_q && column < params.head_dim) {
                    *reinterpret_cast<uint4*>(destination + column) =
                        make_uint4(chunk[0], chunk[1], chunk[2], chunk[3]);
                }
            }
        }
        mend_large_rows(params, work, first_row,
                        [&](int row, int column, const float (&columns)[4]) {
                            Element* const destination = output_row(params, work, first_row + row);
                            store_from_float(destination + column, columns);
                        });
    }

private:
    // Rows whose logits are too large for the softmax once more, in the place of what it made of
    // them. Shaped scores are exponents already, and nothing rounds the difference of two of them.
    template <typename Store>
    __device__ void mend_large_rows(const ExtendedParams& params, const Work& work, int first_row,
                                    Store store) const {
        if constexpr (!IS_PLAIN) return;
        const float maxima[] = {statistics[0].maximum, statistics[1].maximum};
        attend_exactly_to_rows(params, work.tile, work.sequence, first_row, maxima, store);
    }

    // Lets the maxima of both rows grow; the sums and `factor` follow. A maximum that would grow by
    // no more than SLACK (as a power of two) stays what it is.
    template <int COUNT>
    __device__ void raise_maxima(float (&subtrahend)[LANE_ROWS]) {
        float maximum[LANE_ROWS];
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            // Four chains of comparisons: each waits for its last one's result.
            float chain[4] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY, NEGATIVE_INFINITY,
                              NEGATIVE_INFINITY};
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
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

    __device__ void scale_output(const float (&by)[LANE_ROWS]) {
#pragma unroll
        for (int i = 0; i < HEAD_DIM / 2; ++i) output[i] *= by[i / 2 % LANE_ROWS];
    }
};

// Which of a tile's keys.
struct All {
    static constexpr int FIRST = 0;
    static constexpr int COUNT = TILE_KEYS;
};
struct FirstHalf {
    static constexpr int FIRST = 0;
    static constexpr int COUNT = HAS_HALVES ? HALF : TILE_KEYS;
};
struct SecondHalf {
    static constexpr int FIRST = HAS_HALVES ? HALF : 0;
    static constexpr int COUNT = TILE_KEYS - FIRST;
};

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ ExtendedParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);
    if (threadIdx.x == 0) shared.initialise(params);
    __syncthreads();

    const int warpgroup = warpgroup_index();
    if (warpgroup == CONSUMERS) {
        shrink_registers<PRODUCER_REGISTERS>();
        if (threadIdx.x < CONSUMERS * WARPGROUP_SIZE + WARP_SIZE) produce(shared, params, maps);
        return;
    }

    grow_registers<CONSUMER_REGISTERS>();
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp_of_group = threadIdx.x % WARPGROUP_SIZE / WARP_SIZE;
    TileConsumer queries(shared.query, shared.query_turns);
    TileConsumer keys(shared.key, shared.key_turns);
    TileConsumer values(shared.value, shared.value_turns);
    WarpgroupRows rows(params, lane);
    const TurnTaking<CONSUMERS> turn(warpgroup, takes_turns(params));

    // From one lane, so that the compiler sees that the warp agrees on it: descriptors then stay in
    // the registers that a warp has for all.
    const auto agreed = [](int number) { return __shfl_sync(ALL_LANES, number, 0); };

    // Tiles of keys that only other warpgroups' rows see.
    // INSIGHT: nothing here but the warp's own meeting keeps its lanes together. On an H200 a lane
    // that had not looked before the first one's arrival let two more phases begin, whose parity is
    // that of the one it waited for, and waited for ever.
    const auto pass_keys = [&] {
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
    };

    // Everything between a tile of queries and its output; the rows are counted within the tile.
    const auto attend_to = [&](const Work& work, const KeyTiles& own, int warpgroup_row,
                               int warp_row) {
        const int first_row = work.tile.first_row + warp_row;
        const int warpgroup_first_row = work.tile.first_row + warpgroup_row;
        const int all_begin = agreed(work.key_begin);
        const int all_end = agreed(work.key_end);
        const int begin = agreed(own.begin);
        const int end = agreed(own.end);
        const int whole_begin = agreed(own.whole_begin);
        const int whole_end = agreed(own.whole_end);

        queries.wait();
        if (agreed(warpgroup_first_row >= work.sequence.len_q) || begin == end) {
            queries.release(lane);
            pass_keys();
#pragma unroll 1
            for (int key_tile = all_end - 1; key_tile > all_begin; --key_tile) {
                pass_keys();
                turn.pass_unused();
            }
            return;
        }
#pragma unroll 1
        for (int key_tile = all_end; key_tile > end; --key_tile) {
            pass_keys();
            turn.pass_unused();
        }

        if (params.scale < 0.0f) {
            // Moves into Q, so that the softmax may count on the scale being positive.
            queries.tile().negate_rows(warp_row, lane);
            fence_for_async_proxy();
            warpgroup_sync(warpgroup);
        }
        const Descriptor query = queries.tile().along_columns(warpgroup_row);
        const auto multiply_keys = [&](auto part) {
            rows.template multiply_keys<part.COUNT>(query, keys.tile(), part.FIRST);
        };
        const auto softmax = [&](int key_tile, auto part, auto masked, auto meanwhile) {
            constexpr int COUNT = part.COUNT;
            const int first_key = key_tile * TILE_KEYS + part.FIRST;
            rows.template shape_scores<COUNT>(params, work, shared.shaper, first_row, first_key);
            if constexpr (masked.value) {
                rows.template mask_scores<COUNT>(params, work, first_row, first_key);
            }
            rows.template softmax<COUNT>(meanwhile);
        };
        const auto nothing = [] {};

        int key_tile = end - 1;
        keys.wait();
        rows.begin_products();
        if (HAS_HALVES && agreed(own.keys_end) <= key_tile * TILE_KEYS + HALF) {
            multiply_keys(FirstHalf{});
            rows.end_products();
            keys.release(lane);
            softmax(key_tile, FirstHalf{}, Masked{}, nothing);
            rows.round_weights<0, FirstHalf::COUNT>();
        } else {
            multiply_keys(All{});
            rows.end_products();
            keys.release(lane);
            if (key_tile >= whole_begin && key_tile < whole_end) {
                softmax(key_tile, All{}, Unmasked{}, nothing);
            } else {
                softmax(key_tile, All{}, Masked{}, nothing);
            }
            rows.round_weights();
        }

        const auto attend = [&](auto part, auto masked) {
            keys.wait();
            turn.take();
            rows.begin_products();
            multiply_keys(part);
            values.wait();
            // UNNOTICED: begin_products has fenced the same registers, and nothing
            // touches them in between.
            rows.multiply_values(values.tile());
            turn.pass();
            rows.await_scores();
            keys.release(lane);
            softmax(key_tile, part, masked, [&] {
                rows.await_output();
                values.release(lane);
            });
            rows.template round_weights<part.FIRST, part.COUNT>();
            rows.rescale_output_if_needed();
        };
        const int first_begin =
            agreed(visible_range(params, work.sequence, warpgroup_first_row).begin);
        const bool ends_in_half =
            HAS_HALVES && end - begin > 1 && first_begin >= begin * TILE_KEYS + HALF;
#pragma unroll 1
        for (--key_tile; key_tile >= begin; --key_tile) {
            if (key_tile >= whole_begin && key_tile < whole_end) {
                attend(All{}, Unmasked{});
            } else if (ends_in_half && key_tile == begin) {
                attend(SecondHalf{}, Masked{});
            } else {
                attend(All{}, Masked{});
            }
        }

        queries.release(lane);  // the next tile's may come
        values.wait();
        rows.begin_products();
        // UNNOTICED: begin_products has fenced the same registers, and nothing touches
        // them in between.
        rows.multiply_values(values.tile());
        rows.end_products();
        values.release(lane);
#pragma unroll 1
        for (key_tile = begin; key_tile > all_begin; --key_tile) {
            pass_keys();
            turn.pass_unused();
        }
    };

    // Which 64 rows of a tile are this warpgroup's: others in the next one, so that the work comes
    // out even where some rows see more keys than others, or a tile has few rows.
    int place = warpgroup;
    RingPosition<WORK_STAGES> position;
#pragma unroll 1
    for (;; position.advance()) {
        shared.work_turns.full[position.stage].wait(position.parity);
        const Work& work = shared.work[position.stage];
        if (agreed(work.is_last())) break;
        rows.start_over();
        const int warpgroup_row = place * WARPGROUP_ROWS;
        const int warp_row = warpgroup_row + warp_of_group * WARP_ROWS;
        if (agreed(work.key_begin < work.key_end)) {
            attend_to(work, shared.seen[position.stage][place], warpgroup_row, warp_row);
        }

        const int first_row = work.tile.first_row + warp_row;
        const int warpgroup_first_row = work.tile.first_row + warpgroup_row;
        rows.normalise(params, work, first_row);
        // The copy engine stores while the warps go on, but it would store the next sequence's
        // rows, too: then the threads store. The place in shared memory is not traded: only this
        // warpgroup's own store reads it.
#if STAGED_OUTPUT
        const bool leader = threadIdx.x % WARPGROUP_SIZE == 0;
        const int staged_row = warpgroup * WARPGROUP_ROWS;
        const int staged_warp_row = staged_row + warp_of_group * WARP_ROWS;
        if (leader) wait_until_stores_have_read();
        warpgroup_sync(warpgroup);
        rows.stage(params, work, first_row, shared.output, staged_warp_row);
        fence_for_async_proxy();
        warpgroup_sync(warpgroup);
        if (warpgroup_first_row + WARPGROUP_ROWS > work.sequence.len_q) {
            store_staged(params, work, first_row, shared.output, staged_warp_row, lane);
        } else if (leader) {
            shared.output.store_async(maps.output, staged_row,
                                      work.sequence.first_query + warpgroup_first_row,
                                      work.tile.head, work.tile.batch);
        }
#else
        rows.store(params, work, first_row);
        // INSIGHT: where the compiler does not see the warps meet behind the rare way out, it keeps
        // descriptors in every lane's registers, and moves each in front of each product.
        // UNNOTICED: only time depends on it.
        warpgroup_sync(warpgroup);
#endif
        shared.work_turns.empty[position.stage].arrive();
        place = (place + 1) % CONSUMERS;
    }
#if STAGED_OUTPUT
    if (threadIdx.x % WARPGROUP_SIZE == 0) wait_until_stores_have_read();
#endif
}
