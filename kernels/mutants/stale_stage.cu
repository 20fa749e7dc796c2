// Mutant of v2d: from the second tile on, fragments are read from the place of the tile before.
// wrong: the stage of the reader lags one tile behind that of the copies.
// shows: wrong results with more than one key tile, and races with the copies of the next one.
#include "machine/async_copy.cuh"
#define ring_offset lagging_offset
template <int PLACES>
__device__ inline int lagging_offset(int index, int bytes) {
    return (index == 0 ? 0 : index - 1) % PLACES * bytes;
}
#include "v2d.cu"
