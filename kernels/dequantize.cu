// A 4-bit weight in bf16, for products that are faster without dequantization: f32 code x f32 absmax, rounded once, as
// in nf4_matmul.cu. A thread takes 8 neighbours: 4 bytes in, 16 out. Bound by memory, 2.5 bytes a weight; codes are
// looked up by shuffle, about 7 instructions a weight of the 13 that an RTX 3090 issues while its bytes come.
#include "common/quantized.cuh"

extern "C" __global__ void __launch_bounds__(256) dequantize(const __grid_constant__ DequantizeParams p) {
    const float code = p.scales.codebook[threadIdx.x % 16];
    for (uint64_t at = global_thread() * kVector; at - threadIdx.x % 32 * kVector < p.len; at += global_threads() * kVector) {
        const bool present = at < p.len;
        const uint32_t codes = present ? __ldcs(pointer<const uint32_t>(p.packed) + at / kVector) : 0;
        const float scale = present ? block_absmax(p.scales, at >> p.scales.log2_block) : 0.0f;
        uint32_t pairs[kVector / 2];
#pragma unroll
        for (int i = 0; i < kVector / 2; ++i) {
            // The first of a byte is its high half; of the lane's number only the low four bits count.
            const float first = __shfl_sync(0xffffffffu, code, codes >> (i * 8 + 4), 16);
            const float second = __shfl_sync(0xffffffffu, code, codes >> (i * 8), 16);
            pairs[i] = pack_bf16(__fmul_rn(first, scale), __fmul_rn(second, scale));
        }
        if (present) pointer<uint4>(p.out)[at / kVector] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}
