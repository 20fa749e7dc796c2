// Tiles in shared memory as the copy engine and wgmma pass them to each other (sm_90): boxes of 64
// columns one after the other, the 16-byte chunks of a row permuted by an XOR with the row.
#pragma once

#include "machine/element.cuh"
#include "machine/tensor_copy.cuh"
#include "machine/warp.cuh"
#include "machine/wgmma.cuh"

constexpr int BOX_ROW_BYTES = BOX_COLUMNS * sizeof(Element);
static_assert(BOX_ROW_BYTES == 128, "what the swizzle permutes");

template <int ROWS, int COLUMNS>
struct alignas(1024) BoxedTile {
    // The last box may reach past COLUMNS. The copy engine fills the rest with zeros that nobody
    // multiplies, and leaves it out when it stores: 96 columns take the shared memory of 128, but
    // six steps of depth instead of eight and products of 96 columns, where the time goes.
    static constexpr int BOXES = (COLUMNS + BOX_COLUMNS - 1) / BOX_COLUMNS;
    static constexpr int BOX_BYTES = ROWS * BOX_ROW_BYTES;
    static_assert(COLUMNS % 16 == 0, "whole steps of depth, whole pairs of 8×8 matrices");
    static_assert(BOX_BYTES % 1024 == 0, "boxes keep the alignment");

    unsigned char bytes[BOXES * BOX_BYTES];

    // Starts copying the rows from `row` on; the phase of `full` ends when all of them are here.
    // Whatever lies outside of the tensor, to the right or below, becomes zeros.
    __device__ void load_async(const TensorMap& map, Barrier& full, int row, int head, int batch,
                               Keep keep) {
        full.arrive_and_expect(sizeof(bytes));
#pragma unroll
        for (int box = 0; box < BOXES; ++box) {
            load_box(shared_address(bytes) + box * BOX_BYTES, map, full, box * BOX_COLUMNS, row,
                     head, batch, keep);
        }
    }

    // The other way, for 64 rows from the tile's own row `first` on.
    __device__ void store_async(const TensorMap& map, int first, int row, int head, int batch) {
#pragma unroll
        for (int box = 0; box < BOXES; ++box) {
            store_box(map, shared_address(bytes) + box * BOX_BYTES + first * BOX_ROW_BYTES,
                      box * BOX_COLUMNS, row, head, batch);
        }
        commit_stores();
    }

    // An operand whose depth runs along the columns (Q and K), from row `first` on, and how far its
    // 16 columns of depth step `step` are from the first ones.
    __device__ Descriptor along_columns(int first = 0) const {
        return Descriptor(shared_address(bytes) + first * BOX_ROW_BYTES, 16);
    }
    __device__ static constexpr unsigned column_step(int step) {
        constexpr int STEPS = BOX_COLUMNS / 16;  // in a box
        return step / STEPS * BOX_BYTES + step % STEPS * (BOX_ROW_BYTES / STEPS);
    }

    // An operand whose depth runs along the rows (V), and the same for its rows.
    __device__ Descriptor along_rows() const {
        return Descriptor(shared_address(bytes), BOX_BYTES);
    }
    __device__ static constexpr unsigned row_step(int step) { return step * 16 * BOX_ROW_BYTES; }

    // Flips the sign of 16 rows from `first` on; by one warp. The permutation stays inside of a
    // row, so it does not matter here.
    __device__ void negate_rows(int first, int lane) {
        constexpr unsigned SIGNS = 0x80008000;
#pragma unroll
        for (int box = 0; box < BOXES; ++box) {
            uint4* chunks =
                reinterpret_cast<uint4*>(bytes + box * BOX_BYTES + first * BOX_ROW_BYTES);
#pragma unroll
            for (int i = lane; i < 16 * BOX_ROW_BYTES / int(sizeof(uint4)); i += WARP_SIZE) {
                const uint4 x = chunks[i];
                chunks[i] = {x.x ^ SIGNS, x.y ^ SIGNS, x.z ^ SIGNS, x.w ^ SIGNS};
            }
        }
    }

    // Writes 4 columns from `column` on of one row, rounded to the dtype.
    __device__ void store_columns(const float (&columns)[4], int row, int column) {
        const int chunk = (column / 8 % 8) ^ (row & 7);
        unsigned char* const start = bytes + column / BOX_COLUMNS * BOX_BYTES + row * BOX_ROW_BYTES;
        store_from_float(reinterpret_cast<Element*>(start + chunk * 16) + column % 8, columns);
    }

    // Writes a warp's part of a product, rounded to the dtype, to 16 rows from `first` on. A lane
    // gives the address of one row of one of four 8×8 matrices: two of rows by two of columns.
    __device__ void store_fragment(const float (&fragment)[COLUMNS / 2], int first, int lane) {
        const int row = first + lane % 16;
        const unsigned start = shared_address(bytes) + row * BOX_ROW_BYTES;
#pragma unroll
        for (int block = 0; block < COLUMNS / 8; block += 2) {
            unsigned packed[4];
#pragma unroll
            for (int matrix = 0; matrix < 4; ++matrix) {
                const float* pair = fragment + 4 * block + 2 * matrix;
                packed[matrix] = to_element_pair(pair[0], pair[1]);
            }
            const int chunk = (block % 8 + lane / 16) ^ (row & 7);
            asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                             start + block / 8 * BOX_BYTES + chunk * 16),
                         "r"(packed[0]), "r"(packed[1]), "r"(packed[2]), "r"(packed[3])
                         : "memory");
        }
    }
};
