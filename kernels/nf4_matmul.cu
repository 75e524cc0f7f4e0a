// Product of bf16 activations with a 4-bit weight on tensor cores, forward and backward from the same packed
// copy, with an extra product (LoRA), its dropout, bias and accumulation, summed in f32 and rounded once.
//
// Tile kRows x 128, 64 deep; 256 threads, warps 2 x 4; three stages of activations and packed weights by cp.async,
// two tiles of dequantized weights. The weight tile is kept as the weight lies in memory - forward [128 of n][64
// of k], backward [64 of n][128 of k] - so the directions differ in strides and in ldmatrix's transposition alone.
// A weight is f32 code x f32 absmax, rounded once to bf16.
//
// A thread dequantizes the very bytes that it copied: packed weights need no barrier, only their own wait. Group j
// of the copies is activations j and packed weights j + 1, because weights are dequantized one step before the
// products that need them; scales are loaded to registers one more step before. The one barrier of a step lies
// before the products of its last 16, whose fragments are in registers by then. There is no branch in the loop:
// copies past the end fill zeros, and what is dequantized past the end is not read.
//
// The extra product comes first, in the buffers of the last activation stage and the second weight tile, which are
// idle until the loop's first step.
//
// Codes are looked up by shuffle (3.4 instructions a weight, no shared memory). Rejected on counts of instructions
// and a model of the scheduler, not on hardware: a table in shared memory (5.6 instructions), byte permutations
// (3.7), branches around the work past the end (they keep ptxas from mixing it with the products). A table of pairs
// (2.7 instructions, but 6 wavefronts a load) is about equal.
#include "common/async_copy.cuh"
#include "common/element.cuh"
#include "common/mma.cuh"
#include "common/philox.cuh"

extern __shared__ __align__(128) uint8_t shared[];

namespace {

constexpr int kThreads = 256, kDepth = 64, kCols = NF4_MATMUL_COLS, kStages = 3;
// Tiles of rows that run beside each other, to share activations and weights in L2.
constexpr int kGroup = 8;
// Weights that a thread dequantizes a step: half a row of 64, so all in one block.
constexpr int kWeights = kCols * kDepth / kThreads;
static_assert(kWeights == 32, "16 bytes of codes");

template <bool kBackward, int kRows_>
struct Tile {
    static constexpr int kRows = kRows_;
    static constexpr int kWarpsM = 2, kWarpsN = kThreads / 32 / kWarpsM;
    static constexpr int kWarpRows = kRows / kWarpsM, kWarpCols = kCols / kWarpsN;
    static constexpr int kM = kWarpRows / 16, kN = kWarpCols / 8; // fragments of a warp
    // Bytes.
    static constexpr int kActivationPitch = 2 * kDepth, kWeightPitch = 2 * (kBackward ? kCols : kDepth);
    static constexpr int kActivations = kRows * kActivationPitch, kWeightTile = 2 * kCols * kDepth;
    static constexpr int kPacked = kWeightTile / 4;
    static constexpr int kWeightsAt = kStages * kActivations, kPackedAt = kWeightsAt + 2 * kWeightTile;
    static constexpr int kMapAt = kPackedAt + kStages * kPacked, kShared = kMapAt + 256 * sizeof(float);
    static_assert(kShared == (kRows == 128 ? NF4_MATMUL_SHARED_128 : NF4_MATMUL_SHARED_64), "told to the host");
    static_assert(kRows * kCols * 2 <= kShared, "the result passes through shared memory");
    // The extra product's place.
    static constexpr int kExtraA = (kStages - 1) * kActivations, kExtraB = kWeightsAt + kWeightTile;
};

template <typename T>
__device__ __forceinline__ T& shared_at(uint32_t offset) {
    return *reinterpret_cast<T*>(shared + offset);
}

__device__ __forceinline__ uint32_t shared_address(uint32_t offset) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(shared)) + offset;
}

// What a launch computes, and which tile of it this block does.
template <typename T, bool kBackward>
struct Place {
    uint32_t rows, cols, depth; // of the whole product
    uint32_t row, col;

