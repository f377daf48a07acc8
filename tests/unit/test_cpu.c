/* What the cpu backend promises beyond what every backend does: thread counts do not change results, products of every
 * size of tile are right, elementary functions are accurate, and the environment is checked. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "backends/cpu/cpu_impl.h"
#include "backends/cpu/probe.h"
#include "core/op/ops.h"

#define MUST(call) cr_assert_eq((call), HX_OK, "%s", hx_error_message())

typedef struct rig {
    hx_device *device;
    hx_stream *stream;
    hx_ctx ctx;
} rig;

static rig rig_open(int n_threads) {
    rig r = {0};
    if (!hx_backend_find("cpu")) MUST(hx_backend_register(&hx_backend_cpu));
    MUST(hx_device_open("cpu", &(hx_device_config){.n_threads = n_threads}, &r.device));
    MUST(hx_stream_create(r.device, &r.stream));
    r.ctx = (hx_ctx){.device = r.device, .stream = r.stream};
    return r;
}

static void rig_close(rig *r) {
    hx_stream_destroy(&r->stream);
    hx_device_close(&r->device);
}

static hx_tensor *uniform(rig *r, hx_dtype dtype, hx_shape shape, uint64_t stream) {
    hx_tensor *t;
    MUST(hx_tensor_create(r->device, dtype, shape, &t));
    MUST(hx_fill_uniform(&r->ctx, t, (hx_rng){7, stream}, 0, -1, 2));
    return t;
}

/* ---- thread counts ---- */

typedef struct thread_case {
    hx_op op;
    int n_in;
    hx_shape in[HX_OP_MAX_IN];
    hx_op_attr attr;
} thread_case;

static const thread_case thread_cases[] = {
    {HX_OP_matmul, 2, {{2, {501, 300}}, {2, {300, 419}}}, {.matmul = {.alpha = 1}}},
    {HX_OP_linear, 3, {{3, {5, 67, 130}}, {2, {391, 130}}, {1, {391}}}, {.matmul = {0}}},
    {HX_OP_sum, 1, {{2, {1999, 301}}}, {.reduce = {.n_dims = 1, .dims = {0}}}},
    {HX_OP_sum, 1, {{2, {301, 1999}}}, {.reduce = {.n_dims = 2, .dims = {0, 1}}}},
    {HX_OP_sumsq, 1, {{1, {300001}}}, {.reduce = {0}}},
    {HX_OP_softmax, 1, {{2, {401, 503}}}, {.reduce = {0}}},
    {HX_OP_gelu_erf, 1, {{1, {200003}}}, {.reduce = {0}}},
    {HX_OP_swiglu_bwd, 2, {{2, {301, 1034}}, {2, {301, 517}}}, {.reduce = {0}}},
    {HX_OP_layernorm_bwd, 5, {{2, {999, 130}}, {1, {130}}, {1, {999}}, {1, {999}}, {2, {999, 130}}}, {.norm = {.eps = 1e-5}}},
    {HX_OP_attention, 3, {{4, {2, 150, 4, 24}}, {4, {2, 300, 2, 24}}, {4, {2, 300, 2, 24}}}, {.attention = {0.2, true}}},
    {HX_OP_attention_bwd, 6,
     {{4, {2, 150, 4, 24}}, {4, {2, 300, 2, 24}}, {4, {2, 300, 2, 24}}, {4, {2, 150, 4, 24}}, {3, {2, 4, 150}}, {4, {2, 150, 4, 24}}},
     {.attention = {0.2, true}}},
    {HX_OP_dropout, 1, {{1, {100003}}}, {.random = {.rng = {1, 2}, .offset = 3, .p = 0.3}}},
};

/* Operands that stay f32 where the data are of a half type: mean, rstd, logsumexp. */
static bool is_statistic(const thread_case *c, int i) {
    return (c->op == HX_OP_layernorm_bwd && (i == 2 || i == 3)) || (c->op == HX_OP_attention_bwd && i == 4);
}

