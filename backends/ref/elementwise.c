#include "backends/ref/ref_impl.h"

#include <math.h>

/* ---- two operands ---- */

static double add(double a, double b) { return a + b; }
static double sub(double a, double b) { return a - b; }
static double mul(double a, double b) { return a * b; }
static double divide(double a, double b) { return a / b; }
/* A NaN on either side comes through, unlike fmax and fmin: it must not hide behind a clipped value. */
static double maximum(double a, double b) { return a > b || isnan(a) ? a : b; }
static double minimum(double a, double b) { return a < b || isnan(a) ? a : b; }

/* ---- one operand ---- */

static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; } /* x: 0 and NaN */
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double relu(double x) { return x < 0 ? 0 : x; } /* NaN comes through */
static double silu(double x) { return x * sigmoid(x); }

static const double SQRT_2_OVER_PI = 0.79788456080286535588;
static const double SQRT_1_2 = 0.70710678118654752440;
static const double INV_SQRT_2PI = 0.39894228040143267794;
static const double GELU_CUBIC = 0.044715;

/* 1 + tanh u = 2 sigmoid(2u) and 1 + erf u = erfc(-u): the same numbers without the cancellation at negative
 * x. */
static double gelu_tanh_gate(double x) { return sigmoid(2 * SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)); }
static double gelu_erf_gate(double x) { return erfc(-x * SQRT_1_2) / 2; }
static double gelu_tanh(double x) { return x * gelu_tanh_gate(x); }
static double gelu_erf(double x) { return x * gelu_erf_gate(x); }

/* ---- derivatives: saved operand, dy ---- */

static double tanh_bwd(double y, double dy) { return (1 - y * y) * dy; }
static double sigmoid_bwd(double y, double dy) { return y * (1 - y) * dy; }
static double relu_bwd(double y, double dy) { return y > 0 ? dy : 0; }

static double silu_bwd(double x, double dy) {
    double s = sigmoid(x);
    return s * (1 + x * (1 - s)) * dy;
}

static double gelu_tanh_bwd(double x, double dy) {
    double s = gelu_tanh_gate(x), du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x);
    return (s + 2 * x * s * (1 - s) * du) * dy;
}

static double gelu_erf_bwd(double x, double dy) {
    return (gelu_erf_gate(x) + x * INV_SQRT_2PI * exp(-x * x / 2)) * dy;
}

static double (*const unary[HX_OP_COUNT])(double) = {
    [HX_OP_exp] = exp,           [HX_OP_log] = log,
    [HX_OP_sqrt] = sqrt,         [HX_OP_abs] = fabs,
    [HX_OP_sign] = sign,         [HX_OP_tanh] = tanh,
    [HX_OP_sigmoid] = sigmoid,   [HX_OP_relu] = relu,
    [HX_OP_silu] = silu,         [HX_OP_gelu_tanh] = gelu_tanh,
    [HX_OP_gelu_erf] = gelu_erf,
};

static double (*const binary[HX_OP_COUNT])(double, double) = {
    [HX_OP_add] = add,
    [HX_OP_sub] = sub,
    [HX_OP_mul] = mul,
    [HX_OP_div] = divide,
    [HX_OP_maximum] = maximum,
    [HX_OP_minimum] = minimum,
    [HX_OP_tanh_bwd] = tanh_bwd,
    [HX_OP_sigmoid_bwd] = sigmoid_bwd,
    [HX_OP_relu_bwd] = relu_bwd,
    [HX_OP_silu_bwd] = silu_bwd,
    [HX_OP_gelu_tanh_bwd] = gelu_tanh_bwd,
    [HX_OP_gelu_erf_bwd] = gelu_erf_bwd,
};

hx_status hx__ref_unary(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, x)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(y, w.at[0], unary[call->op](hx__ref_get(x, w.at[1])));
    return HX_OK;
}

hx_status hx__ref_binary(const hx_op_call *call) {
    const hx_array *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(y, a, b)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(y, w.at[0], binary[call->op](hx__ref_get(a, w.at[1]), hx__ref_get(b, w.at[2])));
    return HX_OK;
}

hx_status hx__ref_affine(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    double alpha = call->attr.affine.alpha, beta = call->attr.affine.beta;
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, x)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(y, w.at[0], alpha * hx__ref_get(x, w.at[1]) + beta);
    return HX_OK;
}
