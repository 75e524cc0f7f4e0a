// The adapter's own products, of bf16 activations x [m, k] with f32 factors of a small rank, on tensor cores:
// `lora_shrink` x . F^T [m, rank] (xa of the forward, dy . B of the backward) and `lora_gradient` S^T . x [rank, k]
// (dA, dB), x dropped out where asked. Bound by the one read of x.
//
// f32 factors go into the bf16 products as high + low parts: at most 2^-18 of a value is lost. A factor that is infinite
// gives NaN.
//
// Blocks of 256 threads, nothing shared but the last sums: 8 warps take every eighth piece of the reduction and add
// up in a fixed order. Every lane loads 16 bytes of x and uses them as the fragments of several products. That is a
// permutation of the reduction (shrink) or of the columns (gradient), the same for both factors or for the result.
// Shrink: 32 rows a block, 32 of k a warp and step. Gradient: 64 columns a block, 16 rows a warp and step.
#include "common/element.cuh"
#include "common/mma.cuh"
#include "common/philox.cuh"

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

// A pair of f32 values as bf16 pairs, almost whole.
struct Parts {
    uint32_t high, low;

    __device__ __forceinline__ Parts(float first, float second)
        : high(pack_bf16(first, second)),
          low(pack_bf16(first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u))) {}
};

// Eight elements of x from `at` on, those that are dropped as zeros.
__device__ __forceinline__ uint4 load_eight(const LoraParams& p, uint64_t at, bool present) {
    if (!present) return make_uint4(0, 0, 0, 0);
    uint4 x = __ldg(pointer<const uint4>(p.x) + at / 8);
    if (p.masked) {
        const uint32_t threshold = p.mask.threshold;
        const auto keep = [&](uint32_t pair, uint32_t first, uint32_t second) {
            return pair & ((first >= threshold ? 0xffffu : 0u) | (second >= threshold ? 0xffff0000u : 0u));
        };
        const uint4 a = philox_block(p.mask.key, p.mask.stream, at / 4);
        const uint4 b = philox_block(p.mask.key, p.mask.stream, at / 4 + 1);
        x = make_uint4(keep(x.x, a.x, a.y), keep(x.y, a.z, a.w), keep(x.z, b.x, b.y), keep(x.w, b.z, b.w));
    }
    return x;
}

// Sums N values of each lane over the warps; the first warp gets the result.
template <int N>
__device__ __forceinline__ void sum_warps(float* x) {
    constexpr int kPart = N < 32 ? N : 32;
    __shared__ float scratch[kWarps / 2][kPart][32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int begin = 0; begin < N; begin += kPart) {
#pragma unroll
        for (int half = kWarps / 2; half > 0; half /= 2) {
            if (warp >= half && warp < 2 * half) {
#pragma unroll
                for (int i = 0; i < kPart; ++i) scratch[warp - half][i][lane] = x[begin + i];
            }
            __syncthreads();
            if (warp < half) {
#pragma unroll
                for (int i = 0; i < kPart; ++i) x[begin + i] += scratch[warp][i][lane];
            }
            __syncthreads();
        }
    }
}

// Element (j, i) of [rank, k].
__device__ __forceinline__ uint64_t factor_at(const LoraParams& p, uint32_t j, uint32_t i) {
    return uint64_t(j) * p.rank_step + uint64_t(i) * p.k_step;
}

