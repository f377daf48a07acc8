/* Derivatives of elementary functions: each is dy times or over a chain of ops of the saved operand. */
#include "core/autograd/vjp_impl.h"

typedef struct step {
    hx_op op;
    double alpha, beta; /* of affine */
} step;

/* steps applied to x, one after the other */
static hx_status chain(hx_vjp *v, hx_tensor *x, const step *steps, size_t n, hx_tensor **out) {
    HX_AUTO_TENSOR y = hx_tensor_retain(x);
    for (size_t i = 0; i < n; i++) {
        hx_op_attr attr = {.affine = {steps[i].alpha, steps[i].beta}};
        hx_tensor *next = NULL;
        HX_TRY(hx__grad_run(v, steps[i].op, y, NULL, &attr, &next));
        hx_tensor_destroy(&y);
        y = next;
    }
    *out = hx_tensor_move(&y);
    return HX_OK;
}

/* Half types are computed in f32: x^2 would be infinite in f16 from 256 on, and 1 - x^2 rounded to nothing near 1. */
static hx_status by_chain(hx_vjp *v, hx_op with, hx_tensor *x, const step *steps, size_t n) {
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR dy = NULL;
    HX_AUTO_TENSOR slope = NULL;
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_widen(v->ctx, x, &wide));
    HX_TRY(hx_widen(v->ctx, v->grad_out[0], &dy));
    HX_TRY(chain(v, wide, steps, n, &slope));
    HX_TRY(hx_binary(v->ctx, with, dy, slope, &g));
    return hx__grad_give_narrowed(v, 0, g);
}

/* dx = dy `with` (mul or div) the chain of x = in[0] or y = out[0] */
#define DERIVATIVE(name, with, operand, ...)                                                                 \
    hx_status hx__vjp_##name(hx_vjp *v) {                                                                    \
        static const step steps[] = {__VA_ARGS__};                                                           \
        return by_chain(v, HX_OP_##with, v->operand, steps, sizeof steps / sizeof *steps);                   \
    }
#define F(op)               {HX_OP_##op, 0, 0}
#define AFFINE(alpha, beta) {HX_OP_affine, alpha, beta}
#define TWO_OVER_SQRT_PI    1.12837916709551257390

DERIVATIVE(expm1, mul, out[0], AFFINE(1, 1))                           /* y + 1 */
DERIVATIVE(log1p, div, in[0], AFFINE(1, 1))                            /* 1 / (1 + x) */
DERIVATIVE(square, mul, in[0], AFFINE(2, 0))                           /* 2 x */
DERIVATIVE(reciprocal, mul, out[0], F(square), AFFINE(-1, 0))          /* -y^2 */
DERIVATIVE(sin, mul, in[0], F(cos))                                    /* cos x */
DERIVATIVE(cos, mul, in[0], F(sin), AFFINE(-1, 0))                     /* -sin x */
DERIVATIVE(tan, mul, out[0], F(square), AFFINE(1, 1))                  /* 1 + y^2 */
DERIVATIVE(asin, div, in[0], F(square), AFFINE(-1, 1), F(sqrt))        /* 1 / sqrt(1 - x^2) */
DERIVATIVE(acos, div, in[0], F(square), AFFINE(-1, 1), F(sqrt), AFFINE(-1, 0)) /* -1 / sqrt(1 - x^2) */
DERIVATIVE(atan, div, in[0], F(square), AFFINE(1, 1))                  /* 1 / (1 + x^2) */
DERIVATIVE(sinh, mul, in[0], F(cosh))                                  /* cosh x */
DERIVATIVE(cosh, mul, in[0], F(sinh))                                  /* sinh x */
DERIVATIVE(asinh, div, in[0], F(square), AFFINE(1, 1), F(sqrt))        /* 1 / sqrt(x^2 + 1) */
DERIVATIVE(acosh, div, in[0], F(square), AFFINE(1, -1), F(sqrt))       /* 1 / sqrt(x^2 - 1) */
DERIVATIVE(atanh, div, in[0], F(square), AFFINE(-1, 1))                /* 1 / (1 - x^2) */
DERIVATIVE(erf, mul, in[0], F(square), AFFINE(-1, 0), F(exp), AFFINE(TWO_OVER_SQRT_PI, 0)) /* 2/sqrt(pi) e^(-x^2) */
DERIVATIVE(softplus, mul, in[0], F(sigmoid))                           /* 1 / (1 + e^-x) */

/* Steps are flat between their jumps. */
hx_status hx__vjp_zero(hx_vjp *v) {
    hx_tensor *dst;
    bool accumulate;
    HX_TRY(hx_vjp_target(v, 0, &dst, &accumulate));
    return hx__grad_put(v, dst, NULL, accumulate);
}

hx_status hx__vjp_clamp(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_clamp_bwd, v->in[0], v->grad_out[0], v->attr);
}

