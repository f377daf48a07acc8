#include "core/nn/loss.h"

#include <math.h>

/* Each kind yields its values, one per element or target, and the weights of its targets; sums and means are
 * taken of those in one place. Only plain cross-entropy of ids, the loss of language models, has a fused op
 * for its sum.
 *
 * Elements that do not take part (ignored targets, 0 log 0) are replaced on both sides: before the formula by
 * a number for which it is finite, so that no NaN meets a zero gradient, and after it by 0. */

typedef struct operands {
    const hx_loss_config *config;
    hx_tensor *input, *target; /* borrowed; input f32 or f64, a floating target of the same dtype */
} operands;

/* ---- checks ---- */

static hx_status check_same(const operands *o) {
    char input[HX_SHAPE_TEXT], target[HX_SHAPE_TEXT];
    const hx_shape x = hx_tensor_shape(o->input), t = hx_tensor_shape(o->target);
    if (!hx_dtype_is_float(hx_tensor_dtype(o->target)))
        return HX_FAIL(HX_ERR_DTYPE, "target of %s: expected a floating type",
                       hx_dtype_name(hx_tensor_dtype(o->target)));
    if (hx_shape_equal(&x, &t)) return HX_OK;
    return HX_FAIL(HX_ERR_SHAPE, "input %s, target %s: expected equal shapes", hx_shape_text(&x, input),
                   hx_shape_text(&t, target));
}

/* Ids [..] for logits [..,C]. */
static hx_status check_ids(const operands *o) {
    char input[HX_SHAPE_TEXT], target[HX_SHAPE_TEXT];
    const hx_shape x = hx_tensor_shape(o->input), t = hx_tensor_shape(o->target);
    const hx_dtype dtype = hx_tensor_dtype(o->target);
    if (dtype != HX_I32 && dtype != HX_I64)
        return HX_FAIL(HX_ERR_DTYPE, "target of %s: expected ids, i32 or i64", hx_dtype_name(dtype));
    hx_shape rows = x;
    rows.ndim--;
    if (x.ndim >= 1 && x.dims[x.ndim - 1] >= 1 && hx_shape_equal(&rows, &t)) return HX_OK;
    return HX_FAIL(HX_ERR_SHAPE, "logits %s, ids %s: expected [..,C] with C >= 1 and [..]",
                   hx_shape_text(&x, input), hx_shape_text(&t, target));
}

static hx_status check_range(const char *field, double value, double least, double most) {
    if (value >= least && value <= most) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "loss %s = %g: expected %g to %g", field, value, least, most);
}

/* ---- elements ---- */

static hx_status mse(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR d = NULL;
    HX_TRY(hx_sub(ctx, o->input, o->target, &d));
    return hx_mul(ctx, d, d, values);
}

static hx_status l1(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR d = NULL;
    HX_TRY(hx_sub(ctx, o->input, o->target, &d));
    return hx_unary(ctx, HX_OP_abs, d, values);
}

/* m (|d| - m/2) with m = min(|d|, delta): d^2/2 below delta, delta (|d| - delta/2) above, without a branch.
 */
static hx_status huber_of(hx_ctx *ctx, const operands *o, double delta, double factor, hx_tensor **values) {
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR m = NULL;
    HX_AUTO_TENSOR half = NULL;
    HX_AUTO_TENSOR rest = NULL;
    HX_AUTO_TENSOR huber = NULL;
    HX_TRY(l1(ctx, o, &d));
    HX_TRY(hx_clamp(ctx, d, -INFINITY, delta, &m));
    HX_TRY(hx_affine(ctx, m, 0.5, 0, &half));
    HX_TRY(hx_sub(ctx, d, half, &rest));
    HX_TRY(hx_mul(ctx, m, rest, &huber));
    return hx_affine(ctx, huber, factor, 0, values);
}

static hx_status smooth_l1(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    const double beta = o->config->beta;
    HX_TRY(check_range("beta", beta, 0, HUGE_VAL));
    return beta > 0 ? huber_of(ctx, o, beta, 1 / beta, values) : l1(ctx, o, values);
}

static hx_status huber(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    if (!(o->config->delta > 0))
        return HX_FAIL(HX_ERR_CONFIG, "loss delta = %g: expected > 0", o->config->delta);
    return huber_of(ctx, o, o->config->delta, 1, values);
}

