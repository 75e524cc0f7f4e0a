// Causal attention by sequence, grouped query, any head size: a block of 128 threads for each query (or
// key) and head, scores of 128 keys (or queries) at a time, online softmax (Milakov and Gimelshein 2018;
// Dao et al. 2022). Sums have a fixed order. The tensor-core kernels take the common shapes.
#include <math_constants.h>

#include "common/reduce.cuh"
#include "common/sequence.cuh"

namespace {

constexpr int kThreads = 128;

// The sequence of a query: the last one that starts at or before it and is not empty.
__device__ __forceinline__ Span span_of_query(const AttentionShape& s, uint32_t query) {
    const uint32_t* q_start = pointer<const uint32_t>(s.q_start);
    uint32_t low = 0, high = s.count;
    while (high - low > 1) {
        const uint32_t middle = (low + high) / 2;
        if (q_start[middle] <= query) low = middle; else high = middle;
    }
    return span(s, low);
}

__device__ __forceinline__ float dot(const float* x, const Tensor& y, uint64_t row, uint32_t n) {
    float sum = 0.0f;
    for (uint32_t d = 0; d < n; ++d) sum += x[d] * load(y, row + d);
    return sum;
}

struct Score {
    float value, slope; // slope with respect to the raw product
};

__device__ __forceinline__ Score score(const AttentionShape& s, float product) {
    const float value = product * s.scale;
    if (s.softcap == 0.0f) return {value, s.scale};
    const float t = tanhf(value / s.softcap);
    return {s.softcap * t, s.scale * (1.0f - t * t)};
}

__device__ __forceinline__ void read_row(float* to, const Tensor& x, uint64_t row, uint32_t n) {
    for (uint32_t d = threadIdx.x; d < n; d += kThreads) to[d] = load(x, row + d);
}

} // namespace

// Shared memory: head_dim floats for the query, as many for the sums.
extern "C" __global__ void __launch_bounds__(kThreads) attention_forward(const __grid_constant__ AttentionParams p) {
    extern __shared__ float rows[];
    __shared__ float weights[kThreads], scratch[kThreads / 32];
    const AttentionShape& s = p.shape;
    float *query = rows, *sums = rows + s.head_dim;
    const uint32_t token = blockIdx.x, head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const Span span = span_of_query(s, token);
    const uint32_t position = span.k_len - span.q_len + (token - span.q_first);
    read_row(query, p.q, query_row(s, token, head), s.head_dim);
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) sums[d] = 0.0f;
    __syncthreads();
    float most = -CUDART_INF_F, total = 0.0f;
    for (uint32_t base = first_key(s, position); base <= position; base += kThreads) {
        const uint32_t j = base + threadIdx.x;
        float value = -CUDART_INF_F;
        if (j <= position) {
            value = score(s, dot(query, p.k, key_row(s, span.k_first + j, kv_head), s.head_dim)).value;
        }
        const float before = most;
        most = fmaxf(most, block_reduce<Max>(value, scratch));
        const float weight = j <= position ? expf(value - most) : 0.0f;
        const float keep = before == -CUDART_INF_F ? 0.0f : expf(before - most);
        total = total * keep + block_reduce<Sum>(weight, scratch);
        weights[threadIdx.x] = weight;
        __syncthreads();
        const uint32_t keys = min(uint32_t(kThreads), position + 1 - base);
        for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
            float sum = sums[d] * keep;
            for (uint32_t i = 0; i < keys; ++i) {
                sum += weights[i] * load(p.v, key_row(s, span.k_first + base + i, kv_head) + d);
            }
            sums[d] = sum;
        }
    }
    if (threadIdx.x == 0) pointer<float>(p.lse)[uint64_t(token) * s.heads + head] = most + logf(total);
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
        store(p.o, query_row(s, token, head) + d, sums[d] / total);
    }
}

