/* Matrix products on the calling thread. OpenBLAS computes them, except tiny ones, whose set-up would cost more than
 * the product. With HELIX_GEMM=own in the environment the register tiles below take over, written with the compiler's
 * vectors and so compiled for each instruction set: as fast as OpenBLAS where both were measured, and not in need of a
 * library that knows the CPU. Products of few rows or columns, which only stream a matrix, stay with OpenBLAS.
 *
 *   1. K is cut into parts of at most KC and N into parts of NC; op(B) of a part is packed into slivers, k rows of NR
 *      columns, one of which fits the first-level cache.
 *   2. M is cut into blocks of MC rows, which stay in the second-level cache while all slivers pass.
 *   3. A tile of MR x NR sums is kept in registers over the whole part of K.
 * Source of the scheme: Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication". */
#include <cblas.h>
#include <limits.h>
#include <string.h>
#include "backends/cpu/kernels/kernels.h"
#include "backends/cpu/kernels/vmath.h"
#include "core/tensor/half.h"

/* Registers of the instruction set: MR x 2 sums, 2 of b and 1 of a. */
#if defined(__AVX512F__)
enum { VEC_BYTES = 64, MR = 12, KC = 256, MC = 120 };
#elif defined(__AVX2__)
enum { VEC_BYTES = 32, MR = 6, KC = 384, MC = 120 };
#else
enum { VEC_BYTES = 16, MR = 4, KC = 384, MC = 120 };
#endif
enum { NC = 512, BLAS_MOST = 3 /* rows or columns for which packing would cost more than it saves */ };
#define SMALL_PRODUCT 128.0 /* multiplications below which plain loops win */
enum { K_MOST = 1 << 30 };

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
