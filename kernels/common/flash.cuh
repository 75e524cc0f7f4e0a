// What the tensor-core attention kernels share: tiles of FLASH_ROWS queries or keys, which never cross a
// sequence, and exponentials to the base two.
#pragma once

#include <math_constants.h>

#include "sequence.cuh"
#include "tile.cuh"

constexpr float kLog2E = 1.4426950408889634f;

struct FlashTile {
    Span at;
    uint32_t start; // first row, counted in the sequence
};

// Tile `index` of all sequences' queries, or keys. Every thread counts: batches have few sequences, and a
// list of tiles would be one more copy to the device.
template <bool Keys>
__device__ __forceinline__ FlashTile flash_tile(const AttentionShape& s, uint32_t index) {
    for (uint32_t sequence = 0;; ++sequence) {
        const Span at = span(s, sequence);
        const uint32_t tiles = ((Keys ? at.k_len : at.q_len) + FLASH_ROWS - 1) / FLASH_ROWS;
        if (index < tiles) return {at, index * FLASH_ROWS};
        index -= tiles;
    }
}

// 2^x; results below 2^-126 are 0.
__device__ __forceinline__ float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// A query at `position` sees `key`.
__device__ __forceinline__ bool sees(const AttentionShape& s, uint32_t position, uint32_t key) {
    return key <= position && (s.window == 0 || key + s.window > position);
}

// Some query at the positions first..=last does not see some key of key..key + keys.
__device__ __forceinline__ bool hides(const AttentionShape& s, uint32_t first, uint32_t last, uint32_t key,
                                      uint32_t keys) {
    return key + keys - 1 > first || (s.window != 0 && key + s.window <= last);
}
