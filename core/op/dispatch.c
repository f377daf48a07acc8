/* From a typed call to a kernel: operands are checked once, outputs made, the kernel enqueued, the tape told. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

#define IN(i)          (1u << (i))
#define OUT(i)         (1u << (8 + (i)))
#define VIEW           HX_OP_VIEW
#define INOUT          HX_OP_INOUT
#define hx__vjp_none   NULL
static const hx_op_info table[HX_OP_COUNT] = {
#define HX_OP(name, n_req, n_in, n_out, infer, vjp, saves, flags, doc)                                       \
    [HX_OP_##name] = {#name, n_req, n_in, n_out, hx__infer_##infer, hx__vjp_##vjp, saves, flags, doc},
#include "core/op/ops.def"
#undef HX_OP
};

const hx_op_info *hx_op_info_get(hx_op op) {
    return &table[op];
}

hx_array hx_op_operand(const hx_tensor *tensor) {
    return tensor ? tensor->array : (hx_array){.data = NULL, .ndim = -1};
}

double hx_op_flops(const hx_op_call *call) {
    const hx_array *in = call->in, *out = call->out;
    double n = call->n_out > 0 && out[0].ndim >= 0 ? (double)hx_array_count(&out[0]) : 0;
    switch (call->op) {
    case HX_OP_matmul: return 2 * n * (double)in[0].dims[in[0].ndim - 1];
    case HX_OP_linear: return 2 * n * (double)in[0].dims[in[0].ndim - 1];
    case HX_OP_attention: /* two products of T x S x D, half of it masked when causal */
        return (call->attr.attention.causal ? 2.0 : 4.0) * n * (double)in[1].dims[1];
    case HX_OP_attention_bwd: return (call->attr.attention.causal ? 5.0 : 10.0) * (double)hx_array_count(&in[0]) * (double)in[1].dims[1];
    case HX_OP_fft: return 5 * n * log2((double)in[0].dims[in[0].ndim - 1]);
    case HX_OP_rfft: return 2.5 * (double)hx_array_count(&in[0]) * log2((double)in[0].dims[in[0].ndim - 1]);
    case HX_OP_irfft: return 2.5 * n * log2((double)out[0].dims[out[0].ndim - 1]);
    case HX_OP_fftconv: /* each row there and back, as 2 L reals; backward: transforms of x, dy and dx */
        return 10 * n * log2(2 * (double)in[0].dims[2] + 1);
    case HX_OP_fftconv_bwd: return 15 * (double)hx_array_count(&in[0]) * log2(2 * (double)in[0].dims[2] + 1);
    case HX_OP_conv: return 2 * n * (double)hx_array_count(&in[1]) / (double)(in[1].dims[0] ? in[1].dims[0] : 1);
    case HX_OP_conv_bwd_x: return 2 * (double)hx_array_count(&in[1]) * (double)hx_array_count(&in[0]) / (double)(in[0].dims[0] ? in[0].dims[0] : 1);
    case HX_OP_conv_bwd_w: return 2 * n * (double)hx_array_count(&in[1]) / (double)(out[0].dims[0] ? out[0].dims[0] : 1);
    case HX_OP_copy: return 0;
    default: return call->n_in > 0 && in[0].ndim >= 0 ? (double)hx_array_count(&in[0]) : n;
    }
}

static int64_t held_bytes(const hx_array *a) {
    int64_t n = a->ndim < 0 ? 0 : (int64_t)hx_dtype_bytes(a->dtype);
    for (int d = 0; d < a->ndim; d++) n *= a->strides[d] == 0 && a->dims[d] > 0 ? 1 : a->dims[d];
    return n;
}

int64_t hx_op_bytes(const hx_op_call *call) {
    const bool is_inout = table[call->op].flags & HX_OP_INOUT;
    int64_t n_bytes = 0;
    for (int i = 0; i < call->n_out; i++) n_bytes += held_bytes(&call->out[i]) * (is_inout ? 2 : 1);
    for (int i = 0; i < call->n_in; i++) {
        const bool is_table = (call->op == HX_OP_embedding && i == 1) || (call->op == HX_OP_gather && i == 0);
        n_bytes += is_table ? held_bytes(&call->out[0]) : held_bytes(&call->in[i]);
    }
    return n_bytes;
}

static hx_status check_inputs(const hx_ctx *ctx, const hx_op_info *info, hx_tensor *const *in, int n_in, hx_op_args *args) {
    if (n_in < info->n_required || n_in > info->n_in)
        return HX_FAIL(HX_ERR_ARG, "%s: %d operands: expected %d to %d", info->name, n_in, info->n_required, info->n_in);
    for (int i = 0; i < n_in; i++) {
        if (in[i] == NULL) {
            if (i < info->n_required) return HX_FAIL(HX_ERR_ARG, "%s: operand %d is NULL", info->name, i);
            continue;
        }
        if (in[i]->device != ctx->device)
            return HX_FAIL(HX_ERR_DEVICE, "%s: operand %d is on device %s, the context on %s", info->name, i,
                           hx_device_name(in[i]->device), hx_device_name(ctx->device));
        args->in[i] = (hx_op_meta){hx_array_shape(&in[i]->array), in[i]->array.dtype, true};
    }
    return HX_OK;
}

