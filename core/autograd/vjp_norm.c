/* Derivatives of norms: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* One fused op writes the gradients of x and of the n_weights parameters after it. */
static hx_status norm_backward(hx_vjp *v, hx_op op, hx_tensor *const *in, int n_in, int n_weights) {
    hx_tensor *dst[3] = {NULL};
    unsigned skip = 0;
    hx_op_attr attr = *v->attr;
    attr.norm.accumulate = 0;
    for (int i = 0; i <= n_weights; i++) {
        bool accumulate = false;
        if (!hx_vjp_wants(v, i)) {
            skip |= 1u << i;
            continue;
        }
        HX_TRY(hx_vjp_target(v, i, &dst[i], &accumulate));
        if (accumulate) attr.norm.accumulate |= 1u << i;
    }
    return hx_op_run(v->ctx, op, in, n_in, &attr, skip, dst);
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
