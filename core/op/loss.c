/* The fused cross-entropy. */
#include "core/op/op_impl.h"

static hx_status check_logits(const hx_op_args *a, hx_shape *rows) {
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(hx__need_ids(a, 1));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    *rows = hx__rows_of(&a->in[0].shape);
    return hx__need_shape(a, 1, rows);
}

hx_status hx__infer_cross_entropy(const hx_op_args *a, hx_op_meta *out) {
    hx_shape rows;
    HX_TRY(check_logits(a, &rows));
    if (hx__last_dim(&a->in[0].shape) < 1) return HX_FAIL(HX_ERR_SHAPE, "cross_entropy: logits have no classes");
    hx__set_out(&out[0], HX_SCALAR, HX_F64);
    hx__set_out(&out[1], HX_SCALAR, HX_I64);
    hx__set_out(&out[2], rows, hx_dtype_accum(a->in[0].dtype));
    return HX_OK;
}

hx_status hx__infer_cross_entropy_bwd(const hx_op_args *a, hx_op_meta *out) {
    hx_shape rows, scalar = HX_SCALAR;
    HX_TRY(check_logits(a, &rows));
    HX_TRY(hx__need_shape(a, 2, &rows));
    HX_TRY(hx__need_shape(a, 3, &scalar));
    HX_TRY(hx__need_statistic(a, 2, 0));
    HX_TRY(hx__need_dtype(a, 3, HX_F64));
    hx__set_out(out, a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_cross_entropy(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index, hx_tensor **loss_sum, hx_tensor **count) {
    hx_tensor *y[2];
    HX_TRY(hx__run_keep(ctx, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids}, 2, &(hx_op_attr){.cross_entropy = {ignore_index}}, y, 2));
    *loss_sum = y[0];
    *count = y[1];
    return HX_OK;
}
