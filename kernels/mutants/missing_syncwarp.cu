// Mutant of v2b: no __syncwarp between the lanes that share a row.
// wrong: a lane may read weights and statistics before its neighbour has written them.
// shows: race reports; on a GPU the lanes mostly happen to run in step, and the result is right.
#include "machine/element.cuh"
#define __syncwarp() ((void)0)
#include "v2b.cu"
