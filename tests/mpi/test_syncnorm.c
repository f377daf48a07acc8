/* Batch norm over ranks is that of one process which has all samples, however they are dealt out: compared with it on every number of
 * ranks. Tolerances: sums in another order, in f64 some roundings of 1e-16; the inputs' mean is a thousand deviations away from 0, of
 * which a variance by differences of squares would lose six digits. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/train/trainer.h"
#include "dist/dp/ddp.h"
#include "dist/dp/syncnorm.h"
#include "io/data/dataset.h"
#include "tests/support/expect.h"

enum { C = 5, L = 3, MOST = 16, SAMPLE = C * L };

typedef struct side {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_layer *norm;
} side;

/* Loss: sum of coefficient times y. All as f64; of y and dx the rank's samples. */
typedef struct result {
    double y[MOST * SAMPLE], dx[MOST * SAMPLE], dw[C], db[C], running[2][C];
} result;

static double x_at(int64_t i) { return 1000 + (double)(i % SAMPLE) + sin((double)(i * i)) * (double)(1 + i % 3); }
static double coefficient_at(int64_t i) { return cos(1.7 * (double)i); }

static void open_side(side *s, hx_dtype dtype, bool is_affine) {
    const hx_batchnorm_config config = {.momentum = 0.3, .eps = 1e-5, .is_affine = is_affine};
    OK(hx_device_open("cpu", &(hx_device_config){.n_threads = 1}, &s->device));
    OK(hx_stream_create(s->device, &s->stream));
    OK(hx_tape_create(s->device, &s->tape));
    OK(hx_batchnorm_create(s->device, dtype, C, &config, &s->norm));
    for (int k = 0; k < s->norm->n_params; k++) {
        hx_ctx ctx = {.device = s->device, .stream = s->stream};
        const hx_rng rng = {.seed = 5, .stream = (uint64_t)k};
        OK(hx_fill_normal(&ctx, s->norm->params[k]->value, rng, 0, 1, 0.5));
    }
}

static void close_side(side *s) {
    hx_layer_destroy(&s->norm);
    hx_tape_destroy(&s->tape);
    hx_stream_destroy(&s->stream);
    hx_device_close(&s->device);
}

/* f(i) for the elements of samples [first, end) */
static void make(const side *s, hx_dtype dtype, int64_t first, int64_t end, double (*f)(int64_t), hx_tensor **out) {
    double values[MOST * SAMPLE];
    hx_ctx ctx = {.device = s->device, .stream = s->stream};
    HX_AUTO_TENSOR wide = NULL;
    for (int64_t i = first * SAMPLE; i < end * SAMPLE; i++) values[i - first * SAMPLE] = f(i);
    OK(hx_tensor_create(s->device, HX_F64, HX_SHAPE(end - first, C, L), &wide));
    OK(hx_tensor_write(s->stream, wide, values));
    OK(hx_cast(&ctx, wide, dtype, out));
}

static void read(const side *s, hx_tensor *x, double *out) {
    hx_ctx ctx = {.device = s->device, .stream = s->stream};
    HX_AUTO_TENSOR wide = NULL;
    OK(hx_cast(&ctx, x, HX_F64, &wide));
    OK(hx_tensor_read(s->stream, wide, out));
}

static void run_batch(side *s, hx_dtype dtype, int64_t first, int64_t end, result *r) {
    hx_ctx ctx = {.device = s->device, .stream = s->stream, .tape = s->tape, .training = true};
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR coefficient = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR product = NULL;
    HX_AUTO_TENSOR loss = NULL;
    make(s, dtype, first, end, x_at, &x);
    make(s, dtype, first, end, coefficient_at, &coefficient);
    hx_tensor_set_requires_grad(x, true);
    OK(hx_layer_forward(s->norm, &ctx, x, &y));
    OK(hx_mul(&ctx, y, coefficient, &product));
    OK(hx_sum(&ctx, product, NULL, 0, false, &loss));
    OK(hx_backward(&ctx, loss, NULL));
    read(s, y, r->y);
    read(s, hx_tensor_grad(x), r->dx);
    for (int k = 0; k < s->norm->n_params; k++) read(s, hx_tensor_grad(s->norm->params[k]->value), k == 0 ? r->dw : r->db);
    for (int k = 0; k < 2; k++) read(s, s->norm->buffers[k]->value, r->running[k]);
}

