#include "core/nn/nn_impl.h"

typedef struct conv {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: none */
    int n_spatial;
    hx_conv_config config; /* padding 0 where pad_mode is not zero */
    hx_pad_mode pad_mode;
    int64_t around[HX_MAX_DIMS]; /* padding by dim of x, for the other modes */
} conv;

static hx_status conv_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const conv *l = (const conv *)layer;
    HX_AUTO_TENSOR padded = NULL;
    int n = hx_tensor_shape(x).ndim;
    if (n != l->n_spatial + 2)
        return HX_FAIL(HX_ERR_SHAPE, "conv: x has %d dims: expected %d, batch, channels and %d spatial ones", n, l->n_spatial + 2,
                       l->n_spatial);
    if (l->pad_mode == HX_PAD_ZERO)
        padded = hx_tensor_retain(x);
    else
        HX_TRY(hx_pad(ctx, x, l->around, l->around, l->pad_mode, 0, &padded));
    return hx_conv(ctx, padded, l->weight->value, l->bias ? l->bias->value : NULL, &l->config, y);
}

static const hx_layer_type conv_type = {.name = "conv", .n_bytes = sizeof(conv), .forward = conv_forward};

static hx_status check_config(int n_spatial, const hx_conv_layer_config *c) {
    int64_t groups = c->groups ? c->groups : 1;
    if (n_spatial < 1 || n_spatial > 3) return HX_FAIL(HX_ERR_CONFIG, "conv: n_spatial = %d: expected 1 to 3", n_spatial);
    HX_TRY(hx__layer_check_size("conv", "n_in", c->n_in));
    HX_TRY(hx__layer_check_size("conv", "n_out", c->n_out));
    if (groups < 1 || c->n_in % groups || c->n_out % groups)
        return HX_FAIL(HX_ERR_CONFIG, "conv: groups = %lld: expected a divisor of n_in = %lld and n_out = %lld", (long long)groups,
                       (long long)c->n_in, (long long)c->n_out);
    if ((unsigned)c->pad_mode > HX_PAD_CIRCULAR) return HX_FAIL(HX_ERR_CONFIG, "conv: pad_mode = %d is no hx_pad_mode", (int)c->pad_mode);
    for (int d = 0; d < n_spatial; d++) {
        HX_TRY(hx__layer_check_size("conv", "kernel", c->kernel[d]));
        if (c->stride[d] < 0 || c->padding[d] < 0 || c->dilation[d] < 0)
            return HX_FAIL(HX_ERR_CONFIG, "conv: spatial dim %d: stride %lld, padding %lld, dilation %lld: expected none below 0", d,
                           (long long)c->stride[d], (long long)c->padding[d], (long long)c->dilation[d]);
    }
    return HX_OK;
}

static void set_window(conv *l, int n_spatial, const hx_conv_layer_config *c) {
    l->n_spatial = n_spatial;
    l->pad_mode = c->pad_mode;
    l->config.groups = c->groups;
    for (int d = 0; d < n_spatial; d++) {
        l->config.stride[d] = c->stride[d];
        l->config.dilation[d] = c->dilation[d];
        *(c->pad_mode == HX_PAD_ZERO ? &l->config.padding[d] : &l->around[d + 2]) = c->padding[d];
    }
}

hx_status hx_conv_create(hx_device *device, hx_dtype dtype, int n_spatial, const hx_conv_layer_config *config, hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    HX_TRY(check_config(n_spatial, config));
    HX_TRY(hx_layer_create(&conv_type, device, &layer));
    conv *l = (conv *)layer;
    hx_shape shape = {.ndim = n_spatial + 2, .dims = {config->n_out, config->n_in / (config->groups ? config->groups : 1)}};
    for (int d = 0; d < n_spatial; d++) shape.dims[d + 2] = config->kernel[d];
    set_window(l, n_spatial, config);
    HX_TRY_GOTO(hx_layer_param(layer, "weight", dtype, shape, true, &l->weight), done);
    if (config->has_bias) HX_TRY_GOTO(hx_layer_param(layer, "bias", dtype, HX_SHAPE(config->n_out), false, &l->bias), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}
