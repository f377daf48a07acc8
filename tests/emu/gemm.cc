/* backends/cuda/gemm.h over OpenBLAS, a piece of work on its stream as a kernel is. Half types are widened, and the result
 * is rounded once. */
#include "backends/cuda/gemm.h"

#include <cblas.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/emu/emu.h"

namespace {
struct product { /* by value: the caller's description is gone when the stream gets here */
    hx_gemm g;
    const void *a, *b;
    void *c;
};
} // namespace

static void multiply(const hx_gemm &g, const double *a, int lda, const double *b, int ldb, double *c) {
    cblas_dgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans, (int)g.m, (int)g.n,
                (int)g.k, g.alpha, a, lda, b, ldb, 0.0, c, (int)g.n);
}
static void multiply(const hx_gemm &g, const float *a, int lda, const float *b, int ldb, float *c) {
    cblas_sgemm(CblasRowMajor, g.trans_a ? CblasTrans : CblasNoTrans, g.trans_b ? CblasTrans : CblasNoTrans, (int)g.m, (int)g.n,
                (int)g.k, (float)g.alpha, a, lda, b, ldb, 0.0f, c, (int)g.n);
}

/* Rows of `ld` elements, the last one of n_cols only: all that the product may read. */
template <class W, class T> static std::vector<W> widen(const char *what, const T *p, int64_t n_rows, int64_t n_cols, int64_t ld) {
    std::vector<W> wide((size_t)(n_rows * n_cols));
    if (wide.empty()) return wide;
    emu_memory_check(what, p, (size_t)((n_rows - 1) * ld + n_cols) * sizeof *p);
    for (int64_t i = 0; i < n_rows; i++)
        for (int64_t j = 0; j < n_cols; j++) wide[(size_t)(i * n_cols + j)] = static_cast<W>(p[i * ld + j]);
    return wide;
}

template <class W, class T, class O> static void store(const hx_gemm &g, const std::vector<W> &sum, const T *bias, O *c) {
    emu_memory_check("the result of a gemm", c, (size_t)((g.m - 1) * g.ldc + g.n) * sizeof *c);
    if (bias != nullptr) emu_memory_check("the bias of a gemm", bias, (size_t)g.n * sizeof *bias);
    for (int64_t i = 0; i < g.m; i++)
        for (int64_t j = 0; j < g.n; j++) {
            W x = sum[(size_t)(i * g.n + j)];
            O *at = c + i * g.ldc + j;
            if (g.accumulate) x += static_cast<W>(*at);
            if (bias != nullptr) x += static_cast<W>(bias[j]);
            *at = static_cast<O>(x);
        }
}

template <class W, class T, class O> static void run(const product &p) {
    const hx_gemm &g = p.g;
    for (int64_t i = 0; i < g.n_batch; i++) {
        const T *a = static_cast<const T *>(p.a) + i * g.stride_a, *b = static_cast<const T *>(p.b) + i * g.stride_b;
        const auto wide_a = g.trans_a ? widen<W>("A of a gemm", a, g.k, g.m, g.lda) : widen<W>("A of a gemm", a, g.m, g.k, g.lda);
        const auto wide_b = g.trans_b ? widen<W>("B of a gemm", b, g.n, g.k, g.ldb) : widen<W>("B of a gemm", b, g.k, g.n, g.ldb);
        std::vector<W> sum((size_t)(g.m * g.n), W(0));
        if (g.k > 0)
            multiply(g, wide_a.data(), (int)(g.trans_a ? g.m : g.k), wide_b.data(), (int)(g.trans_b ? g.k : g.n), sum.data());
        store<W>(g, sum, static_cast<const T *>(g.bias), static_cast<O *>(p.c) + i * g.stride_c);
    }
}

static bool run_by_dtype(const product &p) {
    const bool is_wide = p.g.out_dtype == HX_F32;
    switch (p.g.dtype) {
    case HX_F32: run<float, float, float>(p); return true;
    case HX_F64: run<double, double, double>(p); return true;
    case HX_BF16: is_wide ? run<float, __nv_bfloat16, float>(p) : run<float, __nv_bfloat16, __nv_bfloat16>(p); return true;
    case HX_F16: is_wide ? run<float, __half, float>(p) : run<float, __half, __half>(p); return true;
    default: emu_fail("a gemm of dtype %s", hx_dtype_name(p.g.dtype));
    }
}

/* What cuBLASLt refuses, or reads elsewhere. */
static bool is_possible(const hx_gemm *g) {
    const bool is_half = g->dtype == HX_BF16 || g->dtype == HX_F16;
    return g->m >= 0 && g->n >= 0 && g->k >= 0 && g->n_batch >= 0 && g->lda >= (g->trans_a ? g->m : g->k) &&
           g->ldb >= (g->trans_b ? g->k : g->n) && g->ldc >= g->n && !(g->bias != nullptr && g->accumulate) &&
           (g->out_dtype == g->dtype || (is_half && g->out_dtype == HX_F32));
}

hx_status hx__cuda_gemm(hx_cuda_stream *s, const hx_gemm *g, const void *a, const void *b, void *c) {
    if (!is_possible(g))
        return HX_FAIL(HX_ERR_DEVICE, "gemm %lldx%lldx%lld, ld %lld %lld %lld: no such product", (long long)g->m, (long long)g->n,
                       (long long)g->k, (long long)g->lda, (long long)g->ldb, (long long)g->ldc);
    if (g->m == 0 || g->n == 0 || g->n_batch == 0) return HX_OK;
    const product p = {*g, a, b, c};
    auto lock = emu_lock();
    emu_enqueue(s->handle, "a gemm", [p] { return run_by_dtype(p); });
    return HX_OK;
}

hx_status hx__cuda_gemm_open(hx_cuda *, hx_cuda_gemm_library **out) {
    *out = nullptr;
    return HX_OK;
}
void hx__cuda_gemm_close(hx_cuda_gemm_library **library) { *library = nullptr; }
