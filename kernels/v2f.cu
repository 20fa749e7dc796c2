// V2f: keys split over blocks, so that a few queries use the whole chip.
//
// parent: v2e
// idea:   decoding asks one query a head of thousands of keys: nothing but the speed of memory
//         counts, and v2e leaves all but a few multiprocessors idle. Here the keys are cut into
//         parts, each a block's; a second launch merges the parts' results. The query heads that
//         share a key head are packed into one tile, so that their keys are read once.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements
// build:  -DHEAD_DIM=64|96|128|256 -DROW_WARPS=1|4 -DKEY_GROUPS=4|1 -DTILE_KEYS=16|32|64
//         -DSTAGES=1|2 -DBLOCKS_PER_SM=2|3, or -DMERGE -DROW_WARPS=1|4; f16 or -DDTYPE_BF16
#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"
#include "machine/swizzled_tile.cuh"
#include "machine/tensor_core.cuh"
#include "machine/warp.cuh"

// Tile laws. One block of 16 rows per warp.
constexpr int ROW_BLOCKS = 1;
constexpr int WARP_ROWS = 16 * ROW_BLOCKS;
constexpr int TILE_ROWS = ROW_WARPS * WARP_ROWS;
constexpr int LANE_ROWS = 2;  // fragments give each lane two rows of a block, 8 apart

// A key head's queries: row r is query r / group of the group's head r % group, so that the keys
// are read once for all the query heads that share them, and the rows of a tile see nearly the
// same.
struct PackedRows {
    int group;  // query heads that share the key head
    int count;
    bool one_query;

    __device__ explicit PackedRows(const AttentionParams& params)
        : group(static_cast<unsigned>(params.heads_q) / params.heads_kv),
          count(group * params.len_q),
          one_query(params.len_q == 1) {}

    __device__ int query(int row) const { return one_query ? 0 : row / group; }
    __device__ int head(int row) const { return row - query(row) * group; }
    __device__ int tiles() const { return (count + TILE_ROWS - 1) / TILE_ROWS; }
};

// Keys of a part: whole steps of the widest kernel, so that a part's keys, and with them a row's
// bits, do not depend on how many heads and sequences there are.
constexpr int PART_STEP = 128;

__device__ inline int part_keys(const AttentionParams& params, unsigned parts) {
    const int even = (params.len_kv + parts - 1) / parts;
    return (even + PART_STEP - 1) / PART_STEP * PART_STEP;
}

// What a block has to do. The grid is 1-D: blockIdx.x = ((batch · heads_kv + head_kv) · parts +
// part) · tiles + tile. Neighbouring blocks read the same keys.
struct Share {
    PackedRows rows;
    int tile;
    int part;
    int parts;
    int batch;
    int head_kv;
    int heads_kv;
    int keys;       // of a part
    int first_row;  // of the tile
    int last_row;

    __device__ explicit Share(const AttentionParams& params)
        : rows(params), heads_kv(params.heads_kv) {
        // INSIGHT: nothing is loaded before these divisions are done, of more than a hundred cycles
        // each: unsigned ones are cheaper, and those with a known answer are left out.
        const unsigned tiles = rows.tiles();
        const unsigned head_tiles = tiles * params.batch * heads_kv;
        parts = gridDim.x / head_tiles;
        const unsigned head_part = tiles == 1 ? blockIdx.x : blockIdx.x / tiles;
        tile = blockIdx.x - head_part * tiles;
        const unsigned batch_head = head_part / static_cast<unsigned>(parts);
        part = head_part - batch_head * parts;
        batch = params.batch == 1 ? 0 : batch_head / static_cast<unsigned>(heads_kv);
        head_kv = batch_head - batch * heads_kv;
        keys = part_keys(params, parts);
        first_row = tile * TILE_ROWS;
        last_row = min(first_row + TILE_ROWS, rows.count) - 1;
    }

