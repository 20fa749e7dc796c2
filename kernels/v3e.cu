// V3e: short problems in even shares, fetched by the copy engine.
//
// parent: v2e
// idea:   a short problem takes as long as its slowest warp, and v2e makes its warps work for their
//         tiles: each spends as many instructions on copying as on attending, all of a block's wait
//         for each other's copies, and of causal rows the last block has the most keys. Here one
//         thread asks the copy engine for everything, a group of warps waits for its own keys only,
//         and a block takes 16 rows from the front and 16 from the back: all blocks, and all the
//         schedulers in them, see about the same number of keys. The groups' parts meet in the
//         layout of the products: each group adds up a quarter of the columns.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64 -DTILE_KEYS=64|128, f16 or -DDTYPE_BF16
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/swizzled_tile.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/tensor_core.cuh"
#include "machine/warp.cuh"

// Tile laws. A strip is the rows of a warp; a block has two of them, each once in every group.
constexpr int ROW_BLOCKS = 1;
constexpr int STRIPS = 2;
constexpr int STRIP_ROWS = 16;
constexpr int KEY_GROUPS = 4;
constexpr int WARPS = KEY_GROUPS * STRIPS;
constexpr int THREADS = WARPS * WARP_SIZE;
constexpr int GROUP_BLOCKS = HEAD_DIM / 8 / KEY_GROUPS;  // of 8 columns, that a group adds up
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart

static_assert(HEAD_DIM == BOX_COLUMNS, "a row of a tile is one of a box, in the same permutation");
static_assert(GROUP_BLOCKS == 2, "with both rows, four chunks of 16 bytes for four lanes");
static_assert(TILE_KEYS % 16 == 0 && HEAD_DIM % 16 == 0, "whole mma steps");

struct SharedMemory {
    alignas(1024) SwizzledTile<STRIP_ROWS, HEAD_DIM> query[STRIPS];
    alignas(1024) SwizzledTile<TILE_KEYS, HEAD_DIM> key[KEY_GROUPS];
    alignas(1024) SwizzledTile<TILE_KEYS, HEAD_DIM> value[KEY_GROUPS];
    // What the groups hand to one another, as it lies in the lanes: [strip][to][from].
    float4 part[STRIPS][KEY_GROUPS][KEY_GROUPS][GROUP_BLOCKS][WARP_SIZE];
    RowStatistics statistics[STRIPS][KEY_GROUPS][STRIP_ROWS];
    Barrier query_full;
    Barrier key_full[KEY_GROUPS];
    Barrier value_full[KEY_GROUPS];
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");
static_assert(STRIP_ROWS == LAUNCH_QUERY_BOX_ROWS && TILE_KEYS == LAUNCH_KEY_BOX_ROWS &&
                  TILE_KEYS == LAUNCH_VALUE_BOX_ROWS,
              "what the maps are made for");

// Where a lane starts reading the fragments of each operand in shared memory; the rest of its way
// is a constant. ldmatrix takes the rows of one 8×8 matrix from each eight lanes. For Q the
// matrices are the quarters of a 16×16 block; for K two blocks of 8 keys, each with both halves of
// a depth step; for V two blocks of 8 keys, each with both halves of 16 columns.
struct LaneStart {
    unsigned query;
    unsigned key;
    unsigned value;

    template <typename QueryTile, typename KeyTile>
    __device__ LaneStart(const QueryTile& queries, int first_row, const KeyTile& keys,
                         const KeyTile& values) {
        const int lane = threadIdx.x % WARP_SIZE;
        query = queries.start(first_row + lane % 16, lane / 16);
        key = keys.start(lane % 8 + lane / 16 * 8, lane / 8 % 2);
        value = values.start(lane % 16, lane / 16);
    }
};

// The rows of one warp: its queries, their output so far, and the steps of one tile of keys.
class WarpRows {
    static constexpr int KEY_BLOCKS = TILE_KEYS / 8;    // columns of a score fragment
    static constexpr int COLUMN_BLOCKS = HEAD_DIM / 8;  // columns of an output fragment
    static constexpr int DEPTH_STEPS = HEAD_DIM / 16;   // of Q·Kᵀ
    static constexpr int KEY_STEPS = TILE_KEYS / 16;    // of P·V
    static constexpr int BLOCK_BYTES = 16 * HEAD_DIM * sizeof(Element);  // 16 rows of a tile
    using Tile = SwizzledTile<TILE_KEYS, HEAD_DIM>;

