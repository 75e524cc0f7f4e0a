// Backward of flash_attention.cu. Scores are recomputed from lse: once for dQ by blocks of 64 queries, once for
// dK and dV by blocks of 64 keys, which go over the query heads of their group and the queries that see
// them. So there are seven products instead of the five of a backward that adds to dQ from all blocks (Dao
// 2023), but no atomics, no copy of dK and dV for each query head, and sums of one fixed order.
//
// A block has four warps of 16 rows; for heads of 256 the dK and dV kernel has eight, two for the same
// rows, each with half of the columns: the sums of both gradients would not fit the registers. There its two
// products over the head's size go in two runs of eight steps: unrolled whole, as elsewhere, they keep more
// addresses of tiles at once, and three registers spill on sm_80, 86 and 89. Runs of four gain no more. The other
// side comes in tiles of Step rows: 64, or 32 for heads of 128 (two blocks on a multiprocessor of 100 KiB) and
// 256. Of its two operands one is copied while the other is multiplied. Weights and their gradients are
// rounded to bf16 for the second products. NaN in dO, q or k spreads in a tile as it does in the forward.
#include "common/flash.cuh"
#include "common/reduce.cuh"

namespace {

constexpr int kThreads = 128;

template <int D, int Step>
__device__ __forceinline__ void backward_q(const AttentionBackwardParams& p) {
    extern __shared__ __align__(128) bf16 tiles[];
    bf16 *q_tile = tiles, *d_o_tile = q_tile + FLASH_ROWS * D, *k_tile = d_o_tile + FLASH_ROWS * D;
    bf16* v_tile = k_tile + Step * D;
    const AttentionShape& s = p.shape;
    const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16;
    const uint32_t head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const FlashTile tile = flash_tile<false>(s, gridDim.x - 1 - blockIdx.x);
    const uint32_t rows = min(uint32_t(FLASH_ROWS), tile.at.q_len - tile.start);
    const uint32_t first = tile.at.k_len - tile.at.q_len + tile.start, last = first + rows - 1; // positions
    const uint64_t q_at = query_row(s, tile.at.q_first + tile.start, head), k_at = key_row(s, tile.at.k_first, kv_head);
    const uint32_t q_stride = s.heads * D, k_stride = s.kv_heads * D;
    const bf16 *k = pointer<const bf16>(p.k.data) + k_at, *v = pointer<const bf16>(p.v.data) + k_at;
    const auto copy = [&](bf16* to, const bf16* from, uint32_t key) {
        async_copy_tile<D, Step, kThreads>(to, from + uint64_t(key) * k_stride, k_stride, last + 1 - key);
        async_commit();
    };

    const uint32_t begin = first_key(s, first);
    async_copy_tile<D, FLASH_ROWS, kThreads>(q_tile, pointer<const bf16>(p.q.data) + q_at, q_stride, rows);
    async_copy_tile<D, FLASH_ROWS, kThreads>(d_o_tile, pointer<const bf16>(p.d_o.data) + q_at, q_stride, rows);
    copy(v_tile, v, begin);
    float lse[2] = {}, delta[2] = {};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t r = row + lane / 4 + h * 8;
        if (r >= rows) continue;
        const uint64_t index = uint64_t(tile.at.q_first + tile.start + r) * s.heads + head;
        lse[h] = pointer<const float>(p.lse)[index] * kLog2E;
        delta[h] = pointer<const float>(p.delta)[index];
    }

    const float scale = s.scale * kLog2E;
    LeftRows<D, D <= 64> query{q_tile, row}, d_o{d_o_tile, row};
    Accumulator<D> sum = {};
    for (uint32_t key = begin; key <= last; key += Step) {
        async_wait<0>();
        __syncthreads(); // the values are there, and everyone is done with the last keys
        copy(k_tile, k, key);
        if (key == begin) {
            query.hold();
            d_o.hold();
        }
        Accumulator<Step> slope, score;
        multiply_rows<D, Step>(slope, d_o, v_tile);
        async_wait<0>();
        __syncthreads(); // the keys are there, and everyone is done with the values
        if (key + Step <= last) copy(v_tile, v, key + Step);
        multiply_rows<D, Step>(score, query, k_tile);
#pragma unroll
        for (int j = 0; j < Step / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const float weight = power_of_two(fmaf(score[j][e], scale, -lse[e / 2]));
                slope[j][e] = weight * (slope[j][e] - delta[e / 2]);
            }
        if (hides(s, first, last, key, Step)) {
#pragma unroll
            for (int j = 0; j < Step / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const uint32_t position = first + row + lane / 4 + e / 2 * 8;
                    if (!sees(s, position, key + j * 8 + lane % 4 * 2 + e % 2)) slope[j][e] = 0.0f;
                }
        }
        Weights<Step> slopes;
        round_to<Step>(slopes, slope);
        multiply_columns<D, Step, D>(sum, slopes, k_tile, 0);
    }
    const float factor[2] = {s.scale, s.scale};
    store_rows<D, D>(pointer<bf16>(p.dq.data) + q_at, q_stride, rows, q_tile, row, 0, sum, factor);
}

