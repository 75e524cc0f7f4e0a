// Control flow, exchange between lanes, barriers, matrix instructions and special registers.
#include "opcodes.cuh"

#include <cassert>
#include <cstdio>

extern "C" __global__ void votes(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    value(__ballot_sync(kAll, x & 1));
    value(__any_sync(kAll, x % 32 == 0));
    value(__all_sync(kAll, x % 32 != 0));
    value(__match_any_sync(kAll, x % 4));
    int same;
    value(__match_all_sync(kAll, x / 0x80000000u, &same));
    value(same);
    value(__reduce_add_sync(kAll, x));
    value(__reduce_min_sync(kAll, x));
    value(__reduce_max_sync(kAll, static_cast<int>(x)));
    value(__reduce_and_sync(kAll, x | 0xff));
    value(__reduce_or_sync(kAll, x & 0xff00));
    value(__reduce_xor_sync(kAll, x));
    if (lane() < 20) { // a part of the warp
        value(__ballot_sync(0xfffffu, x & 2));
        value(__activemask());
        value(__reduce_add_sync(0xfffffu, x & 0xff));
    } else {
        value(__ballot_sync(0xfff00000u, x & 2));
        value(__activemask());
        value(__reduce_add_sync(0xfff00000u, x & 0xff));
    }
}

