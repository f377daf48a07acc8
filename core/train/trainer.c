#include <math.h>
#include <stdio.h>
#include "core/autograd/tape.h"
#include "core/base/mem.h"
#include "core/train/trainer_impl.h"

#define HX_OPTION_OWNER hx_train_config
const hx_option hx_train_options[] = HX_OPTIONS_TABLE(HX_TRAIN_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_train_n_options = (int)(sizeof hx_train_options / sizeof *hx_train_options);

#define MOST_STEPS 1e15 /* what the option `steps` allows */

/* ---- creation ---- */

static hx_status check_source(const char *what, const hx_batch_source *source, int n_ranks) {
    if (source->n_micro == NULL || source->get == NULL)
        return HX_FAIL(HX_ERR_ARG, "%s: a function is NULL", what);
    if (source->n_global < 1)
        return HX_FAIL(HX_ERR_CONFIG, "%s: %lld samples", what, (long long)source->n_global);
    if (source->batch < n_ranks)
        return HX_FAIL(HX_ERR_CONFIG,
                       "%s: a global batch of %lld samples for %d ranks: expected at least one each", what,
                       (long long)source->batch, n_ranks);
    return HX_OK;
}

static hx_status check_config(const hx_trainer_setup *s) {
    const hx_train_config *c = s->config;
    const struct {
        const char *name;
        int64_t value, least;
    } counts[] = {{"steps", c->steps, 0},       {"eval_every", c->eval_every, -1}, {"eval_batches", c->eval_batches, 0},
                  {"patience", c->patience, 0}, {"max_skips", c->max_skips, 0},    {"save_every", s->save_every, -1},
                  {"seed", c->seed, 0},         {"check_replicas", c->check_replicas, 0}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < counts[i].least)
            return HX_FAIL(HX_ERR_CONFIG, "%s = %lld: expected >= %lld", counts[i].name, (long long)counts[i].value,
                           (long long)counts[i].least);
    if (!(c->loss_scale >= 0 && isfinite(c->loss_scale)) || !(c->peak_flops >= 0))
        return HX_FAIL(HX_ERR_CONFIG, "loss_scale = %g, peak_flops = %g: expected numbers >= 0", c->loss_scale,
                       c->peak_flops);
    return HX_OK;
}

/* The schedule that looks at the loss needs one to look at. */
static hx_status check_plateau(const hx_trainer_setup *s) {
    const hx_plateau_config config = hx__trainer_plateau(s->optim_config);
    if (s->optim_config->schedule != HX_LR_PLATEAU) return HX_OK;
    if (s->eval == NULL || s->config->eval_every < 0)
        return HX_FAIL(HX_ERR_CONFIG, "schedule = plateau with %s: expected evaluations during the run",
                       s->eval == NULL ? "no evaluation data" : "eval_every = -1");
    return hx_plateau_check(&config);
}

static hx_status check_setup(const hx_trainer_setup *s) {
    const int n_ranks = s->agreement == NULL ? 1 : s->agreement->n_parts > 1 ? s->agreement->n_replicas : s->agreement->size;
    if (s->ctx.device == NULL || s->ctx.stream == NULL || s->ctx.tape == NULL)
        return HX_FAIL(HX_ERR_ARG, "ctx: expected a device, a stream and a tape");
    if (s->model.root == NULL || (s->model.loss == NULL && s->model.loss_scores == NULL))
        return HX_FAIL(HX_ERR_ARG, "model: expected a root layer and a loss function");
    if (s->metrics != NULL && s->model.loss_scores == NULL)
        return HX_FAIL(HX_ERR_ARG, "metrics: expected a model with loss_scores");
    if (s->optim == NULL || s->optim_config == NULL || s->config == NULL || s->train == NULL)
        return HX_FAIL(HX_ERR_ARG, "expected optim, optim_config, config and train; one of them is NULL");
    if (s->agreement != NULL && (s->agreement->agree == NULL) != (s->agreement->sum == NULL))
        return HX_FAIL(HX_ERR_ARG, "agreement: expected both agree and sum, or neither");
    HX_TRY(check_config(s));
    HX_TRY(check_plateau(s));
    HX_TRY(check_source("training data", s->train, n_ranks));
    if (s->eval != NULL) HX_TRY(check_source("evaluation data", s->eval, 1));
    return HX_OK;
}

/* Global batches in so many epochs. The small terms forgive that 0.1 epochs of 100 samples are a hair more than 10. */
static double count_batches(const hx_batch_source *source, double epochs) {
    const double in_one = (double)source->n_global / (double)source->batch, whole = floor(epochs + 1e-9);
    if (source->n_samples == NULL) return ceil(epochs * in_one - 1e-9);
    return whole * ceil(in_one) + ceil(fmax(0, epochs - whole) * in_one - 1e-9);
}

/* `steps`, or as many global batches as `epochs` passes need. */
static hx_status count_steps(const hx_trainer_setup *s, int64_t *out) {
    const hx_train_config *c = s->config;
    const double n = c->steps > 0 ? (double)c->steps : count_batches(s->train, c->epochs);
    if (!(n >= 1 && n <= MOST_STEPS))
        return HX_FAIL(HX_ERR_CONFIG,
                       "steps = %lld, epochs = %g, %lld samples in batches of %lld: %g updates, expected "
                       "1 to %g",
                       (long long)c->steps, c->epochs, (long long)s->train->n_global,
                       (long long)s->train->batch, n, MOST_STEPS);
    *out = (int64_t)n;
    return HX_OK;
}

/* f16 ends at 6e-5 (below that it loses digits) where gradients of deep models live; bf16 has f32's range. */
static bool needs_loss_scale(const hx_trainer *t) {
    for (int64_t i = 0; i < t->params.n_items && t->setup.config->loss_scale > 0; i++) {
        const hx_param *param = t->params.items[i];
        if (!param->is_frozen && hx_tensor_dtype(param->value) == HX_F16) return true;
    }
    return false;
}

static hx_status check_trained(const hx_param_list *params) {
    for (int64_t i = 0; i < params->n_items; i++)
        if (!params->items[i]->is_frozen) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "the model has %lld parameter tensors, all of them frozen: expected one that is trained",
                   (long long)params->n_items);
}

