// Mean and variance of an array in one cooperative launch: every block needs the sum over all blocks
// before it can go on, so all must be resident and meet at a barrier across the grid.

#include "reduce.cuh"

namespace {

// Returns when all blocks have called it as often as this one. `arrived` starts at zero and counts
// calls; `calls` is how many this block has made with this one.
__device__ void grid_barrier(unsigned* arrived, unsigned calls) {
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); // what this block wrote is seen before its arrival
        atomicAdd(arrived, 1u);
        unsigned seen;
        do {
            __nanosleep(32);
            seen = atomicAdd(arrived, 0u);
        } while (seen < calls * gridDim.x);
        __threadfence(); // what others wrote is read after theirs
    }
    __syncthreads();
}

// The sum of all blocks' parts, in the same order in every block.
__device__ float sum_parts(const float* parts, Scratch& scratch) {
    float sum = 0.0f;
#pragma unroll 1
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) sum += __ldcg(&parts[i]);
    return block_reduce(sum, scratch, Sum{});
}

} // namespace

// `parts` holds two floats a block, `out` the mean and the variance.
extern "C" __global__ void __launch_bounds__(kMaxThreads)
grid_variance(const float* __restrict__ x, int n, float* parts, unsigned* arrived, float* out) {
    __shared__ Scratch for_block, for_grid; // each used again after a barrier of the grid
    const int first = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;

    float sum = 0.0f;
#pragma unroll 1
    for (int i = first; i < n; i += step) sum += x[i];
    sum = block_reduce(sum, for_block, Sum{});
    if (is_writer()) parts[blockIdx.x] = sum;
    grid_barrier(arrived, 1);
    const float mean = sum_parts(parts, for_grid) / n;

    float squares = 0.0f;
#pragma unroll 1
    for (int i = first; i < n; i += step) squares += (x[i] - mean) * (x[i] - mean);
    squares = block_reduce(squares, for_block, Sum{});
    if (is_writer()) parts[gridDim.x + blockIdx.x] = squares;
    grid_barrier(arrived, 2);
    if (blockIdx.x == 0) {
        const float variance = sum_parts(parts + gridDim.x, for_grid) / n;
        if (is_writer()) {
            out[0] = mean;
            out[1] = variance;
        }
    }
}
