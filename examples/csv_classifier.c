/* A classifier of the rows of a CSV file: all columns but "kind" are numbers, "kind" names the class. Four fifths of the rows are trained
 * on, the last fifth is held out; on any number of ranks by one call. Rows should stand in no particular order: `shuf` makes that so.
 *
 *     awk -v OFS=, 'BEGIN {print "length,width,weight,kind"; for (i = 0; i < 600; i++) {k = i % 3; l = rand(); w = rand()
 *          print l + k, w - k, l * w + k * k, (k == 0 ? "oak" : k == 1 ? "beech" : "maple")}}' >leaves.csv
 *     mpirun -n 2 ./build/release/example_csv_classifier --data.path leaves.csv --out=runs/leaves
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

enum { HIDDEN = 32 };

/* ---- the data ---- */

/* Each column to mean 0 and deviation 1, as a net likes its inputs. */
static void normalise(hx_table *t) {
    const int64_t n = t->x.shape.dims[0], m = t->x.shape.dims[1];
    float *x = (float *)(uintptr_t)t->x.data;
    for (int64_t c = 0; c < m; c++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < n; i++) sum += x[i * m + c];
        for (int64_t i = 0; i < n; i++) squares += (x[i * m + c] - sum / (double)n) * (x[i * m + c] - sum / (double)n);
        const double deviation = sqrt(squares / (double)n);
        for (int64_t i = 0; i < n; i++) x[i * m + c] = (float)((x[i * m + c] - sum / (double)n) / (deviation > 0 ? deviation : 1));
    }
}

/* Rows [first, end) as a source of batches; those of the evaluation come in order. */
static hx_status open_rows(hx_session *session, const hx_table *t, int64_t first, int64_t end, hx_dataset **out) {
    const hx_config *c = hx_session_config(session);
    const hx_comm *dp = hx_mesh_axis(hx_session_mesh(session), HX_AXIS_DP);
    const int64_t m = t->x.shape.dims[1];
    const hx_host_array x = {HX_F32, HX_SHAPE(end - first, m), (const float *)t->x.data + first * m};
    const hx_host_array y = {HX_I32, HX_SHAPE(end - first), (const int32_t *)t->y.data + first};
    const hx_sampler sampler = {.batch = c->train.batch, .micro_batch = c->train.micro_batch, .shuffle = first == 0, .last = HX_LAST_SHORT,
                                .seed = (uint64_t)c->train.seed, .rank = hx_comm_rank(dp), .size = hx_comm_size(dp)};
    return hx_dataset_create(hx_session_ctx(session)->device, &x, &y, &sampler, out);
}

/* ---- the net: two linear layers ---- */

static hx_status net_create(const hx_ctx *ctx, int64_t n_features, int64_t n_classes, hx_layer **out) {
    hx_layer *l[3] = {0}, *net = NULL;
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_linear_create(ctx->device, HX_F32, n_features, HIDDEN, true, &l[0]), done);
    HX_TRY_GOTO(hx_activation_create(ctx->device, HX_OP_relu, &l[1]), done);
    HX_TRY_GOTO(hx_linear_create(ctx->device, HX_F32, HIDDEN, n_classes, true, &l[2]), done);
    HX_TRY_GOTO(hx_sequential_create_consume(ctx->device, l, 3, &net), done);
    HX_TRY_GOTO(hx_layer_init(net, ctx->stream, ctx->seed), done);
    *out = net;
    net = NULL;
done:
    hx_layer_destroy(&net);
    for (int i = 0; i < 3; i++) hx_layer_destroy(&l[i]);
    return status;
}

/* ---- the run ---- */

static hx_status train(hx_session *session, const hx_table *t, hx_layer *net, hx_dataset *data, hx_dataset *held) {
    hx_loss_model loss = {.layer = net, .loss = HX_LOSS_DEFAULT};
    loss.loss.kind = HX_LOSS_CROSS_ENTROPY;
    const hx_model model = hx_loss_model_as_model(&loss);
    hx_batch_source source, held_source;
    hx_metrics *metrics;
    hx_dataset_source(data, &source);
    hx_dataset_source(held, &held_source);
    HX_TRY(hx_metrics_create(&(hx_metrics_config){.n_classes = (int)t->n_classes}, &metrics));
    const hx_status status = hx_session_train(session, &model, &(hx_train_parts){.train = &source, .eval = &held_source, .metrics = metrics});
    if (status == HX_OK && hx_comm_rank(hx_session_world(session)) == 0)
        printf("accuracy %.4f on rows that were not trained on, %lld classes, the first is %s\n", hx_metrics_value(metrics, 0, NULL),
               (long long)t->n_classes, t->classes[0]);
    hx_metrics_destroy(&metrics);
    return status;
}

static hx_status run_on(hx_session *session, hx_table *t) {
    const int64_t n = t->x.shape.dims[0], split = n - n / 5;
    hx_layer *net = NULL;
    hx_dataset *data = NULL, *held = NULL;
    hx_status status = HX_OK;
    normalise(t);
    HX_TRY_GOTO(net_create(hx_session_ctx(session), t->x.shape.dims[1], t->n_classes, &net), done);
    HX_TRY_GOTO(open_rows(session, t, 0, split, &data), done);
    HX_TRY_GOTO(open_rows(session, t, split, n, &held), done);
    HX_TRY_GOTO(train(session, t, net, data, held), done);
done:
    hx_dataset_destroy(&held);
    hx_dataset_destroy(&data);
    hx_layer_destroy(&net);
    return status;
}

static hx_status run(int argc, char **argv, hx_session **session) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_table table;
    config.train.epochs = 20;
    config.optim.lr = 1e-2;
    snprintf(config.run.out, sizeof config.run.out, "runs/table");
    HX_TRY(hx_config_read(&config, NULL, argc - 1, argv + 1, NULL));
    HX_TRY(hx_table_read_csv(config.data.path, &(hx_table_config){.target = "kind", .is_class = true}, &table));
    hx_status status = hx_session_open(&config, session);
    if (status == HX_OK) status = run_on(*session, &table);
    hx_table_destroy(&table);
    return status;
}

int main(int argc, char **argv) {
    hx_session *session = NULL;
    hx_status status = run(argc, argv, &session);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    hx_session_close(&session);
    return hx_status_exit_code(status);
}
