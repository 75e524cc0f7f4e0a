// Product of bf16 activations with a frozen weight [n, k] on tensor cores, forward (x . W^T) and backward (x . W),
// with an extra product (LoRA), its dropout, bias and accumulation, summed in f32 and rounded once.
//
// Tile kRows x 128, 64 deep; 256 threads, warps 2 x 4; three stages of copies by cp.async. The weight tile is kept as
// the weight lies in memory - forward [128 of n][64 of k], backward [64 of n][128 of k] - so the directions differ in
// strides and in ldmatrix's transposition alone. How a weight comes to be such tiles is its class's affair: see
// dense_matmul.cu and nf4_matmul.cu.
//
// The one barrier of a step lies before the products of its last 16, whose fragments are in registers by then. There
// is no branch in the loop: copies past the end fill zeros.
//
// The extra product comes first, in the buffers of the last activation stage and of a weight tile that is idle until
// the loop's first step.
//
// Tiles of 128 rows fill the device in waves. Where the last wave would fill half of it at most, its tiles are done
// as halves of 64 rows: at 82 multiprocessors, M = 2048 and N = 4096, 6.5 waves instead of 7 for work of 6.24. A launch
// has one grid over the tiles of several products, of which a block does one tile: two more with N = 1024, 2 waves each
// on their own, take it to 9.5 waves for work of 9.37.
#pragma once

#include "async_copy.cuh"
#include "element.cuh"
#include "mma.cuh"
#include "philox.cuh"

extern __shared__ __align__(128) uint8_t shared[];

constexpr int kThreads = 256, kDepth = 64, kCols = TILE_MATMUL_COLS, kStages = 3, kSteps = kDepth / 16;
// Tiles of rows that run beside each other, to share activations and weights in L2.
constexpr int kGroup = 8;

template <bool kBackward_, int kRows_>
struct Tile {
    static constexpr bool kBackward = kBackward_;
    static constexpr int kRows = kRows_;
    static constexpr int kWarpsM = 2, kWarpsN = kThreads / 32 / kWarpsM;
    static constexpr int kWarpRows = kRows / kWarpsM, kWarpCols = kCols / kWarpsN;
    static constexpr int kM = kWarpRows / 16, kN = kWarpCols / 8; // fragments of a warp
    // Bytes.
    static constexpr int kActivationPitch = 2 * kDepth, kWeightPitch = 2 * (kBackward ? kCols : kDepth);
    static constexpr int kActivations = kRows * kActivationPitch, kWeightTile = 2 * kCols * kDepth;
    static constexpr int kWeightsAt = kStages * kActivations, kExtraA = (kStages - 1) * kActivations;
};

template <typename T>
__device__ __forceinline__ T& shared_at(uint32_t offset) {
    return *reinterpret_cast<T*>(shared + offset);
}

__device__ __forceinline__ uint32_t shared_address(uint32_t offset) { return shared_address(shared) + offset; }

// What a product computes, and which tile of it this block does: number `index` of the launch's tiles of `tile_rows`
// rows, from row `below` of it on.
template <typename T>
struct Place {
    uint32_t rows, cols, depth; // of the whole product
    uint32_t row, col;

    __device__ __forceinline__ Place(const TileMatmulProduct& p, uint32_t tile_rows, uint32_t index, uint32_t below)
        : rows(p.m), cols(T::kBackward ? p.k : p.n), depth(T::kBackward ? p.n : p.k) {
        const uint32_t tiles_m = (rows + tile_rows - 1) / tile_rows, tiles_n = (cols + kCols - 1) / kCols;
        const uint32_t tile = index - p.first_tile;
        const uint32_t group = tile / (kGroup * tiles_n), within = tile % (kGroup * tiles_n);
        const uint32_t high = min(uint32_t(kGroup), tiles_m - group * kGroup);
        row = (group * kGroup + within % high) * tile_rows + below;
        col = within / high * kCols;
    }
};

// Copies tiles of the activations, one after the other. Rows past the end repeat the last: they give results
// that are not stored.
template <typename T>
struct Activations {
    static constexpr int kChunks = kDepth / 8, kStep = kThreads / kChunks, kCopies = T::kRows / kStep;
    const uint8_t* from;
    uint32_t to, offsets[kCopies];
    int left; // elements from this thread's chunk to the end