static void run_case(const thread_case *c, hx_dtype dtype, int n_threads, hx_tensor **out, rig *r) {
    hx_tensor *in[HX_OP_MAX_IN] = {NULL};
    *r = rig_open(n_threads);
    for (int i = 0; i < c->n_in; i++) in[i] = uniform(r, is_statistic(c, i) ? HX_F32 : dtype, c->in[i], (uint64_t)i);
    MUST(hx_op_run(&r->ctx, c->op, in, c->n_in, &c->attr, 0, out));
    MUST(hx_stream_sync(r->stream));
    for (int i = 0; i < c->n_in; i++) hx_tensor_destroy(&in[i]);
}

static void check_thread_counts(hx_dtype dtype) {
    for (size_t k = 0; k < sizeof thread_cases / sizeof *thread_cases; k++) {
        hx_tensor *want[HX_OP_MAX_OUT] = {NULL};
        rig one;
        run_case(&thread_cases[k], dtype, 1, want, &one);
        for (int n_threads = 2; n_threads <= 3; n_threads++) {
            hx_tensor *got[HX_OP_MAX_OUT] = {NULL};
            rig many;
            run_case(&thread_cases[k], dtype, n_threads, got, &many);
            for (int i = 0; i < HX_OP_MAX_OUT; i++) {
                if (want[i])
                    cr_expect_eq(memcmp(hx_tensor_data(want[i]), hx_tensor_data(got[i]), hx_tensor_bytes(want[i])), 0,
                                 "%s of %s: output %d differs for %d threads", hx_op_info_get(thread_cases[k].op)->name, hx_dtype_name(dtype), i,
                                 n_threads);
                hx_tensor_destroy(&got[i]);
            }
            rig_close(&many);
        }
        for (int i = 0; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&want[i]);
        rig_close(&one);
    }
}

Test(cpu, results_are_the_same_bits_for_any_number_of_threads) {
    check_thread_counts(HX_F32);
    check_thread_counts(HX_BF16);
}

/* Which is what lets a batch be dealt out over ranks. */
Test(cpu, a_row_of_a_product_has_the_same_bits_whatever_rows_are_beside_it) {
    const hx_dtype dtypes[] = {HX_F32, HX_BF16};
    rig r = rig_open(1);
    for (int d = 0; d < 2; d++) {
        HX_AUTO_TENSOR a = uniform(&r, dtypes[d], HX_SHAPE(200, 1111), 1);
        HX_AUTO_TENSOR w = uniform(&r, dtypes[d], HX_SHAPE(70, 1111), 2);
        HX_AUTO_TENSOR all = NULL;
        MUST(hx_linear_op(&r.ctx, a, w, NULL, &all));
        for (int64_t first = 4; first < 200; first += 49) {
            HX_AUTO_TENSOR part = NULL;
            HX_AUTO_TENSOR y = NULL;
            MUST(hx_slice(&r.ctx, a, 0, first, first + 4, 1, &part));
            MUST(hx_linear_op(&r.ctx, part, w, NULL, &y));
            const char *rows = (const char *)hx_tensor_data(all) + (size_t)first * 70 * hx_dtype_bytes(dtypes[d]);
            cr_expect_eq(memcmp(rows, hx_tensor_data(y), hx_tensor_bytes(y)), 0, "%s rows from %lld", hx_dtype_name(dtypes[d]), (long long)first);
        }
    }
    rig_close(&r);
}

/* ---- one kernel for several ---- */

/* Columns first .. first + width - 1 of `whole` are the bits of `part`. */
static void expect_columns(rig *r, hx_tensor *whole, int64_t first, hx_tensor *part) {
    HX_AUTO_TENSOR view = NULL;
    HX_AUTO_TENSOR dense = NULL;
    MUST(hx_slice(&r->ctx, whole, 1, first, first + hx_tensor_dim(part, 1), 1, &view));
    MUST(hx_contiguous(&r->ctx, view, &dense));
    cr_expect_eq(memcmp(hx_tensor_data(dense), hx_tensor_data(part), hx_tensor_bytes(part)), 0, "columns from %lld in %s differ",
                 (long long)first, hx_dtype_name(hx_tensor_dtype(part)));
}

