/* Supervised training over a data set in memory: weighted and ignored targets, uneven and empty shares, numbers that are
 * not finite, f16. Every number of ranks is compared with one process, which rank 0 runs by itself afterwards. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "io/data/dataset.h"
#include "tests/support/expect.h"

enum { STEPS = 20, N = 37, N_IN = 3 }; /* behind the inputs stands the target's weight; 0: it is ignored */

typedef struct job {
    hx_dtype dtype; /* of the parameters; inputs and targets are f64 */
    int64_t batch, micro_batch;
    int64_t nan_sample; /* -1: none */
    double loss_scale;
    int64_t max_skips;
} job;

typedef struct result {
    double loss[STEPS], count[STEPS], scale[STEPS];
    hx_event_kind kind[STEPS];
    double eval_loss, eval_count, f1, weight[N_IN];
    hx_train_state state;
} result;

/* sum of w (f(x) - y)^2 and sum of w; the scores are f(x) */
static hx_status weighted_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss, hx_tensor **count,
                               hx_tensor **scores) {
    hx_layer *layer = self;
    HX_AUTO_TENSOR in = NULL;
    HX_AUTO_TENSOR w = NULL;
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR f = NULL;
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR dd = NULL;
    HX_AUTO_TENSOR wdd = NULL;
    HX_TRY(hx_slice(ctx, batch->input, 1, 0, N_IN, 1, &in));
    HX_TRY(hx_slice(ctx, batch->input, 1, N_IN, N_IN + 1, 1, &w));
    HX_TRY(hx_cast(ctx, in, hx_tensor_dtype(layer->params[0]->value), &x));
    HX_TRY(hx_layer_forward(layer, ctx, x, &f));
    HX_TRY(hx_cast(ctx, f, HX_F64, &wide));
    HX_TRY(hx_sub(ctx, wide, batch->target, &d));
    HX_TRY(hx_mul(ctx, d, d, &dd));
    HX_TRY(hx_mul(ctx, dd, w, &wdd));
    HX_TRY(hx_sum(ctx, wdd, NULL, 0, false, loss));
    HX_TRY(hx_sum(ctx, w, NULL, 0, false, count));
    if (scores != NULL) *scores = hx_tensor_move(&wide);
    return HX_OK;
}

static hx_status loss_only(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss, hx_tensor **count) {
    return weighted_loss(self, ctx, batch, loss, count, NULL);
}

static double inputs[N][N_IN + 1], targets[N];

static void make_data(int64_t nan_sample) {
    const hx_rng rng = {.seed = 21, .stream = HX_RNG_USER};
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N_IN; k++) inputs[i][k] = hx_rng_normal(rng, (uint64_t)(i * N_IN + k));
        targets[i] = 2 * inputs[i][0] - 3 * inputs[i][1] + 0.5 * inputs[i][2] + 0.1 * hx_rng_normal(rng, (uint64_t)(1000 + i));
        inputs[i][N_IN] = i % 5 == 0 ? 0 : 0.25 * (1 + i % 4);
    }
    if (nan_sample >= 0) inputs[nan_sample][1] = NAN;
}

static hx_dataset *open_data(hx_device *dev, hx_comm *comm, const job *j, bool is_training) {
    hx_dataset *d = NULL;
    const hx_sampler sampler = {.batch = j->batch, .micro_batch = j->micro_batch, .shuffle = is_training, .seed = 3,
                                .rank = hx_comm_rank(comm), .size = hx_comm_size(comm)};
    OK(hx_dataset_create(dev, &(hx_host_array){HX_F64, HX_SHAPE(N, N_IN + 1), inputs},
                         &(hx_host_array){HX_F64, HX_SHAPE(N, 1), targets}, &sampler, &d));
    return d;
}

