/* Lookups by index. */
#include "core/op/op_impl.h"

hx_status hx__infer_embedding(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_ids(a, 0));
    HX_TRY(hx__need_float(a, 1));
    HX_TRY(hx__need_ndim(a, 0, 0, HX_MAX_DIMS - 1));
    HX_TRY(hx__need_ndim(a, 1, 2, 2));
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
    hx__set_out(out, s, a->in[1].dtype);
    return HX_OK;
}

hx_status hx_embedding_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_embedding, (hx_tensor *[]){ids, w}, 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}
