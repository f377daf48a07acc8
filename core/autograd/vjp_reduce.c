/* Derivatives of reductions: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* Each summed element receives dy. */
hx_status hx__vjp_sum(hx_vjp *v) {
    HX_AUTO_TENSOR dense = NULL;
    HX_AUTO_TENSOR kept = NULL;
    HX_AUTO_TENSOR g = NULL;
    hx_shape shape = v->in_shape[0];
    for (int k = 0; k < v->attr->reduce.n_dims; k++) shape.dims[v->attr->reduce.dims[k]] = 1;
    HX_TRY(hx_contiguous(v->ctx, v->grad_out[0], &dense));
    HX_TRY(hx_tensor_view(dense, shape, &kept));
    HX_TRY(hx_tensor_expand(kept, v->in_shape[0], &g));
    return hx_vjp_give_consume(v, 0, &g);
}

hx_status hx__vjp_softmax(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_softmax_bwd, v->out[0], v->grad_out[0], NULL);
}