// delta = dO . O, and dQ. Shared memory: head_dim floats each for the query, dO and the sums.
extern "C" __global__ void __launch_bounds__(kThreads)
attention_backward_q(const __grid_constant__ AttentionBackwardParams p) {
    extern __shared__ float rows[];
    __shared__ float slopes[kThreads], scratch[kThreads / 32];
    const AttentionShape& s = p.shape;
    float *query = rows, *d_o = rows + s.head_dim, *sums = d_o + s.head_dim;
    const uint32_t token = blockIdx.x, head = blockIdx.y, kv_head = head / (s.heads / s.kv_heads);
    const Span span = span_of_query(s, token);
    const uint32_t position = span.k_len - span.q_len + (token - span.q_first);
    const uint64_t row = query_row(s, token, head);
    read_row(query, p.q, row, s.head_dim);
    read_row(d_o, p.d_o, row, s.head_dim);
    float delta = 0.0f;
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
        sums[d] = 0.0f;
        delta += d_o[d] * load(p.o, row + d);
    }
    delta = block_reduce<Sum>(delta, scratch); // and the rows are there
    const uint64_t index = uint64_t(token) * s.heads + head;
    if (threadIdx.x == 0) pointer<float>(p.delta)[index] = delta;
    const float lse = pointer<const float>(p.lse)[index];
    for (uint32_t base = first_key(s, position); base <= position; base += kThreads) {
        const uint32_t j = base + threadIdx.x;
        float slope = 0.0f;
        if (j <= position) {
            const uint64_t key = key_row(s, span.k_first + j, kv_head);
            const Score at = score(s, dot(query, p.k, key, s.head_dim));
            slope = expf(at.value - lse) * (dot(d_o, p.v, key, s.head_dim) - delta) * at.slope;
        }
        slopes[threadIdx.x] = slope;
        __syncthreads();
        const uint32_t keys = min(uint32_t(kThreads), position + 1 - base);
        for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
            float sum = sums[d];
            for (uint32_t i = 0; i < keys; ++i) {
                sum += slopes[i] * load(p.k, key_row(s, span.k_first + base + i, kv_head) + d);
            }
            sums[d] = sum;
        }
        __syncthreads();
    }
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) store(p.dq, row + d, sums[d]);
}

// dK and dV of one key, over all heads of its group and all sequences that read it. Shared memory:
// head_dim floats each for key, value and both sums.
extern "C" __global__ void __launch_bounds__(kThreads)
attention_backward_kv(const __grid_constant__ AttentionBackwardParams p) {
    extern __shared__ float rows[];
    __shared__ float weights[kThreads], slopes[kThreads];
    const AttentionShape& s = p.shape;
    float *key = rows, *value = key + s.head_dim, *dk = value + s.head_dim, *dv = dk + s.head_dim;
    const uint32_t token = blockIdx.x, kv_head = blockIdx.y, group = s.heads / s.kv_heads;
    const uint64_t row = key_row(s, token, kv_head);
    read_row(key, p.k, row, s.head_dim);
    read_row(value, p.v, row, s.head_dim);
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) dk[d] = dv[d] = 0.0f;
    __syncthreads();
    for (uint32_t sequence = 0; sequence < s.count; ++sequence) {
        const Span at = span(s, sequence);
        if (token < at.k_first || token - at.k_first >= at.k_len) continue;
        const uint32_t j = token - at.k_first, offset = at.k_len - at.q_len;
        // Queries at the positions j..j + window see the key.
        const uint32_t first = j > offset ? j - offset : 0;
        uint32_t end = at.q_len;
        if (s.window != 0 && j + uint64_t(s.window) < at.k_len) {
            const uint32_t positions = j + s.window; // behind the last
            end = positions > offset ? positions - offset : 0;
        }
        for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            for (uint32_t base = first; base < end; base += kThreads) {
                const uint32_t i = base + threadIdx.x;
                float weight = 0.0f, slope = 0.0f;
                if (i < end) {
                    const uint32_t query = at.q_first + i;
                    const uint64_t index = uint64_t(query) * s.heads + head, q_row = index * s.head_dim;
                    const Score x = score(s, dot(key, p.q, q_row, s.head_dim));
                    weight = expf(x.value - pointer<const float>(p.lse)[index]);
                    const float delta = pointer<const float>(p.delta)[index];
                    slope = weight * (dot(value, p.d_o, q_row, s.head_dim) - delta) * x.slope;
                }
                weights[threadIdx.x] = weight;
                slopes[threadIdx.x] = slope;
                __syncthreads();
                const uint32_t queries = min(uint32_t(kThreads), end - base);
                for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
                    float sum_k = dk[d], sum_v = dv[d];
                    for (uint32_t n = 0; n < queries; ++n) {
                        const uint64_t q_row = query_row(s, at.q_first + base + n, head);
                        sum_k += slopes[n] * load(p.q, q_row + d);
                        sum_v += weights[n] * load(p.d_o, q_row + d);
                    }
                    dk[d] = sum_k;
                    dv[d] = sum_v;
                }
                __syncthreads();
            }
        }
    }
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += kThreads) {
        store(p.dk, row + d, dk[d]);
        store(p.dv, row + d, dv[d]);
    }
}
