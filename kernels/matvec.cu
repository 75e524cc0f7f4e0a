// Product of up to MATVEC_ROWS rows with a weight of any type, dense or 4-bit, with an extra product (LoRA) and
// bias, summed in f32 and rounded once: heads, adapters' A and f32 activations of generation. `nf4_matvec.cu`
// takes bf16 activations by 4-bit weights.
//
// A block has 4 rows of the weight, or one where there are few; its warps share the depth, a lane has 8 neighbouring
// weights of each row a step. The weight is read once, past L1, so that L1 keeps the rows of x, which every block
// reads.
//
// Counts of the emulated device, not times, for a bf16 weight of n = k = 4096 (33.6 MB), bf16 x of one and four rows:
// 42.0 and 67.2 MB with x counted once a block, which L1 and L2 serve; bound by memory without caches 44.9 and 71.8 us
// on an RTX 3090, 41.6 and 66.7 us on an RTX 4090; 9.5 and 20.7 instructions of PTX a weight, of 38 and 82 that the
// devices issue while its two bytes come; no bank conflicts.
#include "common/eight.cuh"
#include "common/matvec.cuh"
#include "common/quantized.cuh"

namespace {

// Eight weights on their way from memory.
template <int kType>
struct Weights {
    Eight<kType> eight;

    __device__ __forceinline__ void fetch(const MatvecParams& p, uint64_t at) { eight.fetch(p.weight, at); }
    __device__ __forceinline__ void get(float (&to)[kVector], float) const { eight.get(to); }
};

template <>
struct Weights<DTYPE_4BIT> {
    uint32_t codes = 0;
    float scale = 0.0f;

    __device__ __forceinline__ void fetch(const MatvecParams& p, uint64_t at) {
        codes = __ldcs(pointer<const uint32_t>(p.weight.data) + at / kVector);
        scale = block_absmax(p.scales, at >> p.scales.log2_block);
    }
    // `code` is that of number lane % 16; all lanes look up together.
    __device__ __forceinline__ void get(float (&to)[kVector], float code) const {
#pragma unroll
        for (uint32_t i = 0; i < kVector; ++i) {
            const uint32_t shift = i / 2 * 8 + (i % 2 ? 0 : 4); // the first of a byte is its high half
            to[i] = __fmul_rn(__shfl_sync(0xffffffffu, code, codes >> shift, 16), scale);
        }
    }
};

// Sums of this warp's part of the depth, of all its lanes.
template <int kType, int kRows>
__device__ __forceinline__ void multiply(float (&sum)[MATVEC_ROWS][kRows], const MatvecParams& p, uint32_t row) {
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float code = p.scales.codebook[lane % 16];
    for (uint32_t base = warp * 32 * kVector; base < p.k; base += blockDim.x * kVector) {
        const uint32_t col = base + lane * kVector;
        const bool present = col < p.k;
        Weights<kType> fetched[kRows];
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r) {
            // Rows past the end repeat the last: they give results that are not stored.
            if (present) fetched[r].fetch(p, uint64_t(min(row + r, p.n - 1)) * p.k + col);
        }
        float weights[kRows][kVector];
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r) fetched[r].get(weights[r], code);
#pragma unroll
        for (uint32_t m = 0; m < MATVEC_ROWS; ++m) {
            if (m >= p.m) break;
            float x[kVector] = {};
            if (present) load_eight(x, p.x, uint64_t(m) * p.k + col);
#pragma unroll
            for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
                for (uint32_t i = 0; i < kVector; ++i) sum[m][r] += x[i] * weights[r][i];
            }
        }
    }
}

template <int kRows>
__device__ __forceinline__ void matvec(const MatvecParams& p) {
    __shared__ Partials<kRows, kRows> partials;
    const uint32_t row = blockIdx.x * kRows, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    if (p.extra_k != 0) multiply_extra(partials, p, row);
    float sum[MATVEC_ROWS][kRows] = {};
    switch (p.weight.dtype) {
        case DTYPE_F32: multiply<DTYPE_F32>(sum, p, row); break;
        case DTYPE_BF16: multiply<DTYPE_BF16>(sum, p, row); break;
        default: multiply<DTYPE_4BIT>(sum, p, row);
    }
#pragma unroll
    for (uint32_t m = 0; m < MATVEC_ROWS; ++m) {
        if (m >= p.m) break;
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r) {
            const float total = warp_reduce<Sum>(sum[m][r]);
            if (lane == 0) partials.warps[warp][m][r] = total;
        }
    }
    __syncthreads();
    finish(partials, p, row);
}

} // namespace

extern "C" __global__ void __launch_bounds__(32 * MATVEC_WARPS) matvec_4(const __grid_constant__ MatvecParams p) {
    matvec<4>(p);
}

// For few outputs: more blocks.
extern "C" __global__ void __launch_bounds__(32 * MATVEC_WARPS) matvec_1(const __grid_constant__ MatvecParams p) {
    matvec<1>(p);
}
