// A tile of rows in shared memory without padding: the 16-byte chunks of a row are permuted by an
// XOR with the row, so that the 8 rows of an 8×8 matrix, read at one column, lie in all 32 banks.
#pragma once

#include "machine/async_copy.cuh"
#include "machine/element.cuh"
#include "machine/query_tile.cuh"

constexpr int CHUNK_BYTES = 16;                       // what one cp.async or one ldmatrix row moves
constexpr int CHUNK = CHUNK_BYTES / sizeof(Element);  // in elements

constexpr int smaller(int x, int y) { return x < y ? x : y; }
constexpr int floor_power_of_two(int x) { return x < 2 ? x : 2 * floor_power_of_two(x / 2); }

template <int ROWS, int COLUMNS>
struct SwizzledTile {
    static constexpr int CHUNKS = COLUMNS / CHUNK;
    static constexpr int ROW_BYTES = COLUMNS * sizeof(Element);
    static_assert(CHUNKS % 4 == 0,
                  "rows of a multiple of 64 bytes, or the permutation leaves the row");

    alignas(128) unsigned char bytes[ROWS * ROW_BYTES];

    // Rows that so many threads copy at once.
    template <int THREADS>
    static constexpr int STEP_ROWS_OF = smaller(ROWS, floor_power_of_two(THREADS / CHUNKS));

    // What the chunk's number is XORed with. Where 8 chunks fill a line of 128 bytes, the row
    // permutes all 8. With half lines left over (head_dim 96), two neighbouring rows fill the two
    // halves of a line, and every other row permutes the 4 chunks of a half. Either way it only
    // depends on row % 8.
    __device__ static int permutation(int row) { return CHUNKS % 8 == 0 ? row & 7 : row >> 1 & 3; }

    __device__ static int offset(int row, int chunk) {
        return row * ROW_BYTES + (chunk ^ permutation(row)) * CHUNK_BYTES;
    }

    // Where `lane` starts reading matrices with ldmatrix: row `row`, chunk 0 or 1. Two chunks on is
    // `advanced` by one.
    __device__ unsigned start(int row, int chunk) const {
        return static_cast<unsigned>(__cvta_generic_to_shared(bytes)) + offset(row, chunk);
    }

    // INSIGHT: the permutation is an XOR, so moving along a row is one, too: one address a lane and
    // one instruction a step, instead of a register for every place that a lane ever reads.
    __device__ static unsigned advanced(unsigned start, int steps) {
        if constexpr (CHUNKS % 8 == 0) return start ^ steps * 2 * CHUNK_BYTES;
        // Within the 4 chunks of a half line XOR, from one to the next half line add.
        return (start ^ steps % 2 * 2 * CHUNK_BYTES) + steps / 2 * 4 * CHUNK_BYTES;
    }

    // Starts copying the rows from `first_row` on of a head of `length` rows, shared by THREADS
    // threads. Rows past the end and columns past head_dim become zeros, so that no read leaves the
    // tensor and the padding adds nothing. Needs 16-byte aligned rows.
    template <int THREADS>
    __device__ void load_async(int thread, const TensorView& tensor, int batch, int head,
                               int first_row, int length, int head_dim) {
        // A thread stays in its column and walks down the rows; where the columns do not divide the
        // threads, or there are more threads than chunks, some wait.
        constexpr int STEP_ROWS = STEP_ROWS_OF<THREADS>;
        static_assert(ROWS % STEP_ROWS == 0, "every thread copies equally many chunks");
        // Opaque, so that the compiler works the addresses out again for every tile instead of
        // keeping one in registers for every step: that spilled at head_dim 128.
        asm volatile("" : "+r"(thread));
        const int row = thread / CHUNKS;
        const int chunk = thread % CHUNKS;
        if (STEP_ROWS * CHUNKS < THREADS && row >= STEP_ROWS) return;
        const bool valid_column = chunk * CHUNK < head_dim;
        const Element* source =
            head_data(tensor, batch, head) + (first_row + row) * tensor.row_stride + chunk * CHUNK;
#pragma unroll
        for (int step = 0; step < ROWS; step += STEP_ROWS) {
            const bool valid = valid_column && first_row + row + step < length;
            cp_async_16(bytes + offset(row + step, chunk), source, valid);
            source += STEP_ROWS * tensor.row_stride;
        }
    }

    // Flips the sign of the elements that this thread itself copied, once its copies have landed.
    template <int THREADS>
    __device__ void negate_own(int thread) {
        constexpr int STEP_ROWS = STEP_ROWS_OF<THREADS>;
        constexpr unsigned SIGNS = 0x80008000;
        if (thread / CHUNKS >= STEP_ROWS) return;
        for (int row = thread / CHUNKS; row < ROWS; row += STEP_ROWS) {
            auto& chunk = *reinterpret_cast<uint4*>(bytes + offset(row, thread % CHUNKS));
            chunk = {chunk.x ^ SIGNS, chunk.y ^ SIGNS, chunk.z ^ SIGNS, chunk.w ^ SIGNS};
        }
    }
};
