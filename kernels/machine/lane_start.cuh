// Where a lane starts reading the fragments of Q, K and V in shared memory.
#pragma once

#include "machine/swizzled_tile.cuh"
#include "machine/warp.cuh"

// The rest of a lane's way is a constant. ldmatrix takes the rows of one 8×8 matrix from each eight
// lanes. For Q the matrices are the quarters of a 16×16 block; for K two blocks of 8 keys, each with
// both halves of a depth step; for V two blocks of 8 keys, each with both halves of 16 columns.
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
