/* Outputs and gradients of ops against PyTorch's, in f64 and f32, on every computing backend. */
#include <math.h>
#include <stdio.h>

#include "tests/golden/golden.h"

#define MAX_IN 4

typedef hx_status (*op_fn)(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out);

/* ---- one line each: `x`, `y`, `z` are the inputs, *out the result ---- */

#define CASE(name, call)                                                                                     \
    static hx_status name##_case(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {                       \
        hx_tensor *x = in[0], *y = in[1], *z = in[2];                                                        \
        (void)x, (void)y, (void)z;                                                                           \
        return call;                                                                                         \
    }
#define UNARY(name)  CASE(name, hx_unary(ctx, HX_OP_##name, x, out))
#define BINARY(name) CASE(name, hx_binary(ctx, HX_OP_##name, x, y, out))

#define UNARY_LIST(X)                                                                                        \
    X(exp) X(expm1) X(abs) X(sign) X(square) X(floor) X(ceil) X(round) X(sin) X(cos) X(tan) X(atan) X(sinh)  \
    X(cosh) X(tanh) X(asinh) X(erf) X(sigmoid) X(relu) X(log) X(log1p) X(sqrt) X(reciprocal) X(asin) X(acos) \
    X(atanh) X(acosh) X(softplus) X(silu) X(gelu_erf) X(gelu_tanh)
#define BINARY_LIST(X) X(add) X(sub) X(mul) X(div) X(maximum) X(minimum) X(pow)
UNARY_LIST(UNARY)
BINARY_LIST(BINARY)

CASE(clamp, hx_clamp(ctx, x, -0.5, 0.7, out))
CASE(leaky_relu, hx_leaky_relu(ctx, x, 0.1, out))
CASE(swiglu, hx_swiglu(ctx, x, out))
CASE(affine, hx_affine(ctx, x, 1.5, -0.25, out))
CASE(sum, hx_sum(ctx, x, (int[]){0, 2}, 2, false, out))
CASE(mean, hx_mean(ctx, x, (int[]){1}, 1, true, out))
CASE(max, hx_max(ctx, x, (int[]){0, 2}, 2, false, out))
CASE(min, hx_min(ctx, x, (int[]){1}, 1, false, out))
CASE(var, hx_var(ctx, x, (int[]){0, 2}, 2, 1, false, out))
CASE(std, hx_std(ctx, x, (int[]){1}, 1, 0, true, out))
CASE(norm1, hx_norm(ctx, x, 1, (int[]){0, 2}, 2, false, out))
CASE(norm2, hx_norm(ctx, x, 2, (int[]){1}, 1, false, out))
CASE(norm3, hx_norm(ctx, x, 3, (int[]){1}, 1, false, out))
CASE(norm_inf, hx_norm(ctx, x, HUGE_VAL, (int[]){1}, 1, false, out))
CASE(argmax, hx_argmax(ctx, x, 1, false, out))
CASE(argmin, hx_argmin(ctx, x, 1, false, out))
CASE(softmax, hx_softmax(ctx, x, 1, out))
CASE(log_softmax, hx_log_softmax(ctx, x, -1, out))
CASE(cat, hx_cat(ctx, in, 3, 1, out))
CASE(stack, hx_stack(ctx, in, 2, 1, out))
CASE(gather, hx_gather(ctx, x, 1, y, out))
CASE(slice, hx_slice(ctx, x, 1, 1, 4, 2, out))
CASE(permute, hx_permute(ctx, x, (int[]){2, 0, 1}, out))
CASE(pad_zero, hx_pad(ctx, x, (int64_t[]){0, 0, 2}, (int64_t[]){0, 3, 1}, HX_PAD_ZERO, 0.5, out))
#define PAD(name, mode) CASE(name, hx_pad(ctx, x, (int64_t[]){0, 0, 2}, (int64_t[]){0, 0, 1}, mode, 0, out))
PAD(pad_reflect, HX_PAD_REFLECT)
PAD(pad_replicate, HX_PAD_REPLICATE)
PAD(pad_circular, HX_PAD_CIRCULAR)
CASE(matmul, hx_matmul(ctx, x, y, out))
CASE(linear, hx_linear_op(ctx, x, y, z, out))
CASE(embedding, hx_embedding_op(ctx, x, y, out))
#define CONV(...) (&(hx_conv_config){__VA_ARGS__})
CASE(conv1d, hx_conv(ctx, x, y, z, CONV(.stride = {2}, .padding = {3}, .dilation = {2}), out))
CASE(conv2d, hx_conv(ctx, x, y, z, CONV(.stride = {2, 1}, .padding = {1, 2}, .dilation = {1, 2}, .groups = 2), out))
CASE(conv2d_depthwise, hx_conv(ctx, x, y, NULL, CONV(.padding = {1, 1}, .groups = 4), out))
CASE(conv3d, hx_conv(ctx, x, y, z, CONV(.stride = {1, 2, 1}, .padding = {1, 1, 1}), out))
CASE(max_pool2d, hx_max_pool(ctx, x, (int64_t[]){3, 2}, CONV(.stride = {2, 1}, .padding = {1, 0}, .dilation = {1, 2}), out))
CASE(avg_pool2d, hx_avg_pool(ctx, x, (int64_t[]){3, 2}, CONV(.stride = {2, 2}, .padding = {1, 1}), true, out))
CASE(avg_pool1d, hx_avg_pool(ctx, x, (int64_t[]){3}, CONV(.stride = {2}, .padding = {1}), false, out))
CASE(layernorm, hx_layernorm_op(ctx, x, y, z, 1e-5, out))
CASE(rmsnorm, hx_rmsnorm_op(ctx, x, y, 1e-5, out))
CASE(batchnorm, hx_batchnorm_op(ctx, x, y, z, 1e-5, out, NULL, NULL))
CASE(attention, hx_attention_op(ctx, x, y, z, NULL, true, 0, out))
CASE(rope, hx_rope(ctx, x, 10000, 3, out))

