/* An image classifier: a small convolutional network with batch norm and pooling, cross-entropy with smoothed labels, a
 * data set in memory, accuracy as a metric; on any number of ranks by one call.
 *
 * The images are made here: 12 x 12 pixels of noise with a bright bar that lies, stands, rises or falls somewhere in it.
 *
 *     mpirun -n 2 ./build/release/example_image_classifier --out=runs/images
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

enum { SIDE = 12, PIXELS = SIDE * SIDE, BAR = 7, CLASSES = 4, N_TRAIN = 2048, N_EVAL = 512 };

/* ---- the data ---- */

typedef struct images {
    float pixels[N_TRAIN + N_EVAL][PIXELS]; /* one channel, rows one after the other */
    int32_t labels[N_TRAIN + N_EVAL];
} images;

/* Image i is a function of i: every rank makes the same ones. */
static void make_images(images *out) {
    static const int step[CLASSES][2] = {{0, 1}, {1, 0}, {-1, 1}, {1, 1}}; /* of the bar, in rows and columns */
    const hx_rng rng = {.seed = 7, .stream = HX_RNG_USER};
    uint64_t n = 0;
    for (int i = 0; i < N_TRAIN + N_EVAL; i++) {
        const int label = (int)(CLASSES * hx_rng_uniform(rng, n++)), *d = step[label];
        const int rows = d[0] == 0 ? SIDE : SIDE - BAR + 1, columns = d[1] == 0 ? SIDE : SIDE - BAR + 1; /* free places */
        const int top = (int)(rows * hx_rng_uniform(rng, n++)), left = (int)(columns * hx_rng_uniform(rng, n++));
        const int first = d[0] < 0 ? top + BAR - 1 : top;
        for (int p = 0; p < PIXELS; p++) out->pixels[i][p] = (float)(0.6 * hx_rng_normal(rng, n++));
        for (int k = 0; k < BAR; k++) out->pixels[i][(first + k * d[0]) * SIDE + left + k * d[1]] += 1.5f;
        out->labels[i] = label;
    }
}

/* Samples [first, first + n) as a source of batches; those of the evaluation come in order. */
static hx_status open_data(hx_session *session, const images *all, int64_t first, int64_t n, hx_dataset **out) {
    const hx_config *c = hx_session_config(session);
    hx_comm *world = hx_session_world(session);
    const hx_host_array x = {HX_F32, HX_SHAPE(n, 1, SIDE, SIDE), all->pixels[first]}, y = {HX_I32, HX_SHAPE(n), all->labels + first};
    const hx_sampler sampler = {.batch = c->train.batch, .micro_batch = c->train.micro_batch, .shuffle = first == 0 && c->train.shuffle,
                                .seed = (uint64_t)c->train.seed, .rank = hx_comm_rank(world), .size = hx_comm_size(world)};
    return hx_dataset_create(hx_session_ctx(session)->device, &x, &y, &sampler, out);
}

/* ---- the network: [B,1,12,12] -> [B,8,6,6] -> [B,16,3,3] -> [B,4] ---- */

static hx_status block_create(hx_device *device, int64_t n_in, int64_t n_out, hx_layer **out) {
    const hx_conv_layer_config conv = {.n_in = n_in, .n_out = n_out, .kernel = {3, 3}, .padding = {1, 1}};
    hx_layer *l[4] = {0};
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_conv_create(device, HX_F32, 2, &conv, &l[0]), done);
    HX_TRY_GOTO(hx_batchnorm_create(device, HX_F32, n_out, NULL, &l[1]), done);
    HX_TRY_GOTO(hx_activation_create(device, HX_OP_relu, &l[2]), done);
    HX_TRY_GOTO(hx_max_pool_create(device, 2, (int64_t[]){2, 2}, NULL, &l[3]), done);
    HX_TRY_GOTO(hx_sequential_create_consume(device, l, 4, out), done);
done:
    for (int i = 0; i < 4; i++) hx_layer_destroy(&l[i]);
    return status;
}

static hx_status net_create(const hx_ctx *ctx, hx_layer **out) {
    hx_layer *l[4] = {0}, *net = NULL;
    hx_status status = HX_OK;
    HX_TRY_GOTO(block_create(ctx->device, 1, 8, &l[0]), done);
    HX_TRY_GOTO(block_create(ctx->device, 8, 16, &l[1]), done);
    HX_TRY_GOTO(hx_flatten_create(ctx->device, &l[2]), done);
    HX_TRY_GOTO(hx_linear_create(ctx->device, HX_F32, 16 * 3 * 3, CLASSES, true, &l[3]), done);
    HX_TRY_GOTO(hx_sequential_create_consume(ctx->device, l, 4, &net), done);
    HX_TRY_GOTO(hx_layer_init(net, ctx->stream, ctx->seed), done);
    *out = net;
    net = NULL;
done:
    hx_layer_destroy(&net);
    for (int i = 0; i < 4; i++) hx_layer_destroy(&l[i]);
    return status;
}

/* ---- the run ---- */

static hx_status train(hx_session *session, hx_layer *net, hx_dataset *data, hx_dataset *held, hx_metrics *metrics) {
    hx_loss_model loss = {.layer = net, .loss = HX_LOSS_DEFAULT};
    loss.loss.kind = HX_LOSS_CROSS_ENTROPY;
    loss.loss.smoothing = 0.1;
    const hx_model model = hx_loss_model_as_model(&loss);
    hx_batch_source source, held_source;
    hx_dataset_source(data, &source);
    hx_dataset_source(held, &held_source);
    HX_TRY(hx_session_train(session, &model, &(hx_train_parts){.train = &source, .eval = &held_source, .metrics = metrics}));
    const double accuracy = hx_metrics_value(metrics, 0, NULL); /* of the last evaluation, over all ranks */
    if (hx_comm_rank(hx_session_world(session)) == 0) printf("accuracy %.4f on %d images that were not trained on\n", accuracy, N_EVAL);
    if (!(accuracy > 0.95)) return HX_FAIL(HX_ERR_NUMERIC, "accuracy %g: expected more than 0.95", accuracy);
    return HX_OK;
}

static hx_status run(int argc, char **argv, hx_session **session) {
    static images all;
    hx_config config = HX_CONFIG_DEFAULT;
    hx_layer *net = NULL;
    hx_dataset *data = NULL, *held = NULL;
    hx_metrics *metrics = NULL;
    hx_status status = HX_OK;
    config.train.epochs = 10;
    config.optim.lr = 5e-3;
    snprintf(config.run.out, sizeof config.run.out, "runs/images");
    make_images(&all);
    HX_TRY(hx_config_read(&config, NULL, argc - 1, argv + 1, NULL));
    HX_TRY(hx_session_open(&config, session));
    HX_TRY_GOTO(net_create(hx_session_ctx(*session), &net), done);
    HX_TRY_GOTO(open_data(*session, &all, 0, N_TRAIN, &data), done);
    HX_TRY_GOTO(open_data(*session, &all, N_TRAIN, N_EVAL, &held), done);
    HX_TRY_GOTO(hx_metrics_create(&(hx_metrics_config){.n_classes = CLASSES}, &metrics), done);
    HX_TRY_GOTO(train(*session, net, data, held, metrics), done);
done:
    hx_metrics_destroy(&metrics);
    hx_dataset_destroy(&held);
    hx_dataset_destroy(&data);
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
