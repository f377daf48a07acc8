/* Derivatives of lookups: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

hx_status hx__vjp_embedding(hx_vjp *v) {
    hx_tensor *dst;
    hx_op_attr attr = *v->attr;
    attr.embedding.rows = v->in_shape[1].dims[0];
    HX_TRY(hx_vjp_target(v, 1, &dst, &attr.embedding.accumulate));
    return hx_op_run(v->ctx, HX_OP_embedding_bwd, (hx_tensor *[]){v->in[0], v->grad_out[0]}, 2, &attr, 0, &dst);
}
