// Reductions over a warp and over a block.
#pragma once

struct Sum {
    static constexpr float identity = 0.0f;
    __device__ float operator()(float a, float b) const { return a + b; }
};

struct Max {
    static constexpr float identity = -__builtin_huge_valf();
    __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

constexpr int kMaxThreads = 256;

// A float for each warp of a block.
using Scratch = float[kMaxThreads / 32];

// The result in every thread, from the same operations in each. The block is a whole number of warps,
// all of which take part. `scratch` may be used again after the next barrier.
template <class Op>
__device__ __forceinline__ float block_reduce(float value, Scratch& scratch, Op op) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = op(value, __shfl_down_sync(0xffffffffu, value, step)); // right in lane 0
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = lane < warps ? scratch[lane] : Op::identity;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) value = op(value, __shfl_xor_sync(0xffffffffu, value, step)); // right in all
    return value;
}

// The thread that writes what all threads of a block know.
__device__ __forceinline__ bool is_writer() { return threadIdx.x == blockDim.x - 1; }
