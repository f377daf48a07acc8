/* Derivatives of joining, picking and padding: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* Each operand receives its part of dy. */
hx_status hx__vjp_cat(hx_vjp *v) {
    int dim = v->attr->dim.dim;
    int64_t start = 0;
    for (int i = 0; i < v->n_in; i++) {
        HX_AUTO_TENSOR part = NULL;
        int64_t stop = start + v->in_shape[i].dims[dim];
        if (hx_vjp_wants(v, i)) {
            HX_TRY(hx_tensor_slice(v->grad_out[0], dim, start, stop, 1, &part));
            HX_TRY(hx_vjp_give_consume(v, i, &part));
        }
        start = stop;
    }
    return HX_OK;
}

static hx_status scatter(hx_vjp *v, hx_tensor *index, int dim) {
    hx_op_attr attr = {.dim = {.dim = dim, .size = v->in_shape[0].dims[dim]}};
    return hx__grad_give_op(v, 0, HX_OP_gather_bwd, index, v->grad_out[0], &attr);
}

/* dx[..,index[..,j,..],..] += dy[..,j,..] */
hx_status hx__vjp_gather(hx_vjp *v) {
    return scatter(v, v->in[1], v->attr->dim.dim);
}

hx_status hx__vjp_topk(hx_vjp *v) {
    return scatter(v, v->out[1], v->in_shape[0].ndim - 1);
}

hx_status hx__vjp_pad(hx_vjp *v) {
    return hx__grad_give_op(v, 0, HX_OP_pad_bwd, v->grad_out[0], NULL, v->attr);
}
