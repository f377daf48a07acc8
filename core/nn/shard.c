#include "core/base/mem.h"
#include "core/nn/nn_impl.h"

/* ---- parameters ---- */

static hx_status check_cut(const hx_param *param, const hx_shape *global, int dim, const hx_shard *shard) {
    char text[HX_SHAPE_TEXT];
    if (param->is_split) return HX_FAIL(HX_ERR_STATE, "parameter %s is cut already", param->name);
    if (dim < 0 || dim >= global->ndim || (param->n_parts > 0 && dim != 0))
        return HX_FAIL(HX_ERR_ARG, "parameter %s %s: dim %d cannot be cut", param->name, hx_shape_text(global, text), dim);
    if (global->dims[dim] % shard->size != 0)
        return HX_FAIL(HX_ERR_CONFIG, "parameter %s %s of layer %s: dim %d of %lld on %d tensor-parallel ranks: expected a multiple of %d", param->name,
                       hx_shape_text(global, text), param->layer->path, dim, (long long)global->dims[dim], shard->size, shard->size);
    return HX_OK;
}

/* The rank's part of a logical tensor, stored from `local` on, which moves behind it. */
static hx_status cut_layout(const hx_shape *global, int dim, const hx_shard *shard, int64_t *local, hx_layout *out) {
    const int64_t length = global->dims[dim] / shard->size;
    hx_box box = {.local = *local};
    for (int d = 0; d < global->ndim; d++) box.extent[d] = global->dims[d];
    box.start[dim] = shard->rank * length;
    box.extent[dim] = length;
    *local += hx_box_count(&box, global->ndim);
    return hx_layout_boxes(global, &box, 1, out);
}

/* Layouts and storage are made first and exchanged together: a failure leaves the parameter as it was. */
hx_status hx_param_set_shard(hx_param *param, int dim, const hx_shard *shard) {
    hx_layout cut[HX__MAX_FUSED] = {0};
    const int n = hx_param_n_logical(param);
    hx_shape shape = hx_tensor_shape(param->value);
    hx_tensor *value = NULL;
    int64_t local = 0;
    hx_status status;
    if (n > HX__MAX_FUSED) return HX_FAIL(HX_ERR_ARG, "parameter %s: %d parts: expected at most %d", param->name, n, HX__MAX_FUSED);
    for (int i = 0; i < n; i++) {
        const hx_shape *global = param->n_parts > 0 ? &param->parts[i].layout.shape : &param->layout.shape;
        HX_TRY_GOTO(check_cut(param, global, dim, shard), done);
        HX_TRY_GOTO(cut_layout(global, dim, shard, &local, &cut[i]), done);
    }
    shape.dims[dim] /= shard->size; /* the parts' lengths are multiples of it, and so is their sum */
    HX_TRY_GOTO(hx_tensor_create(param->layer->device, hx_tensor_dtype(param->value), shape, &value), done);
    hx_tensor_set_requires_grad(value, !param->is_frozen);
    hx_tensor_destroy(&param->value);
    param->value = hx_tensor_move(&value);
    for (int i = 0; i < n; i++) {
        hx_layout *own = param->n_parts > 0 ? &param->parts[i].layout : &param->layout, old = *own;
        *own = cut[i];
        cut[i] = old;
    }
    param->own_end = hx_tensor_count(param->value);
    param->is_split = true;
done:
    for (int i = 0; i < n; i++) hx_layout_destroy(&cut[i]);
    return status;
}

void hx_layer_set_partial(hx_layer *layer, const hx_shard *shard) {
    for (int i = 0; i < layer->n_params; i++) layer->params[i]->is_partial = shard->is_sequence;
}

/* ---- columns ---- */

/* dx = the rank's positions of the sum over ranks of dy w; dw and dbias are those of the whole x, which is gathered again. */
static hx_status gathered_backward(hx_vjp *v) {
    const hx_shard *shard = v->user;
    HX_AUTO_TENSOR whole = NULL; /* [B,T,in] */
    if (hx_vjp_wants(v, 0)) {
        HX_AUTO_TENSOR part = NULL; /* [B,T,in] */
        hx_tensor *dx;
        HX_TRY(hx__vjp_linear_input(v, &part));
        HX_TRY(shard->leave(shard->self, v->ctx, part, &dx));
        HX_TRY(hx_vjp_give_consume(v, 0, &dx));
    }
    if (hx_vjp_wants(v, 1)) HX_TRY(shard->enter(shard->self, v->ctx, v->in[0], &whole));
    return hx__vjp_linear_params(v, whole);
}

