/* Derivatives of norms: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* What one fused op writes: output k is the gradient of x, k = 0, or of a parameter. */
typedef struct norm_targets {
    hx_tensor *dst[3];
    unsigned skip;
    hx_op_attr attr;
} norm_targets;

static norm_targets no_targets(const hx_vjp *v) {
    norm_targets t = {.attr = *v->attr};
    t.attr.norm.accumulate = 0;
    return t;
}

/* Output k goes to where the gradient of input i is collected, if it is wanted. */
static hx_status set_target(hx_vjp *v, int k, int i, norm_targets *t) {
    bool accumulate = false;
    if (!hx_vjp_wants(v, i)) {
        t->skip |= 1u << k;
        return HX_OK;
    }
    HX_TRY(hx_vjp_target(v, i, &t->dst[k], &accumulate));
    if (accumulate) t->attr.norm.accumulate |= 1u << k;
    return HX_OK;
}

/* One fused op writes the gradients of x and of the n_weights parameters after it. */
static hx_status norm_backward(hx_vjp *v, hx_op op, hx_tensor *const *in, int n_in, int n_weights) {
    norm_targets t = no_targets(v);
    for (int i = 0; i <= n_weights; i++) HX_TRY(set_target(v, i, i, &t));
    return hx_op_run(v->ctx, op, in, n_in, &t.attr, t.skip, t.dst);
}

hx_status hx__vjp_layernorm(hx_vjp *v) {
    return norm_backward(v, HX_OP_layernorm_bwd, (hx_tensor *[]){v->in[0], v->in[1], v->out[1], v->out[2], v->grad_out[0]}, 5, 2);
}

hx_status hx__vjp_rmsnorm(hx_vjp *v) {
    return norm_backward(v, HX_OP_rmsnorm_bwd, (hx_tensor *[]){v->in[0], v->in[1], v->out[1], v->grad_out[0]}, 4, 1);
}

/* The input that output i of the backward op is the gradient of has the same number. */
hx_status hx__vjp_batchnorm(hx_vjp *v) {
    return norm_backward(v, HX_OP_batchnorm_bwd, (hx_tensor *[]){v->in[0], v->out[1], v->out[2], v->grad_out[0], v->in[1]}, 5, 2);
}

/* ---- norms of a sum s = x + r ---- */

/* x and r receive one tensor; whoever adds to it later makes a copy while the other holds it. */
static hx_status give_both(hx_vjp *v, hx_tensor *g) {
    for (int i = 0; i < 2; i++) {
        hx_tensor *same = hx_tensor_retain(g);
        HX_TRY(hx_vjp_give_consume(v, i, &same));
    }
    return HX_OK;
}

/* dx = dr = ds + the norm's part, which is 0 without dy; the parameters come after x and r.
 * in: operands of the norm's derivative, the last two dy and ds, either of which may be NULL */
static hx_status add_norm_backward(hx_vjp *v, hx_op op, hx_tensor *const *in, int n_in, int n_weights) {
    hx_tensor *dy = in[n_in - 2], *ds = in[n_in - 1];
    norm_targets t = no_targets(v);
    if (dy == NULL) return give_both(v, ds);
    const bool is_shared = hx_vjp_wants(v, 0) && hx_vjp_wants(v, 1);
    if (!is_shared) HX_TRY(set_target(v, 0, hx_vjp_wants(v, 0) ? 0 : 1, &t));
    for (int k = 1; k <= n_weights; k++) HX_TRY(set_target(v, k, 1 + k, &t));
    HX_TRY(hx_op_run(v->ctx, op, in, n_in, &t.attr, t.skip, t.dst));
    if (!is_shared) return HX_OK;
    HX_AUTO_TENSOR dx = t.dst[0];
    return give_both(v, dx);
}

hx_status hx__vjp_add_layernorm(hx_vjp *v) {
    hx_tensor *const in[] = {v->out[3], v->in[2], v->out[1], v->out[2], v->grad_out[0], v->grad_out[3]};
    return add_norm_backward(v, HX_OP_layernorm_bwd, in, 6, 2);
}

hx_status hx__vjp_add_rmsnorm(hx_vjp *v) {
    hx_tensor *const in[] = {v->out[2], v->in[2], v->out[1], v->grad_out[0], v->grad_out[2]};
    return add_norm_backward(v, HX_OP_rmsnorm_bwd, in, 5, 1);
}