    // Q stays in registers if the output leaves room for it.
    static constexpr bool KEEP_QUERY = ROW_BLOCKS * HEAD_DIM <= 128;
    static constexpr int KEPT_STEPS = KEEP_QUERY ? DEPTH_STEPS : 1;

    // Measured on an H200 at 64 and 128 columns: 3 % slower and 4 % faster.
    static constexpr bool VOTE = ROW_BLOCKS * HEAD_DIM > 128;

    unsigned query[KEPT_STEPS][ROW_BLOCKS][4];
    float output[ROW_BLOCKS][COLUMN_BLOCKS][4] = {};
    RowStatistics statistics[ROW_BLOCKS][LANE_ROWS];
    float exponent_scale;

public:
    using Scores = float[ROW_BLOCKS][KEY_BLOCKS][4];

    // `query_start` as in LaneStart. The scale must have been made positive: see `negate_own`.
    __device__ WarpRows(const AttentionParams& params, unsigned query_start) {
        // Never 0: a masked score times it must stay -infinity. The smallest normal number leaves
        // the exponent of every finite score at 0.
        exponent_scale = fmaxf(fabsf(params.scale_log2e), 1.17549435e-38f);
        if constexpr (KEEP_QUERY) {
#pragma unroll
            for (int step = 0; step < DEPTH_STEPS; ++step) {
                load_query(query[step], query_start, step);
            }
        }
    }

