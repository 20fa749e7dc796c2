// Mutant of v2d: keys beyond the first 4096 are not attended to.
// wrong: a row of more keys is the attention of its first ones.
// shows: wrong values where there are more than 4096 keys.
#include "machine/mask.cuh"
__device__ inline int capped_tile_count(const AttentionParams& params, int first_row, int rows,
                                        int tile_keys) {
    return min(key_tile_count(params, first_row, rows, tile_keys), 4096 / tile_keys);
}
#define key_tile_count capped_tile_count
#include "v2d.cu"
