/* Known numbers: what ref itself is held to, and with it every other backend. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "tests/conformance/battery.h"

static hx_tensor *tensor(conf_rig *rig, hx_dtype dtype, hx_shape shape, const double *values) {
    conf_operand operand = {.dtype = dtype, .shape = shape, .base = shape};
    double copy[64];
    cr_assert_leq(hx_shape_count(&shape), 64);
    memcpy(copy, values, (size_t)hx_shape_count(&shape) * sizeof *values);
    operand.values = copy;
    hx_tensor *x;
    conf_operand_upload(rig, &operand, &x);
    return x;
}

/* Compare with expected values; 1e-6 in f32 is 8 ulp of 1, 1e-9 in f64 is what the figures are given to. */
static void expect(conf_rig *rig, hx_tensor *x, const double *want, const char *what) {
    hx_tensor *as_f64;
    double got[64], tolerance = hx_tensor_dtype(x) == HX_F32 ? 1e-6 : 2e-9;
    int64_t n = hx_tensor_count(x);
    cr_assert_leq(n, 64);
    MUST(hx_cast(&rig->ctx, x, HX_F64, &as_f64));
    MUST(hx_tensor_read(rig->stream, as_f64, got));
    hx_tensor_destroy(&as_f64);
    for (int64_t i = 0; i < n; i++)
        cr_expect(fabs(got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i])) ||
                      (isnan(got[i]) && isnan(want[i])) || got[i] == want[i],
                  "%s on %s, %s: element %lld is %.12g, expected %.12g", what, hx_device_name(rig->device),
                  hx_dtype_name(hx_tensor_dtype(x)), (long long)i, got[i], want[i]);
}

static void unary_is(conf_rig *rig, hx_dtype dtype, hx_op op, int n, const double *x, const double *y) {
    hx_tensor *in = tensor(rig, dtype, HX_SHAPE(n), x), *out;
    MUST(hx_unary(&rig->ctx, op, in, &out));
    expect(rig, out, y, hx_op_info_get(op)->name);
    hx_tensor_destroy(&out);
    hx_tensor_destroy(&in);
}

static void gelu(conf_rig *rig, hx_dtype dtype) {
    const double x[] = {1, 0, -40, 40};
    unary_is(rig, dtype, HX_OP_gelu_tanh, 4, x, (double[]){0.841191991, 0, 0, 40});
    unary_is(rig, dtype, HX_OP_gelu_erf, 4, x, (double[]){0.841344746, 0, 0, 40});
}
Test(figures, gelu_of_1_is_0_841191991_by_tanh_and_0_841344746_by_erf) { conf_on_every_backend(gelu); }

static void saturating(conf_rig *rig, hx_dtype dtype) {
    const double x[] = {-1000, 1000, 0};
    unary_is(rig, dtype, HX_OP_sigmoid, 3, x, (double[]){0, 1, 0.5});
    unary_is(rig, dtype, HX_OP_silu, 3, x, (double[]){0, 1000, 0});
    unary_is(rig, dtype, HX_OP_tanh, 3, x, (double[]){-1, 1, 0});
    unary_is(rig, dtype, HX_OP_exp, 3, x, (double[]){0, INFINITY, 1});
}
Test(figures, activations_saturate_without_overflow) { conf_on_every_backend(saturating); }

/* Gates far from 0, and one of 1. */
static void swiglu(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(2, 8), (double[]){1, 0, 1000, -1000, 3, 5, -2, 7, 2, NAN, 2, 0, 1, 1, NAN, INFINITY});
    hx_tensor *dy = tensor(rig, dtype, HX_SHAPE(2, 4), (double[]){2, 4, 3, 5, 1, 1, 1, 0}), *y, *dx = NULL;
    MUST(hx_swiglu(&rig->ctx, x, &y));
    expect(rig, y, (double[]){2.193175736, 0, -2000, 0, 1.761594156, NAN, NAN, NAN}, "swiglu");
    MUST(hx_op_run(&rig->ctx, HX_OP_swiglu_bwd, (hx_tensor *[]){x, dy}, 2, NULL, 0, &dx));
    expect(rig, dx, (double[]){5.566023071, 10, -6, 0, 1.462117157, 0, 3000, 0,
                               1.090784248, NAN, NAN, NAN, 1.761594156, NAN, 1.761594156, 0}, "swiglu_bwd");
    hx_tensor_destroy(&dx);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&dy);
    hx_tensor_destroy(&x);
}
Test(figures, swiglu_opens_and_shuts_without_overflow_and_lets_nan_through) { conf_on_every_backend(swiglu); }

