/* Optimizers, gradient clipping and schedules.
 *
 *     hx_optim *opt; HX_TRY(hx_adamw_create_default(dev, stream, &params, &cfg, &opt));
 *     HX_TRY(hx_optim_step(opt, &ctx, step, lr, gscale));   // gscale: f64 device scalar, or NULL
 */
#ifndef HX_CORE_OPTIM_OPTIM_H
#define HX_CORE_OPTIM_OPTIM_H

#include "core/base/options.h"
#include "core/nn/layer.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_OPTIM_OPTIONS(X)                                                                                  \
    X(REAL, lr, 1e-3, 0, 1e3, "peak learning rate")                                                          \
    X(REAL, beta1, 0.9, 0, 0.999999, "decay of the first moment")                                            \
    X(REAL, beta2, 0.95, 0, 0.9999999, "decay of the second moment")                                         \
    X(REAL, eps, 1e-8, 0, 1, "added to the root of the second moment")                                       \
    X(REAL, weight_decay, 0.1, 0, 1e3, "decoupled weight decay; matrices only")                              \
    X(REAL, clip, 1.0, 0, 1e30, "largest global gradient norm; 0 does not clip")                             \
    X(CHOICE, schedule, 0, "cosine|constant", 0, "learning rate after the warm-up")                          \
    X(INT, warmup, 20, 0, 1 << 30, "steps of linear warm-up")                                                \
    X(REAL, min_lr_ratio, 0.1, 0, 1, "the cosine ends at lr times this")

HX_OPTIONS_STRUCT(hx_optim_config, HX_OPTIM_OPTIONS);
#define HX_OPTIM_DEFAULT HX_OPTIONS_DEFAULT(HX_OPTIM_OPTIONS)
extern const hx_option hx_optim_options[];
extern const int hx_optim_n_options;

/* Parameters that share hyperparameters. */
typedef struct hx_param_group {
    hx_param **params; /* borrowed pointers, copied array */
    int64_t n_params;
    double lr_scale;     /* multiplies the scheduled learning rate */
    double weight_decay;
} hx_param_group;

typedef struct hx_optim hx_optim;

/** AdamW (Loshchilov & Hutter 2019, algorithm 2): decoupled decay, bias-corrected moments, PyTorch's semantics.
 *  Moments are zeroed tensors of each parameter's shape. Frozen parameters are left out.
 *  @param groups  [n_groups], copied */
hx_status hx_adamw_create(hx_device *device, hx_stream *stream, const hx_param_group *groups, int n_groups,
                          const hx_optim_config *config, hx_optim **out);
/** The usual two groups: parameters that decay and those that do not. */
hx_status hx_adamw_create_default(hx_device *device, hx_stream *stream, const hx_param_list *params,
                                  const hx_optim_config *config, hx_optim **out);
void hx_optim_destroy(hx_optim **optim);
/** One update from hx_tensor_grad of each parameter. @param step  1 for the first update
 *  @param gscale  f64 scalar on the device that multiplies every gradient (1/count, clipping), NULL: 1
 *  @return HX_ERR_STATE names a parameter without a gradient */
hx_status hx_optim_step(hx_optim *optim, hx_ctx *ctx, int64_t step, double lr, hx_tensor *gscale);
/** Append the state ("/optim/m/<name>", "/optim/v/<name>") to a list; data are borrowed from the optimizer.
 *  @param replica, n_replicas  copied into the items */
hx_status hx_optim_state(hx_optim *optim, int replica, int n_replicas, hx_state_list *list);
/** The same for parameters: "/model/<name>". */
hx_status hx_params_state(const hx_param_list *params, int replica, int n_replicas, hx_state_list *list);

/** Learning rate of update `step` (1 = first) of `n_steps`: linear warm-up lr*step/warmup, then the schedule.
 *  Cosine: with t = step - 1 - warmup and length = n_steps - warmup,
 *      lr(t) = low + (lr - low) (1 + cos(pi t / length)) / 2,  low = lr min_lr_ratio,  and low from t = length on,
 *  so that without warm-up update 1 has t = 0 and the full rate.
 *  A pure function. @return HX_ERR_CONFIG if n_steps < 1 for a schedule that needs it */
hx_status hx_schedule_lr(const hx_optim_config *config, int64_t step, int64_t n_steps, double *lr);
/** Sum of squares of all gradients into `out` (f64 scalar on the device), in a fixed order. */
hx_status hx_grad_sumsq(hx_ctx *ctx, const hx_param_list *params, hx_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