    // S = Q · Kᵀ, added to scores of 0.
    __device__ void multiply_keys(Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < DEPTH_STEPS; ++step) {
            auto& left = query[KEEP_QUERY ? step : 0];
            if constexpr (!KEEP_QUERY) load_query(left, start.query, step);
            const unsigned key = Tile::advanced(start.key, step);
#pragma unroll
            for (int pair = 0; pair < KEY_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices(right, key + pair * BLOCK_BYTES);
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(score[block][2 * pair], left[block], right[0], right[1]);
                    multiply_accumulate(score[block][2 * pair + 1], left[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // -infinity where a row does not see the key. `visible(row)` says how many keys it sees from
    // the tile's first one on; `row` counts from the warp's first.
    template <typename Visible>
    __device__ static void mask_scores(Scores& score, Visible visible) {
        const int lane = thread_index() % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                const int lane_visible = visible(16 * block + 8 * half + lane / 4) - lane % 4 * 2;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
#pragma unroll
                    for (int i = 0; i < 2; ++i) {
                        if (8 * column + i >= lane_visible) {
                            score[block][column][2 * half + i] = NEGATIVE_INFINITY;
                        }
                    }
                }
            }
        }
    }

    // Lets the maxima of the rows grow; sums and output follow.
    __device__ void raise_maxima(const Scores& score) {
        float factor[ROW_BLOCKS][LANE_ROWS];
        bool grown = false;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                float maximum = NEGATIVE_INFINITY;
#pragma unroll
                for (int column = 0; column < KEY_BLOCKS; ++column) {
                    maximum = fmaxf(maximum, fmaxf(score[block][column][2 * half],
                                                   score[block][column][2 * half + 1]));
                }
                // INSIGHT: where the scale is positive, the largest score has the largest exponent:
                // one product per row instead of one per score.
                factor[block][half] = raise_maximum(
                    statistics[block][half], exponent_above(group_max<4>(maximum), exponent_scale));
                grown |= factor[block][half] != 1.0f;
            }
        }
        // After the first tiles a maximum seldom grows. A wide output is worth a vote that saves
        // the products with 1; a narrow one is not. The result is the same to the bit.
        if (VOTE && !__any_sync(ALL_LANES, grown)) return;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
#pragma unroll
                for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                    output[block][column][2 * half] *= factor[block][half];
                    output[block][column][2 * half + 1] *= factor[block][half];
                }
            }
        }
    }

    // O += P · V, with P = 2^(score · exponent_scale - maximum) rounded to the dtype on the way.
    // The accumulator fragments of two neighbouring key blocks are, element for element, one
    // operand fragment of 16 keys. Taken 16 keys at a time, the exponentials of the next keys have
    // the products of the last ones to hide behind.
    __device__ void multiply_values(const Scores& score, const LaneStart& start) {
#pragma unroll
        for (int step = 0; step < KEY_STEPS; ++step) {
            unsigned weight[ROW_BLOCKS][4];
#pragma unroll
            for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
                for (int quarter = 0; quarter < 4;
                     ++quarter) {  // of 16×16: two of rows by two of keys
                    const int half = quarter % 2;
                    const float* pair = &score[block][2 * step + quarter / 2][2 * half];
                    RowStatistics& row = statistics[block][half];
                    const float low = softmax_weight(pair[0], exponent_scale, row.maximum);
                    const float high = softmax_weight(pair[1], exponent_scale, row.maximum);
                    row.sum += low + high;  // unrounded: the sum does not inherit P's rounding
                    weight[block][quarter] = to_element_pair(low, high);
                }
            }
            const unsigned value = start.value + step * BLOCK_BYTES;
#pragma unroll
            for (int pair = 0; pair < COLUMN_BLOCKS / 2; ++pair) {
                unsigned right[4];
                load_matrices_transposed(right, Tile::advanced(value, pair));
#pragma unroll
                for (int block = 0; block < ROW_BLOCKS; ++block) {
                    multiply_accumulate(output[block][2 * pair], weight[block], right[0], right[1]);
                    multiply_accumulate(output[block][2 * pair + 1], weight[block], right[2],
                                        right[3]);
                }
            }
        }
    }

    // Calls `visit(row, statistics, columns)` for both rows that this lane holds of every block:
    // `row` counts from the warp's first, `columns(c)` are the lane's two neighbours at column 8·c
    // + 2·(lane % 4), not yet divided by the sum.
    template <typename Visit>
    __device__ void for_each_row(Visit visit) {
        const int lane = threadIdx.x % WARP_SIZE;
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
#pragma unroll
            for (int half = 0; half < LANE_ROWS; ++half) {
                RowStatistics& total = statistics[block][half];
                total.sum = group_sum<4>(total.sum);
                visit(16 * block + 8 * half + lane / 4, total, [&](int column) {
                    const float* pair = &output[block][column][2 * half];
                    return make_float2(pair[0], pair[1]);
                });
            }
        }
    }

    // INSIGHT: parts are handed over as the products left them, 16 bytes per lane: no bank
    // conflict, no address to work out, and each group has the columns of one quarter to add up.
    __device__ void hand_over(SharedMemory& shared, int strip, int group) {
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int row, const RowStatistics& total, auto) {
            if (lane % 4 == 0) shared.statistics[strip][group][row] = total;
        });
#pragma unroll
        for (int column = 0; column < COLUMN_BLOCKS; ++column) {
            const int to = column / GROUP_BLOCKS;
            const float (&both_rows)[4] = output[0][column];
            shared.part[strip][to][group][column % GROUP_BLOCKS][lane] =
                make_float4(both_rows[0], both_rows[1], both_rows[2], both_rows[3]);
        }
    }

