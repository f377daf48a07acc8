/* Recording.
 *
 * A recording is a list of nodes and a list of variables. An op's output carries its variable's number; a leaf is
 * looked up by its address, because it may be in use on other tapes too, with other numbers there.
 */
#include "core/autograd/tape_impl.h"

#include <stdio.h>
#include <string.h>

#include "core/base/mem.h"

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
    hx_mem_free((void **)&(*tape)->segments);
    hx_mem_free((void **)&(*tape)->hooks);
    hx_mem_free((void **)&(*tape)->leaves);
    hx_mem_free((void **)tape);
}

const char *hx__node_name(const hx__node *node) {
    return node->custom.name ? node->custom.name : hx_op_info_get(node->op)->name;
}

void hx__node_release(hx__node *node) {
    for (int i = 0; i < HX__MAX_OPERANDS; i++) hx_tensor_destroy(&node->saved[i]);
}

void hx_tape_reset(hx_tape *tape) {
    for (int64_t i = 0; i < tape->n_nodes; i++) hx__node_release(&tape->nodes[i]);
    for (int64_t i = 0; i < tape->n_segments; i++)
        for (int k = 0; k < tape->segments[i].n_in; k++) hx_tensor_destroy(&tape->segments[i].in[k]);
    for (int64_t i = 0; i < tape->n_vars; i++) {
        hx_tensor_destroy(&tape->vars[i].leaf);
        hx_tensor_destroy(&tape->vars[i].grad);
    }
    if (tape->n_leaves > 0) memset(tape->leaves, 0, (size_t)tape->leaves_capacity * sizeof *tape->leaves);
    tape->n_nodes = tape->n_vars = tape->n_segments = tape->n_hooks = tape->n_leaves = 0;
    tape->in_segment = tape->is_replaying = false;
    tape->serial = hx__device_next_serial(tape->device);
}

void hx_tape_set_ready_hook(hx_tape *tape, hx_ready_fn ready, void *self) {
    tape->ready = ready;
    tape->ready_self = self;
}

void hx_tape_set_place_hook(hx_tape *tape, hx_place_fn place, void *self) {
    tape->place = place;
    tape->place_self = self;
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
        if (in[i] != NULL && (in[i]->requires_grad || hx__tape_holds(ctx->tape, in[i]))) return true;
    return false;
}

/* Where a leaf stands in the hash, or the free place for it. The table is never full. */
static int32_t *leaf_place(const hx_tape *tape, const hx_tensor *leaf) {
    uint64_t mask = (uint64_t)tape->leaves_capacity - 1;
    uint64_t at = ((uint64_t)(uintptr_t)leaf >> 4) * 0x9E3779B97F4A7C15ull >> 20;
    for (;; at++) {
        int32_t *place = &tape->leaves[at & mask];
        if (*place == 0 || tape->vars[*place - 1].leaf == leaf) return place;
    }
}

/* Room for one more leaf in a table at most half full. Grown tables stay: a steady step allocates nothing. */
static hx_status reserve_leaf(hx_tape *tape) {
    int64_t n = tape->leaves_capacity > 0 ? tape->leaves_capacity * 2 : 64;
    if (2 * (tape->n_leaves + 1) <= tape->leaves_capacity) return HX_OK;
    void *grown;
    HX_TRY(hx_mem_alloc_array(n, sizeof *tape->leaves, &grown)); /* a failure leaves the old table in place */
    hx_mem_free((void **)&tape->leaves);
    tape->leaves = grown;
    tape->leaves_capacity = n;
    for (int64_t i = 0; i < tape->n_vars; i++)
        if (tape->vars[i].leaf != NULL) *leaf_place(tape, tape->vars[i].leaf) = (int32_t)i + 1;
    return HX_OK;
}

static hx_status new_variable(hx_tape *tape, hx_tensor *leaf, int32_t *out) {
    if (tape->n_vars == INT32_MAX - 1) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d variables on the tape", INT32_MAX - 1);
    HX_TRY(hx_mem_grow((void **)&tape->vars, &tape->vars_capacity, tape->n_vars + 1, sizeof *tape->vars));
    tape->vars[tape->n_vars] = (hx__variable){.leaf = leaf ? hx_tensor_retain(leaf) : NULL};
    *out = (int32_t)tape->n_vars++;
    return HX_OK;
}

hx_status hx__tape_variable(hx_tape *tape, hx_tensor *x, bool make, int32_t *out) {
    *out = -1;
    if (hx__tape_holds(tape, x)) {
        *out = x->var;
        return HX_OK;
    }
    if (!x->requires_grad) return HX_OK;
    if (tape->leaves_capacity > 0) *out = *leaf_place(tape, x) - 1;
    if (*out >= 0 || !make) return HX_OK;
    HX_TRY(reserve_leaf(tape));
    HX_TRY(new_variable(tape, x, out));
    *leaf_place(tape, x) = *out + 1;
    tape->n_leaves++;
    return HX_OK;
}

static void save(hx__node *node, int slot, hx_tensor *t) {
    node->saved[slot] = hx_tensor_retain(t);
    node->version[slot] = t->storage->version;
}

void hx__node_save(hx__node *node, hx_tensor *const *in, hx_tensor *const *out) {
    for (int i = 0; i < node->n_in; i++)
        if (in[i] != NULL && (node->saves >> i & 1)) save(node, i, in[i]);
    for (int i = 0; i < node->n_out; i++)
        if (out[i] != NULL && (node->saves >> (8 + i) & 1)) save(node, HX_OP_MAX_IN + i, out[i]);
}

