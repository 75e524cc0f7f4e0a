// Every state space, every width of access, atomics and asynchronous copies.
#include "opcodes.cuh"

extern "C" __global__ void atomics_global(const unsigned* in, unsigned* out) {
    const unsigned x = word(in), t = blockIdx.x * blockDim.x + threadIdx.x;
    auto* wide = reinterpret_cast<unsigned long long*>(out + 32);
    atomicAdd(&out[0], x);
    atomicSub(&out[1], x);
    atomicMin(&out[2], x);
    atomicMax(&out[3], x);
    atomicMin(reinterpret_cast<int*>(&out[4]), static_cast<int>(x));
    atomicMax(reinterpret_cast<int*>(&out[5]), static_cast<int>(x));
    atomicAnd(&out[6], x | 0xf0u);
    atomicOr(&out[7], x & 0xf0fu);
    atomicXor(&out[8], x);
    atomicInc(&out[9], 99);
    atomicDec(&out[10], 77);
    atomicAdd(reinterpret_cast<float*>(&out[11]), static_cast<float>(x % 64));
    atomicAdd(reinterpret_cast<__half2*>(&out[12]), __floats2half2_rn(static_cast<float>(x % 4), 1.0f));
    atomicAdd(reinterpret_cast<__half*>(&out[13]), __float2half_rn(1.0f));
    atomicAdd_block(&out[14 + blockIdx.x], 1u);
    atomicAdd_system(&out[16], 2u);
    if (t == 5) out[17] = atomicExch(&out[18], 1234u);
    if (t == 6) out[19] = atomicCAS(&out[20], 0u, 4321u);
    if (t == 7) out[21] = atomicCAS(&out[22], 1u, 4321u);
    unsigned seen = atomicOr(&out[23], 0u), assumed; // sum modulo 1000003 by compare and swap
    do {
        assumed = seen;
        seen = atomicCAS(&out[23], assumed, (assumed + x % 1000) % 1000003);
    } while (seen != assumed);
    const unsigned ticket = atomicAdd(&out[30], 1u);
    atomicOr(&out[24 + ticket / 32], 1u << ticket % 32); // all bits of four words
    atomicAdd(&wide[0], static_cast<unsigned long long>(x) << 8);
    atomicMax(&wide[1], static_cast<unsigned long long>(x) << 16);
    atomicAdd(reinterpret_cast<double*>(&wide[2]), static_cast<double>(x));
    atomicXor(&wide[3], x * 0x100000001ull);
    atomicMin(reinterpret_cast<long long*>(&wide[4]), -static_cast<long long>(x));
    if (t == 8) atomicCAS(&wide[5], 0ull, 0x123456789abcull);
    if (t == 9) atomicExch(&wide[6], 0xcba987654321ull);
}

extern "C" __global__ void atomics_shared(const unsigned* in, unsigned* out) {
    __shared__ unsigned cells[16];
    __shared__ unsigned long long wide[2];
    __shared__ float sum;
    __shared__ double long_sum;
    const unsigned x = word(in), t = threadIdx.x;
    if (t < 16) cells[t] = t == 2 ? 0xffffffffu : 0u;
    if (t < 2) wide[t] = 0;
    if (t == 0) {
        sum = 0.0f;
        long_sum = 0.0;
    }
    __syncthreads();
    atomicAdd(&cells[0], x);
    atomicMax(&cells[1], x);
    atomicMin(&cells[2], x);
    atomicXor(&cells[3], x);
    atomicInc(&cells[4], 9);
    atomicAdd(&sum, static_cast<float>(x % 64));
    atomicAdd(&long_sum, static_cast<double>(x));
    atomicAdd(&wide[0], static_cast<unsigned long long>(x) << 8);
    atomicOr(&cells[5 + x % 4], 1u << (x % 32));
    if (t == 40) atomicExch(&cells[9], 77u);
    if (t == 41) cells[11] = atomicCAS(&cells[10], 0u, 88u);
    // A lock held by one lane after the other.
    for (bool done = false; !done;) {
        if (atomicCAS(&cells[12], 0u, 1u) == 0u) {
            atomicAdd(&cells[13], 1u);
            done = true;
            __threadfence_block();
            atomicExch(&cells[12], 0u);
        }
    }
    __syncthreads();
    Values value(out);
    for (int i = 0; i < 14; ++i) value(cells[i]);
    value(sum);
    value(long_sum);
    value(wide[0]);
}

extern "C" __global__ void local_array(const unsigned* in, unsigned* out) {
    Values value(out);
    unsigned items[8];
    for (int i = 0; i < 8; ++i) items[i] = (word(in) >> (i * 4)) % 16;
#pragma unroll 1
    for (int i = 1; i < 8; ++i) { // insertion sort
        const unsigned item = items[i];
        int j = i;
        for (; j > 0 && items[j - 1] > item; --j) items[j] = items[j - 1];
        items[j] = item;
    }
    for (int i = 0; i < 8; ++i) value(items[i]);
    value(items[word(in) % 8]);
}

struct Pair {
    unsigned low;
    unsigned long long high;
};

__device__ __noinline__ Pair split(Pair p, unsigned by) { return {p.low / by, p.high % by}; }
__device__ __noinline__ void fill(unsigned* to, int n, unsigned seed) {
    for (int i = 0; i < n; ++i) to[i] = seed += 7;
}
__device__ __noinline__ float blend(float a, float b) { return a * 0.25f + b * 0.75f; }

