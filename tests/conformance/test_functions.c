/* Known numbers of elementwise functions, comparisons, reductions and movement: special values, ties, NaN, what typed
 * functions add to ops, and gradients where a formula leaves them open. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "tests/conformance/battery.h"

static hx_tensor *tensor(conf_rig *rig, hx_dtype dtype, hx_shape shape, const double *values) {
    double copy[64];
    conf_operand operand = {.dtype = dtype, .shape = shape, .base = shape, .values = copy};
    cr_assert_leq(hx_shape_count(&shape), 64);
    memcpy(copy, values, (size_t)hx_shape_count(&shape) * sizeof *values);
    hx_tensor *x;
    conf_operand_upload(rig, &operand, &x);
    return x;
}

#define VECTOR(rig, dtype, ...)                                                                              \
    tensor(rig, dtype, HX_SHAPE((int64_t)(sizeof((double[]){__VA_ARGS__}) / sizeof(double))), (double[]){__VA_ARGS__})

/* 1e-6 in f32 is 8 ulp of 1; 2e-9 is what the figures are given to. Consumes x. */
static void expect(conf_rig *rig, hx_tensor *x, const char *what, int n, const double *want) {
    hx_tensor *as_f64;
    double got[64], tolerance = hx_tensor_dtype(x) == HX_F32 ? 1e-6 : 2e-9;
    cr_assert(hx_tensor_count(x) == n && n <= 64, "%s: %lld elements, expected %d", what, (long long)hx_tensor_count(x), n);
    MUST(hx_cast(&rig->ctx, x, HX_F64, &as_f64));
    MUST(hx_tensor_read(rig->stream, as_f64, got));
    for (int i = 0; i < n; i++)
        cr_expect(fabs(got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i])) || (isnan(got[i]) && isnan(want[i])) ||
                      got[i] == want[i],
                  "%s on %s, %s: element %d is %.12g, expected %.12g", what, hx_device_name(rig->device),
                  hx_dtype_name(hx_tensor_dtype(x)), i, got[i], want[i]);
    hx_tensor_destroy(&as_f64);
    hx_tensor_destroy(&x);
}

#define EXPECT(rig, x, what, ...)                                                                            \
    expect(rig, x, what, (int)(sizeof((double[]){__VA_ARGS__}) / sizeof(double)), (double[]){__VA_ARGS__})

/* ---- special values ---- */

static const struct {
    hx_op op;
    double x[5], y[5];
} special[] = {
    {HX_OP_expm1, {0, 1e-10, 1, -1000, INFINITY}, {0, 1e-10, 1.71828182845905, -1, INFINITY}},
    {HX_OP_log1p, {0, 1e-10, -1, -2, INFINITY}, {0, 1e-10, -INFINITY, NAN, INFINITY}},
    {HX_OP_square, {0, -3, INFINITY, NAN, 1e200}, {0, 9, INFINITY, NAN, INFINITY}},
    {HX_OP_reciprocal, {0, -0.0, 4, INFINITY, NAN}, {INFINITY, -INFINITY, 0.25, 0, NAN}},
    {HX_OP_floor, {1.5, -1.5, -0.0, INFINITY, NAN}, {1, -2, 0, INFINITY, NAN}},
    {HX_OP_ceil, {1.5, -1.5, 2, -INFINITY, NAN}, {2, -1, 2, -INFINITY, NAN}},
    {HX_OP_round, {0.5, 1.5, 2.5, -2.5, -0.5}, {0, 2, 2, -2, 0}},
    {HX_OP_sin, {0, 1, 100, INFINITY, NAN}, {0, 0.841470984807897, -0.506365641109759, NAN, NAN}},
    {HX_OP_cos, {0, 1, 100, INFINITY, NAN}, {1, 0.54030230586814, 0.862318872287684, NAN, NAN}},
    {HX_OP_tan, {0, 1, -1, INFINITY, NAN}, {0, 1.5574077246549, -1.5574077246549, NAN, NAN}},
    {HX_OP_asin, {0, 1, 0.5, 2, NAN}, {0, 1.5707963267949, 0.523598775598299, NAN, NAN}},
    {HX_OP_acos, {1, -1, 0.5, 2, NAN}, {0, 3.14159265358979, 1.0471975511966, NAN, NAN}},
    {HX_OP_atan, {0, 1, INFINITY, -INFINITY, NAN}, {0, 0.785398163397448, 1.5707963267949, -1.5707963267949, NAN}},
    {HX_OP_sinh, {0, 1, -1, INFINITY, NAN}, {0, 1.1752011936438, -1.1752011936438, INFINITY, NAN}},
    {HX_OP_cosh, {0, 1, -1, -INFINITY, NAN}, {1, 1.54308063481524, 1.54308063481524, INFINITY, NAN}},
    {HX_OP_asinh, {0, 1, -1, INFINITY, NAN}, {0, 0.881373587019543, -0.881373587019543, INFINITY, NAN}},
    {HX_OP_acosh, {1, 2, 0.5, INFINITY, NAN}, {0, 1.31695789692482, NAN, INFINITY, NAN}},
    {HX_OP_atanh, {0, 0.5, 1, 2, NAN}, {0, 0.549306144334055, INFINITY, NAN, NAN}},
    {HX_OP_erf, {0, 1, -INFINITY, INFINITY, NAN}, {0, 0.842700792949715, -1, 1, NAN}},
    {HX_OP_softplus, {0, 1000, -1000, INFINITY, NAN}, {0.693147180559945, 1000, 0, INFINITY, NAN}},
};

