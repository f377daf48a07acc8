#include "core/train/trainer_impl.h"

hx_status hx__loss_sums_create(hx_device *device, hx_stream *stream, hx__loss_sums *out) {
    hx__loss_sums s = {.all = NULL};
    hx_status status;
    HX_TRY_GOTO(hx_tensor_create(device, HX_F64, HX_SHAPE(HX__SUM_N), &s.all), failed);
    for (int i = 0; i < HX__SUM_N; i++) HX_TRY_GOTO(hx_tensor_window(s.all, i, HX_SCALAR, &s.sum[i]), failed);
    HX_TRY_GOTO(hx_tensor_fill(stream, s.all, 0), failed);
    *out = s;
    return HX_OK;
failed:
    hx__loss_sums_destroy(&s);
    return status;
}

void hx__loss_sums_destroy(hx__loss_sums *s) {
    for (int i = 0; i < HX__SUM_N; i++) hx_tensor_destroy(&s->sum[i]);
    hx_tensor_destroy(&s->all);
}

/* sum += x */
static hx_status add_to(const hx_ctx *ctx, hx_tensor *x, hx_tensor *sum) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR wide = NULL;
    HX_TRY(hx_cast(&quiet, x, HX_F64, &wide));
    return hx_op_run(&quiet, HX_OP_add, (hx_tensor *[]){sum, wide}, 2, NULL, 0, &sum);
}

/* @param other  dtype that is taken beside f64 */
static hx_status check_scalar(const char *what, const hx_tensor *x, hx_dtype other) {
    char text[HX_SHAPE_TEXT];
    if (x == NULL) return HX_FAIL(HX_ERR_STATE, "the model's loss function gave no %s", what);
    const hx_dtype dtype = hx_tensor_dtype(x);
    if (hx_tensor_ndim(x) == 0 && (dtype == HX_F64 || dtype == other)) return HX_OK;
    hx_shape shape = hx_tensor_shape(x);
    return HX_FAIL(HX_ERR_SHAPE, "the model's %s is %s %s: expected a scalar of f64%s%s", what, hx_dtype_name(dtype),
                   hx_shape_text(&shape, text), other == HX_F64 ? "" : " or ", other == HX_F64 ? "" : hx_dtype_name(other));
}

static hx_status model_loss(const hx_model *model, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                            hx_tensor **count, hx_tensor **scores) {
    if (scores == NULL && model->loss != NULL) return model->loss(model->self, ctx, batch, loss_sum, count);
    HX_AUTO_TENSOR made = NULL;
    HX_TRY(model->loss_scores(model->self, ctx, batch, loss_sum, count, &made));
    if (scores != NULL) *scores = hx_tensor_move(&made);
    return HX_OK;
}

hx_status hx__loss_add(hx__loss_sums *sums, const hx_model *model, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss,
                       hx_tensor **scores) {
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    HX_AUTO_TENSOR made = NULL;
    HX_TRY(model_loss(model, ctx, batch, &sum, &count, scores != NULL ? &made : NULL));
    if (scores != NULL && made == NULL) return HX_FAIL(HX_ERR_STATE, "the model's loss function gave no scores");
    HX_TRY(check_scalar("loss sum", sum, HX_F64));
    HX_TRY(check_scalar("count", count, HX_I64));
    HX_TRY(add_to(ctx, sum, sums->sum[HX__SUM_LOSS]));
    HX_TRY(add_to(ctx, count, sums->sum[HX__SUM_COUNT]));
    *loss = hx_tensor_move(&sum);
    if (scores != NULL) *scores = hx_tensor_move(&made);
    return HX_OK;
}