extern "C" __global__ void calls(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const Pair p = split({x, x * 77ull}, 13);
    value(p.low);
    value(p.high);
    unsigned buffer[5];
    fill(buffer, x % 5 + 1, x);
    value(buffer[x % 5]);
    value(blend(static_cast<float>(x % 100), 8.0f));
    value(x % 2 ? blend(1.0f, 2.0f) : blend(2.0f, 1.0f)); // divergent calls
}

__constant__ unsigned kTable[16] = {2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53};
__device__ unsigned initialised[4] = {10, 20, 30, 40};
__device__ unsigned* pointer_to_initialised = initialised + 2;
__device__ unsigned zeroed[128];
__device__ const char text[] = "text";
__device__ double real = 2.5;

extern "C" __global__ void globals(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in), t = blockIdx.x * blockDim.x + threadIdx.x;
    value(kTable[x % 16]); // divergent constant
    value(kTable[3]);
    value(initialised[x % 4]);
    value(pointer_to_initialised[x % 2]);
    value(zeroed[t]);
    zeroed[t] = x;
    value(zeroed[t]);
    value(static_cast<unsigned>(text[x % 4]));
    value(real);
}

__device__ __noinline__ unsigned sum_of(const unsigned* p, int n) { // knows no state space
    unsigned sum = 0;
    for (int i = 0; i < n; ++i) sum += p[i] * (i + 1);
    return sum;
}

extern "C" __global__ void generic_pointers(const unsigned* in, unsigned* out) {
    __shared__ unsigned staged[64];
    Values value(out);
    const unsigned x = word(in);
    staged[threadIdx.x] = x ^ 1;
    __syncthreads();
    unsigned own[4] = {x, x + 1, x + 2, x % 3};
    const unsigned* from = x % 3 == 0 ? in : x % 3 == 1 ? staged : own;
    value(sum_of(from, 4));
    value(__isGlobal(from) != 0);
    value(__isShared(from) != 0);
    value(__isLocal(from) != 0);
    unsigned* to = x % 2 ? own : &staged[threadIdx.x];
    __syncthreads();
    *to = 5;
    value(own[0]);
    value(staged[threadIdx.x]);
    value(static_cast<unsigned>(__cvta_generic_to_shared(&staged[3]) - __cvta_generic_to_shared(&staged[0])));
}

extern "C" __global__ void vectors(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    const uint4 four = reinterpret_cast<const uint4*>(in)[t / 4];
    const uint2 two = __ldg(reinterpret_cast<const uint2*>(in) + t / 2);
    value(four.x ^ four.y ^ four.z ^ four.w);
    value(two.x + two.y);
    value(__ldcg(in + t));
    value(__ldcs(in + t));
    value(__ldca(in + t));
    value(__ldlu(in + t));
    value(*static_cast<const volatile unsigned*>(in + t));
    value(static_cast<unsigned>(reinterpret_cast<const uint8_t*>(in)[t * 4 + 1]));
    value(static_cast<int>(reinterpret_cast<const int16_t*>(in)[t * 2 + 1]));
    unsigned v;
    asm volatile("ld.global.L1::no_allocate.L2::128B.u32 %0, [%1];" : "=r"(v) : "l"(in + t));
    value(v);
    asm volatile("prefetch.global.L2 [%0];" ::"l"(in + t));
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(in + t));
    value(v);
    // Stores, one word a thread each.
    unsigned* to = out + 11 * kThreads + t;
    __stcs(to, four.x);
    __stcg(to + kThreads, four.y);
    __stwt(to + 2 * kThreads, four.z);
    *static_cast<volatile unsigned*>(to + 3 * kThreads) = four.w;
    asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(to + 4 * kThreads), "r"(t));
    if (t % 4 == 0) *reinterpret_cast<uint4*>(to + 5 * kThreads) = four;
    if (t % 2 == 0) *reinterpret_cast<float2*>(to + 6 * kThreads) = make_float2(1.5f, static_cast<float>(t));
    reinterpret_cast<uint8_t*>(out + 18 * kThreads)[t * 4 + t % 4] = static_cast<uint8_t>(t); // the rest stays
}

extern "C" __global__ void async_copies(const unsigned* in, unsigned* out) {
    __shared__ __align__(16) unsigned staged[3][64 * 4];
    Values value(out);
    const unsigned t = threadIdx.x;
    const unsigned* from = in + blockIdx.x * 64 + t / 4 * 4; // 16-byte aligned
    staged[1][t * 4 + 3] = 0; // the compiler loads four words where three are used
    const int some = static_cast<int>(t % 5) * 4; // 0, 4, 8, 12 or 16 of 16 bytes
    auto address = [](const void* p) { return static_cast<unsigned>(__cvta_generic_to_shared(p)); };
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address(&staged[0][t * 4])), "l"(from), "r"(some) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(address(&staged[1][t * 4])), "l"(from) : "memory");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address(&staged[1][t * 4 + 2])), "l"(from + 3), "r"(some % 8) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    for (int i = 0; i < 4; ++i) value(staged[0][t * 4 + i]); // own copies need no barrier
    asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 16;" ::"r"(address(&staged[2][t * 4])), "l"(from) : "memory");
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();
    for (int i = 0; i < 3; ++i) value(staged[1][t * 4 + i]);
    value(staged[2][(t ^ 32) * 4 + 1]);
}
