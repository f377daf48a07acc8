/* Which activations a training of the configured GPT computes again: the policies that need the whole model, or the
 * size of a batch (core/nn/recompute.h has the rules). */
#include "core/nn/recompute.h"

#include <string.h>

#include "launch/session_impl.h"

/* The most samples that a rank computes at once. */
static int64_t largest_micro_batch(const hx_session *s) {
    const int64_t n_ranks = hx_comm_size(hx_mesh_axis(s->mesh, HX_AXIS_DP)), micro = s->config.train.micro_batch;
    const int64_t share = (s->config.train.batch + n_ranks - 1) / n_ranks;
    return micro > 0 && micro < share ? micro : share;
}

/* On a meta device, which counts the bytes of each block without computing or holding them: a model that needs a
 * budget may not fit without. */
static hx_status plan(const hx_session *s, const hx_recompute_config *policy, hx_recompute_report *report) {
    const hx_gpt_config *model = &s->config.model;
    hx_device *meta = NULL;
    hx_stream *stream = NULL;
    hx_layer *gpt = NULL;
    hx_tensor *x = NULL; /* [B,ctx,dim] */
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_device_open("meta", NULL, &meta), done);
    HX_TRY_GOTO(hx_stream_create(meta, &stream), done);
    HX_TRY_GOTO(hx_gpt_create(meta, model, &gpt), done);
    const hx_dtype dtype = hx_tensor_dtype(hx_layer_find(gpt, "tok")->params[0]->value);
    const hx_ctx ctx = {.device = meta, .stream = stream, .training = true};
    HX_TRY_GOTO(hx_tensor_create(meta, dtype, HX_SHAPE(largest_micro_batch(s), model->ctx, model->dim), &x), done);
    HX_TRY_GOTO(hx_recompute_apply(hx_layer_find(gpt, "blocks"), policy, &ctx, x, report), done);
done:
    hx_tensor_destroy(&x);
    hx_layer_destroy(&gpt);
    hx_stream_destroy(&stream);
    hx_device_close(&meta);
    return status;
}

hx_status hx__session_recompute(const hx_session *s, hx_layer *root, hx_recompute_report *report) {
    const hx_gpt_config *c = &s->config.model;
    hx_recompute_report none = {0};
    hx_word_list layers;
    HX_TRY(hx_word_list_of(c->recompute_layers, &layers));
    const hx_recompute_config policy = {.every_n = c->recompute, .layers = layers.items, .n_layers = layers.n,
                                        .budget_bytes = c->recompute_budget_mb * 1000000};
    *report = none;
    if (policy.n_layers == 0 && policy.budget_bytes == 0 && policy.every_n == 0) return HX_OK;
    if (strcmp(root->type->name, "gpt") != 0) {
        if (policy.n_layers == 0 && policy.budget_bytes == 0) return HX_OK; /* a number of blocks is the GPT's alone */
        return HX_FAIL(HX_ERR_CONFIG, "model.%s with a model of type %s: expected the GPT of the configuration; see hx_recompute_apply",
                       policy.n_layers > 0 ? "recompute_layers" : "recompute_budget_mb", root->type->name);
    }
    hx_layer *blocks = hx_layer_find(root, "blocks");
    if (policy.budget_bytes > 0 && s->tp)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "model.recompute_budget_mb with mesh.tp: expected model.recompute or model.recompute_layers");
    if (policy.budget_bytes == 0 || policy.every_n > 0 || policy.n_layers > 0)
        return hx_recompute_apply(blocks, &policy, NULL, NULL, report);
    HX_TRY(plan(s, &policy, report));
    for (int64_t i = 0; i < report->n_recomputed; i++) hx_layer_set_recompute(blocks->children[i], true);
    return HX_OK;
}