template <int D, int Step, int Warps>
__device__ __forceinline__ void backward_kv(const AttentionBackwardParams& p) {
    constexpr int kColumns = D / (Warps / 4), kBlock = Warps * 32, kUnroll = D <= 128 ? D / 16 : 8;
    extern __shared__ __align__(128) bf16 tiles[];
    bf16 *k_tile = tiles, *v_tile = k_tile + FLASH_ROWS * D, *q_tile = v_tile + FLASH_ROWS * D;
    bf16* d_o_tile = q_tile + Step * D;
    float *lse = reinterpret_cast<float*>(d_o_tile + Step * D), *delta = lse + Step;
    const AttentionShape& s = p.shape;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = warp % 4 * 16, column = warp / 4 * kColumns;
    const uint32_t kv_head = blockIdx.y, group = s.heads / s.kv_heads;
    const FlashTile tile = flash_tile<true>(s, blockIdx.x); // the first keys are seen by most queries
    const uint32_t rows = min(uint32_t(FLASH_ROWS), tile.at.k_len - tile.start);
    const uint32_t offset = tile.at.k_len - tile.at.q_len; // position of the first query
    // Queries at the positions start..start + rows - 1 + window see some of the keys.
    const uint32_t begin = max(tile.start, offset) - offset;
    uint32_t end = tile.at.q_len;
    if (s.window != 0) end = min(end, max(tile.start + rows - 1 + s.window, offset) - offset);
    const uint64_t k_at = key_row(s, tile.at.k_first + tile.start, kv_head);
    const uint32_t q_stride = s.heads * D, k_stride = s.kv_heads * D;
    const auto copy = [&](bf16* to, const Tensor& from, uint32_t head, uint32_t query) {
        const bf16* x = pointer<const bf16>(from.data) + query_row(s, tile.at.q_first + query, head);
        async_copy_tile<D, Step, kBlock>(to, x, q_stride, end - query);
    };

    async_copy_tile<D, FLASH_ROWS, kBlock>(k_tile, pointer<const bf16>(p.k.data) + k_at, k_stride, rows);
    async_copy_tile<D, FLASH_ROWS, kBlock>(v_tile, pointer<const bf16>(p.v.data) + k_at, k_stride, rows);
    uint32_t head = kv_head * group, query = begin;
    const uint32_t end_head = begin < end ? head + group : head;
    if (head < end_head) copy(d_o_tile, p.d_o, head, query);
    async_commit();

    const float scale = s.scale * kLog2E;
    LeftRows<D, D <= 64> key{k_tile, row}, value{v_tile, row};
    Accumulator<kColumns> dk = {}, dv = {};
    async_wait<0>();
    __syncthreads();
    key.hold();
    value.hold();
    while (head < end_head) {
        const uint32_t first = offset + query, last = offset + min(query + Step, end) - 1; // positions
        const bool partial = query + Step > end;
        copy(q_tile, p.q, head, query);
        if (threadIdx.x < 2 * Step) {
            const uint32_t i = threadIdx.x % Step;
            const uint64_t at = threadIdx.x < Step ? p.lse : p.delta;
            const uint64_t index = uint64_t(tile.at.q_first + query + i) * s.heads + head;
            const bool present = query + i < end;
            async_copy_word(shared_address(lse + threadIdx.x), pointer<const float>(at) + (present ? index : 0), present);
        }
        async_commit();
        Accumulator<Step> slope, weight;
        multiply_rows<D, Step, kUnroll>(slope, value, d_o_tile);
        async_wait<0>();
        __syncthreads(); // the queries are there
        multiply_rows<D, Step, kUnroll>(weight, key, q_tile);
#pragma unroll
        for (int j = 0; j < Step / 8; ++j) {
            const int i = j * 8 + lane % 4 * 2;
            const float2 l = *reinterpret_cast<const float2*>(lse + i), d = *reinterpret_cast<const float2*>(delta + i);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                weight[j][e] = power_of_two(fmaf(weight[j][e], scale, -kLog2E * (e % 2 ? l.y : l.x)));
                slope[j][e] = weight[j][e] * (slope[j][e] - (e % 2 ? d.y : d.x));
            }
        }
        if (partial || hides(s, first, last, tile.start, FLASH_ROWS)) {
#pragma unroll
            for (int j = 0; j < Step / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const uint32_t position = first + j * 8 + lane % 4 * 2 + e % 2;
                    const bool seen = position <= last && sees(s, position, tile.start + row + lane / 4 + e / 2 * 8);
                    if (!seen) weight[j][e] = slope[j][e] = 0.0f;
                }
        }
        Weights<Step> weights, slopes;
        round_to<Step>(weights, weight);
        round_to<Step>(slopes, slope);
        multiply_columns<D, Step, kColumns>(dv, weights, d_o_tile, column);
        __syncthreads(); // everyone is done with dO
        query += Step;
        if (query >= end) {
            query = begin;
            ++head;
        }
        if (head < end_head) {
            copy(d_o_tile, p.d_o, head, query);
            async_commit();
        }
        multiply_columns<D, Step, kColumns>(dk, slopes, q_tile, column);
        async_wait<0>();
        __syncthreads(); // dO is there, and everyone is done with the queries
    }
    __syncthreads(); // warps of the same rows are done with them
    const float one[2] = {1.0f, 1.0f}, factor[2] = {s.scale, s.scale};
    store_rows<D, kColumns>(pointer<bf16>(p.dk.data) + k_at, k_stride, rows, k_tile, row, column, dk, factor);
    store_rows<D, kColumns>(pointer<bf16>(p.dv.data) + k_at, k_stride, rows, v_tile, row, column, dv, one);
}

} // namespace

