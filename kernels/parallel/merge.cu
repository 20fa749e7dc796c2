// Merges results over parts of the keys, in f32. Ring attention launches one attention kernel for
// each part, and this one behind it.
//
// idea:   the log-sum-exp of a part is the weight of its output. The accumulator holds the weighted
//         mean of the parts so far and their log-sum-exp, so parts need no common maximum.
// needs:  head_dim a multiple of 8, rows of 16-byte aligned elements
// build:  -DSTEP=STEP_CLEAR|STEP_SINK|STEP_ADD|STEP_STORE, f16 or bf16
//
// The parameter block means here:
//   query   a part's output, elements [batch, heads_q, len_q, head_dim]; STEP_ADD reads it
//   key     a part's log-sum-exp, f32 [batch, heads_q, len_q]; STEP_ADD reads it
//   value   the accumulator, f32 [batch, heads_q, len_q, head_dim]
//   lse     the accumulator's log-sum-exp, f32, whose strides are the accumulator's over head_dim
//   output  the merged elements [batch, heads_q, len_q, head_dim]; STEP_STORE writes them
//   sinks   what they always mean; STEP_SINK, which stands in STEP_CLEAR's place, reads them
// All steps work on len_q rows, which may be some of the accumulator's.
#include "machine/element.cuh"
#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/params.cuh"
#include "machine/warp.cuh"

#define STEP_CLEAR 0
#define STEP_ADD 1
#define STEP_STORE 2
#define STEP_SINK 3

#if STEP == STEP_SINK
using MergeParams = ExtendedParams;
#else
using MergeParams = AttentionParams;
#endif

constexpr int THREADS = 256;
constexpr float NOT_A_NUMBER = __builtin_bit_cast(float, 0x7fffffff);
constexpr int COLUMNS = 8;  // of a lane: 16 bytes of elements, 32 of the accumulator
static_assert(THREADS == LAUNCH_THREADS, "what the plan asks for");

// Lanes that share a row: the least power of two that covers head_dim, so that no row straddles
// two warps.
__device__ inline int lanes_of_a_row(int head_dim) {
    int lanes = 1;
    while (lanes * COLUMNS < head_dim) lanes *= 2;
    return lanes;
}

__device__ inline long long row_offset(const TensorView& tensor, int head, int row) {
    return blockIdx.z * tensor.batch_stride + head * tensor.head_stride + row * tensor.row_stride;
}

__device__ inline void store_columns(float* destination, const float (&x)[COLUMNS]) {
    store(destination, {x[0], x[1], x[2], x[3]});
    store(destination + 4, {x[4], x[5], x[6], x[7]});
}

extern "C" __global__ void __launch_bounds__(THREADS)
    attention(const __grid_constant__ MergeParams params) {
    const int lanes = lanes_of_a_row(params.head_dim);
    const int member = threadIdx.x % lanes;
    const int row = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
    const int head = blockIdx.y;
    const int column = member * COLUMNS;
    const bool has_row = row < params.len_q;
    const bool has_columns = has_row && column < params.head_dim;

    const long long offset = row_offset(params.value, head, row);
    float* const lse = params.lse + offset / params.head_dim;
    float* const accumulator = static_cast<float*>(params.value.data) + offset + column;

#if STEP == STEP_CLEAR
    // A row without a part weighs nothing. Its accumulator is never read.
    if (has_row && member == 0) *lse = NEGATIVE_INFINITY;
#elif STEP == STEP_SINK
    // The sink is a part before all others, whose output is 0: so it enters once, and into rows
    // that no part has, too. One that is NaN or +infinity makes the row NaN.
    const float sink = params.sinks[head];
    const bool is_number = sink < -NEGATIVE_INFINITY;
    float start[COLUMNS];
#pragma unroll
    for (int i = 0; i < COLUMNS; ++i) start[i] = is_number ? 0.0f : NOT_A_NUMBER;
    if (has_columns) store_columns(accumulator, start);
    if (has_row && member == 0) *lse = is_number ? sink : NOT_A_NUMBER;
#elif STEP == STEP_ADD
    float before = NEGATIVE_INFINITY, part = NEGATIVE_INFINITY;
    if (has_row) {
        before = *lse;
        part = static_cast<const float*>(
            params.key
                .data)[(static_cast<long long>(blockIdx.z) * gridDim.y + head) * params.len_q +
                       row];
    }
    // All lanes have read what the first one writes.
    __syncwarp();
    // A part that saw no key changes nothing. NaN is no such part.
    if (part == NEGATIVE_INFINITY) return;
    // Of two logarithms the larger is subtracted first: exp of a large one is infinite.
    const float maximum = fmaxf(before, part);
    const float weight_before = expf(before - maximum), weight_part = expf(part - maximum);
    const float sum = weight_before + weight_part;
    if (has_columns) {
        const Element* source =
            static_cast<const Element*>(params.query.data) + row_offset(params.query, head, row);
        float merged[COLUMNS];
        load_as_float(source + column, merged);
        if (before != NEGATIVE_INFINITY) {
            float old[COLUMNS];
            load(accumulator, old);
#pragma unroll
            for (int i = 0; i < COLUMNS; ++i) {
                merged[i] = (weight_before * old[i] + weight_part * merged[i]) / sum;
            }
        }
        store_columns(accumulator, merged);
    }
    if (has_row && member == 0) *lse = maximum + logf(sum);
#else
    if (!has_columns) return;
    float merged[COLUMNS] = {};
    if (*lse != NEGATIVE_INFINITY) load(accumulator, merged);
    Element* destination =
        static_cast<Element*>(params.output.data) + row_offset(params.output, head, row);
    store_from_float(destination + column, merged);
#endif
}