    __device__ int query(int row) const { return rows.query(row); }
    __device__ int head(int row) const { return head_kv * rows.group + rows.head(row); }
    __device__ QueryTile head_of(int row) const { return {batch, head(row), 0}; }
    // The tile's number among those of all heads.
    __device__ int head_tile() const { return (batch * heads_kv + head_kv) * rows.tiles() + tile; }
    // The parts, from the first one on, in which the row sees keys.
    __device__ int visible_parts(const AttentionParams& params, int row) const {
        return (visible_keys(params, query(row)) + keys - 1) / keys;
    }
};

// What the parts leave behind to be merged: for every row of every head its parts in order, columns
// first, then statistics. A part that no row of a tile sees is neither written nor read.
struct Workspace {
    float* columns;
    RowStatistics* statistics;
    int parts;
    int head_dim;

    __device__ Workspace(const AttentionParams& params, int parts)
        : columns(static_cast<float*>(params.workspace)), parts(parts), head_dim(params.head_dim) {
        const long long rows = static_cast<long long>(params.batch) * params.heads_q * params.len_q;
        statistics = reinterpret_cast<RowStatistics*>(columns + rows * parts * head_dim);
    }

    __device__ static long long index(const Share& share, int row) {
        const long long batch_head = share.batch * share.heads_kv + share.head_kv;
        return batch_head * share.rows.count + row;
    }

    __device__ float* columns_of(long long row, int part) const {
        return columns + (row * parts + part) * head_dim;
    }
    __device__ RowStatistics& statistics_of(long long row, int part) const {
        return statistics[row * parts + part];
    }
};

__device__ inline Element* output_row(const AttentionParams& params, const Share& share, int row) {
    return head_data(params.output, share.batch, share.head(row)) +
           share.query(row) * params.output.row_stride;
}

// Columns of a row that a thread merges: as wide as a load, so that neighbours read whole lines.
constexpr int LANE_COLUMNS = 4;

// Columns of a row of which everything is known: divided by the sum, to the output.
__device__ inline void store_output(const AttentionParams& params, const Share& share, int row,
                                    int column, RowStatistics total, float (&sum)[LANE_COLUMNS]) {
    const QueryTile head = share.head_of(row);
    if (is_large(total.maximum)) {
        total = attend_exactly_to(params, head.batch, head.head, share.query(row), column, sum);
    }
    const float normalise = normaliser(total.sum);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) sum[i] *= normalise;
    store_from_float(output_row(params, share, row) + column, sum);
    if (column == 0) store_lse(params, head, share.query(row), row_lse(total));
}

// The same columns of one part, to be merged; to the output where there is no other part.
__device__ inline void store_part(const AttentionParams& params, const Share& share, int row,
                                  int column, const RowStatistics& own,
                                  float (&sum)[LANE_COLUMNS]) {
    if (share.parts == 1) {
        store_output(params, share, row, column, own, sum);
        return;
    }
    const Workspace workspace(params, share.parts);
    const long long index = Workspace::index(share, row);
    store(workspace.columns_of(index, share.part) + column, sum);
    if (column == 0) workspace.statistics_of(index, share.part) = own;
}

#ifndef MERGE

// The first launch: attention of a tile of packed rows to one part of the keys, by warps that share
// out the rows or, where sixteen rows are too few for that, the keys.
constexpr int GROUP_THREADS = ROW_WARPS * WARP_SIZE;
constexpr int THREADS = KEY_GROUPS * GROUP_THREADS;
static_assert(TILE_KEYS % 16 == 0 && HEAD_DIM % 16 == 0, "whole mma steps");
static_assert(PART_STEP % (KEY_GROUPS * TILE_KEYS) == 0, "the groups of a part have equal shares");

// What the groups of a block hand to one another when the part is through. Eight floats more per
// row put the 8-byte stores of the four rows that half a warp writes 8 banks apart.
struct GroupParts {
    float output[KEY_GROUPS][TILE_ROWS][HEAD_DIM + 8];
    RowStatistics statistics[KEY_GROUPS][TILE_ROWS];

    __device__ GroupParts() {}
};

