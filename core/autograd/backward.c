/* Reverse differentiation. Backward walks the nodes from last to first:
 *   1. the gradients of a node's outputs are complete, because all their uses came later and are done; hooks see them;
 *   2. a node that ends a segment has the segment run again, which gives its nodes what they need (recompute.c);
 *   3. the node's derivative adds to the gradients of its inputs;
 *   4. output gradients of the node are released, saved tensors too unless the tape is retained;
 *   5. each input counts one use less; a leaf without uses left is final, and its hooks fire.
 */
#include <math.h>
#include <stdio.h>

#include "core/autograd/tape_impl.h"
#include "core/autograd/vjp_impl.h"
#include "core/base/trace.h"

/* ---- the walk ---- */

static hx_status check_saved(const hx__node *node) {
    for (int i = 0; i < HX__MAX_OPERANDS; i++)
        if (node->saved[i] && node->saved[i]->storage->version != node->version[i])
            return HX_FAIL(HX_ERR_STATE, "%s: its %s %d was changed in place between forward and backward (version %lld, saved at %lld)",
                           hx__node_name(node), i < HX_OP_MAX_IN ? "input" : "output", i < HX_OP_MAX_IN ? i : i - HX_OP_MAX_IN,
                           (long long)node->saved[i]->storage->version, (long long)node->version[i]);
    return HX_OK;
}

/* The hooks of a variable whose gradient is complete, in order; each may put another tensor in its place. */
static hx_status run_hooks(hx_ctx *quiet, hx_tape *tape, int32_t index) {
    hx__variable *var = &tape->vars[index];
    for (int64_t i = 0; i < tape->n_hooks && var->has_hooks && var->grad != NULL; i++) {
        if (tape->hooks[i].var != index) continue;
        HX_AUTO_TENSOR next = NULL;
        hx_ctx ctx = *quiet;
        hx_shape was = hx_array_shape(&var->grad->array);
        HX_TRY(tape->hooks[i].fn(tape->hooks[i].self, &ctx, var->grad, &next));
        if (next == NULL) continue;
        hx_shape is = hx_array_shape(&next->array);
        char tw[HX_SHAPE_TEXT], ti[HX_SHAPE_TEXT];
        if (!hx_shape_equal(&was, &is) || next->array.dtype != var->grad->array.dtype)
            return HX_FAIL(HX_ERR_SHAPE, "a hook replaced a gradient %s %s by %s %s: expected the same", hx_dtype_name(var->grad->array.dtype),
                           hx_shape_text(&was, tw), hx_dtype_name(next->array.dtype), hx_shape_text(&is, ti));
        hx_tensor_destroy(&var->grad);
        var->grad = hx_tensor_move(&next);
    }
    return HX_OK;
}

/* Other outputs than the first are statistics and indices, but for the parts of a split and the sum that a norm has made. */
static bool has_derivative_through(hx_op op, int i) {
    return i == 0 || op == HX_OP_split || (op == HX_OP_add_layernorm && i == 3) || (op == HX_OP_add_rmsnorm && i == 2);
}

static hx_status call_vjp(hx_ctx *ctx, hx_tape *tape, hx__node *node) {
    hx_vjp v = {.ctx = ctx, .attr = &node->attr, .user = node->custom.user, .n_in = node->n_in, .n_out = node->n_out, .tape = tape, .node = node};
    for (int i = 0; i < node->n_out; i++) {
        v.out[i] = node->saved[HX_OP_MAX_IN + i];
        v.out_shape[i] = node->shape[HX_OP_MAX_IN + i];
        v.grad_out[i] = node->out_var[i] >= 0 ? tape->vars[node->out_var[i]].grad : NULL;
        if (v.grad_out[i] != NULL && node->custom.name == NULL && !has_derivative_through(node->op, i))
            return HX_FAIL(HX_ERR_UNSUPPORTED, "%s has no derivative through its output %d", hx__node_name(node), i);
    }
    HX_TRY(check_saved(node));
    for (int i = 0; i < node->n_in; i++) {
        v.in[i] = node->saved[i];
        v.in_shape[i] = node->shape[i];
        v.in_dtype[i] = node->dtype[i];
    }
    return node->custom.name ? node->custom.vjp(&v) : hx_op_info_get(node->op)->vjp(&v);
}

