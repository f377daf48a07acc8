#include "core/nn/nn_impl.h"

typedef struct embedding {
    hx_layer base;
    hx_param *weight;
    const hx_shard *shard; /* NULL: whole */
} embedding;

static hx_status embedding_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *ids, hx_tensor **y) {
    const embedding *e = (const embedding *)layer;
    hx_tensor *weight = e->weight->value;
    HX_AUTO_TENSOR part = NULL;
    if (e->shard == NULL) return hx_embedding_op(ctx, ids, weight, y);
    const int64_t n = hx_tensor_dim(weight, 0);
    HX_TRY(hx_embedding_part_op(ctx, ids, weight, e->shard->rank * n, e->shard->size * n, &part));
    return e->shard->leave(e->shard->self, ctx, part, y);
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

hx_status hx_embedding_set_shard(hx_layer *layer, const hx_shard *shard) {
    HX_TRY(hx__layer_check_type(layer, &embedding_type));
    embedding *e = (embedding *)layer;
    HX_TRY(hx_param_set_shard(e->weight, 0, shard));
    e->shard = shard;
    return HX_OK;
}
