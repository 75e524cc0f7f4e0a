// bf16 tiles in shared memory, and what tensor cores do with them. A tile has rows of D elements in chunks
// of 16 bytes, permuted so that the eight rows that one phase of ldmatrix reads lie in different banks.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

using bf16 = __nv_bfloat16;

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// Offset of a chunk. Rows of an odd multiple of 64 bytes already alternate between the halves of the banks.
template <int D>
__device__ __forceinline__ int swizzled(int row, int chunk) {
    static_assert(D % 32 == 0, "the permutation needs whole groups of four chunks");
    return row * D + (D % 64 == 0 ? chunk ^ (row & 7) : chunk ^ (row >> 1 & 3)) * 8;
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// For this thread's copies; a barrier makes them everyone's.
template <int Pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four bytes, or zeros.
__device__ __forceinline__ void copy_async_word(void* to, const void* from, bool present) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(present ? 4 : 0)
                 : "memory");
}

// Starts the copy of `rows` rows, `stride` elements apart, and of zeros for the rest of the tile.
template <int D, int Rows, int Threads>
__device__ __forceinline__ void copy_async_tile(bf16* to, const bf16* from, uint32_t stride, uint32_t rows) {
    constexpr int kChunks = D / 8;
    static_assert(Rows * kChunks % Threads == 0, "every thread copies as many chunks");
#pragma unroll
    for (int part = 0; part < Rows * kChunks / Threads; ++part) {
        const uint32_t i = threadIdx.x + part * Threads, row = i / kChunks, chunk = i % kChunks;
        const bool present = row < rows;
        const bf16* source = from + (present ? row * stride + chunk * 8 : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to + swizzled<D>(row, chunk))),
                     "l"(source), "r"(present ? 16 : 0)
                     : "memory");
    }
}

// Four 8x8 matrices; lane i names row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrix(uint32_t (&to)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_matrix_transposed(uint32_t (&to)[4], const bf16* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// c += a . b for a 16x16 `a` and a 16x8 `b`.
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
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
            to[i][part] = pack(pair[part % 2 * 2], pair[part % 2 * 2 + 1]);
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
        load_matrix(to, tile + swizzled<D>(row + lane % 16, step * 2 + lane / 16));
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

// c = a . b^T for the N rows of tile `b`.
template <int D, int N, bool Held>
__device__ __forceinline__ void multiply_rows(Accumulator<N>& c, const LeftRows<D, Held>& a, const bf16* b) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < N / 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) c[j][e] = 0.0f;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
        uint32_t left[4];
        a.get(left, step);
#pragma unroll
        for (int j = 0; j < N / 16; ++j) {
            uint32_t right[4];
            load_matrix(right, b + swizzled<D>(j * 16 + lane % 8 + lane / 16 * 8, step * 2 + lane / 8 % 2));
            multiply_add(c[2 * j], left, right[0], right[1]);
            multiply_add(c[2 * j + 1], left, right[2], right[3]);
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
            load_matrix_transposed(right, b + swizzled<D>(i * 16 + lane % 16, column / 8 + j * 2 + lane / 16));
            multiply_add(c[2 * j], a[i], right[0], right[1]);
            multiply_add(c[2 * j + 1], a[i], right[2], right[3]);
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
            bf16* chunk = tile + swizzled<D>(row + lane / 4 + h * 8, column / 8 + j);
            reinterpret_cast<uint32_t*>(chunk)[lane % 4] = pack(c[j][2 * h] * factor[h], c[j][2 * h + 1] * factor[h]);
        }
    __syncwarp();
#pragma unroll
    for (int part = 0; part < 16 * (N / 8) / 32; ++part) {
        const uint32_t i = lane + part * 32, r = row + i / (N / 8), chunk = column / 8 + i % (N / 8);
        if (r >= rows) continue;
        *reinterpret_cast<uint4*>(to + r * stride + chunk * 8) =
            *reinterpret_cast<const uint4*>(tile + swizzled<D>(r, chunk));
    }
}
