#include <math.h>
#include "core/optim/optim_impl.h"

double hx_clip_norm_p(const hx_optim_config *config) {
    static const double p[] = {2, 1, HUGE_VAL};
    return p[config->clip_norm_type];
}

static hx_status part_op(double p, hx_op *out) {
    if (p != 1 && p != 2 && p != HUGE_VAL)
        return HX_FAIL(HX_ERR_ARG, "a gradient norm with p = %g: expected 1, 2 or HUGE_VAL", p);
    *out = p == 1 ? HX_OP_sumabs : p == 2 ? HX_OP_sumsq : HX_OP_maxabs;
    return HX_OK;
}

/* What this rank updates of it. *grad stays NULL for a frozen parameter. */
static hx_status gradient_of(const hx_param *param, hx_tensor **grad) {
    if (param->is_frozen) return HX_OK;
    HX_TRY(hx_param_own_grad(param, grad));
    return *grad != NULL ? HX_OK : HX_FAIL(HX_ERR_STATE, "parameter %s has no gradient", param->path);
}

/* The tensors follow in the order of the list, each in the fixed blocks of its op: the part does not depend on the
 * number of threads, and is the same on ranks that hold the same gradients. */
static hx_status add_parts(hx_ctx *ctx, const hx_param_list *params, hx_op op, hx_tensor *out, bool *is_none) {
    bool is_first = true;
    for (int64_t i = 0; i < params->n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        HX_TRY(gradient_of(params->items[i], &grad));
        if (grad == NULL) continue;
        const hx_op_attr attr = {.reduce = {.accumulate = !is_first}};
        HX_TRY(hx_op_run(ctx, op, &grad, 1, &attr, 0, &out));
        is_first = false;
    }
    *is_none = is_first;
    return HX_OK;
}

hx_status hx_grad_norm_part(hx_ctx *ctx, const hx_param_list *params, double p, hx_tensor *out) {
    hx_ctx quiet = hx_no_grad(ctx);
    bool is_none = false;
    hx_op op;
    HX_TRY(part_op(p, &op));
    HX_TRY(hx__optim_batch_begin(&quiet));
    HX_TRY(hx__optim_batch_end(&quiet, add_parts(&quiet, params, op, out, &is_none)));
    return is_none ? hx_tensor_fill(ctx->stream, out, 0) : HX_OK;
}

static hx_status put_blocks(hx_ctx *ctx, const hx_param_list *params, double p, hx_tensor *const *places) {
    const hx_op_attr attr = {.blocks = {.p = p}};
    for (int64_t i = 0; i < params->n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        hx_tensor *place = places[i];
        if (place == NULL) continue;
        HX_TRY(gradient_of(params->items[i], &grad));
        if (grad != NULL) HX_TRY(hx_op_run(ctx, HX_OP_norm_blocks, &grad, 1, &attr, 0, &place));
    }
    return HX_OK;
}

hx_status hx_grad_norm_blocks(hx_ctx *ctx, const hx_param_list *params, double p, hx_tensor *const *places) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(hx__optim_batch_begin(&quiet));
    return hx__optim_batch_end(&quiet, put_blocks(&quiet, params, p, places));
}

double hx_grad_norm_join(double p, const double *blocks, int64_t n) {
    double part = 0;
    for (int64_t i = 0; i < n; i++) {
        if (p != HUGE_VAL) part += blocks[i];
        else if (!(blocks[i] <= part) && !isnan(part)) part = blocks[i];
    }
    return part;
}

double hx_grad_norm_of_part(double p, double part) { return p == 2 ? sqrt(part) : part; }

double hx_clip_factor(double norm, double most) { return norm > most ? most / (norm + 1e-6) : 1; }

static hx_status check_most(double most) {
    if (most >= 0) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "clipping at %g: expected a number >= 0", most);
}

static hx_status map_each(hx_ctx *ctx, const hx_param_list *params, hx_op op, const hx_op_attr *attr) {
    for (int64_t i = 0; i < params->n_items; i++) {
        HX_AUTO_TENSOR grad = NULL;
        HX_TRY(gradient_of(params->items[i], &grad));
        if (grad == NULL) continue;
        HX_TRY(hx_op_run(ctx, op, &grad, 1, attr, 0, &grad));
    }
    return HX_OK;
}

/* Every gradient by an op of one operand, in place. */
static hx_status map_all(hx_ctx *ctx, const hx_param_list *params, hx_op op, const hx_op_attr *attr) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(hx__optim_batch_begin(&quiet));
    return hx__optim_batch_end(&quiet, map_each(&quiet, params, op, attr));
}

hx_status hx_clip_grad_norm(hx_ctx *ctx, const hx_param_list *params, double most, double p, double *norm) {
    HX_AUTO_TENSOR part = NULL;
    double value;
    HX_TRY(check_most(most));
    HX_TRY(hx_tensor_create(ctx->device, HX_F64, HX_SCALAR, &part));
    HX_TRY(hx_grad_norm_part(ctx, params, p, part));
    HX_TRY(hx_tensor_item(ctx->stream, part, &value));
    value = hx_grad_norm_of_part(p, value);
    if (!isfinite(value)) return HX_FAIL(HX_ERR_NUMERIC, "the norm of the gradients is %g: nothing to clip to %g", value, most);
    const double factor = hx_clip_factor(value, most);
    if (factor != 1) HX_TRY(map_all(ctx, params, HX_OP_affine, &(hx_op_attr){.affine = {factor, 0}}));
    if (norm != NULL) *norm = value;
    return HX_OK;
}

hx_status hx_clip_grad_value(hx_ctx *ctx, const hx_param_list *params, double most) {
    HX_TRY(check_most(most));
    return map_all(ctx, params, HX_OP_clamp, &(hx_op_attr){.clamp = {-most, most}});
}