/* |a - b| <= tolerance max |b| */
static void expect_near(const char *what, const double *a, const double *b, int64_t n, double tolerance) {
    double most = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(b[i])), worst = fmax(worst, fabs(a[i] - b[i]));
    cr_expect_leq(worst, tolerance * most, "%s differs by %g of %g", what, worst, most);
}

/* Rank r has r + 1 samples. */
static void compare(hx_dtype dtype, bool is_affine, bool recompute, double tolerance) {
    hx_comm *world;
    hx_sync_norm *sync;
    side many, one;
    static result mine, all;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    const int64_t rank = hx_comm_rank(world), size = hx_comm_size(world), first = rank * (rank + 1) / 2;
    open_side(&many, dtype, is_affine);
    open_side(&one, dtype, is_affine);
    hx_layer_set_recompute(many.norm, recompute);
    OK(hx_sync_norm_create(world, many.norm, &sync));
    run_batch(&many, dtype, first, first + rank + 1, &mine);
    run_batch(&one, dtype, 0, size * (size + 1) / 2, &all);
    expect_near("y", mine.y, all.y + first * SAMPLE, (rank + 1) * SAMPLE, tolerance);
    expect_near("dx", mine.dx, all.dx + first * SAMPLE, (rank + 1) * SAMPLE, tolerance);
    OK(hx_comm_all_reduce(world, mine.dw, C, HX_F64, HX_SUM, NULL, NULL));
    OK(hx_comm_all_reduce(world, mine.db, C, HX_F64, HX_SUM, NULL, NULL));
    if (is_affine) expect_near("dw", mine.dw, all.dw, C, tolerance);
    if (is_affine) expect_near("db", mine.db, all.db, C, tolerance);
    expect_near("running_mean", mine.running[0], all.running[0], C, tolerance);
    expect_near("running_var", mine.running[1], all.running[1], C, tolerance);
    hx_sync_norm_destroy(&sync);
    close_side(&one);
    close_side(&many);
    hx_comm_close(&world);
}

Test(syncnorm, uneven_batches_in_f64_are_those_of_one_process) { compare(HX_F64, true, false, 1e-12); }
Test(syncnorm, without_weights_too) { compare(HX_F64, false, false, 1e-12); }
Test(syncnorm, a_layer_that_is_computed_again_exchanges_again_and_moves_its_statistics_once) { compare(HX_F64, true, true, 1e-12); }
/* Inputs of 1000 have 3 decimals in f32, 1000 deviations of theirs. */
Test(syncnorm, uneven_batches_in_f32_are_those_of_one_process_within_rounding) { compare(HX_F32, true, false, 1e-3); }

/* ---- memory that comes to an end ---- */

static bool is_out;

static hx_status short_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    if (is_out) return HX_FAIL(HX_ERR_MEMORY, "%zu bytes: nothing is left", n_bytes);
    return hx_backend_cpu.alloc(self, kind, n_bytes, out);
}

static void register_short(void) {
    static hx_backend backend;
    backend = hx_backend_cpu;
    backend.name = "short";
    backend.priority = -1;
    backend.alloc = short_alloc;
    setenv("HELIX_ALLOC", "exact", 1);
    OK(hx_backend_register(&backend));
}

/* ---- training ---- */

enum { N = 29, N_IN = 4, WIDTH = 6, STEPS = 9, MOST_PARAMS = 64 };

typedef struct job {
    int64_t batch, micro_batch;
    int64_t zero;
    int fails_at; /* step in which rank 0's source fails at its last micro-batch; -1: never */
    bool is_short; /* of memory, too, from then on: on a device "short" */
} job;