static void check_swiglu(rig *r, hx_dtype dtype, int64_t width) {
    enum { GATE, UP, OPEN, Y, INNER, DGATE, DUP, N };
    hx_tensor *t[N] = {NULL};
    HX_AUTO_TENSOR x = uniform(r, dtype, HX_SHAPE(19, 2 * width), 1);
    HX_AUTO_TENSOR dy = uniform(r, dtype, HX_SHAPE(19, width), 2);
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR dx = NULL;
    MUST(hx_swiglu(&r->ctx, x, &y));
    MUST(hx_op_run(&r->ctx, HX_OP_swiglu_bwd, (hx_tensor *[]){x, dy}, 2, NULL, 0, &dx));
    MUST(hx_split(&r->ctx, x, 1, (int64_t[]){width, width}, 2, t));
    MUST(hx_unary(&r->ctx, HX_OP_silu, t[GATE], &t[OPEN]));
    MUST(hx_mul(&r->ctx, t[OPEN], t[UP], &t[Y]));
    MUST(hx_mul(&r->ctx, dy, t[UP], &t[INNER]));
    MUST(hx_op_run(&r->ctx, HX_OP_silu_bwd, (hx_tensor *[]){t[GATE], t[INNER]}, 2, NULL, 0, &t[DGATE]));
    MUST(hx_mul(&r->ctx, t[OPEN], dy, &t[DUP]));
    expect_columns(r, y, 0, t[Y]);
    expect_columns(r, dx, 0, t[DGATE]);
    expect_columns(r, dx, width, t[DUP]);
    for (int i = 0; i < N; i++) hx_tensor_destroy(&t[i]);
}

Test(cpu, swiglu_and_its_derivative_have_the_bits_of_silu_and_mul) {
    rig r = rig_open(2);
    for (int64_t width = 5; width <= 1031; width += 342) {
        check_swiglu(&r, HX_F32, width);
        check_swiglu(&r, HX_F64, width);
    }
    rig_close(&r);
}

/* ---- products ---- */

/* |a b - c| / |a b| in the Frobenius norm for [m,k] x [k,n], each operand optionally a transposed view. */
static double product_error(rig *r, hx_dtype dtype, const int64_t mnk[3], bool ta, bool tb) {
    int64_t m = mnk[0], n = mnk[1], k = mnk[2];
    HX_AUTO_TENSOR a0 = uniform(r, dtype, ta ? HX_SHAPE(k, m) : HX_SHAPE(m, k), 1);
    HX_AUTO_TENSOR b0 = uniform(r, dtype, tb ? HX_SHAPE(n, k) : HX_SHAPE(k, n), 2);
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    HX_AUTO_TENSOR c = NULL;
    HX_AUTO_TENSOR wide = NULL;
    MUST(hx_tensor_permute(a0, ta ? (int[]){1, 0} : (int[]){0, 1}, &a));
    MUST(hx_tensor_permute(b0, tb ? (int[]){1, 0} : (int[]){0, 1}, &b));
    MUST(hx_tensor_create(r->device, hx_dtype_accum(dtype), HX_SHAPE(m, n), &c)); /* what is not rounded shows more */
    MUST(hx_op_run(&r->ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &(hx_op_attr){.matmul = {.alpha = 1}}, 0, &c));
    double *x = calloc((size_t)(m * k), sizeof *x), *y = calloc((size_t)(k * n), sizeof *y), error = 0, size = 0;
    HX_AUTO_TENSOR ad = NULL;
    HX_AUTO_TENSOR bd = NULL;
    MUST(hx_cast(&r->ctx, a, HX_F64, &ad));
    MUST(hx_cast(&r->ctx, b, HX_F64, &bd));
    MUST(hx_cast(&r->ctx, c, HX_F64, &wide));
    MUST(hx_tensor_read(r->stream, ad, x));
    MUST(hx_tensor_read(r->stream, bd, y));
    MUST(hx_stream_sync(r->stream));
    const double *z = hx_tensor_data(wide);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t p = 0; p < k; p++) sum += x[i * k + p] * y[p * n + j];
            error += (sum - z[i * n + j]) * (sum - z[i * n + j]);
            size += sum * sum;
        }
    free(x);
    free(y);
    return sqrt(error / size);
}