/* ---- outputs that the caller gives ---- */

/* Bytes from an array's first element to the end of its last, over the dims with strides below `limit`. */
static int64_t reach(const hx_array *a, int64_t limit) {
    int64_t bytes = (int64_t)hx_dtype_bytes(a->dtype), sum = bytes;
    for (int d = 0; d < a->ndim; d++)
        if (a->strides[d] * bytes < limit) sum += (a->dims[d] - 1) * a->strides[d] * bytes;
    return sum;
}

/* Every stride of the array is below `step` or a multiple of it. */
static bool is_multiple(const hx_array *a, int64_t step) {
    int64_t bytes = (int64_t)hx_dtype_bytes(a->dtype);
    for (int d = 0; d < a->ndim; d++)
        if (a->dims[d] > 1 && a->strides[d] * bytes >= step && a->strides[d] * bytes % step != 0) return false;
    return true;
}

/* Whether two views of one storage have bytes in common, as far as strides tell: not if one ends before the other begins,
 * nor if they lie side by side within a stride of both, like column ranges of one matrix. */
static bool overlaps(const hx_array *a, const hx_array *b) {
    int64_t apart = (int64_t)((intptr_t)b->data - (intptr_t)a->data);
    if (hx_array_count(a) == 0 || hx_array_count(b) == 0) return false;
    if (apart >= reach(a, INT64_MAX) || -apart >= reach(b, INT64_MAX)) return false;
    for (int d = 0; d < a->ndim; d++) {
        int64_t step = a->strides[d] * (int64_t)hx_dtype_bytes(a->dtype);
        if (step == 0 || !is_multiple(a, step) || !is_multiple(b, step)) continue;
        int64_t within = (apart % step + step) % step;
        if (within >= reach(a, step) && within + reach(b, step) <= step) return false;
    }
    return true;
}

/* An op that may write to an operand itself, because an element, or a row of a softmax, is read before it is written. The
 * derivative of cross-entropy has one operand of its output's shape, the logits. */
static bool is_elementwise(hx_op op) {
    hx_status (*rule)(const hx_op_args *, hx_op_meta *) = table[op].infer;
    return rule == hx__infer_unary || rule == hx__infer_binary || rule == hx__infer_same || rule == hx__infer_compare ||
           rule == hx__infer_where || rule == hx__infer_copy || rule == hx__infer_cross_entropy_bwd;
}

static bool is_same_array(const hx_array *a, const hx_array *b) {
    hx_shape sa = hx_array_shape(a), sb = hx_array_shape(b);
    return a->data == b->data && a->dtype == b->dtype && hx_shape_equal(&sa, &sb) &&
           memcmp(a->strides, b->strides, (size_t)a->ndim * sizeof *a->strides) == 0;
}

static hx_status check_apart(hx_op op, int i, const hx_tensor *y, hx_tensor *const *in, int n_in) {
    for (int k = 0; k < n_in; k++) {
        if (in[k] == NULL || in[k]->storage != y->storage || !overlaps(&y->array, &in[k]->array)) continue;
        if (is_elementwise(op) && is_same_array(&y->array, &in[k]->array)) continue;
        hx_shape sy = hx_array_shape(&y->array), sx = hx_array_shape(&in[k]->array);
        char ty[HX_SHAPE_TEXT], tx[HX_SHAPE_TEXT];
        return HX_FAIL(HX_ERR_ARG, "%s: output %d %s overlaps operand %d %s: expected memory of its own%s", table[op].name, i,
                       hx_shape_text(&sy, ty), k, hx_shape_text(&sx, tx), is_elementwise(op) ? ", or the operand itself" : "");
    }
    return HX_OK;
}

/* An op that moves elements as they are: it has no result that could be left unrounded. */
static bool is_movement(const hx_op_info *info) {
    return info->infer == hx__infer_where || info->infer == hx__infer_cat || info->infer == hx__infer_gather || info->infer == hx__infer_pad;
}