static void run_steps(hx_trainer *trainer, hx_metrics *metrics, result *out) {
    hx_train_event event;
    for (int i = 0; i < STEPS; i++) {
        OK(hx_trainer_step(trainer, &event));
        out->loss[i] = event.loss;
        out->count[i] = event.count;
        out->scale[i] = event.loss_scale;
        out->kind[i] = event.kind;
    }
    OK(hx_trainer_eval(trainer, &event));
    out->eval_loss = event.loss;
    out->eval_count = event.count;
    out->f1 = hx_metrics_value(metrics, 3, NULL);
    out->state = *hx_trainer_state(trainer);
}

static void train(hx_comm *comm, const job *j, result *out) {
    hx_device *dev;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *layer;
    hx_param_list params = {0};
    hx_ddp *ddp;
    hx_optim *optim;
    hx_metrics *metrics;
    hx_trainer *trainer;
    hx_batch_source source, held;
    hx_grad_sync sync;
    hx_agreement agreement;
    const hx_ddp_config dc = HX_DDP_DEFAULT;
    hx_optim_config oc = HX_OPTIM_DEFAULT;
    hx_train_config tc = HX_TRAIN_DEFAULT;
    oc.lr = 0.05, oc.warmup = 0, oc.weight_decay = 0;
    tc.steps = STEPS, tc.loss_scale = j->loss_scale, tc.max_skips = j->max_skips;
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    OK(hx_linear_create(dev, j->dtype, N_IN, 1, false, &layer));
    OK(hx_layer_params(layer, &params));
    OK(hx_param_init(params.items[0], stream, 3, HX_INIT_NORMAL, 0.1));
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = comm, .device = dev, .stream = stream, .params = &params, .config = &dc}, &ddp));
    hx_ddp_hook(ddp, &sync);
    hx_comm_agreement(comm, &agreement);
    OK(hx_optim_create_default(dev, stream, &params, &oc, &optim));
    OK(hx_metrics_create(&(hx_metrics_config){.is_probability = true}, &metrics));
    hx_dataset *data = open_data(dev, comm, j, true), *eval = open_data(dev, comm, j, false);
    hx_dataset_source(data, &source);
    hx_dataset_source(eval, &held);
    hx_trainer_setup setup = {.ctx = {.device = dev, .stream = stream, .tape = tape}, .optim = optim, .optim_config = &oc,
                              .model = {.self = layer, .root = layer, .loss = loss_only, .loss_scores = weighted_loss},
                              .config = &tc, .train = &source, .eval = &held, .metrics = metrics, .agreement = &agreement,
                              .sync = &sync};
    OK(hx_trainer_create(&setup, &trainer));
    run_steps(trainer, metrics, out);
    const size_t width = hx_dtype_bytes(j->dtype);
    char raw[N_IN * 8];
    OK(hx_tensor_read(stream, params.items[0]->value, raw));
    for (int k = 0; k < N_IN; k++) out->weight[k] = hx_elem_get(j->dtype, raw, k);
    cr_assert_leq(width, 8u);
    hx_trainer_destroy(&trainer);
    hx_dataset_destroy(&data);
    hx_dataset_destroy(&eval);
    hx_metrics_destroy(&metrics);
    hx_optim_destroy(&optim);
    hx_ddp_destroy(&ddp);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&layer);
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
}

static double distance(double a, double b) {
    return isnan(a) && isnan(b) ? 0 : fabs(a - b) / fmax(1, fabs(b));
}

/* Train on all ranks, and on rank 0 alone; returns whether this rank is the one that compares. */
static bool train_both(const job *j, result *many, result *one) {
    hx_comm *world, *self;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    make_data(j->nan_sample);
    train(world, j, many);
    const bool compares = hx_comm_rank(world) == 0;
    if (compares) {
        OK(hx_comm_self_open(&self));
        train(self, j, one);
        hx_comm_close(&self);
    }
    hx_comm_close(&world);
    return compares;
}

