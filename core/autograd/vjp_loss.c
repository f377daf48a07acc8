/* Derivatives of the fused loss: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* dlogits = (softmax - onehot) dloss at valid targets; of a part of the columns under the logsumexp of the whole: what the
 * parts lose under their own does not add up to the loss. */
hx_status hx__vjp_cross_entropy(hx_vjp *v) {
    HX_AUTO_TENSOR g = NULL;
    hx_tensor *lse = v->in[2] ? v->in[2] : v->out[2], *in[] = {v->in[0], v->in[1], lse, v->grad_out[0]};
    if (v->in[2] == NULL && v->attr->cross_entropy.total > v->in_shape[0].dims[v->in_shape[0].ndim - 1])
        return HX_FAIL(HX_ERR_UNSUPPORTED, "cross_entropy of a part: its derivative needs the logsumexp of the whole as an operand");
    if (!hx_vjp_wants(v, 0)) return HX_OK;
    HX_TRY(hx_vjp_reuse(v, 0, &g));
    HX_TRY(hx_op_run(v->ctx, HX_OP_cross_entropy_bwd, in, 4, v->attr, 0, &g));
    return hx_vjp_give_consume(v, 0, &g);
}
