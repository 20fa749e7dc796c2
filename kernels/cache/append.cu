// Appends to a cache: copies the keys and values of new tokens to the slots that a list names.
//
// idea:   a thread moves one vector of one token's row. The threads of a block lie behind one
//         another in a token's heads, each head's key followed by its value, so that a warp reads
//         and writes whole rows; of a token with few vectors a block takes several.
// needs:  slots that differ from one another; two tokens with one slot would race for it
// build:  -DVECTOR_BYTES=16 where every row begins at a multiple of 16 bytes and is one long, else 2
//
// The parameter block means here:
//   query        the new keys, [tokens, heads_kv, head_dim]; row_stride leads to the next token
//   output       the new values, [tokens, heads_kv, value_dim], likewise
//   key          the cache of keys, [pages, heads_kv, page, head_dim]
//   value        the cache of values, [pages, heads_kv, page, value_dim]
//   workspace    the slots, i64 [tokens]: page · keys of a page + place; others are skipped
//   batch        pages
//   len_kv       keys of a page
//   len_q        tokens
// All elements have two bytes, and nothing asks what they mean.
#include "machine/value_params.cuh"

#if VECTOR_BYTES == 16
using Vector = uint4;
#else
using Vector = unsigned short;
#endif

constexpr int THREADS = LAUNCH_THREADS;
constexpr int COUNT = VECTOR_BYTES / 2;  // elements of a vector
static_assert(sizeof(Vector) == VECTOR_BYTES, "one load and one store");

// Selected field by field, from parameters that all threads have.
__device__ inline TensorView select(bool second, const TensorView& a, const TensorView& b) {
    return {second ? b.data : a.data, second ? b.batch_stride : a.batch_stride,
            second ? b.head_stride : a.head_stride, second ? b.row_stride : a.row_stride};
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const __grid_constant__ ValueParams params) {
    const unsigned token = blockIdx.x * blockDim.y + threadIdx.y;
    const unsigned vector = blockIdx.y * blockDim.x + threadIdx.x;
    const unsigned key_vectors = static_cast<unsigned>(params.head_dim) / COUNT;
    const unsigned head_vectors = key_vectors + static_cast<unsigned>(params.value_dim) / COUNT;
    if (token >= params.len_q || vector >= params.heads_kv * head_vectors) return;

    // Negative slots are beyond the cache, too.
    const unsigned long long slot =
        static_cast<const unsigned long long*>(params.workspace)[token];
    const unsigned page_keys = params.len_kv;
    if (slot >= static_cast<unsigned long long>(params.batch) * page_keys) return;
    // The host sees to it that the cache has fewer than 2^31 slots.
    const unsigned page = static_cast<unsigned>(slot) / page_keys;
    const unsigned place = static_cast<unsigned>(slot) - page * page_keys;

    const unsigned head = vector / head_vectors;
    const unsigned within = vector - head * head_vectors;
    const bool is_value = within >= key_vectors;
    const long long column = (is_value ? within - key_vectors : within) * COUNT;
    const TensorView from = select(is_value, params.query, params.output);
    const TensorView to = select(is_value, params.key, params.value);
    const long long source = token * from.row_stride + head * from.head_stride + column;
    const long long target =
        page * to.batch_stride + head * to.head_stride + place * to.row_stride + column;
    const auto* read = static_cast<const unsigned short*>(from.data) + source;
    auto* written = static_cast<unsigned short*>(to.data) + target;
    *reinterpret_cast<Vector*>(written) = *reinterpret_cast<const Vector*>(read);
}