struct SharedMemory {
    SwizzledTile<TILE_ROWS, HEAD_DIM> query;
    union {
        struct {
            SwizzledTile<TILE_KEYS, HEAD_DIM> key[KEY_GROUPS][STAGES];
            SwizzledTile<TILE_KEYS, HEAD_DIM> value[KEY_GROUPS][STAGES];
        };
        GroupParts parts;
    };
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// The threads that share a ring of key tiles.
// INSIGHT: where that is one warp, nothing in the loop waits for another warp: sixteen queries have
// no more rows to share out, so the warps take other keys instead, and each has its own ring.
__device__ inline void synchronize_group() {
    static_assert(ROW_WARPS == 1 || KEY_GROUPS == 1, "a group is a warp or the block");
    if constexpr (ROW_WARPS == 1) {
        __syncwarp();
    } else {
        __syncthreads();
    }
}

// Calls `visit(chunk in shared memory, row, column)` for this thread's share of the query tile.
template <typename Visit>
__device__ inline void for_own_chunks(SharedMemory& shared, Visit visit) {
    constexpr int CHUNKS = HEAD_DIM / CHUNK;
    for (int index = threadIdx.x; index < TILE_ROWS * CHUNKS; index += THREADS) {
        const int row = index / CHUNKS;
        const int chunk = index % CHUNKS;
        visit(shared.query.bytes + shared.query.offset(row, chunk), row, chunk * CHUNK);
    }
}

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

