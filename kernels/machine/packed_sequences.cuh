// Which sequence a tile of queries belongs to, in packed batches and in dense ones.
//
// Of packed sequences the s-th owns the tile numbers from cu_seqlens[s] / TILE_ROWS + s on: never
// too few for its rows, at most one too many, and rising with s. So the number of tiles follows
// from the total and the number of sequences alone, and a search finds the sequence of a number.
#pragma once

#include "machine/extended_params.cuh"
#include "machine/key_range.cuh"
#include "machine/warp.cuh"

// Where a packed sequence begins. Numbers beyond the tensor, negative ones of a signed type among
// them, are its end.
__device__ inline int boundary(const unsigned* cu_seqlens, int sequence, int total) {
    return min(cu_seqlens[sequence], static_cast<unsigned>(total));
}

// The number of a packed sequence's first tile.
template <int TILE_ROWS>
__device__ inline int first_tile(const ExtendedParams& params, int sequence) {
    return boundary(params.cu_seqlens_q, sequence, params.len_q) / TILE_ROWS + sequence;
}

// The last sequence whose tiles begin at this number or before it; all lanes of a warp take part.
// Each looks at PROBES places at once: what a search takes is the loads that wait for one another.
template <int TILE_ROWS>
__device__ inline int sequence_of_tile(const ExtendedParams& params, int number) {
    constexpr int PROBES = 4;
    const int lane = threadIdx.x % WARP_SIZE;
    int low = 0;
    int high = params.sequences;
    while (high - low > 1) {
        const int step = (high - low + PROBES * WARP_SIZE - 1) / (PROBES * WARP_SIZE);
        int before = 0;
#pragma unroll
        for (int i = 0; i < PROBES; ++i) {
            const int probe = low + (i * WARP_SIZE + lane + 1) * step;
            const bool is_before = probe < high && first_tile<TILE_ROWS>(params, probe) <= number;
            before += __popc(__ballot_sync(ALL_LANES, is_before));
        }
        low += before * step;
        high = min(high, low + step);
    }
    return low;
}

// Rows and keys of a packed sequence.
__device__ inline Sequence packed_sequence(const ExtendedParams& params, int index) {
    Sequence sequence;
    sequence.first_query = boundary(params.cu_seqlens_q, index, params.len_q);
    sequence.len_q = boundary(params.cu_seqlens_q, index + 1, params.len_q) - sequence.first_query;
    sequence.first_key = boundary(params.cu_seqlens_k, index, params.len_kv);
    sequence.len_kv =
        max(boundary(params.cu_seqlens_k, index + 1, params.len_kv) - sequence.first_key, 0);
    return sequence;
}

// Rows and keys of one of a dense batch.
__device__ inline Sequence dense_sequence(const ExtendedParams& params, int batch) {
    Sequence sequence = {0, params.len_q, 0, params.len_kv};
    if (params.key_lengths) {
        // More than there are, or a negative number of a signed type, means all.
        sequence.len_kv = min(params.key_lengths[batch], static_cast<unsigned>(params.len_kv));
    }
    return sequence;
}
