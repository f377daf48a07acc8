/* Memory for time: the same gradients, to the bit, from a fraction of the memory. A GPT of 16 blocks is differentiated
 * twice: keeping all activations, and keeping those between segments of 4 blocks, whose inside is computed again.
 *
 *     mpirun -n 2 ./build/release/example_act_checkpoint
 */
#include <stdio.h>
#include <string.h>

#include "launch/helix.h"

enum { BATCH = 4, LAYERS = 16, SEGMENT = 4 };

typedef struct problem {
    hx_ctx *ctx;
    hx_layer *gpt;
    hx_param_list params;
    hx_tensor *ids; /* [B,T] i32: inputs and targets */
} problem;

static hx_status open_problem(hx_session *session, problem *p) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.layers = LAYERS;
    c.ctx = 64;
    c.dim = 64;
    c.heads = 4;
    c.dropout = 0.1; /* its masks repeat when a segment is computed again */
    int32_t ids[BATCH * 64];
    const hx_rng rng = {.seed = 3, .stream = hx_rng_stream(HX_RNG_USER, (uint64_t)hx_comm_rank(hx_session_world(session)))};
    for (int i = 0; i < BATCH * 64; i++) ids[i] = (int32_t)(256 * hx_rng_uniform(rng, (uint64_t)i));
    p->ctx = hx_session_ctx(session);
    HX_TRY(hx_gpt_create(p->ctx->device, &c, &p->gpt));
    HX_TRY(hx_gpt_init(p->gpt, p->ctx->stream, 1));
    HX_TRY(hx_layer_params(p->gpt, &p->params));
    HX_TRY(hx_tensor_create(p->ctx->device, HX_I32, HX_SHAPE(BATCH, c.ctx), &p->ids));
    return hx_tensor_write(p->ctx->stream, p->ids, ids);
}

static void close_problem(problem *p) {
    hx_tensor_destroy(&p->ids);
    hx_param_list_destroy(&p->params);
    hx_layer_destroy(&p->gpt);
}

/* Loss and gradients. @param[out] peak  bytes above those that were there before */
static hx_status differentiate(problem *p, int64_t *peak) {
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    const hx_batch batch = {.input = p->ids, .target = p->ids, .n_samples = BATCH};
    hx_device_stats before, after;
    for (int64_t i = 0; i < p->params.n_items; i++) hx_tensor_grad_reset(p->params.items[i]->value);
    hx_device_stats_reset_peak(p->ctx->device);
    hx_device_stats_get(p->ctx->device, &before);
    HX_TRY(hx_lm_loss(p->gpt, p->ctx, &batch, &loss, &count));
    HX_TRY(hx_backward(p->ctx, loss, NULL));
    HX_TRY(hx_stream_sync(p->ctx->stream));
    hx_device_stats_get(p->ctx->device, &after);
    *peak = after.peak_bytes - before.live_bytes;
    return HX_OK;
}

/* All gradients, one after the other. @param[out] out  free with hx_mem_free */
static hx_status copy_gradients(problem *p, void **out, size_t *n_bytes) {
    unsigned char *all;
    hx_status status = HX_OK;
    size_t at = 0, n = 0;
    for (int64_t i = 0; i < p->params.n_items; i++) n += hx_tensor_bytes(p->params.items[i]->value);
    HX_TRY(hx_mem_alloc(n, (void **)&all));
    for (int64_t i = 0; status == HX_OK && i < p->params.n_items; i++) {
        status = hx_tensor_read(p->ctx->stream, hx_tensor_grad(p->params.items[i]->value), all + at);
        at += hx_tensor_bytes(p->params.items[i]->value);
    }
    if (status != HX_OK) {
        hx_mem_free((void **)&all);
        return status;
    }
    *out = all;
    *n_bytes = n;
    return HX_OK;
}

static hx_status compare(hx_session *session, problem *p) {
    void *plain = NULL, *again = NULL;
    size_t n_bytes;
    int64_t peak, less;
    hx_status status = HX_OK;
    HX_TRY_GOTO(differentiate(p, &peak), done); /* makes the gradients' memory, which is none of activations' */
    HX_TRY_GOTO(differentiate(p, &peak), done);
    HX_TRY_GOTO(copy_gradients(p, &plain, &n_bytes), done);
    HX_TRY_GOTO(hx_recompute_apply(hx_layer_find(p->gpt, "blocks"), &(hx_recompute_config){.every_n = SEGMENT}, NULL, NULL, NULL), done);
    HX_TRY_GOTO(differentiate(p, &less), done);
    HX_TRY_GOTO(copy_gradients(p, &again, &n_bytes), done);
    if (hx_comm_rank(hx_session_world(session)) == 0)
        printf("%d blocks: %lld bytes at the peak keeping all, %lld in segments of %d: %.2f times\n", LAYERS, (long long)peak,
               (long long)less, SEGMENT, (double)less / (double)peak);
    if (memcmp(plain, again, n_bytes) != 0)
        status = HX_FAIL(HX_ERR_NUMERIC, "the gradients have other bits: expected the same");
    else if (less > peak / 2)
        status = HX_FAIL(HX_ERR_NUMERIC, "%lld of %lld bytes: expected at most half", (long long)less, (long long)peak);
done:
    hx_mem_free(&again);
    hx_mem_free(&plain);
    return status;
}

static hx_status run(hx_session **session) {
    hx_config config = HX_CONFIG_DEFAULT;
    problem p = {.params = {0}};
    HX_TRY(hx_session_open(&config, session));
    hx_status status = open_problem(*session, &p);
    if (status == HX_OK) status = compare(*session, &p);
    close_problem(&p);
    return status;
}

int main(void) {
    hx_session *session = NULL;
    hx_status status = run(&session);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    hx_session_close(&session);
    return hx_status_exit_code(status);
}
