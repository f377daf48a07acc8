/* Batch norm over the samples of all ranks. What travels is small, in f64, and one row a rank:
 *   forward   (n, mean [C], var [C]) of the rank's own elements; the variance in two passes. Every rank combines the rows in the
 *             order of ranks, so that all have the same bits
 *   backward  (sum dy [C], sum dy z [C])
 * The rest is elementwise, in f32 for half types. */
#include <math.h>
#include "core/nn/batchnorm_impl.h"

/* Of one batch over all ranks, f64. */
typedef struct stats {
    hx_tensor *count; /* [1] elements of a channel */
    hx_tensor *mean;  /* [C] */
    hx_tensor *var;   /* [C], divided by the count */
} stats;

static void stats_destroy(stats *s) {
    hx_tensor_destroy(&s->count);
    hx_tensor_destroy(&s->mean);
    hx_tensor_destroy(&s->var);
}

/* All dims of x but dim 1. */
static int dims_of_channel(const hx_tensor *x, int dims[HX_MAX_DIMS]) {
    int n = 0;
    for (int d = 0; d < hx_tensor_ndim(x); d++)
        if (d != 1) dims[n++] = d;
    return n;
}

/* One behind the other, as f64. */
static hx_status join(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    HX_AUTO_TENSOR wide_a = NULL;
    HX_AUTO_TENSOR wide_b = NULL;
    HX_TRY(hx_cast(ctx, a, HX_F64, &wide_a));
    HX_TRY(hx_cast(ctx, b, HX_F64, &wide_b));
    return hx_cat(ctx, (hx_tensor *[]){wide_a, wide_b}, 2, 0, out);
}

/* ---- forward ---- */

/* @param[out] row [1 + 2C] */
static hx_status own_row(hx_ctx *ctx, hx_tensor *x, hx_tensor **row) {
    int dims[HX_MAX_DIMS];
    const int n_dims = dims_of_channel(x, dims);
    HX_AUTO_TENSOR count = NULL;
    HX_AUTO_TENSOR mean = NULL;
    HX_AUTO_TENSOR var = NULL;
    HX_AUTO_TENSOR head = NULL;
    HX_TRY(hx_tensor_create(ctx->device, HX_F64, HX_SHAPE(1), &count));
    HX_TRY(hx_tensor_fill(ctx->stream, count, (double)(hx_tensor_count(x) / hx_tensor_dim(x, 1))));
    HX_TRY(hx_mean(ctx, x, dims, n_dims, false, &mean));
    HX_TRY(hx_var(ctx, x, dims, n_dims, 0, false, &var));
    HX_TRY(join(ctx, count, mean, &head));
    return join(ctx, head, var, row);
}

/* sum over ranks of share [R,1] times x [R,C] */
static hx_status weigh(hx_ctx *ctx, hx_tensor *share, hx_tensor *x, hx_tensor **out) {
    HX_AUTO_TENSOR part = NULL;
    HX_TRY(hx_mul(ctx, share, x, &part));
    return hx_sum(ctx, part, (int[]){0}, 1, false, out);
}

/* var = sum share (var_r + (mean_r - mean)^2) */
static hx_status combine_variances(hx_ctx *ctx, hx_tensor *share, hx_tensor *means, hx_tensor *vars, hx_tensor *mean, hx_tensor **var) {
    HX_AUTO_TENSOR apart = NULL;
    HX_AUTO_TENSOR square = NULL;
    HX_AUTO_TENSOR both = NULL;
    HX_TRY(hx_sub(ctx, means, mean, &apart));
    HX_TRY(hx_unary(ctx, HX_OP_square, apart, &square));
    HX_TRY(hx_add(ctx, vars, square, &both));
    return weigh(ctx, share, both, var);
}

