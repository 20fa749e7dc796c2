// The hardware has exp2 and no exp: scores are taken times scale · log2(e), so that exp2 serves.
#pragma once

constexpr float LN_2 = 0.693147180559945309f;
constexpr float NEGATIVE_INFINITY = __builtin_bit_cast(float, 0xff800000);  // NVRTC: no INFINITY

// exp2(-infinity) = 0; results below 2^-126 are flushed to 0, where a sum that holds a 1 loses
// nothing.
__device__ inline float exp2_approx(float x) {
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}
