#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

/* One product yields gate and up: the fused weight's first half of rows is the gate. Checkpoints and
 * initialisation see two tensors. */
typedef struct swiglu {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: none */
    hx_layer *out;
    int64_t hidden;        /* of all ranks */
    const hx_shard *shard; /* NULL: whole */
} swiglu;

static hx_status swiglu_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const swiglu *s = (const swiglu *)layer;
    HX_AUTO_TENSOR fused = NULL; /* [..,2*hidden] */
    HX_AUTO_TENSOR gated = NULL; /* [..,hidden] */
    HX_TRY(hx__linear_columns(s->shard, ctx, x, s->weight->value, s->bias ? s->bias->value : NULL, &fused));
    HX_TRY(hx_swiglu(ctx, fused, &gated));
    return hx_layer_forward(s->out, ctx, gated, y);
}

static const hx_layer_type swiglu_type = {
    .name = "swiglu", .n_bytes = sizeof(swiglu), .forward = swiglu_forward};

static hx_status create_params(swiglu *s, hx_dtype dtype, int64_t dim, bool has_bias) {
    static const char *const weights[2] = {"gate.weight", "up.weight"};
    static const char *const biases[2] = {"gate.bias", "up.bias"};
    const int64_t rows[2] = {s->hidden, s->hidden};
    hx_layer *out = NULL;
    HX_TRY(hx_layer_param(&s->base, "weight", dtype, HX_SHAPE(2 * s->hidden, dim), true, &s->weight));
    HX_TRY(hx__param_name_rows(s->weight, 2, rows, weights));
    if (has_bias) {
        HX_TRY(hx_layer_param(&s->base, "bias", dtype, HX_SHAPE(2 * s->hidden), false, &s->bias));
        HX_TRY(hx__param_name_rows(s->bias, 2, rows, biases));
    }
    HX_TRY(hx_linear_create(s->base.device, dtype, s->hidden, dim, has_bias, &out));
    return hx__layer_adopt(&s->base, "out", &out, &s->out);
}

hx_status hx_swiglu_create(hx_device *device, hx_dtype dtype, int64_t dim, int64_t hidden, bool has_bias,
                           hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    int64_t n_rows;
    HX_TRY(hx__layer_check_size("swiglu", "dim", dim));
    HX_TRY(hx__layer_check_size("swiglu", "hidden", hidden));
    HX_TRY(hx_count_mul(2, hidden, &n_rows));
    HX_TRY(hx_layer_create(&swiglu_type, device, &layer));
    ((swiglu *)layer)->hidden = hidden;
    HX_TRY_GOTO(create_params((swiglu *)layer, dtype, dim, has_bias), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

hx_status hx_swiglu_set_shard(hx_layer *layer, const hx_shard *shard) {
    HX_TRY(hx__layer_check_type(layer, &swiglu_type));
    swiglu *s = (swiglu *)layer;
    HX_TRY(hx_param_set_shard(s->weight, 0, shard));
    if (s->bias != NULL) HX_TRY(hx_param_set_shard(s->bias, 0, shard));
    HX_TRY(hx_linear_set_shard(s->out, shard, HX_CUT_ROWS));
    s->shard = shard;
    return HX_OK;
}