    __device__ __forceinline__ Activations(const TileMatmulProduct& p, const Place<T>& place) {
        const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
        from = pointer<const uint8_t>(p.x) + 2 * (uint64_t(place.row) * p.x_stride + chunk * 8);
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            offsets[i] = 2 * p.x_stride * min(uint32_t(row + i * kStep), place.rows - 1 - place.row);
        }
        to = shared_address(swizzled<T::kActivationPitch>(row, chunk));
        left = int(place.depth) - chunk * 8;
    }

    __device__ __forceinline__ void copy(uint32_t stage) {
        const int bytes = left > 0 ? 16 : 0;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            async_copy(to + stage + i * kStep * T::kActivationPitch, from + offsets[i], bytes);
        }
        from += 2 * kDepth;
        left -= kDepth;
    }
};

// A warp's factors 16 deep, twice so that one is loaded while the other is multiplied, and its sums.
template <typename T>
struct Fragments {
    uint32_t a_at, b_at;
    uint32_t a[2][T::kM][4], b[2][T::kN / 2][4];
    float sum[T::kM][T::kN][4] = {};
    int row, col; // of the warp in the tile

    __device__ __forceinline__ Fragments() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        row = warp % T::kWarpsM * T::kWarpRows, col = warp / T::kWarpsM * T::kWarpCols;
        a_at = shared_address(swizzled<T::kActivationPitch>(row + lane % 16, lane / 16));
        b_at = shared_address(T::kBackward
                                  ? swizzled<T::kWeightPitch>(lane % 16, col / 8 + lane / 16)
                                  : swizzled<T::kWeightPitch>(col + lane % 8 + lane / 16 * 8, lane / 8 % 2));
    }

    // Tiles begin at multiples of 128 bytes, so a step by chunks is an exclusive or.
    __device__ __forceinline__ void load(int into, uint32_t activations, uint32_t weights, int step) {
#pragma unroll
        for (int i = 0; i < T::kM; ++i) {
            load_matrices<false>(a[into][i], ((a_at + activations) ^ (step << 5)) + i * 16 * T::kActivationPitch);
        }
#pragma unroll
        for (int j = 0; j < T::kN / 2; ++j) {
            const uint32_t at = b_at + weights;
            if constexpr (T::kBackward) {
                load_matrices<true>(b[into][j], (at ^ (j << 5)) + step * 16 * T::kWeightPitch);
            } else {
                load_matrices<false>(b[into][j], (at ^ (step << 5)) + j * 16 * T::kWeightPitch);
            }
        }
    }

    // Product `x` of kM * kN; odd rows go backwards, to use the last factor again.
    __device__ __forceinline__ void multiply(int from, int x) {
        const int i = x / T::kN, along = x % T::kN, j = i % 2 ? T::kN - 1 - along : along;
        mma(sum[i][j], a[from][i], b[from][j / 2][j % 2 * 2], b[from][j / 2][j % 2 * 2 + 1]);
    }

    // Calls f(row, col, sum) with each pair of neighbouring sums, at their place in the tile.
    template <typename F>
    __device__ __forceinline__ void each_pair(F f) {
        const int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < T::kM; ++i) {
#pragma unroll
            for (int j = 0; j < T::kN; ++j) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    f(row + i * 16 + h * 8 + lane / 4, col + j * 8 + lane % 4 * 2, &sum[i][j][2 * h]);
                }
            }
        }
    }
};

// Copies the extra product's factors from column `begin` of its width.
template <typename T>
__device__ __forceinline__ void copy_extra(const TileMatmulProduct& p, const Place<T>& place, uint32_t begin,
                                           uint32_t weights) {
    const uint8_t *a = pointer<const uint8_t>(p.extra_a), *b = pointer<const uint8_t>(p.extra_b);
#pragma unroll 1
    for (int x = threadIdx.x; x < T::kActivations / 16; x += kThreads) {
        const uint32_t row = x / (kDepth / 8), chunk = x % (kDepth / 8), at = begin + chunk * 8;
        const uint64_t from = uint64_t(min(place.row + row, place.rows - 1)) * p.extra_k + at;
        async_copy(shared_address(T::kExtraA + swizzled<T::kActivationPitch>(row, chunk)), a + 2 * from,
                   at < p.extra_k ? 16 : 0);
    }
    constexpr int kChunks = T::kWeightPitch / 16;
#pragma unroll 1
    for (int x = threadIdx.x; x < T::kWeightTile / 16; x += kThreads) {
        const uint32_t row = x / kChunks, chunk = x % kChunks;
        const uint32_t at = begin + (T::kBackward ? row : chunk * 8), col = place.col + (T::kBackward ? chunk * 8 : row);
        const uint64_t from = T::kBackward ? uint64_t(at) * place.cols + col : uint64_t(col) * p.extra_k + at;
        async_copy(shared_address(weights + swizzled<T::kWeightPitch>(row, chunk)), b + 2 * from,
                   at < p.extra_k && col < place.cols ? 16 : 0);
    }
}

