// Causal attention by sequence on tensor cores (Dao 2023), bf16, forward. A block of four warps takes 64
// queries of one head, a warp 16 of them; scores, weights and sums stay in registers. Keys and values come
// in tiles of 64 rows (32 for heads of 256), copied while the other of the two is multiplied, so one
// buffer of each is enough: 24, 36, 48 and 64 KiB for heads of 64, 96, 128 and 256, two to four blocks on a
// multiprocessor of 100 KiB (one for 256).
//
// Weights are rounded to bf16 for the product with V; their sum is of the f32 values. A query or key that
// is NaN makes the rows NaN that see it and no others. A value that is infinite or NaN also reaches the
// queries of the same tile that stand before it or past its window: their weight is 0, and 0 . NaN is NaN.
#include "common/flash.cuh"

namespace {

constexpr int kThreads = 128;

// Over the four lanes that hold one row.
__device__ __forceinline__ float row_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <int D, int Keys>
__device__ __forceinline__ void forward(const AttentionParams& p) {
    extern __shared__ __align__(128) bf16 tiles[];
    bf16 *q_tile = tiles, *k_tile = q_tile + FLASH_ROWS * D, *v_tile = k_tile + Keys * D;
    const AttentionShape& s = p.shape;
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16;
    const uint32_t head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    // The last queries of a sequence see most keys: they start first.
    const FlashTile tile = flash_tile<false>(s, gridDim.x - 1 - blockIdx.x);
    const uint32_t rows = min(uint32_t(FLASH_ROWS), tile.at.q_len - tile.start);
    const uint32_t first = tile.at.k_len - tile.at.q_len + tile.start, last = first + rows - 1; // positions
    const uint64_t q_at = query_row(s, tile.at.q_first + tile.start, head), k_at = key_row(s, tile.at.k_first, kv_head);
    const uint32_t q_stride = s.heads * D, k_stride = s.kv_heads * D;
    const bf16 *k = pointer<const bf16>(p.k.data) + k_at, *v = pointer<const bf16>(p.v.data) + k_at;
    // Keys behind the last position are zeros, seen by no query that is stored.
    const auto copy = [&](bf16* to, const bf16* from, uint32_t key) {
        async_copy_tile<D, Keys, kThreads>(to, from + uint64_t(key) * k_stride, k_stride, last + 1 - key);
        async_commit();
    };

    const uint32_t begin = first_key(s, first);
    async_copy_tile<D, FLASH_ROWS, kThreads>(q_tile, pointer<const bf16>(p.q.data) + q_at, q_stride, rows);
    async_commit();
    copy(k_tile, k, begin);
    async_wait<1>();
    __syncthreads();
    LeftRows<D, D <= 128> query{q_tile, row};
    query.hold();

    const float scale = s.scale * kLog2E;
    Accumulator<D> sum = {};
    float largest[2] = {-CUDART_INF_F, -CUDART_INF_F}, total[2] = {};
    for (uint32_t key = begin; key <= last; key += Keys) {
        async_wait<0>();
        __syncthreads(); // the keys are there, and everyone is done with the last values
        copy(v_tile, v, key);
        Accumulator<Keys> score;
        multiply_rows<D, Keys>(score, query, k_tile);
        if (hides(s, first, last, key, Keys)) {
#pragma unroll
            for (int j = 0; j < Keys / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const uint32_t position = first + row + lane / 4 + e / 2 * 8;
                    if (!sees(s, position, key + j * 8 + lane % 4 * 2 + e % 2)) score[j][e] = -CUDART_INF_F;
                }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float peak = largest[h]; // never NaN: the maximum is that of the numbers
#pragma unroll
            for (int j = 0; j < Keys / 8; ++j) peak = fmaxf(peak, fmaxf(score[j][2 * h], score[j][2 * h + 1]));
            peak = row_max(peak);
            // A row that has seen nothing yet has weights of 0, not of inf - inf.
            const float shift = peak == -CUDART_INF_F ? 0.0f : peak * scale;
            const float keep = power_of_two(fmaf(largest[h], scale, -shift));
            largest[h] = peak;
            float part = 0.0f;
#pragma unroll
            for (int j = 0; j < Keys / 8; ++j)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; ++e) {
                    score[j][e] = power_of_two(fmaf(score[j][e], scale, -shift));
                    part += score[j][e];
                }
            total[h] = total[h] * keep + part; // of this lane's columns
#pragma unroll
            for (int j = 0; j < D / 8; ++j)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; ++e) sum[j][e] *= keep;
        }
        Weights<Keys> weights;
        round_to<Keys>(weights, score);
        async_wait<0>();
        __syncthreads(); // the values are there, and everyone is done with the keys
        if (key + Keys <= last) copy(k_tile, k, key + Keys);
        multiply_columns<D, Keys, D>(sum, weights, v_tile, 0);
    }

    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        total[h] = row_sum(total[h]);
        inverse[h] = 1.0f / total[h];
        const uint32_t r = row + lane / 4 + h * 8;
        if (lane % 4 != 0 || r >= rows) continue;
        const uint64_t index = uint64_t(tile.at.q_first + tile.start + r) * s.heads + head;
        // A total of 0 is a row of nothing but -inf.
        pointer<float>(p.lse)[index] = total[h] > 0.0f ? largest[h] * s.scale + logf(total[h]) : CUDART_NAN_F;
    }
    store_rows<D, D>(pointer<bf16>(p.o.data) + q_at, q_stride, rows, q_tile, row, 0, sum, inverse);
}

} // namespace

// Shared memory: FLASH_ROWS + 2 Keys rows.
#define FLASH_ATTENTION(D, KEYS, BLOCKS)                                            \
    extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)                  \
    flash_attention_##D(const __grid_constant__ AttentionParams p) { forward<D, KEYS>(p); }

FLASH_ATTENTION(64, 64, 3)
FLASH_ATTENTION(96, 64, 2)
FLASH_ATTENTION(128, 64, 2)
FLASH_ATTENTION(256, 32, 1)
