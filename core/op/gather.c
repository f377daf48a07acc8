/* Lookups by index. */
#include "core/op/op_impl.h"

hx_status hx__infer_embedding(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_ids(a, 0));
    HX_TRY(hx__need_float(a, 1));
    HX_TRY(hx__need_ndim(a, 0, 0, HX_MAX_DIMS - 1));
    HX_TRY(hx__need_ndim(a, 1, 2, 2));
    HX_TRY(hx__need_part(a->name, a->attr->embedding.start, a->in[1].shape.dims[0], a->attr->embedding.total));
    hx_shape s = a->in[0].shape;
    s.dims[s.ndim++] = a->in[1].shape.dims[1];
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx__infer_embedding_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_ids(a, 0));
    HX_TRY(hx__need_float(a, 1));
    HX_TRY(hx__need_ndim(a, 1, 1, HX_MAX_DIMS));
    hx_shape ids = hx__rows_of(&a->in[1].shape);
    HX_TRY(hx__need_shape(a, 0, &ids));
    hx_shape s = {2, {a->attr->embedding.rows, hx__last_dim(&a->in[1].shape)}};
    HX_TRY(hx_shape_check(&s));
    HX_TRY(hx__need_part(a->name, a->attr->embedding.start, s.dims[0], a->attr->embedding.total));
    hx__set_out(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx_embedding_part_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, int64_t start, int64_t total, hx_tensor **out) {
    hx_op_attr attr = {.embedding = {.start = start, .total = total}};
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_embedding, (hx_tensor *[]){ids, w}, 2, &attr, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_embedding_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, hx_tensor **out) {
    return hx_embedding_part_op(ctx, ids, w, 0, 0, out);
}

hx_status hx__infer_gather(const hx_op_args *a, hx_op_meta *out) {
    int dim = a->attr->dim.dim;
    HX_TRY(hx__need_ids(a, 1));
    HX_TRY(hx__need_dim(a, 0, dim));
    HX_TRY(hx__need_ndim(a, 1, a->in[0].shape.ndim, a->in[0].shape.ndim));
    hx_shape want = a->in[0].shape;
    want.dims[dim] = a->in[1].shape.dims[dim];
    HX_TRY(hx__need_shape(a, 1, &want));
    HX_TRY(hx_shape_check(&want));
    hx__set_out(out, want, a->in[0].dtype);
    return HX_OK;
}

hx_status hx__infer_gather_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_ids(a, 0));
    HX_TRY(hx__need_float_or_complex(a, 1));
    HX_TRY(hx__need_dim(a, 0, a->attr->dim.dim));
    HX_TRY(hx__need_shape(a, 1, &a->in[0].shape));
    hx_shape s = a->in[1].shape;
    s.dims[a->attr->dim.dim] = a->attr->dim.size;
    HX_TRY(hx_shape_check(&s));
    hx__set_out(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx_gather(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor *index, hx_tensor **out) {
    HX_NEED_TENSOR(x);
    hx_op_attr attr = {0};
    hx_tensor *y = NULL;
    HX_TRY(hx_shape_dim(hx_tensor_ndim(x), dim, &attr.dim.dim));
    HX_TRY(hx_op_run(ctx, HX_OP_gather, (hx_tensor *[]){x, index}, 2, &attr, 0, &y));
    *out = y;
    return HX_OK;
}
