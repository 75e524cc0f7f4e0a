// bf16 factors that keep f32 precision, for the extra product of the tensor-core kernels: [high, low, high] on the
// left, [high, high, low] on the right.
#include "common/element.cuh"

// One factor for each y of the grid, a value for each thread and turn.
extern "C" __global__ void __launch_bounds__(256) split(const __grid_constant__ SplitParams p) {
    const bool right = blockIdx.y == 1;
    const SplitFactor& f = p.factors[blockIdx.y];
    const uint32_t outer = uint32_t(f.outer);
    __nv_bfloat16* out = pointer<__nv_bfloat16>(f.out);
    for (uint32_t at = global_thread(); at < outer * p.rank; at += global_threads()) {
        const uint32_t i = f.ranks_first ? at % outer : at / p.rank, j = f.ranks_first ? at / outer : at % p.rank;
        const auto store = [&](uint32_t column, float value) {
            const uint64_t to = f.ranks_first ? uint64_t(column) * outer + i : uint64_t(i) * p.width + column;
            out[to] = __float2bfloat16_rn(value);
        };
        const float value = f.factor * load(f.from, i * f.outer_step + j * f.rank_step);
        const float high = __bfloat162float(__float2bfloat16_rn(value));
        // Infinities and NaN go through the first part alone, whose products are as the value's own.
        const bool finite = isfinite(high);
        const float again = finite ? high : 0.0f, low = finite ? value - high : 0.0f;
        store(j, high);
        store(p.rank + j, right ? again : low);
        store(2 * p.rank + j, right ? low : again);
        for (uint32_t column = 3 * p.rank + j; column < p.width; column += p.rank) store(column, 0.0f);
    }
}