/* -(t log p + (1 - t) log(1 - p)) = -(log(1 - p) + t (log p - log(1 - p))) */
static hx_status bce(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR p = NULL;
    HX_AUTO_TENSOR q = NULL;
    HX_AUTO_TENSOR log_p = NULL;
    HX_AUTO_TENSOR log_q = NULL;
    HX_AUTO_TENSOR odds = NULL;
    HX_AUTO_TENSOR taken = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(hx_clamp(ctx, o->input, 1e-7, 1 - 1e-7, &p));
    HX_TRY(hx_affine(ctx, p, -1, 1, &q));
    HX_TRY(hx_unary(ctx, HX_OP_log, p, &log_p));
    HX_TRY(hx_unary(ctx, HX_OP_log, q, &log_q));
    HX_TRY(hx_sub(ctx, log_p, log_q, &odds));
    HX_TRY(hx_mul(ctx, o->target, odds, &taken));
    HX_TRY(hx_add(ctx, log_q, taken, &sum));
    return hx_neg(ctx, sum, values);
}

/* (1 - t) softplus(z) + pos_weight t softplus(-z): without a difference of large numbers, so that the loss and the
 * gradient of a confident prediction keep their digits. */
static hx_status bce_logits(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR minus = NULL;
    HX_AUTO_TENSOR positive = NULL; /* softplus(-z) = -log sigmoid(z) */
    HX_AUTO_TENSOR negative = NULL; /* softplus(z) = -log(1 - sigmoid(z)) */
    HX_AUTO_TENSOR rest = NULL;
    HX_AUTO_TENSOR weight = NULL;
    HX_AUTO_TENSOR by_positive = NULL;
    HX_AUTO_TENSOR by_negative = NULL;
    HX_TRY(hx_neg(ctx, o->input, &minus));
    HX_TRY(hx_unary(ctx, HX_OP_softplus, minus, &positive));
    HX_TRY(hx_unary(ctx, HX_OP_softplus, o->input, &negative));
    HX_TRY(hx_affine(ctx, o->target, -1, 1, &rest));
    if (o->config->pos_weight == NULL) weight = hx_tensor_retain(o->target);
    else HX_TRY(hx_mul(ctx, o->target, o->config->pos_weight, &weight));
    HX_TRY(hx_mul(ctx, weight, positive, &by_positive));
    HX_TRY(hx_mul(ctx, rest, negative, &by_negative));
    return hx_add(ctx, by_negative, by_positive, values);
}

static hx_status kl_div(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR none = NULL;
    HX_AUTO_TENSOR safe = NULL;
    HX_AUTO_TENSOR log_t = NULL;
    HX_AUTO_TENSOR ratio = NULL;
    HX_AUTO_TENSOR terms = NULL;
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->target), 0, &zero));
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->target), 1, &one));
    HX_TRY(hx_compare(ctx, HX_OP_equal, o->target, zero, &none));
    HX_TRY(hx_where(ctx, none, one, o->target, &safe));
    HX_TRY(hx_unary(ctx, HX_OP_log, safe, &log_t));
    HX_TRY(hx_sub(ctx, log_t, o->input, &ratio));
    HX_TRY(hx_mul(ctx, o->target, ratio, &terms));
    return hx_where(ctx, none, zero, terms, values);
}

/* ---- classes ---- */

/* Targets that count, and log-softmax with the rows of the others made harmless. */
typedef struct classes {
    hx_tensor *valid; /* bool [..] */
    hx_tensor *ids;   /* [..], 0 where they do not count */
    hx_tensor *zero;  /* scalar */
    hx_tensor *logp;  /* [..,C] */
} classes;

static void classes_destroy(classes *c) {
    hx_tensor_destroy(&c->valid);
    hx_tensor_destroy(&c->ids);
    hx_tensor_destroy(&c->zero);
    hx_tensor_destroy(&c->logp);
}

/* Compared as i64: any ignore_index is one, also one that no id can have. */
static hx_status find_valid(hx_ctx *ctx, const operands *o, hx_tensor **valid) {
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR ignored = NULL;
    if (hx_tensor_dtype(o->target) == HX_I64) ids = hx_tensor_retain(o->target);
    else HX_TRY(hx_cast(ctx, o->target, HX_I64, &ids));
    HX_TRY(hx_scalar(ctx, HX_I64, 0, &ignored)); /* filled below: a double holds 53 bits only */
    HX_TRY(hx_stream_fill(ctx->stream, hx_tensor_data(ignored), &o->config->ignore_index, sizeof o->config->ignore_index, 1));
    return hx_compare(ctx, HX_OP_not_equal, ids, ignored, valid);
}

/* The ids with class 0 in place of those left out: a lookup outside of the classes would give NaN. */
static hx_status safe_ids(hx_ctx *ctx, const operands *o, hx_tensor *valid, hx_tensor **out) {
    HX_AUTO_TENSOR zero = NULL;
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->target), 0, &zero));
    return hx_where(ctx, valid, o->target, zero, out);
}