typedef struct outcome {
    double loss[STEPS], values[4 * MOST_PARAMS];
    int64_t n_values;
    hx_status status;
    char message[1024];
} outcome;

typedef struct net {
    side s;
    hx_layer *root;
    hx_param_list params, buffers;
} net;

static hx_status net_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    HX_AUTO_TENSOR a = NULL;
    HX_AUTO_TENSOR b = NULL;
    HX_TRY(hx_layer_forward(layer->children[0], ctx, x, &a));
    HX_TRY(hx_layer_forward(layer->children[1], ctx, a, &b));
    return hx_layer_forward(layer->children[2], ctx, b, y);
}

static const hx_layer_type net_type = {.name = "net", .n_bytes = sizeof(hx_layer), .forward = net_forward};

static void open_net(net *n, const char *device) {
    hx_layer *parts[3];
    static const char *const names[3] = {"in", "norm", "out"};
    *n = (net){0};
    OK(hx_device_open(device, &(hx_device_config){.n_threads = 1}, &n->s.device));
    OK(hx_stream_create(n->s.device, &n->s.stream));
    OK(hx_tape_create(n->s.device, &n->s.tape));
    OK(hx_layer_create(&net_type, n->s.device, &n->root));
    /* no bias: batch norm takes it away again, and Adam would move it by noise */
    OK(hx_linear_create(n->s.device, HX_F64, N_IN, WIDTH, false, &parts[0]));
    OK(hx_batchnorm_create(n->s.device, HX_F64, WIDTH, NULL, &parts[1]));
    OK(hx_linear_create(n->s.device, HX_F64, WIDTH, 1, true, &parts[2]));
    for (int k = 0; k < 3; k++) OK(hx_layer_add_consume(n->root, names[k], &parts[k]));
    OK(hx_layer_init(n->root, n->s.stream, 8));
    OK(hx_layer_params(n->root, &n->params));
    OK(hx_layer_buffers(n->root, &n->buffers));
}

static void close_net(net *n) {
    hx_param_list_destroy(&n->buffers);
    hx_param_list_destroy(&n->params);
    hx_layer_destroy(&n->root);
    hx_tape_destroy(&n->s.tape);
    hx_stream_destroy(&n->s.stream);
    hx_device_close(&n->s.device);
}

static hx_status loss_of(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss, hx_tensor **count) {
    HX_AUTO_TENSOR f = NULL;
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR dd = NULL;
    HX_TRY(hx_layer_forward(self, ctx, batch->input, &f));
    HX_TRY(hx_sub(ctx, f, batch->target, &d));
    HX_TRY(hx_mul(ctx, d, d, &dd));
    HX_TRY(hx_sum(ctx, dd, NULL, 0, false, loss));
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SCALAR, count));
    return hx_tensor_fill(ctx->stream, *count, (double)batch->n_samples);
}

static hx_dataset *open_data(hx_device *device, const hx_comm *comm, const job *j) {
    static double inputs[N][N_IN], targets[N];
    const hx_rng rng = {.seed = 4, .stream = HX_RNG_USER};
    hx_dataset *data;
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < N_IN; k++) inputs[i][k] = 3 + hx_rng_normal(rng, (uint64_t)(i * N_IN + k));
        targets[i] = inputs[i][0] - inputs[i][1] * inputs[i][2];
    }
    const hx_sampler sampler = {.batch = j->batch, .micro_batch = j->micro_batch, .shuffle = true, .seed = 3,
                                .rank = hx_comm_rank(comm), .size = hx_comm_size(comm)};
    OK(hx_dataset_create(device, &(hx_host_array){HX_F64, HX_SHAPE(N, N_IN), inputs}, &(hx_host_array){HX_F64, HX_SHAPE(N, 1), targets},
                         &sampler, &data));
    return data;
}

/* A source that fails where it is told to. */
typedef struct faulty {
    hx_batch_source source;
    int64_t fails_at; /* cursor; -1: never */
    bool is_short;
} faulty;

static hx_status faulty_n_samples(void *self, int64_t cursor, int64_t *out) {
    const hx_batch_source *source = &((faulty *)self)->source;
    return source->n_samples(source->self, cursor, out);
}

