#include "core/analysis/grad_flow.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

static int64_t count_layers(const hx_layer *layer) {
    int64_t n = layer->n_params > 0;
    for (int i = 0; i < layer->n_children; i++) n += count_layers(layer->children[i]);
    return n;
}

/* Add the squares of the layer's gradients to its slot of `sums`; what the item can say without numbers. */
static hx_status measure_layer(hx_ctx *quiet, const hx_layer *layer, hx_tensor *sum, hx_flow_item *item) {
    bool all_frozen = true;
    snprintf(item->path, sizeof item->path, "%s", layer->path[0] ? layer->path : layer->type->name);
    for (int i = 0; i < layer->n_params; i++) {
        const hx_param *param = layer->params[i];
        all_frozen = all_frozen && param->is_frozen;
        if (param->is_frozen || !hx_tensor_grad_is_set(param->value)) continue;
        HX_TRY(hx_sumsq_into(quiet, hx_tensor_grad(param->value), true, sum));
        item->n_elems += hx_tensor_count(param->value);
    }
    item->kind = all_frozen ? HX_FLOW_FROZEN : item->n_elems == 0 ? HX_FLOW_NO_GRADIENT : HX_FLOW_OK;
    return HX_OK;
}

static hx_status measure_tree(hx_ctx *quiet, const hx_layer *layer, hx_tensor *sums, hx_grad_flow *flow) {
    if (layer->n_params > 0) {
        HX_AUTO_TENSOR sum = NULL;
        HX_TRY(hx_tensor_window(sums, flow->n_items, HX_SCALAR, &sum));
        HX_TRY(measure_layer(quiet, layer, sum, &flow->items[flow->n_items]));
        flow->n_items++;
    }
    for (int i = 0; i < layer->n_children; i++) HX_TRY(measure_tree(quiet, layer->children[i], sums, flow));
    return HX_OK;
}

/* In a batch: a device may launch the gradients of a layer as one. */
static hx_status measure_all(hx_ctx *quiet, const hx_layer *root, hx_tensor *sums, hx_grad_flow *flow) {
    HX_TRY(hx_stream_batch(quiet->stream, true));
    hx_status status = measure_tree(quiet, root, sums, flow);
    HX_TRY(hx_stream_batch(quiet->stream, false));
    return status;
}

static hx_flow_kind judge(double norm) {
    return !isfinite(norm) ? HX_FLOW_NON_FINITE : norm < HX_FLOW_VANISHING_NORM ? HX_FLOW_VANISHING : norm > HX_FLOW_EXPLODING_NORM ? HX_FLOW_EXPLODING : HX_FLOW_OK;
}

hx_status hx_grad_flow_measure(const hx_ctx *ctx, hx_layer *root, double scale, hx_grad_flow *out) {
    const int64_t n = count_layers(root);
    HX_AUTO_TENSOR sums = NULL;
    hx_grad_flow flow = {0};
    double *squares = NULL;
    hx_ctx quiet = hx_no_grad(ctx);
    hx_status status;
    quiet.anomaly = false; /* numbers that are not finite are what is looked for */
    HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *flow.items, (void **)&flow.items), done);
    HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *squares, (void **)&squares), done);
    HX_TRY_GOTO(hx_tensor_create(ctx->device, HX_F64, HX_SHAPE(n), &sums), done);
    HX_TRY_GOTO(hx_tensor_fill(ctx->stream, sums, 0), done);
    HX_TRY_GOTO(measure_all(&quiet, root, sums, &flow), done);
    HX_TRY_GOTO(hx_tensor_read(ctx->stream, sums, squares), done);
    for (int64_t i = 0; i < n; i++) {
        flow.items[i].norm = fabs(scale) * sqrt(squares[i]);
        if (flow.items[i].kind == HX_FLOW_OK) flow.items[i].kind = judge(flow.items[i].norm);
    }
    *out = flow;
    flow = (hx_grad_flow){0};
done:
    hx_mem_free((void **)&squares);
    hx_grad_flow_destroy(&flow);
    return status;
}

void hx_grad_flow_destroy(hx_grad_flow *flow) {
    hx_mem_free((void **)&flow->items);
    flow->n_items = 0;
}

int64_t hx_grad_flow_count(const hx_grad_flow *flow, hx_flow_kind kind) {
    int64_t n = 0;
    for (int64_t i = 0; i < flow->n_items; i++) n += flow->items[i].kind == kind;
    return n;
}

/* snprintf behind what is there. */
HX_PRINTF(4, 5) static void append(char *buffer, size_t n_bytes, size_t *at, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = *at < n_bytes ? vsnprintf(buffer + *at, n_bytes - *at, format, args) : vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n > 0) *at += (size_t)n;
}

hx_status hx_grad_flow_text(const hx_grad_flow *flow, char *buffer, size_t n_bytes, size_t *n_needed) {
    static const char *const words[] = {
#define WORD(kind, word) word,
        HX_FLOW_KINDS(WORD)
#undef WORD
    };
    size_t at = 0;
    int width = 5;
    if (n_bytes == 0 && buffer != NULL) return HX_FAIL(HX_ERR_ARG, "a buffer of 0 bytes: expected room for the end of the text");
    for (int64_t i = 0; i < flow->n_items; i++)
        if ((int)strlen(flow->items[i].path) > width) width = (int)strlen(flow->items[i].path);
    append(buffer, n_bytes, &at, "%-*s  %12s  %10s\n", width, "layer", "elements", "norm");
    for (int64_t i = 0; i < flow->n_items; i++) {
        const hx_flow_item *item = &flow->items[i];
        append(buffer, n_bytes, &at, "%-*s  %12lld  ", width, item->path, (long long)item->n_elems);
        if (item->n_elems > 0) append(buffer, n_bytes, &at, "%10.3e", item->norm);
        else append(buffer, n_bytes, &at, "%10s", "-");
        append(buffer, n_bytes, &at, item->kind == HX_FLOW_OK ? "\n" : "  %s\n", words[item->kind]);
    }
    if (n_needed != NULL) *n_needed = at;
    return HX_OK;
}
