/* Derivatives of elementwise ops: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* da = dy, db = dy */
hx_status hx__vjp_add(hx_vjp *v) {
    HX_TRY(hx__grad_give_same(v, 0));
    return hx__grad_give_same(v, 1);
}

/* da = dy, db = -dy */
hx_status hx__vjp_sub(hx_vjp *v) {
    HX_TRY(hx__grad_give_same(v, 0));
    return hx__grad_give_scaled(v, 1, -1);
}

static hx_status give_product(hx_vjp *v, int i, hx_tensor *factor) {
    HX_AUTO_TENSOR conj = NULL;
    if (!hx_vjp_wants(v, i) || !hx_dtype_is_complex(v->in_dtype[i])) return hx__grad_give_op(v, i, HX_OP_mul, v->grad_out[0], factor, NULL);
    HX_TRY(hx__grad_run(v, HX_OP_conj, factor, NULL, NULL, &conj));
    return hx__grad_give_op(v, i, HX_OP_mul, v->grad_out[0], conj, NULL);
}

/* da = dy conj(b), db = dy conj(a) */
hx_status hx__vjp_mul(hx_vjp *v) {
    HX_TRY(give_product(v, 0, v->in[1]));
    return give_product(v, 1, v->in[0]);
}

/* da = dy / b, db = -(dy / b) (a / b) */
hx_status hx__vjp_div(hx_vjp *v) {
    HX_AUTO_TENSOR da = NULL;
    HX_TRY(hx__grad_run(v, HX_OP_div, v->grad_out[0], v->in[1], NULL, &da));
    if (hx_vjp_wants(v, 1)) {
        HX_AUTO_TENSOR ratio = NULL;
        HX_AUTO_TENSOR minus = NULL;
        HX_TRY(hx__grad_run(v, HX_OP_div, v->in[0], v->in[1], NULL, &ratio));
        HX_TRY(hx__grad_run(v, HX_OP_affine, ratio, NULL, &(hx_op_attr){.affine = {-1, 0}}, &minus));
        HX_TRY(hx__grad_give_op(v, 1, HX_OP_mul, da, minus, NULL));
    }
    return hx_vjp_give_consume(v, 0, &da);
}

/* dy goes to the operand taken, by halves to both of a tie; `lesser[i]` is true where operand i is not taken. Chosen by
 * comparison: a difference would be NaN for two infinities. Beside a NaN both operands receive dy. */
static hx_status extremum(hx_vjp *v, hx_tensor *const lesser[2]) {
    HX_AUTO_TENSOR tie = NULL;
    HX_AUTO_TENSOR half = NULL;
    HX_AUTO_TENSOR shared = NULL;
    HX_AUTO_TENSOR zero = NULL;
    HX_TRY(hx_compare(v->ctx, HX_OP_equal, v->in[0], v->in[1], &tie));
    HX_TRY(hx_affine(v->ctx, v->grad_out[0], 0.5, 0, &half));
    HX_TRY(hx_where(v->ctx, tie, half, v->grad_out[0], &shared));
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[0], 0, &zero));
    for (int i = 0; i < 2; i++) {
        HX_AUTO_TENSOR g = NULL;
        if (!hx_vjp_wants(v, i)) continue;
        HX_TRY(hx_where(v->ctx, lesser[i], zero, shared, &g));
        HX_TRY(hx_vjp_give_consume(v, i, &g));
    }
    return HX_OK;
}

static hx_status compare_both(hx_vjp *v, hx_tensor **a_less, hx_tensor **b_less) {
    HX_TRY(hx_compare(v->ctx, HX_OP_less, v->in[0], v->in[1], a_less));
    return hx_compare(v->ctx, HX_OP_less, v->in[1], v->in[0], b_less);
}

hx_status hx__vjp_maximum(hx_vjp *v) {
    HX_AUTO_TENSOR a_less = NULL;
    HX_AUTO_TENSOR b_less = NULL;
    HX_TRY(compare_both(v, &a_less, &b_less));
    return extremum(v, (hx_tensor *[]){a_less, b_less});
}

hx_status hx__vjp_minimum(hx_vjp *v) {
    HX_AUTO_TENSOR a_less = NULL;
    HX_AUTO_TENSOR b_less = NULL;
    HX_TRY(compare_both(v, &a_less, &b_less));
    return extremum(v, (hx_tensor *[]){b_less, a_less});
}

/* dx = alpha dy */
hx_status hx__vjp_affine(hx_vjp *v) {
    return hx__grad_give_scaled(v, 0, v->attr->affine.alpha);
}

/* dx = y dy */
hx_status hx__vjp_exp(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_mul, v->grad_out[0], v->out[0], NULL);
}

/* dx = dy / x */
hx_status hx__vjp_log(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_div, v->grad_out[0], v->in[0], NULL);
}

/* dx = dy / (2 y) */
hx_status hx__vjp_sqrt(hx_vjp *v) {
    HX_AUTO_TENSOR twice = NULL;
    HX_TRY(hx__grad_run(v, HX_OP_affine, v->out[0], NULL, &(hx_op_attr){.affine = {2, 0}}, &twice));
    return hx__grad_give_op(v, 0, HX_OP_div, v->grad_out[0], twice, NULL);
}

/* dx = dy sign(x) */
hx_status hx__vjp_abs(hx_vjp *v) {
    HX_AUTO_TENSOR s = NULL;
    HX_TRY(hx__grad_run(v, HX_OP_sign, v->in[0], NULL, NULL, &s));
    return hx__grad_give_op(v, 0, HX_OP_mul, v->grad_out[0], s, NULL);
}

hx_status hx__vjp_tanh(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_tanh_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_sigmoid(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_sigmoid_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_relu(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_relu_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_silu(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_silu_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_gelu_tanh(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_gelu_tanh_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_gelu_erf(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_gelu_erf_bwd, v->in[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_swiglu(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_swiglu_bwd, v->in[0], v->grad_out[0], NULL);
}

/* The mask is drawn again: dx = mask dy / (1 - p). */
hx_status hx__vjp_dropout(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_dropout, v->grad_out[0], NULL, v->attr);
}

/* dy converted back: of what became complex the real part counts, and what lost its imaginary part gets 0 for it. */
hx_status hx__vjp_copy(hx_vjp *v) {
    bool is_smooth = hx_dtype_is_float(v->in_dtype[0]) || hx_dtype_is_complex(v->in_dtype[0]);
    if (!is_smooth) return HX_FAIL(HX_ERR_DTYPE, "copy: no derivative with respect to %s", hx_dtype_name(v->in_dtype[0]));
    if (hx_tensor_dtype(v->grad_out[0]) == v->in_dtype[0]) return hx__grad_give_same(v, 0);
    return hx__grad_give_op(v, 0, HX_OP_copy, v->grad_out[0], NULL, &(hx_op_attr){.copy = {v->in_dtype[0]}});
}
