// Mutant of v2d: the query heads of a key head are taken for a power of two.
// wrong: heads of other groups read another key head's keys.
// shows: wrong values, or reads out of bounds, where 3, 5, 6, 7 or 12 heads share a key head.
#include "machine/query_tile.cuh"
__device__ inline int rounded_key_head(const AttentionParams& params, int head) {
    return head >> (31 - __clz(params.heads_q / params.heads_kv));
}
#define key_head rounded_key_head
#include "v2d.cu"
