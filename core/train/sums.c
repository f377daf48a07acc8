#include "core/train/trainer_impl.h"

hx_status hx__loss_sums_create(hx_device *device, hx_stream *stream, bool is_exact, hx__loss_sums *out) {
    hx__loss_sums s = {.is_exact = is_exact};
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

hx_status hx__loss_sums_read(const hx__loss_sums *s, hx_stream *stream, double out[HX__SUM_N]) {
    hx_device_props props;
    hx_device_props_get(hx_stream_device(stream), &props);
    if (!props.is_dry) return hx_tensor_read(stream, s->all, out);
    for (int i = 0; i < HX__SUM_N; i++) out[i] = i == HX__SUM_COUNT;
    return HX_OK;
}

/* x, f64, rounded to a multiple of 2^-24. The numbers of f64 from 2^28 to 2^29 are 2^-24 apart: x + C, which lies there for |x| <
 * 2^27, is rounded to one of them, and C is taken off again without an error. Sums of such multiples are exact as long as they stay
 * below 2^28 (f64 has 53 bits: 2^29 would do), and what is exact is associative: a sum's bits do not depend on who added what, nor
 * when. What is lost is at most 3e-8 nats of a micro-batch's sum. Counts are whole and stay as they are. */
static hx_status round_to_grid(hx_ctx *quiet, hx_tensor *x, hx_tensor **out) {
    static const double C = 1.5 * (1 << 28);
    HX_AUTO_TENSOR high = NULL;
    HX_TRY(hx_affine(quiet, x, 1, C, &high));
    return hx_affine(quiet, high, 1, -C, out);
}

/* sum += x */
static hx_status add_to(const hx__loss_sums *sums, const hx_ctx *ctx, hx_tensor *x, hx_tensor *sum) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR rounded = NULL;
    HX_TRY(hx_cast(&quiet, x, HX_F64, &wide));
    if (sums->is_exact) HX_TRY(round_to_grid(&quiet, wide, &rounded));
    return hx_op_run(&quiet, HX_OP_add, (hx_tensor *[]){sum, sums->is_exact ? rounded : wide}, 2, NULL, 0, &sum);
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
    HX_TRY(add_to(sums, ctx, sum, sums->sum[HX__SUM_LOSS]));
    HX_TRY(add_to(sums, ctx, count, sums->sum[HX__SUM_COUNT]));
    *loss = hx_tensor_move(&sum);
    if (scores != NULL) *scores = hx_tensor_move(&made);
    return HX_OK;
}
