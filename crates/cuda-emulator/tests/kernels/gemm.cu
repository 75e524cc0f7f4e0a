// C[m, n] = A[m, k] . B[n, k]^T, bf16 in, f32 out. A block computes 64x64 with four warps of 32x32 each,
// from two shared buffers that asynchronous copies fill in turn. Rows of A and B are `stride` elements
// apart, a multiple of 8; what lies between k and stride is never read.
#include "matrix.cuh"

namespace {

constexpr int kTile = 64, kDepth = 32, kThreads = 128;

using Panel = __nv_bfloat16[kTile * kDepth];

// Offset of 16-byte chunk `chunk` of row `row`. Two rows share a 128-byte line; the swizzle makes
// both the copies and ldmatrix free of bank conflicts.
__device__ __forceinline__ int swizzled(int row, int chunk) {
    return row * kDepth + (chunk ^ (row / 2 % 4)) * 8;
}

// Starts the copy of rows [row0, row0 + 64) and columns [k0, k0 + 32) of a matrix of `rows` by `k`.
// Columns past the end are zero; rows past the end repeat the last one, for results nobody stores.
__device__ __forceinline__ void copy_panel(Panel& to, const __nv_bfloat16* from, int row0, int rows, int k0, int k, int stride) {
#pragma unroll
    for (int part = 0; part < kTile * kDepth / 8 / kThreads; ++part) {
        const int i = threadIdx.x + part * kThreads;
        const int row = i / 4, chunk = i % 4, column = k0 + chunk * 8;
        const int bytes = min(max(k - column, 0), 8) * 2;
        const __nv_bfloat16* source = from + static_cast<size_t>(min(row0 + row, rows - 1)) * stride;
        copy_async_16(&to[swizzled(row, chunk)], source + (bytes > 0 ? column : 0), bytes);
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
gemm(const __nv_bfloat16* __restrict__ a, const __nv_bfloat16* __restrict__ b, float* __restrict__ c, int m, int n, int k, int stride) {
    __shared__ __align__(128) Panel panel_a[2];
    __shared__ __align__(128) Panel panel_b[2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = blockIdx.y * kTile, column0 = blockIdx.x * kTile;
    const int warp_row = warp % 2 * 32, warp_column = warp / 2 * 32;

    float sum[2][4][4] = {};
    const int steps = (k + kDepth - 1) / kDepth;
    auto copy = [&](int step) {
        copy_panel(panel_a[step % 2], a, row0, m, step * kDepth, k, stride);
        copy_panel(panel_b[step % 2], b, column0, n, step * kDepth, k, stride);
        copy_async_commit();
    };

    copy(0);
    for (int step = 0; step < steps; ++step) {
        if (step + 1 < steps) {
            copy(step + 1);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t left[2][4], right[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int row = warp_row + i * 16 + lane % 16;
                load_matrix(left[i], &panel_a[step % 2][swizzled(row, half * 2 + lane / 16)]);
            }
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const int row = warp_column + j * 16 + lane % 8 + lane / 16 * 8;
                load_matrix(right[j], &panel_b[step % 2][swizzled(row, half * 2 + lane / 8 % 2)]);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) multiply_add(sum[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
        __syncthreads(); // the buffer is filled again by the next step but one
    }

#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int row = row0 + warp_row + i * 16 + lane / 4 + e / 2 * 8;
                const int column = column0 + warp_column + j * 8 + lane % 4 * 2 + e % 2;
                if (row < m && column < n) c[static_cast<size_t>(row) * n + column] = sum[i][j][e];
            }
}
