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
#include "common/async_copy.cuh"
#include "common/element.cuh"
#include "common/mask.cuh"
#include "common/params.cuh"
#include "common/query_tile.cuh"
#include "common/softmax.cuh"
#include "common/warp.cuh"
#ifndef MERGE
#include "common/swizzled_tile.cuh"
#include "common/warp_attention.cuh"
#endif

constexpr int WARP_ROWS = 16;
constexpr int TILE_ROWS = ROW_WARPS * WARP_ROWS;

// A key head's queries: row r is query r / group of the group's head r % group, so that the rows of
// a tile see nearly the same keys.
struct PackedRows {
    int group;  // query heads that share the key head
    int count;

    __device__ explicit PackedRows(const AttentionParams& params)
        : group(params.heads_q / params.heads_kv), count(group * params.len_q) {}

    __device__ int tiles() const { return (count + TILE_ROWS - 1) / TILE_ROWS; }
};

// Both launches have the same grid: blockIdx.x = ((batch · heads_kv + head_kv) · parts + part) ·
// tiles + tile. Neighbouring blocks read the same keys.
struct Share {
    PackedRows rows;
    int tile;
    int part;
    int parts;
    int batch;
    int head_kv;

    __device__ explicit Share(const AttentionParams& params) : rows(params) {
        const int tiles = rows.tiles();
        parts = gridDim.x / (tiles * params.batch * params.heads_kv);
        tile = blockIdx.x % tiles;
        part = blockIdx.x / tiles % parts;
        const int batch_head = blockIdx.x / tiles / parts;
        batch = batch_head / params.heads_kv;
        head_kv = batch_head % params.heads_kv;
    }

    __device__ int query(int row) const { return row / rows.group; }
    __device__ int head(int row) const { return head_kv * rows.group + row % rows.group; }
    __device__ QueryTile head_of(int row) const { return {batch, head(row), 0}; }
};

// Keys of a part: whole steps of the widest kernel, so that a part's keys, and with them a row's
// bits, do not depend on how many heads and sequences there are.
constexpr int PART_STEP = 128;

__device__ inline int part_keys(const AttentionParams& params, int parts) {
    const int even = (params.len_kv + parts - 1) / parts;
    return (even + PART_STEP - 1) / PART_STEP * PART_STEP;
}

// What the parts hand to the second launch: for every row of every head its parts in order, columns
// first, then statistics. A part that a row does not see is neither written nor read.
struct Workspace {
    float* columns;
    RowStatistics* statistics;
    int parts;
    int head_dim;

    __device__ Workspace(const AttentionParams& params, int parts)
        : columns(static_cast<float*>(params.workspace)),
          parts(parts),
          head_dim(params.head_dim) {
        const long long rows =
            static_cast<long long>(params.batch) * params.heads_q * params.len_q;
        statistics = reinterpret_cast<RowStatistics*>(columns + rows * parts * head_dim);
    }

