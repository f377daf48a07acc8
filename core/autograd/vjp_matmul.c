/* Derivatives of products: formulas stand above the functions; dy is the gradient that arrives. */
#include "core/autograd/vjp_impl.h"

/* grad of input i (viewed under `shape`) = or += alpha a b, written where it belongs */
static hx_status product_into(hx_vjp *v, int i, hx_shape shape, hx_tensor *a, hx_tensor *b) {
    hx_tensor *dst;
    HX_AUTO_TENSOR flat = NULL;
    hx_op_attr attr = {.matmul = {.alpha = 1}};
    HX_TRY(hx_vjp_target(v, i, &dst, &attr.matmul.accumulate));
    HX_TRY(hx_tensor_view(dst, shape, &flat));
    return hx_op_run(v->ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &attr, 0, &flat);
}

static hx_status matmul_side(hx_vjp *v, int i, hx_tensor *a, hx_tensor *b) {
    hx_shape batch = v->out_shape[0], own = v->in_shape[i];
    batch.ndim -= 2;
    own.ndim -= 2;
    if (hx_shape_equal(&batch, &own)) return product_into(v, i, v->in_shape[i], a, b);
    return hx__grad_give_op(v, i, HX_OP_matmul, a, b, &(hx_op_attr){.matmul = {.alpha = 1}});
}

/* da = dy b^T, db = a^T dy; broadcast batches are summed */
hx_status hx__vjp_matmul(hx_vjp *v) {
    HX_AUTO_TENSOR t = NULL;
    if (hx_vjp_wants(v, 0)) {
        HX_TRY(hx_tensor_transpose(v->in[1], -1, -2, &t));
        HX_TRY(matmul_side(v, 0, v->grad_out[0], t));
        hx_tensor_destroy(&t);
    }
    if (hx_vjp_wants(v, 1)) {
        HX_TRY(hx_tensor_transpose(v->in[0], -1, -2, &t));
        HX_TRY(matmul_side(v, 1, t, v->grad_out[0]));
    }
    return HX_OK;
}

/* The gradient of y as rows. */
static hx_status linear_rows(const hx_vjp *v, hx_tensor **dy) {
    int64_t rows = 1;
    for (int d = 0; d < v->out_shape[0].ndim - 1; d++) rows *= v->out_shape[0].dims[d];
    return hx_reshape(v->ctx, v->grad_out[0], HX_SHAPE(rows, v->in_shape[1].dims[0]), dy);
}

hx_status hx__vjp_linear_input(const hx_vjp *v, hx_tensor **dx) {
    HX_AUTO_TENSOR dy = NULL;
    HX_AUTO_TENSOR flat = NULL;
    hx_shape shape = v->out_shape[0];
    shape.dims[shape.ndim - 1] = v->in_shape[1].dims[1];
    HX_TRY(linear_rows(v, &dy));
    HX_TRY(hx_matmul(v->ctx, dy, v->in[1], &flat));
    return hx_reshape(v->ctx, flat, shape, dx);
}

hx_status hx__vjp_linear_params(hx_vjp *v, hx_tensor *x) {
    const int64_t k = v->in_shape[1].dims[1], n = v->in_shape[1].dims[0];
    HX_AUTO_TENSOR dy = NULL;
    HX_TRY(linear_rows(v, &dy));
    if (hx_vjp_wants(v, 1)) {
        HX_AUTO_TENSOR dyt = NULL;
        HX_AUTO_TENSOR flat = NULL;
        HX_TRY(hx_tensor_transpose(dy, 0, 1, &dyt));
        HX_TRY(hx_reshape(v->ctx, x, HX_SHAPE(hx_tensor_dim(dy, 0), k), &flat));
        HX_TRY(product_into(v, 1, HX_SHAPE(n, k), dyt, flat));
    }
    if (hx_vjp_wants(v, 2)) {
        hx_tensor *dst;
        hx_op_attr attr = {.reduce = {.n_dims = 1, .dims = {0}}};
        HX_TRY(hx_vjp_target(v, 2, &dst, &attr.reduce.accumulate));
        HX_TRY(hx_op_run(v->ctx, HX_OP_sum, &dy, 1, &attr, 0, &dst));
    }
    return HX_OK;
}

/* x, dy as [R,..]: dx = dy w, dw = dy^T x, dbias = sum of dy over rows */
hx_status hx__vjp_linear(hx_vjp *v) {
    if (hx_vjp_wants(v, 0)) {
        HX_AUTO_TENSOR dy = NULL;
        HX_TRY(linear_rows(v, &dy));
        HX_TRY(product_into(v, 0, HX_SHAPE(hx_tensor_dim(dy, 0), v->in_shape[1].dims[1]), dy, v->in[1]));
    }
    return hx__vjp_linear_params(v, v->in[0]);
}
