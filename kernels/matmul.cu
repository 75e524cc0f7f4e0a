// Matrix product of any two factors - f32, bf16 or 4-bit, any strides - with a second product, dropout,
// bias and accumulation, summed in f32 and rounded once. It takes every shape and type; the tensor-core
// kernels take the common ones.
//
// 64 x 64 tile, 16 deep, 256 threads with 4 x 4 results each.
#include "common/philox.cuh"
#include "common/quantized.cuh"

namespace {

constexpr int kTile = 64, kDepth = 16, kPitch = kTile + 4, kEach = 4;

struct Tiles {
    float a[kDepth][kPitch], b[kDepth][kPitch];
};

// A tile of kTile x kDepth elements; `outer` is the index along the result, `inner` along the sum.
template <bool kInnerIsRow>
__device__ __forceinline__ void fill(float (&tile)[kDepth][kPitch], const MatmulParams& p, const Factor& x,
                                     uint64_t outer, uint64_t outers, uint64_t inner, uint64_t inners, bool masked) {
    const uint64_t outer_step = kInnerIsRow ? x.col : x.row, inner_step = kInnerIsRow ? x.row : x.col;
    const bool along_inner = inner_step == 1;
#pragma unroll
    for (int part = 0; part < kTile * kDepth / 256; ++part) {
        const int index = part * 256 + threadIdx.x;
        const int o = along_inner ? index / kDepth : index % kTile, i = along_inner ? index % kDepth : index / kTile;
        float value = 0.0f;
        if (outer + o < outers && inner + i < inners) {
            const uint64_t at = (outer + o) * outer_step + (inner + i) * inner_step;
            value = x.tensor.dtype == DTYPE_4BIT ? dequantize(x.tensor, p.scales, at) : load(x.tensor, at);
            if (masked) value *= dropout_factor(p.mask, at);
        }
        tile[i][o] = value;
    }
}

// sum += A . B over `inners`.
__device__ __forceinline__ void multiply(float (&sum)[kEach][kEach], Tiles& tiles, const MatmulParams& p, const Factor& a,
                                         const Factor& b, uint64_t inners, bool mask_a, bool mask_b) {
    const uint64_t row = uint64_t(blockIdx.y) * kTile, col = uint64_t(blockIdx.x) * kTile;
    const int ty = threadIdx.x / 16 * kEach, tx = threadIdx.x % 16 * kEach;
    for (uint64_t inner = 0; inner < inners; inner += kDepth) {
        __syncthreads();
        fill<false>(tiles.a, p, a, row, p.m, inner, inners, mask_a);
        fill<true>(tiles.b, p, b, col, p.n, inner, inners, mask_b);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < kDepth; ++i) {
            const float4 x = *reinterpret_cast<const float4*>(&tiles.a[i][ty]);
            const float4 y = *reinterpret_cast<const float4*>(&tiles.b[i][tx]);
            const float xs[] = {x.x, x.y, x.z, x.w}, ys[] = {y.x, y.y, y.z, y.w};
#pragma unroll
            for (int r = 0; r < kEach; ++r) {
#pragma unroll
                for (int c = 0; c < kEach; ++c) sum[r][c] += xs[r] * ys[c];
            }
        }
    }
}

} // namespace

extern "C" __global__ void __launch_bounds__(256) matmul(const __grid_constant__ MatmulParams p) {
    __shared__ alignas(16) Tiles tiles;
    float sum[kEach][kEach] = {}, extra[kEach][kEach] = {};
    multiply(sum, tiles, p, p.a, p.b, p.k, p.masked == MASK_A, p.masked == MASK_B);
    if (p.extra_k != 0) multiply(extra, tiles, p, p.extra_a, p.extra_b, p.extra_k, false, false);
#pragma unroll
    for (int r = 0; r < kEach; ++r) {
#pragma unroll
        for (int c = 0; c < kEach; ++c) {
            const uint64_t row = uint64_t(blockIdx.y) * kTile + threadIdx.x / 16 * kEach + r;
            const uint64_t col = uint64_t(blockIdx.x) * kTile + threadIdx.x % 16 * kEach + c;
            if (row >= p.m || col >= p.n) continue;
            const uint64_t at = row * p.out_stride + col;
            float value = p.alpha * sum[r][c];
            if (p.extra_k != 0) {
                float product = p.extra_alpha * extra[r][c];
                if (p.masked == MASK_EXTRA) product *= dropout_factor(p.mask, at);
                value += product;
            }
            if (p.bias.data != 0) value += load(p.bias, col);
            if (p.accumulate) value += load(p.out, at);
            store(p.out, at, value);
        }
    }
}
