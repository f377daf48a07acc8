/* Data parallelism on a model of a few parameters: what each rank finds in its gradients is compared with one process
 * that saw all samples. The ranks add the same f64 numbers in another order: 1e-12 is some thousand roundings. */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/backends.h"
#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "dist/dp/ddp.h"
#include "tests/support/expect.h"

enum { IN = 3, HIDDEN = 5, OUT = 2, SAMPLES = 4, MAX_GRADS = 64 }; /* SAMPLES per rank and micro-batch */

typedef struct world {
    hx_comm *comm;
    int rank, size;
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
    hx_layer *root;
    hx_param_list params;
    hx_ddp *ddp;
    hx_grad_sync sync;
} world;

static void open_world(world *w, const char *mode) {
    memset(w, 0, sizeof *w);
    setenv("HELIX_STREAM", mode, 1);
    OK(hx_comm_mpi_open(&w->comm));
    w->rank = hx_comm_rank(w->comm);
    w->size = hx_comm_size(w->comm);
    if (hx_backend_find("ref") == NULL) OK(hx_backend_register(&hx_backend_ref));
    OK(hx_device_open("ref", NULL, &w->device));
    OK(hx_stream_create(w->device, &w->stream));
    OK(hx_tape_create(w->device, &w->tape));
    w->ctx = (hx_ctx){.device = w->device, .stream = w->stream, .tape = w->tape, .training = true};
}

static void close_model(world *w) {
    hx_ddp_destroy(&w->ddp);
    hx_param_list_destroy(&w->params);
    hx_layer_destroy(&w->root);
}

static void close_world(world *w) {
    close_model(w);
    hx_tape_destroy(&w->tape);
    hx_stream_destroy(&w->stream);
    hx_comm_close(&w->comm);
    hx_device_close(&w->device);
}

static void create_ddp(world *w, int64_t bucket_bytes) {
    hx_ddp_config config = HX_DDP_DEFAULT;
    config.bucket_bytes = bucket_bytes;
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = w->comm, .device = w->device, .stream = w->stream, .params = &w->params, .config = &config}, &w->ddp));
    hx_ddp_hook(w->ddp, &w->sync);
    hx_tape_set_ready_hook(w->tape, w->sync.ready, w->sync.self);
}

/* Element i of parameter k; `salt` tells ranks apart. */
static double value_of(int64_t k, int64_t i, int salt) {
    return sin(1.0 + (double)k * 7 + (double)i * 3 + salt * 100);
}

static void fill_params(world *w, int salt) {
    for (int64_t k = 0; k < w->params.n_items; k++) {
        double values[MAX_GRADS];
        float narrow[MAX_GRADS];
        hx_tensor *t = w->params.items[k]->value;
        for (int64_t i = 0; i < hx_tensor_count(t); i++) {
            values[i] = value_of(k, i, salt);
            narrow[i] = (float)values[i];
        }
        OK(hx_tensor_write(w->stream, t, hx_tensor_dtype(t) == HX_F64 ? (void *)values : (void *)narrow));
    }
}

/* ---- a model of two linear layers ---- */

static void build_mlp(world *w, int salt) {
    hx_layer *layers[3];
    OK(hx_linear_create(w->device, HX_F64, IN, HIDDEN, true, &layers[0]));
    OK(hx_activation_create(w->device, HX_OP_tanh, &layers[1]));
    OK(hx_linear_create(w->device, HX_F64, HIDDEN, OUT, true, &layers[2]));
    OK(hx_sequential_create_consume(w->device, layers, 3, &w->root));
    OK(hx_layer_params(w->root, &w->params));
    fill_params(w, salt);
}

