#include "core/nn/nn_impl.h"

typedef struct linear {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: none */
} linear;

static hx_status linear_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const linear *l = (const linear *)layer;
    return hx_linear_op(ctx, x, l->weight->value, l->bias ? l->bias->value : NULL, y);
}

static const hx_layer_type linear_type = {
    .name = "linear", .n_bytes = sizeof(linear), .forward = linear_forward};

hx_status hx_linear_create(hx_device *device, hx_dtype dtype, int64_t n_in, int64_t n_out, bool has_bias,
                           hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    HX_TRY(hx__layer_check_size("linear", "n_in", n_in));
    HX_TRY(hx__layer_check_size("linear", "n_out", n_out));
    HX_TRY(hx_layer_create(&linear_type, device, &layer));
    linear *l = (linear *)layer;
    HX_TRY_GOTO(hx_layer_param(layer, "weight", dtype, HX_SHAPE(n_out, n_in), true, &l->weight), done);
    if (has_bias) HX_TRY_GOTO(hx_layer_param(layer, "bias", dtype, HX_SHAPE(n_out), false, &l->bias), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}