/* One gate shut and one open for good: only the gradient of up, silu(gate) dy, has no value at the one and no bound at the other. */
static void slopes_far_out(conf_rig *rig, hx_dtype dtype) {
    static const hx_op ops[] = {HX_OP_silu_bwd, HX_OP_gelu_tanh_bwd, HX_OP_gelu_erf_bwd};
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(7), (double[]){INFINITY, -INFINITY, 1e30, -1e30, 1e200, -1e200, NAN});
    hx_tensor *dy = tensor(rig, dtype, HX_SHAPE(7), (double[]){2, 3, 4, 5, 6, 7, 8}), *dx = NULL;
    hx_tensor *gates = tensor(rig, dtype, HX_SHAPE(4), (double[]){INFINITY, -INFINITY, 3, 5});
    hx_tensor *d = tensor(rig, dtype, HX_SHAPE(2), (double[]){2, 4});
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        MUST(hx_op_run(&rig->ctx, ops[i], (hx_tensor *[]){x, dy}, 2, NULL, 0, &dx));
        expect(rig, dx, (double[]){2, 0, 4, 0, 6, 0, NAN}, hx_op_info_get(ops[i])->name);
        hx_tensor_destroy(&dx);
    }
    MUST(hx_op_run(&rig->ctx, HX_OP_swiglu_bwd, (hx_tensor *[]){gates, d}, 2, NULL, 0, &dx));
    expect(rig, dx, (double[]){6, 0, INFINITY, NAN}, "swiglu_bwd");
    hx_tensor_destroy(&dx);
    hx_tensor_destroy(&d);
    hx_tensor_destroy(&gates);
    hx_tensor_destroy(&dy);
    hx_tensor_destroy(&x);
}
Test(figures, slopes_are_0_or_1_at_infinity) { conf_on_every_backend(slopes_far_out); }

static void nan_passes(conf_rig *rig, hx_dtype dtype) {
    static const hx_op ops[] = {HX_OP_exp,       HX_OP_log,     HX_OP_sqrt,    HX_OP_abs,
                                HX_OP_sign,      HX_OP_tanh,    HX_OP_relu,    HX_OP_silu,
                                HX_OP_gelu_tanh, HX_OP_sigmoid, HX_OP_gelu_erf};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        unary_is(rig, dtype, ops[i], 1, (double[]){NAN}, (double[]){NAN});
    hx_tensor *a = tensor(rig, dtype, HX_SHAPE(3), (double[]){NAN, 1, NAN});
    hx_tensor *b = tensor(rig, dtype, HX_SHAPE(3), (double[]){1, NAN, NAN}), *y;
    for (int op = HX_OP_maximum; op <= HX_OP_minimum; op++) {
        MUST(hx_binary(&rig->ctx, (hx_op)op, a, b, &y));
        expect(rig, y, (double[]){NAN, NAN, NAN}, hx_op_info_get((hx_op)op)->name);
        hx_tensor_destroy(&y);
    }
    hx_tensor_destroy(&b);
    hx_tensor_destroy(&a);
}
Test(figures, nan_comes_through_every_activation_and_both_sides_of_max_and_min) {
    conf_on_every_backend(nan_passes);
}

