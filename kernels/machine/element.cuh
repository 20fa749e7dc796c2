// The dtype of query, key, value and output: f16, or bf16 with -DDTYPE_BF16. Arithmetic is in f32.
#pragma once

#ifdef DTYPE_BF16
#include <cuda_bf16.h>
using Element = __nv_bfloat16;
__device__ inline float to_float(Element x) { return __bfloat162float(x); }
__device__ inline Element to_element(float x) { return __float2bfloat16_rn(x); }
__device__ inline unsigned to_element_pair(float x, float y) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return reinterpret_cast<const unsigned&>(pair);
}
#else
#include <cuda_fp16.h>
using Element = __half;
__device__ inline float to_float(Element x) { return __half2float(x); }
__device__ inline Element to_element(float x) { return __float2half_rn(x); }
__device__ inline unsigned to_element_pair(float x, float y) {
    const __half2 pair = __floats2half2_rn(x, y);
    return reinterpret_cast<const unsigned&>(pair);
}
#endif

// Neighbours travel 16 bytes at a time, or 8 where there are only four elements; the address must
// be a multiple of that.
template <int COUNT>
__device__ inline void load(const float* source, float (&x)[COUNT]) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
        const float4 four = *reinterpret_cast<const float4*>(source + i);
        x[i] = four.x, x[i + 1] = four.y, x[i + 2] = four.z, x[i + 3] = four.w;
    }
}

__device__ inline void store(float* destination, const float (&x)[4]) {
    *reinterpret_cast<float4*>(destination) = make_float4(x[0], x[1], x[2], x[3]);
}

template <int COUNT>
struct alignas(COUNT * sizeof(Element)) Packed {
    Element at[COUNT];
};

template <int COUNT>
__device__ inline void load_as_float(const Element* source, float (&x)[COUNT]) {
    const auto packed = *reinterpret_cast<const Packed<COUNT>*>(source);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) x[i] = to_float(packed.at[i]);
}

__device__ inline void store_from_float(Element* destination, const float (&x)[4]) {
    *reinterpret_cast<uint2*>(destination) =
        make_uint2(to_element_pair(x[0], x[1]), to_element_pair(x[2], x[3]));
}

__device__ inline void store_from_float(Element* destination, const float (&x)[8]) {
    *reinterpret_cast<uint4*>(destination) =
        make_uint4(to_element_pair(x[0], x[1]), to_element_pair(x[2], x[3]),
                   to_element_pair(x[4], x[5]), to_element_pair(x[6], x[7]));
}
