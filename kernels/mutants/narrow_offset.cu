// Mutant of v2d: a head's offset is computed in 32 bits.
// wrong: heads more than 2^31 elements behind the first are read elsewhere.
// shows: accesses out of bounds where tensors are that large.
#include "machine/query_tile.cuh"
__device__ inline Element* narrow_head_data(const TensorView& tensor, int batch, int head) {
    return static_cast<Element*>(tensor.data) + batch * tensor.batch_stride +
           static_cast<int>(head * tensor.head_stride);
}
#define head_data narrow_head_data
#include "v2d.cu"