static void softmax_rows(conf_rig *rig, hx_dtype dtype) {
    const int64_t n_rows = 3, n_cols = 5;
    double x[15];
    for (int i = 0; i < 15; i++) x[i] = (hx_rng_uniform((hx_rng){conf_seed(), 0}, (uint64_t)i) - 0.5) * 2e4;
    x[0] = 1e4, x[1] = -1e4, x[5] = x[6] = 1e4;
    hx_tensor *in = tensor(rig, dtype, HX_SHAPE(n_rows, n_cols), x), *y, *sums;
    MUST(hx_softmax(&rig->ctx, in, -1, &y));
    MUST(hx_sum(&rig->ctx, y, (int[]){1}, 1, false, &sums));
    expect(rig, sums, (double[]){1, 1, 1}, "sums of softmax rows");
    hx_tensor_destroy(&sums);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&in);
}
Test(figures, softmax_rows_sum_to_1_at_logits_of_1e4) { conf_on_every_backend(softmax_rows); }

static void cross_entropy(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *z = tensor(rig, dtype, HX_SHAPE(3, 3), (double[]){2, 1, .1, .5, 2.5, .3, 9, 9, 9});
    hx_tensor *ids = tensor(rig, HX_I64, HX_SHAPE(3), (double[]){0, 1, HX_IGNORE_INDEX}), *sum, *count;
    double loss, n;
    MUST(hx_cross_entropy(&rig->ctx, z, ids, HX_IGNORE_INDEX, &sum, &count));
    MUST(hx_tensor_item(rig->stream, sum, &loss));
    MUST(hx_tensor_item(rig->stream, count, &n));
    cr_expect_eq(n, 2, "%g targets counted", n);
    cr_expect_float_eq(loss / n, 0.318539770, dtype == HX_F32 ? 1e-7 : 1e-9, "%s: mean loss %.12g",
                       hx_device_name(rig->device), loss / n);
    hx_tensor_destroy(&count);
    hx_tensor_destroy(&sum);
    hx_tensor_destroy(&ids);
    hx_tensor_destroy(&z);
}
Test(figures, mean_cross_entropy_of_two_rows_is_0_318539770_and_an_ignored_third_changes_nothing) {
    conf_on_every_backend(cross_entropy);
}

static void bad_target(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *z = tensor(rig, dtype, HX_SHAPE(2, 2), (double[]){0, 1, 2, 3});
    hx_tensor *ids = tensor(rig, HX_I32, HX_SHAPE(2), (double[]){1, 2}), *sum, *count;
    double loss;
    MUST(hx_cross_entropy(&rig->ctx, z, ids, HX_IGNORE_INDEX, &sum, &count));
    MUST(hx_tensor_item(rig->stream, sum, &loss));
    cr_expect(isnan(loss), "%s: loss %g", hx_device_name(rig->device), loss);
    hx_tensor_destroy(&count);
    hx_tensor_destroy(&sum);
    hx_tensor_destroy(&ids);
    hx_tensor_destroy(&z);
}
Test(figures, a_target_outside_the_vocabulary_makes_the_loss_nan) { conf_on_every_backend(bad_target); }

static void adamw(conf_rig *rig, hx_dtype dtype) {
    static const double zeros[3];
    hx_tensor *p = tensor(rig, dtype, HX_SHAPE(3), (double[]){1, -2, .5});
    hx_tensor *m = tensor(rig, dtype, HX_SHAPE(3), zeros), *v = tensor(rig, dtype, HX_SHAPE(3), zeros);
    hx_tensor *half = tensor(rig, HX_F64, HX_SCALAR, (double[]){0.5});
    for (int t = 1; t <= 5; t++) { /* gradients twice as large, halved by gscale */
        hx_tensor *g = tensor(rig, dtype, HX_SHAPE(3), (double[]){.2 * t, -.4, t % 2 ? -.6 : .6});
        hx_op_attr attr = {
            .adamw = {.lr = .01, .beta1 = .9, .beta2 = .999, .eps = 1e-8, .weight_decay = .01, .step = t}};
        hx_tensor *out[] = {p, m, v};
        MUST(hx_op_run(&rig->ctx, HX_OP_adamw, (hx_tensor *[]){g, half}, 2, &attr, 8, out));
        hx_tensor_destroy(&g);
    }
    expect(rig, p, (double[]){.951001564, -1.949010201, .514095041}, "parameters after 5 steps");
    hx_tensor_destroy(&half);
    hx_tensor_destroy(&v);
    hx_tensor_destroy(&m);
    hx_tensor_destroy(&p);
}
Test(figures, five_steps_of_adamw_give_the_published_parameters) { conf_on_every_backend(adamw); }

