// Mutant of v2d: sequences from the fifth on are taken for the fourth.
// wrong: a batch of more than four reads and writes the wrong rows.
// shows: rows that nobody writes, in batches of more than four.
#include "machine/query_tile.cuh"
template <int ROWS>
__device__ inline QueryTile locate_capped(const AttentionParams& params) {
    QueryTile tile = locate_query_tile<ROWS>(params);
    tile.batch = min(tile.batch, 3);
    return tile;
}
#define locate_query_tile locate_capped
#include "v2d.cu"