static hx_status faulty_n_micro(void *self, int64_t cursor, int64_t *out) {
    const hx_batch_source *source = &((faulty *)self)->source;
    return source->n_micro(source->self, cursor, out);
}

static hx_status faulty_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    const faulty *f = self;
    int64_t n;
    HX_TRY(f->source.n_micro(f->source.self, cursor, &n));
    is_out = f->is_short && cursor == f->fails_at && index == n - 1;
    if (cursor == f->fails_at && index == n - 1) return HX_FAIL(HX_ERR_IO, "planted");
    return f->source.get(f->source.self, cursor, index, stream, out);
}

static void keep_values(net *n, outcome *out) {
    const hx_param_list *lists[] = {&n->params, &n->buffers};
    out->n_values = 0;
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < lists[k]->n_items; i++) {
            read(&n->s, lists[k]->items[i]->value, out->values + out->n_values);
            out->n_values += hx_tensor_count(lists[k]->items[i]->value);
        }
}

static void train(hx_comm *comm, const job *j, outcome *out) {
    net n;
    hx_ddp *ddp;
    hx_sync_norm *norm;
    hx_optim *optim;
    hx_trainer *trainer;
    hx_grad_sync sync;
    hx_agreement agreement;
    const hx_ddp_config dc = {.bucket_bytes = 64, .zero = j->zero};
    hx_optim_config oc = HX_OPTIM_DEFAULT;
    hx_train_config tc = HX_TRAIN_DEFAULT;
    oc.lr = 0.05, oc.warmup = 0, tc.steps = STEPS;
    open_net(&n, j->is_short ? "short" : "cpu");
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = comm, .device = n.s.device, .stream = n.s.stream, .params = &n.params, .config = &dc}, &ddp));
    hx_ddp_hook(ddp, &sync);
    OK(hx_sync_norm_create(comm, n.root, &norm));
    OK(hx_sync_norm_hook(norm, &sync));
    hx_comm_agreement(comm, &agreement);
    OK(hx_optim_create_default(n.s.device, n.s.stream, &n.params, &oc, &optim));
    hx_dataset *data = open_data(n.s.device, comm, j);
    faulty f = {.fails_at = j->fails_at >= 0 && hx_comm_rank(comm) == 0 ? j->fails_at * j->batch : -1, .is_short = j->is_short};
    hx_dataset_source(data, &f.source);
    const hx_batch_source source = {.self = &f, .n_global = f.source.n_global, .batch = f.source.batch, .n_samples = faulty_n_samples,
                                    .n_micro = faulty_n_micro, .get = faulty_get};
    const hx_trainer_setup setup = {.ctx = {.device = n.s.device, .stream = n.s.stream, .tape = n.s.tape}, .optim = optim, .optim_config = &oc,
                                    .model = {.self = n.root, .root = n.root, .loss = loss_of}, .config = &tc, .train = &source,
                                    .agreement = &agreement, .sync = &sync};
    OK(hx_trainer_create(&setup, &trainer));
    out->status = HX_OK;
    for (int i = 0; i < STEPS && out->status == HX_OK; i++) {
        hx_train_event event = {.loss = NAN};
        out->status = hx_trainer_step(trainer, &event);
        out->loss[i] = event.loss;
    }
    snprintf(out->message, sizeof out->message, "%s", hx_error_message());
    is_out = false;
    keep_values(&n, out);
    hx_trainer_destroy(&trainer);
    hx_dataset_destroy(&data);
    hx_optim_destroy(&optim);
    hx_sync_norm_destroy(&norm);
    hx_ddp_destroy(&ddp);
    close_net(&n);
}

/* All ranks have rank 0's values, running statistics included. */
static void expect_same(hx_comm *world, const outcome *out) {
    double first[4 * MOST_PARAMS];
    memcpy(first, out->values, sizeof first);
    OK(hx_comm_broadcast(world, first, out->n_values, HX_F64, 0, NULL, NULL));
    cr_expect_eq(memcmp(first, out->values, (size_t)out->n_values * sizeof *first), 0, "a rank ends with other values than rank 0");
}

