#include "core/nn/batchnorm_impl.h"

#include <math.h>

typedef hx__batchnorm batchnorm;

hx_status hx__batchnorm_move(hx_ctx *ctx, hx_tensor *running, double momentum, double factor, double shift, hx_tensor *batch) {
    HX_AUTO_TENSOR step = NULL;
    hx_op_attr keep = {.affine = {1 - momentum, 0}};
    HX_TRY(hx_affine(ctx, batch, momentum * factor, momentum * shift, &step));
    HX_TRY(hx_op_run(ctx, HX_OP_affine, &running, 1, &keep, 0, &running));
    return hx_op_run(ctx, HX_OP_add, (hx_tensor *[]){running, step}, 2, NULL, 0, &running);
}

/* The variance is 1/rstd^2 - eps; n elements give the unbiased estimate n/(n-1) of it. With one element there is none,
 * and the variance of the batch, 0, is taken. */
static hx_status update_running(const batchnorm *l, hx_ctx *ctx, int64_t n, hx_tensor *mean, hx_tensor *rstd) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR std = NULL;
    HX_AUTO_TENSOR variance = NULL;
    double factor = n > 1 ? (double)n / (double)(n - 1) : 1;
    HX_TRY(hx_unary(&quiet, HX_OP_reciprocal, rstd, &std));
    HX_TRY(hx_mul(&quiet, std, std, &variance));
    HX_TRY(hx__batchnorm_move(&quiet, l->running_var->value, l->config.momentum, factor, -factor * l->config.eps, variance));
    return hx__batchnorm_move(&quiet, l->running_mean->value, l->config.momentum, 1, 0, mean);
}

static hx_status train_forward(const batchnorm *l, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    HX_AUTO_TENSOR result = NULL;
    HX_AUTO_TENSOR mean = NULL;
    HX_AUTO_TENSOR rstd = NULL;
    HX_TRY(hx_batchnorm_op(ctx, x, l->weight ? l->weight->value : NULL, l->bias ? l->bias->value : NULL, l->config.eps, &result,
                           &mean, &rstd));
    if (!ctx->is_recompute && l->n_channels > 0)
        HX_TRY(update_running(l, ctx, hx_tensor_count(x) / l->n_channels, mean, rstd));
    *y = hx_tensor_move(&result);
    return HX_OK;
}

/* rstd w = w / sqrt(running_var + eps), in the dtype of the statistics */
static hx_status running_scale(const batchnorm *l, hx_ctx *ctx, hx_tensor **out) {
    HX_AUTO_TENSOR w = NULL;
    HX_AUTO_TENSOR variance = NULL;
    HX_AUTO_TENSOR std = NULL;
    hx_dtype dtype = hx_tensor_dtype(l->running_var->value);
    HX_TRY(hx_affine(ctx, l->running_var->value, 1, l->config.eps, &variance));
    HX_TRY(hx_unary(ctx, HX_OP_sqrt, variance, &std));
    if (l->weight == NULL) return hx_unary(ctx, HX_OP_reciprocal, std, out);
    HX_TRY(hx_cast(ctx, l->weight->value, dtype, &w));
    return hx_div(ctx, w, std, out);
}

hx_status hx__batchnorm_along(hx_ctx *ctx, hx_op op, hx_tensor **x, hx_tensor *v) {
    HX_AUTO_TENSOR old = hx_tensor_move(x);
    HX_AUTO_TENSOR cast = NULL;
    HX_AUTO_TENSOR column = NULL;
    hx_shape shape = {.ndim = hx_tensor_shape(old).ndim - 1, .dims = {hx_tensor_count(v)}};
    for (int d = 1; d < shape.ndim; d++) shape.dims[d] = 1;
    HX_TRY(hx_cast(ctx, v, hx_tensor_dtype(old), &cast));
    HX_TRY(hx_reshape(ctx, cast, shape, &column));
    return hx_binary(ctx, op, old, column, x);
}

