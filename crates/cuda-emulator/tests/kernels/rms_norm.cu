// y = x * rstd * weight with rstd = 1 / sqrt(mean(x^2) + epsilon), a block a row. Rows have an even
// number of columns and are read two at a time.
#include <cuda_bf16.h>

#include "reduce.cuh"

extern "C" __global__ void __launch_bounds__(kMaxThreads)
rms_norm(const __nv_bfloat16* __restrict__ x, const __nv_bfloat16* __restrict__ weight, __nv_bfloat16* __restrict__ y,
         float* __restrict__ rstd, int columns, float epsilon) {
    __shared__ Scratch scratch;
    const size_t start = static_cast<size_t>(blockIdx.x) * columns;
    const auto* in = reinterpret_cast<const __nv_bfloat162*>(x + start);
    const auto* gain = reinterpret_cast<const __nv_bfloat162*>(weight);
    auto* out = reinterpret_cast<__nv_bfloat162*>(y + start);

    float squares = 0.0f;
#pragma unroll 1
    for (int i = threadIdx.x; i < columns / 2; i += blockDim.x) {
        const float2 v = __bfloat1622float2(in[i]);
        squares += v.x * v.x + v.y * v.y;
    }
    const float scale = rsqrtf(block_reduce(squares, scratch, Sum{}) / columns + epsilon);
    if (is_writer()) rstd[blockIdx.x] = scale;
#pragma unroll 1
    for (int i = threadIdx.x; i < columns / 2; i += blockDim.x) {
        const float2 v = __bfloat1622float2(in[i]), g = __bfloat1622float2(gain[i]);
        out[i] = __floats2bfloat162_rn(v.x * scale * g.x, v.y * scale * g.y);
    }
}
