/* Layers without parameters: dropout, activations, and the sequence of other layers. */
#include <stdio.h>
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
    static const hx_op ops[] = {HX_OP_relu,     HX_OP_silu, HX_OP_gelu_tanh,
                                HX_OP_gelu_erf, HX_OP_tanh, HX_OP_sigmoid};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (ops[i] == op) return true;
    return false;
}

hx_status hx_activation_create(hx_device *device, hx_op op, hx_layer **out) {
    hx_layer *layer;
    if (!is_activation(op))
        return HX_FAIL(HX_ERR_ARG,
                       "op %d is no activation: expected relu, silu, gelu_tanh, gelu_erf, tanh or sigmoid",
                       (int)op);
    HX_TRY(hx_layer_create(&activation_type, device, &layer));
    ((activation *)layer)->op = op;
    *out = layer;
    return HX_OK;
}

/* ---- sequential ---- */

static hx_status sequential_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    for (int i = 0; i < layer->n_children; i++) {
        hx_tensor *next;
        HX_TRY(hx_layer_forward(layer->children[i], ctx, at, &next));
        hx_tensor_destroy(&at);
        at = next;
    }
    *y = hx_tensor_move(&at);
    return HX_OK;
}

static const hx_layer_type sequential_type = {
    .name = "sequential", .n_bytes = sizeof(hx_layer), .forward = sequential_forward};

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
