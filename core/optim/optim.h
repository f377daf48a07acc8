/* Optimizers, and clipping of gradients.
 *
 *     hx_optim_config cfg = HX_OPTIM_DEFAULT;
 *     hx_optim *opt; HX_TRY(hx_optim_create_default(dev, stream, &params, &cfg, &opt));
 *     HX_TRY(hx_optim_step(opt, &ctx, step, lr, gscale));   // gscale: f64 device scalar, or NULL
 *
 * The updates are PyTorch's, their formulas stand at the kernels of backends/ref/optim.c:
 *     adamw    Loshchilov & Hutter 2019: decoupled decay, bias-corrected moments
 *     adam     Kingma & Ba 2015: weight_decay p is added to the gradient
 *     sgd      momentum, dampening, Nesterov; the first update's buffer is the gradient
 *     rmsprop  Hinton 2012; eps outside of the root; centered, momentum. A usual rate is 0.01
 *     lion     Chen et al. 2023: a usual rate is a tenth of AdamW's, with betas 0.9 and 0.99
 * A parameter of half type is updated through a master copy in f32, whose rounded value it then gets; moments and
 * gradients of it are f32.
 */
#ifndef HX_CORE_OPTIM_OPTIM_H
#define HX_CORE_OPTIM_OPTIM_H

#include "core/base/options.h"
#include "core/nn/layer.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The words' places are HX_OPTIM_x, HX_CLIP_x and HX_LR_x below. */
#define HX_OPTIM_OPTIONS(X)                                                                                  \
    X(CHOICE, optimizer, 0, "adamw|adam|sgd|rmsprop|lion", 0, "rule of the update")                          \
    X(REAL, lr, 1e-3, 0, 1e3, "peak learning rate")                                                          \
    X(REAL, beta1, 0.9, 0, 0.999999, "adamw, adam, lion: decay of the first moment")                         \
    X(REAL, beta2, 0.999, 0, 0.9999999, "adamw, adam, lion: decay of the second moment")                     \
    X(REAL, eps, 1e-8, 0, 1, "adamw, adam, rmsprop: added to the root of the second moment")                 \
    X(REAL, weight_decay, 0.01, 0, 1e3, "decay, decoupled in adamw and lion; matrices only")                 \
    X(REAL, momentum, 0, 0, 0.999999, "sgd, rmsprop: decay of the sum of steps; 0 keeps none")               \
    X(REAL, dampening, 0, 0, 1, "sgd: share of the gradient that the momentum leaves out")                   \
    X(BOOL, nesterov, false, 0, 0, "sgd: look ahead along the momentum")                                     \
    X(REAL, alpha, 0.99, 0, 0.9999999, "rmsprop: decay of the mean square")                                  \
    X(BOOL, centered, false, 0, 0, "rmsprop: divide by the deviation instead of the mean square's root")     \
    X(REAL, clip, 1.0, 0, 1e30, "largest global gradient norm; 0 does not clip")                             \
    X(CHOICE, clip_norm_type, 0, "2|1|inf", 0, "which norm")                                                 \
    X(REAL, clip_value, 0, 0, 1e30, "largest absolute value in a gradient, with clip 0; 0 does not clip")    \
    X(CHOICE, schedule, 0, "cosine|constant|linear|step|exponential|plateau", 0,                             \
      "learning rate after the warm-up")                                                                     \
    X(INT, warmup, 20, 0, 1 << 30, "steps of linear warm-up")                                                \
    X(REAL, min_lr_ratio, 0.1, 0, 1, "cosine and linear end at lr times this; plateau goes no lower")        \
    X(REAL, gamma, 0.1, 0, 1, "step, exponential: factor of the rate over decay_every steps")                \
    X(INT, decay_every, 1000, 1, 1 << 30, "step, exponential: steps in which the rate falls by gamma")       \
    X(REAL, plateau_factor, 0.1, 0, 0.999999, "plateau: factor of the rate when the loss is stuck")          \
    X(INT, plateau_patience, 10, 0, 1 << 30, "plateau: evaluations without a better loss that are borne")    \
    X(REAL, plateau_threshold, 1e-4, 0, 1, "plateau: share by which a better loss is better")                \
    X(INT, plateau_cooldown, 0, 0, 1 << 30, "plateau: evaluations after a fall that do not count")

HX_OPTIONS_STRUCT(hx_optim_config, HX_OPTIM_OPTIONS);
#define HX_OPTIM_DEFAULT HX_OPTIONS_DEFAULT(HX_OPTIM_OPTIONS)
extern const hx_option hx_optim_options[];
extern const int hx_optim_n_options;

typedef enum hx_optim_kind { HX_OPTIM_ADAMW, HX_OPTIM_ADAM, HX_OPTIM_SGD, HX_OPTIM_RMSPROP, HX_OPTIM_LION, HX_OPTIM_COUNT } hx_optim_kind;

/* Parameters that share hyperparameters. */
typedef struct hx_param_group {
    hx_param **params; /* borrowed pointers, copied array */
    int64_t n_params;
    double lr_scale;     /* multiplies the scheduled learning rate */
    double weight_decay;
    const hx_optim_config *config; /* betas, eps, momentum, ... of this group, of the same optimizer; copied;
                                      NULL: the optimizer's */
} hx_param_group;

typedef struct hx_optim hx_optim;