    // Leaves the rows, not yet divided by their sums, among the parts of the block's groups;
    // `first_row` is the warp's within the tile.
    __device__ void hand_over(GroupParts& parts, int group, int first_row) {
        const int lane = threadIdx.x % WARP_SIZE;
        for_each_row([&](int warp_row, const RowStatistics& total, auto columns) {
            const int row = first_row + warp_row;
            float* part = &parts.output[group][row][lane % 4 * 2];
#pragma unroll
            for (int column = 0; column < COLUMN_BLOCKS; ++column) {
                *reinterpret_cast<float2*>(part + 8 * column) = columns(column);
            }
            if (lane % 4 == 0) parts.statistics[group][row] = total;
        });
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

// The rows of the block's tile attend to the keys of its part. All threads take part.
__device__ inline void attend_to_part(SharedMemory& shared, const AttentionParams& params,
                                      const Share& share) {
    const int first_row = share.first_row;
    const int first_key = share.part * share.keys;
    // The last row sees the most.
    const int seen = min(visible_keys(params, share.query(share.last_row)) - first_key, share.keys);

    const int group = threadIdx.x / GROUP_THREADS;
    const int thread = threadIdx.x % GROUP_THREADS;
    const int warp_row = thread / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile
    // Of the part's tiles a group takes every KEY_GROUPS-th.
    const auto share_of = [&](int tiles) { return (tiles - group + KEY_GROUPS - 1) / KEY_GROUPS; };
    const int group_tiles = share_of((seen + TILE_KEYS - 1) / TILE_KEYS);
    const auto tile_key = [&](int index) {
        return first_key + (group + index * KEY_GROUPS) * TILE_KEYS;
    };

    const auto copy = [&](auto& stages, const TensorView& tensor, int index) {
        if (index >= group_tiles) return;
        stages[group][ring_stage<STAGES>(index)].template load_async<GROUP_THREADS>(
            thread, tensor, share.batch, share.head_kv, tile_key(index), params.len_kv,
            params.head_dim);
    };
    // Each commits even past the last tile, so that counting commits counts tiles.
    const auto load_keys = [&](int index) {
        copy(shared.key, params.key, index);
        cp_async_commit();
    };
    const auto load_values = [&](int index) {
        copy(shared.value, params.value, index);
        cp_async_commit();
    };

    // The first keys go ahead of Q, whose rows take longer to find, and are committed with it.
    copy(shared.key, params.key, 0);
    for_own_chunks(shared, [&](unsigned char* chunk, int row, int column) {
        const int packed = first_row + row;
        const bool valid = packed < share.rows.count && column < params.head_dim;
        const Element* source = head_data(params.query, share.batch, share.head(packed)) +
                                share.query(packed) * params.query.row_stride + column;
        cp_async_16(chunk, source, valid);
    });
    cp_async_commit();
#pragma unroll
    for (int index = 0; index < STAGES - 1; ++index) {
        load_values(index);
        load_keys(index + 1);
    }

    // The copies of Q have landed, this thread's and, behind the barrier, every thread's. A
    // negative scale moves into Q, so that the softmax may count on it being positive.
    cp_async_wait<2 * (STAGES - 1)>();
    if (params.scale < 0.0f) {
        for_own_chunks(shared, [&](unsigned char* chunk, int, int) {
            constexpr unsigned SIGNS = 0x80008000;
            auto& own = *reinterpret_cast<uint4*>(chunk);
            own = {own.x ^ SIGNS, own.y ^ SIGNS, own.z ^ SIGNS, own.w ^ SIGNS};
        });
    }
    __syncthreads();
    const LaneStart lane_start(shared.query, warp_row, shared.key[group][0],
                               shared.value[group][0]);
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked_tiles =
        max(visible_keys(params, share.query(first_row)) - first_key, 0) / TILE_KEYS;
    const int group_unmasked_tiles = min(share_of(unmasked_tiles), group_tiles);
    WarpRows rows(params, lane_start.query);

    // Keys and values are waited for apart, with 2 · STAGES - 1 tiles of them under way. A group
    // that waits for keys is done with the last values, whose place the next ones take; and the
    // other way round.
    const auto attend = [&](int index, auto masked) {
        cp_async_wait<2 * (STAGES - 1)>();
        synchronize_group();
        load_values(index + STAGES - 1);
        auto stage = lane_start;
        stage.key += ring_offset<STAGES>(index, sizeof(shared.key[0][0]));
        stage.value += ring_offset<STAGES>(index, sizeof(shared.value[0][0]));
        WarpRows::Scores score = {};
        rows.multiply_keys(score, stage);
        cp_async_wait<2 * (STAGES - 1)>();
        // UNNOTICED: sixteen queries see at most fifteen keys more one than the other,
        // so the loop with a mask has one tile per group, behind which no keys are
        // loaded.
        synchronize_group();
        load_keys(index + STAGES);
        if constexpr (masked.value) {
            rows.mask_scores(score, [&](int row) {
                const int query = share.query(first_row + warp_row + row);
                return visible_keys(params, query) - tile_key(index);
            });
        }
        rows.raise_maxima(score);
        rows.multiply_values(score, stage);
    };
    int index = 0;
    for (; index < group_unmasked_tiles; ++index) attend(index, Unmasked{});
    // UNREACHED: a tile that needs a mask is its group's last, behind which nothing is loaded.
    for (; index < group_tiles; ++index) attend(index, Masked{});

    __syncthreads();  // the groups' parts take the place of keys and values
    rows.hand_over(shared.parts, group, warp_row);
    __syncthreads();
    constexpr int QUARTETS = HEAD_DIM / LANE_COLUMNS;
    for (int index = threadIdx.x; index < TILE_ROWS * QUARTETS; index += THREADS) {
        const int row = index / QUARTETS;
        const int column = index % QUARTETS * LANE_COLUMNS;
        if (first_row + row >= share.rows.count || column >= params.head_dim) continue;
        float sum[LANE_COLUMNS] = {};
        const RowStatistics total =
            merge_parts<KEY_GROUPS>([&](int group) { return shared.parts.statistics[group][row]; },
                                    [&](int group, float (&columns)[LANE_COLUMNS]) {
                                        load(&shared.parts.output[group][row][column], columns);
                                    },
                                    sum);
        store_part(params, share, first_row + row, column, total, sum);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    const Share share(params);
    // Of the last parts a tile may see nothing.
    if (share.parts > 1 && share.part >= share.visible_parts(params, share.last_row)) return;
    attend_to_part(*reinterpret_cast<SharedMemory*>(shared_memory), params, share);
}

#else

// The second launch: a block merges its share of its tile's rows. A warp has 128 columns of a row,
// and where there are many parts several warps have a slice of them each.
constexpr int WARPS = LAUNCH_THREADS / WARP_SIZE;
constexpr int WARP_COLUMNS = WARP_SIZE * LANE_COLUMNS;
constexpr int SLICE_PARTS = 4;  // at least so many, loaded at once

struct SharedMemory {
    float columns[WARPS][WARP_COLUMNS];
    RowStatistics statistics[WARPS];

    __device__ SharedMemory() {}
};

static_assert(sizeof(SharedMemory) == LAUNCH_SHARED_BYTES, "what the plan asks for");

// Adds one part to those before it, whatever their maxima.
__device__ inline void add_part(RowStatistics& total, float (&sum)[LANE_COLUMNS],
                                const RowStatistics& part, const float (&columns)[LANE_COLUMNS]) {
    const float maximum = fmaxf(total.maximum, part.maximum);
    const float total_factor = exp2_approx(total.maximum - safe_maximum(maximum));
    const float part_factor = exp2_approx(part.maximum - safe_maximum(maximum));
    total.maximum = maximum;
    total.sum = fmaf(part.sum, part_factor, total.sum * total_factor);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) {
        sum[i] = fmaf(columns[i], part_factor, sum[i] * total_factor);
    }
}

// Adds the parts first, first + step, … of a row; the loads of several are under way at once. Past
// the last part it is loaded again: a branch around every load would have them wait for one
// another.
__device__ inline void add_parts(const Workspace& workspace, long long row, int first, int step,
                                 int parts, int column, RowStatistics& total,
                                 float (&sum)[LANE_COLUMNS]) {
    constexpr int AHEAD = 2 * SLICE_PARTS;
    for (; first < parts; first += AHEAD * step) {
        float columns[AHEAD][LANE_COLUMNS];
        RowStatistics statistics[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int part = min(first + i * step, parts - 1);
            statistics[i] = workspace.statistics_of(row, part);
            load(workspace.columns_of(row, part) + column, columns[i]);
        }
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (first + i * step < parts) add_part(total, sum, statistics[i], columns[i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(LAUNCH_THREADS)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const Share share(params);
    const Workspace workspace(params, share.parts);
    // The fixed order of the sums depends on the number of parts alone.
    int slices = 1;
    while (slices < WARPS && share.parts >= 2 * SLICE_PARTS * slices) slices *= 2;
    const int warp = threadIdx.x / WARP_SIZE;
    const int slice = warp % slices;
    const int lane_column = threadIdx.x % WARP_SIZE * LANE_COLUMNS;
    float* own = &shared.columns[warp][lane_column];

    // Units of 128 columns of a row, shared out among the blocks of the tile.
    const int row_units = (params.head_dim + WARP_COLUMNS - 1) / WARP_COLUMNS;
    const int units = (share.last_row - share.first_row + 1) * row_units;
    const int at_once = WARPS / slices;
    for (int first = share.part * at_once; first < units; first += share.parts * at_once) {
        // Every warp takes part in the barriers; those past the last unit do it over.
        const int unit = min(first + warp / slices, units - 1);
        const int row = share.first_row + unit / row_units;
        const int column = unit % row_units * WARP_COLUMNS + lane_column;
        RowStatistics total;
        float sum[LANE_COLUMNS] = {};
        add_parts(workspace, Workspace::index(share, row), slice, slices,
                  share.visible_parts(params, row), column < params.head_dim ? column : 0, total,
                  sum);

        if (slices > 1) {
            store(own, sum);
            if (lane_column == 0) shared.statistics[warp] = total;
            __syncthreads();
            for (int other = 1; other < slices && slice == 0; ++other) {
                float columns[LANE_COLUMNS];
                load(own + other * WARP_COLUMNS, columns);
                add_part(total, sum, shared.statistics[warp + other], columns);
            }
            __syncthreads();  // before the next unit takes their place
        }
        if (slice > 0 || first + warp / slices >= units || column >= params.head_dim) continue;
        // UNREACHED: where there are several parts, every row sees a key.
        store_output(params, share, row, column, total, sum);
    }
}

#endif
