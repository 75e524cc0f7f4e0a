// Root-mean-square norm by row (Zhang and Sennrich 2019). A block of 256 threads works on one row, or each of its
// warps on a short one (heads). Eight elements a thread and turn; the first turns stay in registers, so that rows of
// up to 8192 elements (backward 4096; a warp's, an eighth) are read once. The sum before a norm is made and stored on
// the way, with the bits of `add`: it need not be read again.
#include "common/element.cuh"
#include "common/reduce.cuh"

namespace {

constexpr int kThreads = 256;

// What a thread works on: every kLanes-th vector of a row.
template <int kLanes>
struct Row {
    uint32_t index, lane, cols;
    bool aligned;

    __device__ __forceinline__ explicit Row(uint32_t cols)
        : index(blockIdx.x * (kThreads / kLanes) + threadIdx.x / kLanes), lane(threadIdx.x % kLanes), cols(cols),
          aligned(cols % kVector == 0) {}

    // First element of vector `turn`.
    __device__ __forceinline__ uint32_t at(uint32_t turn) const { return (turn * kLanes + lane) * kVector; }
    __device__ __forceinline__ uint32_t count(uint32_t i) const { return min(uint32_t(kVector), cols - i); }
    __device__ __forceinline__ uint64_t start() const { return uint64_t(index) * cols; }

    __device__ __forceinline__ void load(float (&to)[kVector], const Tensor& x, uint64_t start, uint32_t i) const {
        load_vector(to, x, start + i, aligned, count(i));
    }
    __device__ __forceinline__ void store(const Tensor& x, uint32_t i, const float (&from)[kVector]) const {
        store_vector(x, start() + i, from, aligned, count(i));
    }
    __device__ __forceinline__ float sum(float x) const {
        __shared__ float scratch[kThreads / 32];
        if constexpr (kLanes == 32) {
            return warp_reduce<Sum>(x);
        } else {
            return block_reduce<Sum>(x, scratch);
        }
    }
};

template <int kLanes>
__device__ __forceinline__ void forward(const RmsNormParams& p) {
    constexpr int kHeld = 4;
    const Row<kLanes> row(p.cols);
    if (row.index >= p.rows) return;
    float held[kHeld][kVector] = {}, squares = 0.0f;
    const bool adds = p.sum.data != 0;
    const auto load = [&](float(&x)[kVector], uint32_t i) {
        row.load(x, p.x, row.start(), i);
        if (!adds) return;
        float added[kVector];
        row.load(added, p.added, row.start(), i);
#pragma unroll
        for (int e = 0; e < kVector; ++e) x[e] += added[e];
        row.store(p.sum, i, x);
        if (p.sum.dtype != DTYPE_BF16) return;
#pragma unroll
        for (int e = 0; e < kVector; ++e) x[e] = __bfloat162float(__float2bfloat16_rn(x[e]));
    };
    const auto add_squares = [&](const float(&x)[kVector]) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) squares += x[e] * x[e];
    };
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) {
        if (row.at(turn) < p.cols) load(held[turn], row.at(turn));
        add_squares(held[turn]);
    }
    for (uint32_t i = row.at(kHeld); i < p.cols; i += kLanes * kVector) {
        float x[kVector];
        load(x, i);
        add_squares(x);
    }
    const float inv = 1.0f / sqrtf(row.sum(squares) / float(p.cols) + p.eps);
    if (row.lane == 0) pointer<float>(p.inv_rms)[row.index] = inv;
    const auto finish = [&](uint32_t i, float(&x)[kVector]) {
        float weight[kVector];
        row.load(weight, p.weight, 0, i);
#pragma unroll
        for (int e = 0; e < kVector; ++e) x[e] = x[e] * inv * weight[e];
        row.store(p.y, i, x);
    };
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) {
        if (row.at(turn) < p.cols) finish(row.at(turn), held[turn]);
    }
    for (uint32_t i = row.at(kHeld); i < p.cols; i += kLanes * kVector) {
        float x[kVector];
        row.load(x, adds ? p.sum : p.x, row.start(), i);
        finish(i, x);
    }
}

// dx = inv . (g - x . inv^2 . mean(g . x)) with g = dy . weight
template <int kLanes>
__device__ __forceinline__ void backward(const RmsNormBackwardParams& p) {
    constexpr int kHeld = 2;
    const Row<kLanes> row(p.cols);
    if (row.index >= p.rows) return;
    const float inv = pointer<const float>(p.inv_rms)[row.index];
    float gs[kHeld][kVector] = {}, xs[kHeld][kVector] = {}, dot = 0.0f;
    const auto load = [&](float(&g)[kVector], float(&x)[kVector], uint32_t i) {
        float weight[kVector];
        row.load(g, p.dy, row.start(), i);
        row.load(weight, p.weight, 0, i);
        row.load(x, p.x, row.start(), i);
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
            g[e] *= weight[e];
            dot += g[e] * x[e];
        }
    };
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) {
        if (row.at(turn) < p.cols) load(gs[turn], xs[turn], row.at(turn));
    }
    for (uint32_t i = row.at(kHeld); i < p.cols; i += kLanes * kVector) {
        float g[kVector], x[kVector];
        load(g, x, i);
    }
    const float factor = row.sum(dot) / float(p.cols) * inv * inv;
    const auto finish = [&](uint32_t i, const float(&g)[kVector], const float(&x)[kVector]) {
        float dx[kVector] = {};
        if (p.accumulate) row.load(dx, p.dx, row.start(), i);
#pragma unroll
        for (int e = 0; e < kVector; ++e) dx[e] += inv * (g[e] - x[e] * factor);
        row.store(p.dx, i, dx);
    };
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) {
        if (row.at(turn) < p.cols) finish(row.at(turn), gs[turn], xs[turn]);
    }
    for (uint32_t i = row.at(kHeld); i < p.cols; i += kLanes * kVector) {
        float g[kVector], x[kVector];
        load(g, x, i);
        finish(i, g, x);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(kThreads, 4) rms_norm(const __grid_constant__ RmsNormParams p) {
    forward<kThreads>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 4) rms_norm_short(const __grid_constant__ RmsNormParams p) {
    forward<32>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
    rms_norm_backward(const __grid_constant__ RmsNormBackwardParams p) {
    backward<kThreads>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads, 3)
    rms_norm_backward_short(const __grid_constant__ RmsNormBackwardParams p) {
    backward<32>(p);
}
