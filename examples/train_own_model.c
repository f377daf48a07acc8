/* A model and data of your own, trained on any number of ranks by the same call that the helix program uses:
 * gradients summed over ranks, AdamW, checkpoints, metrics.
 *
 * The model learns to add angles: from (a, b) it predicts sin(a + b), with a layer of our own that has two linear
 * layers inside. The data are made on the fly from the sample's number, so every rank can make its own share.
 *
 *     mpirun -n 2 ./build/release/example_train_own_model --out=runs/angles
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

/* ---- the layer: x [B,2] -> tanh(x W1 + b1) W2 + b2 [B,1] ---- */

typedef struct angle_net {
    hx_layer base;
    hx_layer *in, *out; /* borrowed: the base owns its children */
} angle_net;

static hx_status angle_forward(hx_layer *layer, hx_ctx *ctx, hx_tensor *x, hx_tensor **y) {
    angle_net *net = (angle_net *)layer;
    HX_AUTO_TENSOR hidden = NULL;
    HX_AUTO_TENSOR active = NULL;
    HX_TRY(hx_layer_forward(net->in, ctx, x, &hidden));
    HX_TRY(hx_unary(ctx, HX_OP_tanh, hidden, &active));
    return hx_layer_forward(net->out, ctx, active, y);
}

static const hx_layer_type angle_type = {.name = "angle_net", .n_bytes = sizeof(angle_net), .forward = angle_forward};

/* Matrices are drawn, vectors (the biases) start at zero. */
static hx_status init_params(hx_layer *root, hx_stream *stream) {
    hx_param_list params = {0};
    hx_status status = hx_layer_params(root, &params);
    for (int64_t i = 0; status == HX_OK && i < params.n_items; i++) {
        bool is_matrix = hx_tensor_ndim(params.items[i]->value) == 2;
        status = hx_param_init(params.items[i], stream, 1, is_matrix ? HX_INIT_UNIFORM : HX_INIT_ZEROS, 0.5);
    }
    hx_param_list_destroy(&params);
    return status;
}

static hx_status angle_create(hx_session *session, hx_layer **out) {
    hx_ctx *ctx = hx_session_ctx(session);
    hx_layer *net = NULL, *in = NULL, *last = NULL;
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_layer_create(&angle_type, ctx->device, &net), failed);
    HX_TRY_GOTO(hx_linear_create(ctx->device, HX_F32, 2, 64, true, &in), failed);
    ((angle_net *)net)->in = in;
    HX_TRY_GOTO(hx_layer_add_consume(net, "in", &in), failed);
    HX_TRY_GOTO(hx_linear_create(ctx->device, HX_F32, 64, 1, true, &last), failed);
    ((angle_net *)net)->out = last;
    HX_TRY_GOTO(hx_layer_add_consume(net, "out", &last), failed);
    HX_TRY_GOTO(init_params(net, ctx->stream), failed);
    *out = net;
    return HX_OK;
failed:
    hx_layer_destroy(&last);
    hx_layer_destroy(&in);
    hx_layer_destroy(&net);
    return status;
}

/* ---- the loss: summed squares and their count, so that ranks with uneven shares still agree on the mean ---- */

static hx_status angle_loss(void *self, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss_sum, hx_tensor **count) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR difference = NULL;
    HX_AUTO_TENSOR square = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR n = NULL;
    HX_TRY(hx_layer_forward(self, ctx, batch->input, &y));
    HX_TRY(hx_sub(ctx, y, batch->target, &difference));
    HX_TRY(hx_mul(ctx, difference, difference, &square));
    HX_TRY(hx_sum(ctx, square, NULL, 0, false, &sum));
    HX_TRY(hx_tensor_create(ctx->device, HX_I64, HX_SCALAR, &n));
    HX_TRY(hx_tensor_write(ctx->stream, n, &batch->n_samples));
    HX_TRY(hx_cast(ctx, sum, HX_F64, loss_sum));
    *count = hx_tensor_move(&n);
    return HX_OK;
}

/* ---- the data: sample i is a function of i; this rank takes its share of each global batch ---- */

enum { BATCH = 64, MAX_SHARE = BATCH };

typedef struct angle_data {
    int rank, size;
    int64_t first; /* number of the source's sample 0, which keeps training and evaluation apart */
    hx_device *device;
    hx_tensor *input, *target; /* of the last call; owned */
} angle_data;

