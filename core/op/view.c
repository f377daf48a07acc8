/* Views: made here, without a kernel. */
#include <string.h>

#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

/* Views are made by the functions below, which checks them; they never come here. */
hx_status hx__infer_view(const hx_op_args *a, hx_op_meta *out) {
    (void)out;
    return HX_FAIL(HX_ERR_INTERNAL, "%s is a view and has no kernel", a->name);
}

hx_status hx__record_view(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *x, hx_tensor **out, int n_out) {
    hx_status status = HX_OK;
    if (hx__tape_wants(ctx, &x, 1)) status = hx__tape_record(ctx, op, attr, &x, 1, out, n_out);
    for (int i = 0; status != HX_OK && i < n_out; i++) hx_tensor_destroy(&out[i]);
    return status;
}

/* A view under a checked shape that x's strides allow. */
static hx_status view(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    hx_tensor *y;
    HX_TRY(hx_tensor_view(x, shape, &y));
    HX_TRY(hx__record_view(ctx, HX_OP_view, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_reshape(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    int64_t strides[HX_MAX_DIMS];
    HX_TRY(hx__tensor_view_shape(x, &shape));
    if (hx__tensor_view_strides(x, &shape, strides)) return view(ctx, x, shape, out);
    HX_AUTO_TENSOR dense = NULL;
    HX_TRY(hx_contiguous(ctx, x, &dense));
    return view(ctx, dense, shape, out);
}

hx_status hx_squeeze(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    int gone;
    hx_shape shape = hx_array_shape(&x->array);
    HX_TRY(hx_shape_dim(shape.ndim, dim, &gone));
    if (shape.dims[gone] != 1) {
        char text[HX_SHAPE_TEXT];
        return HX_FAIL(HX_ERR_SHAPE, "x %s: dim %d has size %lld: expected 1", hx_shape_text(&shape, text), gone, (long long)shape.dims[gone]);
    }
    shape.ndim--;
    for (int d = gone; d < shape.ndim; d++) shape.dims[d] = shape.dims[d + 1];
    return view(ctx, x, shape, out);
}

hx_status hx_unsqueeze(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    int added;
    hx_shape shape = hx_array_shape(&x->array);
    if (shape.ndim == HX_MAX_DIMS) return HX_FAIL(HX_ERR_SHAPE, "x has %d dims: there is no room for one more", HX_MAX_DIMS);
    HX_TRY(hx_shape_dim(shape.ndim + 1, dim, &added));
    for (int d = shape.ndim++; d > added; d--) shape.dims[d] = shape.dims[d - 1];
    shape.dims[added] = 1;
    return view(ctx, x, shape, out);
}

hx_status hx_view_as_real(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    const hx_array *from = &x->array;
    hx_tensor *y;
    if (!hx_dtype_is_complex(from->dtype)) return HX_FAIL(HX_ERR_DTYPE, "x is %s: expected c64 or c128", hx_dtype_name(from->dtype));
    if (from->ndim == HX_MAX_DIMS) return HX_FAIL(HX_ERR_SHAPE, "x has %d dims: there is no room for one more", HX_MAX_DIMS);
    HX_TRY(hx__tensor_alias(x, &y));
    hx_array *a = &y->array;
    a->dtype = hx_dtype_real(from->dtype);
    for (int d = 0; d < from->ndim; d++) a->strides[d] = 2 * from->strides[d];
    a->dims[a->ndim] = 2;
    a->strides[a->ndim++] = 1;
    HX_TRY(hx__record_view(ctx, HX_OP_view_as_real, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

bool hx__has_pairs(const hx_tensor *x) {
    const hx_array *a = &x->array;
    int last = a->ndim - 1;
    bool fits = last >= 0 && a->dims[last] == 2 && a->strides[last] == 1;
    for (int d = 0; d < last; d++) fits = fits && (a->dims[d] <= 1 || a->strides[d] % 2 == 0);
    ptrdiff_t offset = (char *)a->data - (char *)x->storage->data;
    return fits && offset % (ptrdiff_t)(2 * hx_dtype_bytes(a->dtype)) == 0;
}

static hx_status check_pairs(const hx_tensor *x) {
    const hx_array *a = &x->array;
    if (hx__has_pairs(x)) return HX_OK;
    char text[HX_SHAPE_TEXT];
    hx_shape s = hx_array_shape(a);
    return HX_FAIL(HX_ERR_SHAPE, "x %s: expected a last dim of 2 with stride 1, other strides and the offset even", hx_shape_text(&s, text));
}

hx_status hx_view_as_complex(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    const hx_array *from = &x->array;
    hx_tensor *y;
    if (from->dtype != HX_F32 && from->dtype != HX_F64) return HX_FAIL(HX_ERR_DTYPE, "x is %s: expected f32 or f64", hx_dtype_name(from->dtype));
    HX_TRY(check_pairs(x));
    HX_TRY(hx__tensor_alias(x, &y));
    hx_array *a = &y->array;
    a->dtype = hx_dtype_complex(from->dtype);
    a->ndim--;
    for (int d = 0; d < a->ndim; d++) a->strides[d] = from->strides[d] / 2;
    HX_TRY(hx__record_view(ctx, HX_OP_view_as_complex, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_permute(hx_ctx *ctx, hx_tensor *x, const int *perm, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = {0};
    hx_tensor *y;
    HX_TRY(hx_tensor_permute(x, perm, &y));
    memcpy(attr.view.perm, perm, sizeof *perm * (size_t)x->array.ndim);
    HX_TRY(hx__record_view(ctx, HX_OP_permute, &attr, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_transpose(hx_ctx *ctx, hx_tensor *x, int dim0, int dim1, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    int a, b, perm[HX_MAX_DIMS];
    HX_TRY(hx_shape_dim(x->array.ndim, dim0, &a));
    HX_TRY(hx_shape_dim(x->array.ndim, dim1, &b));
    for (int d = 0; d < x->array.ndim; d++) perm[d] = d == a ? b : d == b ? a : d;
    return hx_permute(ctx, x, perm, out);
}

hx_status hx_slice(hx_ctx *ctx, hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_tensor *y;
    int d;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    HX_TRY(hx_tensor_slice(x, d, start, stop, step, &y));
    hx_op_attr attr = {.view = {.dim = d, .start = start, .step = step}};
    HX_TRY(hx__record_view(ctx, HX_OP_slice, &attr, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_expand(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_tensor *y;
    HX_TRY(hx_tensor_expand(x, shape, &y));
    HX_TRY(hx__record_view(ctx, HX_OP_expand, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_split(hx_ctx *ctx, hx_tensor *x, int dim, const int64_t *sizes, int n_parts, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_tensor *part[HX_OP_MAX_OUT] = {NULL};
    hx_status status = HX_OK;
    int64_t start = 0;
    int d, made = 0;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    if (n_parts < 1 || n_parts > hx_op_info_get(HX_OP_split)->n_out)
        return HX_FAIL(HX_ERR_ARG, "%d parts: expected 1 to %d", n_parts, hx_op_info_get(HX_OP_split)->n_out);
    for (int i = 0; i < n_parts; i++) {
        int64_t left = x->array.dims[d] - start;
        if (sizes[i] < 0 || sizes[i] > left || (i == n_parts - 1 && sizes[i] != left))
            HX_TRY_GOTO(HX_FAIL(HX_ERR_SHAPE, "sizes[%d] = %lld with %lld left of dim %d: expected sizes that add up to it", i,
                                (long long)sizes[i], (long long)left, d),
                        fail);
        HX_TRY_GOTO(hx_tensor_slice(x, d, start, start + sizes[i], 1, &part[i]), fail);
        made++;
        start += sizes[i];
    }
    HX_TRY(hx__record_view(ctx, HX_OP_split, &(hx_op_attr){.view = {.dim = d, .step = 1}}, x, part, n_parts));
    memcpy(out, part, sizeof *part * (size_t)n_parts);
    return HX_OK;
fail:
    while (made > 0) hx_tensor_destroy(&part[--made]);
    return status;
}
