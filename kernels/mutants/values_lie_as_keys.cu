// Mutant of v2k: values are taken to lie as far apart as keys.
// wrong: the strides of the key's tensor lead from one value to the next.
// shows: other rows' values, or memory behind the tensor, where values have another width than keys.
#include "machine/exact_value_rows.cuh"
__device__ inline TensorView lying_as(TensorView tensor, const TensorView& other) {
    return {tensor.data, other.batch_stride, other.head_stride, other.row_stride};
}
// Behind the kernel's own name for what starts copying a tile.
#define load(stages, tensor, key_tile, columns) \
    load(stages, lying_as(tensor, params.key), key_tile, columns)
#include "v2k.cu"