hx_status hx__vjp_leaky_relu(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_leaky_relu_bwd, v->in[0], v->grad_out[0], v->attr);
}

/* dx = conj(dy) */
hx_status hx__vjp_conj(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_conj, v->grad_out[0], NULL, NULL);
}

/* ---- a^b ---- */

/* What both derivatives are made of; half types as f32: b - 1 rounded to half a width may even change its parity. */
typedef struct power {
    hx_tensor *a, *b, *dy;
    hx_tensor *zero; /* scalar */
} power;

static void power_destroy(power *p) {
    hx_tensor_destroy(&p->a);
    hx_tensor_destroy(&p->b);
    hx_tensor_destroy(&p->dy);
    hx_tensor_destroy(&p->zero);
}

static hx_status power_open(hx_vjp *v, power *p) {
    HX_TRY(hx_widen(v->ctx, v->in[0], &p->a));
    HX_TRY(hx_widen(v->ctx, v->in[1], &p->b));
    HX_TRY(hx_widen(v->ctx, v->grad_out[0], &p->dy));
    return hx_scalar(v->ctx, hx_tensor_dtype(p->a), 0, &p->zero);
}

/* Gradient of input i: 0 where `flat`, else dy slope */
static hx_status give_unless(hx_vjp *v, int i, const power *p, hx_tensor *flat, hx_tensor *slope) {
    HX_AUTO_TENSOR steep = NULL;
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_mul(v->ctx, p->dy, slope, &steep));
    HX_TRY(hx_where(v->ctx, flat, p->zero, steep, &g));
    return hx__grad_give_narrowed(v, i, g);
}

/* da = dy b a^(b-1), and 0 where b is 0, also at a = 0 where the formula gives 0 inf */
static hx_status pow_by_base(hx_vjp *v, const power *p) {
    HX_AUTO_TENSOR less = NULL;
    HX_AUTO_TENSOR lower = NULL;
    HX_AUTO_TENSOR slope = NULL;
    HX_AUTO_TENSOR flat = NULL;
    HX_TRY(hx_affine(v->ctx, p->b, 1, -1, &less));
    HX_TRY(hx_binary(v->ctx, HX_OP_pow, p->a, less, &lower));
    HX_TRY(hx_mul(v->ctx, lower, p->b, &slope));
    HX_TRY(hx_compare(v->ctx, HX_OP_equal, p->b, p->zero, &flat));
    return give_unless(v, 0, p, flat, slope);
}

/* db = dy y ln a, and 0 where a is 0 and b >= 0: 0^b does not change there (but for its jump at 0) */
static hx_status pow_by_exponent(hx_vjp *v, const power *p) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR log = NULL;
    HX_AUTO_TENSOR slope = NULL;
    HX_AUTO_TENSOR at_zero = NULL;
    HX_AUTO_TENSOR grows = NULL;
    HX_AUTO_TENSOR no = NULL;
    HX_AUTO_TENSOR flat = NULL;
    HX_TRY(hx_widen(v->ctx, v->out[0], &y));
    HX_TRY(hx_unary(v->ctx, HX_OP_log, p->a, &log));
    HX_TRY(hx_mul(v->ctx, y, log, &slope));
    HX_TRY(hx_compare(v->ctx, HX_OP_equal, p->a, p->zero, &at_zero));
    HX_TRY(hx_compare(v->ctx, HX_OP_less_equal, p->zero, p->b, &grows));
    HX_TRY(hx_scalar(v->ctx, HX_BOOL, 0, &no));
    HX_TRY(hx_where(v->ctx, at_zero, grows, no, &flat));
    return give_unless(v, 1, p, flat, slope);
}

hx_status hx__vjp_pow(hx_vjp *v) {
    HX_CLEANUP(power_destroy) power p = {0};
    HX_TRY(power_open(v, &p));
    if (hx_vjp_wants(v, 0)) HX_TRY(pow_by_base(v, &p));
    return hx_vjp_wants(v, 1) ? pow_by_exponent(v, &p) : HX_OK;
}

/* ---- choice ---- */

/* da = dy where cond, else 0; db the other way round. Chosen rather than multiplied: NaN stays where it is. */
hx_status hx__vjp_where(hx_vjp *v) {
    HX_AUTO_TENSOR zero = NULL;
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[1], 0, &zero));
    for (int i = 1; i <= 2; i++) {
        HX_AUTO_TENSOR g = NULL;
        if (!hx_vjp_wants(v, i)) continue;
        HX_TRY(hx_where(v->ctx, v->in[0], i == 1 ? v->grad_out[0] : zero, i == 1 ? zero : v->grad_out[0], &g));
        HX_TRY(hx_vjp_give_consume(v, i, &g));
    }
    return HX_OK;
}
