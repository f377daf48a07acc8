/* Matrix products by cuBLASLt, which reads matrices column-major: a row-major C is its C^T, so the product is asked for as
 * C^T = op(B)^T op(A)^T, with A and B as they lie in memory. A bias along C's rows is then what the library adds.
 *
 * f32 is computed in f32 (no TF32), f64 in f64, half types in f32. Descriptors and the algorithm that the library's heuristic
 * prefers are kept per shape, the oldest shape making room for a new one: a training step meets a few dozen shapes again and again.
 * Of the algorithms that split k, only those that add the parts in the type of the computation are taken.
 */
#include <cublasLt.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "backends/cuda/gemm.h"
#include "core/base/mem.h"

#define WORKSPACE_BYTES ((size_t)32 << 20)
#define N_PLANS         128
#define MOST_ALIGNMENT  256 /* bytes; beyond that an algorithm gains nothing */

/* What an algorithm depends on. */
typedef struct plan_key {
    int64_t m, n, k, lda, ldb, ldc, n_batch, stride_a, stride_b, stride_c;
    int32_t trans_a, trans_b, dtype, out_dtype, accumulate, has_bias;
    uint32_t align_a, align_b, align_c; /* the addresses' */
} plan_key;

typedef struct plan {
    bool is_set;
    plan_key key;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, c; /* as the library counts: a is our B */
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace_bytes;
} plan;

struct hx_cuda_gemm_library {
    cublasLtHandle_t handle;
    pthread_mutex_t lock; /* plans are shared by the device's streams */
    plan plans[N_PLANS];
    int oldest;
};

static hx_status check(cublasStatus_t status, const char *what) {
    if (HX_LIKELY(status == CUBLAS_STATUS_SUCCESS)) return HX_OK;
    return HX_FAIL(status == CUBLAS_STATUS_ALLOC_FAILED ? HX_ERR_MEMORY : HX_ERR_DEVICE, "%s: %s", what, cublasLtGetStatusString(status));
}

/* ---- plans ---- */

static void plan_free(plan *p) {
    if (p->c) (void)cublasLtMatrixLayoutDestroy(p->c);
    if (p->b) (void)cublasLtMatrixLayoutDestroy(p->b);
    if (p->a) (void)cublasLtMatrixLayoutDestroy(p->a);
    if (p->product) (void)cublasLtMatmulDescDestroy(p->product);
    *p = (plan){0};
}

static cudaDataType_t type_of(hx_dtype dtype) {
    switch (dtype) {
    case HX_F64: return CUDA_R_64F;
    case HX_BF16: return CUDA_R_16BF;
    case HX_F16: return CUDA_R_16F;
    default: return CUDA_R_32F;
    }
}

/* A stored row-major matrix is a column-major one with as many rows as it has columns. */
static hx_status make_layout(hx_dtype dtype, int64_t n_rows, int64_t n_cols, int64_t ld, int64_t n_batch, int64_t stride,
                             cublasLtMatrixLayout_t *out) {
    int count;
    HX_TRY(hx_count_to_int(n_batch, &count));
    HX_TRY(check(cublasLtMatrixLayoutCreate(out, type_of(dtype), (uint64_t)n_cols, (uint64_t)n_rows, ld), "cublasLtMatrixLayoutCreate"));
    if (n_batch == 1) return HX_OK;
    HX_TRY(check(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count), "batch count"));
    return check(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride), "batch stride");
}

static hx_status describe(const plan_key *key, plan *p) {
    const bool is_double = key->dtype == HX_F64;
    const cublasOperation_t op_a = key->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = key->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = key->has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    const struct {
        cublasLtMatmulDescAttributes_t which;
        const void *value;
        size_t n_bytes;
    } attributes[] = {{CUBLASLT_MATMUL_DESC_TRANSA, &op_a, sizeof op_a},
                      {CUBLASLT_MATMUL_DESC_TRANSB, &op_b, sizeof op_b},
                      {CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue}};
    HX_TRY(check(cublasLtMatmulDescCreate(&p->product, is_double ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F, is_double ? CUDA_R_64F : CUDA_R_32F),
                 "cublasLtMatmulDescCreate"));
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
        HX_TRY(check(cublasLtMatmulDescSetAttribute(p->product, attributes[i].which, attributes[i].value, attributes[i].n_bytes),
                     "cublasLtMatmulDescSetAttribute"));
    HX_TRY(make_layout((hx_dtype)key->dtype, key->trans_b ? key->n : key->k, key->trans_b ? key->k : key->n, key->ldb, key->n_batch,
                       key->stride_b, &p->a));
    HX_TRY(make_layout((hx_dtype)key->dtype, key->trans_a ? key->k : key->m, key->trans_a ? key->m : key->k, key->lda, key->n_batch,
                       key->stride_a, &p->b));
    return make_layout((hx_dtype)key->out_dtype, key->m, key->n, key->ldc, key->n_batch, key->stride_c, &p->c);
}

