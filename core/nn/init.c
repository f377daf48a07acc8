#include "core/nn/nn_impl.h"

/* Element g of the logical tensor with path P draws number g of the stream hash(P), wherever the element
 * lies: a slice of a tensor-parallel rank and one third of a fused projection get the values the whole tensor
 * would get. */

static hx_status init_run(hx_ctx *ctx, hx_tensor *value, hx_rng rng, int64_t local, int64_t global, int64_t n,
                          hx_init_kind kind, double scale) {
    HX_AUTO_TENSOR window = NULL;
    HX_TRY(hx_tensor_window(value, local, HX_SHAPE(n), &window));
    if (kind == HX_INIT_NORMAL) return hx_fill_normal(ctx, window, rng, global, 0, scale);
    return hx_fill_uniform(ctx, window, rng, global, -scale, 2 * scale);
}

/* A box falls into runs that are consecutive in the global tensor too: dims behind `inner` are whole. */
static hx_status init_box(hx_ctx *ctx, hx_tensor *value, hx_rng rng, const hx_shape *shape, const hx_box *box,
                          hx_init_kind kind, double scale) {
    int64_t strides[HX_MAX_DIMS], index[HX_MAX_DIMS] = {0}, run = 1, local = box->local;
    int inner = shape->ndim;
    hx_shape_strides(shape, strides);
    while (inner > 0) {
        inner--;
        run *= box->extent[inner];
        if (box->extent[inner] != shape->dims[inner]) break;
    }
    for (;;) {
        int64_t global = 0;
        for (int d = 0; d < shape->ndim; d++)
            global += (box->start[d] + (d < inner ? index[d] : 0)) * strides[d];
        HX_TRY(init_run(ctx, value, rng, local, global, run, kind, scale));
        local += run;
        int d = inner - 1;
        while (d >= 0 && ++index[d] == box->extent[d]) index[d--] = 0;
        if (d < 0) return HX_OK;
    }
}

static hx_status init_logical(hx_ctx *ctx, hx_param *param, uint64_t seed, const char *name,
                              const hx_layout *layout, hx_init_kind kind, double scale) {
    hx_rng rng = {.seed = seed, .stream = hx_rng_stream(HX_RNG_INIT, hx__layer_hash(param->layer, name))};
    for (int b = 0; b < layout->n_boxes; b++)
        HX_TRY(init_box(ctx, param->value, rng, &layout->shape, &layout->boxes[b], kind, scale));
    return HX_OK;
}

hx_status hx_param_init(hx_param *param, hx_stream *stream, uint64_t seed, hx_init_kind kind, double scale) {
    hx_ctx ctx = {.device = param->layer->device, .stream = stream, .seed = seed};
    switch (kind) {
    case HX_INIT_ZEROS:
        return hx_tensor_fill(stream, param->value, 0);
    case HX_INIT_ONES:
        return hx_tensor_fill(stream, param->value, 1);
    case HX_INIT_NORMAL:
    case HX_INIT_UNIFORM:
        break;
    default:
        return HX_FAIL(HX_ERR_ARG, "parameter \"%s\": kind %d is no hx_init_kind", param->name, (int)kind);
    }
    if (!isfinite(scale))
        return HX_FAIL(HX_ERR_ARG, "parameter \"%s\": scale %g: expected a finite number", param->name,
                       scale);
    if (param->n_parts == 0) return init_logical(&ctx, param, seed, param->name, &param->layout, kind, scale);
    for (int i = 0; i < param->n_parts; i++)
        HX_TRY(init_logical(&ctx, param, seed, param->parts[i].name, &param->parts[i].layout, kind, scale));
    return HX_OK;
}
