/* Training in half precision: the same small GPT in f32, bf16 and f16. Halves hold parameters and activations; sums,
 * gradients and the optimizer's copy of the parameters are f32. In f16 the loss is scaled before it is differentiated, so
 * that small gradients do not vanish; the trainer finds the scale.
 *
 * The text to learn are sequences that count up modulo 16 in steps of 1 to 4.
 *
 *     mpirun -n 2 ./build/release/example_amp_train
 */
#include <math.h>
#include <stdio.h>

#include "launch/helix.h"

enum { N = 1024, T = 16, VOCAB = 16, STEPS = 500, BATCH = 32 };

static void make_sequences(int32_t x[N][T], int32_t y[N][T]) {
    const hx_rng rng = {.seed = 11, .stream = HX_RNG_USER};
    for (int i = 0; i < N; i++) {
        const int first = (int)(VOCAB * hx_rng_uniform(rng, 2 * (uint64_t)i)), step = 1 + (int)(4 * hx_rng_uniform(rng, 2 * (uint64_t)i + 1));
        for (int t = 0; t < T; t++) {
            x[i][t] = (first + t * step) % VOCAB;
            y[i][t] = (first + (t + 1) * step) % VOCAB;
        }
    }
}

/* What a training is made of, in the order in which it is made. */
typedef struct training {
    hx_layer *gpt;
    hx_param_list params;
    hx_dataset *data;
    hx_ddp *ddp;
    hx_optim *optim;
    hx_trainer *trainer;
    hx_train_event last;
} training;

static hx_status remember(void *self, const hx_train_event *event) {
    training *t = self;
    if (event->kind == HX_EVENT_STEP) t->last = *event;
    return HX_OK;
}

/* @param dtype  a word of model.dtype: 0 f32, 2 bf16, 3 f16 */
static hx_status open_model(hx_ctx *ctx, int dtype, training *t) {
    hx_gpt_config c = HX_GPT_DEFAULT;
    c.vocab = VOCAB;
    c.ctx = T;
    c.layers = 2;
    c.dim = 32;
    c.heads = 2;
    c.dtype = dtype;
    HX_TRY(hx_gpt_create(ctx->device, &c, &t->gpt));
    HX_TRY(hx_gpt_init(t->gpt, ctx->stream, 1));
    return hx_layer_params(t->gpt, &t->params);
}

static hx_status open_data(hx_ctx *ctx, hx_comm *world, training *t, hx_batch_source *source) {
    static int32_t x[N][T], y[N][T];
    make_sequences(x, y);
    const hx_sampler sampler = {.batch = BATCH, .shuffle = true, .seed = 1, .rank = hx_comm_rank(world), .size = hx_comm_size(world)};
    HX_TRY(hx_dataset_create(ctx->device, &(hx_host_array){HX_I32, HX_SHAPE(N, T), x}, &(hx_host_array){HX_I32, HX_SHAPE(N, T), y},
                             &sampler, &t->data));
    hx_dataset_source(t->data, source);
    return HX_OK;
}

static hx_status train(hx_session *session, int dtype, training *t) {
    hx_ctx *ctx = hx_session_ctx(session);
    hx_comm *world = hx_session_world(session);
    hx_train_config config = HX_TRAIN_DEFAULT;
    hx_optim_config optim = HX_OPTIM_DEFAULT;
    const hx_ddp_config ddp = HX_DDP_DEFAULT;
    hx_batch_source source;
    hx_agreement agreement;
    hx_grad_sync sync;
    config.steps = STEPS;
    optim.lr = 1e-2;
    HX_TRY(open_model(ctx, dtype, t));
    HX_TRY(open_data(ctx, world, t, &source));
    HX_TRY(hx_ddp_create(&(hx_ddp_setup){.dp = world, .device = ctx->device, .stream = ctx->stream, .params = &t->params, .config = &ddp}, &t->ddp));
    HX_TRY(hx_optim_create_default(ctx->device, ctx->stream, &t->params, &optim, &t->optim));
    hx_ddp_hook(t->ddp, &sync);
    hx_comm_agreement(world, &agreement);
    const hx_trainer_setup setup = {.ctx = *ctx, .model = {.self = t->gpt, .root = t->gpt, .loss = hx_lm_loss}, .optim = t->optim,
                                    .optim_config = &optim, .config = &config, .train = &source, .agreement = &agreement,
                                    .sync = &sync, .on_event = remember, .on_event_self = t};
    HX_TRY(hx_trainer_create(&setup, &t->trainer));
    return hx_trainer_run(t->trainer);
}

static void take_apart(training *t) {
    hx_trainer_destroy(&t->trainer);
    hx_optim_destroy(&t->optim);
    hx_ddp_destroy(&t->ddp);
    hx_dataset_destroy(&t->data);
    hx_param_list_destroy(&t->params);
    hx_layer_destroy(&t->gpt);
}

/* What cannot be foretold is the step, by the first token alone: log(4)/16 = 0.087 is the least possible loss. */
static hx_status run(hx_session *session) {
    static const struct {
        const char *name;
        int dtype;
    } types[] = {{"f32", 0}, {"bf16", 2}, {"f16", 3}};
    double loss[3];
    for (int i = 0; i < 3; i++) {
        training t = {.params = {0}};
        hx_status status = train(session, types[i].dtype, &t);
        loss[i] = t.last.loss;
        if (status == HX_OK && hx_comm_rank(hx_session_world(session)) == 0)
            printf("%-5s loss %.4f after %d steps, loss scale %g\n", types[i].name, loss[i], STEPS, t.last.loss_scale);
        take_apart(&t);
        HX_TRY(status);
        if (!(fabs(loss[i] - loss[0]) < 0.02 && loss[i] < 0.15))
            return HX_FAIL(HX_ERR_NUMERIC, "%s: loss %g: expected less than 0.15 and that of f32, %g, to 0.02", types[i].name, loss[i], loss[0]);
    }
    return HX_OK;
}

int main(void) {
    hx_config config = HX_CONFIG_DEFAULT;
    hx_session *session = NULL;
    hx_status status = hx_session_open(&config, &session);
    if (status == HX_OK) status = run(session);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    hx_session_close(&session);
    return hx_status_exit_code(status);
}
