/* Recording and reverse differentiation.
 *
 * A recording is a list of nodes and a list of variables. A variable is a tensor through which gradients flow: a
 * leaf, which keeps its gradient in the tensor, or an op's output, whose gradient lives here until the op has been
 * differentiated. Backward walks the nodes from last to first:
 *   1. the gradients of a node's outputs are complete, because all their uses came later and are done;
 *   2. the node's derivative adds to the gradients of its inputs;
 *   3. saved tensors and output gradients of the node are released;
 *   4. each input counts one use less; a leaf without uses left is final, and its hook fires.
 */
#include "core/autograd/tape.h"

#include <string.h>

#include "core/base/mem.h"
#include "core/autograd/vjp_impl.h"
#include "core/tensor/tensor_impl.h"

#define MAX_OPERANDS (HX_OP_MAX_IN + HX_OP_MAX_OUT)

typedef struct variable {
    hx_tensor *leaf; /* owned; NULL for an op's output */
    hx_tensor *grad; /* owned; of an op's output */
    int32_t n_uses;  /* not yet differentiated */
} variable;

typedef struct hx__node {
    hx_op op;
    hx_custom custom; /* name NULL: an op of the table */
    hx_op_attr attr;
    int n_in, n_out;
    int32_t in_var[HX_OP_MAX_IN], out_var[HX_OP_MAX_OUT]; /* -1: no gradient flows */
    hx_shape shape[MAX_OPERANDS];                         /* inputs, then outputs from HX_OP_MAX_IN on */
    hx_dtype dtype[MAX_OPERANDS];
    hx_tensor *saved[MAX_OPERANDS]; /* owned or NULL */
    int64_t version[MAX_OPERANDS];  /* of the saved tensor's storage */
} hx__node;

struct hx_tape {
    hx_device *device;
    hx__node *nodes;
    variable *vars;
    int64_t n_nodes, nodes_capacity, n_vars, vars_capacity;
    int64_t serial;
    hx_ready_fn ready;
    void *ready_self;
};

hx_status hx_tape_create(hx_device *device, hx_tape **out) {
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_tape), &p));
    *out = p;
    (*out)->device = device;
    (*out)->serial = hx__device_next_serial(device);
    return HX_OK;
}

void hx_tape_destroy(hx_tape **tape) {
    if (*tape == NULL) return;
    hx_tape_reset(*tape);
    hx_mem_free((void **)&(*tape)->nodes);
    hx_mem_free((void **)&(*tape)->vars);
    hx_mem_free((void **)tape);
}

static void release_node(hx__node *node) {
    for (int i = 0; i < MAX_OPERANDS; i++) hx_tensor_destroy(&node->saved[i]);
}

void hx_tape_reset(hx_tape *tape) {
    for (int64_t i = 0; i < tape->n_nodes; i++) release_node(&tape->nodes[i]);
    for (int64_t i = 0; i < tape->n_vars; i++) {
        hx_tensor_destroy(&tape->vars[i].leaf);
        hx_tensor_destroy(&tape->vars[i].grad);
    }
    tape->n_nodes = tape->n_vars = 0;
    tape->serial = hx__device_next_serial(tape->device);
}

void hx_tape_set_ready_hook(hx_tape *tape, hx_ready_fn ready, void *self) {
    tape->ready = ready;
    tape->ready_self = self;
}

int64_t hx_tape_length(const hx_tape *tape) {
    return tape->n_nodes;
}

hx_status hx_detach(hx_tensor *x, hx_tensor **out) {
    return hx__tensor_alias(x, out);
}

/* ---- recording ---- */

bool hx__tape_wants(const hx_ctx *ctx, hx_tensor *const *in, int n_in) {
    if (ctx->tape == NULL) return false;
    for (int i = 0; i < n_in; i++)
        if (in[i] != NULL && (in[i]->requires_grad || in[i]->tape_serial == ctx->tape->serial)) return true;
    return false;
}