    __device__ __forceinline__ explicit Place(const Nf4MatmulParams& p)
        : rows(p.m), cols(kBackward ? p.k : p.n), depth(kBackward ? p.n : p.k) {
        const uint32_t tiles_m = (rows + T::kRows - 1) / T::kRows, tiles_n = (cols + kCols - 1) / kCols;
        const uint32_t group = blockIdx.x / (kGroup * tiles_n), within = blockIdx.x % (kGroup * tiles_n);
        const uint32_t high = min(uint32_t(kGroup), tiles_m - group * kGroup);
        row = (group * kGroup + within % high) * T::kRows;
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

    template <typename P>
    __device__ __forceinline__ Activations(const Nf4MatmulParams& p, const P& place) {
        const int row = threadIdx.x / kChunks, chunk = threadIdx.x % kChunks;
        from = pointer<const uint8_t>(p.x) + 2 * (uint64_t(place.row) * place.depth + chunk * 8);
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            offsets[i] = 2 * place.depth * min(uint32_t(row + i * kStep), place.rows - 1 - place.row);
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

// Copies packed tiles of the weight, one after the other, and dequantizes them.
template <typename T, bool kBackward>
struct Weight {
    // Places of this thread's codes: in global memory, packed, and dequantized in shared memory.
    const uint8_t* from;
    uint32_t packed, to;
    uint64_t from_step;
    int left, left_step; // rows (backward) or columns to the end
    // Scales, counted in runs of 64 weights.
    const uint8_t* codes;
    const float* absmax;
    uint32_t run, run_step, last_run, log2_runs, log2_nested;
    float offset;
    // The next tile's, on their way.
    uint32_t next_code;
    float next_nested;
    // The tile's in work.
    float code; // of number lane % 16
    float scale;
    uint32_t words[4], pairs[4];

    template <typename P>
    __device__ __forceinline__ Weight(const Nf4MatmulParams& p, const P& place) {
        // Eight threads have four rows of one run, so that their stores are in different banks.
        constexpr int kRuns = kBackward ? kCols / 64 : 1;
        const uint32_t thread = threadIdx.x;
        const int row = thread / 8 / kRuns * 4 + thread / 2 % 4;
        const int col = thread / 8 % kRuns * 64 + thread % 2 * 32;
        const uint32_t runs = p.k / 64;
        // Past the end, rows repeat the last and columns the first: they give results that are not stored.
        const uint32_t weight_row = kBackward ? row : min(place.col + row, p.n - 1);
        const uint32_t weight_col = kBackward ? (place.col + col < p.k ? place.col + col : col % 64) : col;
        from = pointer<const uint8_t>(p.packed) + (uint64_t(weight_row) * p.k + weight_col) / 2;
        from_step = kBackward ? uint64_t(kDepth) * p.k / 2 : kDepth / 2;
        packed = T::kPackedAt + thread * 16;
        to = T::kWeightsAt + swizzled<T::kWeightPitch>(row, col / 8);
        left = kBackward ? int(p.n) - row : int(p.k);
        left_step = kDepth;
        run = weight_row * runs + weight_col / 64;
        run_step = kBackward ? kDepth * runs : 1;
        last_run = kBackward ? (p.n - 1) * runs + weight_col / 64 : weight_row * runs + runs - 1;
        // Plain scales go the same way, as 1 x absmax + 0; their codes, which the map maps to 1, are any bytes.
        const BlockScales& s = p.scales;
        const bool nested = s.codes != 0;
        codes = pointer<const uint8_t>(nested ? s.codes : s.absmax);
        absmax = pointer<const float>(s.absmax);
        log2_runs = s.log2_block - 6;
        log2_nested = nested ? s.log2_nested : 0;
        offset = nested ? s.offset : 0.0f;
        code = s.codebook[thread % 16];
        shared_at<float>(T::kMapAt + thread * 4) = nested ? pointer<const float>(s.map)[thread] : 1.0f;
    }

    __device__ __forceinline__ void copy(uint32_t stage) {
        async_copy(shared_address(packed + stage), from, left > 0 ? 16 : 0);
        from += from_step;
        left -= left_step;
    }

    // Rows past the end get a finite scale whatever the last row has: zero activations must stay zero.
    __device__ __forceinline__ void fetch_scale() {
        const uint32_t block = min(run, last_run) >> log2_runs;
        next_code = __ldg(codes + block);
        const float nested = __ldg(absmax + (block >> log2_nested));
        next_nested = run <= last_run ? nested : 0.0f;
        run += run_step;
    }

    // Takes the codes of `stage` and the scale that was fetched. Product and sum round one after the other, as
    // bitsandbytes' do.
    __device__ __forceinline__ void take(uint32_t stage) {
        const uint4 x = shared_at<const uint4>(packed + stage);
        words[0] = x.x, words[1] = x.y, words[2] = x.z, words[3] = x.w;
        scale = __fadd_rn(__fmul_rn(shared_at<const float>(T::kMapAt + next_code * 4), next_nested), offset);
    }

    // Dequantizes bytes `begin`..`end` of 16 into a weight tile.
    __device__ __forceinline__ void dequantize(int begin, int end, uint32_t tile) {
#pragma unroll
        for (int i = begin; i < end; ++i) {
            const uint32_t word = words[i / 4];
            // Of the lane's number only the low four bits count.
            const float first = __shfl_sync(0xffffffffu, code, word >> (i % 4 * 8 + 4), 16);
            const float second = __shfl_sync(0xffffffffu, code, word >> (i % 4 * 8), 16);
            pairs[i % 4] = pack_bf16(__fmul_rn(first, scale), __fmul_rn(second, scale));
            if (i % 4 == 3) {
                shared_at<uint4>((to + tile) ^ (i / 4 << 4)) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            }
        }
    }
};

// A warp's factors 16 deep, twice so that one is loaded while the other is multiplied, and its sums.
template <typename T, bool kBackward>
struct Fragments {
    uint32_t a_at, b_at;
    uint32_t a[2][T::kM][4], b[2][T::kN / 2][4];
    float sum[T::kM][T::kN][4] = {};
    int row, col; // of the warp in the tile

    __device__ __forceinline__ Fragments() {
        const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
        row = warp % T::kWarpsM * T::kWarpRows, col = warp / T::kWarpsM * T::kWarpCols;
        a_at = shared_address(swizzled<T::kActivationPitch>(row + lane % 16, lane / 16));
        b_at = shared_address(kBackward
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
            if constexpr (kBackward) {
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
template <typename T, bool kBackward, typename P>
__device__ __forceinline__ void copy_extra(const Nf4MatmulParams& p, const P& place, uint32_t begin) {
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
        const uint32_t at = begin + (kBackward ? row : chunk * 8), col = place.col + (kBackward ? chunk * 8 : row);
        const uint64_t from = kBackward ? uint64_t(at) * place.cols + col : uint64_t(col) * p.extra_k + at;
        async_copy(shared_address(T::kExtraB + swizzled<T::kWeightPitch>(row, chunk)), b + 2 * from,
                   at < p.extra_k && col < place.cols ? 16 : 0);
    }
}

// Rounds the sums, by way of shared memory so that rows are stored whole.
template <typename T, typename P, typename F>
__device__ __forceinline__ void finish(const Nf4MatmulParams& p, const P& place, F& fragments) {
    constexpr int kPitch = 2 * kCols, kChunks = kCols / 8;
    const bool whole = place.cols % 8 == 0; // then rows begin at multiples of 16 bytes
    __nv_bfloat16* out = pointer<__nv_bfloat16>(p.out);
    // Calls f(element of `out`, offset in shared memory, elements of the chunk) for this thread's chunks.
    const auto each_chunk = [&](auto f) {
#pragma unroll 1
        for (int x = threadIdx.x; x < T::kRows * kChunks; x += kThreads) {
            const uint32_t row = x / kChunks, chunk = x % kChunks;
            const uint32_t m = place.row + row, n = place.col + chunk * 8;
            if (m < place.rows && n < place.cols) {
                f(out + uint64_t(m) * place.cols + n, swizzled<kPitch>(row, chunk), min(8u, place.cols - n));
            }
        }
    };
    async_wait<0>();
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

template <int kRows, bool kBackward>
__device__ __forceinline__ void nf4_matmul(const Nf4MatmulParams& p) {
    using T = Tile<kBackward, kRows>;
    constexpr int kProducts = T::kM * T::kN, kSteps = kDepth / 16;
    const Place<T, kBackward> place(p);
    Activations<T> activations(p, place);
    Weight<T, kBackward> weight(p, place);
    Fragments<T, kBackward> fragments;

    weight.fetch_scale();
    if (p.extra_k != 0) copy_extra<T, kBackward>(p, place, 0);
    async_commit();
    weight.copy(0);
#pragma unroll
    for (int j = 0; j < kStages - 1; ++j) {
        activations.copy(j * T::kActivations);
        weight.copy((j + 1) % kStages * T::kPacked);
        async_commit();
    }

#pragma unroll 1
    for (uint32_t begin = 0; begin < p.extra_k; begin += kDepth) {
        if (begin == 0) {
            async_wait<kStages - 1>();
        } else {
            __syncthreads();
            copy_extra<T, kBackward>(p, place, begin);
            async_commit();
            async_wait<0>();
        }
        __syncthreads();
        const int steps = min(uint32_t(kDepth), p.extra_k - begin) / 16;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            fragments.load(0, T::kExtraA, T::kExtraB, step);
#pragma unroll
            for (int x = 0; x < kProducts; ++x) fragments.multiply(0, x);
        }
    }
    if (p.mask) {
        fragments.each_pair([&](uint32_t row, uint32_t col, float* sum) {
            const uint64_t at = uint64_t(place.row + row) * place.cols + place.col + col;
            sum[0] *= dropout_factor(p.dropout, at);
            sum[1] *= dropout_factor(p.dropout, at + 1);
        });
    }

    async_wait<kStages - 2>();
    __syncthreads(); // the map and the first activations are there; the extra product's buffers are free
    weight.take(0);
    weight.dequantize(0, kWeights / 2, 0);
    weight.fetch_scale();
    __syncthreads();
    fragments.load(0, 0, T::kWeightsAt, 0);

    const uint32_t tiles = (place.depth + kDepth - 1) / kDepth;
    // Offsets of the activation stage in use and of the one to fill, of the packed stage and weight tile in use.
    uint32_t stage = 0, fill = (kStages - 1) * T::kActivations, packed = 0, tile = 0;
#pragma unroll 1
    for (uint32_t t = 0; t < tiles; ++t) {
        const uint32_t next_stage = stage == (kStages - 1) * T::kActivations ? 0 : stage + T::kActivations;
        const uint32_t next_packed = packed == (kStages - 1) * T::kPacked ? 0 : packed + T::kPacked;
        const uint32_t next_tile = tile ^ T::kWeightTile;
        weight.take(next_packed);
        weight.fetch_scale();
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            if (step + 1 < kSteps) {
                fragments.load((step + 1) % 2, stage, T::kWeightsAt + tile, step + 1);
            } else {
                // This thread's copies for the next step have landed, then everybody's; the next weight tile is
                // complete, and nobody reads this step's tiles any more.
                async_wait<kStages - 2>();
                __syncthreads();
                fragments.load(0, next_stage, T::kWeightsAt + next_tile, 0);
            }
            if (step == 0) {
                activations.copy(fill);
                weight.copy(packed);
                async_commit();
            }
#pragma unroll
            for (int x = 0; x < kProducts; ++x) {
                fragments.multiply(step % 2, x);
                // Dequantization is spread over the products before the barrier.
                constexpr int kSlots = (kSteps - 1) * kProducts;
                const int slot = step * kProducts + x;
                if (slot < kSlots) {
                    weight.dequantize(slot * 16 / kSlots, (slot + 1) * 16 / kSlots, next_tile);
                }
            }
        }
        fill = stage, stage = next_stage, packed = next_packed, tile = next_tile;
    }
    finish<T>(p, place, fragments);
}

} // namespace

extern "C" __global__ void __launch_bounds__(kThreads) nf4_matmul_128(const __grid_constant__ Nf4MatmulParams p) {
    nf4_matmul<128, false>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    nf4_matmul_backward_128(const __grid_constant__ Nf4MatmulParams p) {
    nf4_matmul<128, true>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads) nf4_matmul_64(const __grid_constant__ Nf4MatmulParams p) {
    nf4_matmul<64, false>(p);
}

extern "C" __global__ void __launch_bounds__(kThreads)
    nf4_matmul_backward_64(const __grid_constant__ Nf4MatmulParams p) {
    nf4_matmul<64, true>(p);
}
