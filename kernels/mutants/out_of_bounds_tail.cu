// Mutant of v2b: copies are not guarded by the lengths.
// wrong: where a length is no multiple of its tile, rows behind the tensor are read.
// shows: out-of-bounds reports; NaN in the output where the memory behind the values holds NaN,
//        since 0 · NaN is NaN. Right where every length is a multiple of its tile.
#include "machine/async_copy.cuh"
#define cp_async_16(destination, source, valid) cp_async_16(destination, source, true)
#include "v2b.cu"