static const int64_t product_sizes[][3] = {
    {1, 1, 1}, {1, 70, 40}, {70, 1, 40}, {3, 9, 50}, {4, 4, 9}, {5, 33, 17}, {6, 16, 100}, {7, 15, 31}, {12, 32, 64}, {13, 31, 129},
    {121, 70, 11}, {130, 513, 20}, {25, 40, 800}, {1030, 20, 5}, {240, 200, 390}, {40, 50, 1601},
};

static void check_products(const char *provider) {
    setenv("HELIX_GEMM", provider, 1);
    rig r = rig_open(2);
    for (size_t s = 0; s < sizeof product_sizes / sizeof *product_sizes; s++)
        for (int t = 0; t < 4; t++) {
            const int64_t *d = product_sizes[s];
            double e32 = product_error(&r, HX_F32, d, t & 1, t & 2), e64 = product_error(&r, HX_F64, d, t & 1, t & 2);
            double e16 = product_error(&r, HX_BF16, d, t & 1, t & 2);
            cr_expect_leq(e32, 1e-6, "f32 %lld x %lld x %lld, transposed %d: error %g", (long long)d[0],
                         (long long)d[1], (long long)d[2], t, e32);
            cr_expect_leq(e64, 1e-14, "f64 %lld x %lld x %lld, transposed %d: error %g", (long long)d[0],
                         (long long)d[1], (long long)d[2], t, e64);
            cr_expect_leq(e16, 1e-6, "bf16 %lld x %lld x %lld, transposed %d: error %g", (long long)d[0],
                         (long long)d[1], (long long)d[2], t, e16);
        }
    rig_close(&r);
}

Test(cpu, products_of_every_edge_size_are_right) { check_products("own"); }

Test(cpu, products_by_openblas_are_right_too) { check_products("openblas"); }

/* ---- elementary functions ---- */

static double gelu(double x) { return 0.5 * x * erfc(-x * 0.70710678118654752440); }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

typedef struct function_case {
    hx_op op;
    double (*exact)(double);
    double low, high;
    double ulps; /* of the exact value */
} function_case;

static const function_case function_cases[] = {
    {HX_OP_exp, exp, -87, 88, 2},      {HX_OP_log, log, 1e-30, 1e30, 2},   {HX_OP_log, log, 0.5, 2, 2},
    {HX_OP_tanh, tanh, -10, 10, 3},    {HX_OP_tanh, tanh, -0.7, 0.7, 2},   {HX_OP_sigmoid, sigmoid, -80, 80, 4},
    {HX_OP_gelu_erf, gelu, -2, 2, 8},
    {HX_OP_gelu_erf, gelu, -5, 5, 24}, /* the tail is a power: errors of the exponent grow with it */
};

Test(cpu, elementary_functions_are_accurate_over_their_range) {
    enum { N = 100001 };
    rig r = rig_open(1);
    for (size_t k = 0; k < sizeof function_cases / sizeof *function_cases; k++) {
        const function_case *c = &function_cases[k];
        HX_AUTO_TENSOR x = NULL;
        HX_AUTO_TENSOR y = NULL;
        MUST(hx_tensor_create(r.device, HX_F32, HX_SHAPE(N), &x));
        float *px = hx_tensor_data(x);
        for (int i = 0; i < N; i++) px[i] = (float)(c->low + (c->high - c->low) * i / (N - 1));
        MUST(hx_unary(&r.ctx, c->op, x, &y));
        MUST(hx_stream_sync(r.stream));
        const float *py = hx_tensor_data(y);
        double worst = 0, at = 0;
        for (int i = 0; i < N; i++) {
            double want = c->exact((double)px[i]);
            double ulp = fmax(ldexp(1, ilogb(want == 0 ? 1e-30 : want) - 23), 1e-38), error = fabs(py[i] - want) / ulp;
            if (error > worst) worst = error, at = (double)px[i];
        }
        cr_expect_leq(worst, c->ulps, "%s: %g ulp at %g", hx_op_info_get(c->op)->name, worst, at);
    }
    rig_close(&r);
}

