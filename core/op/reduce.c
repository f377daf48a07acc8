/* Reductions and what is normalised by one. */
#include <math.h>
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

/* The shape that is left of operand 0 without its n dims `dims`, and how many elements each of the rest stands for. */
static hx_status reduced(const hx_op_args *a, int n, const int *dims, bool keepdim, hx_shape *out, int64_t *n_each) {
    const hx_shape *x = &a->in[0].shape;
    hx_shape s = {0};
    int next = 0;
    *n_each = 1;
    for (int k = 0; k < n; k++)
        if (n > x->ndim || dims[k] < 0 || dims[k] >= x->ndim || (k > 0 && dims[k] <= dims[k - 1]))
            return HX_FAIL(HX_ERR_SHAPE, "%s: dims[%d] = %d: expected ascending dims within 0..%d", a->name, k, dims[k], x->ndim - 1);
    for (int d = 0; d < x->ndim; d++) {
        bool goes = next < n && dims[next] == d;
        next += goes;
        if (goes) *n_each *= x->dims[d];
        if (!goes) s.dims[s.ndim++] = x->dims[d];
        else if (keepdim) s.dims[s.ndim++] = 1;
    }
    *out = s;
    return HX_OK;
}

hx_status hx__infer_sum(const hx_op_args *a, hx_op_meta *out) {
    hx_shape s;
    int64_t n_each;
    HX_TRY(hx__need_float_or_complex(a, 0));
    HX_TRY(reduced(a, a->attr->reduce.n_dims, a->attr->reduce.dims, a->attr->reduce.keepdim, &s, &n_each));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_max(const hx_op_args *a, hx_op_meta *out) {
    char text[HX_SHAPE_TEXT];
    hx_shape s;
    int64_t n_each;
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(reduced(a, a->attr->reduce.n_dims, a->attr->reduce.dims, a->attr->reduce.keepdim, &s, &n_each));
    if (n_each == 0)
        return HX_FAIL(HX_ERR_SHAPE, "%s over no elements of %s: expected at least one", a->name, hx_shape_text(&a->in[0].shape, text));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_stat(const hx_op_args *a, hx_op_meta *out) {
    hx_shape s;
    int64_t n_each;
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(reduced(a, a->attr->stat.n_dims, a->attr->stat.dims, a->attr->stat.keepdim, &s, &n_each));
    if (a->op == HX_OP_pnorm && !(a->attr->stat.p > 0)) return HX_FAIL(HX_ERR_ARG, "pnorm: p = %g: expected p > 0", a->attr->stat.p);
    if (a->op == HX_OP_var && !(a->attr->stat.correction >= 0))
        return HX_FAIL(HX_ERR_ARG, "var: correction = %g: expected >= 0", a->attr->stat.correction);
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_arg(const hx_op_args *a, hx_op_meta *out) {
    char text[HX_SHAPE_TEXT];
    hx_shape s = a->in[0].shape;
    int dim = a->attr->dim.dim;
    HX_TRY(hx__need_not_complex(a, 0));
    HX_TRY(hx__need_dim(a, 0, dim));
    if (s.dims[dim] == 0)
        return HX_FAIL(HX_ERR_SHAPE, "%s along dim %d of %s: expected at least one element", a->name, dim, hx_shape_text(&s, text));
    s.dims[dim] = 1;
    if (!a->attr->dim.keepdim) {
        for (int d = dim; d + 1 < s.ndim; d++) s.dims[d] = s.dims[d + 1];
        s.dims[--s.ndim] = 0;
    }
    hx__set_out(out, s, HX_I64);
    return HX_OK;
}

hx_status hx__infer_topk(const hx_op_args *a, hx_op_meta *out) {
    hx_shape s = a->in[0].shape;
    int64_t k = a->attr->topk.k;
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    if (k < 0 || k > hx__last_dim(&s))
        return HX_FAIL(HX_ERR_SHAPE, "topk: k = %lld of %lld: expected 0 to all of them", (long long)k, (long long)hx__last_dim(&s));
    s.dims[s.ndim - 1] = k;
    hx__set_out(&out[0], s, a->in[0].dtype);
    hx__set_out(&out[1], s, HX_I64);
    return HX_OK;
}

hx_status hx__infer_sumsq(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_float(a, 0));
    hx__set_out(out, HX_SCALAR, HX_F64);
    return HX_OK;
}

hx_status hx__infer_norm_blocks(const hx_op_args *a, hx_op_meta *out) {
    const double p = a->attr->blocks.p;
    const int64_t n = hx_shape_count(&a->in[0].shape);
    HX_TRY(hx__need_float(a, 0));
    if (p != 1 && p != 2 && p != HUGE_VAL) return HX_FAIL(HX_ERR_ARG, "norm_blocks: p = %g: expected 1, 2 or HUGE_VAL", p);
    hx__set_out(out, HX_SHAPE(n / HX_NORM_BLOCK + (n % HX_NORM_BLOCK != 0)), HX_F64);
    return HX_OK;
}

hx_status hx_softmax(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    return hx__run_along(ctx, HX_OP_softmax, x, dim, NULL, out);
}

hx_status hx_log_softmax(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    return hx__run_along(ctx, HX_OP_log_softmax, x, dim, NULL, out);
}

hx_status hx__reduce_dims(const hx_tensor *x, const int *dims, int n_dims, int out[HX_MAX_DIMS], int *n_out) {
    HX_NEED_TENSOR(x);
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

/* y in x's dtype */
static hx_status narrowed(hx_ctx *ctx, hx_tensor *y, const hx_tensor *x, hx_tensor **out) {
    if (hx_tensor_dtype(y) != hx_tensor_dtype(x)) return hx_cast(ctx, y, hx_tensor_dtype(x), out);
    *out = hx_tensor_retain(y);
    return HX_OK;
}

hx_status hx_mean(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR mean = NULL;
    HX_TRY(hx_widen(ctx, x, &wide));
    HX_TRY(hx_sum(ctx, wide, dims, n_dims, keepdim, &sum));
    double parts = (double)hx_tensor_count(x) / (double)hx_tensor_count(sum); /* 0/0: the mean of nothing is NaN */
    if (hx_tensor_count(sum) == 0) parts = 1;
    HX_TRY(hx_affine(ctx, sum, 1 / parts, 0, &mean));
    return narrowed(ctx, mean, x, out);
}

hx_status hx_sumsq_into(hx_ctx *ctx, hx_tensor *x, bool accumulate, hx_tensor *out) {
    hx_ctx quiet = hx_no_grad(ctx);
    return hx_op_run(&quiet, HX_OP_sumsq, &x, 1, &(hx_op_attr){.reduce = {.accumulate = accumulate}}, 0, &out);
}

static hx_status extremum(hx_ctx *ctx, hx_op op, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    hx_op_attr attr = {.reduce = {.keepdim = keepdim}};
    HX_TRY(hx__reduce_dims(x, dims, n_dims, attr.reduce.dims, &attr.reduce.n_dims));
    return hx__run1(ctx, op, x, &attr, out);
}

hx_status hx_max(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    return extremum(ctx, HX_OP_max, x, dims, n_dims, keepdim, out);
}

hx_status hx_min(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    return extremum(ctx, HX_OP_min, x, dims, n_dims, keepdim, out);
}

hx_status hx_var(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, double correction, bool keepdim, hx_tensor **out) {
    hx_op_attr attr = {.stat = {.keepdim = keepdim, .correction = correction}};
    HX_TRY(hx__reduce_dims(x, dims, n_dims, attr.stat.dims, &attr.stat.n_dims));
    return hx__run1(ctx, HX_OP_var, x, &attr, out);
}

/* Square root with a gradient of 0 at 0, where the plain one is infinite and meets the variance's, which is 0. */
static hx_status root(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR is_zero = NULL;
    HX_AUTO_TENSOR safe = NULL;
    HX_AUTO_TENSOR y = NULL;
    if (!hx__tape_wants(ctx, &x, 1)) return hx_unary(ctx, HX_OP_sqrt, x, out);
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(x), 0, &zero));
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(x), 1, &one));
    HX_TRY(hx_compare(ctx, HX_OP_equal, x, zero, &is_zero));
    HX_TRY(hx_where(ctx, is_zero, one, x, &safe));
    HX_TRY(hx_unary(ctx, HX_OP_sqrt, safe, &y));
    return hx_where(ctx, is_zero, zero, y, out);
}

