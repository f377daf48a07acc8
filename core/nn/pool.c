/* Pools, and what follows the last one: flattening. */
#include "core/nn/nn_impl.h"

typedef struct pool {
    hx_layer base;
    int n_spatial;
    int64_t window[3];
    hx_conv_config config;
    bool is_max, count_padding;
} pool;

static hx_status pool_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const pool *l = (const pool *)layer;
    int n = hx_tensor_shape(x).ndim;
    if (n != l->n_spatial + 2)
        return HX_FAIL(HX_ERR_SHAPE, "%s: x has %d dims: expected %d, batch, channels and %d spatial ones", layer->type->name, n,
                       l->n_spatial + 2, l->n_spatial);
    if (l->is_max) return hx_max_pool(ctx, x, l->window, &l->config, y);
    return hx_avg_pool(ctx, x, l->window, &l->config, l->count_padding, y);
}

static const hx_layer_type max_pool_type = {.name = "max_pool", .n_bytes = sizeof(pool), .forward = pool_forward};
static const hx_layer_type avg_pool_type = {.name = "avg_pool", .n_bytes = sizeof(pool), .forward = pool_forward};

static hx_status pool_create(const hx_layer_type *type, hx_device *device, int n_spatial, const int64_t *window,
                             const hx_conv_config *config, hx_layer **out) {
    hx_layer *layer;
    if (n_spatial < 1 || n_spatial > 3)
        return HX_FAIL(HX_ERR_CONFIG, "%s: n_spatial = %d: expected 1 to 3", type->name, n_spatial);
    for (int d = 0; d < n_spatial; d++) HX_TRY(hx__layer_check_size(type->name, "window", window[d]));
    HX_TRY(hx_layer_create(type, device, &layer));
    pool *l = (pool *)layer;
    l->n_spatial = n_spatial;
    for (int d = 0; d < n_spatial; d++) l->window[d] = window[d];
    if (config != NULL) l->config = *config;
    l->is_max = type == &max_pool_type;
    *out = layer;
    return HX_OK;
}

hx_status hx_max_pool_create(hx_device *device, int n_spatial, const int64_t *window, const hx_conv_config *config, hx_layer **out) {
    return pool_create(&max_pool_type, device, n_spatial, window, config, out);
}

hx_status hx_avg_pool_create(hx_device *device, int n_spatial, const int64_t *window, const hx_conv_config *config,
                             bool count_padding, hx_layer **out) {
    hx_layer *layer;
    HX_TRY(pool_create(&avg_pool_type, device, n_spatial, window, config, &layer));
    ((pool *)layer)->count_padding = count_padding;
    *out = layer;
    return HX_OK;
}

/* ---- flatten ---- */

static hx_status flatten_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    (void)layer;
    hx_shape shape = hx_tensor_shape(x);
    int64_t rest = 1; /* not -1, which an empty batch leaves open */
    if (shape.ndim < 1) return HX_FAIL(HX_ERR_SHAPE, "flatten: x is a scalar: expected a batch");
    for (int d = 1; d < shape.ndim; d++) rest *= shape.dims[d];
    return hx_reshape(ctx, x, HX_SHAPE(shape.dims[0], rest), y);
}

static const hx_layer_type flatten_type = {.name = "flatten", .n_bytes = sizeof(hx_layer), .forward = flatten_forward};

hx_status hx_flatten_create(hx_device *device, hx_layer **out) { return hx_layer_create(&flatten_type, device, out); }
