/* CUDA's C++ as kernels see it, on the emulator of the tests: qualifiers, vector types, built-in variables and functions.
 * Functions that make threads meet take the place of their call (file and line) as hidden last arguments. */
#ifndef HX_TESTS_EMU_CUDA_RUNTIME_H
#define HX_TESTS_EMU_CUDA_RUNTIME_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cuda_runtime_api.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__     inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n)        __attribute__((aligned(n)))

#define EMU_VECTORS(X, T, name, align2, align4) \
    struct __align__(align2) name##2 { T x, y; }; \
    struct name##3 { T x, y, z; };                \
    struct __align__(align4) name##4 { T x, y, z, w; }; \
    static inline name##2 make_##name##2(T x, T y) { return name##2{x, y}; }                \
    static inline name##3 make_##name##3(T x, T y, T z) { return name##3{x, y, z}; }        \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return name##4{x, y, z, w}; }
EMU_VECTORS(, signed char, char, 2, 4)
EMU_VECTORS(, unsigned char, uchar, 2, 4)
EMU_VECTORS(, short, short, 4, 8)
EMU_VECTORS(, unsigned short, ushort, 4, 8)
EMU_VECTORS(, int, int, 8, 16)
EMU_VECTORS(, unsigned, uint, 8, 16)
EMU_VECTORS(, float, float, 8, 16)
EMU_VECTORS(, double, double, 16, 16)
EMU_VECTORS(, long long, longlong, 16, 16)
EMU_VECTORS(, unsigned long long, ulonglong, 16, 16)
#undef EMU_VECTORS

#include "tests/emu/kernel.h"

static constexpr int warpSize = 32;

/* ---- memory ---- */

template <class T> static inline T __ldg(const T *p) { return *p; }
template <class T> static inline T __ldcg(const T *p) { return *p; }
template <class T> static inline T __ldcs(const T *p) { return *p; }
template <class T> static inline T __ldca(const T *p) { return *p; }
template <class T> static inline void __stcg(T *p, T x) { *p = x; }
template <class T> static inline void __stcs(T *p, T x) { *p = x; }
template <class T> static inline void __stwt(T *p, T x) { *p = x; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __nanosleep(unsigned) {}
[[noreturn]] void __trap();

/* Threads run one at a time, so a plain read and write is atomic. For integers only: sums of floating-point numbers must
 * have one order. */
#define EMU_ATOMIC(name, T, value)                                \
    static inline T atomic##name(T *p, T x) {                     \
        const T old = *p;                                         \
        *p = (T)(value);                                          \
        return old;                                               \
    }
#define EMU_ATOMICS(T)                        \
    EMU_ATOMIC(Add, T, old + x)               \
    EMU_ATOMIC(Max, T, old > x ? old : x)     \
    EMU_ATOMIC(Min, T, old < x ? old : x)     \
    EMU_ATOMIC(Or, T, old | x)                \
    EMU_ATOMIC(And, T, old & x)               \
    EMU_ATOMIC(Xor, T, old ^ x)               \
    EMU_ATOMIC(Exch, T, x)                    \
    static inline T atomicCAS(T *p, T expected, T x) { \
        const T old = *p;                     \
        if (old == expected) *p = x;          \
        return old;                           \
    }
EMU_ATOMICS(int)
EMU_ATOMICS(unsigned)
EMU_ATOMICS(long long)
EMU_ATOMICS(unsigned long long)
EMU_ATOMIC(Sub, int, old - x)
EMU_ATOMIC(Sub, unsigned, old - x)
EMU_ATOMIC(Inc, unsigned, old >= x ? 0 : old + 1)
#undef EMU_ATOMIC
#undef EMU_ATOMICS

/* ---- bits ---- */

template <class To, class From> static inline To emu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a cast of bits between sizes");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x) { return emu_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return emu_bits<int>(x); }
static inline float __uint_as_float(unsigned x) { return emu_bits<float>(x); }
static inline float __int_as_float(int x) { return emu_bits<float>(x); }
static inline long long __double_as_longlong(double x) { return emu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return emu_bits<double>(x); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
static inline int __mulhi(int a, int b) { return (int)(((int64_t)a * b) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)x); }
static inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (x >> i & 1u) << (31 - i);
    return reversed;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned n) {
    return (unsigned)((((uint64_t)high << 32 | low) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned n) {
    return (unsigned)(((uint64_t)high << 32 | low) >> (n & 31));
}

/* ---- numbers: the fast variants are the exact ones here ---- */

#define EMU_MIN_MAX(T)                                     \
    static inline T min(T a, T b) { return b < a ? b : a; } \
    static inline T max(T a, T b) { return a < b ? b : a; }
EMU_MIN_MAX(int)
EMU_MIN_MAX(unsigned)
EMU_MIN_MAX(long)
EMU_MIN_MAX(unsigned long)
EMU_MIN_MAX(long long)
EMU_MIN_MAX(unsigned long long)
#undef EMU_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
/* macros: the C library has functions of these names */
#define __expf(x)             expf(x)
#define __exp10f(x)           powf(10.0f, x)
#define __logf(x)             logf(x)
#define __log2f(x)            log2f(x)
#define __log10f(x)           log10f(x)
#define __powf(x, y)          powf(x, y)
#define __sinf(x)             sinf(x)
#define __cosf(x)             cosf(x)
#define __tanf(x)             tanf(x)
#define __sincosf(x, s, c)    (void)(*(s) = sinf(x), *(c) = cosf(x))
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline float sinpif(float x) { return (float)sin(M_PI * (double)x); }
static inline float cospif(float x) { return (float)cos(M_PI * (double)x); }
static inline void sincospif(float x, float *s, float *c) { *s = sinpif(x), *c = cospif(x); }
static inline double sinpi(double x) { return sin(M_PI * x); }
static inline double cospi(double x) { return cos(M_PI * x); }
static inline void sincospi(double x, double *s, double *c) { *s = sinpi(x), *c = cospi(x); }
static inline int __float2int_rn(float x) { return (int)nearbyintf(x); }
static inline int __float2int_rz(float x) { return (int)x; }
static inline int __float2int_rd(float x) { return (int)floorf(x); }
static inline unsigned __float2uint_rn(float x) { return (unsigned)nearbyintf(x); }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __double2float_rn(double x) { return (float)x; }
static inline long long __double2ll_rn(double x) { return (long long)nearbyint(x); }

/* ---- the host's side ---- */

template <class T> static inline cudaError_t cudaMalloc(T **out, size_t n_bytes) {
    return cudaMalloc(reinterpret_cast<void **>(out), n_bytes);
}
template <class... P, class... A>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(P...), A &&...args) {
    const std::tuple<std::decay_t<P>...> values(static_cast<P>(args)...);
    static_assert(sizeof values <= 32764, "a kernel's parameters");
    return emu_launch(config, reinterpret_cast<const void *>(kernel), [kernel, values] { std::apply(kernel, values); });
}
template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute attr, int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attr, value);
}

#endif
