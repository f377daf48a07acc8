/* Products of matrices. */
#include "core/op/op_impl.h"

hx_status hx__infer_matmul(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(hx__need_ndim(a, 0, 2, HX_MAX_DIMS));
    HX_TRY(hx__need_ndim(a, 1, 2, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape, *y = &a->in[1].shape;
    char tx[HX_SHAPE_TEXT], ty[HX_SHAPE_TEXT];
    int64_t k = hx__last_dim(x), k2 = y->dims[y->ndim - 2];
    if (k != k2)
        return HX_FAIL(HX_ERR_SHAPE, "a %s x b %s: inner dims %lld and %lld differ", hx_shape_text(x, tx), hx_shape_text(y, ty),
                       (long long)k, (long long)k2);
    hx_shape bx = *x, by = *y, s;
    bx.ndim -= 2;
    by.ndim -= 2;
    HX_TRY(hx_shape_broadcast(&bx, &by, &s));
    s.dims[s.ndim++] = x->dims[x->ndim - 2];
    s.dims[s.ndim++] = hx__last_dim(y);
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_linear(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    HX_TRY(hx__need_ndim(a, 1, 2, 2));
    hx_shape s = a->in[0].shape;
    const hx_shape *w = &a->in[1].shape;
    char tx[HX_SHAPE_TEXT], tw[HX_SHAPE_TEXT];
    if (hx__last_dim(&s) != w->dims[1])
        return HX_FAIL(HX_ERR_SHAPE, "x %s, w %s: last dims %lld and %lld differ", hx_shape_text(&s, tx), hx_shape_text(w, tw),
                       (long long)hx__last_dim(&s), (long long)w->dims[1]);
    if (a->n_in > 2 && a->in[2].present) {
        hx_shape bias = {1, {w->dims[0]}};
        HX_TRY(hx__need_shape(a, 2, &bias));
    }
    s.dims[s.ndim - 1] = w->dims[0];
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

static hx_status product(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &(hx_op_attr){.matmul = {.alpha = 1}}, 0, &y));
    *out = y;
    return HX_OK;
}

/* [K] x [..,K,N] as [1,K] x [..,K,N]; [..,M,K] x [K] as [..,M,K] x [K,1]; the dim of 1 is dropped afterwards. */
static hx_status product_with_vector(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    bool is_row = hx_tensor_ndim(a) == 1, is_column = hx_tensor_ndim(b) == 1;
    HX_AUTO_TENSOR row = NULL;
    HX_AUTO_TENSOR column = NULL;
    HX_AUTO_TENSOR y = NULL;
    if (is_row) HX_TRY(hx_reshape(ctx, a, HX_SHAPE(1, hx_tensor_dim(a, 0)), &row));
    if (is_column) HX_TRY(hx_reshape(ctx, b, HX_SHAPE(hx_tensor_dim(b, 0), 1), &column));
    HX_TRY(product(ctx, is_row ? row : a, is_column ? column : b, &y));
    hx_shape s = hx_tensor_shape(y);
    int64_t last = s.dims[s.ndim - 1];
    s.ndim -= is_row + is_column;
    if (is_row && !is_column) s.dims[s.ndim - 1] = last;
    return hx_reshape(ctx, y, s, out);
}

hx_status hx_matmul(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    HX_NEED_TENSOR(a);
    HX_NEED_TENSOR(b);
    bool has_vector = hx_tensor_ndim(a) == 1 || hx_tensor_ndim(b) == 1;
    return has_vector ? product_with_vector(ctx, a, b, out) : product(ctx, a, b, out);
}

hx_status hx_linear_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_linear, (hx_tensor *[]){x, w, bias}, bias ? 3 : 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}
