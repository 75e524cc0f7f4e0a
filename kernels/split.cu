// bf16 factors that keep f32 precision, for the extra product of the tensor-core kernels.
#include "common/element.cuh"

// A value's part `part` of [high, low, high] on the left, of [high, high, low] on the right. Infinities and NaN
// go through the first alone, whose products are as the value's own: elsewhere they are 0.
__device__ __forceinline__ float split_part(float value, int part, bool right) {
    const float high = __bfloat162float(__float2bfloat16_rn(value));
    if (part == 0) return high;
    if (!isfinite(high)) return 0.0f;
    return (part == 2) == right ? value - high : high;
}

// One factor for each y of the grid.
extern "C" __global__ void __launch_bounds__(256) split(const __grid_constant__ SplitParams p) {
    const bool right = blockIdx.y == 1;
    const SplitFactor& f = p.factors[blockIdx.y];
    const uint64_t len = f.outer * p.width;
    for (uint64_t at = global_thread(); at < len; at += global_threads()) {
        const uint64_t i = f.ranks_first ? at % f.outer : at / p.width;
        const uint32_t column = f.ranks_first ? at / f.outer : at % p.width;
        const uint32_t part = column / p.rank, j = column % p.rank;
        float value = 0.0f;
        if (part < 3) value = split_part(f.factor * load(f.from, i * f.outer_step + j * f.rank_step), part, right);
        pointer<__nv_bfloat16>(f.out)[at] = __float2bfloat16_rn(value);
    }
}
