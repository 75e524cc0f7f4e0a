// Philox4x32-10 (Salmon et al., SC 2011), numbered as kernels::Philox numbers it.
#pragma once

#include "../include/params.h"

// Words 4 `index` .. 4 `index` + 4 of a stream.
__device__ __forceinline__ uint4 philox_block(uint64_t key, uint64_t stream, uint64_t index) {
    uint32_t c0 = uint32_t(index), c1 = uint32_t(index >> 32), c2 = uint32_t(stream), c3 = uint32_t(stream >> 32);
    uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint32_t high0 = __umulhi(0xD2511F53u, c0), low0 = 0xD2511F53u * c0;
        const uint32_t high1 = __umulhi(0xCD9E8D57u, c2), low1 = 0xCD9E8D57u * c2;
        c0 = high1 ^ c1 ^ k0;
        c1 = low1;
        c2 = high0 ^ c3 ^ k1;
        c3 = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return make_uint4(c0, c1, c2, c3);
}

// Word `index` of a stream.
__device__ __forceinline__ uint32_t philox_word(uint64_t key, uint64_t stream, uint64_t index) {
    const uint4 words = philox_block(key, stream, index / 4);
    const uint32_t low = index & 1 ? words.y : words.x, high = index & 1 ? words.w : words.z;
    return index & 2 ? high : low;
}

// What element `index` of the masked tensor is multiplied by.
__device__ __forceinline__ float dropout_factor(const DropoutMask& mask, uint64_t index) {
    return philox_word(mask.key, mask.stream, index) >= mask.threshold ? mask.keep : 0.0f;
}