// delta = dO . O, a warp for each query and head; head_dim is even.
extern "C" __global__ void __launch_bounds__(kThreads)
flash_attention_delta(const __grid_constant__ AttentionBackwardParams p) {
    const AttentionShape& s = p.shape;
    const uint64_t index = uint64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
    if (index >= uint64_t(s.q_tokens) * s.heads) return;
    const auto* o = pointer<const __nv_bfloat162>(p.o.data) + index * (s.head_dim / 2);
    const auto* d_o = pointer<const __nv_bfloat162>(p.d_o.data) + index * (s.head_dim / 2);
    float sum = 0.0f;
    for (uint32_t i = threadIdx.x % 32; i < s.head_dim / 2; i += 32) {
        const float2 a = __bfloat1622float2(o[i]), b = __bfloat1622float2(d_o[i]);
        sum += a.x * b.x + a.y * b.y;
    }
    sum = warp_reduce<Sum>(sum);
    if (threadIdx.x % 32 == 0) pointer<float>(p.delta)[index] = sum;
}

// Shared memory: 2 FLASH_ROWS + 2 Step rows; for keys and values 2 Step floats more.
#define FLASH_ATTENTION_BACKWARD(D, STEP, WARPS, BLOCKS)                                          \
    extern "C" __global__ void __launch_bounds__(kThreads, BLOCKS)                                \
    flash_attention_backward_q_##D(const __grid_constant__ AttentionBackwardParams p) {           \
        backward_q<D, STEP>(p);                                                                   \
    }                                                                                             \
    extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)                              \
    flash_attention_backward_kv_##D(const __grid_constant__ AttentionBackwardParams p) {          \
        backward_kv<D, STEP, WARPS>(p);                                                           \
    }

FLASH_ATTENTION_BACKWARD(64, 64, 4, 2)
FLASH_ATTENTION_BACKWARD(96, 64, 4, 2)
FLASH_ATTENTION_BACKWARD(128, 32, 4, 2)
FLASH_ATTENTION_BACKWARD(256, 32, 8, 1)
