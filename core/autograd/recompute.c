/* Activation checkpointing: segments of the tape that save nothing and are run again (Chen et al. 2016).
 *
 * In forward a segment's ops are recorded like all others, so uses are counted and hooks fire as in a plain run; only
 * the saving is left out. When backward reaches the segment's last node, fn runs again on the segment's inputs. Then
 * each op that would be recorded hands its operands to the next node of the segment instead, which must have recorded
 * the same op on operands of the same shapes, versions and variables; its outputs are marked as the first outputs were,
 * so that what follows records again in the same way.
 */
#include "core/autograd/tape_impl.h"
#include "core/base/mem.h"
#include "core/base/trace.h"

/* ---- forward ---- */

static hx_status open_segment(hx_ctx *ctx, hx_checkpoint_fn fn, void *arg, hx_tensor *const *in, int n_in) {
    hx_tape *tape = ctx->tape;
    if (tape->n_segments == INT32_MAX) return HX_FAIL(HX_ERR_OVERFLOW, "more than %d segments on the tape", INT32_MAX);
    HX_TRY(hx_mem_grow((void **)&tape->segments, &tape->segments_capacity, tape->n_segments + 1, sizeof *tape->segments));
    hx__segment *s = &tape->segments[tape->n_segments++];
    *s = (hx__segment){.fn = fn, .arg = arg, .ctx = *ctx, .n_in = n_in, .first = tape->n_nodes, .end = tape->n_nodes};
    for (int i = 0; i < n_in; i++) s->in[i] = in[i] ? hx_tensor_retain(in[i]) : NULL;
    tape->in_segment = true;
    return HX_OK;
}

/* A segment that recorded nothing goes. One that failed stays: its nodes are there, but no gradient will arrive. */
static void close_segment(hx_tape *tape) {
    hx__segment *s = &tape->segments[tape->n_segments - 1];
    s->end = tape->n_nodes;
    tape->in_segment = false;
    if (s->end > s->first) return;
    for (int i = 0; i < s->n_in; i++) hx_tensor_destroy(&s->in[i]);
    tape->n_segments--;
}

hx_status hx_checkpoint(hx_ctx *ctx, hx_checkpoint_fn fn, void *arg, hx_tensor *const *in, int n_in, hx_tensor **out, int n_out) {
    hx_tape *tape = ctx->tape;
    hx_tensor *result[HX_OP_MAX_OUT] = {NULL};
    bool is_plain = tape == NULL || tape->in_segment || tape->is_replaying;
    if (fn == NULL) return HX_FAIL(HX_ERR_ARG, "fn is NULL");
    if (n_in < 0 || n_in > HX_OP_MAX_IN || n_out < 1 || n_out > HX_OP_MAX_OUT)
        return HX_FAIL(HX_ERR_ARG, "%d inputs, %d outputs: expected at most %d and 1 to %d", n_in, n_out, HX_OP_MAX_IN, HX_OP_MAX_OUT);
    if (!is_plain) HX_TRY(open_segment(ctx, fn, arg, in, n_in));
    hx_status status = fn(ctx, arg, in, result);
    if (!is_plain) close_segment(tape);
    HX_TRY(status);
    for (int i = 0; i < n_out; i++) out[i] = result[i];
    return HX_OK;
}

/* ---- backward ---- */

static hx_status check_operand(const hx__node *node, int slot, const hx_tensor *t) {
    bool is_input = slot < HX_OP_MAX_IN;
    hx_shape was = node->shape[slot], is = hx_array_shape(&t->array);
    char tw[HX_SHAPE_TEXT], ti[HX_SHAPE_TEXT];
    if (!hx_shape_equal(&was, &is) || node->dtype[slot] != t->array.dtype)
        return HX_FAIL(HX_ERR_STATE, "%s: its %s %d is %s %s when the segment is run again, it was %s %s", hx__node_name(node),
                       is_input ? "input" : "output", is_input ? slot : slot - HX_OP_MAX_IN, hx_dtype_name(t->array.dtype), hx_shape_text(&is, ti),
                       hx_dtype_name(node->dtype[slot]), hx_shape_text(&was, tw));
    return HX_OK;
}

static hx_status check_input(hx_tape *tape, const hx__node *node, int i, hx_tensor *x) {
    int32_t var;
    HX_TRY(check_operand(node, i, x));
    HX_TRY(hx__tape_variable(tape, x, false, &var));
    if (var != node->in_var[i])
        return HX_FAIL(HX_ERR_STATE, "%s: its input %d is another tensor when the segment is run again", hx__node_name(node), i);
    if (x->storage->version != node->version[i])
        return HX_FAIL(HX_ERR_STATE, "%s: its input %d was changed in place between forward and the segment's second run (version %lld, was %lld)",
                       hx__node_name(node), i, (long long)x->storage->version, (long long)node->version[i]);
    return HX_OK;
}