/* One update with the parameter rounded beside it, one without: the same bits, and the rounded one is the cast. */
static void check_rounded(conf_rig *rig, hx_op op, const hx_op_attr *attr, hx_dtype half) {
    enum { N = 1003 };
    const int last = hx_op_info_get(op)->n_out - 1;
    const hx_shape shape = HX_SHAPE(N);
    hx_tensor *g, *out[2][HX_OP_MAX_OUT], *cast;
    float bits[2][N];
    uint16_t rounded[2][N];
    MUST(hx_tensor_create(rig->device, HX_F32, shape, &g));
    MUST(hx_fill_normal(&rig->ctx, g, (hx_rng){1, 0}, 0, 0, 1));
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < last; i++) {
            MUST(hx_tensor_create(rig->device, HX_F32, shape, &out[k][i]));
            MUST(hx_fill_uniform(&rig->ctx, out[k][i], (hx_rng){2, (uint64_t)i}, 0, 1e-6, 2));
        }
        MUST(hx_tensor_create(rig->device, half, shape, &out[k][last]));
        MUST(hx_op_run(&rig->ctx, op, &g, 1, attr, k ? 0 : 1u << last, out[k]));
        MUST(hx_tensor_read(rig->stream, out[k][0], bits[k]));
    }
    MUST(hx_cast(&rig->ctx, out[1][0], half, &cast));
    MUST(hx_tensor_read(rig->stream, out[1][last], rounded[0]));
    MUST(hx_tensor_read(rig->stream, cast, rounded[1]));
    cr_expect_eq(memcmp(bits[0], bits[1], sizeof *bits), 0, "%s on %s: another parameter", hx_op_info_get(op)->name, hx_device_name(rig->device));
    cr_expect_eq(memcmp(rounded[0], rounded[1], sizeof *rounded), 0, "%s on %s: not the cast to %s", hx_op_info_get(op)->name,
                 hx_device_name(rig->device), hx_dtype_name(half));
    hx_tensor_destroy(&cast);
    for (int i = 0; i <= last; i++) hx_tensor_destroy(&out[1][i]);
    for (int i = 0; i <= last; i++) hx_tensor_destroy(&out[0][i]);
    hx_tensor_destroy(&g);
}

static void rounded_parameters(conf_rig *rig, hx_dtype dtype) {
    static const struct {
        hx_op op;
        hx_op_attr attr;
    } rows[] = {{HX_OP_adamw, {.adamw = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .step = 3}}},
                {HX_OP_sgd, {.sgd = {.lr = 0.1, .momentum = 0.9}}},
                {HX_OP_rmsprop, {.rmsprop = {.lr = 0.01, .alpha = 0.9, .eps = 1e-8, .momentum = 0.9}}},
                {HX_OP_lion, {.lion = {.lr = 0.01, .beta1 = 0.9, .beta2 = 0.99, .weight_decay = 0.1}}}};
    if (dtype != HX_F32) return;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int k = 0; k < 2; k++) check_rounded(rig, rows[i].op, &rows[i].attr, k ? HX_F16 : HX_BF16);
}
Test(figures, an_update_rounds_the_parameter_as_a_cast_of_it_does) { conf_on_every_backend(rounded_parameters); }

static void expect_part(conf_rig *rig, hx_op op, hx_tensor *x, double want, const char *what) {
    hx_tensor *part = NULL;
    MUST(hx_op_run(&rig->ctx, op, &x, 1, NULL, 0, &part));
    expect(rig, part, &want, what);
    hx_tensor_destroy(&part);
}

