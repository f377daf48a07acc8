/* Derivatives of attention and of rotary positions: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

hx_status hx__vjp_attention(hx_vjp *v) {
    hx_tensor *mask = v->in[3]; /* NULL: there was none */
    hx_tensor *g[3] = {NULL}, *in[] = {v->in[0], v->in[1], v->in[2], v->out[0], v->out[1], v->grad_out[0], mask};
    HX_TRY(hx_op_run(v->ctx, HX_OP_attention_bwd, in, mask ? 7 : 6, v->attr, 0, g));
    hx_status status = HX_OK;
    for (int i = 0; i < 3; i++) {
        if (status == HX_OK) status = hx_vjp_give_consume(v, i, &g[i]);
        hx_tensor_destroy(&g[i]);
    }
    return status;
}

/* A rotation's adjoint turns the other way. */
hx_status hx__vjp_rope(hx_vjp *v) {
    hx_op_attr attr = *v->attr;
    attr.rope.inverse = !attr.rope.inverse;
    return hx__grad_give_op(v, 0, HX_OP_rope, v->grad_out[0], NULL, &attr);
}
