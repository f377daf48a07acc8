/* Dynamic loss scaling for training in f16 (Micikevicius et al. 2018): the loss is multiplied by `scale` before
 * backward, so that small gradients do not vanish, and gradients are divided by it in the update. A state machine
 * without side effects; bf16 needs none. Between steps and in checkpoints its state is hx_train_state's loss_scale and
 * n_clean.
 *
 *     hx_scaler scaler = HX_SCALER_START;
 *     ... backward of scaler.scale * loss; is_finite agreed on by all ranks; gscale = 1 / (count * scaler.scale) ...
 *     if (is_finite) update();
 *     hx_scaler_update(&scaler, is_finite);
 */
#ifndef HX_CORE_OPTIM_SCALER_H
#define HX_CORE_OPTIM_SCALER_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_SCALER_LEAST     1.0
#define HX_SCALER_MOST      16777216.0 /* 2^24 */
#define HX_SCALER_N_CLEAN   2000       /* clean steps before the scale grows */

typedef struct hx_scaler {
    double scale;    /* a power of two: multiplying by it is exact */
    int64_t n_clean; /* steps with finite gradients since the scale last changed */
} hx_scaler;
#define HX_SCALER_START {.scale = 65536, .n_clean = 0}

/** After a step. Gradients that were not finite, on whatever rank, halve the scale at once (the caller leaves the
 *  update out); HX_SCALER_N_CLEAN clean steps in a row double it. It stays within HX_SCALER_LEAST .. HX_SCALER_MOST. */
void hx_scaler_update(hx_scaler *scaler, bool is_finite);

#ifdef __cplusplus
}
#endif
#endif
