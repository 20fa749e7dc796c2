// V3g: many short packed sequences on Hopper: each tile is a block of one warpgroup, and several
// blocks share a multiprocessor.
//
// parent: v3f
// idea:   of a short sequence a tile of queries has one to eight tiles of keys: too few for a
//         pipeline to pay, and most of a block's time goes into waiting for its first loads. So
//         nothing is persistent here and nobody only produces: a block is one warpgroup and one
//         tile of 64 rows, one thread of it asks the copy engine for the queries and the first
//         tiles of keys and values at once, and while it waits four others of the multiprocessor
//         multiply. The last tile of a sequence is worked on by halves, and what lies behind the
//         sequence's end in it is another's: masked among scores, made 0 among values.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=32|64|128 -DSTAGES=1|2 -DBLOCKS_PER_SM=2|4|5, f16 or -DDTYPE_BF16
#include "machine/boxed_tile.cuh"
#include "machine/exact_rows.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/packed_sequences.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
#include "machine/softmax.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/warp.cuh"
#include "machine/warpgroup.cuh"
#include "machine/wgmma.cuh"

// Tile laws.
constexpr int THREADS = WARPGROUP_SIZE;
constexpr int TILE_ROWS = 64;
constexpr int TILE_KEYS = 64;
constexpr int HALF_KEYS = TILE_KEYS / 2;
constexpr int WARP_ROWS = 16;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows, 8 apart

// Powers of two that a maximum may lag behind. Weights up to 2^8 are as exact as those up to 1.
constexpr int SLACK = 8;

// Of 32 columns: for half a tile of keys, and for outputs as narrow.
template <>
struct Wgmma<32> {
    __device__ static void multiply_shared(float (&c)[16], Descriptor left, Descriptor right,
                                           int accumulate) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n32k16." WGMMA_TYPES " {" NAMES_16
            "}, %16, %17, p, 1, 1, 0, 0;\n}"
            : REGISTERS_16(c)
            : "l"(left.encoded()), "l"(right.encoded()), "r"(accumulate));
    }
    __device__ static void multiply_registers(float (&c)[16], const unsigned* left,
                                              Descriptor right, int accumulate) {
        asm volatile(
            "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"
            "wgmma.mma_async.sync.aligned.m64n32k16." WGMMA_TYPES " {" NAMES_16
            "}, {%16, %17, %18, %19}, %20, p, 1, 1, 1;\n}"
            : REGISTERS_16(c)
            : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right.encoded()),
              "r"(accumulate));
    }
};

using QueryBoxes = BoxedTile<TILE_ROWS, HEAD_DIM>;
using KeyBoxes = BoxedTile<TILE_KEYS, HEAD_DIM>;

struct SharedMemory {
    QueryBoxes query;
    KeyBoxes key[STAGES];
    KeyBoxes value[STAGES];
    Barrier query_full;
    Barrier key_full[STAGES];
    Barrier value_full[STAGES];

    // By one thread, before the others meet it.
    __device__ void initialise() {
        query_full.initialise(1);
#pragma unroll
        for (int stage = 0; stage < STAGES; ++stage) {
            key_full[stage].initialise(1);
            value_full[stage].initialise(1);
        }
        publish_barriers();
    }
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(TILE_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS,
              "what the maps are made for");

// A block's tile, whose rows count from its sequence's first; no rows where the tile is one too
// many. The grid is [heads, tiles]: heads of the same rows side by side, as they lie in memory, and
// no division before anything can be loaded.
struct Work {
    QueryTile tile;
    Sequence sequence;

    __device__ explicit Work(const ExtendedParams& params) {
        int number = blockIdx.y;
        // The last tiles of a sequence see the most keys: start with them.
        if (params.causal) number = gridDim.y - 1 - number;
        tile.head = blockIdx.x;
        if (params.sequences == 0) {
            const int tiles = (params.len_q + TILE_ROWS - 1) / TILE_ROWS;
            tile.batch = params.batch == 1 ? 0 : number / tiles;
            tile.first_row = (number - tile.batch * tiles) * TILE_ROWS;
            sequence = dense_sequence(params, tile.batch);
            return;
        }
        const int index = sequence_of_tile<TILE_ROWS>(params, number);
        sequence = packed_sequence(params, index);
        tile.batch = 0;
        tile.first_row = (number - first_tile<TILE_ROWS>(params, index)) * TILE_ROWS;
    }