/* A gradient that is not finite must not hide behind those that are. */
static void norm_parts(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, -7, 2.5, 0});
    hx_tensor *bad = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, NAN, 9, -2});
    hx_tensor *endless = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, -INFINITY, 9, -2});
    expect_part(rig, HX_OP_sumabs, x, 10.5, "sumabs");
    expect_part(rig, HX_OP_maxabs, x, 7, "maxabs");
    expect_part(rig, HX_OP_sumabs, bad, NAN, "sumabs of NaN");
    expect_part(rig, HX_OP_maxabs, bad, NAN, "maxabs of NaN");
    expect_part(rig, HX_OP_sumabs, endless, INFINITY, "sumabs of -inf");
    expect_part(rig, HX_OP_maxabs, endless, INFINITY, "maxabs of -inf");
    hx_tensor_destroy(&endless);
    hx_tensor_destroy(&bad);
    hx_tensor_destroy(&x);
}
Test(figures, parts_of_the_gradient_norm_show_what_is_not_finite) { conf_on_every_backend(norm_parts); }

/* ---- norms by block ---- */

enum { BLOCKS_MOST = 3 }; /* blocks of the largest case */

/* Elements of fixed size and changing sign, in the middle of n + 3 from element `shift` on, where no pack begins. */
static hx_tensor *wave(conf_rig *rig, hx_dtype dtype, int64_t n, int64_t shift) {
    double *values = malloc(sizeof *values * (size_t)(n + 3));
    hx_tensor *wide, *narrow, *x;
    for (int64_t i = 0; i < n + 3; i++) values[i] = sin((double)(i - shift) * 0.37) * (1 + (double)((i - shift) % 97));
    MUST(hx_tensor_create(rig->device, HX_F64, HX_SHAPE(n + 3), &wide));
    MUST(hx_tensor_write(rig->stream, wide, values));
    MUST(hx_cast(&rig->ctx, wide, dtype, &narrow));
    MUST(hx_tensor_window(narrow, shift, HX_SHAPE(n), &x));
    hx_tensor_destroy(&narrow);
    hx_tensor_destroy(&wide);
    free(values);
    return x;
}

static int64_t norm_blocks_of(conf_rig *rig, hx_tensor *x, double p, double got[BLOCKS_MOST]) {
    hx_tensor *blocks = NULL;
    MUST(hx_op_run(&rig->ctx, HX_OP_norm_blocks, &x, 1, &(hx_op_attr){.blocks.p = p}, 0, &blocks));
    const int64_t n = hx_tensor_count(blocks);
    cr_assert_leq(n, BLOCKS_MOST);
    MUST(hx_tensor_read(rig->stream, blocks, got));
    hx_tensor_destroy(&blocks);
    return n;
}

static double part_of(double p, double part, double x) { return p == HUGE_VAL ? fmax(part, fabs(x)) : part + (p == 2 ? x * x : fabs(x)); }

static void check_blocks(conf_rig *rig, hx_dtype dtype, double p, int64_t n) {
    double got[BLOCKS_MOST], shifted[BLOCKS_MOST], share[BLOCKS_MOST], *values = malloc(sizeof *values * (size_t)(n + 1));
    hx_tensor *x = wave(rig, dtype, n, 0), *moved = wave(rig, dtype, n, 3), *wide;
    const int64_t n_blocks = norm_blocks_of(rig, x, p, got);
    MUST(hx_cast(&rig->ctx, x, HX_F64, &wide));
    MUST(hx_tensor_read(rig->stream, wide, values));
    cr_expect_eq(n_blocks, (n + HX_NORM_BLOCK - 1) / HX_NORM_BLOCK);
    for (int64_t b = 0; b < n_blocks; b++) {
        double want = 0;
        for (int64_t i = b * HX_NORM_BLOCK; i < n && i < (b + 1) * HX_NORM_BLOCK; i++) want = part_of(p, want, values[i]);
        cr_expect(fabs(got[b] - want) <= 1e-5 * want, "p = %g, block %lld of %lld elements: %.12g, expected %.12g", p, (long long)b, (long long)n,
                  got[b], want);
    }
    cr_expect_eq(norm_blocks_of(rig, moved, p, shifted), n_blocks);
    cr_expect_eq(memcmp(got, shifted, sizeof *got * (size_t)n_blocks), 0, "where a block lies shows on %s", hx_device_name(rig->device));
    if (n > HX_NORM_BLOCK) { /* what a rank has of it, from the second block on */
        hx_tensor *rest;
        MUST(hx_tensor_window(moved, HX_NORM_BLOCK, HX_SHAPE(n - HX_NORM_BLOCK), &rest));
        cr_expect_eq(norm_blocks_of(rig, rest, p, share), n_blocks - 1);
        cr_expect_eq(memcmp(got + 1, share, sizeof *got * (size_t)(n_blocks - 1)), 0, "a share's blocks differ on %s", hx_device_name(rig->device));
        hx_tensor_destroy(&rest);
    }
    hx_tensor_destroy(&wide);
    hx_tensor_destroy(&moved);
    hx_tensor_destroy(&x);
    free(values);
}

