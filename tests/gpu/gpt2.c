/* Tokens per second of training GPT-2 124M through the trainer: loader, forward, backward, clipping, AdamW, and the loss
 * on the host after each step. torch_gpt2.py does the same in PyTorch.
 *
 *     gpu_gpt2 --device=cuda --train.batch=64 [--train.micro_batch=16] [any option of helix train]
 *
 * takes the options of `helix train` over the sizes below, leaves out the first WARM_UP steps, and prints one line:
 *     {"framework": "helix", "batch": 64, "micro_batch": 64, "ms": 118.2, "tokens_per_s": 554484.1, "loss": 10.8, ...}
 * If the device's memory is too small for a micro-batch, it is halved until it fits. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "core/autograd/tape.h"
#include "core/base/mem.h"
#include "launch/helix.h"

#define WARM_UP   5
#define N_SAMPLES 256 /* another batch each step */

typedef struct bench {
    hx_session *session;
    hx_model model;
    hx_param_list params;
    hx_optim *optim;
    int32_t *inputs, *targets; /* [N_SAMPLES, ctx]; owned */
    hx_dataset *data;
    hx_batch_source source;
    hx_trainer *trainer;
    double *seconds; /* [steps]; owned */
    int64_t n_seconds;
    double loss;
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void set_gpt2(hx_config *c) {
    c->model.vocab = 50304; /* 50257, padded to a multiple of 128 */
    c->model.ctx = 1024;
    c->model.layers = 12;
    c->model.dim = 768;
    c->model.heads = 12;
    c->model.dtype = 2; /* bf16 */
    c->train.batch = 64;
    c->train.steps = 25;
    c->optim.lr = 6e-4;
    c->optim.beta2 = 0.95;
    c->optim.weight_decay = 0.1;
}

/* Ids as random as those of a text are not: each row of the embedding is used. */
static hx_status make_samples(bench *b) {
    const hx_config *c = hx_session_config(b->session);
    const hx_rng rng = {.seed = 1, .stream = HX_RNG_USER};
    const int64_t ctx = c->model.ctx, n = N_SAMPLES * ctx;
    HX_TRY(hx_mem_alloc_array(n, sizeof *b->inputs, (void **)&b->inputs));
    HX_TRY(hx_mem_alloc_array(n, sizeof *b->targets, (void **)&b->targets));
    for (int64_t i = 0; i < n; i++) {
        b->inputs[i] = (int32_t)(hx_rng_uniform(rng, (uint64_t)i) * (double)c->model.vocab);
        b->targets[i] = (int32_t)(hx_rng_uniform(rng, (uint64_t)i + 1) * (double)c->model.vocab);
    }
    return HX_OK;
}

static void close_run(bench *b) {
    hx_trainer_destroy(&b->trainer);
    hx_dataset_destroy(&b->data);
    hx_optim_destroy(&b->optim);
    hx_param_list_destroy(&b->params);
    hx_layer_destroy(&b->model.root);
}

static hx_status open_run(bench *b, hx_train_config *train) {
    const hx_config *c = hx_session_config(b->session);
    const hx_ctx *ctx = hx_session_ctx(b->session);
    const hx_shape shape = HX_SHAPE(N_SAMPLES, c->model.ctx);
    const hx_host_array input = {HX_I32, shape, b->inputs}, target = {HX_I32, shape, b->targets};
    const hx_sampler sampler = {.batch = train->batch, .micro_batch = train->micro_batch, .last = HX_LAST_JOIN, .size = 1};
    HX_TRY(hx_session_gpt(b->session, &b->model));
    HX_TRY(hx_layer_params(b->model.root, &b->params));
    HX_TRY(hx_optim_create_default(ctx->device, ctx->stream, &b->params, &c->optim, &b->optim));
    HX_TRY(hx_dataset_create(ctx->device, &input, &target, &sampler, &b->data));
    hx_dataset_source(b->data, &b->source);
    const hx_trainer_setup setup = {.ctx = *ctx,
                                    .model = b->model,
                                    .optim = b->optim,
                                    .optim_config = &c->optim,
                                    .config = train,
                                    .train = &b->source};
    return hx_trainer_create(&setup, &b->trainer);
}

static hx_status run_steps(bench *b) {
    const int64_t n = hx_trainer_n_steps(b->trainer);
    hx_train_event event;
    b->n_seconds = 0;
    for (int64_t i = 0; i < n; i++) {
        const double began = now();
        HX_TRY(hx_trainer_step(b->trainer, &event));
        if (i >= WARM_UP) b->seconds[b->n_seconds++] = now() - began;
    }
    b->loss = event.loss;
    return hx_stream_sync(hx_session_ctx(b->session)->stream);
}

/* @param[out] fits  false: the device's memory is too small */
static hx_status try_run(bench *b, hx_train_config *train, bool *fits) {
    hx_status status = open_run(b, train);
    if (status == HX_OK) status = run_steps(b);
    *fits = status != HX_ERR_MEMORY;
    if (status != HX_OK) close_run(b);
    return *fits ? status : HX_OK;
}

static hx_status measure(bench *b) {
    hx_train_config train = hx_session_config(b->session)->train;
    bool fits = false;
    if (train.steps <= WARM_UP)
        return HX_FAIL(HX_ERR_CONFIG, "steps = %lld: expected more than the %d of the warm-up", (long long)train.steps, WARM_UP);
    if (train.micro_batch == 0) train.micro_batch = train.batch;
    HX_TRY(hx_mem_alloc_array(train.steps, sizeof *b->seconds, (void **)&b->seconds));
    HX_TRY(make_samples(b));
    for (;; train.micro_batch /= 2) {
        HX_TRY(try_run(b, &train, &fits));
        if (fits) break;
        hx_device_trim(hx_session_ctx(b->session)->device);
        if (train.micro_batch == 1) return HX_FAIL(HX_ERR_MEMORY, "not even one sample fits");
    }
    const hx_config *c = hx_session_config(b->session);
    hx_device_stats stats;
    hx_device_props props;
    hx_device_stats_get(hx_session_ctx(b->session)->device, &stats);
    hx_device_props_get(hx_session_ctx(b->session)->device, &props);
    qsort(b->seconds, (size_t)b->n_seconds, sizeof *b->seconds, compare);
    const double median = b->seconds[b->n_seconds / 2];
    printf("{\"framework\": \"helix\", \"device\": \"%s\", \"batch\": %lld, \"micro_batch\": %lld, \"ms\": %.3f, "
           "\"tokens_per_s\": %.1f, \"loss\": %.5f, \"peak_bytes\": %lld}\n",
           props.name, (long long)train.batch, (long long)train.micro_batch, 1e3 * median,
           (double)(train.batch * c->model.ctx) / median, b->loss, (long long)stats.peak_bytes);
    close_run(b);
    return HX_OK;
}

static hx_status run(int argc, char **argv, bench *b) {
    hx_config config = HX_CONFIG_DEFAULT;
    set_gpt2(&config);
    HX_TRY(hx_config_read(&config, NULL, argc - 1, argv + 1, NULL));
    HX_TRY(hx_session_open(&config, &b->session));
    return measure(b);
}

int main(int argc, char **argv) {
    bench b = {0};
    hx_status status = run(argc, argv, &b);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    hx_mem_free((void **)&b.inputs);
    hx_mem_free((void **)&b.targets);
    hx_mem_free((void **)&b.seconds);
    hx_session_close(&b.session);
    return hx_status_exit_code(status);
}
