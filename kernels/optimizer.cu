// AdamW over many tensors in one launch, and the norm that clipping needs.
#include "common/element.cuh"
#include "common/reduce.cuh"

// Each block sums its own part: the host adds the partial sums in order.
extern "C" __global__ void __launch_bounds__(256) squared_norm(const __grid_constant__ SquaredNormParams p) {
    __shared__ double scratch[8];
    double sum = 0.0;
    each_vector(p.len, [&](uint64_t i, bool whole, uint32_t count) {
        float x[kVector];
        load_vector(x, p.x, i, whole, count);
        for (int e = 0; e < kVector; ++e) sum += double(x[e]) * x[e];
    });
    sum = block_reduce<Sum>(sum, scratch);
    if (threadIdx.x == 0) pointer<double>(p.partial)[blockIdx.x] = sum;
}

// Decay first and decoupled, as torch does it (Loshchilov and Hutter 2019). All f32.
extern "C" __global__ void __launch_bounds__(256) adamw(const __grid_constant__ AdamWParams p) {
    const AdamWEntry& t = p.tensors[blockIdx.y];
    float *params = pointer<float>(t.param), *ms = pointer<float>(t.m), *vs = pointer<float>(t.v);
    const float* grads = pointer<const float>(t.grad);
    for (uint64_t i = global_thread(); i < t.len; i += global_threads()) {
        const float grad = grads[i] * p.grad_scale;
        const float m = ms[i] + (grad - ms[i]) * (1.0f - p.beta1);
        const float v = vs[i] * p.beta2 + grad * grad * (1.0f - p.beta2);
        const float denominator = sqrtf(v) / p.v_root_correction + p.eps;
        ms[i] = m;
        vs[i] = v;
        params[i] = params[i] * p.decay - p.step_size * (m / denominator);
    }
}
