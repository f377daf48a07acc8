#include "core/train/trainer.h"

hx_status hx_lm_loss_scores(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                            hx_tensor **count, hx_tensor **scores) {
    HX_AUTO_TENSOR logits = NULL; /* [B,T,vocab] */
    HX_TRY(hx_layer_forward(self, ctx, batch->input, &logits));
    HX_TRY(hx_cross_entropy(ctx, logits, batch->target, HX_IGNORE_INDEX, loss_sum, count));
    *scores = hx_tensor_move(&logits);
    return HX_OK;
}

hx_status hx_lm_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum,
                     hx_tensor **count) {
    HX_AUTO_TENSOR scores = NULL;
    return hx_lm_loss_scores(self, ctx, batch, loss_sum, count, &scores);
}
