// Attention of one query a sequence, as in generation: bound by the bytes of keys and values, each of which is read
// once for up to DECODE_QUERIES heads that share it. The keys of a sequence are cut into parts (Flash-Decoding, Dao
// et al. 2023), so that few sequences fill the device; a second kernel puts the parts together in order.
//
// A block has a part of the keys of one sequence and one head of keys. L lanes, the next power of two, share a row
// of head_dim elements, 8 each; a warp takes 32 / L keys at once, kAhead times, before it looks at their maximum.
//
// Counts of the emulated device, not times, for 4096 bf16 keys, 32 heads in groups of 4, head_dim 128 (16.8 MB of keys
// and values): 1.05 times these bytes on an RTX 3090 and 1.10 times on an RTX 4090, which has more parts; bound by
// memory 18.9 and 18.4 us, and 0.4 and 0.8 us for what puts the parts together. In groups of 4 the RTX 3090 issues
// 0.6 of what it could in that time; in groups of 8 instructions and memory bound alike.
#include <math_constants.h>

#include "common/eight.cuh"
#include "common/sequence.cuh"

namespace {

constexpr uint32_t kWarps = DECODE_THREADS / 32;

__device__ __forceinline__ float score(const AttentionShape& s, float product) {
    const float value = product * s.scale;
    return s.softcap == 0.0f ? value : s.softcap * tanhf(value / s.softcap);
}

// What sums under one maximum count under a larger one. Nothing was summed under -infinity, or not a number.
__device__ __forceinline__ float rescale(float from, float to) {
    return from == -CUDART_INF_F ? 0.0f : expf(from - to);
}

// Softmax so far of kQueries queries, and this lane's eight elements of the weighted sums of values.
template <int kQueries>
struct State {
    float most[kQueries], total[kQueries], sum[kQueries][kVector];

    __device__ __forceinline__ State() {
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
            most[g] = -CUDART_INF_F, total[g] = 0.0f;
#pragma unroll
            for (uint32_t i = 0; i < kVector; ++i) sum[g][i] = 0.0f;
        }
    }

    __device__ __forceinline__ void raise(int g, float to) {
        const float factor = rescale(most[g], to);
        most[g] = to;
        total[g] *= factor;
#pragma unroll
        for (uint32_t i = 0; i < kVector; ++i) sum[g][i] *= factor;
    }

    // Adds what the lane has that differs in bit `step`.
    __device__ __forceinline__ void add_lane(uint32_t step) {
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
            const float other = __shfl_xor_sync(0xffffffffu, most[g], step);
            raise(g, fmaxf(most[g], other));
            total[g] += __shfl_xor_sync(0xffffffffu, total[g], step);
#pragma unroll
            for (uint32_t i = 0; i < kVector; ++i) sum[g][i] += __shfl_xor_sync(0xffffffffu, sum[g][i], step);
        }
    }
};

// Where a thread stands.
struct Place {
    Span at;
    uint32_t kv_head, head, queries; // heads head..head + queries
    uint32_t begin, end;             // keys
    uint32_t lanes, vector;          // that share a key; which eight elements of it are this lane's
    bool whole;                      // there are such elements

    __device__ __forceinline__ Place(const AttentionShape& s, const DecodeAttentionParams& p, uint32_t most_queries)
        : at(span(s, blockIdx.x)) {
        const uint32_t group = s.heads / s.kv_heads, chunks = (group + most_queries - 1) / most_queries;
        kv_head = blockIdx.y / chunks;
        const uint32_t first = blockIdx.y % chunks * most_queries;
        head = kv_head * group + first, queries = min(most_queries, group - first);
        begin = at.q_len == 0 ? at.k_len : first_key(s, at.k_len - 1) + blockIdx.z * p.split_keys;
        end = min(begin + p.split_keys, at.k_len);
        lanes = 1;
        while (lanes * kVector < s.head_dim) lanes *= 2;
        vector = threadIdx.x % lanes;
        whole = vector * kVector < s.head_dim;
    }
};

template <int kType, int kQueries>
__device__ __forceinline__ void accumulate(State<kQueries>& state, const AttentionParams& p, const Place& place) {
    constexpr int kAhead = kType == DTYPE_BF16 ? 4 : 2;
    const AttentionShape& s = p.shape;
    const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, keys = 32 / place.lanes;
    float query[kQueries][kVector] = {};
#pragma unroll
    for (uint32_t g = 0; g < kQueries; ++g) {
        const uint64_t row = query_row(s, place.at.q_first, place.head + g);
        if (place.whole && g < place.queries) load_eight(query[g], p.q, row + place.vector * kVector);
    }
    for (uint32_t base = place.begin + warp * keys * kAhead; base < place.end; base += kWarps * keys * kAhead) {
        Eight<kType> key[kAhead], value[kAhead];
        bool present[kAhead];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            const uint32_t j = base + u * keys + lane / place.lanes;
            present[u] = j < place.end;
            const uint64_t at = key_row(s, place.at.k_first + j, place.kv_head) + place.vector * kVector;
            if (present[u] && place.whole) key[u].fetch(p.k, at), value[u].fetch(p.v, at);
        }
        float weights[kAhead][kQueries];
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            float x[kVector];
            key[u].get(x);
#pragma unroll
            for (int g = 0; g < kQueries; ++g) {
                float product = 0.0f;
#pragma unroll
                for (uint32_t i = 0; i < kVector; ++i) product += query[g][i] * x[i];
                weights[u][g] = product;
            }
        }
        for (uint32_t step = place.lanes / 2; step > 0; step /= 2) {
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
#pragma unroll
                for (int g = 0; g < kQueries; ++g) weights[u][g] += __shfl_xor_sync(0xffffffffu, weights[u][g], step);
            }
        }
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
            float most = state.most[g];
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                weights[u][g] = present[u] ? score(s, weights[u][g]) : -CUDART_INF_F;
                most = fmaxf(most, weights[u][g]);
            }
            state.raise(g, most);
