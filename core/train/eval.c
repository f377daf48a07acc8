/* Evaluation: no tape, no dropout; nothing of the model or the training state changes, if averages of the weights take
 * their place for its time. */
#include <math.h>
#include "core/base/trace.h"
#include "core/train/trainer_impl.h"

/* What one evaluation adds up. */
typedef struct share {
    hx_ctx ctx;
    const hx_model *model;
    const hx_batch_source *source;
    hx_metrics *metrics; /* NULL: none */
    const hx_leaves *leaves; /* NULL: the source deals micro-batches out */
    hx__loss_sums *sums;
} share;

static hx_status run_micro(share *s, const hx_batch *batch) {
    HX_AUTO_TENSOR loss = NULL;
    HX_AUTO_TENSOR scores = NULL;
    HX_TRY(hx__loss_add(s->sums, s->model, &s->ctx, batch, &loss, s->metrics != NULL ? &scores : NULL));
    return s->metrics != NULL ? hx_metrics_update(s->metrics, s->ctx.stream, scores, batch->target) : HX_OK;
}

static hx_status run_batch(share *s, int64_t cursor) {
    const int64_t first = s->leaves != NULL ? s->leaves->rank : 0, stride = s->leaves != NULL ? s->leaves->size : 1;
    int64_t n_micro;
    HX_TRY(s->source->n_micro(s->source->self, cursor, &n_micro));
    for (int64_t i = first; i < n_micro; i += stride) {
        hx_batch batch;
        HX_TRY(s->source->get(s->source->self, cursor, i, s->ctx.stream, &batch));
        HX_TRY(run_micro(s, &batch));
    }
    return HX_OK;
}

static hx_status check_share(const hx_model *model, const hx_batch_source *source, const hx_metrics *metrics) {
    if (source->batch < 1)
        return HX_FAIL(HX_ERR_ARG, "the source's batch is %lld: expected at least 1", (long long)source->batch);
    if (metrics != NULL && model->loss_scores == NULL)
        return HX_FAIL(HX_ERR_ARG, "metrics need a model with loss_scores");
    return HX_OK;
}

hx_status hx_eval_share(const hx_ctx *ctx, const hx_model *model, const hx_batch_source *source, int64_t n_batches,
                        const hx_leaves *leaves, hx_metrics *metrics, double sums[2]) {
    const bool is_elastic = leaves != NULL && leaves->n > 0;
    HX_CLEANUP(hx__loss_sums_destroy) hx__loss_sums on_device = {.all = NULL};
    double values[HX__SUM_N];
    HX_TRY(check_share(model, source, metrics));
    HX_TRY(hx__loss_sums_create(ctx->device, ctx->stream, is_elastic, &on_device));
    share s = {.ctx = *ctx, .model = model, .source = source, .metrics = metrics, .leaves = is_elastic ? leaves : NULL,
               .sums = &on_device};
    s.ctx.tape = NULL;
    s.ctx.training = false;
    const int64_t all = source->n_global / source->batch + (source->n_global % source->batch != 0);
    if (n_batches <= 0 || n_batches > all) n_batches = all;
    for (int64_t i = 0; i < n_batches; i++) HX_TRY(run_batch(&s, i * source->batch));
    HX_TRY(hx__loss_sums_read(&on_device, ctx->stream, values));
    sums[0] = values[HX__SUM_LOSS];
    sums[1] = values[HX__SUM_COUNT];
    if (metrics != NULL) hx_metrics_add_loss(metrics, sums[0], sums[1]);
    return HX_OK;
}

/* The parameters come back also when the evaluation of their averages fails. */
static hx_status run_share(hx_trainer *t, double sums[2]) {
    const hx_trainer_setup *s = &t->setup;
    hx_status back = HX_OK;
    t->quiet.seed = t->state.seed;
    if (s->metrics != NULL) hx_metrics_reset(s->metrics);
    if (t->ema != NULL) {
        hx__trainer_settle(t);
        HX_TRY(hx_ema_swap(t->ema, &t->quiet));
    }
    const hx_leaves *leaves = hx__trainer_is_elastic(t) ? &s->sync->leaves : NULL;
    const hx_status status = HX_TRACED(
        HX_SPAN_EVAL, "evaluation", hx_eval_share(&t->quiet, &s->model, s->eval, s->config->eval_batches, leaves, s->metrics, sums));
    if (t->ema != NULL) back = hx_ema_swap(t->ema, &t->quiet);
    return status != HX_OK ? status : back;
}

hx_status hx_trainer_eval(hx_trainer *trainer, hx_train_event *event) {
    hx_trainer *t = trainer;
    const hx_agreement *agreement = t->setup.agreement;
    const double began = hx__seconds_now();
    double sums[2] = {0}, values[HX__RED_N] = {0};
    if (t->setup.eval == NULL)
        return HX_FAIL(HX_ERR_STATE, "the trainer was set up without an evaluation source");
    HX_TRY(hx__trainer_mean_buffers(t));
    if (t->failure == HX_OK) hx__trainer_note(t, run_share(t, sums));
    if (hx__trainer_is_lost(t)) return hx_error_adopt(t->failure, t->failure_text);
    if (t->failure == HX_OK) {
        values[HX__RED_LOSS] = sums[0];
        values[HX__RED_COUNT] = sums[1];
    } else {
        values[HX__RED_FAILED] = 1;
    }
    HX_TRY(hx__trainer_reduce(t, values));
    if (t->setup.metrics != NULL && agreement != NULL && agreement->sum != NULL)
        HX_TRY(hx_metrics_reduce(t->setup.metrics, agreement));
    const double seconds = hx__seconds_now() - began;
    t->unbooked_s += seconds;
    hx__trainer_event(t, HX_EVENT_EVAL, seconds);
    t->event.loss = values[HX__RED_LOSS] / values[HX__RED_COUNT];
    t->event.count = values[HX__RED_COUNT];
    t->event.tokens_per_s = seconds > 0 ? values[HX__RED_COUNT] / seconds : 0;
    t->event.is_best = t->event.loss < t->state.best_loss;
    t->event.metrics = t->setup.metrics;
    if (event != NULL) *event = t->event;
    return HX_OK;
}

hx_plateau_config hx__trainer_plateau(const hx_optim_config *config) {
    return (hx_plateau_config){.factor = config->plateau_factor,
                               .threshold = config->plateau_threshold,
                               .patience = config->plateau_patience,
                               .cooldown = config->plateau_cooldown,
                               .min_scale = config->min_lr_ratio};
}

hx_status hx__trainer_evaluate(hx_trainer *t) {
    HX_TRY(hx_trainer_eval(t, NULL));
    t->state.eval_step = t->state.step;
    t->state.eval_epoch = hx__trainer_epoch(t);
    t->is_best = t->event.is_best; /* false for NaN, which is a bad evaluation too */
    t->state.last_eval_loss = t->event.loss;
    if (t->is_best) t->state.best_loss = t->event.loss;
    t->state.n_bad_evals = t->is_best ? 0 : t->state.n_bad_evals + 1;
    if (t->setup.optim_config->schedule == HX_LR_PLATEAU) {
        const hx_plateau_config config = hx__trainer_plateau(t->setup.optim_config);
        hx_plateau_update(&config, &t->plateau, t->event.loss);
    }
    return hx__trainer_emit(t);
}
