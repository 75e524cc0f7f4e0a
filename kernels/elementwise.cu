// Sums, scaling, and rows picked or put by index. Eight elements a thread and turn, 256 threads; bound by memory.
#include "common/element.cuh"

extern "C" __global__ void __launch_bounds__(256) add(const __grid_constant__ AddParams p) {
    each_vector(p.len, [&](uint64_t i, bool whole, uint32_t count) {
        float x[kVector], y[kVector];
        load_vector(x, p.x, i, whole, count);
        if (p.y.data != 0) {
            load_vector(y, p.y, i, whole, count);
#pragma unroll
            for (int e = 0; e < kVector; ++e) x[e] += y[e];
        }
        store_vector(p.out, i, x, whole, count);
    });
}

extern "C" __global__ void __launch_bounds__(256) scale(const __grid_constant__ ScaleParams p) {
    each_vector(p.len, [&](uint64_t i, bool whole, uint32_t count) {
        float x[kVector];
        load_vector(x, p.x, i, whole, count);
#pragma unroll
        for (int e = 0; e < kVector; ++e) x[e] *= p.factor;
        store_vector(p.x, i, x, whole, count);
    });
}

namespace {

// A block copies a row.
__device__ __forceinline__ void copy_row(const Tensor& from, uint64_t from_row, const Tensor& to, uint64_t to_row,
                                         uint64_t cols) {
    const bool aligned = cols % kVector == 0;
    for (uint64_t col = threadIdx.x * kVector; col < cols; col += blockDim.x * kVector) {
        const uint32_t count = min(uint64_t(kVector), cols - col);
        float x[kVector];
        load_vector(x, from, from_row * cols + col, aligned, count);
        store_vector(to, to_row * cols + col, x, aligned, count);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) gather_rows(const __grid_constant__ GatherParams p) {
    copy_row(p.table, pointer<const uint32_t>(p.ids)[blockIdx.x], p.out, blockIdx.x, p.cols);
}

extern "C" __global__ void __launch_bounds__(256) scatter_rows(const __grid_constant__ ScatterParams p) {
    copy_row(p.x, blockIdx.x, p.out, pointer<const uint32_t>(p.ids)[blockIdx.x], p.cols);
}

extern "C" __global__ void __launch_bounds__(256) round_rows(const __grid_constant__ RoundRowsParams p) {
    const bool aligned = p.cols % kVector == 0 && p.out_stride % kVector == 0;
    for (uint64_t col = threadIdx.x * kVector; col < p.cols; col += blockDim.x * kVector) {
        const uint32_t count = min(uint64_t(kVector), p.cols - col);
        const uint64_t to = blockIdx.x * p.out_stride + col;
        float sum[kVector];
        load_vector(sum, p.sums, blockIdx.x * p.cols + col, aligned, count);
        const auto add = [&](const Tensor& tensor, uint64_t at) {
            float more[kVector];
            load_vector(more, tensor, at, aligned, count);
#pragma unroll
            for (int e = 0; e < kVector; ++e) sum[e] += more[e];
        };
        if (p.bias.data != 0) add(p.bias, col);
        if (p.accumulate) add(p.out, to);
        store_vector(p.out, to, sum, aligned, count);
    }
}
