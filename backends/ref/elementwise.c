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

static double equal(double a, double b) { return a == b; }
static double not_equal(double a, double b) { return a != b; }
static double less(double a, double b) { return a < b; }
static double less_equal(double a, double b) { return a <= b; }

/* ---- one operand ---- */

static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; } /* x: 0 and NaN */
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double relu(double x) { return x < 0 ? 0 : x; } /* NaN comes through */
static double silu(double x) { return x * sigmoid(x); }

static double square(double x) { return x * x; }
static double reciprocal(double x) { return 1 / x; }
static double softplus(double x) { return (x < 0 ? 0 : x) + log1p(exp(-fabs(x))); }

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

/* Beyond the edges the slopes below are exactly 0 or 1 in float64, but infinities cancel in their formulas: they are taken at
 * the edge. NaN passes. */
static double within(double x, double edge) { return x < -edge ? -edge : x > edge ? edge : x; }

static double silu_bwd(double x, double dy) {
    double c = within(x, 750), s = sigmoid(c);
    return s * (1 + c * (1 - s)) * dy;
}

static double gelu_tanh_bwd(double x, double dy) {
    double c = within(x, 40), s = gelu_tanh_gate(c), du = SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * c * c);
    return (s + 2 * c * s * (1 - s) * du) * dy;
}

static double gelu_erf_bwd(double x, double dy) {
    double c = within(x, 40);
    return (gelu_erf_gate(c) + c * INV_SQRT_2PI * exp(-c * c / 2)) * dy;
}

static double (*const unary[HX_OP_COUNT])(double) = {
    [HX_OP_exp] = exp,           [HX_OP_log] = log,
    [HX_OP_sqrt] = sqrt,         [HX_OP_abs] = fabs,
    [HX_OP_sign] = sign,         [HX_OP_tanh] = tanh,
    [HX_OP_sigmoid] = sigmoid,   [HX_OP_relu] = relu,
    [HX_OP_silu] = silu,         [HX_OP_gelu_tanh] = gelu_tanh,
    [HX_OP_gelu_erf] = gelu_erf, [HX_OP_expm1] = expm1,
    [HX_OP_log1p] = log1p,       [HX_OP_square] = square,
    [HX_OP_floor] = floor,       [HX_OP_reciprocal] = reciprocal,
    [HX_OP_ceil] = ceil,         [HX_OP_round] = rint, /* half to even: the rounding mode is left as it is */
    [HX_OP_sin] = sin,           [HX_OP_cos] = cos,
    [HX_OP_tan] = tan,           [HX_OP_asin] = asin,
    [HX_OP_acos] = acos,         [HX_OP_atan] = atan,
    [HX_OP_sinh] = sinh,         [HX_OP_cosh] = cosh,
    [HX_OP_asinh] = asinh,       [HX_OP_acosh] = acosh,
    [HX_OP_atanh] = atanh,       [HX_OP_erf] = erf,
    [HX_OP_softplus] = softplus,
};

static double (*const binary[HX_OP_COUNT])(double, double) = {
    [HX_OP_add] = add,
    [HX_OP_sub] = sub,
    [HX_OP_mul] = mul,
    [HX_OP_div] = divide,
    [HX_OP_maximum] = maximum,
    [HX_OP_minimum] = minimum,
    [HX_OP_pow] = pow,
    [HX_OP_equal] = equal,
    [HX_OP_not_equal] = not_equal,
    [HX_OP_less] = less,
    [HX_OP_less_equal] = less_equal,
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

/* ---- with attributes ---- */

static double clamp(const hx_op_attr *attr, double x) {
    return x < attr->clamp.low ? attr->clamp.low : x > attr->clamp.high ? attr->clamp.high : x;
}
static double clamp_bwd(const hx_op_attr *attr, double x, double dy) {
    return x >= attr->clamp.low && x <= attr->clamp.high ? dy : 0;
}
static double leaky_bwd(const hx_op_attr *attr, double x, double dy) { return x > 0 ? dy : attr->leaky.slope * dy; }

hx_status hx__ref_bounded(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, x)); !w.is_done; hx__ref_walk_next(&w)) {
        double v = hx__ref_get(x, w.at[1]);
        hx__ref_set(y, w.at[0], call->op == HX_OP_clamp ? clamp(&call->attr, v) : leaky_bwd(&call->attr, v, v));
    }
    return HX_OK;
}

