// Elements of tensors whose type is known at run time. The branch is the same for all threads.
#pragma once

#include <cuda_bf16.h>

#include "../include/params.h"

template <typename T>
__device__ __forceinline__ T* pointer(uint64_t address) {
    return reinterpret_cast<T*>(address);
}

__device__ __forceinline__ float load(const Tensor& x, uint64_t i) {
    if (x.dtype == DTYPE_BF16) return __bfloat162float(pointer<const __nv_bfloat16>(x.data)[i]);
    return pointer<const float>(x.data)[i];
}

__device__ __forceinline__ void store(const Tensor& x, uint64_t i, float value) {
    if (x.dtype == DTYPE_BF16) {
        pointer<__nv_bfloat16>(x.data)[i] = __float2bfloat16_rn(value);
    } else {
        pointer<float>(x.data)[i] = value;
    }
}

// Two values as bf16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

constexpr uint32_t kVector = 8; // elements that a thread moves at a time

__device__ __forceinline__ void widen(float* to, uint32_t pair) {
    to[0] = __uint_as_float(pair << 16), to[1] = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ void widen(float (&to)[kVector], const uint4& x) {
    widen(to, x.x), widen(to + 2, x.y), widen(to + 4, x.z), widen(to + 6, x.w);
}

__device__ __forceinline__ void widen(float (&to)[kVector], const float4& a, const float4& b) {
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

// Up to eight neighbours from `i` on. Eight go in 16 bytes each where `i` is a multiple of eight; `whole` says that
// it is, and that there are eight.
__device__ __forceinline__ void load_vector(float (&to)[kVector], const Tensor& x, uint64_t i, bool whole, uint32_t count) {
    if (!whole) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) to[e] = e < count ? load(x, i + e) : 0.0f;
    } else if (x.dtype == DTYPE_BF16) {
        widen(to, *reinterpret_cast<const uint4*>(pointer<const __nv_bfloat16>(x.data) + i));
    } else {
        const float4* from = reinterpret_cast<const float4*>(pointer<const float>(x.data) + i);
        widen(to, from[0], from[1]);
    }
}

__device__ __forceinline__ void store_vector(const Tensor& x, uint64_t i, const float (&from)[kVector], bool whole,
                                             uint32_t count) {
    if (!whole) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
            if (e < count) store(x, i + e, from[e]);
        }
    } else if (x.dtype == DTYPE_BF16) {
        *reinterpret_cast<uint4*>(pointer<__nv_bfloat16>(x.data) + i) =
            make_uint4(pack_bf16(from[0], from[1]), pack_bf16(from[2], from[3]), pack_bf16(from[4], from[5]),
                       pack_bf16(from[6], from[7]));
    } else {
        float4* to = reinterpret_cast<float4*>(pointer<float>(x.data) + i);
        to[0] = make_float4(from[0], from[1], from[2], from[3]);
        to[1] = make_float4(from[4], from[5], from[6], from[7]);
    }
}

// The first index of this thread and the distance to its next, over a grid of one dimension.
__device__ __forceinline__ uint64_t global_thread() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t global_threads() { return uint64_t(gridDim.x) * blockDim.x; }

// Calls f(first index, whether there are eight, how many) for this thread's vectors of `len` elements.
template <typename F>
__device__ __forceinline__ void each_vector(uint64_t len, F f) {
    for (uint64_t i = global_thread() * kVector; i < len; i += global_threads() * kVector) {
        const uint64_t left = len - i;
        f(i, left >= kVector, left < kVector ? uint32_t(left) : kVector);
    }
}
