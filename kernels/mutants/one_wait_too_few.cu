// Mutant of v2d: every wait leaves one copy more under way than it should.
// wrong: cp.async.wait_group counts the groups that may still be under way, and it is one too many.
// shows: reports of reads of data in flight; on a GPU wrong results, NaN where memory held NaN.
#include "machine/async_copy.cuh"
template <int PENDING>
__device__ inline void impatient_wait() {
    cp_async_wait<PENDING + 1>();
}
#define cp_async_wait impatient_wait
#include "v2d.cu"
