#include "core/nn/nn_impl.h"

typedef struct linear {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: none */
    const hx_shard *shard;   /* NULL: whole */
    hx_cut cut;
} linear;

static hx_status forward_rows(const linear *l, hx_ctx *ctx, hx_tensor *x, hx_tensor *bias, hx_tensor **y) {
    HX_AUTO_TENSOR part = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(hx_linear_op(ctx, x, l->weight->value, NULL, &part));
    if (bias == NULL) return l->shard->leave(l->shard->self, ctx, part, y);
    HX_TRY(l->shard->leave(l->shard->self, ctx, part, &sum));
    return hx_add(ctx, sum, bias, y);
}

static hx_status linear_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const linear *l = (const linear *)layer;
    hx_tensor *bias = l->bias ? l->bias->value : NULL;
    if (l->shard != NULL && l->cut == HX_CUT_ROWS) return forward_rows(l, ctx, x, bias, y);
    return hx__linear_columns(l->shard, ctx, x, l->weight->value, bias, y);
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

hx_status hx_linear_set_shard(hx_layer *layer, const hx_shard *shard, hx_cut cut) {
    HX_TRY(hx__layer_check_type(layer, &linear_type));
    linear *l = (linear *)layer;
    HX_TRY(hx_param_set_shard(l->weight, cut == HX_CUT_COLUMNS ? 0 : 1, shard));
    if (cut == HX_CUT_COLUMNS && l->bias != NULL) HX_TRY(hx_param_set_shard(l->bias, 0, shard));
    if (cut == HX_CUT_ROWS && l->bias != NULL) l->bias->is_partial = shard->is_sequence; /* it is added to what has left */
    l->shard = shard;
    l->cut = cut;
    return HX_OK;
}
