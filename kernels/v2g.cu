// V2g: one launch for decoding: the last block to finish merges the parts.
//
// parent: v2f
// idea:   where a few queries ask some thousand keys, the second launch, which merges the parts,
//         takes a third of the time. Here the blocks of a tile count their arrivals, and the last
//         one merges what all of them wrote, in the order of the parts, whoever it is.
// needs:  16-byte aligned tensors, strides in multiples of 8 elements, a counter of 0 for each tile
// build:  -DHEAD_DIM=64|96|128|256 -DROW_WARPS=1 -DKEY_GROUPS=8|4 -DPASSES=1|2 -DTILE_KEYS=16
//         -DSTAGES=1|2|3|4 -DBLOCKS_PER_SM=1|2|3; f16 or -DDTYPE_BF16
#include "common/arrivals.cuh"
#include "common/part_attention.cuh"

// A warp merges 128 columns of a row, so many parts at once.
constexpr int WARP_COLUMNS = WARP_SIZE * LANE_COLUMNS;
constexpr int BATCH_PARTS = 16;

// The lane's columns of a row, merged from the tile's parts; to the output.
__device__ inline void merge_row(const AttentionParams& params, const Share& share, int parts,
                                 int row, int column) {
    const Workspace workspace(params, share.parts);
    const long long index = Workspace::index(share, row);
    const int lane = threadIdx.x % WARP_SIZE;
    const bool valid = column < params.head_dim;
    const float* next = workspace.columns_of(index, 0) + (valid ? column : 0);

    RowStatistics total;
    float sum[LANE_COLUMNS] = {};
    for (int first = 0; first < parts; first += BATCH_PARTS) {
        // INSIGHT: all the loads are under way before anything is done with one of them: by now
        // the block is alone, and nothing else hides a round trip.
        float columns[BATCH_PARTS][LANE_COLUMNS] = {};
#pragma unroll
        for (int i = 0; i < BATCH_PARTS; ++i) {
            if (first + i < parts) load(next, columns[i]);
            next += params.head_dim;
        }
        RowStatistics own;  // of the lane's part
        if (lane < BATCH_PARTS && first + lane < parts) {
            own = workspace.statistics_of(index, first + lane);
        }
        const float shrink = raise_maximum(total, group_max<WARP_SIZE>(own.maximum));
        const float weight = exp2_approx(own.maximum - safe_maximum(total.maximum));
        total.sum += group_sum<WARP_SIZE>(own.sum * weight);
#pragma unroll
        for (int c = 0; c < LANE_COLUMNS; ++c) sum[c] *= shrink;
#pragma unroll
        for (int i = 0; i < BATCH_PARTS; ++i) {
            const float factor = __shfl_sync(ALL_LANES, weight, i);
#pragma unroll
            for (int c = 0; c < LANE_COLUMNS; ++c) sum[c] = fmaf(columns[i][c], factor, sum[c]);
        }
    }
    if (valid) store_output(params, share, row, column, total, sum);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS_PER_SM)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(128) unsigned char shared_memory[];
    const Share share(params);
    // No part is empty, but a mask may leave the tile fewer; rows that see no key at all are the
    // first part's.
    const int parts =
        params.causal ? max(share.visible_parts(params, share.last_row), 1) : share.parts;
    if (share.part >= parts) return;
    attend_to_part(*reinterpret_cast<SharedMemory*>(shared_memory), params, share);

    if (share.parts == 1) return;
    if (!block_arrives_last(params.tickets + share.head_tile(), parts)) return;
    constexpr int ROW_UNITS = (HEAD_DIM + WARP_COLUMNS - 1) / WARP_COLUMNS;
    const int units = (share.last_row - share.first_row + 1) * ROW_UNITS;
    for (int unit = threadIdx.x / WARP_SIZE; unit < units; unit += THREADS / WARP_SIZE) {
        merge_row(params, share, parts, share.first_row + unit / ROW_UNITS,
                  unit % ROW_UNITS * WARP_COLUMNS + threadIdx.x % WARP_SIZE * LANE_COLUMNS);
    }
}
