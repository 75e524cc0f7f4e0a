// What the kernels in opcodes_*.cu share. All are launched as two blocks of 64 threads on (in, out):
// `in` holds a word a thread, and value number s of thread t goes to out[s * 128 + t] unless the kernel
// says otherwise. What each value must be is written once more, on the host, in tests/it/opcodes.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace {

constexpr unsigned kThreads = 128, kAll = 0xffffffffu;

// Writes a thread's values one after the other.
class Values {
  public:
    __device__ explicit Values(unsigned* out) : next(out + blockIdx.x * blockDim.x + threadIdx.x) {}
    __device__ void operator()(unsigned v) {
        *next = v;
        next += kThreads;
    }
    __device__ void operator()(int v) { (*this)(static_cast<unsigned>(v)); }
    __device__ void operator()(bool v) { (*this)(v ? 1u : 0u); }
    __device__ void operator()(float v) { (*this)(__float_as_uint(v)); }
    __device__ void operator()(unsigned long long v) {
        (*this)(static_cast<unsigned>(v));
        (*this)(static_cast<unsigned>(v >> 32));
    }
    __device__ void operator()(long long v) { (*this)(static_cast<unsigned long long>(v)); }
    __device__ void operator()(double v) { (*this)(__double_as_longlong(v)); }
    __device__ void operator()(__half2 v) { (*this)(*reinterpret_cast<unsigned*>(&v)); }
    __device__ void operator()(__nv_bfloat162 v) { (*this)(*reinterpret_cast<unsigned*>(&v)); }

  private:
    unsigned* next;
};

__device__ unsigned word(const unsigned* in) { return in[blockIdx.x * blockDim.x + threadIdx.x]; }
__device__ unsigned lane() { return threadIdx.x % 32; }

} // namespace
