// Sums, scaling, and rows picked or put by index. Grid-stride, 256 threads; bound by memory.
#include "common/element.cuh"

extern "C" __global__ void __launch_bounds__(256) add(const __grid_constant__ AddParams p) {
    for (uint64_t i = global_thread(); i < p.len; i += global_threads()) store(p.out, i, load(p.x, i) + load(p.y, i));
}

extern "C" __global__ void __launch_bounds__(256) scale(const __grid_constant__ ScaleParams p) {
    for (uint64_t i = global_thread(); i < p.len; i += global_threads()) store(p.x, i, load(p.x, i) * p.factor);
}

// A block for each row.
extern "C" __global__ void __launch_bounds__(256) gather_rows(const __grid_constant__ GatherParams p) {
    const uint64_t row = pointer<const uint32_t>(p.ids)[blockIdx.x];
    for (uint64_t col = threadIdx.x; col < p.cols; col += blockDim.x) {
        store(p.out, blockIdx.x * p.cols + col, load(p.table, row * p.cols + col));
    }
}

// A block for each row.
extern "C" __global__ void __launch_bounds__(256) scatter_rows(const __grid_constant__ ScatterParams p) {
    const uint64_t row = pointer<const uint32_t>(p.ids)[blockIdx.x];
    for (uint64_t col = threadIdx.x; col < p.cols; col += blockDim.x) {
        store(p.out, row * p.cols + col, load(p.x, blockIdx.x * p.cols + col));
    }
}
