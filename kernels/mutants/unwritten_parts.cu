// Mutant of v2f: the second launch merges every part of a row, seen or not.
// wrong: blocks whose keys no row of their tile sees write nothing, and their parts are read.
// shows: reports of reads that nobody wrote, with a causal mask; on a GPU the workspace may happen to
//        hold an earlier run's numbers.
#ifdef MERGE
#include "machine/mask.cuh"
#define visible_keys(params, row) (params).len_kv
#endif
#include "v2f.cu"