static void special_values(conf_rig *rig, hx_dtype dtype) {
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        hx_tensor *x = tensor(rig, dtype, HX_SHAPE(5), special[i].x), *y;
        MUST(hx_unary(&rig->ctx, special[i].op, x, &y));
        expect(rig, y, hx_op_info_get(special[i].op)->name, 5, special[i].y);
        hx_tensor_destroy(&x);
    }
}
Test(functions, have_their_special_values) { conf_on_every_backend(special_values); }

static void bounds(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = VECTOR(rig, dtype, -3, -1, 0.25, 2, NAN, INFINITY), *y;
    MUST(hx_clamp(&rig->ctx, x, -1, 1, &y));
    EXPECT(rig, y, "clamp", -1, -1, 0.25, 1, NAN, 1);
    MUST(hx_clamp(&rig->ctx, x, -INFINITY, 1, &y));
    EXPECT(rig, y, "clamp from above", -3, -1, 0.25, 1, NAN, 1);
    MUST(hx_leaky_relu(&rig->ctx, x, 0.5, &y));
    EXPECT(rig, y, "leaky_relu", -1.5, -0.5, 0.25, 2, NAN, INFINITY);
    cr_expect_eq(hx_unary(&rig->ctx, HX_OP_clamp, x, &y), HX_ERR_ARG);
    hx_tensor_destroy(&x);
}
Test(functions, clamp_and_leaky_relu_let_nan_through) { conf_on_every_backend(bounds); }

/* Relative error of f32 results against libm's f64, in ulp: a sweep over all binades of both signs. */
static double worst_ulp(conf_rig *rig, hx_op op, double (*exact)(double)) {
    enum { N = 200000 };
    static float x[N], y[N];
    hx_tensor *in, *out;
    double worst = 0;
    for (int i = 0; i < N; i++) x[i] = (float)ldexp(i % 2 ? 1 + i * 5e-6 : -1 - i * 5e-6, i * 7 % 137 - 130);
    MUST(hx_tensor_create(rig->device, HX_F32, HX_SHAPE(N), &in));
    MUST(hx_tensor_write(rig->stream, in, x));
    MUST(hx_unary(&rig->ctx, op, in, &out));
    MUST(hx_tensor_read(rig->stream, out, y));
    for (int i = 0; i < N; i++) {
        double want = exact((double)x[i]);
        if (!isfinite(want) || fabs(want) < (double)FLT_MIN || fabs(want) > (double)FLT_MAX) continue;
        double ulp = ldexp((double)FLT_EPSILON, ilogb(want));
        worst = fmax(worst, fabs((double)y[i] - want) / ulp);
    }
    hx_tensor_destroy(&out);
    hx_tensor_destroy(&in);
    return worst;
}

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

