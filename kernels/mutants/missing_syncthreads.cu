// Mutant of v2b: no barrier between the warps.
// wrong: a warp reads tiles that other warps' copies have not filled, and overwrites tiles that
//        others still read.
// shows: race reports; on a GPU now and then a wrong result, most often at many key tiles.
#include "machine/element.cuh"
#define __syncthreads() ((void)0)
#include "v2b.cu"
