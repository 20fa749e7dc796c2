// Streaming softmax of one row: its maximum and its sum over the keys seen so far.
#pragma once

#include "common/exponent.cuh"

struct RowStatistics {
    float maximum = NEGATIVE_INFINITY;  // of score · scale · log2(e)
    float sum = 0.0f;                   // of 2^(score · scale · log2(e) - maximum)
};

// Subtracting a maximum of -infinity would make NaN of a row that has seen nothing but -infinity.
// A finite stand-in for -infinity is no way out: it silently zeroes rows whose logits lie below it.
__device__ inline float safe_maximum(float maximum) {
    return maximum == NEGATIVE_INFINITY ? 0.0f : maximum;
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

// What two parts of a row's keys shrink by when they become one.
struct MergeFactors {
    float total;
    float part;
};

// Adds a part to the statistics of the parts before it. Empty parts, on either side, add nothing;
// NaN and +infinity reach the sum.
__device__ inline MergeFactors merge(RowStatistics& total, const RowStatistics& part) {
    const float maximum = fmaxf(total.maximum, part.maximum);
    const float safe = safe_maximum(maximum);
    const MergeFactors factors = {exp2_approx(total.maximum - safe),
                                  exp2_approx(part.maximum - safe)};
    total.maximum = maximum;
    total.sum = fmaf(part.sum, factors.part, total.sum * factors.total);
    return factors;
}

// The same, with the columns of the output that belong to them.
template <int COUNT>
__device__ inline void merge(RowStatistics& total, float (&sum)[COUNT], const RowStatistics& part,
                             const float (&columns)[COUNT]) {
    const MergeFactors factors = merge(total, part);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        sum[i] = fmaf(columns[i], factors.part, sum[i] * factors.total);
    }
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
    return row.maximum * LN_2 + logf(row.sum);
}