static hx_status new_variable(hx_tape *tape, hx_tensor *tensor, hx_tensor *leaf, int32_t *out) {
    if (tape->n_vars == INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d variables on the tape", INT32_MAX);
    HX_TRY(hx_mem_grow((void **)&tape->vars, &tape->vars_capacity, tape->n_vars + 1, sizeof *tape->vars));
    tape->vars[tape->n_vars] = (variable){.leaf = leaf ? hx_tensor_retain(leaf) : NULL};
    *out = (int32_t)tape->n_vars++;
    tensor->tape_serial = tape->serial;
    tensor->var = *out;
    return HX_OK;
}

static hx_status find_variable(hx_tape *tape, hx_tensor *x, int32_t *out) {
    *out = -1;
    if (x->tape_serial == tape->serial) *out = x->var;
    else if (x->requires_grad) HX_TRY(new_variable(tape, x, x, out));
    return HX_OK;
}

static void save(hx__node *node, int slot, hx_tensor *t) {
    node->saved[slot] = hx_tensor_retain(t);
    node->version[slot] = t->storage->version;
}

static hx_status record(hx_ctx *ctx, const hx__node *proto, unsigned saves, hx_tensor *const *in, hx_tensor *const *out) {
    hx_tape *tape = ctx->tape;
    HX_TRY(hx_mem_grow((void **)&tape->nodes, &tape->nodes_capacity, tape->n_nodes + 1, sizeof *tape->nodes));
    hx__node *node = &tape->nodes[tape->n_nodes];
    *node = *proto;
    for (int i = 0; i < HX_OP_MAX_IN; i++) {
        node->in_var[i] = -1;
        if (i >= node->n_in || in[i] == NULL) continue;
        node->shape[i] = hx_array_shape(&in[i]->array);
        node->dtype[i] = in[i]->array.dtype;
        HX_TRY(find_variable(tape, in[i], &node->in_var[i]));
    }
    for (int i = 0; i < HX_OP_MAX_OUT; i++) {
        node->out_var[i] = -1;
        if (i >= node->n_out || out[i] == NULL) continue;
        node->shape[HX_OP_MAX_IN + i] = hx_array_shape(&out[i]->array);
        node->dtype[HX_OP_MAX_IN + i] = out[i]->array.dtype;
        if (hx_dtype_is_float(out[i]->array.dtype) || hx_dtype_is_complex(out[i]->array.dtype)) HX_TRY(new_variable(tape, out[i], NULL, &node->out_var[i]));
    }
    /* nothing fails from here on */
    for (int i = 0; i < node->n_in; i++) {
        if (node->in_var[i] >= 0) tape->vars[node->in_var[i]].n_uses++;
        if (in[i] != NULL && (saves >> i & 1)) save(node, i, in[i]);
    }
    for (int i = 0; i < node->n_out; i++)
        if (out[i] != NULL && (saves >> (8 + i) & 1)) save(node, HX_OP_MAX_IN + i, out[i]);
    tape->n_nodes++;
    return HX_OK;
}

hx_status hx__tape_record(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out) {
    hx__node proto = {.op = op, .attr = *attr, .n_in = n_in, .n_out = n_out};
    return record(ctx, &proto, hx_op_info_get(op)->saves, in, out);
}

hx_status hx_tape_record_custom(hx_ctx *ctx, const hx_custom *custom, hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out) {
    if (n_in < 0 || n_in > HX_OP_MAX_IN || n_out < 1 || n_out > HX_OP_MAX_OUT)
        return HX_FAIL(HX_ERR_ARG, "%d inputs, %d outputs: expected at most %d and 1 to %d", n_in, n_out, HX_OP_MAX_IN, HX_OP_MAX_OUT);
    if (custom->name == NULL || custom->vjp == NULL) return HX_FAIL(HX_ERR_ARG, "a custom node needs a name and a vjp function");
    if (!hx__tape_wants(ctx, in, n_in)) return HX_OK;
    for (int i = 0; i < n_out; i++)
        for (int j = 0; j < n_in; j++)
            if (out[i] == in[j]) return HX_FAIL(HX_ERR_ARG, "%s: output %d is input %d itself", custom->name, i, j);
    hx__node proto = {.custom = *custom, .n_in = n_in, .n_out = n_out};
    return record(ctx, &proto, custom->saves, in, out);
}

/* ---- backward ---- */

static const char *node_name(const hx__node *node) {
    return node->custom.name ? node->custom.name : hx_op_info_get(node->op)->name;
}

static hx_status check_saved(const hx__node *node) {
    for (int i = 0; i < MAX_OPERANDS; i++)
        if (node->saved[i] && node->saved[i]->storage->version != node->version[i])
            return HX_FAIL(HX_ERR_STATE, "%s: its %s %d was changed in place between forward and backward (version %lld, saved at %lld)",
                           node_name(node), i < HX_OP_MAX_IN ? "input" : "output", i < HX_OP_MAX_IN ? i : i - HX_OP_MAX_IN,
                           (long long)node->saved[i]->storage->version, (long long)node->version[i]);
    return HX_OK;
}

static hx_status differentiate(hx_ctx *quiet, hx_tape *tape, hx__node *node) {
    hx_vjp v = {.ctx = quiet, .attr = &node->attr, .user = node->custom.user, .n_in = node->n_in, .n_out = node->n_out, .tape = tape, .node = node};
    bool arrived = false;
    for (int i = 0; i < node->n_out; i++) {
        v.out[i] = node->saved[HX_OP_MAX_IN + i];
        v.out_shape[i] = node->shape[HX_OP_MAX_IN + i];
        v.grad_out[i] = node->out_var[i] >= 0 ? tape->vars[node->out_var[i]].grad : NULL;
        arrived = arrived || v.grad_out[i] != NULL;
        if (v.grad_out[i] != NULL && i > 0 && node->custom.name == NULL && node->op != HX_OP_split)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s has no derivative through its output %d", node_name(node), i);
    }
    if (!arrived) return HX_OK;
    HX_TRY(check_saved(node));
    for (int i = 0; i < node->n_in; i++) {
        v.in[i] = node->saved[i];
        v.in_shape[i] = node->shape[i];
        v.in_dtype[i] = node->dtype[i];
    }
    return node->custom.name ? node->custom.vjp(&v) : hx_op_info_get(node->op)->vjp(&v);
}

static hx_status finish_node(hx_tape *tape, hx__node *node) {
    release_node(node);
    for (int i = 0; i < node->n_out; i++)
        if (node->out_var[i] >= 0) hx_tensor_destroy(&tape->vars[node->out_var[i]].grad);
    for (int i = 0; i < node->n_in; i++) {
        if (node->in_var[i] < 0) continue;
        variable *var = &tape->vars[node->in_var[i]];
        if (--var->n_uses == 0 && var->leaf != NULL && tape->ready != NULL) HX_TRY(tape->ready(tape->ready_self, var->leaf));
    }
    return HX_OK;
}

static hx_status seed_gradient(hx_ctx *quiet, hx_tensor *y, hx_tensor *seed, hx_tensor **out) {
    hx_shape shape = hx_array_shape(&y->array);
    if (seed == NULL) {
        HX_TRY(hx_tensor_create(quiet->device, y->array.dtype, shape, out));
        return hx_tensor_fill(quiet->stream, *out, 1);
    }
    hx_shape given = hx_array_shape(&seed->array);
    char ty[HX_SHAPE_TEXT], ts[HX_SHAPE_TEXT];
    if (!hx_shape_equal(&shape, &given) || seed->array.dtype != y->array.dtype)
        return HX_FAIL(HX_ERR_SHAPE, "seed %s %s for y %s %s: expected the same", hx_dtype_name(seed->array.dtype), hx_shape_text(&given, ts),
                       hx_dtype_name(y->array.dtype), hx_shape_text(&shape, ty));
    *out = hx_tensor_retain(seed);
    return HX_OK;
}

static hx_status run_backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed) {
    hx_tape *tape = ctx->tape;
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    if (y->tape_serial != tape->serial || tape->vars[y->var].leaf != NULL)
        return HX_FAIL(HX_ERR_STATE, "y is not the result of a recorded op: nothing it depends on needs a gradient, or the tape has been used up");
    HX_TRY(seed_gradient(&quiet, y, seed, &tape->vars[y->var].grad));
    /* Derivatives do not record, so the lists stay where they are; vjp functions reach them through the node. */
    for (int64_t i = tape->n_nodes - 1; i >= 0; i--) {
        hx_ctx inner = quiet;
        HX_TRY(differentiate(&inner, tape, &tape->nodes[i]));
        HX_TRY(finish_node(tape, &tape->nodes[i]));
    }
    return HX_OK;
}

