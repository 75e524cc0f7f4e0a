// Product of bf16 activations with a bf16 weight on tensor cores, see common/gemm.cuh. Weights are copied straight
// into the tiles that are multiplied, three stages of them: 96 and 72 KiB of shared memory.
#include "common/gemm.cuh"

namespace {

template <typename T>
struct DenseWeight {
    static constexpr bool kBackward = T::kBackward;
    static constexpr int kLastTile = (kStages - 1) * T::kWeightTile;
    static constexpr int kShared = T::kWeightsAt + kStages * T::kWeightTile, kIdleTile = T::kWeightsAt + kLastTile;
    static_assert(kShared == (T::kRows == 128 ? DENSE_MATMUL_SHARED_128 : DENSE_MATMUL_SHARED_64), "told to the host");
    // Rows of the tile in passes of the block over it.
    static constexpr int kChunks = T::kWeightPitch / 16, kStep = kThreads / kChunks;
    static constexpr int kCopies = (kBackward ? kDepth : kCols) / kStep;

    const uint8_t* from;
    uint64_t from_step;
    uint32_t to, offsets[kCopies];
    int left; // forward columns from this thread's chunk to the end, backward rows from its first
    // Offsets of the tiles in use and to fill.
    uint32_t stage = 0, fill = kLastTile;

    // Past the end, rows repeat the last and columns the first: they give results that are not stored.
    __device__ __forceinline__ DenseWeight(const TileMatmulProduct& p, const Place<T>& place) {
        const uint32_t row = threadIdx.x / kChunks, col = threadIdx.x % kChunks * 8;
        const uint32_t weight_col = kBackward ? (place.col + col < p.k ? place.col + col : 0) : col;
        const uint32_t first = kBackward ? 0 : place.col;
        from = pointer<const uint8_t>(p.weight) + 2 * (uint64_t(first) * p.k + weight_col);
        from_step = kBackward ? uint64_t(kDepth) * p.k * 2 : kDepth * 2;
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const uint32_t at = row + i * kStep;
            offsets[i] = 2 * p.k * (kBackward ? at : min(at, p.n - 1 - place.col));
        }
        to = shared_address(T::kWeightsAt + swizzled<T::kWeightPitch>(row, col / 8));
        left = kBackward ? int(p.n - row) : int(p.k - col);
    }

    __device__ __forceinline__ uint32_t tile() const { return T::kWeightsAt + stage; }
    __device__ __forceinline__ uint32_t next_tile() const { return T::kWeightsAt + next_stage(); }

    __device__ __forceinline__ void copy_first() {}
    __device__ __forceinline__ void copy(int group) { copy_tile(group * T::kWeightTile); }
    __device__ __forceinline__ void make_first() {}
    __device__ __forceinline__ void begin_step() {}
    __device__ __forceinline__ void copy_step() { copy_tile(fill); }
    __device__ __forceinline__ void work(int, int) {}
    __device__ __forceinline__ void end_step() { fill = stage, stage = next_stage(); }

private:
    __device__ __forceinline__ uint32_t next_stage() const { return stage == kLastTile ? 0 : stage + T::kWeightTile; }

    __device__ __forceinline__ void copy_tile(uint32_t to_stage) {
#pragma unroll
        for (int i = 0; i < kCopies; ++i) {
            const bool present = left > (kBackward ? i * kStep : 0);
            async_copy(to + to_stage + i * kStep * T::kWeightPitch, from + offsets[i], present ? 16 : 0);
        }
        from += from_step;
        left -= kDepth;
    }
};

} // namespace

TILE_MATMUL_KERNEL(dense_matmul_128, DenseWeight, 128, false)
TILE_MATMUL_KERNEL(dense_matmul_backward_128, DenseWeight, 128, true)
TILE_MATMUL_KERNEL(dense_matmul_64, DenseWeight, 64, false)
TILE_MATMUL_KERNEL(dense_matmul_backward_64, DenseWeight, 64, true)