static hx_status create_buffers(hx_trainer *t) {
    hx_device *device = t->ctx.device;
    HX_TRY(hx__loss_sums_create(device, t->ctx.stream, hx__trainer_is_elastic(t), &t->sums));
    if (needs_loss_scale(t)) HX_TRY(hx_tensor_create(device, HX_F64, HX_SCALAR, &t->seed));
    return hx_tensor_create(device, HX_F64, HX_SCALAR, &t->gscale);
}

static hx_status init(hx_trainer *t) {
    const hx_trainer_setup *s = &t->setup;
    double lr;
    HX_TRY(check_setup(s));
    HX_TRY(count_steps(s, &t->n_steps));
    HX_TRY(hx_schedule_lr(s->optim_config, 1, t->n_steps, &lr));
    t->ctx = t->quiet = s->ctx;
    t->ctx.training = true;
    t->ctx.anomaly = t->quiet.anomaly = s->config->anomaly || s->ctx.anomaly;
    t->quiet.training = false;
    t->quiet.tape = NULL;
    t->state = (hx_train_state){
        .seed = (uint64_t)s->config->seed, .best_loss = INFINITY, .last_loss = NAN, .last_eval_loss = NAN};
    t->plateau = (hx_plateau)HX_PLATEAU_START;
    t->saved_step = -1;
    HX_TRY(hx_layer_freeze_list(s->model.root, s->config->freeze, NULL));
    HX_TRY(hx_layer_params(s->model.root, &t->params));
    HX_TRY(check_trained(&t->params));
    HX_TRY(hx__trainer_open_buffers(t));
    HX_TRY(hx__trainer_check_elastic(t));
    HX_TRY(hx__norm_open(t));
    HX_TRY(create_buffers(t));
    if (s->config->ema > 0) HX_TRY(hx_ema_create(&t->quiet, &t->params, s->config->ema, &t->ema));
    if (s->checkpoint != NULL) HX_TRY(hx_trainer_items(t, &t->items));
    if (s->checkpoint != NULL && s->checkpoint->expect != NULL && s->save_every >= 0) s->checkpoint->expect(s->checkpoint->self, &t->items);
    if (s->config->check_replicas > 0) HX_TRY(hx__trainer_open_copies(t));
    hx_tape_set_ready_hook(s->ctx.tape, s->sync ? s->sync->ready : NULL, s->sync ? s->sync->self : NULL);
    hx_tape_set_place_hook(s->ctx.tape, s->sync ? s->sync->place : NULL, s->sync ? s->sync->self : NULL);
    return HX_OK;
}

hx_status hx_trainer_create(const hx_trainer_setup *setup, hx_trainer **out) {
    const hx_agreement *agreement = setup->agreement;
    hx_trainer *t = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *t, (void **)&t);
    if (status == HX_OK) {
        t->setup = *setup;
        status = init(t);
    }
    if (agreement != NULL && agreement->agree != NULL) status = agreement->agree(agreement->self, status);
    if (status != HX_OK) {
        hx_trainer_destroy(&t);
        return status;
    }
    *out = t;
    return HX_OK;
}

