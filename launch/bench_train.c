/* helix bench cpu: whole training steps, forward, backward, clipping and AdamW by the trainer, on a batch that stays the same, so that
 * nothing but the computation is timed. tests/bench/torch_peer.py has the same models by the same names. */
#include "core/base/mem.h"
#include "core/nn/layers.h"
#include "core/train/loss_model.h"
#include "launch/bench_impl.h"

enum { MOST_LAYERS = 10 };

typedef struct train_row {
    hx_status (*build)(const struct train_row *row, hx_device *device, hx_dtype dtype, hx_layer **out);
    int64_t batch, n_classes;  /* samples; ids that targets are below */
    int64_t ctx, layers, dim, heads; /* of a GPT */
    int64_t widths[4];         /* of an MLP: input, hidden ones */
    hx_shape input;            /* of a batch; ids where ctx > 0 */
} train_row;

typedef struct train_state {
    hx_layer *layer;
    hx_param_list params;
    hx_optim *optim;
    hx_trainer *trainer;
    hx_loss_model loss_model;
    hx_batch batch; /* owned tensors */
    hx_batch_source source;
    hx_optim_config optim_config;
    hx_train_config train_config;
} train_state;

/* ---- the models ---- */

static hx_status build_gpt(const train_row *row, hx_device *device, hx_dtype dtype, hx_layer **out) {
    hx_gpt_config config = HX_GPT_DEFAULT;
    config.vocab = row->n_classes;
    config.ctx = row->ctx;
    config.layers = row->layers;
    config.dim = row->dim;
    config.heads = row->heads;
    config.dtype = dtype == HX_BF16 ? 2 : 0; /* f32|f64|bf16|f16 */
    return hx_gpt_create(device, &config, out);
}

/* Takes the layers over, also on failure. */
static hx_status join(hx_device *device, hx_status status, hx_layer **layers, int n, hx_layer **out) {
    if (status == HX_OK) return hx_sequential_create_consume(device, layers, n, out);
    for (int i = 0; i < n; i++) hx_layer_destroy(&layers[i]);
    return status;
}

static hx_status add_mlp(const train_row *row, hx_device *device, hx_dtype dtype, hx_layer **layers, int *n) {
    for (int i = 0; row->widths[i] != 0; i++) {
        const bool is_last = row->widths[i + 1] == 0;
        HX_TRY(hx_linear_create(device, dtype, row->widths[i], is_last ? row->n_classes : row->widths[i + 1], true, &layers[(*n)++]));
        if (!is_last) HX_TRY(hx_activation_create(device, HX_OP_relu, &layers[(*n)++]));
    }
    return HX_OK;
}

static hx_status build_mlp(const train_row *row, hx_device *device, hx_dtype dtype, hx_layer **out) {
    hx_layer *layers[MOST_LAYERS] = {NULL};
    int n = 0;
    hx_status status = add_mlp(row, device, dtype, layers, &n);
    return join(device, status, layers, n, out);
}

/* Two convolutions that keep 28 x 28, a pool that halves it. */
static hx_status add_cnn(const train_row *row, hx_device *device, hx_dtype dtype, hx_layer **layers, int *n) {
    static const int64_t channels[] = {1, 32, 64}, window[] = {2, 2};
    for (int i = 0; i < 2; i++) {
        const hx_conv_layer_config conv = {.n_in = channels[i], .n_out = channels[i + 1], .kernel = {3, 3}, .padding = {1, 1}, .has_bias = true};
        HX_TRY(hx_conv_create(device, dtype, 2, &conv, &layers[(*n)++]));
        HX_TRY(hx_activation_create(device, HX_OP_relu, &layers[(*n)++]));
    }
    HX_TRY(hx_max_pool_create(device, 2, window, NULL, &layers[(*n)++]));
    HX_TRY(hx_flatten_create(device, &layers[(*n)++]));
    return hx_linear_create(device, dtype, channels[2] * 14 * 14, row->n_classes, true, &layers[(*n)++]);
}

static hx_status build_cnn(const train_row *row, hx_device *device, hx_dtype dtype, hx_layer **out) {
    hx_layer *layers[MOST_LAYERS] = {NULL};
    int n = 0;
    hx_status status = add_cnn(row, device, dtype, layers, &n);
    return join(device, status, layers, n, out);
}

/* ---- the batch ---- */

/* ids[i] = j (j + 7) / 3 mod n_ids with j = i + first: no two rows alike. */
static hx_status make_ids(hx_ctx *ctx, hx_shape shape, int64_t first, int64_t n_ids, hx_tensor **out) {
    HX_TRY(hx_tensor_create(ctx->device, HX_I32, shape, out));
    int32_t *ids = hx_tensor_data(*out);
    for (int64_t i = 0; i < hx_tensor_count(*out); i++) ids[i] = (int32_t)((i + first) * (i + first + 7) / 3 % n_ids);
    return HX_OK;
}

static hx_status make_batch(const train_row *row, hx_bench_rig *rig, hx_batch *batch) {
    hx_ctx *ctx = &rig->ctx;
    batch->n_samples = row->batch;
    HX_TRY(make_ids(ctx, row->ctx > 0 ? row->input : HX_SHAPE(row->batch), 1, row->n_classes, &batch->target));
    if (row->ctx > 0) return make_ids(ctx, row->input, 0, row->n_classes, &batch->input);
    HX_TRY(hx_tensor_create(ctx->device, rig->dtype, row->input, &batch->input));
    return hx_fill_uniform(ctx, batch->input, (hx_rng){.seed = 1, .stream = HX_RNG_USER}, 0, 0, 1);
}

static hx_status one_micro(void *self, int64_t cursor, int64_t *out) {
    (void)self, (void)cursor;
    *out = 1;
    return HX_OK;
}