Test(functions, of_f32_are_within_3_ulp_over_the_whole_range) {
    for (int b = 0; conf_backend(b) != NULL; b++) {
        conf_rig rig;
        conf_rig_open(conf_backend(b), 2, &rig);
        double e = worst_ulp(&rig, HX_OP_expm1, expm1), l = worst_ulp(&rig, HX_OP_log1p, log1p),
               s = worst_ulp(&rig, HX_OP_softplus, softplus);
        printf("%s: expm1 %.2f ulp, log1p %.2f ulp, softplus %.2f ulp\n", conf_backend(b), e, l, s);
        cr_expect(e <= 3 && l <= 3 && s <= 3);
        conf_rig_close(&rig);
    }
}

/* ---- comparisons and choice ---- */

static void comparisons(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *a = VECTOR(rig, dtype, 1, 2, NAN, -0.0), *b = VECTOR(rig, dtype, 2, 2, NAN, 0), *y;
    MUST(hx_compare(&rig->ctx, HX_OP_equal, a, b, &y));
    cr_expect_eq(hx_tensor_dtype(y), HX_BOOL);
    EXPECT(rig, y, "equal", 0, 1, 0, 1);
    MUST(hx_compare(&rig->ctx, HX_OP_not_equal, a, b, &y));
    EXPECT(rig, y, "not_equal", 1, 0, 1, 0);
    MUST(hx_compare(&rig->ctx, HX_OP_less, a, b, &y));
    EXPECT(rig, y, "less", 1, 0, 0, 0);
    MUST(hx_compare(&rig->ctx, HX_OP_less_equal, a, b, &y));
    EXPECT(rig, y, "less_equal", 1, 1, 0, 1);
    cr_expect_eq(hx_compare(&rig->ctx, HX_OP_add, a, b, &y), HX_ERR_ARG);
    hx_tensor_destroy(&b);
    hx_tensor_destroy(&a);
}
Test(functions, nan_equals_nothing) { conf_on_every_backend(comparisons); }

/* ---- gradients where a formula leaves them open ---- */

typedef hx_status (*function)(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out);

/* Gradients of sum(f(in)) with respect to all inputs of n elements each. */
static void expect_gradients(conf_rig *rig, function f, hx_tensor **in, int n_in, const char *what, int n, const double *want) {
    hx_ctx ctx = rig->ctx;
    hx_tensor *y;
    MUST(hx_tape_create(rig->device, &ctx.tape));
    for (int k = 0; k < n_in; k++) hx_tensor_set_requires_grad(in[k], true);
    MUST(f(&ctx, in, &y));
    MUST(hx_backward(&ctx, y, NULL));
    for (int k = 0; k < n_in; k++) expect(rig, hx_tensor_retain(hx_tensor_grad(in[k])), what, n, want + k * n);
    hx_tape_destroy(&ctx.tape);
    hx_tensor_destroy(&y);
    for (int k = 0; k < n_in; k++) hx_tensor_destroy(&in[k]);
}

static hx_status pow_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_pow, in[0], in[1], out);
}
static hx_status max_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_max(ctx, in[0], NULL, 0, false, out); }
static hx_status larger_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_maximum, in[0], in[1], out);
}
static hx_status smaller_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_minimum, in[0], in[1], out);
}
static hx_status sign_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_unary(ctx, HX_OP_sign, in[0], out); }
static hx_status std_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_std(ctx, in[0], NULL, 0, 1, false, out); }
static hx_status asinh_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_unary(ctx, HX_OP_asinh, in[0], out); }
static hx_status norm_1(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_norm(ctx, in[0], 1, NULL, 0, false, out); }
static hx_status norm_2(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_norm(ctx, in[0], 2, NULL, 0, false, out); }
static hx_status norm_inf(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_norm(ctx, in[0], HUGE_VAL, NULL, 0, false, out);
}
static hx_status clamp_of(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) { return hx_clamp(ctx, in[0], -1, 1, out); }

/* log(x) where x > 0, else 0: the logarithm of what is not taken is NaN */
static hx_status guarded_log(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR is_positive = NULL;
    HX_AUTO_TENSOR log = NULL;
    HX_TRY(hx_tensor_create(ctx->device, hx_tensor_dtype(in[0]), HX_SCALAR, &zero));
    HX_TRY(hx_tensor_fill(ctx->stream, zero, 0));
    HX_TRY(hx_compare(ctx, HX_OP_less, zero, in[0], &is_positive));
    HX_TRY(hx_unary(ctx, HX_OP_log, in[0], &log));
    return hx_where(ctx, is_positive, log, zero, out);
}

