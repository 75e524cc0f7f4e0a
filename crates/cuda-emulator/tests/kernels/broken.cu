// Kernels with one defect each. The line to which a check must point ends in a FINDING comment that
// names the check; where two accesses race, both lines have one, because either may come second.
#include <cuda_bf16.h>

#include <cassert>
#include <cstdint>

#define KERNEL extern "C" __global__ void

KERNEL out_of_bounds_global(float* out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f; // FINDING: out-of-bounds
}

KERNEL out_of_bounds_read(const float* in, float* out) {
    const float v = in[threadIdx.x + 1]; // FINDING: out-of-bounds
    out[threadIdx.x] = v;
}

KERNEL out_of_bounds_shared(float* out, int shift) {
    __shared__ float cells[64];
    cells[threadIdx.x] = 1.0f;
    __syncthreads();
    out[threadIdx.x] = cells[threadIdx.x + shift]; // FINDING: out-of-bounds
}

KERNEL out_of_bounds_local(int* out, int index) {
    int cells[8];
    for (int i = 0; i < 8; ++i) cells[i] = out[i];
    cells[index] = 7; // FINDING: out-of-bounds
    out[threadIdx.x] = cells[threadIdx.x % 8];
}

KERNEL out_of_bounds_async(const float* in, float* out) {
    __shared__ __align__(16) float cells[64 * 4];
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x * 4]));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + threadIdx.x * 4) : "memory"); // FINDING: out-of-bounds
    asm volatile("cp.async.wait_all;" ::: "memory");
    out[threadIdx.x] = cells[threadIdx.x * 4];
}

KERNEL use_after_free(float* out, const float* freed) {
    out[threadIdx.x] = freed[threadIdx.x]; // FINDING: use-after-free
}

KERNEL misaligned_word(const char* in, int* out) {
    out[threadIdx.x] = *reinterpret_cast<const int*>(in + threadIdx.x * 2); // FINDING: misaligned
}

KERNEL misaligned_vector(const float* in, float4* out) {
    out[threadIdx.x] = *reinterpret_cast<const float4*>(in + threadIdx.x * 4 + 2); // FINDING: misaligned
}

KERNEL uninitialised_global(const int* in, int* out) {
    out[threadIdx.x] = in[threadIdx.x] > 0 ? 1 : 2; // FINDING: uninitialised
}

KERNEL uninitialised_shared(int* out) {
    __shared__ int cells[64];
    if (threadIdx.x < 60) cells[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = cells[63 - threadIdx.x] + 1; // FINDING: uninitialised
}

KERNEL race_between_warps(int* out) { // no __syncthreads
    __shared__ int cells[64];
    cells[threadIdx.x] = 0;
    __syncthreads();
    cells[threadIdx.x] = threadIdx.x; // FINDING: shared-race
    __syncwarp();
    out[threadIdx.x] = cells[threadIdx.x ^ 32]; // FINDING: shared-race
}

KERNEL race_same_value(int* out) {
    __shared__ volatile int flag;
    flag = 1; // FINDING: shared-race
    __syncthreads();
    out[threadIdx.x] = flag;
}

KERNEL race_within_warp(int* out) { // no __syncwarp
    __shared__ volatile int cells[64];
    cells[threadIdx.x] = threadIdx.x; // FINDING: shared-race
    out[threadIdx.x] = cells[threadIdx.x ^ 1]; // FINDING: shared-race
}

KERNEL race_next_step(int* out) { // no barrier at the end of the loop
    __shared__ int cells[64];
    int sum = 0;
#pragma unroll 1
    for (int step = 0; step < 4; ++step) {
        cells[threadIdx.x] = threadIdx.x + step; // FINDING: shared-race
        __syncthreads();
        sum += cells[63 - threadIdx.x]; // FINDING: shared-race
    }
    out[threadIdx.x] = sum;
}

KERNEL race_after_async_copy(const int* in, int* out) { // waited for, but only by the thread that copied
    __shared__ __align__(16) int cells[64];
    cells[threadIdx.x] = 0;
    __syncthreads();
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x]));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(in + threadIdx.x) : "memory"); // FINDING: shared-race
    asm volatile("cp.async.wait_all;" ::: "memory"); // FINDING: shared-race
    out[threadIdx.x] = cells[threadIdx.x ^ 32]; // FINDING: shared-race
}

KERNEL race_between_blocks(int* out) {
    if (threadIdx.x == 0) out[0] = blockIdx.x; // FINDING: global-race
}

KERNEL race_read_other_block(int* out) {
    out[blockIdx.x * blockDim.x + threadIdx.x] = 1; // FINDING: global-race
    __threadfence();
    const int other = out[(blockIdx.x ^ 1) * blockDim.x + threadIdx.x]; // FINDING: global-race
    if (other == 77) out[blockIdx.x * blockDim.x + threadIdx.x] = 2;
}

