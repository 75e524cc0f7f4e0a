// Softmax and cross-entropy of rows of logits, the gradient in place. A block of 256 threads for each row, which it
// reads twice: the maximum and the sum of exponentials are found in one pass, rescaled where the maximum grows.
#include <float.h>
#include <math_constants.h>

#include "common/element.cuh"
#include "common/reduce.cuh"

namespace {

constexpr int kThreads = 256;

// Logits `i` .. `i` + 4 of a row; behind its end, ones that count for nothing.
__device__ __forceinline__ float4 load_quad(const float* logits, uint32_t i, uint32_t vocab) {
    if (i + 4 <= vocab) return *reinterpret_cast<const float4*>(logits + i);
    const auto at = [&](uint32_t i) { return i < vocab ? logits[i] : -CUDART_INF_F; };
    return make_float4(at(i), at(i + 1), at(i + 2), at(i + 3));
}

} // namespace

extern "C" __global__ void __launch_bounds__(kThreads) cross_entropy(const __grid_constant__ CrossEntropyParams p) {
    __shared__ float scratch[kThreads / 32];
    float* logits = pointer<float>(p.logits) + uint64_t(blockIdx.x) * p.stride;
    const uint32_t token = pointer<const uint32_t>(p.ids)[blockIdx.x];
    const uint32_t label = pointer<const uint32_t>(p.labels)[token];
    // Of this thread. The maximum is that of the numbers; NaN shows in the sum.
    float most = -FLT_MAX, sum = 0.0f;
    for (uint32_t i = threadIdx.x * 4; i < p.vocab; i += kThreads * 4) {
        const float4 x = load_quad(logits, i, p.vocab);
        const float peak = fmaxf(most, fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)));
        sum = sum * expf(most - peak) + (expf(x.x - peak) + expf(x.y - peak) + expf(x.z - peak) + expf(x.w - peak));
        most = peak;
    }
    const float peak = block_reduce<Max>(most, scratch);
    const float total = block_reduce<Sum>(sum * expf(most - peak), scratch);
    // The label's logit is read before the gradient takes its place.
    if (threadIdx.x == 0) pointer<float>(p.token_loss)[token] = logf(total) + (peak - logits[label]);
    if (p.gradient == GRADIENT_NONE) return;
    __syncthreads();
    const float factor = p.grad_scale / total;
    const auto gradient = [&](uint32_t i, float logit) {
        const float probability = expf(logit - peak) * factor;
        return i == label ? probability - p.grad_scale : probability;
    };
    __nv_bfloat16* narrow = reinterpret_cast<__nv_bfloat16*>(logits);
    // Whole blocks of the row, because of the barrier: bf16 gradients go where logits of this and of earlier rounds
    // were, which are read by then.
    for (uint32_t begin = 0; begin < p.vocab; begin += kThreads * 4) {
        const uint32_t i = begin + threadIdx.x * 4;
        const float4 x = load_quad(logits, i, p.vocab);
        const float4 g = make_float4(gradient(i, x.x), gradient(i + 1, x.y), gradient(i + 2, x.z), gradient(i + 3, x.w));
        __syncthreads();
        if (p.gradient == GRADIENT_BF16) {
            if (i < (p.vocab + 7) / 8 * 8) {
                *reinterpret_cast<uint2*>(narrow + i) = make_uint2(pack_bf16(g.x, g.y), pack_bf16(g.z, g.w));
            }
        } else if (i < p.vocab) {
            *reinterpret_cast<float4*>(logits + i) = g;
        }
    }
}