static void norm_blocks(conf_rig *rig, hx_dtype dtype) {
    static const int64_t sizes[] = {0, 1, HX_NORM_BLOCK - 1, HX_NORM_BLOCK, HX_NORM_BLOCK + 1, 2 * HX_NORM_BLOCK + 77};
    static const double p[] = {1, 2, HUGE_VAL};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int k = 0; k < 3; k++) check_blocks(rig, dtype, p[k], sizes[i]);
    hx_tensor *bad = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, NAN, 9, -2});
    for (int k = 0; k < 3; k++) {
        double got[BLOCKS_MOST];
        norm_blocks_of(rig, bad, p[k], got);
        cr_expect(isnan(got[0]), "p = %g hides a NaN", p[k]);
    }
    hx_tensor_destroy(&bad);
}
Test(figures, a_block_of_a_norm_depends_on_its_elements_alone) { conf_on_every_backend(norm_blocks); }

static void products(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *a = tensor(rig, dtype, HX_SHAPE(2, 3), (double[]){1, 2, 3, 4, 5, 6});
    hx_tensor *b = tensor(rig, dtype, HX_SHAPE(3, 2), (double[]){7, 8, 9, 10, 11, 12});
    hx_tensor *w = tensor(rig, dtype, HX_SHAPE(2, 3), (double[]){1, 0, -1, 2, 1, 0});
    hx_tensor *bias = tensor(rig, dtype, HX_SHAPE(2), (double[]){0.5, -0.5}), *y;
    MUST(hx_matmul(&rig->ctx, a, b, &y));
    expect(rig, y, (double[]){58, 64, 139, 154}, "matmul");
    hx_tensor_destroy(&y);
    MUST(hx_linear_op(&rig->ctx, a, w, bias, &y));
    expect(rig, y, (double[]){-1.5, 3.5, -1.5, 12.5}, "linear");
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&bias);
    hx_tensor_destroy(&w);
    hx_tensor_destroy(&b);
    hx_tensor_destroy(&a);
}
Test(figures, small_products_are_exact) { conf_on_every_backend(products); }

static void norms(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(1, 4), (double[]){1, 2, 3, 6});
    hx_tensor *w = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, 2, 1, 1});
    hx_tensor *b = tensor(rig, dtype, HX_SHAPE(4), (double[]){0, 0, 1, 0}), *y;
    double s = sqrt(3.5), r = sqrt(12.5); /* mean 3, variance 3.5, mean square 12.5 */
    MUST(hx_layernorm_op(&rig->ctx, x, w, b, 0, &y));
    expect(rig, y, (double[]){-2 / s, -2 / s, 1, 3 / s}, "layernorm");
    hx_tensor_destroy(&y);
    MUST(hx_rmsnorm_op(&rig->ctx, x, w, 0, &y));
    expect(rig, y, (double[]){1 / r, 4 / r, 3 / r, 6 / r}, "rmsnorm");
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&b);
    hx_tensor_destroy(&w);
    hx_tensor_destroy(&x);
}
Test(figures, norms_of_a_row_worked_out_by_hand) { conf_on_every_backend(norms); }

