// Appends to a cache: copies the keys and values of new tokens to the slots that a list names.
//
// idea:   a thread moves one vector of a token's key and the one beside it of its value, both read
//         before either is written. The threads of a block lie behind one another in a token's
//         heads, so that a warp reads and writes whole rows; of a token with few vectors a block
//         takes several.
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

// A row of a tensor: that of a token, or of a place in a page.
__device__ inline Vector* row_of(const TensorView& tensor, unsigned batch, unsigned head,
                                 unsigned row) {
    const long long offset =
        batch * tensor.batch_stride + head * tensor.head_stride + row * tensor.row_stride;
    return reinterpret_cast<Vector*>(static_cast<unsigned short*>(tensor.data) + offset);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const __grid_constant__ ValueParams params) {
    const unsigned token = blockIdx.x * blockDim.y + threadIdx.y;
    const unsigned vector = blockIdx.y * blockDim.x + threadIdx.x;
    const unsigned key_vectors = static_cast<unsigned>(params.head_dim) / COUNT;
    const unsigned value_vectors = static_cast<unsigned>(params.value_dim) / COUNT;
    const unsigned head_vectors = max(key_vectors, value_vectors);
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
    const unsigned column = vector - head * head_vectors;
    const bool has_key = column < key_vectors;
    const bool has_value = column < value_vectors;
    Vector key, value;
    if (has_key) key = row_of(params.query, 0, head, token)[column];
    if (has_value) value = row_of(params.output, 0, head, token)[column];
    if (has_key) row_of(params.key, page, head, place)[column] = key;
    if (has_value) row_of(params.value, page, head, place)[column] = value;
}
