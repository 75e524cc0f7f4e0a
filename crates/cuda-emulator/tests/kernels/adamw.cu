// One AdamW step: f32 weights and moments, bf16 gradients, and a bf16 copy of the new weights. Four
// elements a thread, the last ones singly.
#include <cuda_bf16.h>

struct Hyper {
    float rate, beta1, beta2, epsilon, decay;
    float correction1, correction2; // 1 / (1 - beta^step)
};

namespace {

__device__ __forceinline__ void update(float& w, float& m, float& v, float g, const Hyper& h) {
    m = h.beta1 * m + (1.0f - h.beta1) * g;
    v = h.beta2 * v + (1.0f - h.beta2) * g * g;
    w -= h.rate * (m * h.correction1 / (sqrtf(v * h.correction2) + h.epsilon) + h.decay * w);
}

} // namespace

extern "C" __global__ void adamw(float* weight, __nv_bfloat16* copy, float* first, float* second, const __nv_bfloat16* gradient, int n, Hyper h) {
    const int i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i + 4 <= n) {
        float4 w = *reinterpret_cast<float4*>(weight + i);
        float4 m = *reinterpret_cast<float4*>(first + i);
        float4 v = *reinterpret_cast<float4*>(second + i);
        const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(gradient + i);
        const float2 low = __bfloat1622float2(pairs[0]), high = __bfloat1622float2(pairs[1]);
        update(w.x, m.x, v.x, low.x, h);
        update(w.y, m.y, v.y, low.y, h);
        update(w.z, m.z, v.z, high.x, h);
        update(w.w, m.w, v.w, high.y, h);
        *reinterpret_cast<float4*>(weight + i) = w;
        *reinterpret_cast<float4*>(first + i) = m;
        *reinterpret_cast<float4*>(second + i) = v;
        auto* out = reinterpret_cast<__nv_bfloat162*>(copy + i);
        out[0] = __floats2bfloat162_rn(w.x, w.y);
        out[1] = __floats2bfloat162_rn(w.z, w.w);
    } else {
#pragma unroll 1
        for (int j = i; j < n; ++j) {
            update(weight[j], first[j], second[j], __bfloat162float(gradient[j]), h);
            copy[j] = __float2bfloat16_rn(weight[j]);
        }
    }
}