private:
    __device__ static void load_query(unsigned (&fragment)[ROW_BLOCKS][4], unsigned start,
                                      int step) {
#pragma unroll
        for (int block = 0; block < ROW_BLOCKS; ++block) {
            load_matrices(fragment[block], Tile::advanced(start, step) + block * BLOCK_BYTES);
        }
    }
};

// The block's two strips of a head's rows: the early one as far from the first row as the late one
// from the last. In the middle they may be the same. The grid is [pairs, heads of all sequences]:
// a division of the block's number would be waited for before anything can be loaded.
struct PairOfStrips {
    int batch;
    int head;
    int early;  // first rows
    int late;

    __device__ explicit PairOfStrips(const AttentionParams& params) {
        const int strips = (params.len_q + STRIP_ROWS - 1) / STRIP_ROWS;
        batch = params.batch == 1 ? 0 : blockIdx.y / params.heads_q;
        head = blockIdx.y - batch * params.heads_q;
        early = blockIdx.x * STRIP_ROWS;
        late = (strips - 1) * STRIP_ROWS - early;
    }
};

// One thread asks for everything at once: the queries, the keys of all groups, then their values.
// In any other order a group's values keep the next group's keys waiting.
__device__ inline void start_copies(SharedMemory& shared, const AttentionParams& params,
                                    const TensorMaps& maps, const PairOfStrips& tile,
                                    int key_tiles) {
    shared.query_full.initialise(1);
#pragma unroll
    for (int group = 0; group < KEY_GROUPS; ++group) {
        shared.key_full[group].initialise(1);
        shared.value_full[group].initialise(1);
    }
    publish_barriers();

    const int head_kv = key_head(params, tile.head);
    shared.query_full.arrive_and_expect(sizeof(shared.query));
    load_box(shared_address(&shared.query[0]), maps.query, shared.query_full, 0, tile.early,
             tile.head, tile.batch, Keep::BRIEFLY);
    load_box(shared_address(&shared.query[1]), maps.query, shared.query_full, 0, tile.late,
             tile.head, tile.batch, Keep::BRIEFLY);
    const auto load = [&](auto& tiles, Barrier(&full)[KEY_GROUPS], const TensorMap& map) {
#pragma unroll
        for (int group = 0; group < KEY_GROUPS; ++group) {
            if (group >= key_tiles) break;
            full[group].arrive_and_expect(sizeof(tiles[group]));
            load_box(shared_address(&tiles[group]), map, full[group], 0, group * TILE_KEYS, head_kv,
                     tile.batch, Keep::LONG);
        }
    };
    load(shared.key, shared.key_full, maps.key);
    load(shared.value, shared.value_full, maps.value);
}

