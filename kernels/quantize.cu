// 4-bit blocks, bit for bit as the processor makes them. A warp takes a block and a lane two neighbours at a time. The
// elements come over the bus, which is the limit: reading them a second time from the cache costs nothing.
#include <cuda_fp16.h>

#include "common/element.cuh"
#include "common/reduce.cuh"

constexpr float kLeast = 1e-38f; // bitsandbytes divides by at least this

struct Largest {
    static __device__ __forceinline__ uint32_t of(uint32_t a, uint32_t b) { return max(a, b); }
};

__device__ __forceinline__ float element(const Tensor& x, uint64_t i) {
    return x.dtype == DTYPE_F16 ? __half2float(pointer<const __half>(x.data)[i]) : load(x, i);
}

// A block of the full size is multiplied by the reciprocal, a shorter one divided.
struct Scale {
    bool whole;
    float absmax, inverse;

    __device__ __forceinline__ float operator()(float x) const { return whole ? x * inverse : x / absmax; }
};

__device__ __forceinline__ uint32_t code(const QuantizeParams& p, float x) {
    uint32_t below = 0;
#pragma unroll
    for (int i = 0; i < 15; ++i) below += p.midpoints[i] < x;
    return p.ascending >> 4 * below & 15;
}

extern "C" __global__ void __launch_bounds__(256) quantize(const __grid_constant__ QuantizeParams p) {
    const uint64_t block = uint64_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32, start = block * p.block;
    if (start >= p.len) return;
    const uint32_t lane = threadIdx.x % 32, len = p.len - start < p.block ? uint32_t(p.len - start) : p.block;
    // Magnitudes order as their bits do, and a maximum of integers does not lose a NaN.
    uint32_t bits = 0;
    for (uint32_t i = lane; i < len; i += 32) bits = max(bits, __float_as_uint(element(p.x, start + i)) & 0x7fffffffu);
    bits = warp_reduce<Largest>(bits);
    const bool whole = len == p.block;
    if (!whole) bits = max(bits, __float_as_uint(kLeast));
    const float absmax = __uint_as_float(bits);
    const Scale scale{whole, absmax, 1.0f / fmaxf(absmax, kLeast)};
    if (lane == 0) pointer<float>(p.absmax)[block] = absmax;
    for (uint32_t i = 2 * lane; i < len; i += 64) {
        const uint32_t first = code(p, scale(element(p.x, start + i)));
        const uint32_t second = code(p, i + 1 < len ? scale(element(p.x, start + i + 1)) : 0.0f);
        pointer<uint8_t>(p.packed)[(start + i) / 2] = uint8_t(first << 4 | second);
    }
}