/* Backward of the sum of squares of the model's output on one micro-batch of one rank. */
static void mlp_backward(world *w, int rank, int micro) {
    double x[SAMPLES * IN];
    HX_AUTO_TENSOR input = NULL;
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR squares = NULL;
    HX_AUTO_TENSOR loss = NULL;
    for (int i = 0; i < SAMPLES * IN; i++) x[i] = cos(rank * 50 + micro * 500 + i);
    OK(hx_tensor_create(w->device, HX_F64, HX_SHAPE(SAMPLES, IN), &input));
    OK(hx_tensor_write(w->stream, input, x));
    OK(hx_layer_forward(w->root, &w->ctx, input, &y));
    OK(hx_mul(&w->ctx, y, y, &squares));
    OK(hx_sum(&w->ctx, squares, NULL, 0, false, &loss));
    OK(hx_backward(&w->ctx, loss, NULL));
}

static void reset_grads(world *w) {
    for (int64_t k = 0; k < w->params.n_items; k++) hx_tensor_grad_reset(w->params.items[k]->value);
}

static void mlp_step(world *w, int n_micro) {
    reset_grads(w);
    for (int micro = 0; micro < n_micro; micro++) {
        OK(w->sync.begin(w->sync.self, micro == n_micro - 1));
        mlp_backward(w, w->rank, micro);
    }
    OK(w->sync.finish(w->sync.self, w->stream, false));
}

static void read_grads(world *w, double grads[][MAX_GRADS]) {
    for (int64_t k = 0; k < w->params.n_items; k++)
        OK(hx_tensor_read(w->stream, hx_tensor_grad(w->params.items[k]->value), grads[k]));
}

/* What one process finds that sees the samples of ranks [0, n_ranks). */
static void expected_grads(world *w, int n_ranks, int n_micro, double grads[][MAX_GRADS]) {
    world one = *w;
    one.root = NULL;
    one.params = (hx_param_list){0};
    one.ddp = NULL;
    hx_tape_set_ready_hook(one.tape, NULL, NULL);
    build_mlp(&one, 0);
    reset_grads(&one);
    for (int rank = 0; rank < n_ranks; rank++)
        for (int micro = 0; micro < n_micro; micro++) mlp_backward(&one, rank, micro);
    read_grads(&one, grads);
    close_model(&one);
    hx_tape_set_ready_hook(w->tape, w->sync.ready, w->sync.self);
}

static void compare(world *w, double found[][MAX_GRADS], double expected[][MAX_GRADS]) {
    for (int64_t k = 0; k < w->params.n_items; k++)
        for (int64_t i = 0; i < hx_tensor_count(w->params.items[k]->value); i++)
            cr_assert_float_eq(found[k][i], expected[k][i], 1e-12 * (1 + fabs(expected[k][i])), "%s[%lld]: %.17g, expected %.17g",
                               w->params.items[k]->path, (long long)i, found[k][i], expected[k][i]);
}

static void check_gradients(const char *mode) {
    static const int64_t bucket_bytes[] = {1, 260, 1 << 20};
    static const int n_buckets[] = {4, 2, 1};
    double found[4][MAX_GRADS], expected[4][MAX_GRADS];
    world w;
    open_world(&w, mode);
    for (int b = 0; b < 3; b++) {
        build_mlp(&w, 0);
        create_ddp(&w, bucket_bytes[b]);
        cr_expect_eq(hx_ddp_n_buckets(w.ddp), n_buckets[b]);
        for (int step = 0; step < 3; step++) {
            expected_grads(&w, w.size, step + 1, expected);
            mlp_step(&w, step + 1);
            read_grads(&w, found);
            compare(&w, found, expected);
        }
        close_model(&w);
    }
    close_world(&w);
}

Test(ddp, gradients_equal_those_of_one_process) {
    check_gradients("inline");
}

Test(ddp, gradients_equal_those_of_one_process_on_asynchronous_streams) {
    check_gradients("async");
}