/* s = {10001, 10002, 10003, 10006}, exact in f32; its squares are not, so that sum s^2 - mean^2 would show. */
static void norms_of_a_sum(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(1, 4), (double[]){10000, 10001, 10000, 9999});
    hx_tensor *r = tensor(rig, dtype, HX_SHAPE(1, 4), (double[]){1, 1, 3, 7});
    hx_tensor *w = tensor(rig, dtype, HX_SHAPE(4), (double[]){1, 2, 1, 1});
    hx_tensor *b = tensor(rig, dtype, HX_SHAPE(4), (double[]){0, 0, 1, 0}), *y, *s;
    double deviation = sqrt(3.5), rms = sqrt(10003.0 * 10003.0 + 3.5); /* mean 10003, variance 3.5 */
    MUST(hx_add_layernorm_op(&rig->ctx, x, r, w, b, 0, &y, &s));
    expect(rig, y, (double[]){-2 / deviation, -2 / deviation, 1, 3 / deviation}, "add_layernorm");
    expect(rig, s, (double[]){10001, 10002, 10003, 10006}, "add_layernorm: s");
    hx_tensor_destroy(&s);
    hx_tensor_destroy(&y);
    MUST(hx_add_rmsnorm_op(&rig->ctx, x, r, w, 0, &y, &s));
    expect(rig, y, (double[]){10001 / rms, 20004 / rms, 10003 / rms, 10006 / rms}, "add_rmsnorm");
    expect(rig, s, (double[]){10001, 10002, 10003, 10006}, "add_rmsnorm: s");
    hx_tensor_destroy(&s);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&b);
    hx_tensor_destroy(&w);
    hx_tensor_destroy(&r);
    hx_tensor_destroy(&x);
}
Test(figures, norms_of_a_sum_with_a_big_mean_worked_out_by_hand) { conf_on_every_backend(norms_of_a_sum); }

/* Keys at right angles to the queries weigh all values alike: the mean of those that the mask leaves. */
static void attention(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *q = tensor(rig, dtype, HX_SHAPE(1, 2, 1, 2), (double[]){1, 0, 2, 0});
    hx_tensor *k = tensor(rig, dtype, HX_SHAPE(1, 3, 1, 2), (double[]){0, 1, 0, 2, 0, 3});
    hx_tensor *v = tensor(rig, dtype, HX_SHAPE(1, 3, 1, 2), (double[]){1, 10, 3, 20, 8, 60}), *y;
    MUST(hx_attention_op(&rig->ctx, q, k, v, NULL, true, 0, &y));
    expect(rig, y, (double[]){2, 15, 4, 30}, "causal attention");
    hx_tensor_destroy(&y);
    MUST(hx_attention_op(&rig->ctx, q, k, v, NULL, false, 0, &y));
    expect(rig, y, (double[]){4, 30, 4, 30}, "full attention");
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&v);
    hx_tensor_destroy(&k);
    hx_tensor_destroy(&q);
}
Test(figures, attention_with_equal_scores_is_the_mean_of_the_visible_values) { conf_on_every_backend(attention); }

/* Figures of PyTorch 1.13: softmax of masked scores, and its gradients for a given gradient of the output. */
static void masked_attention(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *x[3], *y;
    hx_tensor *mask = tensor(rig, HX_BOOL, HX_SHAPE(2, 3), (double[]){1, 0, 1, 1, 1, 0});
    hx_tensor *seed = tensor(rig, dtype, HX_SHAPE(1, 2, 1, 2), (double[]){1, -.5, .25, 2});
    x[0] = tensor(rig, dtype, HX_SHAPE(1, 2, 1, 2), (double[]){1, .5, -1, 2});
    x[1] = tensor(rig, dtype, HX_SHAPE(1, 3, 1, 2), (double[]){.5, 1, 2, -1, 1, 1.5});
    x[2] = tensor(rig, dtype, HX_SHAPE(1, 3, 1, 2), (double[]){1, -1, .5, 2, -2, .25});
    hx_ctx ctx = rig->ctx;
    MUST(hx_tape_create(rig->device, &ctx.tape));
    for (int i = 0; i < 3; i++) hx_tensor_set_requires_grad(x[i], true);
    MUST(hx_attention_op(&ctx, x[0], x[1], x[2], mask, false, 0, &y));
    expect(rig, y, (double[]){-.888680287909, -.213049880038, .989973181419, -.939839088517}, "masked attention");
    MUST(hx_backward(&ctx, y, seed));
    static const double want[3][6] = {{-.29889453423, -.29889453423, .122455864968, -.163274486624},
                                      {.679426311772, .135620047606, -.0816372433119, .163274486624, -.59778906846, -.29889453423},
                                      {.61542649474, 1.77467277366, .00501340929027, .0401072743222, .62956009597, -.314780047985}};
    for (int i = 0; i < 3; i++) expect(rig, hx_tensor_grad(x[i]), want[i], "gradient of masked attention");
    hx_tape_destroy(&ctx.tape);
    hx_tensor_destroy(&y);
    for (int i = 0; i < 3; i++) hx_tensor_destroy(&x[i]);
    hx_tensor_destroy(&seed);
    hx_tensor_destroy(&mask);
}
Test(figures, masked_attention_and_its_gradients_are_pytorchs) { conf_on_every_backend(masked_attention); }