hx_status hx_backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed) {
    if (ctx->tape == NULL) return HX_FAIL(HX_ERR_STATE, "the context has no tape");
    hx_status status = run_backward(ctx, y, seed);
    hx_tape_reset(ctx->tape);
    return status;
}

/* ---- what a derivative may do ---- */

static variable *input_variable(const hx_vjp *v, int i) {
    return v->node->in_var[i] >= 0 ? &v->tape->vars[v->node->in_var[i]] : NULL;
}

bool hx_vjp_wants(const hx_vjp *v, int i) {
    return i < v->n_in && v->node->in_var[i] >= 0;
}

static bool is_exclusive(const hx_tensor *t) {
    return t->refs == 1 && t->storage->refs == 1 && hx_array_is_contiguous(&t->array);
}

hx_status hx_vjp_target(hx_vjp *v, int i, hx_tensor **dst, bool *accumulate) {
    variable *var = input_variable(v, i);
    if (var == NULL) return HX_FAIL(HX_ERR_STATE, "%s: no gradient of input %d is wanted", node_name(v->node), i);
    hx_tensor **grad = var->leaf ? &var->leaf->grad : &var->grad;
    if (*grad == NULL) {
        HX_TRY(hx_tensor_create(v->ctx->device, var->leaf ? hx_dtype_accum(v->in_dtype[i]) : v->in_dtype[i], v->in_shape[i], grad));
        *accumulate = false;
    } else if (var->leaf) {
        *accumulate = var->leaf->grad_is_set;
    } else {
        if (!is_exclusive(*grad)) { /* others hold it, or it is a view: add to a copy */
            hx_tensor *own = NULL;
            HX_TRY(hx_cast(v->ctx, *grad, v->in_dtype[i], &own));
            hx_tensor_destroy(grad);
            *grad = own;
        }
        *accumulate = true;
    }
    if (var->leaf) var->leaf->grad_is_set = true;
    (*grad)->storage->version++;
    *dst = *grad;
    return HX_OK;
}

