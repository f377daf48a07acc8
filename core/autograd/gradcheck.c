/* 1. The analytic gradient: record f, run backward with a fixed random tensor w as the gradient of the
 * output.
 * 2. The numeric one, element by element: phi(x) = sum w f(x) is evaluated at x_j +- h, the central
 * differences D(h), D(h/2), D(h/4), ... have errors in even powers of h, and Ridders' table T[k][0] =
 * D(h/2^k),  T[k][m] = T[k][m-1] + (T[k][m-1] - T[k-1][m-1]) / (4^m - 1) removes one power per column. The
 * entry that differs least from those it was made of is taken: steps that are too long show up as differences
 * between columns, steps that are too short as noise between rows. */
#include "core/autograd/gradcheck.h"

#include <math.h>

#include "core/base/mem.h"

#define DEPTH      4
#define FIRST_STEP 0.1 /* times max(1, |x|); ops with kinks need inputs farther from them than that */

typedef struct check {
    hx_ctx ctx; /* records nothing */
    hx_gradcheck_fn fn;
    void *arg;
    hx_tensor *const *in;
    int n_in;
    double *weights; /* [n_out] w, owned */
    double *values;  /* [n_out] f(x), owned */
    int64_t n_out;
} check;

static hx_status check_inputs(hx_tensor *const *in, int n_in) {
    for (int i = 0; i < n_in; i++) {
        if (!hx_tensor_requires_grad(in[i])) continue;
        if (hx_tensor_dtype(in[i]) != HX_F64)
            return HX_FAIL(HX_ERR_DTYPE, "input %d is %s: expected f64", i,
                           hx_dtype_name(hx_tensor_dtype(in[i])));
        if (!hx_tensor_is_contiguous(in[i]))
            return HX_FAIL(HX_ERR_DTYPE, "input %d is strided: expected contiguous", i);
    }
    return HX_OK;
}

/* ---- analytic ---- */

/* Room for the output and a fixed random w, on the host and as a tensor like y. */
static hx_status make_weights(check *c, hx_tensor *y, hx_tensor **seed) {
    hx_rng rng = {c->ctx.seed, hx_rng_stream(HX_RNG_USER, 0)};
    HX_AUTO_TENSOR w = NULL;
    if (hx_tensor_dtype(y) != HX_F64)
        return HX_FAIL(HX_ERR_DTYPE, "the function's result is %s: expected f64",
                       hx_dtype_name(hx_tensor_dtype(y)));
    c->n_out = hx_tensor_count(y);
    HX_TRY(hx_mem_alloc_array(c->n_out, sizeof(double), (void **)&c->weights));
    HX_TRY(hx_mem_alloc_array(c->n_out, sizeof(double), (void **)&c->values));
    for (int64_t i = 0; i < c->n_out; i++) c->weights[i] = hx_rng_normal(rng, (uint64_t)i);
    HX_TRY(hx_tensor_create(c->ctx.device, HX_F64, hx_tensor_shape(y), &w));
    HX_TRY(hx_tensor_write(c->ctx.stream, w, c->weights));
    *seed = hx_tensor_move(&w);
    return HX_OK;
}

static hx_status analytic(check *c) {
    hx_tape *tape = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR seed = NULL;
    hx_status status = HX_OK;
    HX_TRY(hx_tape_create(c->ctx.device, &tape));
    hx_ctx recording = c->ctx;
    recording.tape = tape;
    for (int i = 0; i < c->n_in; i++) hx_tensor_grad_reset(c->in[i]);
    HX_TRY_GOTO(c->fn(&recording, c->arg, c->in, c->n_in, &y), done);
    HX_TRY_GOTO(make_weights(c, y, &seed), done);
    HX_TRY_GOTO(hx_backward(&recording, y, seed), done);
done:
    hx_tape_destroy(&tape);
    return status;
}

/* ---- numeric ---- */

