// Product of bf16 activations with a 4-bit weight on tensor cores, see common/gemm.cuh: forward and backward from the
// same packed copy. A weight is f32 code x f32 absmax, rounded once to bf16.
//
// A thread dequantizes the very bytes that it copied: packed weights need no barrier, only their own wait. Group j
// of the copies is activations j and packed weights j + 1, because weights are dequantized one step before the
// products that need them, into one of two tiles; scales are loaded to registers one more step before. What is
// dequantized past the end is not read.
//
// Codes are looked up by shuffle (3.4 instructions a weight, no shared memory). Rejected on counts of instructions
// and a model of the scheduler, not on hardware: a table in shared memory (5.6 instructions), byte permutations
// (3.7), branches around the work past the end (they keep ptxas from mixing it with the products). A table of pairs
// (2.7 instructions, but 6 wavefronts a load) is about equal.
#include "common/gemm.cuh"

namespace {

// Weights that a thread dequantizes a step: half a row of 64, so all in one block.
constexpr int kWeights = kCols * kDepth / kThreads;
static_assert(kWeights == 32, "16 bytes of codes");

// Copies packed tiles of the weight, one after the other, and dequantizes them.
template <typename T>
struct PackedWeight {
    static constexpr bool kBackward = T::kBackward;
    static constexpr int kPacked = T::kWeightTile / 4;
    static constexpr int kPackedAt = T::kWeightsAt + 2 * T::kWeightTile, kMapAt = kPackedAt + kStages * kPacked;
    static constexpr int kShared = kMapAt + 256 * sizeof(float), kIdleTile = T::kWeightsAt + T::kWeightTile;
    static_assert(kShared == (T::kRows == 128 ? NF4_MATMUL_SHARED_128 : NF4_MATMUL_SHARED_64), "told to the host");

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
    // Offsets of the packed stage and of the weight tile in use.
    uint32_t stage = 0, at = 0;

    __device__ __forceinline__ PackedWeight(const TileMatmulProduct& p, const Place<T>& place) {
        // Eight threads have four rows of one run, so that their stores are in different banks.
        constexpr int kRuns = kBackward ? kCols / 64 : 1;
        const uint32_t thread = threadIdx.x;
        const int row = thread / 8 / kRuns * 4 + thread / 2 % 4;
        const int col = thread / 8 % kRuns * 64 + thread % 2 * 32;
        const uint32_t runs = p.k / 64;
        // Past the end, rows repeat the last and columns the first: they give results that are not stored.
        const uint32_t weight_row = kBackward ? row : min(place.col + row, p.n - 1);
        const uint32_t weight_col = kBackward ? (place.col + col < p.k ? place.col + col : col % 64) : col;
        from = pointer<const uint8_t>(p.weight) + (uint64_t(weight_row) * p.k + weight_col) / 2;
        from_step = kBackward ? uint64_t(kDepth) * p.k / 2 : kDepth / 2;
        packed = kPackedAt + thread * 16;
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
        shared_at<float>(kMapAt + thread * 4) = nested ? pointer<const float>(s.map)[thread] : 1.0f;
        fetch_scale();
    }

    __device__ __forceinline__ uint32_t tile() const { return T::kWeightsAt + at; }
    __device__ __forceinline__ uint32_t next_tile() const { return T::kWeightsAt + (at ^ T::kWeightTile); }
    __device__ __forceinline__ uint32_t next_stage() const { return stage == (kStages - 1) * kPacked ? 0 : stage + kPacked; }

    __device__ __forceinline__ void copy_first() { copy_packed(0); }
    __device__ __forceinline__ void copy(int group) { copy_packed((group + 1) % kStages * kPacked); }

    __device__ __forceinline__ void make_first() {
        take(0);
        dequantize(0, kWeights / 2, 0);
        fetch_scale();
        __syncthreads();
    }

    __device__ __forceinline__ void begin_step() {
        take(next_stage());
        fetch_scale();
    }

    __device__ __forceinline__ void copy_step() { copy_packed(stage); }

    __device__ __forceinline__ void work(int slot, int slots) {
        constexpr int kBytes = kWeights / 2;
        dequantize(slot * kBytes / slots, (slot + 1) * kBytes / slots, at ^ T::kWeightTile);
    }

    __device__ __forceinline__ void end_step() {
        stage = next_stage();
        at ^= T::kWeightTile;
    }

private:

    __device__ __forceinline__ void copy_packed(uint32_t to_stage) {
        async_copy(shared_address(packed + to_stage), from, left > 0 ? 16 : 0);
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
    __device__ __forceinline__ void take(uint32_t from_stage) {
        const uint4 x = shared_at<const uint4>(packed + from_stage);
        words[0] = x.x, words[1] = x.y, words[2] = x.z, words[3] = x.w;
        scale = __fadd_rn(__fmul_rn(shared_at<const float>(kMapAt + next_code * 4), next_nested), offset);
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

} // namespace

TILE_MATMUL_KERNEL(nf4_matmul_128, PackedWeight, 128, false)
TILE_MATMUL_KERNEL(nf4_matmul_backward_128, PackedWeight, 128, true)
TILE_MATMUL_KERNEL(nf4_matmul_64, PackedWeight, 64, false)
TILE_MATMUL_KERNEL(nf4_matmul_backward_64, PackedWeight, 64, true)
