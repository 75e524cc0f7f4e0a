// Rotary embedding, halves of a head rotated (Su et al. 2021). One thread for each pair; the backward
// is the same with the opposite sign.
#include "common/element.cuh"

extern "C" __global__ void __launch_bounds__(256) rope(const __grid_constant__ RopeParams p) {
    const uint64_t half = p.head_dim / 2, pairs = p.tokens * p.heads * half;
    for (uint64_t i = global_thread(); i < pairs; i += global_threads()) {
        const uint64_t head = i / half, d = i % half, token = head / p.heads;
        const uint64_t at = uint64_t(pointer<const uint32_t>(p.positions)[token]) * half + d;
        const float cos = pointer<const float>(p.cos)[at], sin = p.sign * pointer<const float>(p.sin)[at];
        const uint64_t first = head * p.head_dim + d, second = first + half;
        const float x1 = load(p.x, first), x2 = load(p.x, second);
        store(p.out, first, x1 * cos - x2 * sin);
        store(p.out, second, x2 * cos + x1 * sin);
    }
}