static hx_tensor *gradient_of(const hx_tape *tape, int32_t index) {
    const hx__variable *var = index >= 0 ? &tape->vars[index] : NULL;
    if (var == NULL) return NULL;
    return var->grad != NULL || var->leaf == NULL ? var->grad : var->leaf->grad_is_set ? var->leaf->grad : NULL;
}

/* A derivative may write without an op: its results are looked at here. */
static hx_status check_gradients(hx_ctx *ctx, const hx_tape *tape, const hx__node *node) {
    for (int i = 0; i < node->n_in; i++) {
        hx_tensor *grad = gradient_of(tape, node->in_var[i]);
        int64_t at = -1;
        double value = 0;
        if (grad != NULL) HX_TRY(hx__find_non_finite(ctx, grad, &at, &value));
        if (at >= 0)
            return HX_FAIL(HX_ERR_NUMERIC, "%s: the gradient of input %d is not finite: element %lld is %g", ctx->where, i, (long long)at, value);
    }
    return HX_OK;
}

/* Ops that a derivative runs are checked like all others; their messages name the derivative by `where`. */
static hx_status call_vjp_watched(hx_ctx *quiet, hx_tape *tape, hx__node *node) {
    char text[HX__WHERE_BYTES + 128];
    hx_ctx ctx = *quiet;
    snprintf(text, sizeof text, "derivative of %s%s%s", hx__node_name(node), node->where[0] ? ", recorded in " : "", node->where);
    ctx.where = text;
    for (int i = 0; i < node->n_out; i++) {
        hx_tensor *grad = gradient_of(tape, node->out_var[i]);
        int64_t at = -1;
        double value = 0;
        if (grad != NULL) HX_TRY(hx__find_non_finite(&ctx, grad, &at, &value));
        if (at >= 0)
            return HX_FAIL(HX_ERR_NUMERIC, "%s: the gradient that arrives at output %d is not finite already: element %lld is %g", text, i,
                           (long long)at, value);
    }
    HX_TRY(call_vjp(&ctx, tape, node));
    return check_gradients(&ctx, tape, node);
}

static hx_status differentiate(hx_ctx *quiet, hx_tape *tape, hx__node *node) {
    bool arrived = false;
    for (int i = 0; i < node->n_out; i++) {
        if (node->out_var[i] < 0) continue;
        HX_TRY(run_hooks(quiet, tape, node->out_var[i]));
        arrived = arrived || tape->vars[node->out_var[i]].grad != NULL;
    }
    if (!arrived) return HX_OK;
    if (quiet->anomaly) return call_vjp_watched(quiet, tape, node);
    hx_ctx ctx = *quiet;
    return call_vjp(&ctx, tape, node);
}

/* Room for a leaf's gradient where it has none. */
static hx_status place_gradient(const hx_ctx *quiet, const hx_tape *tape, hx_tensor *leaf) {
    if (leaf->grad == NULL && tape->place != NULL) HX_TRY(tape->place(tape->place_self, leaf));
    if (leaf->grad != NULL) return HX_OK;
    return hx_tensor_create(quiet->device, hx_dtype_accum(leaf->array.dtype), hx_array_shape(&leaf->array), &leaf->grad);
}

/* A leaf with hooks has its gradient collected aside, so that hooks see this backward's alone. */
static hx_status finish_hooked_leaf(hx_ctx *quiet, hx_tape *tape, int32_t index) {
    hx__variable *var = &tape->vars[index];
    hx_tensor *leaf = var->leaf;
    if (var->grad == NULL) return HX_OK;
    HX_TRY(run_hooks(quiet, tape, index));
    HX_TRY(place_gradient(quiet, tape, leaf));
    const bool accumulate = leaf->grad_is_set;
    leaf->grad_is_set = true;
    leaf->grad->storage->version++;
    HX_TRY(hx__grad_put(&(hx_vjp){.ctx = quiet}, leaf->grad, var->grad, accumulate));
    hx_tensor_destroy(&var->grad);
    return HX_OK;
}

