// What makes scores of products: the scale, a soft cap, a slope for the distance from the diagonal.
#pragma once

#include "machine/exponent.cuh"
#include "machine/extended_params.cuh"
#include "machine/softmax.cuh"

constexpr float LOG2_E = 1.44269504088896341f;

// PLAIN: the product itself, whose scale goes into the exponent. The others become exponents, in
// units of log2, where a CAPPED one may have a slope, too.
enum class ScoreShape { PLAIN, SLOPED, CAPPED };

// tanh to a few units in the last place. (The hardware's own is good to 11 bits, too few for a
// logit of 50.) Near 0, where 1 - 2 / (e^2x + 1) cancels, by its series up to x^11.
__device__ inline float tanh_accurate(float x) {
    const float power = exp2_approx(fabsf(x) * (2.0f * LOG2_E));
    const float far = 1.0f - __fdividef(2.0f, power + 1.0f);
    const float square = x * x;
    float series = -8.8632355e-3f;
    series = fmaf(series, square, 2.1869489e-2f);
    series = fmaf(series, square, -5.3968254e-2f);
    series = fmaf(series, square, 1.3333333e-1f);
    series = fmaf(series, square, -3.3333333e-1f);
    const float near = fmaf(x * square, series, x);
    return fabsf(x) < 0.35f ? near : copysignf(far, x);
}

template <ScoreShape SHAPE>
class ScoreShaper {
    float factor;  // of the product: to the exponent, or to what tanh takes
    float cap;     // of the exponent
    float slope;   // of the exponent, for each key of distance; negative, as it lowers scores

public:
    // The products' scale must have been made positive.
    __device__ ScoreShaper(const ExtendedParams& params, int head) {
        if constexpr (SHAPE == ScoreShape::PLAIN) return;
        slope = params.slopes ? -params.slopes[head] * LOG2_E : 0.0f;
        factor = fabsf(params.scale_log2e);
        if constexpr (SHAPE == ScoreShape::CAPPED) {
            factor = fabsf(params.scale) / params.softcap;
            cap = params.softcap * LOG2_E;
        }
    }

    // The exponent of a key that lies `distance` keys from the diagonal.
    __device__ float shaped(float product, float distance) const {
        const float scaled = product * factor;
        const float exponent = SHAPE == ScoreShape::CAPPED ? cap * tanh_accurate(scaled) : scaled;
        return fmaf(slope, fabsf(distance), exponent);
    }
};

// Gives a row's sum its part of the sink, an exponent without a value, and raises the maximum to it
// where it is the larger. Returns how much less the row's output then weighs.
__device__ inline float add_sink(RowStatistics& row, float sink) {
    // A row whose exponents leave f32 has no place for anything else.
    if (row.maximum > 3.0e38f) return 1.0f;
    const float maximum = safe_maximum(fmaxf(row.maximum, sink));
    const float factor = exp2_approx(row.maximum - maximum);
    row.sum = fmaf(row.sum, factor, exp2_approx(sink - maximum));
    row.maximum = maximum;
    return factor;
}