hx_status hx__ref_bounded_bwd(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    double (*slope)(const hx_op_attr *, double, double) = call->op == HX_OP_clamp_bwd ? clamp_bwd : leaky_bwd;
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(dx, x, dy)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(dx, w.at[0], slope(&call->attr, hx__ref_get(x, w.at[1]), hx__ref_get(dy, w.at[2])));
    return HX_OK;
}

/* ---- SwiGLU: rows of gate, then up ---- */

/* An operand with rows of half the length, and the elements from its gate to its up. */
static hx_array gate_of(const hx_array *a, int64_t *to_up) {
    hx_array gate = *a;
    gate.dims[a->ndim - 1] /= 2;
    *to_up = gate.dims[a->ndim - 1] * hx__ref_stride(a, 1);
    return gate;
}

hx_status hx__ref_swiglu(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *y = &call->out[0];
    int64_t to_up;
    hx_array gate = gate_of(x, &to_up);
    for (hx__ref_walk w = hx__ref_walk_start(2, HX_REF_ARRAYS(y, &gate)); !w.is_done; hx__ref_walk_next(&w))
        hx__ref_set(y, w.at[0], silu(hx__ref_get(x, w.at[1])) * hx__ref_get(x, w.at[1] + to_up));
    return HX_OK;
}

/* dgate = silu'(gate) up dy, dup = silu(gate) dy */
hx_status hx__ref_swiglu_bwd(const hx_op_call *call) {
    const hx_array *x = &call->in[0], *dy = &call->in[1], *dx = &call->out[0];
    int64_t to_up, to_dup;
    hx_array gate = gate_of(x, &to_up), dgate = gate_of(dx, &to_dup);
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(&dgate, &gate, dy)); !w.is_done; hx__ref_walk_next(&w)) {
        double g = hx__ref_get(x, w.at[1]), up = hx__ref_get(x, w.at[1] + to_up), d = hx__ref_get(dy, w.at[2]);
        hx__ref_set(dx, w.at[0], silu_bwd(g, d * up));
        hx__ref_set(dx, w.at[0] + to_dup, silu(g) * d);
    }
    return HX_OK;
}

/* ---- comparisons and choice ---- */

/* Integers are compared as what they are: float64 has no room for 64 bits. */
hx_status hx__ref_compare(const hx_op_call *call) {
    const hx_array *a = &call->in[0], *b = &call->in[1], *y = &call->out[0];
    if (hx_dtype_is_float(a->dtype)) return hx__ref_binary(call);
    for (hx__ref_walk w = hx__ref_walk_start(3, HX_REF_ARRAYS(y, a, b)); !w.is_done; hx__ref_walk_next(&w)) {
        int64_t p = hx__ref_get_int(a, w.at[1]), q = hx__ref_get_int(b, w.at[2]);
        hx__ref_set(y, w.at[0], binary[call->op]((double)((p > q) - (p < q)), 0));
    }
    return HX_OK;
}

hx_status hx__ref_where(const hx_op_call *call) {
    const hx_array *cond = &call->in[0], *a = &call->in[1], *b = &call->in[2], *y = &call->out[0];
    for (hx__ref_walk w = hx__ref_walk_start(4, HX_REF_ARRAYS(y, cond, a, b)); !w.is_done; hx__ref_walk_next(&w)) {
        bool is_a = hx__ref_get_int(cond, w.at[1]) != 0;
        hx__ref_move(y, w.at[0], is_a ? a : b, is_a ? w.at[2] : w.at[3]);
    }
    return HX_OK;
}