Test(ddp, repeated_steps_give_the_same_bits_on_all_ranks) {
    double first[4][MAX_GRADS] = {{0}}, again[4][MAX_GRADS] = {{0}}, rank_0[4][MAX_GRADS];
    world w;
    open_world(&w, "async");
    build_mlp(&w, 0);
    create_ddp(&w, 260);
    mlp_step(&w, 2);
    read_grads(&w, first);
    for (int i = 0; i < 5; i++) {
        mlp_step(&w, 2);
        read_grads(&w, again);
        cr_assert_arr_eq(again, first, sizeof first);
    }
    memcpy(rank_0, first, sizeof first);
    OK(hx_comm_broadcast(w.comm, rank_0, sizeof rank_0, HX_U8, 0, NULL, NULL));
    cr_assert_arr_eq(rank_0, first, sizeof first);
    close_world(&w);
}

Test(ddp, create_gives_all_ranks_the_values_of_rank_0) {
    world w;
    open_world(&w, "async");
    build_mlp(&w, w.rank);
    w.params.items[1]->is_frozen = true; /* nothing else would make it the same */
    create_ddp(&w, 100);
    for (int64_t k = 0; k < w.params.n_items; k++) {
        double values[MAX_GRADS];
        OK(hx_tensor_read(w.stream, w.params.items[k]->value, values));
        for (int64_t i = 0; i < hx_tensor_count(w.params.items[k]->value); i++)
            cr_assert_eq(values[i], value_of(k, i, 0));
    }
    close_world(&w);
}

Test(ddp, statistics_count_what_was_sent) {
    double wait_s = -1;
    int64_t n_bytes = -1;
    world w;
    open_world(&w, "inline");
    build_mlp(&w, 0);
    create_ddp(&w, 1);
    mlp_step(&w, 2);
    w.sync.stats(w.sync.self, &wait_s, &n_bytes);
    cr_expect(wait_s >= 0);
    /* every parameter has a bucket of its own here, and is sent once although there were two micro-batches */
    cr_expect_eq(n_bytes, w.size == 1 ? 0 : 8 * (IN * HIDDEN + HIDDEN + HIDDEN * OUT + OUT));
    close_world(&w);
}

/* ---- failures ---- */

Test(ddp, ranks_do_not_wait_for_ever_for_one_that_failed) {
    double found[4][MAX_GRADS], expected[4][MAX_GRADS];
    world w;
    open_world(&w, "inline");
    build_mlp(&w, 0);
    create_ddp(&w, 1);
    bool failed = w.rank == w.size - 1;
    if (w.size > 1) expected_grads(&w, w.size - 1, 1, expected);
    mlp_step(&w, 1); /* leaves gradients that must not be counted again */
    reset_grads(&w);
    if (!failed) {
        OK(w.sync.begin(w.sync.self, true));
        mlp_backward(&w, w.rank, 0);
    }
    OK(w.sync.finish(w.sync.self, w.stream, failed));
    if (w.size > 1) { /* the failed rank added zeros */
        read_grads(&w, found);
        compare(&w, found, expected);
    }
    expected_grads(&w, w.size, 1, expected); /* and the next step works */
    mlp_step(&w, 1);
    read_grads(&w, found);
    compare(&w, found, expected);
    close_world(&w);
}

Test(ddp, second_backward_in_the_last_micro_batch_is_refused_by_name) {
    world w;
    open_world(&w, "inline");
    build_mlp(&w, 0);
    create_ddp(&w, 1);
    reset_grads(&w);
    OK(w.sync.begin(w.sync.self, true));
    mlp_backward(&w, w.rank, 0);
    cr_expect_eq(w.sync.ready(w.sync.self, w.params.items[0]->value), HX_ERR_STATE);
    cr_expect_not_null(strstr(hx_error_message(), w.params.items[0]->path), "%s", hx_error_message());
    cr_expect_eq(w.sync.begin(w.sync.self, true), HX_ERR_STATE);
    OK(w.sync.finish(w.sync.self, w.stream, true));
    mlp_step(&w, 1);
    close_world(&w);
}

/* ---- parameters of several dtypes, in an order of its own on each rank ---- */

static hx_status bag_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    (void)ctx;
    (void)x;
    (void)y;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "layer %s only holds parameters", layer->name);
}

