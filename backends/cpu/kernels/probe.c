/* What this instruction set can do at most: products that stay in registers, and passes over memory. */
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "backends/cpu/kernels/kernels.h"

#if defined(__AVX512F__)
enum { VEC_BYTES = 64 };
#elif defined(__AVX__)
enum { VEC_BYTES = 32 };
#else
enum { VEC_BYTES = 16 };
#endif
/* As many sums as multiply-adds are under way at a time, or more: the cycles that one takes by those that begin in a cycle. With two
 * operands more they fit the registers. */
enum { VL = VEC_BYTES / 4, N_SUMS = HX_CPU_PROBE_SUMS, INNER = 1024 };

typedef float vec __attribute__((vector_size(VEC_BYTES)));

/* Sums that stay finite: x = x/2 + 1/2. Their first values are not known to the compiler, or it would make one of those that are equal,
 * and none of one that stays as it is. */
static void fma_f32(int64_t n_repeats, float *values) {
    vec sum[N_SUMS], half = (vec){0} + 0.5f;
#pragma GCC unroll 16
    for (int i = 0; i < N_SUMS; i++) sum[i] = (vec){0} + values[i];
    for (int64_t r = 0; r < n_repeats * INNER; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < N_SUMS; i++) sum[i] = sum[i] * half + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < N_SUMS; i++) values[i] = sum[i][0];
}

#if defined(__AVX512F__)
/* Not part of the instruction set that this file is compiled for, but of some CPUs that have it. */
static bool has_dot_bf16(void) { return __builtin_cpu_supports("avx512bf16"); }

__attribute__((target("avx512bf16"))) static void dot_bf16(int64_t n_repeats, float *values) {
    __m512 sum[N_SUMS];
    __m512i ones = _mm512_set1_epi32(0x3f803f80); /* pairs of 1 */
    __m512bh a;
    memcpy(&a, &ones, sizeof a);
#pragma GCC unroll 16
    for (int i = 0; i < N_SUMS; i++) sum[i] = _mm512_set1_ps(values[i]);
    for (int64_t r = 0; r < n_repeats * INNER; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < N_SUMS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], a, a);
    }
#pragma GCC unroll 16
    for (int i = 0; i < N_SUMS; i++) values[i] = _mm512_cvtss_f32(sum[i]);
}
#define DOT_BF16 dot_bf16
#else
static bool has_dot_bf16(void) { return false; }
#define DOT_BF16 NULL
#endif

/* ---- passes over memory ---- */

static void update(int64_t n, float *restrict a, const float *restrict b, const float *restrict c) {
    (void)c;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) a[i] = 0.5f * a[i] + b[i];
}

static void triad(int64_t n, float *restrict a, const float *restrict b, const float *restrict c) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) a[i] = b[i] + 0.5f * c[i];
}

/* Stores that go around the caches spare memory the reading of what they overwrite. a, b and c are aligned, n is whole vectors. */
#if defined(__x86_64__)
static void triad_around(int64_t n, float *restrict a, const float *restrict b, const float *restrict c) {
    for (int64_t i = 0; i < n; i += VL) {
        vec v = *(const vec *)(b + i) + 0.5f * *(const vec *)(c + i);
#if defined(__AVX512F__)
        _mm512_stream_ps(a + i, (__m512)v);
#elif defined(__AVX__)
        _mm256_stream_ps(a + i, (__m256)v);
#else
        _mm_stream_ps(a + i, (__m128)v);
#endif
    }
    _mm_sfence();
}
#define TRIAD_AROUND triad_around
#else
#define TRIAD_AROUND triad
#endif

const hx_cpu_probe HX_K(probe) = {
    .fma_f32 = fma_f32,
    .fma_f32_flops = 2.0 * VL * N_SUMS * INNER,
    .has_dot_bf16 = has_dot_bf16,
    .dot_bf16 = DOT_BF16,
    .dot_bf16_flops = 4.0 * VL * N_SUMS * INNER,
    .streams = {update, triad, TRIAD_AROUND},
};
