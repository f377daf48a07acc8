/* Training gives the same result on any number of ranks: every rank count is compared with one process, which rank 0
 * runs by itself afterwards. Tolerances: the ranks add the same numbers in another order, so f64 agrees to some
 * thousand roundings of 1e-16; f32 to 1e-7 at once, amplified by Adam, which divides by a root that may be small. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "io/data/data.h"

enum { STEPS = 20 };

typedef struct result {
    double loss[STEPS];
    double *params; /* all of them, as f64 */
    int64_t n_params;
    char (*names)[HX_NAME_BYTES];
    int64_t *begin; /* [n_tensors + 1] */
    int64_t n_tensors;
} result;

#define OK(call) cr_assert_eq((call), HX_OK, "%s: %s\n%s", #call, hx_error_message(), hx_error_trace())

static void read_params(hx_stream *stream, const hx_param_list *params, result *r) {
    r->n_tensors = params->n_items;
    r->names = calloc((size_t)params->n_items, sizeof *r->names);
    r->begin = calloc((size_t)params->n_items + 1, sizeof *r->begin);
    r->params = calloc((size_t)hx_param_list_count(params), sizeof *r->params);
    for (int64_t i = 0; i < params->n_items; i++) {
        hx_tensor *value = params->items[i]->value;
        int64_t n = hx_tensor_count(value), base = r->begin[i];
        void *data = malloc(hx_tensor_bytes(value) + 1);
        OK(hx_tensor_read(stream, value, data));
        for (int64_t k = 0; k < n; k++)
            r->params[base + k] = hx_tensor_dtype(value) == HX_F64 ? ((double *)data)[k] : (double)((float *)data)[k];
        free(data);
        memcpy(r->names[i], params->items[i]->path, HX_NAME_BYTES);
        r->begin[i + 1] = base + n;
    }
    r->n_params = r->begin[r->n_tensors];
}

static void free_result(result *r) {
    free(r->params);
    free(r->names);
    free(r->begin);
}

/* Twenty steps of a small GPT with dropout on this test's own source text. */
static void train(hx_comm *comm, int dtype, int64_t micro_batch, result *r) {
    hx_device *dev;
    hx_stream *stream;
    hx_tape *tape;
    OK(hx_device_open("cpu", NULL, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    hx_gpt_config gc = HX_GPT_DEFAULT;
    gc.ctx = 16;
    gc.dim = 24;
    gc.layers = 2;
    gc.heads = 3;
    gc.dropout = 0.1;
    gc.dtype = dtype;
    hx_layer *gpt;
    OK(hx_gpt_create(dev, &gc, &gpt));
    OK(hx_gpt_init(gpt, stream, 42));
    hx_param_list params = {0};
    OK(hx_layer_params(gpt, &params));
    hx_ddp_config dc = HX_DDP_DEFAULT;
    dc.bucket_bytes = 20000; /* several buckets */
    hx_ddp *ddp;
    OK(hx_ddp_create(comm, dev, stream, &params, &dc, &ddp));
    hx_optim_config oc = HX_OPTIM_DEFAULT;
    oc.lr = 1e-2;
    oc.warmup = 2;
    hx_optim *optim;
    OK(hx_adamw_create_default(dev, stream, &params, &oc, &optim));
    hx_corpus *corpus;
    OK(hx_corpus_open(__FILE__, &corpus));
    int64_t n_bytes;
    hx_corpus_bytes(corpus, &n_bytes);
    hx_loader_config lc = {.begin = 0, .end = n_bytes, .ctx = gc.ctx, .batch = 12, .micro_batch = micro_batch, .shuffle = true,
                           .seed = 42, .rank = hx_comm_rank(comm), .size = hx_comm_size(comm)};
    hx_loader *loader;
    OK(hx_loader_create(dev, corpus, &lc, &loader));
    hx_batch_source source;
    hx_loader_source(loader, &source);
    hx_agreement agreement;
    hx_comm_agreement(comm, &agreement);
    hx_grad_sync sync;
    hx_ddp_hook(ddp, &sync);
    hx_train_config tc = HX_TRAIN_DEFAULT;
    tc.steps = STEPS;
    tc.batch = 12;
    tc.micro_batch = micro_batch;
    tc.seed = 42;
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
    for (int i = 0; i < STEPS; i++) {
        hx_train_event event;
        OK(hx_trainer_step(trainer, &event));
        r->loss[i] = event.loss;
    }
    read_params(stream, &params, r);
    hx_trainer_destroy(&trainer);
    hx_loader_destroy(&loader);
    hx_corpus_close(&corpus);
    hx_optim_destroy(&optim);
    hx_ddp_destroy(&ddp);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&gpt);
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
}

static double relative(double a, double b) {
    return fabs(a - b) / fmax(1e-300, fabs(b));
}

/* The key bias has no gradient in theory (softmax does not see a shift), so Adam moves it by noise. It is the middle
 * third of the fused bias. */
static bool is_key_bias(const char *name, double position) {
    return strstr(name, "attn.bias") != NULL && position >= 1.0 / 3 && position < 2.0 / 3;
}

/* |a - b| / |b| over one parameter tensor, key biases left out */
static double tensor_distance(const result *a, const result *b, int64_t t) {
    double d = 0, n = 0, size = (double)(b->begin[t + 1] - b->begin[t]);
    for (int64_t k = b->begin[t]; k < b->begin[t + 1]; k++) {
        if (is_key_bias(b->names[t], (double)(k - b->begin[t]) / size)) continue;
        d += (a->params[k] - b->params[k]) * (a->params[k] - b->params[k]);
        n += b->params[k] * b->params[k];
    }
    return sqrt(d) / fmax(sqrt(n), 1e-12);
}

static void compare(int dtype, double first, double last, double params) {
    hx_comm *world, *self;
    result many = {.params = NULL}, one = {.params = NULL}, micro = {.params = NULL};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    train(world, dtype, 0, &many);
    train(world, dtype, 2, &micro);
    if (hx_comm_rank(world) == 0) {
        OK(hx_comm_self_open(&self));
        train(self, dtype, 0, &one);
        hx_comm_close(&self);
        for (int k = 0; k < 2; k++) {
            const result *r = k ? &micro : &many;
            cr_assert_leq(relative(r->loss[0], one.loss[0]), first, "step 1: %.17g, alone %.17g", r->loss[0], one.loss[0]);
            double worst = 0, worst_param = 0;
            for (int i = 0; i < STEPS; i++) worst = fmax(worst, relative(r->loss[i], one.loss[i]));
            cr_assert_leq(worst, last, "losses differ by %g", worst);
            for (int64_t t = 0; t < one.n_tensors; t++) {
                double d = tensor_distance(r, &one, t);
                worst_param = fmax(worst_param, d);
                cr_assert_leq(d, params, "%s differs by %g", one.names[t], d);
            }
            cr_log_info("ranks %d, micro-batch %d, %s: losses differ by %.2g, parameters by %.2g", hx_comm_size(world), k ? 2 : 0,
                        dtype ? "f64" : "f32", worst, worst_param);
        }
        cr_assert_lt(one.loss[STEPS - 1], one.loss[0] - 0.5, "nothing was learnt: %g to %g", one.loss[0], one.loss[STEPS - 1]);
        free_result(&one);
    }
    free_result(&many);
    free_result(&micro);
    hx_comm_close(&world);
}

Test(train, twenty_steps_in_f64_equal_one_process) {
    compare(1, 1e-9, 1e-9, 1e-9);
}

Test(train, twenty_steps_in_f32_equal_one_process_within_rounding) {
    compare(0, 1e-5, 1e-4, 1e-3);
}