static const hx_layer_type bag_type = {.name = "bag", .n_bytes = sizeof(hx_layer), .forward = bag_forward};

static void build_bag(world *w, int64_t a_size, int n) {
    static const char *const names[] = {"a", "narrow", "b"};
    hx_param *param;
    OK(hx_layer_create(&bag_type, w->device, &w->root));
    for (int i = 0; i < n; i++)
        OK(hx_layer_param(w->root, names[i], i == 1 ? HX_F32 : HX_F64, HX_SHAPE(i == 0 ? a_size : 3), false, &param));
    OK(hx_layer_params(w->root, &w->params));
    fill_params(w, 0);
}

/* The sum of squares of a parameter, as f64 and times `scale`. */
static hx_tensor *squares_of(world *w, int which, double scale) {
    HX_AUTO_TENSOR squares = NULL;
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR scaled = NULL;
    hx_tensor *sum = NULL, *x = w->params.items[which]->value;
    OK(hx_mul(&w->ctx, x, x, &squares));
    OK(hx_cast(&w->ctx, squares, HX_F64, &wide));
    OK(hx_affine(&w->ctx, wide, scale, 0, &scaled));
    OK(hx_sum(&w->ctx, scaled, NULL, 0, false, &sum));
    return sum;
}

/* Backward of scale * (sum of squares of the parameters in `order` [n]). */
static void bag_backward(world *w, const int *order, int n, double scale) {
    HX_AUTO_TENSOR loss = squares_of(w, order[0], scale);
    for (int i = 1; i < n; i++) {
        HX_AUTO_TENSOR term = squares_of(w, order[i], scale);
        HX_AUTO_TENSOR before = hx_tensor_move(&loss);
        OK(hx_add(&w->ctx, before, term, &loss));
    }
    OK(hx_backward(&w->ctx, loss, NULL));
}

Test(ddp, ranks_that_finish_parameters_in_other_orders_fit_together) {
    static const int orders[4][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}};
    world w;
    open_world(&w, "async");
    build_bag(&w, 7, 3);
    create_ddp(&w, 1);
    cr_expect_eq(hx_ddp_n_buckets(w.ddp), 3);
    for (int step = 0; step < 20; step++) {
        reset_grads(&w);
        OK(w.sync.begin(w.sync.self, true));
        bag_backward(&w, orders[(w.rank + step) % 4], 3, w.rank + 1);
        OK(w.sync.finish(w.sync.self, w.stream, false));
        double wide[MAX_GRADS], factor = w.size * (w.size + 1); /* 2 x (1 + ... + size) */
        float narrow[MAX_GRADS];
        for (int k = 0; k < 3; k++) {
            hx_tensor *grad = hx_tensor_grad(w.params.items[k]->value);
            OK(hx_tensor_read(w.stream, grad, k == 1 ? (void *)narrow : (void *)wide));
            for (int64_t i = 0; i < hx_tensor_count(grad); i++)
                cr_assert_float_eq(k == 1 ? (double)narrow[i] : wide[i], factor * value_of(k, i, 0), k == 1 ? 1e-5 : 1e-12);
        }
    }
    close_world(&w);
}

Test(ddp, parameter_without_a_gradient_is_named_on_the_rank_where_it_took_no_part) {
    static const int all[] = {0, 1, 2}, some[] = {0, 1};
    world w;
    open_world(&w, "inline");
    build_bag(&w, 7, 3);
    create_ddp(&w, 1);
    bool unused = w.rank == w.size - 1;
    reset_grads(&w);
    OK(w.sync.begin(w.sync.self, true));
    bag_backward(&w, unused ? some : all, unused ? 2 : 3, 1);
    hx_status status = w.sync.finish(w.sync.self, w.stream, false);
    cr_expect_eq(status, unused ? HX_ERR_STATE : HX_OK);
    status = hx_comm_agree(w.comm, status);
    cr_expect_eq(status, unused ? HX_ERR_STATE : HX_ERR_REMOTE);
    cr_expect_not_null(strstr(hx_error_message(), "parameter b "), "%s", hx_error_message());
    close_world(&w);
}

