// Product of up to MATVEC_ROWS rows of bf16 activations with a 4-bit weight, with an extra product (LoRA) and bias,
// summed in f32 and rounded once. A weight is f32 code x f32 absmax, rounded once to bf16, as in `nf4_matmul.cu`.
//
// A block has 32 rows of the weight, or 16 where that gives more blocks than multiprocessors; its warps share the
// depth. Tensor cores multiply, whose left factor is the weight: what a lane needs of it, lane t of four of rows
// g + 8 i, is dequantized in its own registers from 16 bytes of each row. The order along the depth is free as long
// as both factors have the same, so lane t takes 32 neighbouring weights and the activations beside them. The
// block's scales are worked out first, in shared memory. The next step's loads are in flight during this step's
// products.
//
// An RTX 3090 (936 GB/s, 82 multiprocessors, 1.695 GHz) issues 9.8 instructions of a lane in the time that a weight
// of 0.516 bytes takes from memory, an RTX 4090 21. The loops have 4.3 (32 rows) and 4.5 (16) on sm_86, however many
// rows x has: shift, shuffle, product, half a conversion. Products without tensor cores would need two more and one a
// row of x. A shuffle a weight is 41 % of what the shared-memory unit of an RTX 3090 does in that time.
//
// Counts of the emulated device, not times, for n = k = 4096, blocks of 64 with nested scales, one and four rows of x.
// The weight is 8.66 MB, and is read once. x is counted 128 times, once a block, and twice that as each of its
// sectors is asked for by halves: together 11.1 and 17.5 MB, where L1 and L2 serve x. Bound by memory without caches
// 11.9 and 18.7 us on an RTX 3090, 11.1 and 17.3 us on an RTX 4090, of which the weight alone is 9.3 and 8.6 us.
// Requests to shared memory take 57,225 and 60,297 wavefronts, 14,217 of them for conflicts, all in the map's lookups.
#include "common/matvec.cuh"
#include "common/mma.cuh"
#include "common/quantized.cuh"

namespace {

constexpr uint32_t kRun = 32, kDepth = 4 * kRun;

extern __shared__ float scales[];

// Keeps the scales of the same block of neighbouring rows, often a multiple of 32 blocks apart, in different banks.
__device__ __forceinline__ uint32_t padded(uint32_t block) { return block + block / 32; }

// What a lane multiplies in one step, of rows g + 8 i of the weight and row g of x.
template <uint32_t kRows>
struct Step {
    uint4 codes[kRows / 8], x[4];
    uint32_t scales[kRows / 8]; // where they are
};

// Where a lane reads.
template <uint32_t kRows>
struct Lane {
    const uint4 *packed, *x;
    uint32_t runs[kRows / 8]; // where the rows begin
    uint32_t k, log2_runs, first_block;

    // Rows past the end, of both factors, repeat the last: they give results that are not stored.
    __device__ __forceinline__ Lane(const MatvecParams& p, uint32_t row) {
        const uint32_t g = threadIdx.x % 32 / 4;
#pragma unroll
        for (uint32_t i = 0; i < kRows / 8; ++i) runs[i] = min(row + g + i * 8, p.n - 1) * (p.k / kRun);
        packed = pointer<const uint4>(p.weight.data);
        x = pointer<const uint4>(p.x.data) + min(g, p.m - 1) * (p.k / 8);
        k = p.k;
        log2_runs = p.scales.log2_block - 5;
        first_block = row * (k / kRun) >> log2_runs;
    }

    // Zeros past the end of the depth, and some scale. The weight is read once: L1 is for x.
    __device__ __forceinline__ Step<kRows> load(uint32_t col) const {
        const uint4 zeros = make_uint4(0, 0, 0, 0);
        const bool present = col < k;
        Step<kRows> step;
#pragma unroll
        for (uint32_t i = 0; i < kRows / 8; ++i) {
            const uint32_t run = runs[i] + min(col, k - kRun) / kRun;
            step.codes[i] = present ? __ldcs(packed + run) : zeros;
            step.scales[i] = padded((run >> log2_runs) - first_block);
        }
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) step.x[i] = present ? __ldg(x + col / 8 + i) : zeros;
        return step;
    }
};