#define GRADIENTS(f, what, n_in, n, ...) expect_gradients(rig, f, in, n_in, what, n, (double[]){__VA_ARGS__})

static void open_gradients(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *in[2];
    in[0] = VECTOR(rig, dtype, 0, 0, 2, 0, 3), in[1] = VECTOR(rig, dtype, 0, 2, 3, 1, 0);
    GRADIENTS(pow_of, "pow", 2, 5, 0, 0, 12, 1, 0, 0, 0, 8 * 0.693147180559945, 0, 1.09861228866811);
    in[0] = VECTOR(rig, dtype, 3, 1, 3, -2);
    GRADIENTS(max_of, "max with a tie", 1, 4, 0.5, 0, 0.5, 0);
    in[0] = VECTOR(rig, dtype, 0, -2, 5);
    GRADIENTS(norm_1, "norm 1", 1, 3, 0, -1, 1);
    in[0] = VECTOR(rig, dtype, 3, 0, -4);
    GRADIENTS(norm_2, "norm 2", 1, 3, 0.6, 0, -0.8);
    in[0] = VECTOR(rig, dtype, 0, 0, 0);
    GRADIENTS(norm_2, "norm 2 at 0", 1, 3, 0, 0, 0);
    in[0] = VECTOR(rig, dtype, 4, 1, -4);
    GRADIENTS(norm_inf, "norm inf with a tie", 1, 3, 0.5, 0, -0.5);
    in[0] = VECTOR(rig, dtype, -2, -1, 0, 1, 2);
    GRADIENTS(clamp_of, "clamp", 1, 5, 0, 1, 1, 1, 0);
    in[0] = VECTOR(rig, dtype, 2, -1, 4);
    GRADIENTS(guarded_log, "log where positive", 1, 3, 0.5, 0, 0.25);
}
Test(functions, have_the_gradients_that_pytorch_gives_at_ties_zeros_and_bounds) { conf_on_every_backend(open_gradients); }

static void gradients_beside_infinity(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *in[2];
    in[0] = VECTOR(rig, dtype, INFINITY, -INFINITY, 1, NAN, -INFINITY), in[1] = VECTOR(rig, dtype, INFINITY, -INFINITY, INFINITY, 2, 3);
    GRADIENTS(larger_of, "maximum", 2, 5, 0.5, 0.5, 0, 1, 0, 0.5, 0.5, 1, 1, 1);
    in[0] = VECTOR(rig, dtype, INFINITY, -INFINITY, 1, NAN, -INFINITY), in[1] = VECTOR(rig, dtype, INFINITY, -INFINITY, INFINITY, 2, 3);
    GRADIENTS(smaller_of, "minimum", 2, 5, 0.5, 0.5, 1, 1, 1, 0.5, 0.5, 0, 1, 0);
    in[0] = VECTOR(rig, dtype, -2, 0, 5);
    GRADIENTS(sign_of, "sign", 1, 3, 0, 0, 0);
    in[0] = VECTOR(rig, dtype, 4, 4, 4);
    GRADIENTS(std_of, "std of equal numbers", 1, 3, 0, 0, 0);
}
Test(functions, gradients_beside_infinities_and_flat_places_are_finite) { conf_on_every_backend(gradients_beside_infinity); }

/* What comes between is not rounded to a half type: sums, squares and variances would overflow f16 at 65504. The largest
 * relative error is that of the last rounding, 2^-11. */
static void halves(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x, *y, *in[2];
    double item;
    if (dtype != HX_F32) return;
    MUST(hx_tensor_create(rig->device, HX_F16, HX_SHAPE(2000), &x));
    MUST(hx_tensor_fill(rig->stream, x, 100));
    MUST(hx_mean(&rig->ctx, x, NULL, 0, false, &y));
    MUST(hx_tensor_item(rig->stream, y, &item));
    cr_expect(hx_tensor_dtype(y) == HX_F16 && item == 100, "mean %g", item);
    hx_tensor_destroy(&x);
    hx_tensor_destroy(&y);
    for (int k = 0; k < 2; k++) {
        double size = k == 0 ? 1000 : 1e-4;
        x = VECTOR(rig, HX_F16, -size, size, -size, size);
        MUST(hx_std(&rig->ctx, x, NULL, 0, 0, false, &y));
        MUST(hx_tensor_item(rig->stream, y, &item));
        cr_expect(fabs(item - size) <= size * 0x1p-9, "std %g, expected %g", item, size);
        hx_tensor_destroy(&x);
        hx_tensor_destroy(&y);
    }
    /* 1/sqrt(x^2 + 1), and 2050 (-1)^2049: f16 has no odd numbers there; each rounded to f16 */
    in[0] = VECTOR(rig, HX_F16, 300, 1024);
    GRADIENTS(asinh_of, "asinh", 1, 2, 0.0033340454, 0.00097656250);
    in[0] = VECTOR(rig, HX_F16, -1), in[1] = VECTOR(rig, HX_F16, 2050);
    hx_tensor_set_requires_grad(in[1], false);
    GRADIENTS(pow_of, "pow", 1, 1, -2050);
    hx_tensor_destroy(&in[1]);
}
Test(functions, of_half_types_are_rounded_once) { conf_on_every_backend(halves); }

