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
#include "common/split_keys.cuh"
#include "common/warp.cuh"
#ifndef MERGE
#include "common/part_attention.cuh"

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
        store_output(params, share, row, column, total, sum);
    }
}

#endif
