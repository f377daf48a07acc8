/* A layer and a configured loss as an hx_model: the input of a batch goes through the layer, what comes out
 * is compared with the batch's target.
 *
 *     hx_loss_model m = {.layer = net, .loss = HX_LOSS_DEFAULT};
 *     setup.model = (hx_model){.self = &m, .root = net, .loss = hx_loss_model_loss};
 */
#ifndef HX_CORE_TRAIN_LOSS_MODEL_H
#define HX_CORE_TRAIN_LOSS_MODEL_H

#include "core/nn/loss.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_loss_model {
    hx_layer *layer; /* borrowed */
    hx_loss_config loss;
} hx_loss_model;

/** hx_model.loss; `self` is an hx_loss_model.
 *  @param[out] loss_sum, count  f64 scalars, as hx_loss_sums gives them */
hx_status hx_loss_model_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                             hx_tensor **count);

#ifdef __cplusplus
}
#endif
#endif
