// Mutant of v2b: nobody waits for cp.async.
// wrong: tiles are read while their copies are under way.
// shows: reports of reads of data in flight; on a GPU wrong results, NaN where memory held NaN.
#include "machine/async_copy.cuh"
template <int PENDING>
__device__ inline void do_not_wait() {}
#define cp_async_wait do_not_wait
#include "v2b.cu"