static hx_status classes_open(hx_ctx *ctx, const operands *o, classes *out) {
    HX_CLEANUP(classes_destroy) classes c = {0};
    HX_AUTO_TENSOR column = NULL; /* [..,1] */
    HX_AUTO_TENSOR safe = NULL;   /* [..,C] */
    HX_TRY(check_ids(o));
    HX_TRY(find_valid(ctx, o, &c.valid));
    HX_TRY(safe_ids(ctx, o, c.valid, &c.ids));
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->input), 0, &c.zero));
    HX_TRY(hx_unsqueeze(ctx, c.valid, -1, &column));
    HX_TRY(hx_where(ctx, column, o->input, c.zero, &safe));
    HX_TRY(hx_log_softmax(ctx, safe, -1, &c.logp));
    *out = c;
    c = (classes){0};
    return HX_OK;
}

/* x [..,C] at the ids [..] along the last dim -> [..]; NaN where an id is no class. */
static hx_status pick(hx_ctx *ctx, hx_tensor *x, hx_tensor *ids, hx_tensor **out) {
    HX_AUTO_TENSOR column = NULL;
    HX_AUTO_TENSOR picked = NULL;
    HX_TRY(hx_unsqueeze(ctx, ids, -1, &column));
    HX_TRY(hx_gather(ctx, x, -1, column, &picked));
    return hx_squeeze(ctx, picked, -1, out);
}

/* w_y of each id [..], 0 where it does not count. @param ids as safe_ids gives them */
static hx_status target_weights(hx_ctx *ctx, const operands *o, hx_tensor *ids, hx_tensor *valid, hx_tensor *zero,
                                hx_tensor **out) {
    HX_AUTO_TENSOR flat = NULL;
    HX_AUTO_TENSOR picked = NULL;
    HX_AUTO_TENSOR weights = NULL;
    HX_TRY(hx_reshape(ctx, ids, HX_SHAPE(-1), &flat));
    HX_TRY(hx_gather(ctx, o->config->weights, 0, flat, &picked));
    HX_TRY(hx_reshape(ctx, picked, hx_tensor_shape(o->target), &weights));
    return hx_where(ctx, valid, weights, zero, out);
}

/* -sum_c w_c logp_c over the last dim */
static hx_status all_classes(hx_ctx *ctx, const operands *o, hx_tensor *logp, hx_tensor **out) {
    HX_AUTO_TENSOR weighted = NULL;
    HX_AUTO_TENSOR sum = NULL;
    if (o->config->weights != NULL)
        HX_TRY(hx_mul(ctx, logp, o->config->weights, &weighted));
    else
        weighted = hx_tensor_retain(logp);
    HX_TRY(hx_sum(ctx, weighted, (const int[]){-1}, 1, false, &sum));
    return hx_neg(ctx, sum, out);
}

/* (1 - eps) a + eps/C b */
static hx_status smooth(hx_ctx *ctx, const operands *o, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    const double eps = o->config->smoothing;
    HX_AUTO_TENSOR most = NULL;
    HX_AUTO_TENSOR rest = NULL;
    HX_TRY(hx_affine(ctx, a, 1 - eps, 0, &most));
    HX_TRY(hx_affine(ctx, b, eps / (double)hx_tensor_dim(o->input, -1), 0, &rest));
    return hx_add(ctx, most, rest, out);
}

/* -w_y logp_y of each target, and any number where it does not count. */
static hx_status id_terms(hx_ctx *ctx, const operands *o, const classes *c, hx_tensor **out) {
    HX_AUTO_TENSOR picked = NULL;
    HX_AUTO_TENSOR nll = NULL;
    HX_AUTO_TENSOR weights = NULL;
    HX_TRY(pick(ctx, c->logp, c->ids, &picked));
    if (o->config->weights == NULL) return hx_neg(ctx, picked, out);
    HX_TRY(hx_neg(ctx, picked, &nll));
    HX_TRY(target_weights(ctx, o, c->ids, c->valid, c->zero, &weights));
    return hx_mul(ctx, nll, weights, out);
}

static hx_status id_entropy(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_CLEANUP(classes_destroy) classes c = {0};
    HX_AUTO_TENSOR terms = NULL;
    HX_AUTO_TENSOR all = NULL;
    HX_AUTO_TENSOR mixed = NULL;
    HX_TRY(classes_open(ctx, o, &c));
    HX_TRY(id_terms(ctx, o, &c, &terms));
    if (o->config->smoothing == 0) return hx_where(ctx, c.valid, terms, c.zero, values);
    HX_TRY(all_classes(ctx, o, c.logp, &all));
    HX_TRY(smooth(ctx, o, terms, all, &mixed));
    return hx_where(ctx, c.valid, mixed, c.zero, values);
}