/* @param rows [R, 1 + 2C] */
static hx_status combine(hx_ctx *ctx, hx_tensor *rows, int64_t n_channels, stats *out) {
    HX_CLEANUP(stats_destroy) stats s = {.count = NULL};
    HX_AUTO_TENSOR counts = NULL; /* [R,1] */
    HX_AUTO_TENSOR means = NULL;  /* [R,C] */
    HX_AUTO_TENSOR vars = NULL;   /* [R,C] */
    HX_AUTO_TENSOR share = NULL;  /* [R,1] */
    HX_TRY(hx_tensor_slice(rows, 1, 0, 1, 1, &counts));
    HX_TRY(hx_tensor_slice(rows, 1, 1, 1 + n_channels, 1, &means));
    HX_TRY(hx_tensor_slice(rows, 1, 1 + n_channels, 1 + 2 * n_channels, 1, &vars));
    HX_TRY(hx_sum(ctx, counts, (int[]){0}, 1, false, &s.count));
    HX_TRY(hx_div(ctx, counts, s.count, &share));
    HX_TRY(weigh(ctx, share, means, &s.mean));
    HX_TRY(combine_variances(ctx, share, means, vars, s.mean, &s.var));
    *out = s;
    s = (stats){.count = NULL};
    return HX_OK;
}

/* By the mean, and by the unbiased variance n/(n-1) var; with one element by 0, as it is. */
static hx_status move_running(const hx__batchnorm *l, hx_ctx *ctx, const stats *s) {
    const hx_dtype dtype = hx_tensor_dtype(l->running_mean->value);
    HX_AUTO_TENSOR less = NULL;
    HX_AUTO_TENSOR divisor = NULL;
    HX_AUTO_TENSOR factor = NULL;
    HX_AUTO_TENSOR unbiased = NULL;
    HX_AUTO_TENSOR var = NULL;
    HX_AUTO_TENSOR mean = NULL;
    HX_TRY(hx_affine(ctx, s->count, 1, -1, &less));
    HX_TRY(hx_clamp(ctx, less, 1, INFINITY, &divisor));
    HX_TRY(hx_div(ctx, s->count, divisor, &factor));
    HX_TRY(hx_mul(ctx, s->var, factor, &unbiased));
    HX_TRY(hx_cast(ctx, unbiased, dtype, &var));
    HX_TRY(hx_cast(ctx, s->mean, dtype, &mean));
    HX_TRY(hx__batchnorm_move(ctx, l->running_var->value, l->config.momentum, 1, 0, var));
    return hx__batchnorm_move(ctx, l->running_mean->value, l->config.momentum, 1, 0, mean);
}

hx_status hx_batchnorm_follow(hx_layer *layer, hx_ctx *ctx, hx_tensor *rows) {
    const int64_t n_channels = hx_batchnorm_channels(layer);
    HX_CLEANUP(stats_destroy) stats s = {.count = NULL};
    hx_ctx quiet = hx_no_grad(ctx);
    if (n_channels == 0) return HX_FAIL(HX_ERR_ARG, "layer %s is %s: expected a batch norm", layer->path, layer->type->name);
    HX_TRY(combine(&quiet, rows, n_channels, &s));
    return move_running((const hx__batchnorm *)layer, &quiet, &s);
}

/* 1/sqrt(var + eps) */
static hx_status reciprocal_deviation(hx_ctx *ctx, hx_tensor *var, double eps, hx_tensor **out) {
    HX_AUTO_TENSOR shifted = NULL;
    HX_AUTO_TENSOR deviation = NULL;
    HX_TRY(hx_affine(ctx, var, 1, eps, &shifted));
    HX_TRY(hx_unary(ctx, HX_OP_sqrt, shifted, &deviation));
    return hx_unary(ctx, HX_OP_reciprocal, deviation, out);
}

/* (x - mean) rstd */
static hx_status normalise(hx_ctx *ctx, hx_tensor *x, hx_tensor *mean, hx_tensor *rstd, hx_tensor **z) {
    HX_AUTO_TENSOR at = hx_tensor_retain(x);
    HX_TRY(hx__batchnorm_along(ctx, HX_OP_sub, &at, mean));
    HX_TRY(hx__batchnorm_along(ctx, HX_OP_mul, &at, rstd));
    *z = hx_tensor_move(&at);
    return HX_OK;
}