/* 29 samples in batches of 7: the last has one, which one rank gets, and the others none. */
Test(syncnorm, ranks_without_samples_take_part_and_a_run_equals_one_process) {
    hx_comm *world, *self;
    static outcome many, one;
    const job j = {.batch = 7, .fails_at = -1};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    train(world, &j, &many);
    cr_assert_eq(many.status, HX_OK, "%s", many.message);
    expect_same(world, &many);
    OK(hx_comm_self_open(&self));
    train(self, &j, &one);
    expect_near("a loss", many.loss, one.loss, STEPS, 1e-9);
    expect_near("what is learnt", many.values, one.values, one.n_values, 1e-9);
    cr_expect_lt(one.loss[STEPS - 2], one.loss[0]);
    hx_comm_close(&self);
    hx_comm_close(&world);
}

/* Shares of 7 samples on 2 to 4 ranks, in micro-batches of 1, and of 2 with shares of the optimizer: ranks run different
 * numbers of them. */
Test(syncnorm, ranks_with_different_numbers_of_micro_batches_end_alike) {
    hx_comm *world;
    static outcome many;
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    for (int64_t micro = 1; micro <= 2; micro++) {
        train(world, &(job){.batch = 7, .micro_batch = micro, .zero = micro - 1, .fails_at = -1}, &many);
        cr_assert_eq(many.status, HX_OK, "%s", many.message);
        expect_same(world, &many);
    }
    hx_comm_close(&world);
}

static void check_failed_rank(bool is_short) {
    hx_comm *world;
    static outcome many;
    OK(hx_backend_register(&hx_backend_cpu));
    if (is_short) register_short();
    OK(hx_comm_mpi_open(&world));
    train(world, &(job){.batch = 8, .micro_batch = 1, .fails_at = 1, .is_short = is_short}, &many);
    cr_expect_eq(many.status, hx_comm_rank(world) == 0 ? HX_ERR_IO : HX_ERR_REMOTE, "%s", many.message);
    cr_expect(strstr(many.message, "planted") != NULL, "%s", many.message);
    hx_comm_close(&world);
}

Test(syncnorm, a_rank_that_fails_within_a_step_keeps_nobody_waiting) { check_failed_rank(false); }
Test(syncnorm, nor_does_one_that_has_no_memory_left) { check_failed_rank(true); }

static hx_status place_nothing(void *self, hx_tensor *leaf) {
    (void)self;
    (void)leaf;
    return HX_OK;
}

Test(syncnorm, what_cannot_be_synchronised_is_refused) {
    hx_comm *world;
    hx_sync_norm *norm;
    side s;
    hx_layer *linear;
    hx_grad_sync plain = {.self = &plain}, elastic = {.leaves = {.n = 4, .size = 1}}, zero_2 = {.place = place_nothing};
    OK(hx_backend_register(&hx_backend_cpu));
    OK(hx_comm_mpi_open(&world));
    open_side(&s, HX_F64, true);
    OK(hx_sync_norm_create(world, s.norm, &norm));
    cr_expect_eq(hx_sync_norm_hook(norm, &elastic), HX_ERR_UNSUPPORTED);
    cr_expect_eq(hx_sync_norm_hook(norm, &zero_2), HX_ERR_UNSUPPORTED);
    hx_sync_norm_destroy(&norm);
    OK(hx_linear_create(s.device, HX_F64, 1, 1, true, &linear));
    cr_expect_eq(hx_batchnorm_set_sync(linear, NULL, 0), HX_ERR_ARG);
    OK(hx_sync_norm_create(world, linear, &norm));
    OK(hx_sync_norm_hook(norm, &plain));
    cr_expect_eq(plain.self, &plain, "without a batch norm nothing is put in between");
    hx_sync_norm_destroy(&norm);
    hx_layer_destroy(&linear);
    close_side(&s);
    hx_comm_close(&world);
}