Test(cpu, special_values_go_through_elementary_functions_as_in_libm) {
    const float in[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-45f, 3.4e38f, -3.4e38f};
    double (*const exact[])(double) = {exp, log, tanh};
    const hx_op ops[] = {HX_OP_exp, HX_OP_log, HX_OP_tanh};
    enum { N = sizeof in / sizeof *in };
    rig r = rig_open(1);
    HX_AUTO_TENSOR x = NULL;
    MUST(hx_tensor_create(r.device, HX_F32, HX_SHAPE(N), &x));
    MUST(hx_tensor_write(r.stream, x, in));
    for (int k = 0; k < 3; k++) {
        HX_AUTO_TENSOR y = NULL;
        float out[N];
        MUST(hx_unary(&r.ctx, ops[k], x, &y));
        MUST(hx_tensor_read(r.stream, y, out));
        for (int i = 0; i < N; i++) {
            float want = (float)exact[k]((double)in[i]);
            bool same = isnan(want) ? isnan(out[i]) : out[i] == want || fabsf(out[i] - want) <= 1e-6f * fabsf(want);
            cr_expect(same, "%s(%g) is %g, expected %g", hx_op_info_get(ops[k])->name, (double)in[i], (double)out[i], (double)want);
        }
    }
    hx_tensor_destroy(&x);
    rig_close(&r);
}

/* ---- what the machine can do ---- */

static hx_status try_open(void) {
    hx_device *device = NULL;
    if (!hx_backend_find("cpu")) MUST(hx_backend_register(&hx_backend_cpu));
    hx_status status = hx_device_open("cpu", &(hx_device_config){0}, &device);
    hx_device_close(&device);
    return status;
}

static void expect_rate(const char *what, double per_second) {
    cr_expect(per_second > 1e7 && per_second < 1e14, "%s: %g a second", what, per_second);
}

Test(cpu, every_instruction_set_tells_the_limits_of_the_machine) {
    static const char *const isas[] = {"generic", "avx2", "avx512"};
    for (size_t i = 0; i < sizeof isas / sizeof *isas; i++) {
        double f32, bf16, bytes[2];
        setenv("HELIX_CPU_ISA", isas[i], 1);
        if (try_open() != HX_OK) continue; /* this CPU does not have it */
        rig r = rig_open(2);
        MUST(hx_cpu_peak(r.device, HX_F32, 1, &f32));
        MUST(hx_cpu_peak(r.device, HX_BF16, 1, &bf16));
        MUST(hx_cpu_bandwidth(r.device, 1 << 20, 2, &bytes[0]));
        MUST(hx_cpu_bandwidth(r.device, (1 << 20) + 4, 1, &bytes[1])); /* not whole lines for each array */
        expect_rate(isas[i], f32);
        if (bf16 != 0) expect_rate(isas[i], bf16);
        cr_expect_lt(bf16, 6 * f32, "%s: %g and %g a second: an instruction has twice the products, four times at most", isas[i], bf16, f32);
        expect_rate(isas[i], bytes[0]);
        expect_rate(isas[i], bytes[1]);
        rig_close(&r);
    }
}

Test(cpu, limits_are_those_of_a_cpu_device_its_threads_and_floats) {
    rig r = rig_open(2);
    hx_device *meta;
    double rate = -1;
    MUST(hx_backend_register(&hx_backend_meta));
    MUST(hx_device_open("meta", &(hx_device_config){0}, &meta));
    cr_expect_eq(hx_cpu_peak(meta, HX_F32, 1, &rate), HX_ERR_ARG);
    cr_expect(strstr(hx_error_message(), "device meta: expected cpu"), "%s", hx_error_message());
    cr_expect_eq(hx_cpu_peak(r.device, HX_F64, 1, &rate), HX_ERR_ARG);
    cr_expect_eq(hx_cpu_peak(r.device, HX_F32, 3, &rate), HX_ERR_ARG);
    cr_expect(strstr(hx_error_message(), "3 threads: expected 1 to the device's 2"), "%s", hx_error_message());
    cr_expect_eq(hx_cpu_bandwidth(r.device, 1 << 20, 0, &rate), HX_ERR_ARG);
    cr_expect_eq(hx_cpu_bandwidth(r.device, 1 << 10, 1, &rate), HX_ERR_ARG);
    cr_expect_eq(rate, -1, "a result was written on failure");
    hx_device_close(&meta);
    rig_close(&r);
}

