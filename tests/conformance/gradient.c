#include "tests/conformance/gradient.h"

#include <stdio.h>
#include <string.h>

void conf_upload_parts(conf_rig *rig, const conf_operand *operand, hx_tensor **base) {
    conf_operand parts = *operand;
    if (hx_dtype_is_complex(operand->dtype)) {
        parts.dtype = hx_dtype_real(operand->dtype);
        parts.base.dims[parts.base.ndim++] = 2;
    }
    conf_operand_upload(rig, &parts, base);
    hx_tensor_set_requires_grad(*base, hx_dtype_is_float(parts.dtype));
}

static hx_status operand_view(hx_ctx *ctx, const conf_operand *operand, hx_tensor *base, hx_tensor **view) {
    HX_AUTO_TENSOR whole = NULL;
    if (!hx_dtype_is_complex(operand->dtype)) return conf_operand_view(ctx, operand, base, view);
    HX_TRY(hx_view_as_complex(ctx, base, &whole));
    return conf_operand_view(ctx, operand, whole, view);
}

int conf_result_shapes(const conf_case *c, hx_shape shapes[HX_OP_MAX_OUT]) {
    char words[256], *rest;
    int n = 0;
    snprintf(words, sizeof words, "%s", c->out ? c->out : "");
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        conf_operand result;
        conf_operand_parse(word, HX_F64, &result);
        shapes[n++] = result.shape;
    }
    return n;
}

static hx_status split_and_join(hx_ctx *ctx, const conf_case *c, const hx_shape *shapes, int n_parts, hx_tensor *x,
                                hx_tensor **out) {
    hx_tensor *parts[HX_OP_MAX_OUT] = {NULL}, *joined[HX_OP_MAX_OUT];
    int64_t sizes[HX_OP_MAX_OUT];
    int dim = c->attr.view.dim, n = 0;
    hx_status status = HX_OK;
    for (int i = 0; i < n_parts; i++) sizes[i] = shapes[i].dims[dim];
    HX_TRY(hx_split(ctx, x, dim, sizes, n_parts, parts));
    for (int i = n_parts - 1; i >= 0; i--)
        if (!(c->skip >> i & 1)) joined[n++] = parts[i];
    HX_TRY_GOTO(hx_cat(ctx, joined, n, dim, out), done);
done:
    for (int i = 0; i < n_parts; i++) hx_tensor_destroy(&parts[i]);
    return status;
}

static hx_status apply_view(hx_ctx *ctx, const conf_case *c, hx_tensor *x, hx_tensor **out) {
    hx_shape shapes[HX_OP_MAX_OUT] = {{0}};
    int n = conf_result_shapes(c, shapes), dim = c->attr.view.dim;
    int64_t start = c->attr.view.start, step = c->attr.view.step, count = shapes[0].dims[dim];
    switch (c->op) {
    case HX_OP_view:
        return hx_reshape(ctx, x, shapes[0], out);
    case HX_OP_permute:
        return hx_permute(ctx, x, c->attr.view.perm, out);
    case HX_OP_slice:
        return hx_slice(ctx, x, dim, start, count > 0 ? start + (count - 1) * step + 1 : start, step, out);
    case HX_OP_expand:
        return hx_expand(ctx, x, shapes[0], out);
    case HX_OP_split:
        return split_and_join(ctx, c, shapes, n, x, out);
    case HX_OP_view_as_complex:
        return hx_view_as_complex(ctx, x, out);
    case HX_OP_view_as_real:
        return hx_view_as_real(ctx, x, out);
    default:
        return HX_FAIL(HX_ERR_INTERNAL, "%s is no view", hx_op_info_get(c->op)->name);
    }
}

/* The views are part of the function: their derivatives are checked along. */
hx_status conf_apply(hx_ctx *ctx, void *function, hx_tensor *const *bases, int n_in, hx_tensor **out) {
    const conf_function *f = function;
    hx_tensor *views[HX_OP_MAX_IN] = {NULL}, *results[HX_OP_MAX_OUT] = {NULL};
    hx_status status = HX_OK;
    for (int k = 0; k < n_in; k++) HX_TRY_GOTO(operand_view(ctx, &f->in->items[k], bases[k], &views[k]), done);
    if (hx_op_info_get(f->c->op)->flags & HX_OP_VIEW) HX_TRY_GOTO(apply_view(ctx, f->c, views[0], results), done);
    else HX_TRY_GOTO(hx_op_run(ctx, f->c->op, views, n_in, &f->c->attr, 0, results), done);
    if (hx_dtype_is_complex(hx_tensor_dtype(results[0]))) HX_TRY_GOTO(hx_view_as_real(ctx, results[0], out), done);
    else *out = hx_tensor_move(&results[0]);
done:
    for (int k = 0; k < HX_OP_MAX_OUT; k++) hx_tensor_destroy(&results[k]);
    for (int k = 0; k < n_in; k++) hx_tensor_destroy(&views[k]);
    return status;
}

void conf_gradient_check(conf_rig *ref, conf_rig *rig, const conf_case *c) {
    conf_operands in;
    hx_tensor *bases[HX_OP_MAX_IN] = {NULL};
    double worst = -1;
    char text[512];
    conf_operands_make(ref, c, HX_F64, &in);
    for (int k = 0; k < in.n; k++) {
        if (in.items[k].is_again) bases[k] = hx_tensor_retain(bases[in.items[k].again]);
        else conf_upload_parts(rig, &in.items[k], &bases[k]);
    }
    hx_status status = hx_gradcheck(&rig->ctx, conf_apply, &(conf_function){c, &in}, bases, in.n, &worst);
    conf_case_text(c, HX_F64, text, sizeof text);
    if (status == HX_ERR_UNSUPPORTED) {
        printf("%s on %s: unsupported (%s)\n", text, hx_device_name(rig->device), hx_error_message());
    } else {
        cr_expect_eq(status, HX_OK, "%s, seed %llu: %s", text, (unsigned long long)conf_seed(), hx_error_message());
        cr_expect(worst >= 0 && worst <= CONF_GRADIENT_LIMIT, "%s on %s, seed %llu: gradient off by %g", text,
                  hx_device_name(rig->device), (unsigned long long)conf_seed(), worst);
    }
    for (int k = 0; k < in.n; k++) hx_tensor_destroy(&bases[k]);
    conf_operands_free(&in);
}
