// Streaming softmax of one row: its maximum and its sum over the keys seen so far.
#pragma once

#include "machine/exponent.cuh"

struct RowStatistics {
    float maximum = NEGATIVE_INFINITY;  // of score · scale · log2(e)
    float sum = 0.0f;                   // of 2^(score · scale · log2(e) - maximum)
};

// Subtracting a maximum of -infinity would make NaN of a row that has seen nothing but -infinity.
// A finite stand-in for -infinity is no way out: it silently zeroes rows whose logits lie below it.
__device__ inline float safe_maximum(float maximum) {
    return maximum == NEGATIVE_INFINITY ? 0.0f : maximum;
}

// The exponent of a score, rounded up: of the largest score it is a maximum that no weight exceeds,
// however large the logits are.
__device__ inline float exponent_above(float score, float exponent_scale) {
    return __fmul_ru(score, exponent_scale);
}

// Lets the maximum grow. Returns the factor by which everything summed under the old one shrinks:
// the sum, rescaled here, and the accumulator, which the caller rescales.
__device__ inline float raise_maximum(RowStatistics& row, float tile_maximum) {
    const float maximum = fmaxf(row.maximum, tile_maximum);
    const float factor = exp2_approx(row.maximum - safe_maximum(maximum));
    row.maximum = maximum;
    row.sum *= factor;
    return factor;
}

// What the parts that a row's keys were split into weigh against each other, by what their maxima
// have to the row's: `statistics(i)` are part i's. Empty parts weigh nothing; NaN and +infinity
// reach the sum.
template <int PARTS, typename Statistics>
__device__ inline RowStatistics weigh_parts(Statistics statistics, float (&factor)[PARTS]) {
    RowStatistics total;
#pragma unroll
    for (int i = 0; i < PARTS; ++i) total.maximum = fmaxf(total.maximum, statistics(i).maximum);
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        const RowStatistics part = statistics(i);
        factor[i] = exp2_approx(part.maximum - safe_maximum(total.maximum));
        total.sum = fmaf(part.sum, factor[i], total.sum);
    }
    return total;
}

// Adds the parts, so weighed: `load_columns(i, columns)` gives what belongs to part i.
template <int PARTS, int COUNT, typename Statistics, typename LoadColumns>
__device__ inline RowStatistics merge_parts(Statistics statistics, LoadColumns load_columns,
                                            float (&sum)[COUNT]) {
    float factor[PARTS];
    const RowStatistics total = weigh_parts(statistics, factor);
#pragma unroll
    for (int i = 0; i < PARTS; ++i) {
        float columns[COUNT];
        load_columns(i, columns);
#pragma unroll
        for (int c = 0; c < COUNT; ++c) sum[c] = fmaf(columns[c], factor[i], sum[c]);
    }
    return total;
}

// Unnormalised weight of one score. The product inside fmaf is not rounded, so that the weight is
// as good as the score even where score · scale is 1e5; the rounding of the maximum is common to
// the row.
__device__ inline float softmax_weight(float score, float exponent_scale, float maximum) {
    return exp2_approx(fmaf(score, exponent_scale, -safe_maximum(maximum)));
}

// 1 / sum, and 0 for a row that saw no key. NaN stays NaN.
__device__ inline float normaliser(float sum) { return sum == 0.0f ? 0.0f : 1.0f / sum; }

// Natural logarithm of the sum of exp(scale · score); -infinity for a row that saw no key.
__device__ inline float row_lse(const RowStatistics& row) {
    // UNREACHED: logf's way for numbers below the smallest normal one; a sum is 0 or far above it.
    return row.maximum * LN_2 + logf(row.sum);
}
