// Mutant of v2b: the causal mask is always aligned top-left.
// wrong: j <= i instead of j <= i + diagonal.
// shows: wrong results with a bottom-right mask where len_q and len_kv differ; right elsewhere.
#include "machine/mask.cuh"
#define visible_keys(params, row) visible_keys(params, (row) - (params).diagonal)
#include "v2b.cu"
