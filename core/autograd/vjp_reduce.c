/* Derivatives of reductions: formulas stand above the functions; dy is the gradient that arrives. */
#include <math.h>

#include "core/autograd/vjp_impl.h"

/* A result with the reduced dims put back as 1, so that it broadcasts against x. attr.stat begins as attr.reduce. */
static hx_status keep_dims(hx_vjp *v, hx_tensor *y, hx_tensor **out) {
    HX_AUTO_TENSOR dense = NULL;
    hx_shape shape = v->in_shape[0];
    for (int k = 0; k < v->attr->reduce.n_dims; k++) shape.dims[v->attr->reduce.dims[k]] = 1;
    HX_TRY(hx_contiguous(v->ctx, y, &dense));
    return hx_tensor_view(dense, shape, out);
}

/* Each summed element receives dy. */
hx_status hx__vjp_sum(hx_vjp *v) {
    HX_AUTO_TENSOR kept = NULL;
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(keep_dims(v, v->grad_out[0], &kept));
    HX_TRY(hx_tensor_expand(kept, v->in_shape[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

hx_status hx__vjp_softmax(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_softmax_bwd, v->out[0], v->grad_out[0], NULL);
}

hx_status hx__vjp_log_softmax(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_log_softmax_bwd, v->out[0], v->grad_out[0], NULL);
}

/* Over the dims of the op; hx_sum would take no dims for all of them. */
static hx_status sum_kept(hx_vjp *v, hx_tensor *x, hx_tensor **out) {
    hx_op_attr attr = {.reduce = {.n_dims = v->attr->reduce.n_dims, .keepdim = true}};
    for (int k = 0; k < attr.reduce.n_dims; k++) attr.reduce.dims[k] = v->attr->reduce.dims[k];
    return hx__grad_run(v, HX_OP_sum, x, NULL, &attr, out);
}

/* dx = dy / (number of ties) where x is the extremum y, else 0 */
static hx_status share_among_ties(hx_vjp *v, hx_tensor *x, hx_tensor **out) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR dy = NULL;
    HX_AUTO_TENSOR is_tie = NULL;
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR ones = NULL;
    HX_AUTO_TENSOR n_ties = NULL;
    HX_AUTO_TENSOR share = NULL;
    HX_TRY(keep_dims(v, v->out[0], &y));
    HX_TRY(keep_dims(v, v->grad_out[0], &dy));
    HX_TRY(hx_compare(v->ctx, HX_OP_equal, x, y, &is_tie));
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[0], 1, &one));
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[0], 0, &zero));
    HX_TRY(hx_where(v->ctx, is_tie, one, zero, &ones));
    HX_TRY(sum_kept(v, ones, &n_ties));
    HX_TRY(hx_div(v->ctx, dy, n_ties, &share));
    return hx_where(v->ctx, is_tie, share, zero, out);
}

hx_status hx__vjp_max(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(share_among_ties(v, v->in[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

/* x minus its mean over the reduced dims, n elements each */
static hx_status deviation(hx_vjp *v, double n, hx_tensor **out) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR mean = NULL;
    HX_TRY(hx_widen(v->ctx, v->in[0], &x)); /* a mean that is rounded to 8 bits leaves nothing of a small deviation */
    HX_TRY(sum_kept(v, x, &sum));
    HX_TRY(hx_affine(v->ctx, sum, 1 / n, 0, &mean));
    return hx_sub(v->ctx, x, mean, out);
}

/* dx = dy 2 (x - mean) / max(n - correction, 0) */
hx_status hx__vjp_var(hx_vjp *v) {
    HX_AUTO_TENSOR away = NULL;
    HX_AUTO_TENSOR slope = NULL;
    HX_AUTO_TENSOR kept = NULL;
    HX_AUTO_TENSOR dy = NULL;
    HX_AUTO_TENSOR g = NULL;
    double n = 1;
    for (int k = 0; k < v->attr->stat.n_dims; k++) n *= (double)v->in_shape[0].dims[v->attr->stat.dims[k]];
    HX_TRY(deviation(v, n, &away));
    HX_TRY(hx_affine(v->ctx, away, 2 / fmax(n - v->attr->stat.correction, 0), 0, &slope));
    HX_TRY(keep_dims(v, v->grad_out[0], &kept));
    HX_TRY(hx_widen(v->ctx, kept, &dy));
    HX_TRY(hx_mul(v->ctx, slope, dy, &g));
    return hx__grad_give_narrowed(v, 0, g);
}

/* (|x| / y)^(p-1), which is 1 for p = 1 and needs no power for p = 2 */
static hx_status norm_slope(hx_vjp *v, hx_tensor *size, hx_tensor **out) {
    double p = v->attr->stat.p;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR ratio = NULL;
    HX_AUTO_TENSOR exponent = NULL;
    HX_TRY(keep_dims(v, v->out[0], &y));
    HX_TRY(hx_div(v->ctx, size, y, &ratio));
    if (p == 2) {
        *out = hx_tensor_move(&ratio);
        return HX_OK;
    }
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[0], p - 1, &exponent));
    return hx_binary(v->ctx, HX_OP_pow, ratio, exponent, out);
}

/* dx = dy sign(x) (|x| / y)^(p-1), for p = inf dy sign(x) / (number of ties) where |x| is y; 0 where x is 0, which the
 * formula leaves open for y = 0 and for p < 1 */
hx_status hx__vjp_pnorm(hx_vjp *v) {
    HX_AUTO_TENSOR size = NULL;
    HX_AUTO_TENSOR sign = NULL;
    HX_AUTO_TENSOR part = NULL;
    HX_AUTO_TENSOR signed_part = NULL;
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR is_zero = NULL;
    HX_AUTO_TENSOR g = NULL;
    HX_TRY(hx_unary(v->ctx, HX_OP_abs, v->in[0], &size));
    if (isinf(v->attr->stat.p)) {
        HX_TRY(share_among_ties(v, size, &part));
    } else {
        HX_AUTO_TENSOR slope = NULL;
        HX_AUTO_TENSOR dy = NULL;
        HX_TRY(norm_slope(v, size, &slope));
        HX_TRY(keep_dims(v, v->grad_out[0], &dy));
        HX_TRY(hx_mul(v->ctx, slope, dy, &part));
    }
    HX_TRY(hx_unary(v->ctx, HX_OP_sign, v->in[0], &sign));
    HX_TRY(hx_mul(v->ctx, part, sign, &signed_part));
    HX_TRY(hx_scalar(v->ctx, v->in_dtype[0], 0, &zero));
    HX_TRY(hx_compare(v->ctx, HX_OP_equal, v->in[0], zero, &is_zero));
    HX_TRY(hx_where(v->ctx, is_zero, zero, signed_part, &g));
    return hx_vjp_give_consume(v, 0, &g);
}