/* z w + b in x's dtype */
static hx_status scale(const hx__batchnorm *l, hx_ctx *ctx, hx_tensor *z, hx_dtype dtype, hx_tensor **y) {
    HX_AUTO_TENSOR at = hx_tensor_retain(z);
    if (l->weight != NULL) HX_TRY(hx__batchnorm_along(ctx, HX_OP_mul, &at, l->weight->value));
    if (l->bias != NULL) HX_TRY(hx__batchnorm_along(ctx, HX_OP_add, &at, l->bias->value));
    if (hx_tensor_dtype(at) != dtype) return hx_cast(ctx, at, dtype, y);
    *y = hx_tensor_move(&at);
    return HX_OK;
}

/* The statistics of all ranks, which move the running ones. */
static hx_status share_stats(const hx__batchnorm *l, hx_ctx *ctx, hx_tensor *x, stats *out) {
    HX_AUTO_TENSOR row = NULL;
    HX_AUTO_TENSOR rows = NULL;
    HX_CLEANUP(stats_destroy) stats s = {.count = NULL};
    HX_TRY(own_row(ctx, x, &row));
    HX_TRY(l->sync->gather(l->sync->self, ctx, ctx->is_recompute ? -1 : l->which, row, &rows));
    HX_TRY(combine(ctx, rows, l->n_channels, &s));
    if (!ctx->is_recompute) HX_TRY(move_running(l, ctx, &s));
    *out = s;
    s = (stats){.count = NULL};
    return HX_OK;
}

/* ---- backward ---- */

enum { IN_X, IN_WEIGHT, IN_BIAS };
enum { OUT_Y, OUT_MEAN, OUT_RSTD, OUT_COUNT };

/* sums [2C]: dy, then dy z, over this rank's elements */
static hx_status own_sums(hx_ctx *ctx, hx_tensor *dy, hx_tensor *z, hx_tensor **sums) {
    int dims[HX_MAX_DIMS];
    const int n_dims = dims_of_channel(dy, dims);
    HX_AUTO_TENSOR product = NULL;
    HX_AUTO_TENSOR db = NULL;
    HX_AUTO_TENSOR dw = NULL;
    HX_TRY(hx_sum(ctx, dy, dims, n_dims, false, &db));
    HX_TRY(hx_mul(ctx, dy, z, &product));
    HX_TRY(hx_sum(ctx, product, dims, n_dims, false, &dw));
    return join(ctx, db, dw, sums);
}

/* Elements [from, from + C) of sums, in the dtype of a parameter's gradient. */
static hx_status give_param(hx_vjp *v, int i, hx_tensor *sums, int64_t from, int64_t n_channels) {
    HX_AUTO_TENSOR part = NULL;
    hx_tensor *grad = NULL;
    if (i >= v->n_in || !hx_vjp_wants(v, i)) return HX_OK;
    HX_TRY(hx_tensor_window(sums, from, HX_SHAPE(n_channels), &part));
    HX_TRY(hx_cast(v->ctx, part, hx_dtype_accum(v->in_dtype[i]), &grad));
    return hx_vjp_give_consume(v, i, &grad);
}

/* The sums over all ranks, divided by the number of elements. */
static hx_status mean_sums(const hx__batchnorm *l, hx_vjp *v, hx_tensor *sums, hx_tensor **out) {
    HX_AUTO_TENSOR rows = NULL; /* [R,2C] */
    HX_AUTO_TENSOR total = NULL;
    HX_TRY(l->sync->gather(l->sync->self, v->ctx, -1, sums, &rows));
    HX_TRY(hx_sum(v->ctx, rows, (int[]){0}, 1, false, &total));
    return hx_div(v->ctx, total, v->out[OUT_COUNT], out);
}