/* ---- reductions ---- */

static void reductions(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(2, 4), (double[]){1, 4, 4, -7, 2, NAN, 5, NAN}), *y, *at;
    MUST(hx_max(&rig->ctx, x, (int[]){1}, 1, false, &y));
    EXPECT(rig, y, "max", 4, NAN);
    MUST(hx_min(&rig->ctx, x, (int[]){0}, 1, true, &y));
    EXPECT(rig, y, "min", 1, NAN, 4, NAN);
    MUST(hx_argmax(&rig->ctx, x, -1, false, &y));
    EXPECT(rig, y, "argmax", 1, 1);
    MUST(hx_argmin(&rig->ctx, x, 1, true, &y));
    EXPECT(rig, y, "argmin", 3, 1);
    MUST(hx_topk(&rig->ctx, x, 3, false, &y, &at));
    EXPECT(rig, y, "topk", 4, 4, 1, NAN, NAN, 5);
    EXPECT(rig, at, "indices of topk", 1, 2, 0, 1, 3, 2);
    MUST(hx_topk(&rig->ctx, x, 2, true, &y, &at));
    EXPECT(rig, y, "smallest of topk", -7, 1, NAN, NAN);
    EXPECT(rig, at, "indices of the smallest", 3, 0, 1, 3);
    hx_tensor_destroy(&x);
    x = VECTOR(rig, dtype, 1, 2, 3, 4);
    MUST(hx_var(&rig->ctx, x, NULL, 0, 1, false, &y));
    EXPECT(rig, y, "var", 5.0 / 3);
    MUST(hx_std(&rig->ctx, x, NULL, 0, 0, false, &y));
    EXPECT(rig, y, "std", 1.11803398874989);
    MUST(hx_norm(&rig->ctx, x, 3, NULL, 0, false, &y));
    EXPECT(rig, y, "norm 3", 4.64158883361278);
    MUST(hx_log_softmax(&rig->ctx, x, 0, &y));
    EXPECT(rig, y, "log_softmax", -3.44018969856119, -2.44018969856119, -1.44018969856119, -0.44018969856119);
    hx_tensor_destroy(&x);
    x = VECTOR(rig, dtype, 3e30, 4e30); /* squares beyond f32 */
    MUST(hx_norm(&rig->ctx, x, 2, NULL, 0, false, &y));
    EXPECT(rig, y, "norm 2 of large numbers", 5e30);
    hx_tensor_destroy(&x);
}
Test(functions, reductions_have_known_values_and_nan_wins) { conf_on_every_backend(reductions); }

/* ---- movement ---- */

static void padding(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = VECTOR(rig, dtype, 1, 2, 3), *y;
    const int64_t before[] = {2}, after[] = {1};
    MUST(hx_pad(&rig->ctx, x, before, after, HX_PAD_ZERO, -1, &y));
    EXPECT(rig, y, "pad zero", -1, -1, 1, 2, 3, -1);
    MUST(hx_pad(&rig->ctx, x, before, after, HX_PAD_REFLECT, 0, &y));
    EXPECT(rig, y, "pad reflect", 3, 2, 1, 2, 3, 2);
    MUST(hx_pad(&rig->ctx, x, before, after, HX_PAD_REPLICATE, 0, &y));
    EXPECT(rig, y, "pad replicate", 1, 1, 1, 2, 3, 3);
    MUST(hx_pad(&rig->ctx, x, before, after, HX_PAD_CIRCULAR, 0, &y));
    EXPECT(rig, y, "pad circular", 2, 3, 1, 2, 3, 1);
    hx_tensor_destroy(&x);
}
Test(functions, padding_has_four_modes) { conf_on_every_backend(padding); }