/* ---- those that take more than one call ---- */

static hx_status topk_case(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    return hx_topk(ctx, in[0], 3, false, &out[0], &out[1]);
}

/* where(c > 1, a, b) */
static hx_status where_case(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR cond = NULL;
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SCALAR, &one));
    HX_TRY(hx_tensor_fill(ctx->stream, one, 1));
    HX_TRY(hx_compare(ctx, HX_OP_less, one, in[0], &cond));
    return hx_where(ctx, cond, in[1], in[2], out);
}

static hx_status attention_mask_case(hx_ctx *ctx, hx_tensor *const *in, hx_tensor **out) {
    HX_AUTO_TENSOR mask = NULL;
    HX_TRY(hx_cast(ctx, in[3], HX_BOOL, &mask));
    return hx_attention_op(ctx, in[0], in[1], in[2], mask, false, 0, out);
}

/* complex numbers stand in the file as pairs of reals */
typedef hx_status (*fourier_fn)(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
static hx_status fourier(hx_ctx *ctx, fourier_fn fn, hx_tensor *x, int dim, hx_tensor **out) {
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR y = NULL;
    if (fn == hx_rfft) z = hx_tensor_retain(x);
    else HX_TRY(hx_view_as_complex(ctx, x, &z));
    HX_TRY(fn(ctx, z, dim, &y));
    return hx_view_as_real(ctx, y, out);
}
CASE(fft, fourier(ctx, hx_fft, x, -1, out))
CASE(ifft, fourier(ctx, hx_ifft, x, 0, out))
CASE(rfft, fourier(ctx, hx_rfft, x, -1, out))

static hx_status inverse_real(hx_ctx *ctx, hx_tensor *x, int64_t n, hx_tensor **out) {
    HX_AUTO_TENSOR z = NULL;
    HX_TRY(hx_view_as_complex(ctx, x, &z));
    return hx_irfft(ctx, z, -1, n, out);
}
CASE(irfft, inverse_real(ctx, x, 8, out))
CASE(irfft_odd, inverse_real(ctx, x, 9, out))

static const struct {
    const char *name;
    op_fn run;
} cases[] = {
#define ROW(name) {#name, name##_case},
    UNARY_LIST(ROW) BINARY_LIST(ROW)
    ROW(clamp) ROW(leaky_relu) ROW(swiglu) ROW(affine) ROW(where)
    ROW(sum) ROW(mean) ROW(max) ROW(min) ROW(var) ROW(std) ROW(norm1) ROW(norm2) ROW(norm3) ROW(norm_inf)
    ROW(argmax) ROW(argmin) ROW(topk) ROW(softmax) ROW(log_softmax)
    ROW(cat) ROW(stack) ROW(gather) ROW(slice) ROW(permute)
    ROW(pad_zero) ROW(pad_reflect) ROW(pad_replicate) ROW(pad_circular)
    ROW(matmul) {"matmul_row", matmul_case}, ROW(linear) ROW(embedding)
    ROW(conv1d) ROW(conv2d) ROW(conv2d_depthwise) ROW(conv3d) ROW(max_pool2d) ROW(avg_pool2d) ROW(avg_pool1d)
    ROW(layernorm) ROW(rmsnorm) ROW(batchnorm) ROW(attention) ROW(attention_mask) ROW(rope)
    ROW(fft) ROW(ifft) ROW(rfft) {"rfft_odd", rfft_case}, ROW(irfft) ROW(irfft_odd)
};

/* ---- the comparison ---- */

static void check(golden_rig *rig, const char *name, op_fn run, hx_dtype dtype) {
    /* f64: the numbers are PyTorch's own f64, summed in another order; f32: 24 bits against them */
    const double tolerance = dtype == HX_F64 ? 1e-12 : 4e-6;
    hx_tensor *in[MAX_IN] = {NULL}, *out[2] = {NULL}, *weight = NULL;
    char path[96];
    int n_in = 0;
    for (; n_in < MAX_IN; n_in++) {
        snprintf(path, sizeof path, "/ops/%s/in%d", name, n_in);
        if (!golden_has(path)) break;
        in[n_in] = golden_tensor(rig, path, dtype);
        snprintf(path, sizeof path, "/ops/%s/grad%d", name, n_in);
        hx_tensor_set_requires_grad(in[n_in], golden_has(path));
    }
    cr_assert_gt(n_in, 0, "%s is not in the file", name);
    MUST(run(&rig->ctx, in, out));
    for (int i = 0; i < 2 && out[i]; i++) {
        snprintf(path, sizeof path, "/ops/%s/out%d", name, i);
        double distance = golden_distance(rig, out[i], path);
        cr_expect_leq(distance, tolerance, "%s in %s: output %d is off by %g", name, hx_dtype_name(dtype), i, distance);
    }
    snprintf(path, sizeof path, "/ops/%s/weight0", name);
    if (golden_has(path)) {
        weight = golden_tensor(rig, path, dtype);
        bool has_gradient = false;
        for (int i = 0; i < n_in; i++) has_gradient |= hx_tensor_requires_grad(in[i]);
        if (has_gradient) MUST(hx_backward(&rig->ctx, out[0], weight));
    }
    for (int i = 0; i < n_in; i++) {
        if (!hx_tensor_requires_grad(in[i])) continue;
        snprintf(path, sizeof path, "/ops/%s/grad%d", name, i);
        cr_assert_not_null(hx_tensor_grad(in[i]), "%s: no gradient of input %d", name, i);
        double distance = golden_distance(rig, hx_tensor_grad(in[i]), path);
        cr_expect_leq(distance, 2 * tolerance, "%s in %s: the gradient of input %d is off by %g", name, hx_dtype_name(dtype), i,
                      distance);
    }
    hx_tape_reset(rig->tape);
    hx_tensor_destroy(&weight);
    for (int i = 0; i < 2; i++) hx_tensor_destroy(&out[i]);
    for (int i = 0; i < n_in; i++) hx_tensor_destroy(&in[i]);
}

static void check_all(const char *backend) {
    golden_rig rig;
    golden_open(backend, &rig);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check(&rig, cases[i].name, cases[i].run, HX_F64);
        check(&rig, cases[i].name, cases[i].run, HX_F32);
    }
    golden_close(&rig);
}

Test(golden, ops_and_their_gradients_are_pytorchs_on_ref) { check_all("ref"); }
Test(golden, ops_and_their_gradients_are_pytorchs_on_cpu) { check_all("cpu"); }
