/* Matrix products of the cuda backend: one function over cuBLASLt, which the emulator replaces by one over OpenBLAS.
 *
 * Row-major: C [m,n] = alpha op(A) op(B) + (accumulate ? C : 0) + bias, for each of n_batch products.
 */
#ifndef HX_BACKENDS_CUDA_GEMM_H
#define HX_BACKENDS_CUDA_GEMM_H

#include "backends/cuda/cuda_impl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_gemm {
    int64_t m, n, k;
    bool trans_a, trans_b; /* A is stored [k,m], B is stored [n,k] */
    int64_t lda, ldb, ldc; /* elements from one stored row to the next */
    int64_t n_batch, stride_a, stride_b, stride_c; /* elements from one product to the next; 0 in a, b: shared */
    hx_dtype dtype;     /* of A, B and bias: f32, f64, bf16, f16; half types are accumulated in f32 */
    hx_dtype out_dtype; /* of C: dtype, or f32 for half types */
    double alpha;
    bool accumulate;
    const void *bias; /* [n], added to each row; NULL: none; excludes accumulate */
} hx_gemm;

/** Enqueue. m, n, k may be 0: an empty sum is 0. @return HX_ERR_DEVICE with the library's
 *  reason, HX_ERR_UNSUPPORTED if it has no algorithm */
hx_status hx__cuda_gemm(hx_cuda_stream *s, const hx_gemm *g, const void *a, const void *b, void *c);

hx_status hx__cuda_gemm_open(hx_cuda *device, hx_cuda_gemm_library **out);
void hx__cuda_gemm_close(hx_cuda_gemm_library **library);

#ifdef __cplusplus
}
#endif
#endif
