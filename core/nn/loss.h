/* Losses: what is configured is a plain struct, what comes out is recorded on the tape.
 *
 *     hx_loss_config c = HX_LOSS_DEFAULT;
 *     c.kind = HX_LOSS_CROSS_ENTROPY, c.smoothing = 0.1;
 *     HX_TRY(hx_loss_sums(ctx, &c, logits, ids, &sum, &count));      // training: sum / count over all ranks
 *     HX_TRY(hx_loss(ctx, &c, logits, ids, HX_REDUCE_MEAN, &mean));  // this process's targets alone
 *
 * A mean over ranks with uneven numbers of targets divides the sum of all sums by the sum of all counts, which is
 * why the two come apart. Half types are computed in f32; sums are f64.
 */
#ifndef HX_CORE_NN_LOSS_H
#define HX_CORE_NN_LOSS_H

#include "core/op/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* p is the input, t the target. "Elements": input and target have one shape and dtype, each element counts 1.
 * "Classes": logits [..,C]; a target counts 1 unless it is left out. */
typedef enum hx_loss_kind {
    HX_LOSS_MSE,           /* elements: (p - t)^2 */
    HX_LOSS_L1,            /* elements: |p - t|, derivative 0 at 0 */
    HX_LOSS_SMOOTH_L1,     /* elements: d^2 / (2 beta) where d = |p - t| < beta, else d - beta/2; beta 0 is L1 */
    HX_LOSS_HUBER,         /* elements: delta times smooth L1 with beta = delta; Huber 1964 */
    HX_LOSS_CROSS_ENTROPY, /* classes: -sum_c w_c t'_c log softmax(p)_c, t' = (1 - smoothing) t + smoothing/C;
                              targets are ids i32|i64 [..], one-hot t, or t itself [..,C]; Szegedy et al. 2016. With
                              weights an id y counts w_y; rows of t count 1 */
    HX_LOSS_BCE,           /* elements: -t log p - (1 - t) log(1 - p), p clamped to [1e-7, 1 - 1e-7] */
    HX_LOSS_BCE_LOGITS,    /* elements: the same of p = sigmoid(z), from z: (1 - t) softplus(z) + pos_weight t softplus(-z) */
    HX_LOSS_FOCAL,         /* classes, targets are ids: -alpha (1 - q)^gamma log q, q the target's softmax; Lin et al. 2017 */
    HX_LOSS_KL_DIV         /* elements: t (log t - p), p log-probabilities, 0 log 0 = 0; the count is dim 0: samples */
} hx_loss_kind;

typedef struct hx_loss_config {
    hx_loss_kind kind;
    double beta;           /* SMOOTH_L1 */
    double delta;          /* HUBER */
    double smoothing;      /* CROSS_ENTROPY: in [0,1] */
    hx_tensor *weights;    /* CROSS_ENTROPY: [C] of the input's dtype (f32 for half types), borrowed; NULL: ones */
    int64_t ignore_index;  /* classes: targets of this id are left out of sum and count */
    hx_tensor *pos_weight; /* BCE_LOGITS: broadcast to the input, of its dtype (f32 for half types), borrowed; NULL: 1 */
    double alpha, gamma;   /* FOCAL */
} hx_loss_config;

#define HX_LOSS_DEFAULT \
    {.kind = HX_LOSS_MSE, .beta = 1, .delta = 1, .ignore_index = HX_IGNORE_INDEX, .alpha = 0.25, .gamma = 2}

typedef enum hx_reduction { HX_REDUCE_NONE, HX_REDUCE_MEAN, HX_REDUCE_SUM } hx_reduction;

/** Summed loss and what to divide it by.
 *  @param input   [..] or logits [..,C], a floating type
 *  @param target  as the kind says; an id that is neither a class nor ignore_index makes the loss NaN
 *  @param[out] sum    f64 scalar, recorded on ctx->tape
 *  @param[out] count  f64 scalar: number (or weight) of the targets that count; no gradient flows through it
 *  @return HX_ERR_CONFIG: a field out of its range; HX_ERR_SHAPE, HX_ERR_DTYPE: operands that do not fit the kind */
hx_status hx_loss_sums(hx_ctx *ctx, const hx_loss_config *config, hx_tensor *input, hx_tensor *target, hx_tensor **sum,
                       hx_tensor **count);
/** The loss reduced here. @param[out] out  HX_REDUCE_NONE: per element [..] or per target [..], 0 where it is left out,
 *  in the input's dtype (f32 for half types); else f64 scalar: the sum, or sum / count, which is NaN over no target.
 *  @return as hx_loss_sums; HX_ERR_ARG: no such reduction */
hx_status hx_loss(hx_ctx *ctx, const hx_loss_config *config, hx_tensor *input, hx_tensor *target, hx_reduction reduction,
                  hx_tensor **out);

#ifdef __cplusplus
}
#endif
#endif
