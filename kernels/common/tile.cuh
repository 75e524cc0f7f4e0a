// bf16 tiles in shared memory, and what tensor cores do with them. A tile has rows of D elements in chunks
// of 16 bytes, permuted so that the eight rows that one phase of ldmatrix reads lie in different banks.
#pragma once

#include "async_copy.cuh"
#include "mma.cuh"

using bf16 = __nv_bfloat16;

// Offset of a chunk. Rows of an odd multiple of 64 bytes already alternate between the halves of the banks.
template <int D>
__device__ __forceinline__ int chunk_at(int row, int chunk) {
    static_assert(D % 32 == 0, "the permutation needs whole groups of four chunks");
    return row * D + (D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 8;
}

// Starts the copy of `rows` rows, `stride` elements apart, and of zeros for the rest of the tile.
template <int D, int Rows, int Threads>
__device__ __forceinline__ void async_copy_tile(bf16* to, const bf16* from, uint32_t stride, uint32_t rows) {
    constexpr int kChunks = D / 8;
    static_assert(Rows * kChunks % Threads == 0, "every thread copies as many chunks");
#pragma unroll
    for (int part = 0; part < Rows * kChunks / Threads; ++part) {
        const uint32_t i = threadIdx.x + part * Threads, row = i / kChunks, chunk = i % kChunks;
        const bool present = row < rows;
        const bf16* source = from + (present ? row * stride + chunk * 8 : 0);
        async_copy(shared_address(to + chunk_at<D>(row, chunk)), source, present ? 16 : 0);
    }
}

// Sums of a warp: 16 rows by N columns. Element e of [j] is row lane / 4 + e / 2 * 8, column
// j * 8 + lane % 4 * 2 + e % 2.
template <int N>
using Accumulator = float[N / 8][4];

// The same values as the left factor of a product.
template <int N>
using Weights = uint32_t[N / 16][4];

template <int N>
__device__ __forceinline__ void round_to(Weights<N>& to, const Accumulator<N>& from) {
#pragma unroll
    for (int i = 0; i < N / 16; ++i)
#pragma unroll
        for (int part = 0; part < 4; ++part) {
            const float(&pair)[4] = from[2 * i + part / 2];
            to[i][part] = pack_bf16(pair[part % 2 * 2], pair[part % 2 * 2 + 1]);
        }
}

// A warp's 16 rows of a tile as the left factor: kept in registers, or read whenever they are needed.
template <int D, bool Held>
struct LeftRows {
    const bf16* tile;
    int row;
    uint32_t held[Held ? D / 16 : 1][4];

    __device__ __forceinline__ void read(uint32_t (&to)[4], int step) const {
        const int lane = threadIdx.x % 32;
        load_matrices<false>(to, tile + chunk_at<D>(row + lane % 16, step * 2 + lane / 16));
    }

    // Once the tile is there.
    __device__ __forceinline__ void hold() {
        if constexpr (Held) {
#pragma unroll
            for (int step = 0; step < D / 16; ++step) read(held[step], step);
        }
    }

    __device__ __forceinline__ void get(uint32_t (&to)[4], int step) const {
        if constexpr (Held) {
#pragma unroll
            for (int i = 0; i < 4; ++i) to[i] = held[step][i];
        } else {
            read(to, step);
        }
    }
};

// c = a . b^T for the N rows of tile `b`, in runs of `Unroll` steps.
template <int D, int N, int Unroll = D / 16, bool Held>
__device__ __forceinline__ void multiply_rows(Accumulator<N>& c, const LeftRows<D, Held>& a, const bf16* b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < N / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] = 0.0f;
#pragma unroll(Unroll)
    for (int step = 0; step < D / 16; ++step) {
        uint32_t left[4];
        a.get(left, step);
#pragma unroll
        for (int j = 0; j < N / 16; ++j) {
            uint32_t right[4];
            load_matrices<false>(right, b + chunk_at<D>(j * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
            mma(c[2 * j], left, right[0], right[1]);
            mma(c[2 * j + 1], left, right[2], right[3]);
        }
    }
}

// c += a . b for the K rows of tile `b` and N of its columns, from `column` on.
template <int D, int K, int N>
__device__ __forceinline__ void multiply_columns(Accumulator<N>& c, const Weights<K>& a, const bf16* b, int column) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < K / 16; ++i)
#pragma unroll
        for (int j = 0; j < N / 16; ++j) {
            uint32_t right[4];
            load_matrices<true>(right, b + chunk_at<D>(i * 16 + lane % 16, column / 8 + j * 2 + lane / 16));
            mma(c[2 * j], a[i], right[0], right[1]);
            mma(c[2 * j + 1], a[i], right[2], right[3]);
        }
}

// Writes a warp's sums, times a factor for each of the lane's two rows, to N columns of its rows of a tile,
// and from there to those of `rows` that exist, in whole chunks. Nobody else uses that part of the tile.
template <int D, int N>
__device__ __forceinline__ void store_rows(bf16* to, uint32_t stride, uint32_t rows, bf16* tile, int row, int column,
                                           const Accumulator<N>& c, const float (&factor)[2]) {
    const int lane = threadIdx.x % 32;
    __syncwarp(); // other lanes may have read the rows as a left factor
#pragma unroll
    for (int j = 0; j < N / 8; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            bf16* chunk = tile + chunk_at<D>(row + lane / 4 + h * 8, column / 8 + j);
            reinterpret_cast<uint32_t*>(chunk)[lane % 4] = pack_bf16(c[j][2 * h] * factor[h], c[j][2 * h + 1] * factor[h]);
        }
    __syncwarp();
#pragma unroll
    for (int part = 0; part < 16 * (N / 8) / 32; ++part) {
        const uint32_t i = lane + part * 32, r = row + i / (N / 8), chunk = column / 8 + i % (N / 8);
        if (r >= rows) continue;
        *reinterpret_cast<uint4*>(to + r * stride + chunk * 8) =
            *reinterpret_cast<const uint4*>(tile + chunk_at<D>(r, chunk));
    }
}
