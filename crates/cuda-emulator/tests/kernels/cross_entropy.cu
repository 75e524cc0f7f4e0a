// Softmax cross-entropy and its gradient in two stages without atomics: a block a row, then one block
// over the rows' losses. A negative target leaves the row out.

#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(kMaxThreads)
cross_entropy(const float* __restrict__ logits, const int* __restrict__ targets, float* __restrict__ row_loss,
              float* __restrict__ gradient, int classes, float scale) {
    __shared__ Scratch for_largest, for_total;
    const size_t start = static_cast<size_t>(blockIdx.x) * classes;
    const float* row = logits + start;
    float* out = gradient + start;
    const int target = targets[blockIdx.x];
    if (target < 0) { // the same for the whole block
#pragma unroll 1
        for (int i = threadIdx.x; i < classes; i += blockDim.x) out[i] = 0.0f;
        if (is_writer()) row_loss[blockIdx.x] = 0.0f;
        return;
    }

    float largest = Max::identity;
#pragma unroll 1
    for (int i = threadIdx.x; i < classes; i += blockDim.x) largest = fmaxf(largest, row[i]);
    largest = block_reduce(largest, for_largest, Max{});
    float total = 0.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < classes; i += blockDim.x) total += expf(row[i] - largest);
    total = block_reduce(total, for_total, Sum{});

    if (is_writer()) row_loss[blockIdx.x] = logf(total) + largest - row[target];
#pragma unroll 1
    for (int i = threadIdx.x; i < classes; i += blockDim.x) {
        const float probability = expf(row[i] - largest) / total;
        out[i] = (i == target ? probability - 1.0f : probability) * scale;
    }
}

extern "C" __global__ void __launch_bounds__(kMaxThreads)
total_loss(const float* __restrict__ row_loss, float* __restrict__ loss, int rows, float scale) {
    __shared__ Scratch scratch;
    float sum = 0.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < rows; i += blockDim.x) sum += row_loss[i];
    sum = block_reduce(sum, scratch, Sum{});
    if (is_writer()) *loss = sum * scale;
}
