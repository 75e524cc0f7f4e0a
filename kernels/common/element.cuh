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

// The first index of this thread and the distance to its next, over a grid of one dimension.
__device__ __forceinline__ uint64_t global_thread() { return uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ uint64_t global_threads() { return uint64_t(gridDim.x) * blockDim.x; }