static hx_status finish_node(hx_ctx *quiet, hx_tape *tape, int64_t at, bool retain) {
    hx__node *node = &tape->nodes[at];
    if (!retain || node->segment >= 0) hx__node_release(node);
    for (int i = 0; i < node->n_out; i++)
        if (node->out_var[i] >= 0) hx_tensor_destroy(&tape->vars[node->out_var[i]].grad);
    hx__segment_leave(tape, at, retain);
    for (int i = 0; i < node->n_in; i++) {
        if (node->in_var[i] < 0) continue;
        hx__variable *var = &tape->vars[node->in_var[i]];
        if (--var->n_left > 0 || var->leaf == NULL) continue;
        hx_ctx ctx = *quiet;
        if (var->has_hooks) HX_TRY(finish_hooked_leaf(&ctx, tape, node->in_var[i]));
        if (tape->ready != NULL) HX_TRY(tape->ready(tape->ready_self, var->leaf));
    }
    return HX_OK;
}

/* Whether a leaf's gradient lies in the seed's memory: backward would write to the seed while it still reads it. */
static bool is_leaf_gradient(const hx_tape *tape, const hx_tensor *seed) {
    for (int64_t i = 0; i < tape->n_vars; i++) {
        const hx_tensor *leaf = tape->vars[i].leaf;
        if (leaf != NULL && leaf->grad != NULL && leaf->grad->storage == seed->storage) return true;
    }
    return false;
}

static hx_status seed_gradient(hx_ctx *quiet, const hx_tape *tape, hx_tensor *y, hx_tensor *seed, hx_tensor **out) {
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
    if (is_leaf_gradient(tape, seed)) return hx_cast(quiet, seed, seed->array.dtype, out);
    *out = hx_tensor_retain(seed);
    return HX_OK;
}

static hx_status check_root(const hx_tape *tape, const hx_tensor *y) {
    if (hx__tape_holds(tape, y)) return HX_OK;
    if (y->device != tape->device)
        return HX_FAIL(HX_ERR_DEVICE, "y is on device %s, the tape of %s", hx_device_name(y->device), hx_device_name(tape->device));
    if (y->tape_serial != 0 && !y->requires_grad)
        return HX_FAIL(HX_ERR_STATE, "the recording of y has been used up by hx_backward or reset: run forward again, or keep it with "
                                     "hx_backward_retain");
    return HX_FAIL(HX_ERR_STATE, "y is not the result of a recorded op: nothing it depends on needs a gradient");
}

static hx_status run_backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed, bool retain) {
    hx_tape *tape = ctx->tape;
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(check_root(tape, y));
    HX_TRY(seed_gradient(&quiet, tape, y, seed, &tape->vars[y->var].grad));
    for (int64_t i = 0; i < tape->n_vars; i++) tape->vars[i].n_left = tape->vars[i].n_uses;
    /* Nothing is recorded here, so the lists stay where they are; vjp functions reach them through the node. */
    for (int64_t i = tape->n_nodes - 1; i >= 0; i--) {
        HX_TRY(hx__segment_enter(&quiet, tape, i));
        HX_TRY(differentiate(&quiet, tape, &tape->nodes[i]));
        HX_TRY(finish_node(&quiet, tape, i, retain));
    }
    return HX_OK;
}

static hx_status backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed, bool retain) {
    hx_tape *tape = ctx->tape;
    if (tape == NULL) return HX_FAIL(HX_ERR_STATE, "the context has no tape");
    if (tape->device != ctx->device)
        return HX_FAIL(HX_ERR_DEVICE, "the tape is of device %s, the context on %s", hx_device_name(tape->device), hx_device_name(ctx->device));
    if (tape->is_backward || tape->in_segment)
        return HX_FAIL(HX_ERR_STATE, "called from within %s", tape->is_backward ? "a backward of this tape" : "a segment of hx_checkpoint");
    tape->is_backward = true;
    tape->is_retained = retain;
    const hx_status status = HX_TRACED(HX_SPAN_BACKWARD, "backward", run_backward(ctx, y, seed, retain));
    tape->is_backward = false;
    if (status != HX_OK || !retain) hx_tape_reset(tape);
    return status;
}

hx_status hx_backward(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed) { return backward(ctx, y, seed, false); }

hx_status hx_backward_retain(hx_ctx *ctx, hx_tensor *y, hx_tensor *seed) { return backward(ctx, y, seed, true); }

/* ---- what a derivative may do ---- */