unsigned hx__present(hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out) {
    unsigned bits = 0;
    for (int i = 0; i < n_in; i++) bits |= (unsigned)(in[i] != NULL) << i;
    for (int i = 0; i < n_out; i++) bits |= (unsigned)(out[i] != NULL) << (8 + i);
    return bits;
}

static hx_status note_input(hx_tape *tape, hx__node *node, int i, hx_tensor *x) {
    node->shape[i] = hx_array_shape(&x->array);
    node->dtype[i] = x->array.dtype;
    node->version[i] = x->storage->version;
    return hx__tape_variable(tape, x, true, &node->in_var[i]);
}

static hx_status note_output(hx_tape *tape, hx__node *node, int i, hx_tensor *y) {
    node->shape[HX_OP_MAX_IN + i] = hx_array_shape(&y->array);
    node->dtype[HX_OP_MAX_IN + i] = y->array.dtype;
    if (!hx_dtype_is_float(y->array.dtype) && !hx_dtype_is_complex(y->array.dtype)) return HX_OK;
    HX_TRY(new_variable(tape, NULL, &node->out_var[i]));
    y->tape_serial = tape->serial;
    y->var = node->out_var[i];
    return HX_OK;
}

static hx_status record(hx_ctx *ctx, const hx__node *proto, hx_tensor *const *in, hx_tensor *const *out) {
    hx_tape *tape = ctx->tape;
    if (tape->device != ctx->device)
        return HX_FAIL(HX_ERR_DEVICE, "%s: the tape is of device %s, the context on %s", hx__node_name(proto), hx_device_name(tape->device),
                       hx_device_name(ctx->device));
    if (tape->is_replaying) return hx__replay_node(tape, proto, in, out);
    if (tape->is_backward) return HX_FAIL(HX_ERR_STATE, "%s: recorded on a tape that is being differentiated", hx__node_name(proto));
    HX_TRY(hx_mem_grow((void **)&tape->nodes, &tape->nodes_capacity, tape->n_nodes + 1, sizeof *tape->nodes));
    hx__node *node = &tape->nodes[tape->n_nodes];
    *node = *proto;
    node->present = hx__present(in, node->n_in, out, node->n_out);
    node->segment = tape->in_segment ? (int32_t)(tape->n_segments - 1) : -1;
    if (ctx->anomaly && ctx->where != NULL) snprintf(node->where, sizeof node->where, "%s", ctx->where);
    for (int i = 0; i < HX_OP_MAX_IN; i++) {
        node->in_var[i] = -1;
        if (i < node->n_in && in[i] != NULL) HX_TRY(note_input(tape, node, i, in[i]));
    }
    for (int i = 0; i < HX_OP_MAX_OUT; i++) {
        node->out_var[i] = -1;
        if (i < node->n_out && out[i] != NULL) HX_TRY(note_output(tape, node, i, out[i]));
    }
    /* nothing fails from here on */
    for (int i = 0; i < node->n_in; i++)
        if (node->in_var[i] >= 0) tape->vars[node->in_var[i]].n_uses++;
    if (node->segment < 0) hx__node_save(node, in, out);
    tape->n_nodes++;
    return HX_OK;
}

hx_status hx__tape_record(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out) {
    hx__node proto = {.op = op, .attr = *attr, .n_in = n_in, .n_out = n_out, .saves = hx_op_info_get(op)->saves};
    return record(ctx, &proto, in, out);
}

hx_status hx_tape_record_custom(hx_ctx *ctx, const hx_custom *custom, hx_tensor *const *in, int n_in, hx_tensor *const *out, int n_out) {
    if (n_in < 0 || n_in > HX_OP_MAX_IN || n_out < 1 || n_out > HX_OP_MAX_OUT)
        return HX_FAIL(HX_ERR_ARG, "%d inputs, %d outputs: expected at most %d and 1 to %d", n_in, n_out, HX_OP_MAX_IN, HX_OP_MAX_OUT);
    if (custom->name == NULL || custom->vjp == NULL) return HX_FAIL(HX_ERR_ARG, "a custom node needs a name and a vjp function");
    if (!hx__tape_wants(ctx, in, n_in)) return HX_OK;
    for (int i = 0; i < n_out; i++)
        for (int j = 0; j < n_in; j++)
            if (out[i] == in[j]) return HX_FAIL(HX_ERR_ARG, "%s: output %d is input %d itself", custom->name, i, j);
    hx__node proto = {.custom = *custom, .n_in = n_in, .n_out = n_out, .saves = custom->saves};
    return record(ctx, &proto, in, out);
}

hx_status hx_tape_hook(hx_tape *tape, hx_tensor *tensor, hx_grad_hook_fn fn, void *self) {
    int32_t var;
    if (tape->is_replaying) return HX_OK; /* registered when the segment ran first */
    if (tape->is_backward) return HX_FAIL(HX_ERR_STATE, "called from within a backward of this tape");
    HX_TRY(hx__tape_variable(tape, tensor, true, &var));
    if (var < 0) return HX_FAIL(HX_ERR_STATE, "the tensor is neither recorded on this tape nor a leaf that asks for gradients");
    HX_TRY(hx_mem_grow((void **)&tape->hooks, &tape->hooks_capacity, tape->n_hooks + 1, sizeof *tape->hooks));
    tape->hooks[tape->n_hooks++] = (hx__hook){var, fn, self};
    tape->vars[var].has_hooks = true;
    return HX_OK;
}
