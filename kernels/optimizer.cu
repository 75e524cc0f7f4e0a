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

// Decay first and decoupled, as torch does it (Loshchilov and Hutter 2019). Nothing is fused: the processor gets the
// same bits.
__device__ __forceinline__ void step(const AdamWFactors& f, float grad, float& param, float& m, float& v) {
    grad = __fmul_rn(grad, f.grad_scale);
    m = __fadd_rn(m, __fmul_rn(__fsub_rn(grad, m), 1.0f - f.beta1));
    v = __fadd_rn(__fmul_rn(v, f.beta2), __fmul_rn(__fmul_rn(grad, grad), 1.0f - f.beta2));
    const float denominator = __fadd_rn(sqrtf(v) / f.v_root_correction, f.eps);
    param = __fsub_rn(__fmul_rn(param, f.decay), __fmul_rn(f.step_size, m / denominator));
}

extern "C" __global__ void __launch_bounds__(256) adamw(const __grid_constant__ AdamWParams p) {
    const AdamWEntry& t = p.tensors[blockIdx.y];
    float *params = pointer<float>(t.param), *ms = pointer<float>(t.m), *vs = pointer<float>(t.v);
    const float* grads = pointer<const float>(t.grad);
    for (uint64_t i = global_thread(); i < t.len; i += global_threads()) {
        float param = params[i], m = ms[i], v = vs[i];
        step(p.factors, grads[i], param, m, v);
        params[i] = param, ms[i] = m, vs[i] = v;
    }
}

// A warp's part of a moment: eight neighbours a lane, from `i` on.
struct Moments {
    const float *values, *tree; // in shared memory
    uint8_t* codes;
    float* absmax;

    __device__ __forceinline__ Moments(const float (&map)[2][256], const Moment8& moment)
        : values(map[0]), tree(map[1]), codes(pointer<uint8_t>(moment.codes)), absmax(pointer<float>(moment.absmax)) {}

    __device__ __forceinline__ void restore(float (&to)[kVector], uint64_t i, uint32_t count) const {
        uint32_t words[2] = {};
        if (count == kVector) {
            const uint2 pair = *reinterpret_cast<const uint2*>(codes + i);
            words[0] = pair.x, words[1] = pair.y;
        } else {
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
                if (e < count) words[e / 4] |= uint32_t(codes[i + e]) << e % 4 * 8;
            }
        }
        const float scale = absmax[i / MOMENT8_BLOCK];
#pragma unroll
        for (int e = 0; e < kVector; ++e) to[e] = values[words[e / 4] >> e % 4 * 8 & 255] * scale;
    }

    __device__ __forceinline__ uint32_t code(float x) const {
        uint32_t node = 1;
#pragma unroll
        for (int level = 0; level < 8; ++level) node = 2 * node + (tree[node] < x);
        return node & 255;
    }

    // Elements that are not there are zero.
    __device__ __forceinline__ void keep(const float (&from)[kVector], uint64_t i, uint32_t count) const {
        float scale = 1e-38f;
#pragma unroll
        for (int e = 0; e < kVector; ++e) scale = fmaxf(scale, fabsf(from[e]));
        scale = warp_reduce<Max>(scale);
        if (threadIdx.x % 32 == 0) absmax[i / MOMENT8_BLOCK] = scale;
        const float inverse = 1.0f / scale;
        uint32_t words[2] = {};
#pragma unroll
        for (int e = 0; e < kVector; ++e) words[e / 4] |= code(from[e] * inverse) << e % 4 * 8;
        if (count == kVector) {
            *reinterpret_cast<uint2*>(codes + i) = make_uint2(words[0], words[1]);
        } else {
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
                if (e < count) codes[i + e] = uint8_t(words[e / 4] >> e % 4 * 8);
            }
        }
    }
};

// The same with moments in 8-bit codes. bitsandbytes decays after the step on a card and before it on the processor;
// both differ by lr^2 * weight_decay, and first is what `adamw` does. A warp takes a block of 256 elements. In
// breadth-first order the nodes of a level are neighbours: lanes meet in a bank in the last two of eight steps only.
extern "C" __global__ void __launch_bounds__(256) adamw_8bit(const __grid_constant__ AdamW8bitParams p) {
    __shared__ float maps[2][2][256];
    const AdamW8bitEntry& t = p.tensors[blockIdx.y];
    const uint32_t warps = blockDim.x / 32;
    uint64_t start = (uint64_t(blockIdx.x) * warps + threadIdx.x / 32) * MOMENT8_BLOCK;
    if (uint64_t(blockIdx.x) * warps * MOMENT8_BLOCK >= t.len) return;
    for (uint32_t i = threadIdx.x; i < 4 * 256; i += blockDim.x) (&maps[0][0][0])[i] = pointer<const float>(p.maps)[i];
    __syncthreads();
    const Moments first(maps[0], t.m), second(maps[1], t.v);
    const Tensor params{t.param, DTYPE_F32, 0}, grads{t.grad, DTYPE_F32, 0};
    for (; start < t.len; start += uint64_t(gridDim.x) * warps * MOMENT8_BLOCK) {
        const uint64_t i = start + threadIdx.x % 32 * kVector;
        const uint32_t count = i >= t.len ? 0 : t.len - i < kVector ? uint32_t(t.len - i) : kVector;
        const bool whole = count == kVector;
        float param[kVector], grad[kVector], m[kVector], v[kVector];
        load_vector(param, params, i, whole, count);
        load_vector(grad, grads, i, whole, count);
        first.restore(m, i, count);
        second.restore(v, i, count);
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
            if (e < count && isfinite(grad[e])) {
                step(p.factors, grad[e], param[e], m[e], v[e]);
            } else {
                m[e] = v[e] = 0.0f;
            }
        }
        store_vector(params, i, param, whole, count);
        first.keep(m, i, count);
        second.keep(v, i, count);
    }
}