static hx_status set_preference(cublasLtMatmulPreference_t preference, const plan_key *key) {
    const size_t workspace = WORKSPACE_BYTES;
    const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const struct {
        cublasLtMatmulPreferenceAttributes_t which;
        const void *value;
        size_t n_bytes;
    } attributes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
                      {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &key->align_b, sizeof key->align_b},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &key->align_a, sizeof key->align_a},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &key->align_c, sizeof key->align_c},
                      {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &key->align_c, sizeof key->align_c}};
    for (size_t i = 0; i < sizeof attributes / sizeof *attributes; i++)
        HX_TRY(check(cublasLtMatmulPreferenceSetAttribute(preference, attributes[i].which, attributes[i].value, attributes[i].n_bytes),
                     "cublasLtMatmulPreferenceSetAttribute"));
    return HX_OK;
}

/* The heuristic's first choice. @param[out] found  false: the library has no algorithm for the product */
static hx_status choose(cublasLtHandle_t handle, const plan_key *key, plan *p, bool *found) {
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t best;
    int n = 0;
    HX_TRY(check(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate"));
    hx_status status = set_preference(preference, key);
    if (status == HX_OK) {
        cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(handle, p->product, p->a, p->b, p->c, p->c, preference, 1, &best, &n);
        *found = answer == CUBLAS_STATUS_SUCCESS && n > 0;
        if (answer != CUBLAS_STATUS_NOT_SUPPORTED) status = check(answer, "cublasLtMatmulAlgoGetHeuristic");
    }
    (void)cublasLtMatmulPreferenceDestroy(preference);
    if (status != HX_OK || !*found) return status;
    p->algorithm = best.algo;
    p->workspace_bytes = best.workspaceSize;
    return HX_OK;
}

static hx_status find_plan(hx_cuda_gemm_library *g, const plan_key *key, plan **out, bool *found) {
    for (int i = 0; i < N_PLANS; i++)
        if (g->plans[i].is_set && memcmp(&g->plans[i].key, key, sizeof *key) == 0) {
            *out = &g->plans[i];
            *found = true;
            return HX_OK;
        }
    plan *p = &g->plans[g->oldest];
    *found = false;
    plan_free(p);
    hx_status status = describe(key, p);
    if (status == HX_OK) status = choose(g->handle, key, p, found);
    if (status != HX_OK || !*found) {
        plan_free(p);
        return status;
    }
    p->key = *key;
    p->is_set = true;
    g->oldest = (g->oldest + 1) % N_PLANS;
    *out = p;
    return HX_OK;
}

/* ---- opening ---- */

hx_status hx__cuda_gemm_open(hx_cuda *device, hx_cuda_gemm_library **out) {
    hx_cuda_gemm_library *g;
    (void)device;
    HX_TRY(hx_mem_alloc_array(1, sizeof *g, (void **)&g));
    hx_status status = check(cublasLtCreate(&g->handle), "cublasLtCreate");
    if (status != HX_OK) {
        hx_mem_free((void **)&g);
        return status;
    }
    pthread_mutex_init(&g->lock, NULL);
    *out = g;
    return HX_OK;
}

void hx__cuda_gemm_close(hx_cuda_gemm_library **library) {
    hx_cuda_gemm_library *g = *library;
    if (!g) return;
    for (int i = 0; i < N_PLANS; i++) plan_free(&g->plans[i]);
    (void)cublasLtDestroy(g->handle);
    pthread_mutex_destroy(&g->lock);
    hx_mem_free((void **)library);
}

/* ---- running ---- */

static hx_status clear(hx_cuda_stream *s, const hx_gemm *g, void *c) {
    const size_t item = hx_dtype_bytes(g->out_dtype);
    for (int64_t i = 0; i < g->n_batch; i++)
        HX_TRY(hx__cuda_check(cudaMemset2DAsync((char *)c + (size_t)(i * g->stride_c) * item, (size_t)g->ldc * item, 0, (size_t)g->n * item,
                                                (size_t)g->m, s->handle), "cudaMemset2DAsync"));
    return HX_OK;
}

/* Every row of every product becomes the bias, or without one zeros. */
static hx_status spread(hx_cuda_stream *s, const hx_gemm *g, void *c) {
    if (!g->bias) return clear(s, g, c);
    hx_array row = {(void *)g->bias, g->dtype, 3, {g->n_batch, g->m, g->n}, {0, 0, 1}};
    hx_array out = {c, g->out_dtype, 3, {g->n_batch, g->m, g->n}, {g->stride_c, g->ldc, 1}};
    hx_op_call call = {.op = HX_OP_copy, .n_in = 1, .n_out = 1, .attr.copy.dtype = g->out_dtype, .in = {row}, .out = {out}};
    return hx__cuda_copy(s, &call);
}

/* The largest power of two up to 256 that divides the address. */
static uint32_t alignment(const void *p) {
    uintptr_t at = (uintptr_t)p | MOST_ALIGNMENT;
    return (uint32_t)(at & -at);
}

static plan_key key_of(const hx_gemm *g, const void *a, const void *b, const void *c) {
    plan_key key;
    memset(&key, 0, sizeof key); /* keys are compared as bytes */
    key.m = g->m, key.n = g->n, key.k = g->k;
    key.lda = g->lda, key.ldb = g->ldb, key.ldc = g->ldc;
    key.n_batch = g->n_batch;
    if (g->n_batch > 1) key.stride_a = g->stride_a, key.stride_b = g->stride_b, key.stride_c = g->stride_c;
    key.trans_a = g->trans_a, key.trans_b = g->trans_b;
    key.dtype = (int32_t)g->dtype, key.out_dtype = (int32_t)g->out_dtype;
    key.accumulate = g->accumulate, key.has_bias = g->bias != NULL;
    key.align_a = alignment(a), key.align_b = alignment(b), key.align_c = alignment(c);
    return key;
}

static hx_status need_workspace(hx_cuda_stream *s, size_t n_bytes) {
    if (n_bytes == 0 || s->workspace) return HX_OK;
    return hx__cuda_take(s, WORKSPACE_BYTES, "workspace of matrix products", &s->workspace);
}

static hx_status multiply(hx_cuda_stream *s, plan *p, const hx_gemm *g, const void *a, const void *b, void *c) {
    char what[160];
    const double alpha64 = g->alpha, beta64 = g->accumulate ? 1 : 0;
    const float alpha32 = (float)alpha64, beta32 = (float)beta64;
    const bool is_double = g->dtype == HX_F64;
    HX_TRY(need_workspace(s, p->workspace_bytes));
    if (g->bias)
        HX_TRY(check(cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias, sizeof g->bias), "bias"));
    cublasStatus_t status = cublasLtMatmul(s->device->gemm->handle, p->product, is_double ? (const void *)&alpha64 : &alpha32, b, p->a, a, p->b,
                                           is_double ? (const void *)&beta64 : &beta32, c, p->c, c, p->c, &p->algorithm, s->workspace,
                                           s->workspace ? WORKSPACE_BYTES : 0, s->handle);
    if (HX_LIKELY(status == CUBLAS_STATUS_SUCCESS)) return HX_OK;
    snprintf(what, sizeof what, "cublasLtMatmul of %lld products %lld x %lld x %lld in %s", (long long)g->n_batch, (long long)g->m,
             (long long)g->k, (long long)g->n, hx_dtype_name(g->dtype));
    return check(status, what);
}

/* @param[out] found  false: nothing was done, the library has no algorithm */
static hx_status try_library(hx_cuda_stream *s, const hx_gemm *g, const void *a, const void *b, void *c, bool *found) {
    hx_cuda_gemm_library *library = s->device->gemm;
    plan_key key = key_of(g, a, b, c);
    plan *p = NULL;
    pthread_mutex_lock(&library->lock); /* until the call is enqueued: plans hold the bias's address */
    hx_status status = find_plan(library, &key, &p, found);
    if (status == HX_OK && *found) status = multiply(s, p, g, a, b, c);
    pthread_mutex_unlock(&library->lock);
    return status;
}

hx_status hx__cuda_gemm(hx_cuda_stream *s, const hx_gemm *g, const void *a, const void *b, void *c) {
    hx_gemm plain = *g;
    bool found = false;
    if (g->m == 0 || g->n == 0 || g->n_batch == 0) return HX_OK;
    if (g->k == 0) return g->accumulate ? HX_OK : spread(s, g, c);
    /* The library adds a bias of C's type, which it may read 16 bytes at a time without having been told where it lies, and
     * not in every case: else C begins as the bias, and the product is added. */
    const bool fuses = g->bias && g->dtype == g->out_dtype && g->dtype != HX_F64 && alignment(g->bias) >= 16;
    if (!g->bias || fuses) HX_TRY(try_library(s, g, a, b, c, &found));
    if (!found && g->bias) {
        HX_TRY(spread(s, g, c));
        plain.bias = NULL;
        plain.accumulate = true;
        HX_TRY(try_library(s, &plain, a, b, c, &found));
    }
    if (found) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "cuBLASLt has no algorithm for %lld products %lld x %lld x %lld in %s", (long long)g->n_batch, (long long)g->m,
                   (long long)g->k, (long long)g->n, hx_dtype_name(g->dtype));
}
