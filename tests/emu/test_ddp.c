/* Data parallelism on an emulated GPU for each rank, staged and by NCCL. The loss is the sum of w * x with whole numbers, so
 * that the gradient of w, the sum of all ranks' x, is exact in any order. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "dist/dp/ddp.h"
#include "launch/plugin.h"
#include "tests/support/expect.h"

enum { N_PARAMS = 4, MOST = 300 };
static const int64_t sizes[N_PARAMS] = {5, MOST, 1, 64};

typedef struct world {
    hx_comm *comm;
    int rank, size;
    const hx_plugin *plugin;
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
    hx_layer *root;
    hx_param_list params;
    hx_ddp *ddp;
    hx_grad_sync sync;
} world;

static float x_of(int rank, int which, int64_t i) { return (float)((rank * 5 + which * 3 + (int)i) % 13 - 6); }

static hx_status bag_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    (void)ctx;
    (void)x;
    (void)y;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "layer %s only holds parameters", layer->name);
}

static const hx_layer_type bag_type = {.name = "bag", .n_bytes = sizeof(hx_layer), .forward = bag_forward};

static void open_world(world *w, bool with_nccl, int64_t bucket_bytes) {
    static const char *const names[N_PARAMS] = {"a", "b", "c", "d"};
    hx_ddp_config config = HX_DDP_DEFAULT;
    hx_param *param;
    float values[MOST];
    memset(w, 0, sizeof *w);
    OK(hx_comm_mpi_open(&w->comm));
    w->rank = hx_comm_rank(w->comm);
    w->size = hx_comm_size(w->comm);
    OK(hx_plugin_cuda(&w->plugin));
    OK(hx_device_open("cuda", NULL, &w->device));
    OK(hx_stream_create(w->device, &w->stream));
    OK(hx_tape_create(w->device, &w->tape));
    w->ctx = (hx_ctx){.device = w->device, .stream = w->stream, .tape = w->tape, .training = true};
    if (with_nccl) OK(w->plugin->comm_attach(w->comm, w->stream));
    OK(hx_layer_create(&bag_type, w->device, &w->root));
    for (int k = 0; k < N_PARAMS; k++) {
        OK(hx_layer_param(w->root, names[k], HX_F32, HX_SHAPE(sizes[k]), false, &param));
        for (int64_t i = 0; i < sizes[k]; i++) values[i] = (float)(w->rank * 1000 + i);
        OK(hx_tensor_write(w->stream, param->value, values));
    }
    OK(hx_layer_params(w->root, &w->params));
    config.bucket_bytes = bucket_bytes;
    OK(hx_ddp_create(&(hx_ddp_setup){.dp = w->comm, .device = w->device, .stream = w->stream, .params = &w->params, .config = &config}, &w->ddp));
    hx_ddp_hook(w->ddp, &w->sync);
    hx_tape_set_ready_hook(w->tape, w->sync.ready, w->sync.self);
}

static void close_world(world *w) {
    hx_ddp_destroy(&w->ddp);
    hx_param_list_destroy(&w->params);
    hx_layer_destroy(&w->root);
    hx_tape_destroy(&w->tape);
    hx_stream_destroy(&w->stream);
    hx_comm_close(&w->comm);
    hx_device_close(&w->device);
}

/* Parameter k's part of the loss. */
static hx_tensor *term_of(world *w, int k) {
    HX_AUTO_TENSOR x = NULL;
    HX_AUTO_TENSOR product = NULL;
    hx_tensor *sum = NULL;
    float values[MOST];
    for (int64_t i = 0; i < sizes[k]; i++) values[i] = x_of(w->rank, k, i);
    OK(hx_tensor_create(w->device, HX_F32, HX_SHAPE(sizes[k]), &x));
    OK(hx_tensor_write(w->stream, x, values));
    OK(hx_mul(&w->ctx, w->params.items[k]->value, x, &product));
    OK(hx_sum(&w->ctx, product, NULL, 0, false, &sum));
    return sum;
}

static void backward(world *w) {
    HX_AUTO_TENSOR loss = term_of(w, 0);
    for (int k = 1; k < N_PARAMS; k++) {
        HX_AUTO_TENSOR term = term_of(w, k);
        HX_AUTO_TENSOR before = hx_tensor_move(&loss);
        OK(hx_add(&w->ctx, before, term, &loss));
    }
    OK(hx_backward(&w->ctx, loss, NULL));
}

static void check_step(world *w) {
    float found[MOST];
    for (int k = 0; k < N_PARAMS; k++) hx_tensor_grad_reset(w->params.items[k]->value);
    OK(w->sync.begin(w->sync.self, true));
    backward(w);
    OK(w->sync.finish(w->sync.self, w->stream, false));
    for (int k = 0; k < N_PARAMS; k++) {
        OK(hx_tensor_read(w->stream, hx_tensor_grad(w->params.items[k]->value), found));
        for (int64_t i = 0; i < sizes[k]; i++) {
            float sum = 0;
            for (int rank = 0; rank < w->size; rank++) sum += x_of(rank, k, i);
            cr_assert_eq(found[i], sum, "parameter %d, element %lld: %g, expected %g", k, (long long)i, (double)found[i], (double)sum);
        }
    }
}

static void check_training(bool with_nccl) {
    world w;
    float found[MOST];
    open_world(&w, with_nccl, 64);
    for (int k = 0; k < N_PARAMS; k++) { /* rank 0's values came to all */
        OK(hx_tensor_read(w.stream, w.params.items[k]->value, found));
        for (int64_t i = 0; i < sizes[k]; i++) cr_assert_eq(found[i], (float)i);
    }
    for (int step = 0; step < 5; step++) check_step(&w);
    close_world(&w);
}

Test(emu_ddp, staged_gradients_are_the_sum_over_ranks) { check_training(false); }

Test(emu_ddp, nccl_gradients_are_the_sum_over_ranks) { check_training(true); }

/* The events of a device fire although what they stand for was aborted: finish has to ask. */
Test(emu_ddp, a_reduction_that_is_stuck_fails_the_step_and_is_named) {
    world w;
    setenv("HELIX_NCCL_TIMEOUT", "1", 1);
    open_world(&w, true, 1 << 20);
    check_step(&w);
    setenv("HELIX_EMU_NCCL", "stall:6", 1); /* after the parameters' broadcasts and the first step's bucket */
    for (int k = 0; k < N_PARAMS; k++) hx_tensor_grad_reset(w.params.items[k]->value);
    OK(w.sync.begin(w.sync.self, true));
    backward(&w);
    cr_expect_eq(w.sync.finish(w.sync.self, w.stream, false), w.size > 1 ? HX_ERR_COMM : HX_OK);
    if (w.size > 1) cr_expect_not_null(strstr(hx_error_message(), "nccl all_reduce of "), "%s", hx_error_message());
    close_world(&w);
}