/* ---- environment ---- */

Test(cpu, an_unknown_instruction_set_is_refused_with_the_names_that_there_are) {
    setenv("HELIX_CPU_ISA", "v9", 1);
    cr_assert_eq(try_open(), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "HELIX_CPU_ISA=v9: expected one of generic"), "%s", hx_error_message());
    for (int i = 0; i < hx__cpu_n_isas; i++)
        cr_expect(strstr(hx_error_message(), hx__cpu_isas[i].kernels->isa), "%s is not in: %s", hx__cpu_isas[i].kernels->isa, hx_error_message());
}

static bool is_there(void) { return true; }
static bool is_absent(void) { return false; }

Test(cpu, instruction_sets_that_the_cpu_lacks_are_passed_over_and_refused_by_name) {
    const hx_cpu_kernels best = {.isa = "best"}, good = {.isa = "good"}, plain = {.isa = "plain"}, *chosen = NULL;
    const hx_cpu_isa isas[] = {{&best, is_absent}, {&good, is_there}, {&plain, is_there}};
    MUST(hx__cpu_choose_isa(isas, 3, NULL, &chosen));
    cr_expect_eq(chosen, &good);
    MUST(hx__cpu_choose_isa(isas, 3, "", &chosen));
    cr_expect_eq(chosen, &good);
    MUST(hx__cpu_choose_isa(isas, 3, "plain", &chosen));
    cr_expect_eq(chosen, &plain);
    cr_expect_null(hx__cpu_isa_notice(isas, 3, chosen), "who asks for the plain kernels knows it");
    cr_expect_eq(hx__cpu_choose_isa(isas, 3, "best", &chosen), HX_ERR_CONFIG);
    cr_expect(strstr(hx_error_message(), "HELIX_CPU_ISA=best: this CPU does not have it, its best is good"), "%s", hx_error_message());
    cr_expect_eq(hx__cpu_choose_isa(isas, 3, "goo", &chosen), HX_ERR_CONFIG, "a part of a name is none");
    cr_expect_eq(chosen, &plain, "a result was written on failure");
}

Test(cpu, a_cpu_with_none_of_the_instruction_sets_runs_the_generic_kernels_and_tells_it) {
    const hx_cpu_kernels best = {.isa = "best"}, plain = {.isa = "plain"}, *chosen = NULL;
    const hx_cpu_isa isas[] = {{&best, is_absent}, {&plain, is_there}};
    MUST(hx__cpu_choose_isa(isas, 2, NULL, &chosen));
    cr_expect_eq(chosen, &plain);
    const char *notice = hx__cpu_isa_notice(isas, 2, chosen);
    cr_expect(notice && strstr(notice, "generic kernels"), "%s", notice ? notice : "nothing is told");
    cr_expect_null(hx__cpu_isa_notice(&isas[1], 1, chosen), "a build that has no others has nothing to tell");
}

Test(cpu, an_unknown_gemm_is_refused_by_name) {
    setenv("HELIX_GEMM", "cublas", 1);
    cr_assert_neq(try_open(), HX_OK);
    cr_expect(strstr(hx_error_message(), "cublas"), "%s", hx_error_message());
}

Test(cpu, the_generic_instruction_set_runs_everywhere_and_is_named) {
    setenv("HELIX_CPU_ISA", "generic", 1);
    rig r = rig_open(1);
    hx_device_props props;
    hx_device_props_get(r.device, &props);
    cr_expect(strstr(props.name, "generic"), "%s", props.name);
    double e = product_error(&r, HX_F32, (const int64_t[]){33, 65, 70}, false, true);
    cr_expect_lt(e, 1e-5, "error %g", e);
    rig_close(&r);
}
