/* Layer, root-mean-square and batch normalisation. */
#include "core/op/op_impl.h"

/* x, what else is of its shape, from operand `first` on w and, for a layer norm, an optional bias -> y, n_stats statistics */
static hx_status infer_rows(const hx_op_args *a, int first, int n_stats, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape;
    hx_shape w = {1, {hx__last_dim(x)}}, rows = hx__rows_of(x);
    if (!(a->attr->norm.eps >= 0)) return HX_FAIL(HX_ERR_ARG, "%s: eps = %g: expected >= 0", a->name, a->attr->norm.eps);
    for (int i = 1; i < a->n_in; i++)
        if (a->in[i].present) HX_TRY(hx__need_shape(a, i, i < first ? x : &w));
    hx__set_out(&out[0], *x, a->in[0].dtype);
    for (int i = 1; i <= n_stats; i++) hx__set_out(&out[i], rows, hx_dtype_accum(a->in[0].dtype));
    return HX_OK;
}

/* x, w, b? -> y, [mean,] rstd */
hx_status hx__infer_norm(const hx_op_args *a, hx_op_meta *out) { return infer_rows(a, 1, a->op == HX_OP_layernorm ? 2 : 1, out); }

/* x, r, w, b? -> y, [mean,] rstd, s */
hx_status hx__infer_add_norm(const hx_op_args *a, hx_op_meta *out) {
    const int n_stats = a->op == HX_OP_add_layernorm ? 2 : 1;
    HX_TRY(infer_rows(a, 2, n_stats, out));
    hx__set_out(&out[n_stats + 1], a->in[0].shape, a->in[0].dtype);
    return HX_OK;
}

/* x, w, [mean,] rstd, dy, ds? */
hx_status hx__infer_norm_bwd(const hx_op_args *a, hx_op_meta *out) {
    const int dy = a->op == HX_OP_layernorm_bwd ? 4 : 3;
    HX_TRY(hx__need_same_float(a, 0, 1));
    HX_TRY(hx__need_ndim(a, 0, 1, HX_MAX_DIMS));
    const hx_shape *x = &a->in[0].shape;
    hx_shape w = {1, {hx__last_dim(x)}}, rows = hx__rows_of(x);
    HX_TRY(hx__need_shape(a, 1, &w));
    for (int i = 2; i < dy; i++) {
        HX_TRY(hx__need_shape(a, i, &rows));
        HX_TRY(hx__need_statistic(a, i, 0));
    }
    for (int i = dy; i < a->n_in; i++) {
        if (!a->in[i].present) continue;
        HX_TRY(hx__need_dtype(a, i, a->in[0].dtype));
        HX_TRY(hx__need_shape(a, i, x));
    }
    hx__set_out(&out[0], *x, a->in[0].dtype);
    hx__set_out(&out[1], w, a->in[0].dtype);
    if (a->op == HX_OP_layernorm_bwd) hx__set_out(&out[2], w, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out) {
    return hx__run_keep(ctx, HX_OP_layernorm, (hx_tensor *[]){x, w, b}, b ? 3 : 2, &(hx_op_attr){.norm = {.eps = eps}}, out, 1);
}

hx_status hx_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, double eps, hx_tensor **out) {
    return hx__run_keep(ctx, HX_OP_rmsnorm, (hx_tensor *[]){x, w}, 2, &(hx_op_attr){.norm = {.eps = eps}}, out, 1);
}

static hx_status run_add_norm(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, double eps, hx_tensor **y, hx_tensor **s) {
    hx_tensor *out[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(ctx, op, in, n_in, &(hx_op_attr){.norm = {.eps = eps}}, 0, out));
    *y = hx_tensor_move(&out[0]);
    *s = hx_tensor_move(&out[hx_op_info_get(op)->n_out - 1]);
    for (int i = 0; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&out[i]);
    return HX_OK;
}

hx_status hx_add_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **y, hx_tensor **s) {
    return run_add_norm(ctx, HX_OP_add_layernorm, (hx_tensor *[]){x, r, w, b}, b ? 4 : 3, eps, y, s);
}

hx_status hx_add_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor *w, double eps, hx_tensor **y, hx_tensor **s) {
    return run_add_norm(ctx, HX_OP_add_rmsnorm, (hx_tensor *[]){x, r, w}, 3, eps, y, s);
}

/* ---- batch norm ---- */

/* Operand i, if there is one, is [C] where C is dim 1 of x. */
static hx_status need_channels(const hx_op_args *a, int i) {
    return a->in[i].present ? hx__need_shape(a, i, &(hx_shape){1, {a->in[0].shape.dims[1]}}) : HX_OK;
}

static hx_status need_batch(const hx_op_args *a) {
    const hx_shape *x = &a->in[0].shape;
    char text[HX_SHAPE_TEXT];
    HX_TRY(hx__need_ndim(a, 0, 2, HX_MAX_DIMS));
    if (x->dims[1] > 0 && hx_shape_count(x) == 0)
        return HX_FAIL(HX_ERR_SHAPE, "%s: x %s: its channels have no element: expected one to take statistics of", a->name, hx_shape_text(x, text));
    return HX_OK;
}

/* x, w?, b? */
hx_status hx__infer_batchnorm(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_same_float(a, 0, a->n_in - 1));
    HX_TRY(need_batch(a));
    if (!(a->attr->norm.eps >= 0)) return HX_FAIL(HX_ERR_ARG, "%s: eps = %g: expected >= 0", a->name, a->attr->norm.eps);
    for (int i = 1; i < a->n_in; i++) HX_TRY(need_channels(a, i));
    hx_shape channels = {1, {a->in[0].shape.dims[1]}};
    hx__set_out(&out[0], a->in[0].shape, a->in[0].dtype);
    for (int i = 1; i < 3; i++) hx__set_out(&out[i], channels, hx_dtype_accum(a->in[0].dtype));
    return HX_OK;
}

/* x, mean, rstd, dy, w? */
hx_status hx__infer_batchnorm_bwd(const hx_op_args *a, hx_op_meta *out) {
    HX_TRY(hx__need_float(a, 0));
    HX_TRY(need_batch(a));
    for (int i = 1; i < 3; i++) {
        HX_TRY(need_channels(a, i));
        HX_TRY(hx__need_statistic(a, i, 0));
    }
    HX_TRY(hx__need_dtype(a, 3, a->in[0].dtype));
    HX_TRY(hx__need_shape(a, 3, &a->in[0].shape));
    if (a->in[4].present) HX_TRY(hx__need_dtype(a, 4, a->in[0].dtype));
    HX_TRY(need_channels(a, 4));
    hx_shape channels = {1, {a->in[0].shape.dims[1]}};
    hx__set_out(&out[0], a->in[0].shape, a->in[0].dtype);
    for (int i = 1; i < 3; i++) hx__set_out(&out[i], channels, a->in[0].dtype);
    return HX_OK;
}

hx_status hx_batchnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out, hx_tensor **mean,
                          hx_tensor **rstd) {
    hx_tensor *y[3] = {NULL};
    HX_TRY(hx__run_keep(ctx, HX_OP_batchnorm, (hx_tensor *[]){x, w, b}, 3, &(hx_op_attr){.norm = {.eps = eps}}, y, 3));
    *out = y[0];
    if (mean) *mean = hx_tensor_move(&y[1]);
    if (rstd) *rstd = hx_tensor_move(&y[2]);
    hx_tensor_destroy(&y[1]);
    hx_tensor_destroy(&y[2]);
    return HX_OK;
}