// sums = extra_a . extra_b, with their mask.
template <typename T>
__device__ __forceinline__ void multiply_extra(const TileMatmulProduct& p, const Place<T>& place,
                                               Fragments<T>& fragments, uint32_t weights) {
#pragma unroll 1
    for (uint32_t begin = 0; begin < p.extra_k; begin += kDepth) {
        if (begin == 0) {
            async_wait<kStages - 1>();
        } else {
            __syncthreads();
            copy_extra(p, place, begin, weights);
            async_commit();
            async_wait<0>();
        }
        __syncthreads();
        const int steps = min(uint32_t(kDepth), p.extra_k - begin) / 16;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            fragments.load(0, T::kExtraA, weights, step);
#pragma unroll
            for (int x = 0; x < T::kM * T::kN; ++x) fragments.multiply(0, x);
        }
    }
    if (p.mask) {
        fragments.each_pair([&](uint32_t row, uint32_t col, float* sum) {
            const uint64_t at = uint64_t(place.row + row) * place.cols + place.col + col;
            sum[0] *= dropout_factor(p.dropout, at);
            sum[1] *= dropout_factor(p.dropout, at + 1);
        });
    }
}

template <typename T>
__device__ __forceinline__ void store_f32(const TileMatmulProduct& p, const Place<T>& place, Fragments<T>& fragments) {
    float* out = pointer<float>(p.out.data);
    const bool whole = p.out_stride % 2 == 0; // then pairs begin at multiples of 8 bytes
    fragments.each_pair([&](uint32_t row, uint32_t col, float* sum) {
        const uint32_t m = place.row + row, n = place.col + col;
        if (m >= place.rows || n >= place.cols) return;
        float* to = out + uint64_t(m) * p.out_stride + n;
        const int count = n + 1 < place.cols ? 2 : 1;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            if (e >= count) break;
            if (p.bias.data != 0) sum[e] += load(p.bias, n + e);
            if (p.accumulate) sum[e] += to[e];
        }
        if (whole && count == 2) {
            *reinterpret_cast<float2*>(to) = make_float2(sum[0], sum[1]);
        } else {
            to[0] = sum[0];
            if (count == 2) to[1] = sum[1];
        }
    });
}

// Rounds the sums, by way of shared memory so that rows are stored whole.
template <typename T>
__device__ __forceinline__ void store_bf16(const TileMatmulProduct& p, const Place<T>& place, Fragments<T>& fragments) {
    constexpr int kPitch = 2 * kCols, kChunks = kCols / 8;
    const bool whole = place.cols % 8 == 0 && p.out_stride % 8 == 0; // then rows begin at multiples of 16 bytes
    __nv_bfloat16* out = pointer<__nv_bfloat16>(p.out.data);
    // Calls f(element of `out`, offset in shared memory, elements of the chunk) for this thread's chunks.
    const auto each_chunk = [&](auto f) {
#pragma unroll 1
        for (int x = threadIdx.x; x < T::kRows * kChunks; x += kThreads) {
            const uint32_t row = x / kChunks, chunk = x % kChunks;
            const uint32_t m = place.row + row, n = place.col + chunk * 8;
            if (m < place.rows && n < place.cols) {
                f(out + uint64_t(m) * p.out_stride + n, swizzled<kPitch>(row, chunk), min(8u, place.cols - n));
            }
        }
    };
    __syncthreads();
    if (p.accumulate) {
        each_chunk([&](const __nv_bfloat16* from, uint32_t to, uint32_t count) {
            if (whole) {
                shared_at<uint4>(to) = *reinterpret_cast<const uint4*>(from);
            } else {
                for (uint32_t e = 0; e < count; ++e) shared_at<__nv_bfloat16>(to + 2 * e) = from[e];
            }
        });
        __syncthreads();
    }
    fragments.each_pair([&](uint32_t row, uint32_t col, float* sum) {
        float first = sum[0], second = sum[1];
        const uint32_t n = place.col + col;
        if (p.bias.data != 0) {
            if (n < place.cols) first += load(p.bias, n);
            if (n + 1 < place.cols) second += load(p.bias, n + 1);
        }
        const uint32_t at = swizzled<kPitch>(row, col / 8) + col % 8 * 2;
        if (p.accumulate && place.row + row < place.rows) {
            if (n < place.cols) first += __bfloat162float(shared_at<__nv_bfloat16>(at));
            if (n + 1 < place.cols) second += __bfloat162float(shared_at<__nv_bfloat16>(at + 2));
        }
        shared_at<uint32_t>(at) = pack_bf16(first, second);
    });
    __syncthreads();
    each_chunk([&](__nv_bfloat16* to, uint32_t from, uint32_t count) {
        if (whole) {
            *reinterpret_cast<uint4*>(to) = shared_at<const uint4>(from);
        } else {
            for (uint32_t e = 0; e < count; ++e) to[e] = shared_at<const __nv_bfloat16>(from + 2 * e);
        }
    });
}

