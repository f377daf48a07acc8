/* Layers without parameters: dropout, activations, and the sequence of other layers. */
#include <stdio.h>
#include "core/autograd/tape.h"
#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

/* ---- dropout ---- */

typedef struct dropout {
    hx_layer base;
    double p;
} dropout;

static hx_status dropout_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    /* The path tells layers apart: it stays the same when layers are added elsewhere in the model, and on
     * every rank, which a counter would not. */
    return hx_dropout_op(ctx, x, ((const dropout *)layer)->p, hx__layer_hash(layer, ""), y);
}

static const hx_layer_type dropout_type = {
    .name = "dropout", .n_bytes = sizeof(dropout), .forward = dropout_forward};

hx_status hx_dropout_create(hx_device *device, double p, hx_layer **out) {
    hx_layer *layer;
    if (!(p >= 0 && p < 1)) return HX_FAIL(HX_ERR_CONFIG, "dropout p = %g: expected 0 <= p < 1", p);
    HX_TRY(hx_layer_create(&dropout_type, device, &layer));
    ((dropout *)layer)->p = p;
    *out = layer;
    return HX_OK;
}

/* ---- activation ---- */

typedef struct activation {
    hx_layer base;
    hx_op op;
} activation;

static hx_status activation_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    return hx_unary(ctx, ((const activation *)layer)->op, x, y);
}

static const hx_layer_type activation_type = {
    .name = "activation", .n_bytes = sizeof(activation), .forward = activation_forward};

static bool is_activation(hx_op op) {
    static const hx_op ops[] = {HX_OP_relu,     HX_OP_silu, HX_OP_gelu_tanh, HX_OP_gelu_erf,
                                HX_OP_softplus, HX_OP_tanh, HX_OP_sigmoid};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i] == op) return true;
    return false;
}

hx_status hx_activation_create(hx_device *device, hx_op op, hx_layer **out) {
    hx_layer *layer;
    if (!is_activation(op))
        return HX_FAIL(
            HX_ERR_ARG,
            "op %d is no activation: expected relu, silu, gelu_tanh, gelu_erf, softplus, tanh or sigmoid",
            (int)op);
    HX_TRY(hx_layer_create(&activation_type, device, &layer));
    ((activation *)layer)->op = op;
    *out = layer;
    return HX_OK;
}

typedef struct leaky {
    hx_layer base;
    double slope;
} leaky;

static hx_status leaky_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    return hx_leaky_relu(ctx, x, ((const leaky *)layer)->slope, y);
}

static const hx_layer_type leaky_type = {
    .name = "leaky_relu", .n_bytes = sizeof(leaky), .forward = leaky_forward};

hx_status hx_leaky_relu_create(hx_device *device, double slope, hx_layer **out) {
    hx_layer *layer;
    if (!isfinite(slope))
        return HX_FAIL(HX_ERR_CONFIG, "leaky_relu slope = %g: expected a finite number", slope);
    HX_TRY(hx_layer_create(&leaky_type, device, &layer));
    ((leaky *)layer)->slope = slope;
    *out = layer;
    return HX_OK;
}

/* ---- sequential ---- */

typedef struct group {
    hx_layer *sequence;
    int first, end; /* children */
} group;

typedef struct sequential {
    hx_layer base;
    int64_t group_size; /* children that are recomputed together; 0: none */
    int64_t n_groups;
    group *groups; /* [n_groups], owned: what segments refer to until backward */
} sequential;

static hx_status run_children(hx_layer *layer, hx_ctx *ctx, int first, int end, hx_tensor *x, hx_tensor **y) {
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    for (int i = first; i < end; i++) {
        hx_tensor *next;
        HX_TRY(hx_layer_forward(layer->children[i], ctx, at, &next));
        hx_tensor_destroy(&at);
        at = next;
    }
    *y = hx_tensor_move(&at);
    return HX_OK;
}

static hx_status run_group(hx_ctx *ctx, void *self, hx_tensor *const *in, hx_tensor **out) {
    const group *g = self;
    return run_children(g->sequence, ctx, g->first, g->end, in[0], out);
}

static hx_status make_groups(sequential *s) {
    const int64_t n_children = s->base.n_children, size = s->group_size, n = n_children > 0 ? (n_children - 1) / size + 1 : 0;
    group *groups;
    HX_TRY(hx_mem_alloc_array(n, sizeof *groups, (void **)&groups));
    for (int64_t i = 0; i < n; i++) {
        int64_t first = i * size, left = n_children - first;
        groups[i] = (group){&s->base, (int)first, (int)(first + (size < left ? size : left))};
    }
    hx_mem_free((void **)&s->groups);
    s->groups = groups;
    s->n_groups = n;
    return HX_OK;
}

static hx_status sequential_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    sequential *s = (sequential *)layer;
    if (s->group_size == 0) return run_children(layer, ctx, 0, layer->n_children, x, y);
    if (layer->n_children != (s->n_groups > 0 ? s->groups[s->n_groups - 1].end : 0))
        return HX_FAIL(HX_ERR_STATE, "sequence \"%s\": children were added after hx_sequential_set_recompute: call it again", layer->path);
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    for (int64_t i = 0; i < s->n_groups; i++) {
        hx_tensor *next;
        HX_TRY(hx_checkpoint(ctx, run_group, &s->groups[i], &at, 1, &next, 1));
        hx_tensor_destroy(&at);
        at = next;
    }
    *y = hx_tensor_move(&at);
    return HX_OK;
}

static void sequential_destroy(hx_layer *layer) { hx_mem_free((void **)&((sequential *)layer)->groups); }

static const hx_layer_type sequential_type = {.name = "sequential",
                                              .n_bytes = sizeof(sequential),
                                              .forward = sequential_forward,
                                              .destroy = sequential_destroy};

hx_status hx_sequential_set_recompute(hx_layer *layer, int64_t n) {
    if (layer == NULL || layer->type != &sequential_type)
        return HX_FAIL(HX_ERR_ARG, "layer of type %s: expected sequential", layer ? layer->type->name : "NULL");
    if (n < 0) return HX_FAIL(HX_ERR_ARG, "segments of %lld children: expected >= 0", (long long)n);
    sequential *s = (sequential *)layer;
    s->group_size = n;
    return n > 0 ? make_groups(s) : HX_OK;
}

hx_status hx_sequential_create_consume(hx_device *device, hx_layer **layers, int n, hx_layer **out) {
    hx_layer *sequence = NULL;
    hx_status status;
    HX_TRY_GOTO(hx_layer_create(&sequential_type, device, &sequence), done);
    for (int i = 0; i < n; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", i);
        HX_TRY_GOTO(hx_layer_add_consume(sequence, name, &layers[i]), done);
    }
    *out = sequence;
    return HX_OK;
done:
    for (int i = 0; i < n; i++) hx_layer_destroy(&layers[i]);
    hx_layer_destroy(&sequence);
    return status;
}