static hx_status same_batch(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    (void)cursor, (void)index, (void)stream;
    *out = *(const hx_batch *)self;
    return HX_OK;
}

/* ---- a case ---- */

static hx_status make_trainer(const train_row *row, hx_bench_rig *rig, train_state *s) {
    s->optim_config = (hx_optim_config)HX_OPTIM_DEFAULT; /* AdamW, clipped at 1 */
    s->optim_config.lr = 1e-4;
    s->optim_config.weight_decay = 0.1;
    s->optim_config.beta2 = 0.95;
    s->optim_config.warmup = 0;
    s->optim_config.schedule = HX_LR_CONSTANT;
    s->train_config = (hx_train_config)HX_TRAIN_DEFAULT;
    s->train_config.steps = INT32_MAX;
    s->loss_model = (hx_loss_model){.layer = s->layer, .loss = HX_LOSS_DEFAULT};
    s->loss_model.loss.kind = HX_LOSS_CROSS_ENTROPY;
    s->source = (hx_batch_source){.self = &s->batch, .n_global = row->batch, .batch = row->batch, .n_micro = one_micro, .get = same_batch};
    HX_TRY(hx_optim_create_default(rig->ctx.device, rig->ctx.stream, &s->params, &s->optim_config, &s->optim));
    const hx_trainer_setup setup = {
        .ctx = rig->ctx,
        .model = row->ctx > 0 ? (hx_model){.self = s->layer, .root = s->layer, .loss = hx_lm_loss} : hx_loss_model_as_model(&s->loss_model),
        .optim = s->optim,
        .optim_config = &s->optim_config,
        .config = &s->train_config,
        .train = &s->source,
    };
    return hx_trainer_create(&setup, &s->trainer);
}

/* What is read and written however well the caches serve the rest: of each parameter its value, gradient and two moments, and in bf16
 * its f32 master; all of them are updated. */
static double bytes_of(const hx_bench_rig *rig, const train_state *s) {
    const double per_param = (double)hx_dtype_bytes(rig->dtype) + (rig->dtype == HX_F32 ? 12 : 16);
    return 2 * per_param * (double)hx_param_list_count(&s->params) + (double)hx_tensor_bytes(s->batch.input);
}

static hx_status open_train(hx_bench_rig *rig) {
    const train_row *row = rig->row;
    train_state *s;
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    rig->state = s;
    HX_TRY(row->build(row, rig->ctx.device, rig->dtype, &s->layer));
    HX_TRY(row->ctx > 0 ? hx_gpt_init(s->layer, rig->ctx.stream, 1) : hx_layer_init(s->layer, rig->ctx.stream, 1));
    HX_TRY(hx_layer_params(s->layer, &s->params));
    HX_TRY(make_batch(row, rig, &s->batch));
    rig->n_bytes = bytes_of(rig, s);
    return make_trainer(row, rig, s);
}

static hx_status step(hx_bench_rig *rig) {
    const train_state *s = rig->state;
    return hx_trainer_step(s->trainer, NULL);
}

static void close_train(hx_bench_rig *rig) {
    train_state *s = rig->state;
    if (s == NULL) return;
    hx_trainer_destroy(&s->trainer);
    hx_optim_destroy(&s->optim);
    hx_tensor_destroy(&s->batch.input);
    hx_tensor_destroy(&s->batch.target);
    hx_param_list_destroy(&s->params);
    hx_layer_destroy(&s->layer);
    hx_mem_free(&rig->state);
}

/* ---- the table ---- */

#define TRAIN(name_, what_, unit_, n_units_, ...)                                                                                        \
    {.name = name_, .what = what_, .row = &(const train_row){__VA_ARGS__}, .is_training = true, .unit = unit_, .n_units = n_units_,     \
     .open = open_train, .call = step, .close = close_train}
#define GPT(name_, what_, batch_, ctx_, vocab_, ...)                                                                                     \
    TRAIN(name_, what_, "tokens", (batch_) * (ctx_), .build = build_gpt, .batch = batch_, .ctx = ctx_, .n_classes = vocab_,              \
          .input = {2, {batch_, ctx_}}, __VA_ARGS__)

const hx_bench_case hx__bench_train_cases[] = {
    GPT("gpt-6l", "GPT, 6 layers of 384, 8 x 256 tokens, 256 ids", 8, 256, 256, .layers = 6, .dim = 384, .heads = 6),
    GPT("gpt2-t256", "GPT-2 124M, 4 x 256 tokens", 4, 256, 50257, .layers = 12, .dim = 768, .heads = 12),
    GPT("gpt2-t64", "GPT-2 124M, 4 x 64 tokens", 4, 64, 50257, .layers = 12, .dim = 768, .heads = 12),
    GPT("gpt-small", "GPT, 2 layers of 64, 2 x 64 tokens, 256 ids", 2, 64, 256, .layers = 2, .dim = 64, .heads = 2),
    TRAIN("mlp-784", "MLP 784-512-512-10, 128 samples", "steps", 1, .build = build_mlp, .batch = 128, .n_classes = 10,
          .widths = {784, 512, 512}, .input = {2, {128, 784}}),
    TRAIN("mlp-small", "MLP 32-64-10, 8 samples", "steps", 1, .build = build_mlp, .batch = 8, .n_classes = 10, .widths = {32, 64},
          .input = {2, {8, 32}}),
    TRAIN("cnn", "convolutions 3x3 of 32 and 64 channels, pool, linear, 64 images of 28 x 28", "steps", 1, .build = build_cnn, .batch = 64,
          .n_classes = 10, .input = {4, {64, 1, 28, 28}}),
};
const int hx__bench_n_train_cases = (int)(sizeof hx__bench_train_cases / sizeof *hx__bench_train_cases);
