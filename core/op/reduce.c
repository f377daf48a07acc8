/* Reductions and what is normalised by one. */
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

hx_status hx__infer_sum(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_float(a, 0));
    const hx_shape *x = &a->in[0].shape;
    hx_shape s = {0};
    int next = 0, n = a->attr->reduce.n_dims;
    for (int k = 0; k < n; k++)
        if (n > x->ndim || a->attr->reduce.dims[k] < 0 || a->attr->reduce.dims[k] >= x->ndim || (k > 0 && a->attr->reduce.dims[k] <= a->attr->reduce.dims[k - 1]))
            return HX_FAIL(HX_ERR_SHAPE, "sum: dims[%d] = %d: expected ascending dims within 0..%d", k, a->attr->reduce.dims[k], x->ndim - 1);
    for (int d = 0; d < x->ndim; d++) {
        bool summed = next < n && a->attr->reduce.dims[next] == d;
        next += summed;
        if (!summed) s.dims[s.ndim++] = x->dims[d];
        else if (a->attr->reduce.keepdim) s.dims[s.ndim++] = 1;
    }
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_sumsq(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_float(a, 0));
    hx__set_out(out, HX_SCALAR, HX_F64);
    return HX_OK;
}

/* The kernels work along the last dim: another one is moved there and back. */
static hx_status along(hx_ctx *ctx, hx_op op, hx_tensor *x, int dim, hx_tensor **out) {
    HX_AUTO_TENSOR turned = NULL;
    HX_AUTO_TENSOR y = NULL;
    int d;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    if (d == x->array.ndim - 1) return hx__run1(ctx, op, x, NULL, out);
    HX_TRY(hx_transpose(ctx, x, d, -1, &turned));
    HX_TRY(hx__run1(ctx, op, turned, NULL, &y));
    return hx_transpose(ctx, y, d, -1, out);
}

hx_status hx_softmax(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    return along(ctx, HX_OP_softmax, x, dim, out);
}

hx_status hx__reduce_dims(const hx_tensor *x, const int *dims, int n_dims, int out[HX_MAX_DIMS], int *n_out) {
    unsigned wanted = 0;
    if (n_dims < 0 || n_dims > x->array.ndim) return HX_FAIL(HX_ERR_SHAPE, "%d dims to reduce of %d", n_dims, x->array.ndim);
    for (int i = 0; i < n_dims; i++) {
        int d;
        HX_TRY(hx_shape_dim(x->array.ndim, dims[i], &d));
        if (wanted >> d & 1) return HX_FAIL(HX_ERR_SHAPE, "dim %d is named twice", d);
        wanted |= 1u << d;
    }
    *n_out = 0;
    for (int d = 0; d < x->array.ndim; d++)
        if (n_dims == 0 || (wanted >> d & 1)) out[(*n_out)++] = d;
    return HX_OK;
}

hx_status hx_sum(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    hx_op_attr attr = {.reduce = {.keepdim = keepdim}};
    HX_TRY(hx__reduce_dims(x, dims, n_dims, attr.reduce.dims, &attr.reduce.n_dims));
    return hx__run1(ctx, HX_OP_sum, x, &attr, out);
}

hx_status hx_mean(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(hx_sum(ctx, x, dims, n_dims, keepdim, &sum));
    double parts = (double)hx_tensor_count(x) / (double)hx_tensor_count(sum); /* 0/0: the mean of nothing is NaN */
    if (hx_tensor_count(sum) == 0) parts = 1;
    return hx_affine(ctx, sum, 1 / parts, 0, out);
}

hx_status hx_sumsq_into(hx_ctx *ctx, hx_tensor *x, bool accumulate, hx_tensor *out) {
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    return hx_op_run(&quiet, HX_OP_sumsq, &x, 1, &(hx_op_attr){.reduce = {.accumulate = accumulate}}, 0, &out);
}
