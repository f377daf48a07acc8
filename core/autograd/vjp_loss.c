/* Derivatives of the fused loss: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* dlogits = (softmax - onehot) dloss at valid targets */
hx_status hx__vjp_cross_entropy(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    hx_tensor *in[] = {v->in[0], v->in[1], v->out[2], v->grad_out[0]};
    HX_TRY(hx_vjp_reuse(v, 0, &g));
    HX_TRY(hx_op_run(v->ctx, HX_OP_cross_entropy_bwd, in, 4, v->attr, 0, &g));
    return hx_vjp_give_consume(v, 0, &g);
}
