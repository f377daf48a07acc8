/* Views: made here, without a kernel. */
#include <string.h>

#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

/* Views are made by core/op/ops.c, which checks them; they never come here. */
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

hx_status hx_reshape(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    HX_AUTO_TENSOR dense = NULL;
    hx_tensor *y;
    HX_TRY(hx_contiguous(ctx, x, &dense));
    HX_TRY(hx_tensor_view(dense, shape, &y));
    HX_TRY(hx__record_view(ctx, HX_OP_view, &(hx_op_attr){0}, dense, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_permute(hx_ctx *ctx, hx_tensor *x, const int *perm, hx_tensor **out) {
    hx_op_attr attr = {0};
    hx_tensor *y;
    HX_TRY(hx_tensor_permute(x, perm, &y));
    memcpy(attr.view.perm, perm, sizeof *perm * (size_t)x->array.ndim);
    HX_TRY(hx__record_view(ctx, HX_OP_permute, &attr, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_transpose(hx_ctx *ctx, hx_tensor *x, int dim0, int dim1, hx_tensor **out) {
    int a, b, perm[HX_MAX_DIMS];
    HX_TRY(hx_shape_dim(x->array.ndim, dim0, &a));
    HX_TRY(hx_shape_dim(x->array.ndim, dim1, &b));
    for (int d = 0; d < x->array.ndim; d++) perm[d] = d == a ? b : d == b ? a : d;
    return hx_permute(ctx, x, perm, out);
}

hx_status hx_slice(hx_ctx *ctx, hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out) {
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
    hx_tensor *y;
    HX_TRY(hx_tensor_expand(x, shape, &y));
    HX_TRY(hx__record_view(ctx, HX_OP_expand, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_split(hx_ctx *ctx, hx_tensor *x, int dim, const int64_t *sizes, int n_parts, hx_tensor **out) {
    hx_tensor *part[HX_OP_MAX_OUT] = {NULL};
    hx_status status = HX_OK;
    int64_t start = 0;
    int d, made = 0;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    if (n_parts < 1 || n_parts > HX_OP_MAX_OUT) return HX_FAIL(HX_ERR_ARG, "%d parts: expected 1 to %d", n_parts, HX_OP_MAX_OUT);
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