static hx_status soft_entropy(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_AUTO_TENSOR logp = NULL;
    HX_AUTO_TENSOR one = NULL;
    HX_AUTO_TENSOR shares = NULL;
    HX_AUTO_TENSOR terms = NULL;
    HX_TRY(check_same(o));
    if (hx_tensor_ndim(o->input) < 1) return HX_FAIL(HX_ERR_SHAPE, "logits are a scalar: expected [..,C]");
    HX_TRY(hx_log_softmax(ctx, o->input, -1, &logp));
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->target), 1, &one));
    HX_TRY(smooth(ctx, o, o->target, one, &shares));
    HX_TRY(hx_mul(ctx, shares, logp, &terms));
    return all_classes(ctx, o, terms, values);
}

static bool has_ids(const operands *o) { return !hx_dtype_is_float(hx_tensor_dtype(o->target)); }

static hx_status cross_entropy(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    return has_ids(o) ? id_entropy(ctx, o, values) : soft_entropy(ctx, o, values);
}

/* alpha (1 - q)^gamma nll with 1 - q = -expm1(-nll). The clamp bounds the derivative of the power, which is
 * infinite at q = 1 for gamma < 1, where it meets nll = 0. */
static hx_status focal(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    HX_CLEANUP(classes_destroy) classes c = {0};
    HX_AUTO_TENSOR picked = NULL;
    HX_AUTO_TENSOR logq = NULL;
    HX_AUTO_TENSOR minus = NULL;
    HX_AUTO_TENSOR miss = NULL;
    HX_AUTO_TENSOR bounded = NULL;
    HX_AUTO_TENSOR gamma = NULL;
    HX_AUTO_TENSOR power = NULL;
    HX_AUTO_TENSOR terms = NULL;
    HX_TRY(check_range("gamma", o->config->gamma, 0, HUGE_VAL));
    HX_TRY(classes_open(ctx, o, &c));
    HX_TRY(pick(ctx, c.logp, c.ids, &picked));
    HX_TRY(hx_where(ctx, c.valid, picked, c.zero, &logq));
    HX_TRY(hx_unary(ctx, HX_OP_expm1, logq, &minus));
    HX_TRY(hx_neg(ctx, minus, &miss));
    HX_TRY(hx_clamp(ctx, miss, 1e-30, INFINITY, &bounded));
    HX_TRY(hx_scalar(ctx, hx_tensor_dtype(o->input), o->config->gamma, &gamma));
    HX_TRY(hx_binary(ctx, HX_OP_pow, bounded, gamma, &power));
    HX_TRY(hx_mul(ctx, power, logq, &terms));
    return hx_affine(ctx, terms, -o->config->alpha, 0, values);
}

/* ---- counts ---- */

static hx_status count_elements(hx_ctx *ctx, const operands *o, hx_tensor **count) {
    return hx_scalar(ctx, HX_F64, (double)hx_tensor_count(o->input), count);
}

static hx_status count_samples(hx_ctx *ctx, const operands *o, hx_tensor **count) {
    return hx_scalar(ctx, HX_F64, hx_tensor_ndim(o->input) > 0 ? (double)hx_tensor_dim(o->input, 0) : 1, count);
}

static hx_status count_targets(hx_ctx *ctx, const operands *o, hx_tensor **count) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_AUTO_TENSOR valid = NULL;
    HX_AUTO_TENSOR ids = NULL;
    HX_AUTO_TENSOR zero = NULL;
    HX_AUTO_TENSOR weights = NULL;
    HX_AUTO_TENSOR wide = NULL;
    if (!has_ids(o)) {
        const int64_t C = hx_tensor_dim(o->input, -1);
        return hx_scalar(ctx, HX_F64, C > 0 ? (double)(hx_tensor_count(o->input) / C) : 0, count);
    }
    HX_TRY(find_valid(&quiet, o, &valid));
    if (o->config->weights != NULL) {
        HX_TRY(hx_scalar(&quiet, hx_tensor_dtype(o->config->weights), 0, &zero));
        HX_TRY(safe_ids(&quiet, o, valid, &ids));
        HX_TRY(target_weights(&quiet, o, ids, valid, zero, &weights));
    }
    HX_TRY(hx_cast(&quiet, weights != NULL ? weights : valid, HX_F64, &wide));
    return hx_sum(&quiet, wide, NULL, 0, false, count);
}

/* ---- the table ---- */

