// Rotary embedding, halves of a head rotated (Su et al. 2021). Eight pairs a thread and turn, single ones where a half
// is no multiple of eight; the backward is the same with the opposite sign.
#include "common/element.cuh"

extern "C" __global__ void __launch_bounds__(256) rope(const __grid_constant__ RopeParams p) {
    const uint32_t half = p.head_dim / 2, each = half % kVector == 0 ? kVector : 1, turns = half / each;
    const bool whole = each == kVector;
    const Tensor cos_table{p.cos, DTYPE_F32, 0}, sin_table{p.sin, DTYPE_F32, 0};
    for (uint64_t i = global_thread(); i < p.tokens * p.heads * turns; i += global_threads()) {
        const uint64_t head = i / turns, d = i % turns * each;
        const uint64_t at = uint64_t(pointer<const uint32_t>(p.positions)[head / p.heads]) * half + d;
        const uint64_t first = head * p.head_dim + d, second = first + half;
        float cos[kVector], sin[kVector], x1[kVector], x2[kVector], y1[kVector], y2[kVector];
        load_vector(cos, cos_table, at, whole, each);
        load_vector(sin, sin_table, at, whole, each);
        load_vector(x1, p.x, first, whole, each);
        load_vector(x2, p.x, second, whole, each);
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
            const float s = p.sign * sin[e];
            y1[e] = x1[e] * cos[e] - x2[e] * s;
            y2[e] = x2[e] * cos[e] + x1[e] * s;
        }
        store_vector(p.out, first, y1, whole, each);
        store_vector(p.out, second, y2, whole, each);
    }
}
