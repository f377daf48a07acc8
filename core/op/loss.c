/* The fused cross-entropy. */
#include "core/op/op_impl.h"

static hx_status check_logits(const hx_op_args *a, hx_shape *rows) {
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(hx__need_ids(a, 1));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    HX_TRY(hx__need_part(a->name, a->attr->cross_entropy.start, hx__last_dim(&a->in[0].shape), a->attr->cross_entropy.total));
    *rows = hx__rows_of(&a->in[0].shape);
    return hx__need_shape(a, 1, rows);
}

hx_status hx__infer_cross_entropy(const hx_op_args *a, hx_op_meta *out) {
    hx_shape rows;
    HX_TRY(check_logits(a, &rows));
    if (hx__last_dim(&a->in[0].shape) < 1 && a->attr->cross_entropy.total == 0)
        return HX_FAIL(HX_ERR_SHAPE, "cross_entropy: logits have no classes");
    if (a->in[2].present) {
        HX_TRY(hx__need_shape(a, 2, &rows));
        HX_TRY(hx__need_statistic(a, 2, 0));
    }
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
    hx_op_attr attr = {.cross_entropy = {.ignore_index = ignore_index}};
    HX_TRY(hx__run_keep(ctx, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids}, 2, &attr, y, 2));
    *loss_sum = y[0];
    *count = y[1];
    return HX_OK;
}

enum { SUM = 1, COUNT = 2, LSE = 4 }; /* outputs, as bits to skip */

hx_status hx_cross_entropy_part(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index, int64_t start, int64_t total, hx_tensor *lse,
                                hx_tensor **loss_sum, hx_tensor **count) {
    HX_NEED_TENSOR(lse);
    hx_op_attr attr = {.cross_entropy = {.ignore_index = ignore_index, .start = start, .total = total}};
    hx_tensor *y[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(ctx, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids, lse}, 3, &attr, LSE, y));
    *loss_sum = y[0];
    *count = y[1];
    return HX_OK;
}

hx_status hx_logsumexp_part(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t start, int64_t total, hx_tensor **lse) {
    hx_op_attr attr = {.cross_entropy = {.ignore_index = HX_IGNORE_INDEX, .start = start, .total = total}};
    hx_ctx quiet = hx_no_grad(ctx);
    hx_tensor *y[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(&quiet, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids}, 2, &attr, SUM | COUNT, y));
    *lse = y[2];
    return HX_OK;
}
