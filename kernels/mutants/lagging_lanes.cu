// Mutant of v3f: a warp does not meet between its wait for a tile and the arrival that gives the tile's
// stage back; its other meetings stay.
// wrong: a lane that lags behind its warp's first one finds that the next phase is complete, too, and
//        waits for the one before for ever.
// shows: a phase that may be missed; a hang on a GPU, with some kernels and many keys.
#include "machine/boxed_tile.cuh"
#include "machine/exact_rows.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/mask.cuh"
#include "machine/packed_sequences.cuh"
#include "machine/query_tile.cuh"
#include "machine/score_shape.cuh"
#include "machine/softmax.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/tile_ring.cuh"
#include "machine/warp.cuh"
#include "machine/warpgroup.cuh"
#include "machine/wgmma.cuh"
// What has a place in a ring of works, or a tile that is known to be mixed, meets as it did.
struct Nowhere {};
constexpr Nowhere position, is_mixed;
__device__ inline void meet(Nowhere, Nowhere) {}
template <typename Position, typename IsMixed>
__device__ inline void meet(const Position&, const IsMixed&) {
    __syncwarp();
}
#define __syncwarp() meet(position, is_mixed)
#include "v3f.cu"