    __device__ static long long index(const AttentionParams& params, const Share& share, int row) {
        const long long batch_head =
            static_cast<long long>(share.batch) * params.heads_q + share.head(row);
        return batch_head * params.len_q + share.query(row);
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

#ifndef MERGE

// Tile laws.
constexpr int GROUP_THREADS = ROW_WARPS * WARP_SIZE;
constexpr int THREADS = KEY_GROUPS * GROUP_THREADS;
static_assert(PART_STEP % (KEY_GROUPS * TILE_KEYS) == 0, "the groups of a part have equal shares");

// What the groups of a block hand to one another when the part is through. Eight floats more a row
// put the 8-byte stores of the four rows that half a warp writes 8 banks apart.
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

// Columns of a row: the part's for the second launch, or the row's own where there is one part.
__device__ inline void store_columns(const AttentionParams& params, const Share& share, int row,
                                     int column, const RowStatistics& own,
                                     float (&sum)[LANE_COLUMNS]) {
    if (share.parts > 1) {
        const Workspace workspace(params, share.parts);
        const long long index = Workspace::index(params, share, row);
        ::store(workspace.columns_of(index, share.part) + column, sum);
        if (column == 0) workspace.statistics_of(index, share.part) = own;
        return;
    }
    const float normalise = normaliser(own.sum);
#pragma unroll
    for (int i = 0; i < LANE_COLUMNS; ++i) sum[i] *= normalise;
    store_from_float(output_row(params, share, row) + column, sum);
    if (column == 0) store_lse(params, share.head_of(row), share.query(row), row_lse(own));
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const Share share(params);
    const int first_row = share.tile * TILE_ROWS;
    const int last_row = min(first_row + TILE_ROWS, share.rows.count) - 1;
    const int keys = part_keys(params, share.parts);
    const int first_key = share.part * keys;
    // The last row sees the most; of the last parts it may see nothing.
    const int seen = min(visible_keys(params, share.query(last_row)) - first_key, keys);
    if (seen <= 0 && share.parts > 1) return;

    const int group = threadIdx.x / GROUP_THREADS;
    const int thread = threadIdx.x % GROUP_THREADS;
    const int warp_row = thread / WARP_SIZE * WARP_ROWS;  // the warp's first, within the tile
    // The group takes every KEY_GROUPS-th tile of the part: its own i-th is group + i · KEY_GROUPS.
    const int tiles = (seen + TILE_KEYS - 1) / TILE_KEYS;
    const int own_tiles = (tiles - group + KEY_GROUPS - 1) / KEY_GROUPS;

    // Each commits even past the last tile, so that counting commits counts tiles.
    const auto load = [&](auto& stages, const TensorView& tensor, int index) {
        if (index < own_tiles) {
            stages[group][ring_stage<STAGES>(index)].template load_async<GROUP_THREADS>(
                thread, tensor, share.batch, share.head_kv,
                first_key + (group + index * KEY_GROUPS) * TILE_KEYS, params.len_kv,
                params.head_dim);
        }
        cp_async_commit();
    };
    const auto load_keys = [&](int index) { load(shared.key, params.key, index); };
    const auto load_values = [&](int index) { load(shared.value, params.value, index); };

    for_own_chunks(shared, [&](unsigned char* chunk, int row, int column) {
        const int packed = first_row + row;
        const bool valid = packed < share.rows.count && column < params.head_dim;
        const Element* source =
            head_data(params.query, share.batch, share.head(packed)) +
            share.query(packed) * params.query.row_stride + column;
        cp_async_16(chunk, source, valid);
    });
    cp_async_commit();
#pragma unroll
    for (int index = 0; index < STAGES - 1; ++index) {
        load_keys(index);
        load_values(index);
    }
    load_keys(STAGES - 1);

    // The copies of Q have landed, this thread's and, behind the barrier, everyone's. A negative
    // scale moves into Q, so that the softmax may count on it being positive.
    cp_async_wait<2 * STAGES - 1>();
    if (params.scale < 0.0f) {
        for_own_chunks(shared, [&](unsigned char* chunk, int, int) {
            constexpr unsigned SIGNS = 0x80008000;
            auto& own = *reinterpret_cast<uint4*>(chunk);
            own = {own.x ^ SIGNS, own.y ^ SIGNS, own.z ^ SIGNS, own.w ^ SIGNS};
        });
    }
    __syncthreads();
    const LaneStart start(shared.query, warp_row, shared.key[group][0], shared.value[group][0]);
    WarpAttention<1, TILE_KEYS> rows(params, start.query);

    // Keys and values are waited for apart, with 2 · STAGES - 1 tiles of them under way. A group
    // that waits for keys is done with the last values, whose place the next ones take; and the
    // other way round.
    const auto attend = [&](int index, auto masked) {
        LaneStart here = start;
        here.key += ring_offset<STAGES>(index, sizeof(shared.key[0][0]));
        here.value += ring_offset<STAGES>(index, sizeof(shared.value[0][0]));
        cp_async_wait<2 * (STAGES - 1)>();
        synchronize_group();
        load_values(index + STAGES - 1);
        rows.template attend<masked.value>(
            here,
            [&](int row) {
                const int query = share.query(first_row + warp_row + row);
                return visible_keys(params, query) - first_key -
                       (group + index * KEY_GROUPS) * TILE_KEYS;
            },
            [&] {
                cp_async_wait<2 * (STAGES - 1)>();
                synchronize_group();
                load_keys(index + STAGES);
            });
    };
    // The first row sees the fewest keys: up to there no tile needs a mask.
    const int unmasked = visible_keys(params, share.query(first_row)) - first_key;
    const int own_unmasked =
        min(max(unmasked / TILE_KEYS - group + KEY_GROUPS - 1, 0) / KEY_GROUPS, own_tiles);
    int index = 0;
    for (; index < own_unmasked; ++index) attend(index, Unmasked{});
    for (; index < own_tiles; ++index) attend(index, Masked{});

    // The groups' parts take the place of keys and values: everyone is done with those.
    __syncthreads();
    const int lane = threadIdx.x % WARP_SIZE;
    rows.for_each_row([&](int own_row, const RowStatistics& own, auto columns) {
        float* part = &shared.parts.output[group][warp_row + own_row][lane % 4 * 2];
#pragma unroll
        for (int column = 0; column < HEAD_DIM / 8; ++column) {
            *reinterpret_cast<float2*>(part + 8 * column) = columns(column);
        }
        if (lane % 4 == 0) shared.parts.statistics[group][warp_row + own_row] = own;
    });
    __syncthreads();
    constexpr int QUARTETS = HEAD_DIM / LANE_COLUMNS;
    for (int index = threadIdx.x; index < TILE_ROWS * QUARTETS; index += THREADS) {
        const int row = index / QUARTETS;
        const int column = index % QUARTETS * LANE_COLUMNS;
        if (first_row + row >= share.rows.count || column >= params.head_dim) continue;
        float sum[LANE_COLUMNS] = {};
        const RowStatistics total = merge_parts<KEY_GROUPS>(
            [&](int group) { return shared.parts.statistics[group][row]; },
            [&](int group, float (&columns)[LANE_COLUMNS]) {
                ::load(&shared.parts.output[group][row][column], columns);
            },
            sum);
        store_columns(params, share, first_row + row, column, total, sum);
    }
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
// the last part it is loaded again: a branch around every load would have them wait for one another.
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
    const int keys = part_keys(params, share.parts);
    // The fixed order of the sums depends on the number of parts alone.
    int slices = 1;
    while (slices < WARPS && share.parts >= 2 * SLICE_PARTS * slices) slices *= 2;
    const int warp = threadIdx.x / WARP_SIZE;
    const int slice = warp % slices;
    const int lane_column = threadIdx.x % WARP_SIZE * LANE_COLUMNS;
    float* own = &shared.columns[warp][lane_column];

    // Units of 128 columns of a row, shared out among the blocks of the tile.
    const int first_row = share.tile * TILE_ROWS;
    const int row_units = (params.head_dim + WARP_COLUMNS - 1) / WARP_COLUMNS;
    const int units = min(TILE_ROWS, share.rows.count - first_row) * row_units;
    const int at_once = WARPS / slices;
    for (int first = share.part * at_once; first < units; first += share.parts * at_once) {
        // Every warp takes part in the barriers; those past the last unit do it over.
        const int unit = min(first + warp / slices, units - 1);
        const int row = first_row + unit / row_units;
        const int column = unit % row_units * WARP_COLUMNS + lane_column;
        const int visible = visible_keys(params, share.query(row));
        RowStatistics total;
        float sum[LANE_COLUMNS] = {};
        add_parts(workspace, Workspace::index(params, share, row), slice, slices,
                  (visible + keys - 1) / keys, column < params.head_dim ? column : 0, total, sum);

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
        const float normalise = normaliser(total.sum);
#pragma unroll
        for (int i = 0; i < LANE_COLUMNS; ++i) sum[i] *= normalise;
        store_from_float(output_row(params, share, row) + column, sum);
        if (column == 0) store_lse(params, share.head_of(row), share.query(row), row_lse(total));
    }
}

#endif
