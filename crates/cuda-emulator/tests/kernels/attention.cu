// Causal attention, forward, head dimension 64: O = softmax(scale Q K^T) V with an online softmax, and
// the logarithm of each row's sum of exponentials. A block takes 64 queries of one head, a warp 16 of
// them. Q, K, V and O are [heads, tokens, 64].
#include "matrix.cuh"

namespace {

constexpr int kHead = 64, kRows = 64, kThreads = 128;
constexpr float kLog2E = 1.4426950408889634f;

using Tile = __nv_bfloat16[kRows * kHead];

// Offset of 16-byte chunk `chunk` of a 128-byte row, swizzled against bank conflicts.
__device__ __forceinline__ int swizzled(int row, int chunk) {
    return row * kHead + (chunk ^ (row % 8)) * 8;
}

// Starts the copy of rows [row0, row0 + 64); rows past the end repeat the last one and are masked.
__device__ __forceinline__ void copy_tile(Tile& to, const __nv_bfloat16* from, int row0, int rows) {
#pragma unroll
    for (int part = 0; part < kRows * kHead / 8 / kThreads; ++part) {
        const int i = threadIdx.x + part * kThreads;
        const int row = i / 8, chunk = i % 8;
        copy_async_16(&to[swizzled(row, chunk)], from + min(row0 + row, rows - 1) * kHead + chunk * 8);
    }
}

// 2^x without the care for denormal results.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
}

// Over the four lanes that hold one row of a fragment.
__device__ __forceinline__ float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

__device__ __forceinline__ float row_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

} // namespace

extern "C" __global__ void __launch_bounds__(kThreads)
attention(const __nv_bfloat16* __restrict__ q, const __nv_bfloat16* __restrict__ k, const __nv_bfloat16* __restrict__ v,
          __nv_bfloat16* __restrict__ o, float* __restrict__ lse, int tokens, float scale) {
    extern __shared__ __align__(128) Tile tiles[];
    Tile &q_tile = tiles[0], &k_tile = tiles[1], &v_tile = tiles[2];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int q0 = blockIdx.x * kRows, head = blockIdx.y;
    const size_t start = static_cast<size_t>(head) * tokens * kHead;

    copy_tile(q_tile, q + start, q0, tokens);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    uint32_t query[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) load_matrix(query[i], &q_tile[swizzled(warp * 16 + lane % 16, i * 2 + lane / 16)]);

    float sum[8][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (int k0 = 0; k0 <= q0; k0 += kRows) {
        __syncthreads(); // everyone is done with the last tiles
        copy_tile(k_tile, k + start, k0, tokens);
        copy_tile(v_tile, v + start, k0, tokens);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();

        float score[8][4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32_t key[4];
                load_matrix(key, &k_tile[swizzled(j * 16 + lane % 8 + lane / 16 * 8, i * 2 + lane / 8 % 2)]);
                multiply_add(score[2 * j], query[i], key[0], key[1]);
                multiply_add(score[2 * j + 1], query[i], key[2], key[3]);
            }

#pragma unroll
        for (int h = 0; h < 2; ++h) { // the two rows of the fragment that this lane shares
            const int row = q0 + warp * 16 + lane / 4 + h * 8;
            float peak = largest[h];
#pragma unroll
            for (int j = 0; j < 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& s = score[j][h * 2 + e];
                    const int column = k0 + j * 8 + lane % 4 * 2 + e;
                    s = column <= row ? s * scale * kLog2E : -INFINITY;
                    peak = fmaxf(peak, s);
                }
            peak = row_max(peak); // finite: column 0 is never masked, and it is in the first tile
            const float decay = power_of_two(largest[h] - peak);
            largest[h] = peak;
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < 8; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& s = score[j][h * 2 + e];
                    s = power_of_two(s - peak);
                    part += s;
                    sum[j][h * 2 + e] *= decay;
                }
            total[h] = total[h] * decay + row_sum(part);
        }

#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const uint32_t weight[4] = {pack(score[2 * i][0], score[2 * i][1]), pack(score[2 * i][2], score[2 * i][3]),
                                        pack(score[2 * i + 1][0], score[2 * i + 1][1]), pack(score[2 * i + 1][2], score[2 * i + 1][3])};
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                uint32_t value[4];
                load_matrix_transposed(value, &v_tile[swizzled(i * 16 + lane % 16, j * 2 + lane / 16)]);
                multiply_add(sum[2 * j], weight, value[0], value[1]);
                multiply_add(sum[2 * j + 1], weight, value[2], value[3]);
            }
        }
    }

#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = q0 + warp * 16 + lane / 4 + h * 8;
        if (row >= tokens) continue;
        auto* out = reinterpret_cast<uint32_t*>(o + start + static_cast<size_t>(row) * kHead + lane % 4 * 2);
#pragma unroll
        for (int j = 0; j < 8; ++j) out[j * 4] = pack(sum[j][h * 2] / total[h], sum[j][h * 2 + 1] / total[h]);
        if (lane % 4 == 0) lse[static_cast<size_t>(head) * tokens + row] = (largest[h] + __log2f(total[h])) / kLog2E;
    }
}
