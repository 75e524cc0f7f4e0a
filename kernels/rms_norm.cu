// Root-mean-square norm by row (Zhang and Sennrich 2019). A block of 256 threads for each row.
#include "common/element.cuh"
#include "common/reduce.cuh"

extern "C" __global__ void __launch_bounds__(256) rms_norm(const __grid_constant__ RmsNormParams p) {
    __shared__ float scratch[8];
    const uint64_t start = uint64_t(blockIdx.x) * p.cols;
    float squares = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.cols; i += blockDim.x) {
        const float x = load(p.x, start + i);
        squares += x * x;
    }
    squares = block_reduce<Sum>(squares, scratch);
    const float inv = 1.0f / sqrtf(squares / float(p.cols) + p.eps);
    if (threadIdx.x == 0) pointer<float>(p.inv_rms)[blockIdx.x] = inv;
    for (uint32_t i = threadIdx.x; i < p.cols; i += blockDim.x) {
        store(p.y, start + i, load(p.x, start + i) * inv * load(p.weight, i));
    }
}

// dx = inv . (g - x . inv^2 . mean(g . x)) with g = dy . weight
extern "C" __global__ void __launch_bounds__(256) rms_norm_backward(const __grid_constant__ RmsNormBackwardParams p) {
    __shared__ float scratch[8];
    const uint64_t start = uint64_t(blockIdx.x) * p.cols;
    const float inv = pointer<const float>(p.inv_rms)[blockIdx.x];
    float dot = 0.0f;
    for (uint32_t i = threadIdx.x; i < p.cols; i += blockDim.x) {
        dot += load(p.dy, start + i) * load(p.weight, i) * load(p.x, start + i);
    }
    dot = block_reduce<Sum>(dot, scratch);
    const float factor = dot / float(p.cols) * inv * inv;
    for (uint32_t i = threadIdx.x; i < p.cols; i += blockDim.x) {
        const float g = load(p.dy, start + i) * load(p.weight, i);
        float dx = inv * (g - load(p.x, start + i) * factor);
        if (p.accumulate) dx += load(p.dx, start + i);
        store(p.dx, start + i, dx);
    }
}
