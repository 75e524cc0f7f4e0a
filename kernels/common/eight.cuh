// Rows of elements eight at a time, which begin at multiples of 16 bytes.
#pragma once

#include "element.cuh"

// Eight elements that are read again.
__device__ __forceinline__ void load_eight(float (&to)[kVector], const Tensor& x, uint64_t at) {
    if (x.dtype == DTYPE_BF16) {
        widen(to, __ldg(pointer<const uint4>(x.data) + at / kVector));
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
    __device__ __forceinline__ void get(float (&to)[kVector]) const { widen(to, a, b); }
};

template <>
struct Eight<DTYPE_BF16> {
    uint4 x = {};

    __device__ __forceinline__ void fetch(const Tensor& from, uint64_t at) {
        x = __ldcs(pointer<const uint4>(from.data) + at / kVector);
    }
    __device__ __forceinline__ void get(float (&to)[kVector]) const { widen(to, x); }
};
