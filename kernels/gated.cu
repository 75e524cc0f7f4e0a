// Gated activations: out = act(gate) . up, and both gradients in one pass.
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
    for (uint64_t i = global_thread(); i < p.len; i += global_threads()) {
        store(p.out, i, activate(p.activation, load(p.gate, i)).value * load(p.up, i));
    }
}

extern "C" __global__ void __launch_bounds__(256) gated_backward(const __grid_constant__ GatedBackwardParams p) {
    for (uint64_t i = global_thread(); i < p.len; i += global_threads()) {
        const Activated gate = activate(p.activation, load(p.gate, i));
        const float d_out = load(p.d_out, i), up = load(p.up, i);
        store(p.d_gate, i, d_out * up * gate.slope);
        store(p.d_up, i, d_out * gate.value);
    }
}