/* dx = (dy - mean(dy) - z mean(dy z)) rstd w. @param means [2C] */
static hx_status give_x(const hx__batchnorm *l, hx_vjp *v, hx_tensor *dy, hx_tensor *z, hx_tensor *means) {
    HX_AUTO_TENSOR of_dy = NULL;
    HX_AUTO_TENSOR of_product = NULL;
    HX_AUTO_TENSOR at = hx_tensor_retain(dy);
    HX_AUTO_TENSOR slope = hx_tensor_retain(z);
    HX_AUTO_TENSOR rest = NULL;
    hx_tensor *dx = NULL;
    HX_TRY(hx_tensor_window(means, 0, HX_SHAPE(l->n_channels), &of_dy));
    HX_TRY(hx_tensor_window(means, l->n_channels, HX_SHAPE(l->n_channels), &of_product));
    HX_TRY(hx__batchnorm_along(v->ctx, HX_OP_sub, &at, of_dy));
    HX_TRY(hx__batchnorm_along(v->ctx, HX_OP_mul, &slope, of_product));
    HX_TRY(hx_sub(v->ctx, at, slope, &rest));
    HX_TRY(hx__batchnorm_along(v->ctx, HX_OP_mul, &rest, v->out[OUT_RSTD]));
    if (v->n_in > IN_WEIGHT) HX_TRY(hx__batchnorm_along(v->ctx, HX_OP_mul, &rest, v->in[IN_WEIGHT]));
    HX_TRY(hx_cast(v->ctx, rest, v->in_dtype[IN_X], &dx));
    return hx_vjp_give_consume(v, IN_X, &dx);
}

static hx_status sync_backward(hx_vjp *v) {
    const hx__batchnorm *l = v->user;
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR dy = NULL;
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR sums = NULL;
    HX_AUTO_TENSOR means = NULL;
    HX_TRY(hx_widen(v->ctx, v->in[IN_X], &x));
    HX_TRY(hx_widen(v->ctx, v->grad_out[OUT_Y], &dy));
    HX_TRY(normalise(v->ctx, x, v->out[OUT_MEAN], v->out[OUT_RSTD], &z));
    HX_TRY(own_sums(v->ctx, dy, z, &sums));
    HX_TRY(give_param(v, IN_WEIGHT, sums, l->n_channels, l->n_channels));
    HX_TRY(give_param(v, IN_BIAS, sums, 0, l->n_channels));
    if (!hx_vjp_wants(v, IN_X)) return HX_OK;
    HX_TRY(mean_sums(l, v, sums, &means));
    return give_x(l, v, dy, z, means);
}

/* ---- both ---- */

static hx_status record(const hx__batchnorm *l, hx_ctx *ctx, hx_tensor *x, hx_tensor *y, const stats *s, hx_tensor *rstd) {
    const hx_custom custom = {.name = "batchnorm_sync", .vjp = sync_backward, .user = (void *)l,
                              .saves = 1u << IN_X | 1u << IN_WEIGHT | 1u << (8 + OUT_MEAN) | 1u << (8 + OUT_RSTD) | 1u << (8 + OUT_COUNT)};
    const bool is_affine = l->weight != NULL;
    hx_tensor *const in[] = {x, is_affine ? l->weight->value : NULL, is_affine ? l->bias->value : NULL};
    return hx_tape_record_custom(ctx, &custom, in, is_affine ? 3 : 1, (hx_tensor *[]){y, s->mean, rstd, s->count}, 4);
}

hx_status hx__batchnorm_sync_forward(const hx__batchnorm *l, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_CLEANUP(stats_destroy) stats s = {.count = NULL};
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR rstd = NULL;
    HX_AUTO_TENSOR z = NULL;
    HX_AUTO_TENSOR result = NULL;
    hx_shape shape = hx_tensor_shape(x);
    char text[HX_SHAPE_TEXT];
    if (hx_tensor_count(x) == 0) return HX_FAIL(HX_ERR_SHAPE, "batchnorm: x %s: expected elements", hx_shape_text(&shape, text));
    HX_TRY(hx_widen(&quiet, x, &wide));
    HX_TRY(share_stats(l, &quiet, wide, &s));
    HX_TRY(reciprocal_deviation(&quiet, s.var, l->config.eps, &rstd));
    HX_TRY(normalise(&quiet, wide, s.mean, rstd, &z));
    HX_TRY(scale(l, &quiet, z, hx_tensor_dtype(x), &result));
    HX_TRY(record(l, ctx, x, result, &s, rstd));
    *y = hx_tensor_move(&result);
    return HX_OK;
}
