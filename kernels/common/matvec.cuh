// What the products of few rows share: a block has a few rows of the weight, whose sums its warps have cut
// along the depth.
#pragma once

#include "element.cuh"
#include "reduce.cuh"

constexpr int kMostWarps = MATVEC_WARPS;

// A block's sums: `kPitch` floats for the weight's rows, to keep stores apart in banks.
template <int kRows, int kPitch>
struct Partials {
    float warps[kMostWarps][MATVEC_ROWS][kPitch];
    float extra[kRows][MATVEC_ROWS];
};

// The extra product for the weight's rows from `row`, a warp for each.
template <int kRows, int kPitch>
__device__ __forceinline__ void multiply_extra(Partials<kRows, kPitch>& partials, const MatvecParams& p, uint32_t row) {
    const uint32_t lane = threadIdx.x % 32;
    for (uint32_t r = threadIdx.x / 32; r < kRows && row + r < p.n; r += blockDim.x / 32) {
        float sum[MATVEC_ROWS] = {};
        for (uint32_t j = lane; j < p.extra_k; j += 32) {
            const float b = load(p.extra_b, uint64_t(row + r) * p.extra_k + j);
#pragma unroll
            for (uint32_t m = 0; m < MATVEC_ROWS; ++m) {
                if (m < p.m) sum[m] += load(p.extra_a, uint64_t(m) * p.extra_k + j) * b;
            }
        }
#pragma unroll
        for (uint32_t m = 0; m < MATVEC_ROWS; ++m) {
            if (m >= p.m) break;
            sum[m] = warp_reduce<Sum>(sum[m]);
            if (lane == 0) partials.extra[r][m] = sum[m];
        }
    }
}

// Adds up what the warps have, behind a barrier, and rounds once.
template <int kRows, int kPitch>
__device__ __forceinline__ void finish(const Partials<kRows, kPitch>& partials, const MatvecParams& p, uint32_t row) {
    for (uint32_t i = threadIdx.x; i < kRows * p.m; i += blockDim.x) {
        const uint32_t r = i % kRows, m = i / kRows, n = row + r;
        if (n >= p.n) continue;
        float value = partials.warps[0][m][r];
        for (uint32_t warp = 1; warp < blockDim.x / 32; ++warp) value += partials.warps[warp][m][r];
        if (p.extra_k != 0) value += p.extra_alpha * partials.extra[r][m];
        if (p.bias.data != 0) value += load(p.bias, n);
        store(p.out, uint64_t(m) * p.n + n, value);
    }
}
