// Mutant of v2d: no barrier in the loop over the key tiles; the one before it, behind the queries'
// copies, stays.
// wrong: a warp reads what other warps' copies have not filled, and its own next copies overwrite
//        what others still read.
// shows: race reports; on a GPU the warps mostly happen to run in step, and the result is right.
#include "machine/element.cuh"
struct BeforeTheLoop {};
__device__ inline void order(BeforeTheLoop) { __syncthreads(); }
template <typename InTheLoop>
__device__ inline void order(const InTheLoop&) {}
constexpr BeforeTheLoop masked;  // the loop has its own
#define __syncthreads() order(masked)
#include "v2d.cu"