hx_status hx_std(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, double correction, bool keepdim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR var = NULL;
    HX_AUTO_TENSOR std = NULL;
    HX_TRY(hx_widen(ctx, x, &wide));
    HX_TRY(hx_var(ctx, wide, dims, n_dims, correction, keepdim, &var));
    HX_TRY(root(ctx, var, &std));
    return narrowed(ctx, std, x, out);
}

hx_status hx_norm(hx_ctx *ctx, hx_tensor *x, double p, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    hx_op_attr attr = {.stat = {.keepdim = keepdim, .p = p}};
    HX_TRY(hx__reduce_dims(x, dims, n_dims, attr.stat.dims, &attr.stat.n_dims));
    return hx__run1(ctx, HX_OP_pnorm, x, &attr, out);
}

static hx_status arg(hx_ctx *ctx, hx_op op, hx_tensor *x, int dim, bool keepdim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_ctx quiet = hx_no_grad(ctx); /* an index has no derivative to record */
    hx_op_attr attr = {.dim = {.keepdim = keepdim}};
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &attr.dim.dim));
    return hx__run1(&quiet, op, x, &attr, out);
}

hx_status hx_argmax(hx_ctx *ctx, hx_tensor *x, int dim, bool keepdim, hx_tensor **out) {
    return arg(ctx, HX_OP_argmax, x, dim, keepdim, out);
}

hx_status hx_argmin(hx_ctx *ctx, hx_tensor *x, int dim, bool keepdim, hx_tensor **out) {
    return arg(ctx, HX_OP_argmin, x, dim, keepdim, out);
}

hx_status hx_topk(hx_ctx *ctx, hx_tensor *x, int64_t k, bool smallest, hx_tensor **values, hx_tensor **indices) {
    hx_tensor *y[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(ctx, HX_OP_topk, &x, 1, &(hx_op_attr){.topk = {k, smallest}}, 0, y));
    *values = y[0];
    *indices = y[1];
    return HX_OK;
}
