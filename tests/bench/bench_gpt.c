/* Tokens per second of training a small GPT: forward, backward and AdamW on one batch that stays the same, so that
 * nothing but the computation is timed. tests/bench/bench_gpt.py does the same in PyTorch.
 *
 *     bench_gpt [threads] [steps]
 *
 * prints the median over the steps, after two that warm up:  helix tokens_per_s 1234.5 loss 5.43
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/optim/optim.h"

enum { BATCH = 8, CONTEXT = 256, VOCAB = 256, LAYERS = 6, DIM = 384, HEADS = 6, WARM_UP = 2, MAX_STEPS = 1000 };

typedef struct bench {
    hx_ctx ctx;
    hx_layer *gpt;
    hx_param_list params;
    hx_optim *optim;
    hx_tensor *ids, *targets, *gscale;
    double loss; /* mean of the last step */
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ids[i] = i (i + first) mod 256: no two rows alike */
static hx_status make_ids(hx_ctx *ctx, int64_t first, hx_tensor **out) {
    HX_TRY(hx_tensor_create(ctx->device, HX_I32, HX_SHAPE(BATCH, CONTEXT), out));
    static int32_t ids[BATCH * CONTEXT];
    for (int64_t i = 0; i < BATCH * CONTEXT; i++) ids[i] = (int32_t)((i + first) * (i + first + 7) / 3 % VOCAB);
    return hx_tensor_write(ctx->stream, *out, ids);
}

static hx_status setup(bench *b, int n_threads) {
    hx_gpt_config gpt = HX_GPT_DEFAULT;
    gpt.vocab = VOCAB;
    gpt.ctx = CONTEXT;
    gpt.layers = LAYERS;
    gpt.dim = DIM;
    gpt.heads = HEADS;
    hx_optim_config optim = HX_OPTIM_DEFAULT;
    optim.beta2 = 0.95;
    optim.weight_decay = 0.1;
    HX_TRY(hx_backend_register(&hx_backend_cpu));
    HX_TRY(hx_device_open("cpu", &(hx_device_config){.n_threads = n_threads}, &b->ctx.device));
    HX_TRY(hx_stream_create(b->ctx.device, &b->ctx.stream));
    HX_TRY(hx_tape_create(b->ctx.device, &b->ctx.tape));
    b->ctx.training = true;
    HX_TRY(hx_gpt_create(b->ctx.device, &gpt, &b->gpt));
    HX_TRY(hx_gpt_init(b->gpt, b->ctx.stream, 1));
    HX_TRY(hx_layer_params(b->gpt, &b->params));
    HX_TRY(hx_optim_create_default(b->ctx.device, b->ctx.stream, &b->params, &optim, &b->optim));
    HX_TRY(make_ids(&b->ctx, 0, &b->ids));
    HX_TRY(make_ids(&b->ctx, 1, &b->targets));
    HX_TRY(hx_tensor_create(b->ctx.device, HX_F64, HX_SCALAR, &b->gscale));
    return hx_tensor_fill(b->ctx.stream, b->gscale, 1.0 / (BATCH * CONTEXT));
}

static void teardown(bench *b) {
    hx_tensor_destroy(&b->gscale);
    hx_tensor_destroy(&b->targets);
    hx_tensor_destroy(&b->ids);
    hx_optim_destroy(&b->optim);
    hx_param_list_destroy(&b->params);
    hx_layer_destroy(&b->gpt);
    hx_tape_destroy(&b->ctx.tape);
    hx_stream_destroy(&b->ctx.stream);
    hx_device_close(&b->ctx.device);
}

static hx_status step(bench *b, int64_t number) {
    HX_AUTO_TENSOR logits = NULL;
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR count = NULL;
    for (int64_t i = 0; i < b->params.n_items; i++) hx_tensor_grad_reset(b->params.items[i]->value);
    HX_TRY(hx_layer_forward(b->gpt, &b->ctx, b->ids, &logits));
    HX_TRY(hx_cross_entropy(&b->ctx, logits, b->targets, HX_IGNORE_INDEX, &loss, &count));
    HX_TRY(hx_backward(&b->ctx, loss, NULL));
    HX_TRY(hx_optim_step(b->optim, &b->ctx, number, 1e-4, b->gscale));
    HX_TRY(hx_tensor_item(b->ctx.stream, loss, &b->loss));
    b->loss /= BATCH * CONTEXT;
    return HX_OK;
}

static hx_status run(bench *b, int n_threads, int n_steps) {
    static double seconds[MAX_STEPS];
    HX_TRY(setup(b, n_threads));
    for (int i = 0; i < WARM_UP + n_steps; i++) {
        double start = now();
        HX_TRY(step(b, i + 1));
        if (i >= WARM_UP) seconds[i - WARM_UP] = now() - start;
    }
    qsort(seconds, (size_t)n_steps, sizeof *seconds, compare);
    printf("helix tokens_per_s %.1f loss %.4f\n", BATCH * CONTEXT / seconds[n_steps / 2], b->loss);
    return HX_OK;
}

int main(int argc, char **argv) {
    int n_threads = argc > 1 ? atoi(argv[1]) : 1, n_steps = argc > 2 ? atoi(argv[2]) : 5;
    if (n_steps < 1 || n_steps > MAX_STEPS) {
        fprintf(stderr, "bench_gpt: %d steps: expected 1 to %d\n", n_steps, (int)MAX_STEPS);
        return 2;
    }
    bench b = {0};
    hx_status status = run(&b, n_threads, n_steps);
    if (status != HX_OK) fprintf(stderr, "%s\n%s", hx_error_message(), hx_error_trace());
    teardown(&b);
    return hx_status_exit_code(status);
}
