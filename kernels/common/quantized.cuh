// 4-bit blocks: two codes a byte, the first in the high nibble (bitsandbytes' layout).
#pragma once

#include "element.cuh"

// Scale of a block, by `map` where it is nested. Product and sum round one after the other, as bitsandbytes' do.
__device__ __forceinline__ float block_absmax(const BlockScales& s, uint64_t block, const float* map) {
    const float* absmax = pointer<const float>(s.absmax);
    if (s.codes == 0) return absmax[block];
    const float nested = map[pointer<const uint8_t>(s.codes)[block]];
    return __fadd_rn(__fmul_rn(nested, absmax[block >> s.log2_nested]), s.offset);
}

__device__ __forceinline__ float block_absmax(const BlockScales& s, uint64_t block) {
    return block_absmax(s, block, pointer<const float>(s.map));
}

__device__ __forceinline__ float dequantize(const Tensor& x, const BlockScales& s, uint64_t i) {
    const uint8_t byte = pointer<const uint8_t>(x.data)[i >> 1];
    const unsigned code = i & 1 ? byte & 15 : byte >> 4;
    return __fmul_rn(s.codebook[code], block_absmax(s, i >> s.log2_block));
}
