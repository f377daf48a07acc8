#include "core/nn/shard.h"
#include "core/train/trainer.h"

/* @param[out] logits  [B,T,vocab], or of a GPT that is cut the rank's [B,T,vocab/size] */
static hx_status lm_loss(hx_layer *layer, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count, hx_tensor **logits) {
    const hx_shard *shard = hx_gpt_shard(layer);
    HX_TRY(hx_layer_forward(layer, ctx, batch->input, logits));
    if (shard == NULL) return hx_cross_entropy(ctx, *logits, batch->target, HX_IGNORE_INDEX, loss_sum, count);
    return hx_shard_cross_entropy(shard, ctx, *logits, batch->target, HX_IGNORE_INDEX, loss_sum, count);
}

hx_status hx_lm_loss_scores(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count, hx_tensor **scores) {
    HX_AUTO_TENSOR logits = NULL;
    if (hx_gpt_shard(self) != NULL)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "scores of a GPT whose vocabulary is dealt out over %d ranks: no rank has whole rows", hx_gpt_shard(self)->size);
    HX_TRY(lm_loss(self, ctx, batch, loss_sum, count, &logits));
    *scores = hx_tensor_move(&logits);
    return HX_OK;
}

hx_status hx_lm_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count) {
    HX_AUTO_TENSOR logits = NULL;
    return lm_loss(self, ctx, batch, loss_sum, count, &logits);
}