Test(ddp, frozen_parameters_get_no_bucket) {
    static const int trained[] = {0, 1};
    world w;
    open_world(&w, "inline");
    build_bag(&w, 7, 3);
    w.params.items[2]->is_frozen = true;
    create_ddp(&w, 1);
    cr_expect_eq(hx_ddp_n_buckets(w.ddp), 2);
    cr_expect_null(hx_tensor_grad(w.params.items[2]->value));
    reset_grads(&w);
    OK(w.sync.begin(w.sync.self, true));
    bag_backward(&w, trained, 2, 1);
    OK(w.sync.finish(w.sync.self, w.stream, false));
    close_world(&w);
}

static void *fire_late(void *event) {
    usleep(300000);
    hx_event_fire(event, HX_ERR_NUMERIC, "the kernel broke");
    return NULL;
}

/* The values of one rank turn out bad while they are on their way: it fails with its own status, the others with it,
 * and nobody is left in a broadcast that the rank does not join. */
Test(ddp, a_rank_whose_values_fail_late_ends_all_ranks) {
    world w;
    open_world(&w, "async");
    bool is_failing = w.rank == 0; /* the one that sends */
    hx_ddp_config config = HX_DDP_DEFAULT;
    hx_ddp *ddp = NULL;
    hx_event *bad;
    pthread_t firing;
    build_mlp(&w, 0);
    OK(hx_event_create(w.device, &bad));
    if (is_failing) {
        OK(hx_event_arm(bad));
        OK(hx_event_wait(bad, w.stream));
        cr_assert_eq(pthread_create(&firing, NULL, fire_late, bad), 0);
    }
    hx_status status = hx_ddp_create(&(hx_ddp_setup){.dp = w.comm, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config}, &ddp);
    cr_expect_eq(status, is_failing ? HX_ERR_NUMERIC : HX_ERR_REMOTE, "%s", hx_error_message());
    cr_expect_not_null(strstr(hx_error_message(), "the kernel broke"), "%s", hx_error_message());
    if (is_failing) pthread_join(firing, NULL);
    OK(hx_comm_barrier(w.comm));
    hx_event_destroy(&bad);
    close_world(&w);
}

Test(ddp, models_that_differ_between_ranks_are_refused_on_all) {
    world w;
    open_world(&w, "inline");
    bool odd_one = w.rank == w.size - 1;
    hx_ddp_config config = HX_DDP_DEFAULT;
    hx_ddp *ddp = NULL;
    hx_status expected = w.size == 1 ? HX_OK : HX_ERR_CONFIG;
    build_bag(&w, odd_one ? 8 : 7, 3);
    cr_expect_eq(hx_ddp_create(&(hx_ddp_setup){.dp = w.comm, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config}, &ddp), expected);
    if (w.size > 1) cr_expect_not_null(strstr(hx_error_message(), "parameter a, f64 ["), "%s", hx_error_message());
    hx_ddp_destroy(&ddp);
    close_model(&w);
    build_bag(&w, 7, odd_one ? 2 : 3);
    cr_expect_eq(hx_ddp_create(&(hx_ddp_setup){.dp = w.comm, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config}, &ddp), expected);
    if (w.size > 1) cr_expect_not_null(strstr(hx_error_message(), "number of parameters"), "%s", hx_error_message());
    hx_ddp_destroy(&ddp);
    config.bucket_bytes = odd_one ? 0 : 1;
    cr_expect_neq(hx_ddp_create(&(hx_ddp_setup){.dp = w.comm, .device = w.device, .stream = w.stream, .params = &w.params, .config = &config}, &ddp), HX_OK);
    cr_expect_not_null(strstr(hx_error_message(), "bucket_bytes = 0"), "%s", hx_error_message());
    close_world(&w);
}