// Not a defect: every byte has one owner, though words are shared by threads and by blocks.
KERNEL bytes_of_one_word(uint8_t* out) {
    __shared__ uint8_t cells[64];
    cells[threadIdx.x] = static_cast<uint8_t>(threadIdx.x);
    __syncwarp();
    out[threadIdx.x * 2 + blockIdx.x] = cells[threadIdx.x];
}

KERNEL async_copy_not_waited(const float* in, float* out) {
    __shared__ __align__(16) float cells[64 * 4];
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x * 4]));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + threadIdx.x * 4) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    asm volatile("cp.async.wait_group 1;" ::: "memory"); // one group may still be under way
    out[threadIdx.x] = cells[threadIdx.x * 4]; // FINDING: async-copy-pending
}

KERNEL async_copy_overwritten(const float* in, float* out) {
    __shared__ __align__(16) float cells[64 * 4];
    const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x * 4]));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(in + threadIdx.x * 4) : "memory");
    cells[threadIdx.x * 4 + 1] = 3.0f; // FINDING: async-copy-pending
    asm volatile("cp.async.wait_all;" ::: "memory");
    out[threadIdx.x] = cells[threadIdx.x * 4 + 1];
}

KERNEL barrier_in_branch(int* out) {
    __shared__ int cells[64];
    cells[threadIdx.x] = 1;
    if (out[threadIdx.x] < 16) {
        __syncthreads(); // FINDING: barrier-divergence
        out[threadIdx.x] = cells[threadIdx.x];
    }
}

KERNEL barrier_left_out(int* out) { // the second warp waits at another barrier
    if (threadIdx.x < 32) {
        asm volatile("bar.sync 1, 64;" ::: "memory"); // FINDING: barrier-divergence
    } else {
        asm volatile("bar.sync 2, 64;" ::: "memory"); // FINDING: barrier-divergence
    }
    out[threadIdx.x] = 1;
}

KERNEL shuffle_inactive(int* out) {
    int v = out[threadIdx.x];
    if (v % 32 < 16) {
        v = __shfl_xor_sync(0xffffffffu, v, 1); // FINDING: warp-sync
        out[threadIdx.x] = v;
    }
}

KERNEL shuffle_not_in_mask(int* out) {
    out[threadIdx.x] = __shfl_sync(0x0000ffffu, out[threadIdx.x], 0); // FINDING: warp-sync
}

KERNEL matrix_in_branch(float* out) {
    float c[4] = {out[threadIdx.x], 0.0f, 0.0f, 0.0f};
    if (c[0] < 16.0f) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(0)); // FINDING: warp-sync
        out[threadIdx.x] = c[0];
    }
}

KERNEL load_matrix_in_branch(int* out) {
    __shared__ __align__(16) int cells[64 * 4];
    for (int i = 0; i < 4; ++i) cells[threadIdx.x * 4 + i] = i;
    __syncthreads();
    if (out[threadIdx.x] % 2 == 0) {
        unsigned v;
        const unsigned row = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x * 4]));
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(v) : "r"(row) : "memory"); // FINDING: warp-sync
        out[threadIdx.x] = v;
    }
}

KERNEL misaligned_matrix_row(int* out) {
    __shared__ __align__(16) int cells[64 * 4];
    for (int i = 0; i < 4; ++i) cells[threadIdx.x * 4 + i] = i;
    __syncthreads();
    unsigned v;
    const unsigned row = static_cast<unsigned>(__cvta_generic_to_shared(&cells[threadIdx.x * 2]));
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(v) : "r"(row) : "memory"); // FINDING: misaligned
    out[threadIdx.x] = v;
}

KERNEL failed_assertion(int* out) {
    assert(out[threadIdx.x] < 60); // FINDING: trap
}

KERNEL trapped(int* out) {
    if (out[threadIdx.x] == 33) __trap(); // FINDING: trap
}

KERNEL endless(int* out) {
    while (atomicAdd(out, 0) == 0) __nanosleep(10); // FINDING: hang
}

// Without a defect of their own: what the host does around them is wrong.

KERNEL __launch_bounds__(64) bounded(int* out) { out[threadIdx.x] = 1; }

KERNEL needs_shared(int* out) {
    extern __shared__ int dynamic[];
    dynamic[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = dynamic[threadIdx.x];
}

KERNEL produce(int* out) { out[threadIdx.x] = threadIdx.x; }

KERNEL consume(const int* in, int* out) { out[threadIdx.x] = in[threadIdx.x] + 1; }