/* phi = sum w f(x) with element j of input i set to `value` */
static hx_status phi(check *c, int i, int64_t j, double value, double *out) {
    HX_AUTO_TENSOR y = NULL;
    double *at = (double *)hx_tensor_data(c->in[i]) + j;
    HX_TRY(hx_stream_copy(c->ctx.stream, at, &value, sizeof value, HX_COPY_TO_DEVICE));
    HX_TRY(hx_stream_sync(c->ctx.stream)); /* `value` lives until here only */
    HX_TRY(c->fn(&c->ctx, c->arg, c->in, c->n_in, &y));
    if (hx_tensor_count(y) != c->n_out || hx_tensor_dtype(y) != HX_F64)
        return HX_FAIL(HX_ERR_SHAPE, "the function returned %lld %s elements, %lld f64 before",
                       (long long)hx_tensor_count(y), hx_dtype_name(hx_tensor_dtype(y)), (long long)c->n_out);
    HX_TRY(hx_tensor_read(c->ctx.stream, y, c->values));
    double sum = 0;
    for (int64_t k = 0; k < c->n_out; k++) sum += c->weights[k] * c->values[k];
    *out = sum;
    return HX_OK;
}

static hx_status ridders(check *c, int i, int64_t j, double x, double *out) {
    double table[DEPTH][DEPTH], least = INFINITY, h = FIRST_STEP * fmax(1, fabs(x));
    for (int k = 0; k < DEPTH; k++, h /= 2) {
        double above, below, power = 1;
        HX_TRY(phi(c, i, j, x + h, &above));
        HX_TRY(phi(c, i, j, x - h, &below));
        table[k][0] = (above - below) / ((x + h) - (x - h)); /* the steps as rounded */
        if (k == 0) *out = table[0][0];
        for (int m = 1; m <= k; m++) {
            power *= 4;
            table[k][m] = table[k][m - 1] + (table[k][m - 1] - table[k - 1][m - 1]) / (power - 1);
            double error = fmax(fabs(table[k][m] - table[k][m - 1]), fabs(table[k][m] - table[k - 1][m - 1]));
            if (error <= least) {
                least = error;
                *out = table[k][m];
            }
        }
    }
    return HX_OK;
}

/* |analytic - numeric|_inf / max(1, |numeric|_inf) of input i; infinite if either is not finite anywhere, so
 * that a NaN cannot pass for agreement. x and gradient: [n] host copies. */
static hx_status compare(check *c, int i, const double *x, const double *gradient, int64_t n, double *out) {
    double difference = 0, scale = 1;
    for (int64_t j = 0; j < n; j++) {
        double numeric = NAN;
        hx_status status = ridders(c, i, j, x[j], &numeric);
        double *at = (double *)hx_tensor_data(c->in[i]) + j;
        HX_TRY(hx_stream_copy(c->ctx.stream, at, &x[j], sizeof x[j],
                              HX_COPY_TO_DEVICE)); /* restored in any case */
        HX_TRY(hx_stream_sync(c->ctx.stream));
        HX_TRY(status);
        if (!isfinite(numeric) || !isfinite(gradient[j])) difference = INFINITY;
        difference = fmax(difference, fabs(gradient[j] - numeric));
        scale = fmax(scale, fabs(numeric));
    }
    *out = isfinite(difference) ? difference / scale : INFINITY;
    return HX_OK;
}

static hx_status check_one(check *c, int i, double *worst) {
    int64_t n = hx_tensor_count(c->in[i]);
    double *x = NULL, *gradient = NULL, error = 0;
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *x, (void **)&x), done);
    HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *gradient, (void **)&gradient),
                done); /* zeros: no gradient arrived */
    HX_TRY_GOTO(hx_tensor_read(c->ctx.stream, c->in[i], x), done);
    if (hx_tensor_grad_is_set(c->in[i]))
        HX_TRY_GOTO(hx_tensor_read(c->ctx.stream, hx_tensor_grad(c->in[i]), gradient), done);
    HX_TRY_GOTO(compare(c, i, x, gradient, n, &error), done);
    *worst = fmax(*worst, error);
done:
    hx_mem_free((void **)&gradient);
    hx_mem_free((void **)&x);
    return status;
}

hx_status hx_gradcheck(const hx_ctx *ctx, hx_gradcheck_fn fn, void *arg, hx_tensor *const *in, int n_in,
                       double *worst) {
    check c = {.ctx = *ctx, .fn = fn, .arg = arg, .in = in, .n_in = n_in};
    hx_status status = HX_OK;
    double most = 0;
    c.ctx.tape = NULL;
    HX_TRY(check_inputs(in, n_in));
    HX_TRY_GOTO(analytic(&c), done);
    for (int i = 0; i < n_in; i++)
        if (hx_tensor_requires_grad(in[i])) HX_TRY_GOTO(check_one(&c, i, &most), done);
    *worst = most;
done:
    hx_mem_free((void **)&c.values);
    hx_mem_free((void **)&c.weights);
    return status;
}
