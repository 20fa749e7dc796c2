// Which keys a query row sees where masks have two sides: a range around the row's diagonal.
#pragma once

#include "machine/extended_params.cuh"

struct KeyRange {
    int begin;
    int end;  // at most begin where the row sees none
};

// The rows and keys of one sequence, and where its first ones lie in the tensors.
struct Sequence {
    int first_query;
    int len_q;
    int first_key;
    int len_kv;
};

// The key on the diagonal of row `row`; there need not be one.
__device__ inline int diagonal_key(const ExtendedParams& params, const Sequence& sequence,
                                   int row) {
    return params.top_left ? row : row + sequence.len_kv - sequence.len_q;
}

// The keys that row `row` of a sequence sees, both counted from the sequence's first.
__device__ inline KeyRange visible_range(const ExtendedParams& params, const Sequence& sequence,
                                         int row) {
    const int diagonal = diagonal_key(params, sequence, row);
    const int length = sequence.len_kv;
    KeyRange seen = {0, length};
    if (params.window_left != UNBOUNDED) {
        // Neither difference nor sum leaves 32 bits: what would is cut off first.
        seen.begin = min(max(diagonal, params.window_left) - params.window_left, length);
    }
    if (params.window_right != UNBOUNDED && diagonal < length - params.window_right) {
        seen.end = max(diagonal + params.window_right + 1, 0);
    }
    return seen;
}

// What the rows [first_row, first_row + rows) see of the keys, in tiles of `tile_keys`.
struct KeyTiles {
    int begin;  // the first tile that any row sees
    int end;
    int keys_end;     // behind the last key that any row sees
    int whole_begin;  // the first of which every row sees every key
    int whole_end;

    __device__ KeyTiles(const ExtendedParams& params, const Sequence& sequence, int first_row,
                        int rows, int tile_keys) {
        const int last_row = min(first_row + rows, sequence.len_q) - 1;
        // Both ends of the range only grow with the row.
        const KeyRange first = visible_range(params, sequence, first_row);
        const KeyRange last = visible_range(params, sequence, last_row);
        begin = first.begin / tile_keys;
        keys_end = last.end;
        end = max((last.end + tile_keys - 1) / tile_keys, begin);
        whole_begin = (last.begin + tile_keys - 1) / tile_keys;
        whole_end = first.end / tile_keys;
    }

    __device__ bool is_whole(int tile) const { return tile >= whole_begin && tile < whole_end; }
};