extern "C" __global__ void shuffles(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    value(__shfl_sync(kAll, x, x));
    value(__shfl_up_sync(kAll, x, 3));
    value(__shfl_down_sync(kAll, x, 5));
    value(__shfl_xor_sync(kAll, x, 9));
    value(__shfl_sync(kAll, x, 5, 8));
    value(__shfl_up_sync(kAll, x, 2, 16));
    value(__shfl_down_sync(kAll, x, 6, 16));
    value(__shfl_xor_sync(kAll, x, 20, 16)); // an earlier segment can be read, a later one cannot
    value(__shfl_xor_sync(kAll, x * 0x100000001ull, 1));
    value(__shfl_down_sync(kAll, static_cast<double>(x), 1));
    unsigned inside;
    asm volatile("{.reg .pred p; .reg .b32 v; shfl.sync.up.b32 v|p, %1, 4, 0, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(inside) : "r"(x));
    value(inside);
}

extern "C" __global__ void branches(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    unsigned v = x;
    switch (x % 11) {
        case 0: v = x + 1; break;
        case 1: v = x * 3; break;
        case 2: v = x ^ 0x5555; break;
        case 3: v = x >> 3; break;
        case 4: v = ~x; break;
        case 5: v = x / 5; break;
        case 6: v = __popc(x); break;
        case 7: v = x % 9; break;
        case 8: v = __brev(x); // falls through
        case 9: v += 9; break;
        default: v = 42;
    }
    value(v);
    unsigned steps = 0; // a different number of steps for each lane
    for (unsigned n = x % 100 + 1; n != 1; n = n % 2 ? 3 * n + 1 : n / 2) ++steps;
    value(steps);
    if (lane() % 3 == 0) {
        if (x & 8) v += 100; else v += 200;
    } else if (lane() % 3 == 1) {
        v += 300;
    }
    __syncwarp();
    value(v);
    value(__ballot_sync(kAll, v & 1)); // together again
    if (x % 7 == 0) return; // some leave early
    value(__activemask() >> lane() & 1);
}

// The compiler turns a switch into comparisons, so the jump table is written out.
extern "C" __global__ void jump_table(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    unsigned v;
    asm volatile(
        "{\n"
        "targets: .branchtargets plus, minus, twice, half;\n"
        "brx.idx %1, targets;\n"
        "plus: add.u32 %0, %2, 1;\n"
        "bra.uni done;\n"
        "minus: sub.u32 %0, %2, 1;\n"
        "bra.uni done;\n"
        "twice: shl.b32 %0, %2, 1;\n"
        "bra.uni done;\n"
        "half: shr.u32 %0, %2, 1;\n"
        "done:\n"
        "}"
        : "=r"(v)
        : "r"(x % 4), "r"(x));
    value(v);
    value(__ballot_sync(kAll, v & 1)); // together again
}

extern "C" __global__ void barriers(const unsigned* in, unsigned* out) {
    __shared__ unsigned mailbox[32];
    Values value(out);
    const unsigned x = word(in);
    value(__syncthreads_count(x & 1));
    value(__syncthreads_and(x != 0) != 0);
    value(__syncthreads_or(x % 64 == 0) != 0);
    // Warp 1 produces, warp 0 consumes: named barriers of 64 threads, one side only arriving.
    if (threadIdx.x >= 32) {
        mailbox[lane()] = x;
        asm volatile("bar.arrive 1, 64;" ::: "memory");
        asm volatile("bar.sync 2, 64;" ::: "memory");
        value(mailbox[lane()]);
    } else {
        asm volatile("bar.sync 1, 64;" ::: "memory");
        const unsigned got = mailbox[lane() ^ 1];
        asm volatile("bar.sync 3, 32;" ::: "memory"); // this warp alone
        mailbox[lane()] = got + 1;
        asm volatile("bar.arrive 2, 64;" ::: "memory");
        value(got);
    }
}

// 16x8 products whose operands are small integers, so that every order of summation is exact. Lane
// l holds of A (row-major) and B (column-major) what PTX ISA says; values are functions of the indices.
__device__ float element_a(unsigned row, unsigned k) { return static_cast<float>(static_cast<int>(row * 3 + k * 5) % 7 - 3); }
__device__ float element_b(unsigned k, unsigned column) { return static_cast<float>(static_cast<int>(k * 2 + column * 3) % 5 - 2); }

extern "C" __global__ void matrices(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned group = lane() / 4, place = lane() % 4;
    const float start = static_cast<float>(in[0] % 3);
    float c[4];
    auto reset = [&] {
        for (float& v : c) v = start;
    };
    auto store = [&] {
        for (float v : c) value(v);
    };
    unsigned a[4], b[2];
    for (int i = 0; i < 4; ++i) { // m16n8k16, 16-bit: pairs along k
        const unsigned row = group + i % 2 * 8, k = place * 2 + i / 2 * 8;
        const __half2 pair = __floats2half2_rn(element_a(row, k), element_a(row, k + 1));
        a[i] = *reinterpret_cast<const unsigned*>(&pair);
    }
    for (int i = 0; i < 2; ++i) {
        const unsigned k = place * 2 + i * 8;
        const __half2 pair = __floats2half2_rn(element_b(k, group), element_b(k + 1, group));
        b[i] = *reinterpret_cast<const unsigned*>(&pair);
    }
    reset();
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    store();
    reset();
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]));
    store();
    const __half2 first = __floats2half2_rn(start, start);
    unsigned h0 = *reinterpret_cast<const unsigned*>(&first), h1 = h0;
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
                 : "+r"(h0), "+r"(h1)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    value(h0);
    value(h1);
    for (int i = 0; i < 4; ++i) { // m16n8k8, tf32: one element a register
        const float element = element_a(group + i % 2 * 8, place + i / 2 * 4);
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(a[i]) : "f"(element));
    }
    for (int i = 0; i < 2; ++i) {
        const float element = element_b(place + i * 4, group);
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(b[i]) : "f"(element));
    }
    reset();
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    store();
}
extern "C" __global__ void volatile_shared(const unsigned* in, unsigned* out) {
    __shared__ volatile unsigned cells[64];
    Values value(out);
    cells[threadIdx.x] = word(in);
    __syncwarp();
    value(cells[threadIdx.x ^ 1]);
    __syncwarp();
    cells[threadIdx.x ^ 1] = cells[threadIdx.x ^ 1] + 1; // each lane one cell, its neighbour's
    __syncwarp();
    value(cells[threadIdx.x]);
}

extern "C" __global__ void special(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const long long start = clock64();
    const unsigned short_start = clock();
    unsigned long long time, later;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(time));
    __nanosleep(100);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(later));
    value(clock64() > start);
    value(clock() != short_start);
    value(later >= time);
    unsigned v;
    asm("mov.u32 %0, %%laneid;" : "=r"(v));
    value(v);
    asm("mov.u32 %0, %%lanemask_lt;" : "=r"(v));
    value(v);
    asm("mov.u32 %0, %%lanemask_ge;" : "=r"(v));
    value(v);
    asm("mov.u32 %0, %%nwarpid;" : "=r"(v));
    value(v >= 2);
    value(gridDim.x * 100 + blockDim.x);
    value(warpSize);
    assert(gridDim.x == 2);
    if (threadIdx.x == 0) printf("block %d, word %u, %s %f\n", blockIdx.x, x, "text", 1.5);
    __threadfence_system();
    value(x);
}
