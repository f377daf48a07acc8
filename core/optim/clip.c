#include "core/optim/optim_impl.h"

/* The tensors are added in the order of the list, each in the fixed blocks of the sumsq op: the sum does not
 * depend on the number of threads, and is the same on ranks that hold the same gradients. */
hx_status hx_grad_sumsq(hx_ctx *ctx, const hx_param_list *params, hx_tensor *out) {
    bool is_first = true;
    for (int64_t i = 0; i < params->n_items; i++) {
        const hx_param *param = params->items[i];
        hx_tensor *grad = hx_tensor_grad(param->value);
        if (param->is_frozen) continue;
        if (grad == NULL) return HX_FAIL(HX_ERR_STATE, "parameter %s has no gradient", param->path);
        HX_TRY(hx_sumsq_into(ctx, grad, !is_first, out));
        is_first = false;
    }
    if (is_first) return hx_tensor_fill(ctx->stream, out, 0);
    return HX_OK;
}
