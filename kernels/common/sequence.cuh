// Where the sequences of attention lie.
#pragma once

#include "element.cuh"

struct Span {
    uint32_t q_first, q_len, k_first, k_len;
};

__device__ __forceinline__ Span span(const AttentionShape& s, uint32_t sequence) {
    const uint32_t* q_start = pointer<const uint32_t>(s.q_start);
    const uint32_t first = q_start[sequence];
    return {first, q_start[sequence + 1] - first, pointer<const uint32_t>(s.k_start)[sequence],
            pointer<const uint32_t>(s.k_len)[sequence]};
}

__device__ __forceinline__ uint64_t query_row(const AttentionShape& s, uint32_t token, uint32_t head) {
    return (uint64_t(token) * s.heads + head) * s.head_dim;
}

__device__ __forceinline__ uint64_t key_row(const AttentionShape& s, uint32_t token, uint32_t kv_head) {
    return (uint64_t(token) * s.kv_heads + kv_head) * s.head_dim;
}

// The keys that a query at `position` sees start here.
__device__ __forceinline__ uint32_t first_key(const AttentionShape& s, uint32_t position) {
    return s.window != 0 && position + 1 > s.window ? position + 1 - s.window : 0;
}