static void joining(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *part[19], *y, *z = NULL;
    double want[38];
    for (int k = 0; k < 19; k++) {
        part[k] = VECTOR(rig, dtype, k, -k);
        want[2 * k] = k;
        want[2 * k + 1] = -k;
    }
    MUST(hx_cat(&rig->ctx, part, 19, 0, &y));
    expect(rig, y, "cat of 19", 38, want);
    MUST(hx_stack(&rig->ctx, part, 3, 1, &y));
    cr_expect_eq(hx_tensor_dim(y, 1), 3);
    EXPECT(rig, y, "stack", 0, 1, 2, 0, -1, -2);
    cr_expect_eq(hx_cat(&rig->ctx, part, 0, 0, &z), HX_ERR_ARG);
    cr_expect_eq(hx_stack(&rig->ctx, part, 2, 2, &z), HX_ERR_SHAPE);
    cr_expect_null(z);
    for (int k = 0; k < 19; k++) hx_tensor_destroy(&part[k]);
}
Test(functions, cat_takes_any_number_and_stack_adds_a_dim) { conf_on_every_backend(joining); }

static void picking(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = VECTOR(rig, dtype, 10, 20, 30), *index = VECTOR(rig, HX_I64, 2, 0, 3, -1, 2), *y;
    hx_tensor *whole = VECTOR(rig, HX_I32, 7, 8, 9);
    MUST(hx_gather(&rig->ctx, x, 0, index, &y));
    EXPECT(rig, y, "gather", 30, 10, NAN, NAN, 30);
    MUST(hx_gather(&rig->ctx, whole, -1, index, &y));
    EXPECT(rig, y, "gather of integers", 9, 7, 0, 0, 9);
    hx_tensor_destroy(&whole);
    hx_tensor_destroy(&index);
    hx_tensor_destroy(&x);
}
Test(functions, gather_marks_an_index_outside) { conf_on_every_backend(picking); }

static void vectors(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *v = VECTOR(rig, dtype, 1, 2), *m = tensor(rig, dtype, HX_SHAPE(2, 3), (double[]){1, 2, 3, 4, 5, 6}), *y, *t;
    MUST(hx_matmul(&rig->ctx, v, m, &y));
    cr_expect_eq(hx_tensor_ndim(y), 1);
    EXPECT(rig, y, "row x matrix", 9, 12, 15);
    MUST(hx_transpose(&rig->ctx, m, 0, 1, &t));
    MUST(hx_matmul(&rig->ctx, t, v, &y));
    cr_expect_eq(hx_tensor_ndim(y), 1);
    EXPECT(rig, y, "matrix x column", 9, 12, 15);
    MUST(hx_matmul(&rig->ctx, v, v, &y));
    cr_expect_eq(hx_tensor_ndim(y), 0);
    EXPECT(rig, y, "row x column", 5);
    cr_expect_eq(hx_matmul(&rig->ctx, m, v, &y), HX_ERR_SHAPE);
    hx_tensor_destroy(&t);
    hx_tensor_destroy(&m);
    hx_tensor_destroy(&v);
}
Test(functions, matmul_takes_vectors_on_either_side) { conf_on_every_backend(vectors); }

static void coins(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x, *sum;
    double mean;
    MUST(hx_tensor_create(rig->device, dtype, HX_SHAPE(10000), &x));
    for (int k = 0; k <= 4; k++) {
        MUST(hx_fill_bernoulli(&rig->ctx, x, (hx_rng){42, 3}, 17, k / 4.0));
        MUST(hx_mean(&rig->ctx, x, NULL, 0, false, &sum));
        MUST(hx_tensor_item(rig->stream, sum, &mean));
        cr_expect(fabs(mean - k / 4.0) <= (k % 4 ? 0.02 : 0), "p = %g: mean %g", k / 4.0, mean); /* 4 standard deviations */
        hx_tensor_destroy(&sum);
    }
    hx_tensor_destroy(&x);
}
Test(functions, bernoulli_draws_1_with_its_probability) { conf_on_every_backend(coins); }
