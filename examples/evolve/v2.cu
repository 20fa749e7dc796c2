// V2 as it was handed down: the keys of a tile are shared out over four warps, and each of them
// updates the row's maximum, sum and accumulator in shared memory, with no owner and no order.
// Launched like v2b. `mend.py` mends it from the interpreter's report.
#include "machine/element.cuh"
#include "machine/large_logits.cuh"
#include "machine/mask.cuh"
#include "machine/params.cuh"
#include "machine/query_tile.cuh"
#include "machine/softmax.cuh"

constexpr int TILE_ROWS = 64;
constexpr int TILE_KEYS = 64;
constexpr int THREADS = 256;
constexpr int SLICES = THREADS / TILE_ROWS;  // threads that share a row, each in another warp

struct SharedMemory {
    float accumulator[TILE_ROWS][HEAD_DIM + 1];
    RowStatistics statistics[TILE_ROWS];
};

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const __grid_constant__ AttentionParams params) {
    extern __shared__ __align__(16) unsigned char shared_memory[];
    SharedMemory& shared = *reinterpret_cast<SharedMemory*>(shared_memory);

    const QueryTile tile = locate_query_tile<TILE_ROWS>(params);
    const int head_kv = key_head(params, tile.head);
    const int row_in_tile = threadIdx.x % TILE_ROWS;
    const int slice = threadIdx.x / TILE_ROWS;
    const int row = min(tile.first_row + row_in_tile, params.len_q - 1);
    const Element* query =
        head_data(params.query, tile.batch, tile.head) + row * params.query.row_stride;
    const Element* keys = head_data(params.key, tile.batch, head_kv);
    const Element* values = head_data(params.value, tile.batch, head_kv);
    const int visible = visible_keys(params, row);
    RowStatistics& statistics = shared.statistics[row_in_tile];
    float* accumulator = shared.accumulator[row_in_tile];

    if (slice == 0) {
        statistics = RowStatistics{};
        for (int c = 0; c < params.head_dim; ++c) accumulator[c] = 0.0f;
    }
    __syncthreads();

    const int key_tiles = key_tile_count(params, tile.first_row, TILE_ROWS, TILE_KEYS);
    for (int key_tile = 0; key_tile < key_tiles; ++key_tile) {
        for (int k = slice; k < TILE_KEYS; k += SLICES) {
            const int j = key_tile * TILE_KEYS + k;
            if (j >= visible) break;
            float score = 0.0f;
            for (int c = 0; c < params.head_dim; ++c) {
                score = fmaf(to_float(query[c]), to_float(keys[j * params.key.row_stride + c]),
                             score);
            }
            // Meanwhile three other warps do the same to the same row.
            const float alpha = raise_maximum(statistics, score * params.scale_log2e);
            const float weight = softmax_weight(score, params.scale_log2e, statistics.maximum);
            statistics.sum += weight;
            for (int c = 0; c < params.head_dim; ++c) {
                const float value = to_float(values[j * params.value.row_stride + c]);
                accumulator[c] = fmaf(weight, value, alpha * accumulator[c]);
            }
        }
        __syncthreads();  // V2 had barriers too; they do not help within a tile
    }

    if (slice > 0 || tile.first_row + row_in_tile >= params.len_q) return;
    if (is_large(statistics.maximum)) {
        for (int c = 0; c < params.head_dim; ++c) accumulator[c] = 0.0f;
        statistics = attend_exactly<1>(params, tile.batch, tile.head, row, true,
                                       [&](float factor, float weight, const Element* value) {
                                           for (int c = 0; c < params.head_dim; ++c) {
                                               accumulator[c] = fmaf(weight, to_float(value[c]),
                                                                     accumulator[c] * factor);
                                           }
                                       });
    }
    Element* output =
        head_data(params.output, tile.batch, tile.head) + row * params.output.row_stride;
    for (int c = 0; c < params.head_dim; ++c) {
        output[c] = to_element(accumulator[c] * normaliser(statistics.sum));
    }
    store_lse(params, tile, row, row_lse(statistics));
}