template <int kRanks>
__device__ __forceinline__ void shrink(const LoraParams& p) {
    constexpr int kRows = 32, kM = kRows / 16, kN = kRanks / 8, kDepth = 32;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t row = blockIdx.x * kRows + lane / 4, rank = blockIdx.y * kRanks + lane / 4;
    const bool whole = p.k_step == 1 && p.factor.dtype == DTYPE_F32 && p.rank_step % 4 == 0;
    float sum[kM][kN][4] = {};
    for (uint32_t i = warp * kDepth + lane % 4 * 8; i - lane % 4 * 8 < p.k; i += kWarps * kDepth) {
        const bool present = i < p.k;
        uint32_t x[kM][2][4];
#pragma unroll
        for (int t = 0; t < kM * 2; ++t) {
            const uint32_t m = row + t * 8;
            const uint4 eight = load_eight(p, uint64_t(m) * p.k + i, present && m < p.m);
            uint32_t(&to)[2][4] = x[t / 2];
            to[0][t % 2] = eight.x, to[0][t % 2 + 2] = eight.y, to[1][t % 2] = eight.z, to[1][t % 2 + 2] = eight.w;
        }
#pragma unroll
        for (int n = 0; n < kN; ++n) {
            const uint32_t j = rank + n * 8;
            float f[8] = {};
            if (present && j < p.rank) {
                if (whole) {
                    const float4* from = pointer<const float4>(p.factor.data) + factor_at(p, j, i) / 4;
                    const float4 a = __ldg(from), b = __ldg(from + 1);
                    f[0] = a.x, f[1] = a.y, f[2] = a.z, f[3] = a.w, f[4] = b.x, f[5] = b.y, f[6] = b.z, f[7] = b.w;
                } else {
#pragma unroll
                    for (int e = 0; e < 8; ++e) f[e] = load(p.factor, factor_at(p, j, i + e));
                }
            }
#pragma unroll
            for (int step = 0; step < 2; ++step) {
                const Parts first(f[4 * step], f[4 * step + 1]), second(f[4 * step + 2], f[4 * step + 3]);
#pragma unroll
                for (int t = 0; t < kM; ++t) {
                    mma(sum[t][n], x[t][step], first.low, second.low);
                    mma(sum[t][n], x[t][step], first.high, second.high);
                }
            }
        }
    }
    sum_warps<kM * kN * 4>(&sum[0][0][0]);
    if (warp != 0) return;
#pragma unroll
    for (int t = 0; t < kM; ++t) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const uint32_t m = row + t * 16 + e / 2 * 8, j = blockIdx.y * kRanks + n * 8 + lane % 4 * 2 + e % 2;
                if (m < p.m && j < p.rank) pointer<float>(p.out)[uint64_t(m) * p.rank + j] = p.alpha * sum[t][n][e];
            }
        }
    }
}

template <int kRanks>
__device__ __forceinline__ void gradient(const LoraParams& p) {
    constexpr int kCols = 64, kParts = kCols / 16, kN = kRanks / 8, kDepth = 16;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t col = blockIdx.x * kCols + lane / 4 * 8, rank = blockIdx.y * kRanks + lane / 4;
    float sum[kParts][kN][4] = {};
    for (uint32_t begin = warp * kDepth; begin < p.m; begin += kWarps * kDepth) {
        // Rows of the reduction that this lane has: two neighbours, and two that lie 8 behind.
        const auto row = [&](int i) { return begin + lane % 4 * 2 + i % 2 + i / 2 * 8; };
        uint32_t x[kParts][4];
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
            const uint32_t m = row(2 * pair);
            const uint4 a = load_eight(p, uint64_t(m) * p.k + col, m < p.m && col < p.k);
            const uint4 b = load_eight(p, uint64_t(m + 1) * p.k + col, m + 1 < p.m && col < p.k);
            const uint32_t as[] = {a.x, a.y, a.z, a.w}, bs[] = {b.x, b.y, b.z, b.w};
            // Column 2 i of the lane's eight is row lane / 4 of product i, column 2 i + 1 is row lane / 4 + 8.
#pragma unroll
            for (int i = 0; i < kParts; ++i) {
                x[i][2 * pair] = __byte_perm(as[i], bs[i], 0x5410);
                x[i][2 * pair + 1] = __byte_perm(as[i], bs[i], 0x7632);
            }
        }
#pragma unroll
        for (int n = 0; n < kN; ++n) {
            const uint32_t j = rank + n * 8;
            float f[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const uint32_t m = row(i);
                f[i] = m < p.m && j < p.rank ? load(p.factor, uint64_t(m) * p.rank + j) : 0.0f;
            }
            const Parts first(f[0], f[1]), second(f[2], f[3]);
#pragma unroll
            for (int i = 0; i < kParts; ++i) {
                mma(sum[i][n], x[i], first.low, second.low);
                mma(sum[i][n], x[i], first.high, second.high);
            }
        }
    }
    sum_warps<kParts * kN * 4>(&sum[0][0][0]);
    if (warp != 0) return;
#pragma unroll
    for (int i = 0; i < kParts; ++i) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const uint32_t c = col + 2 * i + e / 2, j = blockIdx.y * kRanks + n * 8 + lane % 4 * 2 + e % 2;
                if (c < p.k && j < p.rank) pointer<float>(p.out)[factor_at(p, j, c)] += p.alpha * sum[i][n][e];
            }
        }
    }
}

} // namespace

#define LORA(RANKS)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(kThreads) lora_shrink_##RANKS(const __grid_constant__ LoraParams p) { \
        shrink<RANKS>(p);                                                                                           \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(kThreads)                                                          \
        lora_gradient_##RANKS(const __grid_constant__ LoraParams p) {                                               \
        gradient<RANKS>(p);                                                                                         \
    }

LORA(16)
LORA(32)
LORA(64)