// The groups' parts of this group's columns, added up in the same order everywhere and stored.
__device__ inline void add_up_parts(const SharedMemory& shared, const AttentionParams& params,
                                    const QueryTile& tile, int strip, int group, int lane) {
    RowStatistics total[LANE_ROWS];
    float factor[LANE_ROWS][KEY_GROUPS];
    float normalise[LANE_ROWS];
#pragma unroll
    for (int half = 0; half < LANE_ROWS; ++half) {
        total[half] = weigh_parts(
            [&](int from) { return shared.statistics[strip][from][8 * half + lane / 4]; },
            factor[half]);
        normalise[half] = normaliser(total[half].sum);
    }
    unsigned chunk[4];  // [column block][row]: what the four lanes that share the rows hold of each
#pragma unroll
    for (int block = 0; block < GROUP_BLOCKS; ++block) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int from = 0; from < KEY_GROUPS; ++from) {
            const float4 part = shared.part[strip][group][from][block][lane];
            sum.x = fmaf(part.x, factor[0][from], sum.x);
            sum.y = fmaf(part.y, factor[0][from], sum.y);
            sum.z = fmaf(part.z, factor[1][from], sum.z);
            sum.w = fmaf(part.w, factor[1][from], sum.w);
        }
        chunk[2 * block] = to_element_pair(sum.x * normalise[0], sum.y * normalise[0]);
        chunk[2 * block + 1] = to_element_pair(sum.z * normalise[1], sum.w * normalise[1]);
    }
    // Of the four lanes each gets one of the four chunks, whole.
    const int member = lane % 4;
    transpose_among_four(chunk, member);
    const int row = tile.first_row + 8 * (member % 2) + lane / 4;
    const int column = 8 * (group * GROUP_BLOCKS + member / 2);
    Element* const output = head_data(params.output, tile.batch, tile.head);
    if (row < params.len_q && column < params.head_dim) {
        *reinterpret_cast<uint4*>(output + row * params.output.row_stride + column) =
            make_uint4(chunk[0], chunk[1], chunk[2], chunk[3]);
    }
    if (group == 0 && member < LANE_ROWS && row < params.len_q) {
        store_lse(params, tile, row, row_lse(member == 0 ? total[0] : total[1]));
    }
    // Of large rows, too, each group stores its own columns.
    const float maxima[] = {total[0].maximum, total[1].maximum};
    attend_exactly_to_rows(
        params, tile, tile.first_row, maxima, group == 0,
        [&](int row, int column, const float (&columns)[4]) {
            if (column / 8 / GROUP_BLOCKS != group) return;
            store_from_float(output + (tile.first_row + row) * params.output.row_stride + column,
                             columns);
        });
}

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention(const __grid_constant__ AttentionParams params,
              const __grid_constant__ TensorMaps maps) {
    extern __shared__ __align__(1024) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const PairOfStrips block_rows(params);
    // The late strip's last row sees the most keys.
    const int last_row = min(block_rows.late + STRIP_ROWS, params.len_q) - 1;
    const int key_tiles = (visible_keys(params, last_row) + TILE_KEYS - 1) / TILE_KEYS;
    if (threadIdx.x == 0) start_copies(shared, params, maps, block_rows, key_tiles);
    __syncthreads();

    // A scheduler has every fourth warp: of the two, one gets early rows and one late ones.
    const int warp = __shfl_sync(ALL_LANES, threadIdx.x / WARP_SIZE, 0);
    const int lane = threadIdx.x % WARP_SIZE;
    const int group = warp / STRIPS;
    const int strip = (warp + group / 2) % STRIPS;
    const int first_row = strip == 0 ? block_rows.early : block_rows.late;
    const bool strip_is_used = strip == 0 || block_rows.late != block_rows.early;

    shared.query_full.wait(0);
    if (params.scale < 0.0f) {
        // Moves into Q, so that the softmax may count on the scale being positive.
        if (group == 0) shared.query[strip].template negate_own<WARP_SIZE>(lane);
        __syncthreads();
    }
    const LaneStart stage(shared.query[strip], 0, shared.key[group], shared.value[group]);
    WarpRows rows(params, stage.query);

    // Of the strip's rows the first sees the fewest keys and the last the most.
    const int first_key = group * TILE_KEYS;
    const int strip_last_row = min(first_row + STRIP_ROWS, params.len_q) - 1;
    if (strip_is_used && visible_keys(params, strip_last_row) > first_key) {
        WarpRows::Scores score = {};
        const bool masked = visible_keys(params, first_row) < first_key + TILE_KEYS;
        shared.key_full[group].wait(0);
        // One copy of the products serves tiles of both kinds.
        rows.multiply_keys(score, stage);
        if (masked) {
            rows.mask_scores(score, [&](int row) {
                const int query = first_row + row;
                return visible_keys(params, query) - first_key;
            });
        }
        rows.raise_maxima(score);
        shared.value_full[group].wait(0);
        rows.multiply_values(score, stage);
    }

    rows.hand_over(shared, strip, group);
    __syncthreads();
    if (!strip_is_used) return;
    const QueryTile tile = {block_rows.batch, block_rows.head, first_row};
    add_up_parts(shared, params, tile, strip, group, lane);
}