#pragma unroll
            for (int u = 0; u < kAhead; ++u) {
                weights[u][g] = present[u] ? expf(weights[u][g] - most) : 0.0f;
                state.total[g] += weights[u][g];
            }
        }
#pragma unroll
        for (int u = 0; u < kAhead; ++u) {
            float x[kVector];
            value[u].get(x);
#pragma unroll
            for (int g = 0; g < kQueries; ++g) {
#pragma unroll
                for (uint32_t i = 0; i < kVector; ++i) state.sum[g][i] += weights[u][g] * x[i];
            }
        }
    }
}

// The parts' common maximum, their totals under it, and what one element of them sums to. Parts are `stride`
// rows apart; of each there are a maximum and a total in `totals`, and in `element` a row of head_dim.
struct Merged {
    float most, total, sum;

    __device__ __forceinline__ Merged(uint32_t parts, const float2* totals, const float* element, uint32_t stride,
                                      uint32_t head_dim)
        : most(-CUDART_INF_F), total(0.0f), sum(0.0f) {
        for (uint32_t i = 0; i < parts; ++i) most = fmaxf(most, totals[i * stride].x);
        for (uint32_t i = 0; i < parts; ++i) {
            const float2 part = totals[i * stride];
            const float factor = rescale(part.x, most);
            total += factor * part.y;
            sum += factor * element[uint64_t(i * stride) * head_dim];
        }
    }
};

__device__ __forceinline__ void write(const AttentionParams& p, uint64_t row, uint32_t d, const Merged& x) {
    store(p.o, row * p.shape.head_dim + d, x.sum / x.total);
    if (d == 0) pointer<float>(p.lse)[row] = x.most + logf(x.total);
}

// Shared memory: for each warp and query head_dim sums, then their maximum and total.
template <int kType, int kQueries>
__device__ __forceinline__ void decode_attention(const DecodeAttentionParams& p) {
    extern __shared__ float shared[];
    const AttentionShape& s = p.attention.shape;
    const Place place(s, p, kQueries);
    if (place.begin >= place.at.k_len) return;
    State<kQueries> state;
    accumulate<kType>(state, p.attention, place);

    for (uint32_t step = place.lanes; step < 32; step *= 2) state.add_lane(step);
    const uint32_t warp = threadIdx.x / 32;
    float2* totals = reinterpret_cast<float2*>(shared + kWarps * kQueries * s.head_dim);
    if (threadIdx.x % 32 < place.lanes && place.whole) {
#pragma unroll
        for (int g = 0; g < kQueries; ++g) {
            const uint32_t part = warp * kQueries + g;
            const float* sum = state.sum[g];
            float4* to = reinterpret_cast<float4*>(shared + part * s.head_dim + place.vector * kVector);
            to[0] = make_float4(sum[0], sum[1], sum[2], sum[3]), to[1] = make_float4(sum[4], sum[5], sum[6], sum[7]);
            if (place.vector == 0) totals[part] = make_float2(state.most[g], state.total[g]);
        }
    }
    __syncthreads();
    for (uint32_t x = threadIdx.x; x < place.queries * s.head_dim; x += DECODE_THREADS) {
        const uint32_t g = x / s.head_dim, d = x % s.head_dim;
        const Merged merged(kWarps, totals + g, shared + g * s.head_dim + d, kQueries, s.head_dim);
        const uint64_t row = uint64_t(place.at.q_first) * s.heads + place.head + g;
        if (p.splits == 1) {
            write(p.attention, row, d, merged);
            continue;
        }
        const uint64_t part = row * p.splits + blockIdx.z;
        pointer<float>(p.sums)[part * s.head_dim + d] = merged.sum;
        if (d == 0) pointer<float2>(p.totals)[part] = make_float2(merged.most, merged.total);
    }
}

} // namespace

#define DECODE_ATTENTION(name, type, queries)                                                  \
    extern "C" __global__ void __launch_bounds__(DECODE_THREADS)                               \
        decode_attention_##name##_##queries(const __grid_constant__ DecodeAttentionParams p) { \
        decode_attention<type, queries>(p);                                                    \
    }
DECODE_ATTENTION(bf16, DTYPE_BF16, 1)
DECODE_ATTENTION(bf16, DTYPE_BF16, 4)
DECODE_ATTENTION(bf16, DTYPE_BF16, 8)
DECODE_ATTENTION(f32, DTYPE_F32, 1)
DECODE_ATTENTION(f32, DTYPE_F32, 4)
DECODE_ATTENTION(f32, DTYPE_F32, 8)

// A block for each sequence and head.
extern "C" __global__ void __launch_bounds__(DECODE_THREADS)
decode_attention_combine(const __grid_constant__ DecodeAttentionParams p) {
    const AttentionShape& s = p.attention.shape;
    const Span at = span(s, blockIdx.x);
    if (at.q_len == 0) return;
    const uint32_t keys = at.k_len - first_key(s, at.k_len - 1), parts = (keys + p.split_keys - 1) / p.split_keys;
    const uint64_t row = uint64_t(at.q_first) * s.heads + blockIdx.y, first = row * p.splits;
    for (uint32_t d = threadIdx.x; d < s.head_dim; d += DECODE_THREADS) {
        const float* element = pointer<const float>(p.sums) + first * s.head_dim + d;
        const Merged merged(parts, pointer<const float2>(p.totals) + first, element, 1, s.head_dim);
        write(p.attention, row, d, merged);
    }
}