    __device__ bool exists() const {
        return tile.first_row >= 0 && tile.first_row < sequence.len_q;
    }
};

// The copy engine has to read a map before it can follow it: it may do so while the block still
// looks for its tile.
__device__ inline void prefetch(const TensorMap& map) {
    // UNNOTICED: only time depends on it.
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Asks the copy engine for keys and values; by one thread.
class Loader {
    SharedMemory& shared;
    const TensorMaps& maps;
    const Work& work;
    int head_kv;
    int begin;  // the first tile of keys, which the first stage gets

public:
    __device__ Loader(SharedMemory& shared, const ExtendedParams& params, const TensorMaps& maps,
                      const Work& work, int begin)
        : shared(shared),
          maps(maps),
          work(work),
          head_kv(key_head(params, work.tile.head)),
          begin(begin) {}

    __device__ void load_keys(int tile) const { load(shared.key, shared.key_full, maps.key, tile); }
    __device__ void load_values(int tile) const {
        load(shared.value, shared.value_full, maps.value, tile);
    }

private:
    __device__ void load(KeyBoxes (&tiles)[STAGES], Barrier (&full)[STAGES], const TensorMap& map,
                         int tile) const {
        const int stage = (tile - begin) % STAGES;
        tiles[stage].load_async(map, full[stage], work.sequence.first_key + tile * TILE_KEYS,
                                head_kv, work.tile.batch, Keep::LONG);
    }
};

// The rows of a tile from `first` on and before `end` become 0; by the block. The permutation stays
// inside of a row.
__device__ inline void clear_rows(KeyBoxes& tile, int first, int end) {
    constexpr int ROW_CHUNKS = BOX_ROW_BYTES / sizeof(uint4);
#pragma unroll
    for (int box = 0; box < KeyBoxes::BOXES; ++box) {
        uint4* const chunks = reinterpret_cast<uint4*>(tile.bytes + box * KeyBoxes::BOX_BYTES);
#pragma unroll 1
        for (int i = first * ROW_CHUNKS + threadIdx.x; i < end * ROW_CHUNKS; i += THREADS) {
            chunks[i] = {0, 0, 0, 0};
        }
    }
}

// The block's rows: scores, weights and output are in registers, queries, keys and values in shared
// memory.
class WarpgroupRows {
    // [j][half][i]: column 8·j + 2·(lane % 4) + i of the row 8·half + lane / 4 of the warp's 16; so
    // are the scores of a tile.
    float output[HEAD_DIM / 2] = {};
    RowStatistics statistics[LANE_ROWS];
    float exponent_scale;
    int lane;

public:
    // The scale must have been made positive: see `negate_rows`.
    __device__ WarpgroupRows(const ExtendedParams& params, int lane) : lane(lane) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
    }

    // S = Q · Kᵀ. Of the tile's keys the first COUNT, here and in the next steps.
    template <int COUNT>
    __device__ void multiply_keys(float (&score)[COUNT / 2], const QueryBoxes& queries,
                                  const KeyBoxes& keys) const {
        const Descriptor query = queries.along_columns();
        const Descriptor key = keys.along_columns();
        pin(score);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < HEAD_DIM / 16; ++step) {
            Wgmma<COUNT>::multiply_shared(score, query.advanced(QueryBoxes::column_step(step)),
                                          key.advanced(KeyBoxes::column_step(step)), step != 0);
        }
        wgmma_commit();
        wgmma_wait<0>();
        pin(score);
    }

