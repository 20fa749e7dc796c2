// Which keys a query row sees. Every mask so far is a prefix, so one number per row
// says it all.
#pragma once

#include "machine/params.cuh"

// Row `query_row` sees the keys [0, visible_keys).
__device__ inline int visible_keys(const AttentionParams& params, int query_row) {
    if (!params.causal) return params.len_kv;
    return max(0, min(query_row + params.diagonal + 1, params.len_kv));
}

// How many key tiles the rows [first_row, first_row + rows) need: tiles that no row sees are never
// loaded. The last row sees the most.
__device__ inline int key_tile_count(const AttentionParams& params, int first_row, int rows,
                                     int tile_keys) {
    const int last_row = min(first_row + rows, params.len_q) - 1;
    return (visible_keys(params, last_row) + tile_keys - 1) / tile_keys;
}

// Whether none of the rows [first_row, first_row + rows) sees a key from `first_key` on.
__device__ inline bool sees_nothing_from(const AttentionParams& params, int first_row, int rows,
                                         int first_key) {
    const int last_row = min(first_row + rows, params.len_q) - 1;
    return visible_keys(params, last_row) <= first_key;
}

// Separate loops for tiles that need a mask and tiles that do not, from one lambda.
struct Unmasked {
    static constexpr bool value = false;
};
struct Masked {
    static constexpr bool value = true;
};