void hx_trainer_destroy(hx_trainer **trainer) {
    hx_trainer *t = *trainer;
    if (t == NULL) return;
    if (t->setup.ctx.tape != NULL) {
        hx_tape_set_ready_hook(t->setup.ctx.tape, NULL, NULL);
        hx_tape_set_place_hook(t->setup.ctx.tape, NULL, NULL);
    }
    hx__loss_sums_destroy(&t->sums);
    hx_tensor_destroy(&t->gscale);
    hx_tensor_destroy(&t->seed);
    hx_state_list_destroy(&t->copies);
    hx_state_list_destroy(&t->items);
    hx_ema_destroy(&t->ema);
    hx_param_list_destroy(&t->buffers);
    hx__norm_close(&t->norm);
    hx_param_list_destroy(&t->params);
    hx_mem_free(&t->votes);
    hx_mem_free(&t->buffer_data);
    hx_mem_free((void **)trainer);
}

/* ---- what others may see ---- */

hx_train_state *hx_trainer_state(hx_trainer *trainer) { return &trainer->state; }

hx_status hx_trainer_items(hx_trainer *trainer, hx_state_list *out) {
    const hx_agreement *agreement = trainer->setup.agreement;
    hx_state_list list = {0};
    hx_status status;
    hx__trainer_settle(trainer);
    HX_TRY_GOTO(hx_params_state(&trainer->params, agreement, &list), done);
    HX_TRY_GOTO(hx_params_state(&trainer->buffers, agreement, &list), done);
    HX_TRY_GOTO(hx_optim_state(trainer->setup.optim, agreement, &list), done);
    if (trainer->ema != NULL) HX_TRY_GOTO(hx_ema_state(trainer->ema, agreement, &list), done);
    if (trainer->setup.optim_config->schedule == HX_LR_PLATEAU)
        HX_TRY_GOTO(hx_plateau_state(&trainer->plateau, agreement, &list), done);
    /* Whoever reads a checkpoint into these tensors must not be overwritten by fills that are still queued.
     */
    HX_TRY_GOTO(hx_stream_sync(trainer->ctx.stream), done);
    *out = list;
    list = (hx_state_list){0};
done:
    hx_state_list_destroy(&list);
    return status;
}

int64_t hx_trainer_n_steps(const hx_trainer *trainer) { return trainer->n_steps; }

int64_t hx__trainer_epoch(const hx_trainer *t) { return t->state.cursor / t->setup.train->n_global; }

/* One store of a signal's type: all that a handler may do. */
void hx_trainer_stop(hx_trainer *trainer) { trainer->wish = HX__WISH_STOP; }
void hx_trainer_pause(hx_trainer *trainer) { trainer->wish = HX__WISH_PAUSE; }

/* ---- run ---- */

#define SAVE_EPOCHS 10 /* between checkpoints, unless they come by steps */

static bool is_eval_due(const hx_trainer *t) {
    const int64_t every = t->setup.config->eval_every;
    if (t->setup.eval == NULL || every < 0) return false;
    return every > 0 ? t->state.step % every == 0 : hx__trainer_epoch(t) > t->state.eval_epoch;
}

/* The last step's checkpoint waits for the last evaluation, whose result belongs into it. */
static bool is_save_due(const hx_trainer *t) {
    const int64_t every = t->setup.save_every;
    if (t->state.step == t->n_steps) return false;
    if (t->setup.config->save_best && t->is_best && t->state.eval_step == t->state.step) return true;
    if (every < 0) return false;
    return every > 0 ? t->state.step % every == 0 : hx__trainer_epoch(t) / SAVE_EPOCHS > t->saved_epoch / SAVE_EPOCHS;
}

/* By the evaluation of this very step. */
static bool has_lost_patience(const hx_trainer *t) {
    const int64_t patience = t->setup.config->patience;
    return patience > 0 && t->state.n_bad_evals >= patience && t->state.eval_step == t->state.step;
}

/* What is due at a step that has been done. */
static hx_status do_due(hx_trainer *t, bool *is_over) {
    if (is_eval_due(t)) HX_TRY(hx__trainer_evaluate(t));
    if (is_save_due(t)) HX_TRY(hx__trainer_save(t));
    *is_over = has_lost_patience(t);
    return HX_OK;
}

/* Steps until all are done, a stop or a pause is wanted, or patience ends. */
static hx_status run_steps(hx_trainer *t) {
    bool is_over = false;
    while (!is_over && t->state.step < t->n_steps && !t->stop_wanted && !t->pause_wanted) {
        HX_TRY(hx__trainer_update(t));
        const bool is_step = t->event.kind == HX_EVENT_STEP;
        HX_TRY(hx__trainer_emit(t));
        if (is_step) hx__trainer_time_step(t);
        HX_TRY(hx__trainer_report_saves(t));
        HX_TRY(hx__trainer_check_skips(t));
        /* Without an update the step's number stays, and what is due at it has been done. */
        if (is_step && !t->stop_wanted) HX_TRY(do_due(t, &is_over));
    }
    return HX_OK;
}