    // O += P · V, with P rounded to the dtype: the accumulator fragments of two neighbouring blocks
    // of 8 keys are, element for element, one operand fragment of 16.
    template <int COUNT>
    __device__ void multiply_values(const unsigned (&weight)[COUNT / 4], const KeyBoxes& values) {
        const Descriptor value = values.along_rows();
        pin(output);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < COUNT / 16; ++step) {
            Wgmma<HEAD_DIM>::multiply_registers(output, weight + 4 * step,
                                                value.advanced(KeyBoxes::row_step(step)), 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        pin(output);
    }

    // -infinity where a row does not see the key; `first_row` is the warp's within its sequence,
    // `first_key` the tile's.
    template <int COUNT>
    __device__ void mask_scores(float (&score)[COUNT / 2], const ExtendedParams& params,
                                const Sequence& sequence, int first_row, int first_key) const {
        if (params.window_left == UNBOUNDED && params.window_right == UNBOUNDED) {
            // All rows end where the sequence does.
            const int end = sequence.len_kv - first_key - lane % 4 * 2;
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    if (8 * block + i >= end) {
                        score[4 * block + i] = NEGATIVE_INFINITY;
                        score[4 * block + 2 + i] = NEGATIVE_INFINITY;
                    }
                }
            }
            return;
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
            const KeyRange seen = visible_range(params, sequence, row);
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

    // Makes unnormalised weights of the scores and rounds them, lets the maxima grow, and brings
    // the output to them, which is still 0 at the `first` tile.
    template <int COUNT>
    __device__ void softmax(float (&score)[COUNT / 2], unsigned (&weight)[COUNT / 4], bool first) {
        float subtrahend[LANE_ROWS];
        float factor[LANE_ROWS];
        raise_maxima<COUNT>(score, subtrahend, factor);
        float sum[LANE_ROWS][2] = {};  // two chains of additions per row instead of one
#pragma unroll
        for (int i = 0; i < COUNT / 2; i += 2) {
            const int half = i / 2 % 2;
            const float low = exp2_approx(fmaf(score[i], exponent_scale, -subtrahend[half]));
            const float high = exp2_approx(fmaf(score[i + 1], exponent_scale, -subtrahend[half]));
            sum[half][0] += low;  // unrounded: the sum does not inherit P's rounding
            sum[half][1] += high;
            weight[i / 2] = to_element_pair(low, high);
        }
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            statistics[half].sum += sum[half][0] + sum[half][1];
        }
        // Most maxima stay: a vote of the warp saves the products with 1.
        if (first) return;
        if (__any_sync(ALL_LANES, factor[0] != 1.0f || factor[1] != 1.0f)) scale_output(factor);
    }

    // Divides by the sums, in which the head's sink has its part, and gives out the log-sum-exp;
    // `first_row` is the warp's within its sequence.
    __device__ void normalise(const ExtendedParams& params, const Work& work, int first_row) {
        const float sink = params.sinks ? params.sinks[work.tile.head] * LOG2_E : NEGATIVE_INFINITY;
        float factor[LANE_ROWS];
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            RowStatistics total = statistics[half];
            total.sum = group_sum<4>(total.sum);
            // How much less everything weighs where the sink is larger than all scores.
            const float share = params.sinks ? add_sink(total, sink) : 1.0f;
            factor[half] = share * normaliser(total.sum);
            const int row = first_row + 8 * half + lane / 4;
            if (lane % 4 == 0 && row < work.sequence.len_q) {
                store_lse(params, work.tile, work.sequence.first_query + row, row_lse(total));
            }
        }
        scale_output(factor);
    }

    // Writes the rows that are the sequence's. The four lanes that share a row hold pairs of its
    // columns; they exchange them until each holds a chunk of 16 bytes.
    __device__ void store(const ExtendedParams& params, const Work& work, int first_row) const {
        Element* const tensor = head_data(params.output, work.tile.batch, work.tile.head);
        const int member = lane % 4;
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            const int row = first_row + 8 * half + lane / 4;
            Element* const destination =
                tensor + (work.sequence.first_query + row) * params.output.row_stride;
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
        const float maxima[] = {statistics[0].maximum, statistics[1].maximum};
        attend_exactly_to_output(params, work.tile, work.sequence, first_row, maxima);
    }

