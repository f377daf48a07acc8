/* What shape rules and typed functions share. The message of a failure names the op, the operands' shapes and the dims
 * that differ. */
#include <string.h>

#include "core/op/op_impl.h"

hx_status hx__need_float(const hx_op_args *a, int i) {
    if (hx_dtype_is_float(a->in[i].dtype)) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: operand %d is %s: expected a floating type", a->name, i, hx_dtype_name(a->in[i].dtype));
}

hx_status hx__need_same_float(const hx_op_args *a, int first, int last) {
    HX_TRY(hx__need_float(a, first));
    return hx__need_same(a, first, last);
}

hx_status hx__need_same(const hx_op_args *a, int first, int last) {
    for (int i = first + 1; i <= last; i++)
        if (a->in[i].present && a->in[i].dtype != a->in[first].dtype)
            return HX_FAIL(HX_ERR_DTYPE, "%s: operands %d and %d are %s and %s: expected one dtype", a->name, first, i,
                           hx_dtype_name(a->in[first].dtype), hx_dtype_name(a->in[i].dtype));
    return HX_OK;
}

hx_status hx__need_not_complex(const hx_op_args *a, int i) {
    if (!hx_dtype_is_complex(a->in[i].dtype)) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: operand %d is %s: expected a type with an order", a->name, i, hx_dtype_name(a->in[i].dtype));
}

hx_status hx__need_float_or_complex(const hx_op_args *a, int i) {
    if (hx_dtype_is_float(a->in[i].dtype) || hx_dtype_is_complex(a->in[i].dtype)) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: operand %d is %s: expected a floating or a complex type", a->name, i, hx_dtype_name(a->in[i].dtype));
}

hx_status hx__need_dim(const hx_op_args *a, int i, int dim) {
    if (dim >= 0 && dim < a->in[i].shape.ndim) return HX_OK;
    char text[HX_SHAPE_TEXT];
    return HX_FAIL(HX_ERR_SHAPE, "%s: dim %d of operand %d, which is %s: expected 0 to %d", a->name, dim, i,
                   hx_shape_text(&a->in[i].shape, text), a->in[i].shape.ndim - 1);
}

hx_status hx__need_dtype(const hx_op_args *a, int i, hx_dtype want) {
    if (a->in[i].dtype == want) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected %s", a->name, i, hx_dtype_name(a->in[i].dtype), hx_dtype_name(want));
}

hx_status hx__need_statistic(const hx_op_args *a, int i, int of) {
    hx_dtype want = hx_dtype_accum(a->in[of].dtype);
    if (a->in[i].dtype == want) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected %s, a statistic of operand %d", a->name, i, hx_dtype_name(a->in[i].dtype),
                   hx_dtype_name(want), of);
}

hx_status hx__need_ids(const hx_op_args *a, int i) {
    hx_dtype d = a->in[i].dtype;
    if (d == HX_I32 || d == HX_I64) return HX_OK;
    return HX_FAIL(HX_ERR_DTYPE, "%s: operand %d is %s: expected ids as i32 or i64", a->name, i, hx_dtype_name(d));
}

hx_status hx__need_shape(const hx_op_args *a, int i, const hx_shape *want) {
    if (hx_shape_equal(&a->in[i].shape, want)) return HX_OK;
    char got[HX_SHAPE_TEXT], expected[HX_SHAPE_TEXT];
    return HX_FAIL(HX_ERR_SHAPE, "%s: operand %d is %s: expected %s", a->name, i, hx_shape_text(&a->in[i].shape, got), hx_shape_text(want, expected));
}

hx_status hx__need_ndim(const hx_op_args *a, int i, int least, int most) {
    int n = a->in[i].shape.ndim;
    if (n >= least && n <= most) return HX_OK;
    char text[HX_SHAPE_TEXT];
    return HX_FAIL(HX_ERR_SHAPE, "%s: operand %d is %s: expected %d to %d dims", a->name, i, hx_shape_text(&a->in[i].shape, text), least, most);
}

hx_status hx__need_part(const char *name, int64_t start, int64_t n, int64_t total) {
    bool is_whole = start == 0 && total == 0;
    if (is_whole || (start >= 0 && n <= total && start <= total - n)) return HX_OK;
    return HX_FAIL(HX_ERR_SHAPE, "%s: a part of %lld from %lld on, of %lld in all: expected it to lie within", name, (long long)n, (long long)start,
                   (long long)total);
}

hx_shape hx__rows_of(const hx_shape *s) {
    hx_shape r = *s;
    r.dims[--r.ndim] = 0;
    return r;
}

int64_t hx__last_dim(const hx_shape *s) {
    return s->dims[s->ndim - 1];
}

void hx__set_out(hx_op_meta *out, hx_shape shape, hx_dtype dtype) {
    *out = (hx_op_meta){shape, dtype, true};
}

hx_status hx__run1(hx_ctx *ctx, hx_op op, hx_tensor *x, const hx_op_attr *attr, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, op, &x, 1, attr, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx__run_keep(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, const hx_op_attr *attr, hx_tensor **out, int n_keep) {
    hx_tensor *y[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(ctx, op, in, n_in, attr, 0, y));
    memcpy(out, y, sizeof *y * (size_t)n_keep);
    for (int i = n_keep; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&y[i]);
    return HX_OK;
}

hx_status hx__run_along(hx_ctx *ctx, hx_op op, hx_tensor *x, int dim, const hx_op_attr *attr, hx_tensor **out) {
    int d;
    HX_NEED_TENSOR(x);
    HX_TRY(hx_shape_dim(hx_tensor_ndim(x), dim, &d));
    if (d == hx_tensor_ndim(x) - 1) return hx__run1(ctx, op, x, attr, out);
    HX_AUTO_TENSOR moved = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_TRY(hx_transpose(ctx, x, d, -1, &moved));
    HX_TRY(hx__run1(ctx, op, moved, attr, &y));
    return hx_transpose(ctx, y, d, -1, out);
}
