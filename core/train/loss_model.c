#include "core/train/loss_model.h"

hx_status hx_loss_model_loss_scores(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                                    hx_tensor **count, hx_tensor **scores) {
    const hx_loss_model *model = self;
    HX_AUTO_TENSOR output = NULL;
    HX_TRY(hx_layer_forward(model->layer, ctx, batch->input, &output));
    HX_TRY(hx_loss_sums(ctx, &model->loss, output, batch->target, loss_sum, count));
    *scores = hx_tensor_move(&output);
    return HX_OK;
}

hx_status hx_loss_model_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                             hx_tensor **count) {
    HX_AUTO_TENSOR scores = NULL;
    return hx_loss_model_loss_scores(self, ctx, batch, loss_sum, count, &scores);
}

hx_model hx_loss_model_as_model(hx_loss_model *model) {
    return (hx_model){.self = model,
                      .root = model->layer,
                      .loss = hx_loss_model_loss,
                      .loss_scores = hx_loss_model_loss_scores};
}
