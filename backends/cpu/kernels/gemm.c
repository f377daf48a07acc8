/* Matrix products on the calling thread, by register tiles written with the compiler's vectors and so compiled for each
 * instruction set: as fast as OpenBLAS and oneDNN where they were measured (tests/bench/gemm_peers.c), not in need of a
 * library that knows the CPU, and with sums in an order that K alone decides. Tiny products, whose set-up would cost more,
 * take plain loops; shapes with `use_blas` go to OpenBLAS.
 *
 *   1. K is cut into parts of at most KC and N into parts of NC; op(B) of a part is packed into slivers, k rows of NR
 *      columns, which come from the first- or second-level cache, as fast as they are multiplied.
 *   2. M is cut into blocks of MC rows, which stay in the second-level cache while all slivers pass.
 *   3. A tile of MR x NR sums is kept in registers over the whole part of K.
 * Source of the scheme: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication". */
#include <cblas.h>
#include <limits.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/transpose.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

/* Registers of the instruction set: MR x 2 sums, 2 of b and 1 of a. */
#if defined(__AVX512F__)
enum { VEC_BYTES = 64, MR = 12, KC = 512, MC = 120 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32, MR = 6, KC = 384, MC = 120 };
#else
enum { VEC_BYTES = 16, MR = 4, KC = 384, MC = 120 };
#endif
enum { NC = 512 };
#define SMALL_PRODUCT 128.0 /* multiplications below which plain loops win */
enum { K_MOST = 1 << 30 };

#ifdef __AVX512F__
/* A square of 16 x 16 elements of 4 bytes; steps in bytes from row to row. First 2 x 2 and 4 x 4 within lanes of 16 bytes, then lanes. */
static inline void transpose_16(const char *from, int64_t from_step, char *to, int64_t to_step) {
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_ps(from + i * from_step);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            const __m512d a = _mm512_castps_pd(t[i + h]), b = _mm512_castps_pd(t[i + h + 2]);
            r[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) { /* lane l of r[4 g + c] is column 4 l + c of rows 4 g .. 4 g + 3 */
        const __m512 even0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88), odd0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
        const __m512 even1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88), odd1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
        _mm512_storeu_ps(to + c * to_step, _mm512_shuffle_f32x4(even0, even1, 0x88));
        _mm512_storeu_ps(to + (4 + c) * to_step, _mm512_shuffle_f32x4(odd0, odd1, 0x88));
        _mm512_storeu_ps(to + (8 + c) * to_step, _mm512_shuffle_f32x4(even0, even1, 0xdd));
        _mm512_storeu_ps(to + (12 + c) * to_step, _mm512_shuffle_f32x4(odd0, odd1, 0xdd));
    }
}
#endif

#define PACKS_AS_STORED
#define GEMM cblas_sgemm
#define GEMV cblas_sgemv
#include "backends/cpu/kernels/real_f32.h"
#include "backends/cpu/kernels/gemm_tile.inc"
#include "backends/cpu/kernels/gemm.inc"
#undef GEMM
#undef GEMV
#define GEMM cblas_dgemm
#define GEMV cblas_dgemv
#include "backends/cpu/kernels/real_f64.h"
#include "backends/cpu/kernels/gemm_tile.inc"
#include "backends/cpu/kernels/gemm.inc"
#undef GEMM
#undef GEMV
#undef PACKS_AS_STORED
#include "backends/cpu/kernels/real_bf16.h"
#ifdef __AVX512BF16__
#include "backends/cpu/kernels/gemm_dot.inc"
#else
#include "backends/cpu/kernels/gemm_tile.inc"
#endif
#include "backends/cpu/kernels/gemm.inc"
