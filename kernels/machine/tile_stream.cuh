// Consecutive tiles of a head's rows into padded shared memory, by all threads of the block.
#pragma once

#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/query_tile.cuh"
#include "machine/warp.cuh"

// Every thread keeps to one column of 16-byte chunks; neighbouring threads copy neighbouring
// chunks. Rows past the tensor and columns past head_dim become zeros, so that no read leaves the
// tensor and the padding adds nothing to a score. Rows must be 16-byte aligned.
template <int THREADS>
class TileStream {
    static constexpr int CHUNK = 16 / sizeof(Element);
    static constexpr int CHUNKS_PER_ROW = HEAD_DIM / CHUNK;
    static constexpr int ROWS_PER_STEP = THREADS / CHUNKS_PER_ROW;
    static_assert(THREADS % CHUNKS_PER_ROW == 0, "a step copies whole rows");

    const Element* source;  // this thread's first chunk of the next tile
    long long row_stride;
    int rows_left;  // from the next tile's first row to the end of the tensor
    int head_dim;

public:
    __device__ TileStream(const TensorView& tensor, int batch, int head, int first_row, int length,
                          int head_dim)
        : row_stride(tensor.row_stride), rows_left(length - first_row), head_dim(head_dim) {
        const int thread = thread_index();
        const long long row = first_row + thread / CHUNKS_PER_ROW;
        source =
            head_data(tensor, batch, head) + row * row_stride + thread % CHUNKS_PER_ROW * CHUNK;
    }

    template <int ROWS, int STRIDE>
    __device__ void load_next(Element (&tile)[ROWS][STRIDE]) {
        static_assert(ROWS % ROWS_PER_STEP == 0, "every thread copies equally many chunks");
        static_assert(STRIDE * sizeof(Element) % 16 == 0, "every row starts 16-byte aligned");
        const int thread = thread_index();
        const int column = thread % CHUNKS_PER_ROW * CHUNK;
#pragma unroll
        for (int step = 0; step < ROWS / ROWS_PER_STEP; ++step) {
            const int row = step * ROWS_PER_STEP + thread / CHUNKS_PER_ROW;
            cp_async_16(&tile[row][column], source, row < rows_left && column < head_dim);
            source += ROWS_PER_STEP * row_stride;
        }
        rows_left -= ROWS;
    }
};