typedef hx_status (*values_fn)(hx_ctx *ctx, const operands *o, hx_tensor **values);

static const struct {
    values_fn values, count;
    bool by_element;
} kinds[] = {
    [HX_LOSS_MSE] = {mse, count_elements, true},
    [HX_LOSS_L1] = {l1, count_elements, true},
    [HX_LOSS_SMOOTH_L1] = {smooth_l1, count_elements, true},
    [HX_LOSS_HUBER] = {huber, count_elements, true},
    [HX_LOSS_CROSS_ENTROPY] = {cross_entropy, count_targets, false},
    [HX_LOSS_BCE] = {bce, count_elements, true},
    [HX_LOSS_BCE_LOGITS] = {bce_logits, count_elements, true},
    [HX_LOSS_FOCAL] = {focal, count_targets, false},
    [HX_LOSS_KL_DIV] = {kl_div, count_samples, true},
};

static hx_status check_config(const hx_loss_config *config, const hx_tensor *input, const hx_tensor *target) {
    if (config == NULL || input == NULL || target == NULL)
        return HX_FAIL(HX_ERR_ARG, "%s is NULL",
                       config == NULL  ? "config"
                       : input == NULL ? "input"
                                       : "target");
    if ((unsigned)config->kind >= sizeof kinds / sizeof *kinds)
        return HX_FAIL(HX_ERR_CONFIG, "loss kind %d is no hx_loss_kind", (int)config->kind);
    if (!hx_dtype_is_float(hx_tensor_dtype(input)))
        return HX_FAIL(HX_ERR_DTYPE, "input of %s: expected a floating type",
                       hx_dtype_name(hx_tensor_dtype(input)));
    return check_range("smoothing", config->smoothing, 0, 1);
}

static hx_status compute_values(hx_ctx *ctx, const operands *o, hx_tensor **values) {
    if (kinds[o->config->kind].by_element) HX_TRY(check_same(o));
    return kinds[o->config->kind].values(ctx, o, values);
}

/* The kernel takes half types as they are and sums in f64. */
static bool is_fused(const hx_loss_config *c, const hx_tensor *target) {
    return c->kind == HX_LOSS_CROSS_ENTROPY && c->smoothing == 0 && c->weights == NULL &&
           !hx_dtype_is_float(hx_tensor_dtype(target));
}

static hx_status fused_sums(hx_ctx *ctx, const hx_loss_config *config, hx_tensor *input, hx_tensor *target,
                            hx_tensor **sum, hx_tensor **count) {
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR n = NULL;
    HX_TRY(hx_cross_entropy(ctx, input, target, config->ignore_index, &loss, &n));
    HX_TRY(hx_cast(ctx, n, HX_F64, count));
    *sum = hx_tensor_move(&loss);
    return HX_OK;
}

hx_status hx_loss_sums(hx_ctx *ctx, const hx_loss_config *config, hx_tensor *input, hx_tensor *target,
                       hx_tensor **sum, hx_tensor **count) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR values = NULL;
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR total = NULL;
    HX_TRY(check_config(config, input, target));
    if (is_fused(config, target)) return fused_sums(ctx, config, input, target, sum, count);
    HX_TRY(hx_widen(ctx, input, &x));
    HX_TRY(hx_widen(ctx, target, &t));
    const operands o = {config, x, t};
    HX_TRY(compute_values(ctx, &o, &values));
    HX_TRY(hx_cast(ctx, values, HX_F64, &wide));
    HX_TRY(hx_sum(ctx, wide, NULL, 0, false, &total));
    HX_TRY(kinds[config->kind].count(ctx, &o, count));
    *sum = hx_tensor_move(&total);
    return HX_OK;
}

hx_status hx_loss(hx_ctx *ctx, const hx_loss_config *config, hx_tensor *input, hx_tensor *target,
                  hx_reduction reduction, hx_tensor **out) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR t = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    if ((unsigned)reduction > HX_REDUCE_SUM)
        return HX_FAIL(HX_ERR_ARG, "reduction %d is no hx_reduction", (int)reduction);
    if (reduction != HX_REDUCE_NONE) {
        HX_TRY(hx_loss_sums(ctx, config, input, target, &sum, &count));
        if (reduction == HX_REDUCE_MEAN) return hx_div(ctx, sum, count, out);
        *out = hx_tensor_move(&sum);
        return HX_OK;
    }
    HX_TRY(check_config(config, input, target));
    HX_TRY(hx_widen(ctx, input, &x));
    HX_TRY(hx_widen(ctx, target, &t));
    return compute_values(ctx, &(operands){config, x, t}, out);
}
