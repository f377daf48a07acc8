/* A training step in its steady state makes no heap allocation. The linker sends every allocation of Helix's objects
 * through the counters below (see tests.cmake), so this counts malloc itself, not what an arena says. */
#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "io/data/data.h"

static atomic_int n_calls;

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);

void *__wrap_malloc(size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_calls, 1);
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_realloc(p, n);
}

void *__wrap_aligned_alloc(size_t align, size_t n) {
    atomic_fetch_add(&n_calls, 1);
    return __real_aligned_alloc(align, n);
}

#define OK(call) cr_assert_eq((call), HX_OK, "%s: %s\n%s", #call, hx_error_message(), hx_error_trace())

Test(steady_state, the_cpu_backend_allocates_nothing_after_two_steps) {
    hx_device *dev;
    hx_stream *stream;
    hx_tape *tape;
    hx_comm *comm;
    hx_layer *gpt;
    hx_param_list params = {0};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 2}, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    OK(hx_comm_self_open(&comm));
    hx_gpt_config gc = HX_GPT_DEFAULT;
    gc.ctx = 16;
    gc.dim = 24;
    gc.layers = 2;
    gc.heads = 3;
    gc.dropout = 0.1;
    OK(hx_gpt_create(dev, &gc, &gpt));
    OK(hx_gpt_init(gpt, stream, 42));
    OK(hx_layer_params(gpt, &params));
    hx_ddp_config dc = HX_DDP_DEFAULT;
    hx_ddp *ddp;
    OK(hx_ddp_create(comm, dev, stream, &params, &dc, &ddp));
    hx_optim_config oc = HX_OPTIM_DEFAULT;
    hx_optim *optim;
    OK(hx_adamw_create_default(dev, stream, &params, &oc, &optim));
    hx_corpus *corpus;
    OK(hx_corpus_open(__FILE__, &corpus));
    int64_t n_bytes;
    hx_corpus_bytes(corpus, &n_bytes);
    hx_loader_config lc = {.end = n_bytes, .ctx = gc.ctx, .batch = 6, .micro_batch = 4, .shuffle = true, .seed = 1, .size = 1};
    hx_loader *loader;
    OK(hx_loader_create(dev, corpus, &lc, &loader));
    hx_batch_source source;
    hx_loader_source(loader, &source);
    hx_agreement agreement;
    hx_comm_agreement(comm, &agreement);
    hx_grad_sync sync;
    hx_ddp_hook(ddp, &sync);
    hx_train_config tc = HX_TRAIN_DEFAULT;
    tc.steps = 100;
    tc.batch = 6;
    tc.micro_batch = 4;
    hx_trainer_setup setup = {.ctx = {.device = dev, .stream = stream, .tape = tape},
                              .model = {.self = gpt, .root = gpt, .loss = hx_lm_loss},
                              .optim = optim,
                              .optim_config = &oc,
                              .config = &tc,
                              .train = &source,
                              .agreement = &agreement,
                              .sync = &sync};
    hx_trainer *trainer;
    OK(hx_trainer_create(&setup, &trainer));
    int before_first = atomic_load(&n_calls);
    for (int i = 0; i < 2; i++) OK(hx_trainer_step(trainer, NULL));
    int before = atomic_load(&n_calls);
    cr_assert_gt(before, before_first, "the counters are not linked in");
    for (int i = 0; i < 5; i++) OK(hx_trainer_step(trainer, NULL));
    int made = atomic_load(&n_calls) - before;
    cr_assert_eq(made, 0, "%d allocations in five steps", made);
    hx_trainer_destroy(&trainer);
    hx_loader_destroy(&loader);
    hx_corpus_close(&corpus);
    hx_optim_destroy(&optim);
    hx_ddp_destroy(&ddp);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&gpt);
    hx_comm_close(&comm);
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
}
