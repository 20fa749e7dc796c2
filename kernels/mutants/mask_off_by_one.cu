// Mutant of v2b: under a causal mask each row sees one key too many.
// wrong: j <= i + diagonal + 1.
// shows: wrong results with any causal mask; right without.
#include "machine/mask.cuh"
#define visible_keys(params, row) min(visible_keys(params, row) + 1, (params).len_kv)
#include "v2b.cu"
