/* Evaluation: no tape, no dropout; nothing of the model or the training state changes. */
#include <math.h>
#include "core/train/trainer_impl.h"

static hx_status run_batch(hx_trainer *t, int64_t cursor) {
    const hx_batch_source *source = t->setup.eval;
    int64_t n_micro;
    HX_TRY(source->n_micro(source->self, cursor, &n_micro));
    for (int64_t i = 0; i < n_micro; i++) {
        hx_batch batch;
        HX_AUTO_TENSOR loss = NULL;
        HX_TRY(source->get(source->self, cursor, i, t->quiet.stream, &batch));
        HX_TRY(hx__trainer_loss(t, &t->quiet, &batch, &loss));
    }
    return HX_OK;
}

static hx_status run_share(hx_trainer *t, double sums[HX__SUM_N]) {
    const hx_batch_source *source = t->setup.eval;
    const int64_t limit = t->setup.config->eval_batches;
    int64_t n_batches = source->n_global / source->batch + (source->n_global % source->batch != 0);
    if (limit > 0 && limit < n_batches) n_batches = limit;
    HX_TRY(hx_tensor_fill(t->quiet.stream, t->sums, 0));
    for (int64_t i = 0; i < n_batches; i++) HX_TRY(run_batch(t, i * source->batch));
    return hx_tensor_read(t->quiet.stream, t->sums, sums);
}

hx_status hx_trainer_eval(hx_trainer *trainer, hx_train_event *event) {
    hx_trainer *t = trainer;
    const double began = hx__seconds_now();
    double sums[HX__SUM_N] = {0}, values[HX__RED_N] = {0};
    if (t->setup.eval == NULL)
        return HX_FAIL(HX_ERR_STATE, "the trainer was set up without an evaluation source");
    t->quiet.seed = t->state.seed;
    if (t->failure == HX_OK) hx__trainer_note(t, run_share(t, sums));
    if (t->failure == HX_OK) {
        values[HX__RED_LOSS] = sums[HX__SUM_LOSS];
        values[HX__RED_COUNT] = sums[HX__SUM_COUNT];
    } else {
        values[HX__RED_FAILED] = 1;
    }
    HX_TRY(hx__trainer_reduce(t, values));
    const double seconds = hx__seconds_now() - began;
    t->unbooked_s += seconds;
    hx__trainer_event(t, HX_EVENT_EVAL, seconds);
    t->event.loss = values[HX__RED_LOSS] / values[HX__RED_COUNT];
    t->event.count = (int64_t)values[HX__RED_COUNT];
    t->event.tokens_per_s = seconds > 0 ? values[HX__RED_COUNT] / seconds : 0;
    t->event.is_best = t->event.loss < t->state.best_loss;
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
    t->evaluated_step = t->state.step;
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