/* Half-split pairs at positions 3 and 4, by PyTorch 1.13 from the definition; turned back they are what they were. */
static void rope(conf_rig *rig, hx_dtype dtype) {
    const double values[] = {1, 2, 3, 4, .5, -1, 2, 1};
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(1, 2, 1, 4), values), *y, *back = NULL;
    MUST(hx_rope(&rig->ctx, x, 10000, 3, &y));
    expect(rig, y, (double[]){-1.41335252078, 1.87911806669, -2.82885748174, 4.0581911354, 1.18678318018, -1.03918944085, -1.68568848938,
                             .959210772474}, "rope");
    MUST(hx_op_run(&rig->ctx, HX_OP_rope, &y, 1, &(hx_op_attr){.rope = {10000, 3, true}}, 0, &back));
    expect(rig, back, values, "rope turned back");
    hx_tensor_destroy(&back);
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&x);
}
Test(figures, rotary_positions_turn_halves_of_a_head_and_back) { conf_on_every_backend(rope); }

static void lookup(conf_rig *rig, hx_dtype dtype) {
    hx_tensor *w = tensor(rig, dtype, HX_SHAPE(3, 2), (double[]){1, 2, 3, 4, 5, 6});
    hx_tensor *ids = tensor(rig, HX_I32, HX_SHAPE(4), (double[]){2, 0, 3, -1}), *y;
    MUST(hx_embedding_op(&rig->ctx, ids, w, &y));
    expect(rig, y, (double[]){5, 6, 1, 2, NAN, NAN, NAN, NAN}, "embedding");
    hx_tensor_destroy(&y);
    hx_tensor_destroy(&ids);
    hx_tensor_destroy(&w);
}
Test(figures, an_id_outside_the_table_gives_a_row_of_nan) { conf_on_every_backend(lookup); }

/* Seven samples of three elements in one piece, and the last four of them as another rank would hold them. */
static void dropout(conf_rig *rig, hx_dtype dtype) {
    double ones[21], whole[21], part[21];
    for (int i = 0; i < 21; i++) ones[i] = 1;
    hx_tensor *x = tensor(rig, dtype, HX_SHAPE(7, 3), ones), *x4 = tensor(rig, dtype, HX_SHAPE(4, 3), ones),
              *y, *wide;
    hx_ctx ctx = rig->ctx;
    for (int run = 0; run < 2; run++) {
        ctx.sample_base = run == 0 ? 0 : 3;
        MUST(hx_dropout_op(&ctx, run == 0 ? x : x4, 0.5, 11, &y));
        MUST(hx_cast(&rig->ctx, y, HX_F64, &wide));
        MUST(hx_tensor_read(rig->stream, wide, run == 0 ? whole : part));
        hx_tensor_destroy(&wide);
        hx_tensor_destroy(&y);
    }
    int n_kept = 0;
    for (int i = 0; i < 21; i++) {
        cr_expect(whole[i] == 0 || whole[i] == 2);
        n_kept += whole[i] != 0;
    }
    cr_expect(n_kept > 0 && n_kept < 21);
    cr_expect_eq(memcmp(whole + 9, part, 12 * sizeof *part), 0, "%s: the mask depends on the split",
                 hx_device_name(rig->device));
    hx_tensor_destroy(&x4);
    hx_tensor_destroy(&x);
}
Test(figures, a_dropout_mask_does_not_depend_on_how_the_batch_is_divided) { conf_on_every_backend(dropout); }