/** The optimizer that config->optimizer names. Slots are zeroed tensors of each parameter's shape. Masters are copies
 *  of the parameters as they are now: initialise them before. Frozen parameters are left out; of one that is shared out over
 *  ranks (hx_param.is_shared, by then) this rank updates its share, and holds slots and master of that alone.
 *  @param groups  [n_groups], copied
 *  @return HX_ERR_CONFIG: numbers out of range, a parameter in two places, Nesterov without momentum or with
 *          dampening; HX_ERR_DTYPE: a parameter that is not of a floating type */
hx_status hx_optim_create(hx_device *device, hx_stream *stream, const hx_param_group *groups, int n_groups,
                          const hx_optim_config *config, hx_optim **out);
/** The usual two groups: parameters that decay and those that do not. */
hx_status hx_optim_create_default(hx_device *device, hx_stream *stream, const hx_param_list *params,
                                  const hx_optim_config *config, hx_optim **out);
void hx_optim_destroy(hx_optim **optim);
/** One update from hx_tensor_grad of each parameter, in one pass over memory: a parameter of half type is written beside its
 *  master. All are a batch of the stream (hx_stream_batch), which a device may launch as one.
 *  @param step  1 for the first update
 *  @param gscale  f64 scalar on the device that multiplies every gradient (1/count, clipping, loss scale), NULL: 1
 *  @return HX_ERR_STATE names a parameter without a gradient */
hx_status hx_optim_step(hx_optim *optim, hx_ctx *ctx, int64_t step, double lr, hx_tensor *gscale);
/** Append the state to a list; data are borrowed from the optimizer. "/optim/<slot>/<name>", with the slots
 *      adamw, adam: m, v     sgd: momentum     rmsprop: v, mean (centered), momentum     lion: m
 *  as far as they are kept, and master for parameters of half type.
 *  @param ranks  which ranks hold the same, see hx_agreement_copies; NULL: one process */
hx_status hx_optim_state(hx_optim *optim, const hx_agreement *ranks, hx_state_list *list);
/** The same for parameters, or buffers: "/model/<name>". */
hx_status hx_params_state(const hx_param_list *params, const hx_agreement *ranks, hx_state_list *list);

/* ---- clipping; frozen parameters are left out ---- */

/** The p of config->clip_norm_type: 2, 1 or HUGE_VAL. */
double hx_clip_norm_p(const hx_optim_config *config);
/** This rank's part of the norm of all gradients: sum |g|^p, or max |g| for p = HUGE_VAL, in a fixed order. Parts of
 *  sharded gradients are added (their maximum taken) over ranks before hx_grad_norm_of_part.
 *  @param p  1, 2 or HUGE_VAL
 *  @param out  f64 scalar on the device, overwritten
 *  @return HX_ERR_STATE names a parameter without a gradient */
hx_status hx_grad_norm_part(hx_ctx *ctx, const hx_param_list *params, double p, hx_tensor *out);
/** The same in blocks of HX_NORM_BLOCK elements, counted from the begin of what this rank updates of each parameter: of params[i]
 *  to places[i], f64 [n_blocks] (op norm_blocks). Each block's bits depend on its elements alone, so that the parts, added in one
 *  order, have the same bits however parameters are shared out at multiples of a block.
 *  @param places  [params->n_items] on the device, overwritten; NULL: that parameter is left out
 *  @return HX_ERR_STATE names a parameter without a gradient; HX_ERR_SHAPE: a place of another size */
hx_status hx_grad_norm_blocks(hx_ctx *ctx, const hx_param_list *params, double p, hx_tensor *const *places);
/** All of them joined, from the first to the last: the part of hx_grad_norm_of_part. NaN stays. */
double hx_grad_norm_join(double p, const double *blocks, int64_t n);
/** part^(1/p); the part itself for p = HUGE_VAL. */
double hx_grad_norm_of_part(double p, double part);
/** What gradients of that norm are multiplied with: most/(norm + 1e-6) if norm > most, else 1. */
double hx_clip_factor(double norm, double most);
/** Scale the gradients in place so that their global p-norm is at most `most`; waits for the stream.
 *  @param[out] norm  as it was before; may be NULL
 *  @return HX_ERR_NUMERIC if it is not finite: the gradients are left as they are */
hx_status hx_clip_grad_norm(hx_ctx *ctx, const hx_param_list *params, double most, double p, double *norm);
/** Limit the gradients' elements to -most .. most, in place; NaN stays. */
hx_status hx_clip_grad_value(hx_ctx *ctx, const hx_param_list *params, double most);

/* ---- the configured schedule (core/optim/schedule.h has the parts) ---- */

typedef enum hx_lr_kind { HX_LR_COSINE, HX_LR_CONSTANT, HX_LR_LINEAR, HX_LR_STEP, HX_LR_EXPONENTIAL, HX_LR_PLATEAU, HX_LR_COUNT } hx_lr_kind;

/** Learning rate of update `step` (1 = first) of `n_steps`: linear warm-up lr*step/warmup, then the schedule.
 *  With t = step - 1 - warmup and length = n_steps - warmup, low = lr min_lr_ratio:
 *      cosine       low + (lr - low) (1 + cos(pi t / length)) / 2, and low from t = length on
 *      linear       lr + (low - lr) t / length, and low from t = length on
 *      step         lr gamma^floor(t / decay_every)
 *      exponential  lr gamma^(t / decay_every)
 *      constant, plateau  lr; a plateau's falls are a state of their own: hx_plateau
 *  so that without warm-up update 1 has t = 0 and the full rate.
 *  A pure function. @return HX_ERR_CONFIG if n_steps < 1 for a schedule that needs it */
hx_status hx_schedule_lr(const hx_optim_config *config, int64_t step, int64_t n_steps, double *lr);

#ifdef __cplusplus
}
#endif
#endif
