#include "core/nn/nn_impl.h"

typedef struct embedding {
    hx_layer base;
    hx_param *weight;
} embedding;

static hx_status embedding_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *ids, hx_tensor **y) {
    return hx_embedding_op(ctx, ids, ((const embedding *)layer)->weight->value, y);
}

/* No product follows whose variance a fan could keep. */
static hx_status embedding_init(hx_layer *layer, hx_stream *stream, uint64_t seed) {
    return hx_param_init(((const embedding *)layer)->weight, stream, seed, HX_INIT_NORMAL, 1);
}

static const hx_layer_type embedding_type = {
    .name = "embedding", .n_bytes = sizeof(embedding), .forward = embedding_forward, .init = embedding_init};

hx_status hx_embedding_create(hx_device *device, hx_dtype dtype, int64_t n, int64_t dim, hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    HX_TRY(hx__layer_check_size("embedding", "n", n));
    HX_TRY(hx__layer_check_size("embedding", "dim", dim));
    HX_TRY(hx_layer_create(&embedding_type, device, &layer));
    HX_TRY_GOTO(hx_layer_param(layer, "weight", dtype, HX_SHAPE(n, dim), true, &((embedding *)layer)->weight),
                done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}