static hx_status check_same_op(const hx_tape *tape, const hx__node *proto) {
    if (tape->replay_at >= tape->replay_end)
        return HX_FAIL(HX_ERR_STATE, "%s: the segment records more ops when it is run again than it did first", hx__node_name(proto));
    const hx__node *node = &tape->nodes[tape->replay_at];
    bool is_same = proto->custom.name ? node->custom.name != NULL && node->custom.vjp == proto->custom.vjp
                                      : node->custom.name == NULL && node->op == proto->op;
    if (!is_same || node->n_in != proto->n_in || node->n_out != proto->n_out)
        return HX_FAIL(HX_ERR_STATE, "the segment runs %s (%d inputs, %d outputs) where it ran %s (%d, %d) first", hx__node_name(proto), proto->n_in,
                       proto->n_out, hx__node_name(node), node->n_in, node->n_out);
    return HX_OK;
}

hx_status hx__replay_node(hx_tape *tape, const hx__node *proto, hx_tensor *const *in, hx_tensor *const *out) {
    HX_TRY(check_same_op(tape, proto));
    hx__node *node = &tape->nodes[tape->replay_at];
    if (hx__present(in, node->n_in, out, node->n_out) != node->present)
        return HX_FAIL(HX_ERR_STATE, "%s: other operands are NULL when the segment is run again than at first", hx__node_name(node));
    for (int i = 0; i < node->n_in; i++)
        if (in[i] != NULL) HX_TRY(check_input(tape, node, i, in[i]));
    for (int i = 0; i < node->n_out; i++)
        if (out[i] != NULL) HX_TRY(check_operand(node, HX_OP_MAX_IN + i, out[i]));
    for (int i = 0; i < node->n_out; i++) {
        if (out[i] == NULL || node->out_var[i] < 0) continue;
        out[i]->tape_serial = tape->serial;
        out[i]->var = node->out_var[i];
    }
    node->custom = proto->custom; /* what `user` points to was made anew */
    hx__node_save(node, in, out);
    tape->replay_at++;
    return HX_OK;
}

static hx_status replay(hx_ctx *quiet, hx_tape *tape, const hx__segment *s) {
    hx_tensor *out[HX_OP_MAX_OUT] = {NULL};
    hx_ctx ctx = s->ctx;
    ctx.stream = quiet->stream;
    ctx.anomaly = quiet->anomaly;
    ctx.is_recompute = true;
    tape->replay_at = s->first;
    tape->replay_end = s->end;
    tape->is_replaying = true;
    hx_status status = s->fn(&ctx, s->arg, s->in, out);
    tape->is_replaying = false;
    for (int i = 0; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&out[i]);
    HX_TRY(status);
    if (tape->replay_at < s->end)
        return HX_FAIL(HX_ERR_STATE, "the segment recorded %lld ops when it was run again, %lld first: %s is missing",
                       (long long)(tape->replay_at - s->first), (long long)(s->end - s->first), hx__node_name(&tape->nodes[tape->replay_at]));
    return HX_OK;
}

/* All uses outside of the segment came after its last node: if no gradient has arrived by then, none will. */
static bool has_gradient(const hx_tape *tape, const hx__segment *s) {
    for (int64_t i = s->first; i < s->end; i++)
        for (int k = 0; k < tape->nodes[i].n_out; k++)
            if (tape->nodes[i].out_var[k] >= 0 && tape->vars[tape->nodes[i].out_var[k]].grad != NULL) return true;
    return false;
}

hx_status hx__segment_enter(hx_ctx *quiet, hx_tape *tape, int64_t at) {
    int32_t index = tape->nodes[at].segment;
    if (index < 0 || at != tape->segments[index].end - 1 || !has_gradient(tape, &tape->segments[index])) return HX_OK;
    return HX_TRACED(HX_SPAN_RECOMPUTE, "recompute", replay(quiet, tape, &tape->segments[index]));
}

void hx__segment_leave(hx_tape *tape, int64_t at, bool retain) {
    int32_t index = tape->nodes[at].segment;
    if (retain || index < 0 || at != tape->segments[index].first) return;
    for (int i = 0; i < tape->segments[index].n_in; i++) hx_tensor_destroy(&tape->segments[index].in[i]);
}