static hx_status angle_n_micro(void *self, int64_t cursor, int64_t *out) {
    (void)self, (void)cursor;
    *out = 1;
    return HX_OK;
}

static hx_status angle_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    angle_data *d = self;
    (void)index;
    int64_t begin = (int64_t)BATCH * d->rank / d->size, end = (int64_t)BATCH * (d->rank + 1) / d->size, n = end - begin;
    float x[2 * MAX_SHARE], y[MAX_SHARE];
    hx_rng rng = {.seed = 5, .stream = HX_RNG_USER};
    for (int64_t i = 0; i < n; i++) {
        uint64_t sample = (uint64_t)(d->first + cursor + begin + i);
        double a = 4 * hx_rng_uniform(rng, 2 * sample) - 2, b = 4 * hx_rng_uniform(rng, 2 * sample + 1) - 2;
        x[2 * i] = (float)a;
        x[2 * i + 1] = (float)b;
        y[i] = (float)sin(a + b);
    }
    hx_tensor_destroy(&d->input);
    hx_tensor_destroy(&d->target);
    HX_TRY(hx_tensor_create(d->device, HX_F32, HX_SHAPE(n, 2), &d->input));
    HX_TRY(hx_tensor_create(d->device, HX_F32, HX_SHAPE(n, 1), &d->target));
    HX_TRY(hx_tensor_write(stream, d->input, x));
    HX_TRY(hx_tensor_write(stream, d->target, y));
    *out = (hx_batch){.input = d->input, .target = d->target, .n_samples = n, .sample_base = begin};
    return HX_OK;
}

static hx_batch_source angle_source(angle_data *data, int64_t n_samples) {
    return (hx_batch_source){.self = data, .n_global = n_samples, .batch = BATCH, .n_micro = angle_n_micro, .get = angle_get};
}

static void angle_data_clear(angle_data *data) {
    hx_tensor_destroy(&data->input);
    hx_tensor_destroy(&data->target);
}

/* ---- the run ---- */

/* Trains, then checks the number that matters: the error on points that were not trained on. */
static hx_status train(hx_session *session, hx_layer *net) {
    hx_comm *world = hx_session_world(session), *dp = hx_mesh_axis(hx_session_mesh(session), HX_AXIS_DP);
    angle_data train_data = {.rank = hx_comm_rank(dp), .size = hx_comm_size(dp), .device = hx_session_ctx(session)->device};
    angle_data eval_data = train_data;
    eval_data.first = 1 << 24;
    hx_batch_source train_source = angle_source(&train_data, BATCH * 1000), eval_source = angle_source(&eval_data, BATCH * 8);
    hx_model model = {.self = net, .root = net, .loss = angle_loss};
    hx_train_parts parts = {.train = &train_source, .eval = &eval_source};
    double loss = 0;
    double count = 0;
    hx_status status = hx_session_train(session, &model, &parts);
    if (status == HX_OK) status = hx_session_eval(session, &model, &eval_source, &loss, &count);
    if (status == HX_OK && hx_comm_rank(world) == 0) printf("mean squared error %.6f over %g points\n", loss, count);
    if (status == HX_OK && !(loss < 0.01)) status = HX_FAIL(HX_ERR_NUMERIC, "mean squared error %g: expected less than 0.01", loss);
    angle_data_clear(&train_data);
    angle_data_clear(&eval_data);
    return status;
}

static hx_status run(int argc, char **argv, hx_session **session) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_layer *net = NULL;
    config.train.steps = 1000;
    config.train.batch = BATCH;
    config.train.log_every = 200;
    config.train.eval_every = 500;
    config.optim.lr = 1e-2;
    config.optim.weight_decay = 0;
    snprintf(config.run.out, sizeof config.run.out, "runs/angles");
    HX_TRY(hx_config_read(&config, NULL, argc - 1, argv + 1, NULL));
    HX_TRY(hx_session_open(&config, session));
    HX_TRY(angle_create(*session, &net));
    hx_status status = train(*session, net);
    hx_layer_destroy(&net);
    return status;
}

int main(int argc, char **argv) {
    hx_session *session = NULL;
    hx_status status = run(argc, argv, &session);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    hx_session_close(&session);
    return hx_status_exit_code(status);
}