/* y = (x - running_mean) rstd w + b */
static hx_status eval_forward(const batchnorm *l, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    HX_AUTO_TENSOR scale = NULL;
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    HX_TRY(running_scale(l, ctx, &scale));
    HX_TRY(hx__batchnorm_along(ctx, HX_OP_sub, &at, l->running_mean->value));
    HX_TRY(hx__batchnorm_along(ctx, HX_OP_mul, &at, scale));
    if (l->bias) HX_TRY(hx__batchnorm_along(ctx, HX_OP_add, &at, l->bias->value));
    *y = hx_tensor_move(&at);
    return HX_OK;
}

static hx_status batchnorm_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const batchnorm *l = (const batchnorm *)layer;
    hx_shape shape = hx_tensor_shape(x);
    char text[HX_SHAPE_TEXT];
    if (shape.ndim < 2 || shape.dims[1] != l->n_channels)
        return HX_FAIL(HX_ERR_SHAPE, "batchnorm: x %s: expected %lld channels in dim 1", hx_shape_text(&shape, text),
                       (long long)l->n_channels);
    if (!ctx->training) return eval_forward(l, ctx, x, y);
    return l->sync != NULL ? hx__batchnorm_sync_forward(l, ctx, x, y) : train_forward(l, ctx, x, y);
}

static const hx_layer_type batchnorm_type = {.name = "batchnorm", .n_bytes = sizeof(batchnorm), .forward = batchnorm_forward};

/* Mean 0 and variance 1, by a stream of its own: a layer whose buffers are left out of an initialisation works. */
static hx_status reset_running(const batchnorm *l) {
    hx_stream *stream = NULL;
    hx_status status;
    HX_TRY(hx_stream_create(l->base.device, &stream));
    HX_TRY_GOTO(hx_tensor_fill(stream, l->running_mean->value, 0), done);
    HX_TRY_GOTO(hx_tensor_fill(stream, l->running_var->value, 1), done);
    status = hx_stream_sync(stream);
done:
    hx_stream_destroy(&stream);
    return status;
}

hx_status hx_batchnorm_create(hx_device *device, hx_dtype dtype, int64_t n_channels, const hx_batchnorm_config *config,
                              hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    const hx_batchnorm_config c = config ? *config : HX_BATCHNORM_DEFAULT;
    const hx_shape shape = HX_SHAPE(n_channels);
    HX_TRY(hx__layer_check_size("batchnorm", "n_channels", n_channels));
    if (!(c.eps >= 0 && isfinite(c.eps))) return HX_FAIL(HX_ERR_CONFIG, "batchnorm: eps = %g: expected a finite number >= 0", c.eps);
    if (!(c.momentum >= 0 && c.momentum <= 1))
        return HX_FAIL(HX_ERR_CONFIG, "batchnorm: momentum = %g: expected 0 to 1", c.momentum);
    HX_TRY(hx_layer_create(&batchnorm_type, device, &layer));
    batchnorm *l = (batchnorm *)layer;
    l->config = c;
    l->n_channels = n_channels;
    if (c.is_affine) {
        HX_TRY_GOTO(hx_layer_param(layer, "weight", dtype, shape, false, &l->weight), done);
        HX_TRY_GOTO(hx_layer_param(layer, "bias", dtype, shape, false, &l->bias), done);
    }
    HX_TRY_GOTO(hx_layer_buffer(layer, "running_mean", hx_dtype_accum(dtype), shape, &l->running_mean), done);
    HX_TRY_GOTO(hx_layer_buffer(layer, "running_var", hx_dtype_accum(dtype), shape, &l->running_var), done);
    HX_TRY_GOTO(reset_running(l), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

hx_status hx_batchnorm_set_sync(hx_layer *layer, const hx_batch_sync *sync, int which) {
    HX_TRY(hx__layer_check_type(layer, &batchnorm_type));
    batchnorm *l = (batchnorm *)layer;
    l->sync = sync;
    l->which = which;
    return HX_OK;
}

int64_t hx_batchnorm_channels(const hx_layer *layer) {
    return layer->type == &batchnorm_type ? ((const batchnorm *)layer)->n_channels : 0;
}