/* Sum g over the dims in which the input was broadcast. Replaces *g. */
static hx_status unbroadcast(hx_vjp *v, int i, hx_tensor **g) {
    hx_shape from = hx_array_shape(&(*g)->array), to = v->in_shape[i];
    int dims[HX_MAX_DIMS], n = 0, lead = from.ndim - to.ndim;
    if (hx_shape_equal(&from, &to)) return HX_OK;
    for (int d = 0; d < from.ndim; d++)
        if (d < lead || to.dims[d - lead] != from.dims[d]) dims[n++] = d;
    HX_AUTO_TENSOR sum = NULL;
    hx_tensor *shaped;
    HX_TRY(hx_sum(v->ctx, *g, dims, n, true, &sum));
    HX_TRY(hx_tensor_view(sum, to, &shaped));
    hx_tensor_destroy(g);
    *g = shaped;
    return HX_OK;
}

static hx_status give(hx_vjp *v, int i, hx_tensor **g) {
    HX_TRY(unbroadcast(v, i, g));
    variable *var = input_variable(v, i);
    if (var->leaf == NULL && var->grad == NULL) {
        var->grad = hx_tensor_move(g);
        return HX_OK;
    }
    if (var->leaf == NULL && !is_exclusive(var->grad)) {
        hx_tensor *sum = NULL;
        HX_TRY(hx_add(v->ctx, var->grad, *g, &sum));
        hx_tensor_destroy(&var->grad);
        var->grad = sum;
        return HX_OK;
    }
    hx_tensor *dst;
    bool accumulate;
    HX_TRY(hx_vjp_target(v, i, &dst, &accumulate));
    return hx__grad_put(v, dst, *g, accumulate);
}

hx_status hx_vjp_give_consume(hx_vjp *v, int i, hx_tensor **g) {
    hx_status status = hx_vjp_wants(v, i) ? give(v, i, g) : HX_OK;
    hx_tensor_destroy(g);
    return status;
}
