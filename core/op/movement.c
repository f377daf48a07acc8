/* Joining and padding: elements move as they are, whatever their dtype. */
#include "core/base/mem.h"
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

hx_status hx__infer_cat(const hx_op_args *a, hx_op_meta *out) {
    int dim = a->attr->dim.dim;
    hx_shape s = a->in[0].shape;
    HX_TRY(hx__need_dim(a, 0, dim));
    HX_TRY(hx__need_same(a, 0, a->n_in - 1));
    for (int i = 1; i < a->n_in; i++) {
        if (!a->in[i].present) return HX_FAIL(HX_ERR_ARG, "cat: operand %d is NULL", i);
        HX_TRY(hx__need_ndim(a, i, s.ndim, s.ndim));
        hx_shape want = a->in[0].shape;
        want.dims[dim] = a->in[i].shape.dims[dim];
        HX_TRY(hx__need_shape(a, i, &want));
        if (__builtin_add_overflow(s.dims[dim], want.dims[dim], &s.dims[dim]))
            return HX_FAIL(HX_ERR_OVERFLOW, "cat: dim %d exceeds 64 bits", dim);
    }
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

/* How far each mode can reach beyond an edge of a dim of n elements. */
static int64_t reach(int mode, int64_t n) {
    switch (mode) {
    case HX_PAD_REFLECT: return n > 0 ? n - 1 : 0;
    case HX_PAD_CIRCULAR: return n;
    case HX_PAD_REPLICATE: return n > 0 ? INT64_MAX : 0;
    default: return INT64_MAX;
    }
}

/* The dim grows by (or, backwards, has grown by) before + after elements. */
static hx_status padded(const hx_op_args *a, int d, bool backwards, int64_t *dim) {
    int64_t before = a->attr->pad.before[d], after = a->attr->pad.after[d], both;
    if (before < 0 || after < 0 || __builtin_add_overflow(before, after, &both))
        return HX_FAIL(HX_ERR_ARG, "%s: %lld before and %lld after dim %d: expected 0 or more", a->name, (long long)before,
                       (long long)after, d);
    int64_t n = backwards ? *dim - both : *dim;
    if (n < 0 || before > reach(a->attr->pad.mode, n) || after > reach(a->attr->pad.mode, n))
        return HX_FAIL(HX_ERR_SHAPE, "%s: %lld before and %lld after dim %d, which has %lld elements: more than the mode has a source for",
                       a->name, (long long)before, (long long)after, d, (long long)n);
    if (backwards) *dim = n;
    else if (__builtin_add_overflow(n, both, dim)) return HX_FAIL(HX_ERR_OVERFLOW, "%s: dim %d exceeds 64 bits", a->name, d);
    return HX_OK;
}

static hx_status infer_padded(const hx_op_args *a, bool backwards, hx_op_meta *out) {
    hx_shape s = a->in[0].shape;
    if (a->attr->pad.mode < HX_PAD_ZERO || a->attr->pad.mode > HX_PAD_CIRCULAR)
        return HX_FAIL(HX_ERR_ARG, "%s: mode %d: expected an hx_pad_mode", a->name, a->attr->pad.mode);
    for (int d = 0; d < s.ndim; d++) HX_TRY(padded(a, d, backwards, &s.dims[d]));
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_pad(const hx_op_args *a, hx_op_meta *out) {
    return infer_padded(a, false, out);
}

hx_status hx__infer_pad_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_float_or_complex(a, 0));
    return infer_padded(a, true, out);
}

static void destroy_all(hx_tensor ***x, int n) {
    for (int i = 0; *x && i < n; i++) hx_tensor_destroy(&(*x)[i]);
    hx_mem_free((void **)x);
}

static hx_status cat_few(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_cat, x, n, &(hx_op_attr){.dim = {.dim = dim}}, 0, &y));
    *out = y;
    return HX_OK;
}

/* More than one call takes: groups are joined, then the groups, so that an element is copied log_8 n times. */
static hx_status cat_many(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out) {
    if (n <= HX_OP_MAX_IN) return cat_few(ctx, x, n, dim, out);
    int n_groups = (n - 1) / HX_OP_MAX_IN + 1;
    hx_tensor **group = NULL;
    hx_status status = HX_OK;
    HX_TRY(hx_mem_alloc_array(n_groups, sizeof *group, (void **)&group));
    for (int g = 0; g < n_groups; g++) group[g] = NULL;
    for (int g = 0; g < n_groups; g++) {
        int first = g * HX_OP_MAX_IN, size = n - first < HX_OP_MAX_IN ? n - first : HX_OP_MAX_IN;
        HX_TRY_GOTO(cat_few(ctx, x + first, size, dim, &group[g]), done);
    }
    HX_TRY_GOTO(cat_many(ctx, group, n_groups, dim, out), done);
done:
    destroy_all(&group, n_groups);
    return status;
}

hx_status hx_cat(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out) {
    int d;
    if (n < 1) return HX_FAIL(HX_ERR_ARG, "cat of %d tensors: expected at least one", n);
    for (int i = 0; i < n; i++) HX_NEED_TENSOR(x[i]);
    HX_TRY(hx_shape_dim(x[0]->array.ndim, dim, &d));
    return cat_many(ctx, x, n, d, out);
}

hx_status hx_stack(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out) {
    hx_tensor **row = NULL;
    hx_status status = HX_OK;
    int d;
    if (n < 1) return HX_FAIL(HX_ERR_ARG, "stack of %d tensors: expected at least one", n);
    for (int i = 0; i < n; i++) HX_NEED_TENSOR(x[i]);
    HX_TRY(hx_shape_dim(x[0]->array.ndim + 1, dim, &d));
    HX_TRY(hx_mem_alloc_array(n, sizeof *row, (void **)&row));
    for (int i = 0; i < n; i++) row[i] = NULL;
    for (int i = 0; i < n; i++) HX_TRY_GOTO(hx_unsqueeze(ctx, x[i], d, &row[i]), done);
    HX_TRY_GOTO(cat_many(ctx, row, n, d, out), done);
done:
    destroy_all(&row, n);
    return status;
}

hx_status hx_pad(hx_ctx *ctx, hx_tensor *x, const int64_t *before, const int64_t *after, hx_pad_mode mode, double value,
                 hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = {.pad = {.mode = (int)mode, .value = value}};
    for (int d = 0; d < x->array.ndim; d++) {
        attr.pad.before[d] = before[d];
        attr.pad.after[d] = after[d];
    }
    return hx__run1(ctx, HX_OP_pad, x, &attr, out);
}