static double compare(const job *j, result *many, double tolerance) {
    result one;
    double worst = 0;
    if (!train_both(j, many, &one)) return 0;
    for (int i = 0; i < STEPS; i++) {
        cr_assert(many->kind[i] == one.kind[i] && many->scale[i] == one.scale[i], "step %d", i);
        cr_assert_float_eq(many->count[i], one.count[i], 1e-12, "step %d: %g, alone %g", i, many->count[i], one.count[i]);
        worst = fmax(worst, distance(many->loss[i], one.loss[i]));
    }
    for (int k = 0; k < N_IN; k++) worst = fmax(worst, distance(many->weight[k], one.weight[k]));
    cr_assert_leq(worst, tolerance, "losses and weights differ by %g", worst);
    cr_assert_leq(distance(many->eval_loss, one.eval_loss), tolerance);
    cr_assert(many->state.cursor == one.state.cursor && many->state.step == one.state.step &&
              many->state.n_skipped == one.state.n_skipped && many->state.loss_scale == one.state.loss_scale &&
              many->state.n_clean == one.state.n_clean);
    cr_log_info("differs from one process by %.2g", worst);
    return worst;
}

/* 37 samples in batches of 12: the fourth has one sample, and on several ranks some have none. */
Test(train_data, weighted_targets_and_short_batches_equal_one_process) {
    result r;
    const job j = {.dtype = HX_F64, .batch = 12, .micro_batch = 2, .nan_sample = -1, .max_skips = 5};
    compare(&j, &r, 1e-12);
    cr_expect_eq(r.state.cursor, 5 * N);
    cr_expect_lt(r.count[3], 1.01);
    cr_expect_lt(r.loss[STEPS - 4], 0.6 * r.loss[0]);
}

Test(train_data, metrics_of_uneven_shares_are_those_of_one_process_exactly) {
    result many, one;
    const job j = {.dtype = HX_F64, .batch = 10, .nan_sample = -1, .max_skips = 5};
    if (!train_both(&j, &many, &one)) return;
    cr_expect_eq(many.f1, one.f1, "%.17g, alone %.17g", many.f1, one.f1);
    cr_expect_eq(many.eval_count, one.eval_count);
    cr_expect(many.f1 > 0 && many.f1 < 1);
}

Test(train_data, a_batch_with_nan_is_skipped_on_every_rank_and_counted) {
    result r;
    const job j = {.dtype = HX_F64, .batch = 12, .nan_sample = 17, .max_skips = 5};
    int n_skips = 0;
    compare(&j, &r, 1e-12);
    for (int i = 0; i < STEPS; i++) n_skips += r.kind[i] == HX_EVENT_SKIP;
    cr_expect_eq(n_skips, 5, "once an epoch");
    cr_expect(r.state.n_skipped == 5 && r.state.step == STEPS - 5 && r.state.cursor == 5 * N);
    for (int k = 0; k < N_IN; k++) cr_expect(isfinite(r.weight[k]));
}

/* A scale of 2^24 overflows f16 (65504): all ranks halve it together, at once, until gradients fit. With max_skips = 1 a
 * skip that counted as a failure would end the run. */
Test(train_data, f16_recovers_from_a_scale_that_is_too_high_in_the_same_steps_on_all_ranks) {
    result r;
    const job j = {.dtype = HX_F16, .batch = 12, .nan_sample = -1, .loss_scale = 1 << 24, .max_skips = 1};
    int n_skips = 0, last = -1;
    compare(&j, &r, 2e-2);
    for (int i = 0; i < STEPS; i++) {
        cr_expect_eq(r.scale[i], ldexp(1, 24 - n_skips), "step %d", i);
        if (r.kind[i] == HX_EVENT_SKIP) n_skips++, last = i;
    }
    cr_expect(n_skips > 5 && n_skips < 15, "%d skips", n_skips);
    cr_expect_eq(r.state.loss_scale, ldexp(1, 24 - n_skips));
    cr_expect_eq(r.state.n_clean, STEPS - 1 - last);
    cr_expect(r.state.n_skipped == n_skips && r.state.step == STEPS - n_skips);
}