// One tile of the product.
template <template <typename> class WeightOf, typename T>
__device__ __forceinline__ void multiply_tile(const TileMatmulProduct& p, const Place<T>& place) {
    using Weight = WeightOf<T>;
    static_assert(T::kRows * kCols * 2 <= Weight::kShared, "the result passes through shared memory");
    constexpr int kProducts = T::kM * T::kN;
    Activations<T> activations(p, place);
    Weight weight(p, place);
    Fragments<T> fragments;

    if (p.extra_k != 0) copy_extra(p, place, 0, Weight::kIdleTile);
    async_commit();
    weight.copy_first();
#pragma unroll
    for (int j = 0; j < kStages - 1; ++j) {
        activations.copy(j * T::kActivations);
        weight.copy(j);
        async_commit();
    }
    multiply_extra(p, place, fragments, Weight::kIdleTile);

    async_wait<kStages - 2>();
    __syncthreads(); // the first tiles are there; the extra product's buffers are free
    weight.make_first();
    fragments.load(0, 0, weight.tile(), 0);

    const uint32_t tiles = (place.depth + kDepth - 1) / kDepth;
    // Offsets of the activation stage in use and of the one to fill.
    uint32_t stage = 0, fill = (kStages - 1) * T::kActivations;
#pragma unroll 1
    for (uint32_t t = 0; t < tiles; ++t) {
        const uint32_t next_stage = stage == (kStages - 1) * T::kActivations ? 0 : stage + T::kActivations;
        weight.begin_step();
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            if (step + 1 < kSteps) {
                fragments.load((step + 1) % 2, stage, weight.tile(), step + 1);
            } else {
                // This thread's copies for the next step have landed, then everybody's; the next weight tile is
                // complete, and nobody reads this step's tiles any more.
                async_wait<kStages - 2>();
                __syncthreads();
                fragments.load(0, next_stage, weight.next_tile(), 0);
            }
            if (step == 0) {
                activations.copy(fill);
                weight.copy_step();
                async_commit();
            }
#pragma unroll
            for (int x = 0; x < kProducts; ++x) {
                fragments.multiply(step % 2, x);
                // What a weight has to do is spread over the products before the barrier.
                constexpr int kSlots = (kSteps - 1) * kProducts;
                const int slot = step * kProducts + x;
                if (slot < kSlots) weight.work(slot, kSlots);
            }
        }
        fill = stage, stage = next_stage;
        weight.end_step();
    }
    async_wait<0>();
    if (p.out.dtype == DTYPE_F32) {
        store_f32(p, place, fragments);
    } else {
        store_bf16(p, place, fragments);
    }
}

// The product that has tile `index` of the launch.
__device__ __forceinline__ const TileMatmulProduct& product_of(const TileMatmulParams& p, uint32_t index) {
    static_assert(TILE_MATMUL_PRODUCTS == 3);
    return p.products[(index >= p.products[1].first_tile) + (index >= p.products[2].first_tile)];
}

// Tiles of 128 rows, those from `p.halved` on as halves.
template <template <typename> class WeightOf, bool kBackward>
__device__ __forceinline__ void multiply_128(const TileMatmulParams& p) {
    using Whole = Tile<kBackward, 128>;
    using Half = Tile<kBackward, 64>;
    const bool whole = blockIdx.x < p.halved;
    const uint32_t half = blockIdx.x - p.halved;
    const uint32_t index = whole ? blockIdx.x : p.halved + half / 2;
    const TileMatmulProduct& product = product_of(p, index);
    if (whole) {
        multiply_tile<WeightOf>(product, Place<Whole>(product, Whole::kRows, index, 0));
        return;
    }
    const Place<Half> place(product, Whole::kRows, index, half % 2 * Half::kRows);
    if (place.row < place.rows) multiply_tile<WeightOf>(product, place);
}

template <template <typename> class WeightOf, bool kBackward>
__device__ __forceinline__ void multiply_64(const TileMatmulParams& p) {
    using T = Tile<kBackward, 64>;
    const TileMatmulProduct& product = product_of(p, blockIdx.x);
    multiply_tile<WeightOf>(product, Place<T>(product, T::kRows, blockIdx.x, 0));
}

#define TILE_MATMUL_KERNEL(NAME, WEIGHT, ROWS, BACKWARD)                                                     \
    extern "C" __global__ void __launch_bounds__(kThreads) NAME(const __grid_constant__ TileMatmulParams p) { \
        multiply_##ROWS<WEIGHT, BACKWARD>(p);                                                                \
    }
