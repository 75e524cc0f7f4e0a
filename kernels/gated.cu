// Gated activations: out = act(gate) . up, and both gradients in one pass, in the place of the inputs, with the output again in the place of its gradient. Eight elements a thread and turn.
#include "common/element.cuh"

namespace {

struct Activated {
    float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// gelu in its tanh form is x . sigmoid(2 u), which does not cancel where tanh(u) nears -1
// (Hendrycks and Gimpel 2016).
__device__ __forceinline__ Activated activate(uint32_t activation, float x) {
    float u = x, du = 1.0f;
    if (activation == ACTIVATION_GELU_TANH) {
        constexpr float two_roots = 2.0f * 0.7978845608f, cubic = 0.044715f; // 2 sqrt(2 / pi)
        u = two_roots * (x + cubic * x * x * x);
        du = two_roots * (1.0f + 3.0f * cubic * x * x);
    }
    const float s = sigmoid(u);
    return {x * s, s + x * s * (1.0f - s) * du};
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) gated(const __grid_constant__ GatedParams p) {
    each_vector(p.len, [&](uint64_t i, bool whole, uint32_t count) {
        float gate[kVector], up[kVector];
        load_vector(gate, p.gate, i, whole, count);
        load_vector(up, p.up, i, whole, count);
#pragma unroll
        for (int e = 0; e < kVector; ++e) up[e] *= activate(p.activation, gate[e]).value;
        store_vector(p.out, i, up, whole, count);
    });
}

extern "C" __global__ void __launch_bounds__(256) gated_backward(const __grid_constant__ GatedBackwardParams p) {
    each_vector(p.len, [&](uint64_t i, bool whole, uint32_t count) {
        float gate[kVector], up[kVector], d_out[kVector];
        load_vector(gate, p.gate, i, whole, count);
        load_vector(up, p.up, i, whole, count);
        load_vector(d_out, p.d_out, i, whole, count);
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
            const Activated a = activate(p.activation, gate[e]);
            gate[e] = d_out[e] * up[e] * a.slope;
            const float d_up = d_out[e] * a.value;
            d_out[e] = a.value * up[e];
            up[e] = d_up;
        }
        store_vector(p.gate, i, gate, whole, count);
        store_vector(p.up, i, up, whole, count);
        store_vector(p.d_out, i, d_out, whole, count);
    });
}
