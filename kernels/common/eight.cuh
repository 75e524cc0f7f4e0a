// Rows of elements eight at a time, which begin at multiples of 16 bytes.
#pragma once

#include "element.cuh"

constexpr uint32_t kEach = 8;

__device__ __forceinline__ void widen(float* to, uint32_t pair) {
    to[0] = __uint_as_float(pair << 16), to[1] = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ void widen(float (&to)[kEach], const uint4& x) {
    widen(to, x.x), widen(to + 2, x.y), widen(to + 4, x.z), widen(to + 6, x.w);
}

__device__ __forceinline__ void widen(float (&to)[kEach], const float4& a, const float4& b) {
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

// Eight elements that are read again.
__device__ __forceinline__ void load_eight(float (&to)[kEach], const Tensor& x, uint64_t at) {
    if (x.dtype == DTYPE_BF16) {
        widen(to, __ldg(pointer<const uint4>(x.data) + at / kEach));
    } else {
        const float4* from = pointer<const float4>(x.data) + at / 4;
        widen(to, __ldg(from), __ldg(from + 1));
    }
}

// Eight elements on their way from memory, read once: past L1.
template <int kType>
struct Eight;

template <>
struct Eight<DTYPE_F32> {
    float4 a = {}, b = {};

    __device__ __forceinline__ void fetch(const Tensor& x, uint64_t at) {
        const float4* from = pointer<const float4>(x.data) + at / 4;
        a = __ldcs(from), b = __ldcs(from + 1);
    }
    __device__ __forceinline__ void get(float (&to)[kEach]) const { widen(to, a, b); }
};

template <>
struct Eight<DTYPE_BF16> {
    uint4 x = {};

    __device__ __forceinline__ void fetch(const Tensor& from, uint64_t at) {
        x = __ldcs(pointer<const uint4>(from.data) + at / kEach);
    }
    __device__ __forceinline__ void get(float (&to)[kEach]) const { widen(to, x); }
};
