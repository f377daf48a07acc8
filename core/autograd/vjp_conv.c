/* Derivatives of convolutions and pools: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* The forward op's attributes with the spatial dims of x. */
static hx_op_attr attr_back(const hx_vjp *v) {
    hx_op_attr attr = *v->attr;
    for (int d = 0; d < attr.conv.n; d++) attr.conv.input[d] = v->in_shape[0].dims[d + 2];
    return attr;
}

/* dw = sum over batch and windows of dy x, where it belongs */
static hx_status conv_weight(hx_vjp *v) {
    hx_tensor *dst;
    hx_op_attr attr = *v->attr;
    for (int d = 0; d < attr.conv.n; d++) attr.conv.size[d] = v->in_shape[1].dims[d + 2];
    HX_TRY(hx_vjp_target(v, 1, &dst, &attr.conv.accumulate));
    return hx_op_run(v->ctx, HX_OP_conv_bwd_w, (hx_tensor *[]){v->in[0], v->grad_out[0]}, 2, &attr, 0, &dst);
}

/* dbias = sum of dy over all dims but the channels */
static hx_status conv_bias(hx_vjp *v) {
    hx_tensor *dst;
    hx_op_attr attr = {.reduce = {.n_dims = v->attr->conv.n + 1}};
    for (int d = 1; d <= v->attr->conv.n; d++) attr.reduce.dims[d] = d + 1;
    HX_TRY(hx_vjp_target(v, 2, &dst, &attr.reduce.accumulate));
    return hx_op_run(v->ctx, HX_OP_sum, &v->grad_out[0], 1, &attr, 0, &dst);
}

/* dx = sum over outputs and the windows that read x of w dy */
hx_status hx__vjp_conv(hx_vjp *v) {
    hx_op_attr attr = attr_back(v);
    HX_TRY(hx__grad_give_op(v, 0, HX_OP_conv_bwd_x, v->in[1], v->grad_out[0], &attr));
    if (hx_vjp_wants(v, 1)) HX_TRY(conv_weight(v));
    if (hx_vjp_wants(v, 2)) HX_TRY(conv_bias(v));
    return HX_OK;
}

/* dx = sum of dy over the windows that chose x */
hx_status hx__vjp_max_pool(hx_vjp *v) {
    hx_op_attr attr = attr_back(v);
    return hx__grad_give_op(v, 0, HX_OP_max_pool_bwd, v->out[1], v->grad_out[0], &attr);
}

/* dx = sum of dy / (number of elements) over the windows that contain x */
hx_status hx__vjp_avg_pool(hx_vjp *v) {
    hx_op_attr attr = attr_back(v);
    return hx__grad_give_op(v, 0, HX_OP_avg_pool_bwd, v->grad_out[0], NULL, &attr);
}
