#include "core/train/loss_model.h"

hx_status hx_loss_model_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                             hx_tensor **count) {
    const hx_loss_model *model = self;
    HX_AUTO_TENSOR output = NULL;
    HX_TRY(hx_layer_forward(model->layer, ctx, batch->input, &output));
    return hx_loss_sums(ctx, &model->loss, output, batch->target, loss_sum, count);
}