static hx_status check_output(const hx_ctx *ctx, const hx_op_info *info, int i, const hx_tensor *t, const hx_op_meta *want) {
    if (t->device != ctx->device)
        return HX_FAIL(HX_ERR_DEVICE, "%s: output %d is on device %s, the context on %s", info->name, i, hx_device_name(t->device),
                       hx_device_name(ctx->device));
    hx_shape shape = hx_array_shape(&t->array);
    char got[HX_SHAPE_TEXT], expected[HX_SHAPE_TEXT];
    /* a result of half type may be taken as f32: it is then not rounded */
    if (t->array.dtype != want->dtype && (is_movement(info) || t->array.dtype != hx_dtype_accum(want->dtype)))
        return HX_FAIL(HX_ERR_DTYPE, "%s: output %d is %s: expected %s", info->name, i, hx_dtype_name(t->array.dtype), hx_dtype_name(want->dtype));
    if (!hx_shape_equal(&shape, &want->shape))
        return HX_FAIL(HX_ERR_SHAPE, "%s: output %d is %s: expected %s", info->name, i, hx_shape_text(&shape, got),
                       hx_shape_text(&want->shape, expected));
    for (int d = 0; d < shape.ndim; d++)
        if (shape.dims[d] > 1 && t->array.strides[d] == 0)
            return HX_FAIL(HX_ERR_SHAPE, "%s: output %d is %s and repeats along dim %d: expected an element for each value", info->name, i,
                           hx_shape_text(&shape, got), d);
    return HX_OK;
}

/* What backward needs cannot be left out. A cross-entropy that is given the logsumexp does not need its own. */
static hx_status check_saved(const hx_op_info *info, const hx_op_args *args, const hx_op_meta *want, unsigned skip) {
    if (args->op == HX_OP_cross_entropy && args->in[2].present) return HX_OK;
    for (int i = 0; i < info->n_out; i++)
        if (want[i].present && (skip >> i & info->saves >> (8 + i) & 1))
            return HX_FAIL(HX_ERR_ARG, "%s: output %d is skipped, and backward needs it", info->name, i);
    return HX_OK;
}

hx_status hx_op_run(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, const hx_op_attr *attr, unsigned skip, hx_tensor **out) {
    static const hx_op_attr no_attr;
    const hx_op_info *info = &table[op];
    hx_op_args args = {.op = op, .name = info->name, .n_in = n_in, .attr = attr ? attr : &no_attr};
    hx_op_meta want[HX_OP_MAX_OUT] = {0};
    hx_tensor *made[HX_OP_MAX_OUT] = {NULL}, *result[HX_OP_MAX_OUT] = {NULL};
    hx_status status = HX_OK;

    HX_TRY(check_inputs(ctx, info, in, n_in, &args));
    if (info->flags & HX_OP_INOUT) /* the outputs are operands too: their shapes are what the rule checks against */
        for (int i = 0; i < info->n_out; i++) {
            if (skip >> i & 1) continue;
            if (out[i] == NULL) return HX_FAIL(HX_ERR_ARG, "%s: output %d is NULL: it is updated in place", info->name, i);
            want[i] = (hx_op_meta){hx_array_shape(&out[i]->array), out[i]->array.dtype, true};
        }
    HX_TRY(info->infer(&args, want));
    bool records = hx__tape_wants(ctx, in, n_in);
    if (records && info->vjp == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s has no derivative", info->name);
    if (records) HX_TRY(check_saved(info, &args, want, skip));

    hx_op_call call = {.op = op, .n_in = n_in, .n_out = info->n_out, .attr = *args.attr};
    for (int i = 0; i < n_in; i++) call.in[i] = hx_op_operand(in[i]);
    for (int i = 0; i < info->n_out; i++) {
        bool wanted = !(skip >> i & 1) && want[i].present;
        if (wanted && out[i] != NULL) {
            if (records) HX_TRY_GOTO(HX_FAIL(HX_ERR_STATE, "%s: writing in place cannot be recorded", info->name), fail);
            HX_TRY_GOTO(check_output(ctx, info, i, out[i], &want[i]), fail);
            HX_TRY_GOTO(check_apart(op, i, out[i], in, n_in), fail);
            out[i]->storage->version++;
            result[i] = out[i];
        } else if (wanted) {
            HX_TRY_GOTO(hx_tensor_create(ctx->device, want[i].dtype, want[i].shape, &made[i]), fail);
            result[i] = made[i];
        }
        call.out[i] = hx_op_operand(result[i]);
    }
    HX_TRY_GOTO(hx_stream_exec(ctx->stream, &call), fail);
    if (ctx->anomaly) HX_TRY_GOTO(hx__check_finite(ctx, op, in, n_in, result), fail);
    if (records) HX_TRY_GOTO(hx__tape_record(ctx, op, args.attr, in, n_in, result, info->n_out), fail);
    for (int i = 0; i < info->n_out; i++)
        if (made[i]) out[i] = made[i];
    return HX_OK;
fail:
    for (int i = info->n_out - 1; i >= 0; i--) hx_tensor_destroy(&made[i]);
    return status;
}