// The scales of all rows of the block, whose blocks follow one another.
template <uint32_t kRows>
__device__ __forceinline__ void fill_scales(const MatvecParams& p, uint32_t row) {
    __shared__ float map[256];
    const BlockScales& s = p.scales;
    if (s.codes != 0) {
        for (uint32_t i = threadIdx.x; i < 256; i += blockDim.x) map[i] = pointer<const float>(s.map)[i];
            __syncthreads();
    }
    const uint32_t runs = p.k / kRun, log2_runs = s.log2_block - 5, end = (min(row + kRows, p.n) * runs - 1) >> log2_runs;
    const uint32_t first = row * runs >> log2_runs;
    for (uint32_t block = first + threadIdx.x; block <= end; block += blockDim.x) {
        scales[padded(block - first)] = block_absmax(s, block, map);
    }
}

// `code` is that of number lane % 16, of which the shuffle takes the low four bits.
__device__ __forceinline__ uint32_t dequantize(uint32_t byte, float code, float scale) {
    const float first = __shfl_sync(0xffffffffu, code, byte >> 4, 16);
    const float second = __shfl_sync(0xffffffffu, code, byte, 16);
    return pack_bf16(__fmul_rn(first, scale), __fmul_rn(second, scale));
}

__device__ __forceinline__ uint32_t word(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

template <uint32_t kRows>
__device__ __forceinline__ void multiply(float (&sum)[kRows / 16][4], const Step<kRows>& step, float code) {
    float scale[kRows / 8];
#pragma unroll
    for (uint32_t i = 0; i < kRows / 8; ++i) scale[i] = scales[step.scales[i]];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (uint32_t tile = 0; tile < kRows / 16; ++tile) {
            uint32_t a[4];
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const uint32_t i = tile * 2 + part % 2; // part / 2 is the half of the depth
                const uint32_t bytes = word(step.codes[i], j / 2) >> (j % 2 * 16 + part / 2 * 8);
                a[part] = dequantize(bytes, code, scale[i]);
            }
            mma(sum[tile], a, word(step.x[j / 2], j % 2 * 2), word(step.x[j / 2], j % 2 * 2 + 1));
        }
    }
}

template <uint32_t kRows>
__device__ __forceinline__ void nf4_matvec(const MatvecParams& p) {
    __shared__ Partials<kRows, kRows + 4> sums; // stores of a warp lie in different banks
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = blockIdx.x * kRows;
    const Lane<kRows> at(p, row);
    const uint32_t first = warp * kDepth, pace = blockDim.x / 32 * kDepth, col = lane % 4 * kRun;
    Step<kRows> step = at.load(first + col);
    fill_scales<kRows>(p, row);
    if (p.extra_k != 0) multiply_extra(sums, p, row);
    __syncthreads();
    const float code = p.scales.codebook[lane % 16];
    float sum[kRows / 16][4] = {};
#pragma unroll 2 // the two steps change places without moves
    for (uint32_t base = first; base < p.k; base += pace) {
        const Step<kRows> next = at.load(base + pace + col);
        multiply<kRows>(sum, step, code);
        step = next;
    }
#pragma unroll
    for (uint32_t i = 0; i < kRows / 4; ++i) {
        sums.warps[warp][lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sum[i / 4][i % 4];
    }
    __syncthreads();
    finish(sums, p, row);
}

} // namespace

extern "C" __global__ void __launch_bounds__(32 * MATVEC_WARPS) nf4_matvec_32(const __grid_constant__ MatvecParams p) {
    nf4_matvec<32>(p);
}

// For fewer outputs: more blocks.
extern "C" __global__ void __launch_bounds__(32 * MATVEC_WARPS) nf4_matvec_16(const __grid_constant__ MatvecParams p) {
    nf4_matvec<16>(p);
}
