// Sums and maxima over a block, in the same order every time.
#pragma once

struct Sum {
    template <typename T>
    static __device__ __forceinline__ T of(T a, T b) { return a + b; }
};
// NaN loses against a number.
struct Max {
    static __device__ __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

template <typename Op, typename T>
__device__ __forceinline__ T warp_reduce(T x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x = Op::of(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Every thread gets the result. `scratch` has room for one T a warp; all threads of the block call it,
// of which there are whole warps.
template <typename Op, typename T>
__device__ __forceinline__ T block_reduce(T x, T* scratch) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_reduce<Op>(x);
    __syncthreads(); // the scratch may still be read from the reduction before
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    T total = scratch[0];
    for (int i = 1; i < warps; ++i) total = Op::of(total, scratch[i]);
    return total;
}
