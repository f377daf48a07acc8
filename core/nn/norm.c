#include "core/nn/nn_impl.h"

#define DEFAULT_EPS 1e-5

typedef struct norm {
    hx_layer base;
    hx_param *weight, *bias; /* bias NULL: rmsnorm */
    double eps;
} norm;

static hx_status layernorm_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const norm *n = (const norm *)layer;
    return hx_layernorm_op(ctx, x, n->weight->value, n->bias->value, n->eps, y);
}

static hx_status rmsnorm_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    const norm *n = (const norm *)layer;
    return hx_rmsnorm_op(ctx, x, n->weight->value, n->eps, y);
}

static const hx_layer_type layernorm_type = {
    .name = "layernorm", .n_bytes = sizeof(norm), .forward = layernorm_forward};
static const hx_layer_type rmsnorm_type = {
    .name = "rmsnorm", .n_bytes = sizeof(norm), .forward = rmsnorm_forward};

/* in: x, r; out: y, s */
static hx_status add_forward(hx_ctx *ctx, void *layer, hx_tensor *const *in, hx_tensor **out) {
    const norm *n = layer;
    if (n->bias == NULL) return hx_add_rmsnorm_op(ctx, in[0], in[1], n->weight->value, n->eps, &out[0], &out[1]);
    return hx_add_layernorm_op(ctx, in[0], in[1], n->weight->value, n->bias->value, n->eps, &out[0], &out[1]);
}

hx_status hx_norm_add(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor **y, hx_tensor **s) {
    hx_tensor *out[2];
    if (layer == NULL || ctx == NULL || x == NULL || r == NULL)
        return HX_FAIL(HX_ERR_ARG, "%s is NULL", layer == NULL ? "layer" : ctx == NULL ? "ctx" : x == NULL ? "x" : "r");
    if (layer->type != &layernorm_type && layer->type != &rmsnorm_type)
        return HX_FAIL(HX_ERR_ARG, "layer \"%s\" is of type %s: expected layernorm or rmsnorm", layer->path, layer->type->name);
    HX_TRY(hx__layer_run(layer, ctx, add_forward, (hx_tensor *[]){x, r}, 2, out, 2));
    *y = out[0];
    *s = out[1];
    return HX_OK;
}

static hx_status norm_create(const hx_layer_type *type, hx_device *device, hx_dtype dtype, int64_t dim,
                             double eps, bool has_bias, hx_layer **out) {
    hx_layer *layer = NULL;
    hx_status status;
    HX_TRY(hx__layer_check_size(type->name, "dim", dim));
    if (!(eps >= 0 && isfinite(eps)))
        return HX_FAIL(HX_ERR_CONFIG, "%s: eps = %g: expected a finite number >= 0", type->name, eps);
    HX_TRY(hx_layer_create(type, device, &layer));
    norm *n = (norm *)layer;
    n->eps = eps > 0 ? eps : DEFAULT_EPS;
    HX_TRY_GOTO(hx_layer_param(layer, "weight", dtype, HX_SHAPE(dim), false, &n->weight), done);
    if (has_bias) HX_TRY_GOTO(hx_layer_param(layer, "bias", dtype, HX_SHAPE(dim), false, &n->bias), done);
    *out = layer;
    return HX_OK;
done:
    hx_layer_destroy(&layer);
    return status;
}

hx_status hx_layernorm_create(hx_device *device, hx_dtype dtype, int64_t dim, double eps, hx_layer **out) {
    return norm_create(&layernorm_type, device, dtype, dim, eps, true, out);
}

hx_status hx_rmsnorm_create(hx_device *device, hx_dtype dtype, int64_t dim, double eps, hx_layer **out) {
    return norm_create(&rmsnorm_type, device, dtype, dim, eps, false, out);
}