/* The product's own record would keep the gathered x, as large on each rank as without is_sequence; this one keeps the part. */
static hx_status gathered_product(const hx_shard *shard, hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **y) {
    const hx_custom custom = {.name = "gathered_linear", .vjp = gathered_backward, .user = (void *)(uintptr_t)shard, .saves = 1 | 2};
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR whole = NULL;
    HX_AUTO_TENSOR product = NULL;
    HX_TRY(shard->enter(shard->self, &quiet, x, &whole));
    HX_TRY(hx_linear_op(&quiet, whole, w, bias, &product));
    HX_TRY(hx_tape_record_custom(ctx, &custom, (hx_tensor *[]){x, w, bias}, bias ? 3 : 2, &product, 1));
    *y = hx_tensor_move(&product);
    return HX_OK;
}

hx_status hx__linear_columns(const hx_shard *shard, hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **y) {
    HX_AUTO_TENSOR same = NULL;
    if (shard == NULL) return hx_linear_op(ctx, x, w, bias, y);
    if (shard->is_sequence) return gathered_product(shard, ctx, x, w, bias, y);
    HX_TRY(shard->enter(shard->self, ctx, x, &same));
    return hx_linear_op(ctx, same, w, bias, y);
}

/* ---- loss ---- */

/* log(e^a + e^b) = max(a, b) + ln(1 + e^-|a - b|) */
static hx_status add_exponents(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    HX_AUTO_TENSOR most = NULL;
    HX_AUTO_TENSOR apart = NULL;
    HX_AUTO_TENSOR distance = NULL;
    HX_AUTO_TENSOR negative = NULL;
    HX_AUTO_TENSOR rest = NULL;
    HX_TRY(hx_binary(ctx, HX_OP_maximum, a, b, &most));
    HX_TRY(hx_sub(ctx, a, b, &apart));
    HX_TRY(hx_unary(ctx, HX_OP_abs, apart, &distance));
    HX_TRY(hx_affine(ctx, distance, -1, 0, &negative));
    HX_TRY(hx_unary(ctx, HX_OP_softplus, negative, &rest));
    return hx_add(ctx, most, rest, out);
}

/* log of the sum of e^(lse_r) over ranks, from lse_r [..] of each, in the order of ranks: the same bits on all. */
static hx_status join_logsumexp(const hx_shard *shard, hx_ctx *ctx, hx_tensor *part, hx_tensor **out) {
    HX_AUTO_TENSOR all = NULL; /* [size,..] */
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(shard->gather(shard->self, ctx, part, &all));
    for (int64_t rank = 0; rank < shard->size; rank++) {
        HX_AUTO_TENSOR one = NULL;
        hx_tensor *joined = NULL;
        HX_TRY(hx_tensor_window(all, rank * hx_tensor_count(part), hx_tensor_shape(part), &one));
        if (rank == 0) joined = hx_tensor_retain(one);
        else HX_TRY(add_exponents(ctx, sum, one, &joined));
        hx_tensor_destroy(&sum);
        sum = joined;
    }
    *out = hx_tensor_move(&sum);
    return HX_OK;
}

hx_status hx_shard_cross_entropy(const hx_shard *shard, hx_ctx *ctx, hx_tensor *logits, hx_tensor *targets, int64_t ignore_index,
                                 hx_tensor **loss_sum, hx_tensor **count) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR part = NULL; /* [..] */
    HX_AUTO_TENSOR lse = NULL;  /* [..] */
    HX_AUTO_TENSOR mine = NULL; /* scalar */
    HX_AUTO_TENSOR n = NULL;    /* scalar */
    const int64_t n_columns = hx_tensor_dim(logits, -1), start = shard->rank * n_columns, total = shard->size * n_columns;
    HX_TRY(hx_logsumexp_part(&quiet, logits, targets, start, total, &part));
    HX_TRY(join_logsumexp(shard, &quiet, part, &lse));
    HX_TRY(hx_cross_entropy_part(ctx, logits, targets, ignore_index, start, total, lse, &mine, &n));
    HX_TRY(shard->sum(shard->self, ctx, mine, loss_sum));
    *count = hx_tensor_move(&n);
    return HX_OK;
}