/* A stop leaves no time for an evaluation that was due at its step: the run that goes on makes up for it, so that
 * schedule, patience and best loss are those of a run that was never stopped. */
static hx_status catch_up(hx_trainer *t, bool *is_over) {
    const hx_train_state *s = &t->state;
    const bool is_missed = s->eval_step < s->step && s->step < t->n_steps && is_eval_due(t);
    *is_over = false;
    return is_missed ? do_due(t, is_over) : HX_OK;
}

static hx_status emit_stop(hx_trainer *t, const char *why) {
    hx__trainer_event(t, HX_EVENT_STOP, 0);
    t->event.text = why;
    return hx__trainer_emit(t);
}

/* The end of a run that went well so far: last evaluation, last checkpoint, and why it ended. */
static hx_status finish(hx_trainer *t) {
    hx_status result = HX_OK;
    if (!t->stop_wanted && t->setup.eval != NULL && t->state.eval_step != t->state.step)
        HX_TRY(hx__trainer_evaluate(t));
    HX_TRY(hx__trainer_finish_saves(t)); /* so that the last one is not left out */
    HX_TRY(hx__trainer_save(t));
    HX_TRY(hx__trainer_finish_saves(t));
    if (t->stop_wanted)
        snprintf(t->event_text, sizeof t->event_text, "asked to stop at step %lld of %lld",
                 (long long)t->state.step, (long long)t->n_steps);
    else if (t->state.step < t->n_steps)
        snprintf(t->event_text, sizeof t->event_text, "no better loss in %lld evaluations",
                 (long long)t->state.n_bad_evals);
    else
        snprintf(t->event_text, sizeof t->event_text, "all %lld steps are done", (long long)t->n_steps);
    HX_TRY(emit_stop(t, t->event_text));
    HX_TRY(hx__trainer_share(t));
    /* Without a last checkpoint the run's result is lost: that is no success. */
    if (t->save_status != HX_OK)
        result = hx_error_adopt(t->save_status, t->save_text);
    else if (t->stop_wanted)
        result = HX_FAIL(HX_ERR_INTERRUPTED, "%s", t->event_text);
    return result;
}

/* A run that was complete when it was resumed: nothing is written. */
static hx_status run_nothing(hx_trainer *t) {
    if (t->setup.eval != NULL) {
        HX_TRY(hx_trainer_eval(t, NULL));
        HX_TRY(hx__trainer_emit(t));
    }
    int n = snprintf(t->event_text, sizeof t->event_text, "nothing to do: step %lld of %lld", (long long)t->state.step,
                     (long long)t->n_steps);
    if (t->state.step < t->n_steps)
        snprintf(t->event_text + n, sizeof t->event_text - (size_t)n, ", no better loss in %lld evaluations",
                 (long long)t->state.n_bad_evals);
    HX_TRY(emit_stop(t, t->event_text));
    return hx__trainer_share(t);
}

/* Neither evaluated nor saved: the run goes on soon, in this process. */
static hx_status leave_for_pause(hx_trainer *t) {
    HX_TRY(hx__trainer_finish_saves(t));
    snprintf(t->event_text, sizeof t->event_text, "paused at step %lld of %lld", (long long)t->state.step,
             (long long)t->n_steps);
    HX_TRY(emit_stop(t, t->event_text));
    return hx__trainer_share(t);
}

/* The last evaluation may be what a stop left out: then its result is still to be written. A run whose patience has
 * ended is complete as well: resumed, by hand or after a kill, it would else go on to another end each time. */
static bool is_complete(const hx_trainer *t) {
    const bool is_missed = t->setup.eval != NULL && t->state.step == t->n_steps && t->state.eval_step >= 0 &&
                           t->state.eval_step < t->state.step;
    return (t->state.step >= t->n_steps && !is_missed) || has_lost_patience(t);
}

static hx_status run(hx_trainer *t) {
    bool is_over;
    t->stop_wanted = t->pause_wanted = false;
    if (is_complete(t)) return run_nothing(t);
    /* a resumed run has done what was due at the end of the epochs behind it, as far as is known */
    if (t->state.eval_step < 0) {
        t->state.eval_step = t->state.step;
        t->state.eval_epoch = hx__trainer_epoch(t);
    }
    if (t->saved_step < 0) t->saved_epoch = hx__trainer_epoch(t);
    HX_TRY(catch_up(t, &is_over));
    if (!is_over) HX_TRY(run_steps(t));
    if (t->pause_wanted && !t->stop_wanted && t->state.step < t->n_steps) return leave_for_pause(t);
    return finish(t);
}

/* A run that fails leaves its last save to go on without it: what that still reads is the caller's from here on. */
hx_status hx_trainer_run(hx_trainer *trainer) {
    const hx_status status = run(trainer);
    hx__trainer_settle(trainer);
    return status;
}