/* The same model in the other types: rounding of 2^-8 and 2^-11 a step moves losses by per cents at most. */
Test(train_data, half_types_learn_like_f32) {
    result r[3];
    const hx_dtype dtypes[3] = {HX_F32, HX_BF16, HX_F16};
    hx_comm *world;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    make_data(-1);
    for (int d = 0; d < 3; d++)
        train(world, &(job){.dtype = dtypes[d], .batch = 12, .nan_sample = -1, .loss_scale = 64, .max_skips = 1}, &r[d]);
    for (int d = 1; d < 3; d++)
        for (int i = 0; i < STEPS; i++)
            cr_expect_leq(fabs(r[d].loss[i] - r[0].loss[i]), 0.03 * r[0].loss[i], "%s step %d: %g, f32 %g",
                          hx_dtype_name(dtypes[d]), i, r[d].loss[i], r[0].loss[i]);
    cr_expect(r[0].scale[0] == 0 && r[1].scale[0] == 0 && r[2].scale[0] == 64, "only f16 needs a scale");
    hx_comm_close(&world);
}

/* ---- running statistics ---- */

static hx_status mean_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss, hx_tensor **count) {
    HX_AUTO_TENSOR y = NULL;
    HX_TRY(hx_layer_forward(self, ctx, batch->input, &y));
    HX_TRY(hx_sum(ctx, y, NULL, 0, false, loss));
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SCALAR, count));
    return hx_tensor_fill(ctx->stream, *count, (double)batch->n_samples);
}

/* Rank r has seen a mean of r and a variance of 2r + 1: an evaluation takes (w - 1)/2 and w of w ranks. */
Test(train_data, running_statistics_become_their_mean_over_the_ranks) {
    hx_comm *world;
    hx_device *dev;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *layer;
    hx_param_list params = {0}, buffers = {0};
    hx_optim *optim;
    hx_trainer *trainer;
    hx_batch_source source;
    hx_agreement agreement;
    hx_train_event event;
    const hx_optim_config oc = HX_OPTIM_DEFAULT;
    const hx_train_config tc = HX_TRAIN_DEFAULT;
    const job j = {.batch = 8};
    make_data(-1);
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    const double rank = hx_comm_rank(world), size = hx_comm_size(world);
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &dev));
    OK(hx_stream_create(dev, &stream));
    OK(hx_tape_create(dev, &tape));
    OK(hx_batchnorm_create(dev, HX_F64, N_IN + 1, NULL, &layer));
    OK(hx_layer_init(layer, stream, 1));
    OK(hx_layer_params(layer, &params));
    OK(hx_layer_buffers(layer, &buffers));
    for (int k = 0; k < 2; k++) OK(hx_tensor_fill(stream, buffers.items[k]->value, k == 0 ? rank : 2 * rank + 1));
    OK(hx_optim_create_default(dev, stream, &params, &oc, &optim));
    hx_comm_agreement(world, &agreement);
    hx_dataset *data = open_data(dev, world, &j, false);
    hx_dataset_source(data, &source);
    hx_trainer_setup setup = {.ctx = {.device = dev, .stream = stream, .tape = tape}, .optim = optim, .optim_config = &oc,
                              .model = {.self = layer, .root = layer, .loss = mean_loss}, .config = &tc, .train = &source,
                              .eval = &source, .agreement = &agreement};
    OK(hx_trainer_create(&setup, &trainer));
    OK(hx_trainer_eval(trainer, &event));
    for (int k = 0; k < 2; k++) {
        double values[N_IN + 1];
        OK(hx_tensor_read(stream, buffers.items[k]->value, values));
        for (int c = 0; c <= N_IN; c++) cr_expect_eq(values[c], k == 0 ? (size - 1) / 2 : size, "%s: %g", buffers.items[k]->path, values[c]);
    }
    hx_trainer_destroy(&trainer);
    hx_dataset_destroy(&data);
    hx_optim_destroy(&optim);
    hx_param_list_destroy(&buffers);
    hx_param_list_destroy(&params);
    hx_layer_destroy(&layer);
    hx_tape_destroy(&tape);
    hx_stream_destroy(&stream);
    hx_device_close(&dev);
    hx_comm_close(&world);
}
