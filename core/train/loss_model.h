/* A layer and a configured loss as an hx_model: the input of a batch goes through the layer, what comes out
 * is compared with the batch's target, and is what metrics score.
 *
 *     hx_loss_model m = {.layer = net, .loss = HX_LOSS_DEFAULT};
 *     hx_model model = hx_loss_model_as_model(&m);
 *     HX_TRY(hx_session_train(session, &model, &(hx_train_parts){.train = &source, .eval = &held, .metrics = metrics}));
 */
#ifndef HX_CORE_TRAIN_LOSS_MODEL_H
#define HX_CORE_TRAIN_LOSS_MODEL_H

#include "core/nn/loss.h"
#include "core/train/trainer.h"

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
/** hx_model.loss_scores; the same. @param[out] scores  the layer's output, in its dtype */
hx_status hx_loss_model_loss_scores(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                                    hx_tensor **count, hx_tensor **scores);
/** All of it for a trainer; borrows `model`, which must stay where it is. */
hx_model hx_loss_model_as_model(hx_loss_model *model);

#ifdef __cplusplus
}
#endif
#endif