private:
    // Lets the maxima of both rows grow; the sums follow, and the output is to by `factor`. A
    // maximum that would grow by no more than SLACK (as a power of two) stays what it is.
    template <int COUNT>
    __device__ void raise_maxima(const float (&score)[COUNT / 2], float (&subtrahend)[LANE_ROWS],
                                 float (&factor)[LANE_ROWS]) {
        float maximum[LANE_ROWS];
#pragma unroll
        for (int half = 0; half < LANE_ROWS; ++half) {
            // Two chains of comparisons: each waits for its last one's result.
            float chain[2] = {NEGATIVE_INFINITY, NEGATIVE_INFINITY};
#pragma unroll
            for (int block = 0; block < COUNT / 8; ++block) {
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    chain[i] = fmaxf(chain[i], score[4 * block + 2 * half + i]);
                }
            }
            maximum[half] = fmaxf(chain[0], chain[1]);
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

// How many of a tile's keys a step is for.
template <int COUNT>
struct Keys {
    static constexpr int count = COUNT;
};

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ ExtendedParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);
    const bool leads = threadIdx.x == 0;
    if (leads) {
        prefetch(maps.query);
        prefetch(maps.key);
        prefetch(maps.value);
        shared.initialise();
    }

    const Work work(params);
    if (!work.exists()) return;
    const Sequence& sequence = work.sequence;
    if (leads) {
        shared.query.load_async(maps.query, shared.query_full,
                                sequence.first_query + work.tile.first_row, work.tile.head,
                                work.tile.batch, Keep::BRIEFLY);
    }
    const KeyTiles key_tiles(params, sequence, work.tile.first_row, TILE_ROWS, TILE_KEYS);
    const int end = key_tiles.end;
    const Loader loader(shared, params, maps, work, key_tiles.begin);
    if (leads) {
#pragma unroll
        for (int stage = 0; stage < STAGES; ++stage) {
            const int key_tile = key_tiles.begin + stage;
            if (key_tile >= end) break;
            loader.load_keys(key_tile);
            loader.load_values(key_tile);
        }
    }
    __syncthreads();

    const int lane = threadIdx.x % WARP_SIZE;
    const int warp_row = __shfl_sync(ALL_LANES, threadIdx.x / WARP_SIZE, 0) * WARP_ROWS;
    const int first_row = work.tile.first_row + warp_row;
    WarpgroupRows rows(params, lane);

    shared.query_full.wait(0);
    if (key_tiles.begin < end) {
        if (params.scale < 0.0f) {
            // Moves into Q, so that the softmax may count on the scale being positive.
            shared.query.negate_rows(warp_row, lane);
            fence_for_async_proxy();
            __syncthreads();
        }
        RingPosition<STAGES> at;
        int key_tile = key_tiles.begin;
        // Behind its half no row sees a key of the last tile.
        const bool ends_in_half = key_tiles.keys_end <= (end - 1) * TILE_KEYS + HALF_KEYS;
        const int whole_end = ends_in_half ? end - 1 : end;
        // Others' values may be NaN or infinite, of which a weight of 0 makes NaN.
        const auto clear_others = [&](int used) {
            const int own = sequence.len_kv - key_tile * TILE_KEYS;
            if (own >= used) return;
            clear_rows(shared.value[at.stage], own, used);
            fence_for_async_proxy();
            __syncthreads();
        };
        // One product at a time: the other blocks of the multiprocessor fill what this one waits.
        const auto attend = [&](auto keys) {
            constexpr int COUNT = keys.count;
            float score[COUNT / 2];
            unsigned weight[COUNT / 4];
            shared.key_full[at.stage].wait(at.parity);
            rows.multiply_keys<COUNT>(score, shared.query, shared.key[at.stage]);
            if (!key_tiles.is_whole(key_tile)) {
                rows.mask_scores<COUNT>(score, params, sequence, first_row, key_tile * TILE_KEYS);
            }
            rows.softmax<COUNT>(score, weight, key_tile == key_tiles.begin);
            shared.value_full[at.stage].wait(at.parity);
            clear_others(COUNT);
            rows.multiply_values<COUNT>(weight, shared.value[at.stage]);
            at.advance();
            const int next = key_tile + STAGES;
            // Behind half a tile there is nothing.
            if (COUNT == TILE_KEYS && next < end) {
                // All are done with this stage.
                __syncthreads();
                if (leads) {
                    loader.load_keys(next);
                    loader.load_values(next);
                }
                __syncwarp();
            }
        };
#pragma unroll 1
        for (; key_tile < whole_end; ++key_tile) attend(Keys<TILE_KEYS>{});
        if (key_tile < end) attend(Keys<HALF_KEYS>{});
    }

    rows.normalise(params, work, first_row);
    rows.store(params, work, first_row);
}
