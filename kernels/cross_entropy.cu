// Softmax and cross-entropy of rows of logits, the gradient in place. A block of 256 threads for each row.
#include <math_constants.h>

#include "common/element.cuh"
#include "common/reduce.cuh"

extern "C" __global__ void __launch_bounds__(256) cross_entropy(const __grid_constant__ CrossEntropyParams p) {
    __shared__ float scratch[8];
    float* logits = pointer<float>(p.logits) + uint64_t(blockIdx.x) * p.vocab;
    const uint32_t token = pointer<const uint32_t>(p.ids)[blockIdx.x];
    const uint32_t label = pointer<const uint32_t>(p.labels)[token];
    float most = -CUDART_INF_F;
    for (uint64_t i = threadIdx.x; i < p.vocab; i += blockDim.x) most = fmaxf(most, logits[i]);
    most = block_reduce<Max>(most, scratch);
    float total = 0.0f;
    for (uint64_t i = threadIdx.x; i < p.vocab; i += blockDim.x) total += expf(logits[i] - most);
    total = block_reduce<Sum>(total, scratch);
    // The label's logit is read before the gradient takes its place.
    if (threadIdx.x == 0) pointer<float>(p.token_loss)[token] = logf(total) + (most - logits[label]);
    if (!p.gradient) return;
    __syncthreads();
    const float factor = p.grad_scale / total;
    for (uint64_t i = threadIdx.x; i < p.vocab; i += blockDim.x) {
        const float probability = expf(logits[i] - most) * factor;
        logits[i] = i == label ? probability - p.grad_scale : probability;
    }
}
