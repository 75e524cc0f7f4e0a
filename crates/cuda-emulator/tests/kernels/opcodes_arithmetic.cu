// Arithmetic of every type, and conversions between them.
#include "opcodes.cuh"

extern "C" __global__ void integers(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in), y = x * 2654435761u + 12345u;
    const int sx = static_cast<int>(x), sy = static_cast<int>(y);
    value(x + y);
    value(x - y);
    value(x * y);
    value(x / (y | 1));
    value(x % (y | 1));
    value(sx / (sy | 1));
    value(sx % (sy | 1));
    value(__umulhi(x, y));
    value(__mulhi(sx, sy));
    value(x << (y & 31));
    value(x >> (y & 31));
    value(sx >> (y & 31));
    value(~x & (y | 0x0f0f0f0fu));
    value(x ^ y);
    value(min(sx, sy));
    value(max(x, y));
    value(abs(sx));
    value(__popc(x));
    value(__clz(sx));
    value(__ffs(sx));
    value(__brev(x));
    value(__byte_perm(x, y, 0x3175));
    value(__funnelshift_l(x, y, x & 63));
    value(__funnelshift_r(x, y, y & 31));
    value(__usad(x, y, 7u));
    int dot;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(dot) : "r"(sx), "r"(sy), "r"(5));
    value(dot);
    value(x == y);
    value(sx < sy ? x : y);
    unsigned field;
    asm("bfe.u32 %0, %1, 5, 11;" : "=r"(field) : "r"(x));
    value(field);
    asm("bfe.s32 %0, %1, 5, 11;" : "=r"(field) : "r"(x));
    value(field);
    asm("bfi.b32 %0, %1, %2, 9, 13;" : "=r"(field) : "r"(x), "r"(y));
    value(field);
    asm("lop3.b32 %0, %1, %2, 0x00ff00ff, 0xe8;" : "=r"(field) : "r"(x), "r"(y)); // majority
    value(field);
}

extern "C" __global__ void integers64(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const unsigned long long a = x * 0x9e3779b97f4a7c15ull + 1, b = (a >> 17) ^ (static_cast<unsigned long long>(x) << 40);
    const long long sa = static_cast<long long>(a), sb = static_cast<long long>(b);
    value(a + b);
    value(a * b);
    value(a / (b | 1));
    value(a % (b | 1));
    value(sa / (sb | 1));
    value(__umul64hi(a, b));
    value(__mul64hi(sa, sb));
    value(a << (x & 63));
    value(sa >> (x & 63));
    value(sa < sb ? sa : sb);
    value(__popcll(a));
    value(__clzll(sa));
    value(__brevll(a));
    value(static_cast<unsigned long long>(x) * (x | 3)); // mul.wide
    value(static_cast<long long>(static_cast<int>(x)) * -7);
    const unsigned __int128 wide = static_cast<unsigned __int128>(a) * b + a; // carries
    value(static_cast<unsigned long long>(wide));
    value(static_cast<unsigned long long>(wide >> 64));
    value(static_cast<unsigned>(static_cast<uint8_t>(x)) + static_cast<uint16_t>(x >> 3));
    value(static_cast<int>(static_cast<int8_t>(x)) + static_cast<int16_t>(x >> 3));
}

extern "C" __global__ void floats(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const float a = __fmul_rn(static_cast<float>(static_cast<int>(x)), 1e-6f), b = static_cast<float>(x % 1000) + 0.37f;
    value(a + b);
    value(a * b);
    value(a / b);
    value(sqrtf(b));
    value(1.0f / b);
    value(fmaf(a, b, 0.1f));
    value(__fadd_rz(a, b));
    value(__fmul_ru(a, b));
    value(__fadd_rd(a, b));
    value(fminf(a, NAN));
    value(fmaxf(a, b));
    value(copysignf(b, a));
    value(fabsf(a));
    value(floorf(a));
    value(ceilf(a));
    value(rintf(a));
    value(truncf(a));
    value(static_cast<int>(a));
    value(static_cast<unsigned>(-b)); // saturates
    value(static_cast<int>(a * 1e12f)); // saturates
    value(__float2int_rn(a));
    value(__float2ll_rd(a));
    value(static_cast<float>(x));
    value(__uint2float_rz(x));
    value(isnan(a) || isinf(b));
    value(__saturatef(a));
}

// Functions that the hardware approximates: compared with a tolerance.
extern "C" __global__ void approximations(const unsigned* in, unsigned* out) {
    Values value(out);
    const float a = static_cast<float>(word(in) % 2000) * 0.004f - 4.0f, b = fabsf(a) + 0.125f;
    value(exp2f(a));
    value(__expf(a));
    value(expf(a));
    value(__log2f(b));
    value(logf(b));
    value(__sinf(a));
    value(__cosf(a));
    value(rsqrtf(b));
    value(__frcp_rn(b));
    value(__fdividef(a, b));
    value(tanhf(a));
    value(powf(b, a));
    float t;
    asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(a));
    value(t);
}

extern "C" __global__ void doubles(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const double a = __dmul_rn(static_cast<int>(x), 1e-3), b = x % 977 + 0.1;
    value(a + b);
    value(a * b);
    value(a / b);
    value(sqrt(b));
    value(fma(a, b, 0.3));
    value(fmin(a, b));
    value(static_cast<float>(a));
    value(static_cast<double>(static_cast<float>(b)));
    value(static_cast<int>(a));
    value(static_cast<long long>(a * 1e9));
    value(static_cast<double>(x));
    value(a < b);
    value(-fabs(a));
    value(floor(a));
}

extern "C" __global__ void halves(const unsigned* in, unsigned* out) {
    Values value(out);
    const unsigned x = word(in);
    const float f = static_cast<float>(x % 512) * 0.03125f - 8.0f, g = static_cast<float>(x / 512 % 512) * 0.0625f - 16.0f;
    const __half2 a = __floats2half2_rn(f, g), b = __floats2half2_rn(g, f);
    value(__hadd2(a, b));
    value(__hmul2(a, b));
    value(__hfma2(a, b, a));
    value(__hsub2(a, b));
    value(__hmax2(a, b));
    value(__hmin2(a, b));
    value(__hneg2(a));
    value(__habs2(b));
    value(__hlt(__low2half(a), __high2half(a)));
    value(__half2float(__low2half(a)) + __half2float(__high2half(a)));
    value(static_cast<int>(__half2int_rn(__low2half(a))));
    value(__halves2half2(__int2half_rn(static_cast<int>(x % 5000)), __float2half_rz(f * 0.1f)));
    const __nv_bfloat162 c = __floats2bfloat162_rn(f, g), d = __floats2bfloat162_rn(g, f);
    value(__hadd2(c, d));
    value(__hmul2(c, d));
    value(__hfma2(c, d, c));
    value(__hsub2(c, d));
    value(__hmax2(c, d));
    value(__hmin2(c, d));
    value(__hneg2(c));
    value(__habs2(d));
    value(__bfloat162float(__low2bfloat16(c)) * 3.0f);
    value(__halves2bfloat162(__float2bfloat16_rn(f * 0.1f), __float2bfloat16_rz(g * 0.1f)));
}