static hx__variable *input_variable(const hx_vjp *v, int i) {
    return v->node->in_var[i] >= 0 ? &v->tape->vars[v->node->in_var[i]] : NULL;
}

bool hx_vjp_wants(const hx_vjp *v, int i) {
    return i < v->n_in && v->node->in_var[i] >= 0;
}

static bool is_exclusive(const hx_tensor *t) {
    return t->refs == 1 && t->storage->refs == 1 && hx_array_is_contiguous(&t->array);
}

hx_status hx_vjp_reuse(hx_vjp *v, int i, hx_tensor **out) {
    *out = NULL;
    if (v->in[i] == NULL || !is_exclusive(v->in[i]) || v->tape->is_retained || v->ctx->anomaly) return HX_OK;
    return hx__tensor_alias(v->in[i], out);
}

/* Hooks see the whole gradient first, which is therefore collected apart from the leaf's. */
static bool is_in_leaf(const hx__variable *var) {
    return var->leaf != NULL && !var->has_hooks;
}

bool hx_vjp_overwrites(const hx_vjp *v, int i) {
    const hx__variable *var = input_variable(v, i);
    return var != NULL && is_in_leaf(var) && (var->leaf->grad == NULL || !var->leaf->grad_is_set);
}

hx_status hx_vjp_target(hx_vjp *v, int i, hx_tensor **dst, bool *accumulate) {
    hx__variable *var = input_variable(v, i);
    if (var == NULL) return HX_FAIL(HX_ERR_STATE, "%s: no gradient of input %d is wanted", hx__node_name(v->node), i);
    const bool in_leaf = is_in_leaf(var);
    hx_dtype dtype = var->leaf ? hx_dtype_accum(v->in_dtype[i]) : v->in_dtype[i];
    hx_tensor **grad = in_leaf ? &var->leaf->grad : &var->grad;
    if (in_leaf) HX_TRY(place_gradient(v->ctx, v->tape, var->leaf));
    if (*grad == NULL) {
        HX_TRY(hx_tensor_create(v->ctx->device, dtype, v->in_shape[i], grad));
        *accumulate = false;
    } else if (in_leaf) {
        *accumulate = var->leaf->grad_is_set;
    } else {
        if (!is_exclusive(*grad)) { /* others hold it, or it is a view: add to a copy */
            hx_tensor *own = NULL;
            HX_TRY(hx_cast(v->ctx, *grad, dtype, &own));
            hx_tensor_destroy(grad);
            *grad = own;
        }
        *accumulate = true;
    }
    if (in_leaf) var->leaf->grad_is_set = true;
    (*grad)->storage->version++;
    *dst = *grad;
    return HX_OK;
}

/* Sum g over the dims in which the input was broadcast. Replaces *g. A leaf of half type, say a bias, has its gradient in f32:
 * so has the sum, which would lose digits, and in f16 its range, in between. */
static hx_status unbroadcast(hx_vjp *v, int i, hx_tensor **g) {
    hx_shape from = hx_array_shape(&(*g)->array), to = v->in_shape[i], kept = from;
    hx_op_attr attr = {.reduce = {.keepdim = true}};
    const int lead = from.ndim - to.ndim;
    const hx_dtype own = hx_tensor_dtype(*g), dtype = input_variable(v, i)->leaf != NULL ? hx_dtype_accum(own) : own;
    if (hx_shape_equal(&from, &to)) return HX_OK;
    for (int d = 0; d < from.ndim; d++)
        if (d < lead || to.dims[d - lead] != from.dims[d]) {
            attr.reduce.dims[attr.reduce.n_dims++] = d;
            kept.dims[d] = 1;
        }
    HX_AUTO_TENSOR sum = NULL;
    hx_tensor *shaped;
    HX_TRY(hx_tensor_create(v->ctx->device, dtype, kept, &sum));
    HX_TRY(hx_op_run(v->ctx, HX_OP_sum, g, 1, &attr, 0, &sum));
    HX_TRY(hx_tensor_view(sum, to, &shaped));
    hx_tensor_destroy(g);
    *g = shaped;
    return HX_OK;
}

static hx_status give(hx_vjp *v, int i, hx_tensor **g) {
    HX_TRY(unbroadcast(v, i, g));
    hx__variable *var = input_variable(v, i);
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
