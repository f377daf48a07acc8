/* One optimizer update:
 *   1. this rank's micro-batches: forward, loss and count added on the device, backward; gradients that
 * become final are handed to the synchronisation while backward goes on
 *   2. the synchronisation finishes: gradients are sums over all ranks
 *   3. their norm, before the root (of split parameters that of this rank's parts, which 4 adds up); one copy of three
 *      numbers to the host
 *   4. one small reduction: loss, count, flags. From here on all ranks decide alike
 *   5. update with the gradients scaled by 1/count and by clipping, and the weights' averages follow; or neither, if a
 *      number is not finite. What ranks then hold alike is compared, every check_replicas steps
 * A rank that fails in 1 to 3, or has no samples of a short batch, still takes part in 2 and 4; not so where ranks hold parts
 * of one model: see hx__trainer_is_lost.
 * In elastic training (hx_leaves) a rank's micro-batches are its leaves of the global batch, and all numbers that leave 1 to 4, the
 * gradients' sums, the loss, the norm, have the bits that any number of ranks gives them.
 * Models with parameters in f16 differentiate the loss times a scale, which keeps small gradients from vanishing in
 * f16's range; 5 divides by it again. It adapts: see adapt_scale. */
#include <math.h>
#include <stdio.h>
#include "core/autograd/tape.h"
#include "core/base/trace.h"
#include "core/optim/scaler.h"
#include "core/train/trainer_impl.h"

/* ---- 1: this rank's share ---- */

static hx_status run_micro(hx_trainer *t, int64_t index) {
    const hx_batch_source *train = t->setup.train;
    hx_batch batch;
    HX_AUTO_TENSOR loss = NULL;
    const double asked = hx__seconds_now();
    HX_TRY(HX_TRACED(HX_SPAN_DATA, "next batch", train->get(train->self, t->state.cursor, index, t->ctx.stream, &batch)));
    t->data_wait_s += hx__seconds_now() - asked;
    t->ctx.sample_base = batch.sample_base;
    HX_TRY(HX_TRACED(HX_SPAN_FORWARD, "forward", hx__loss_add(&t->sums, &t->setup.model, &t->ctx, &batch, &loss, NULL)));
    return hx_backward(&t->ctx, loss, t->seed);
}

/* Samples of the step's global batch, and how many micro-batches of them the source has for this rank: in elastic training all
 * leaves with samples, whoever computes them. */
static hx_status find_share(hx_trainer *t, int64_t *n_dealt) {
    const hx_batch_source *train = t->setup.train;
    const int64_t cursor = t->state.cursor;
    t->n_batch_samples = train->batch;
    if (train->n_samples != NULL) HX_TRY(train->n_samples(train->self, cursor, &t->n_batch_samples));
    HX_TRY(train->n_micro(train->self, cursor, n_dealt));
    const bool is_elastic = hx__trainer_is_elastic(t);
    const bool may_be_idle = t->setup.sync != NULL && !is_elastic && t->n_batch_samples < train->batch;
    if (t->n_batch_samples < 1 || *n_dealt < (may_be_idle ? 0 : 1))
        return HX_FAIL(HX_ERR_STATE,
                       "the global batch at %lld has %lld samples, and this rank got %lld micro-batches of it: expected "
                       "at least 1 each",
                       (long long)cursor, (long long)t->n_batch_samples, (long long)*n_dealt);
    if (is_elastic && *n_dealt > t->setup.sync->leaves.n)
        return HX_FAIL(HX_ERR_STATE, "elastic training: the source has %lld leaves of the global batch at %lld: expected at most %lld",
                       (long long)*n_dealt, (long long)cursor, (long long)t->setup.sync->leaves.n);
    return HX_OK;
}

/* What the first backward pass starts from, and the counters random numbers depend on. */
static hx_status prepare(hx_trainer *t) {
    for (int64_t i = 0; i < t->params.n_items; i++) hx_tensor_grad_reset(t->params.items[i]->value);
    HX_TRY(hx_tensor_fill(t->ctx.stream, t->sums.all, 0));
    if (t->seed == NULL)
        t->state.loss_scale = 0;
    else if (t->state.loss_scale == 0) /* the first step, or a checkpoint that knows none */
        t->state.loss_scale = t->setup.config->loss_scale;
    if (t->seed != NULL) HX_TRY(hx_tensor_fill(t->ctx.stream, t->seed, t->state.loss_scale));
    t->ctx.seed = t->state.seed;
    t->ctx.step = t->state.step;
    return HX_OK;
}

static const hx_leaves *leaves_of(const hx_trainer *t) { return hx__trainer_is_elastic(t) ? &t->setup.sync->leaves : NULL; }

/* This rank's n micro-batches, of n_dealt of the source's. In elastic training those are the leaves that are its own; all of them
 * begin, and those beyond a short batch have nothing to compute. */
static hx_status run_micros(hx_trainer *t, int64_t n, int64_t n_dealt) {
    const hx_grad_sync *sync = t->setup.sync;
    const hx_leaves *leaves = leaves_of(t);
    t->is_short = n == 0 || (leaves != NULL && hx_leaves_at(leaves, n - 1) >= n_dealt);
    if (n == 0) return sync->begin(sync->self, true);
    for (int64_t i = 0; i < n; i++) {
        const int64_t index = leaves != NULL ? hx_leaves_at(leaves, i) : i;
        if (sync != NULL) HX_TRY(sync->begin(sync->self, i == n - 1));
        if (index < n_dealt) HX_TRY(run_micro(t, index));
    }
    return HX_OK;
}

static hx_status run_share(hx_trainer *t) {
    const hx_train_state *state = &t->state;
    const hx_grad_sync *sync = t->setup.sync;
    int64_t n_dealt;
    if (state->step < 0 || state->cursor < 0 || state->cursor > INT64_MAX - t->setup.train->batch)
        return HX_FAIL(HX_ERR_STATE, "training state: step %lld, cursor %lld: expected counts that can go on",
                       (long long)state->step, (long long)state->cursor);
    HX_TRY(find_share(t, &n_dealt));
    const int64_t n = leaves_of(t) != NULL ? hx_leaves_count(leaves_of(t)) : n_dealt;
    if (sync != NULL && sync->start != NULL) HX_TRY(sync->start(sync->self, n));
    HX_TRY(prepare(t));
    return run_micros(t, n, n_dealt);
}

/* With a synchronisation it is hx_grad_sync.finish that looks for them. */
static hx_status check_gradients(const hx_trainer *t) {
    for (int64_t i = 0; i < t->params.n_items && t->setup.sync == NULL; i++) {
        const hx_param *param = t->params.items[i];
        if (!param->is_frozen && !hx_tensor_grad_is_set(param->value))
            return HX_FAIL(HX_ERR_STATE,
                           "parameter %s got no gradient: it took no part in the loss; freeze it if that "
                           "is meant",
                           param->path);
    }
    return HX_OK;
}

static hx_status measure(hx_trainer *t, double sums[HX__SUM_N]) {
    HX_TRY(check_gradients(t));
    return hx__norm_measure(t, sums);
}

/* 1 to 3; what fails is noted. */
static void run_local(hx_trainer *t, double sums[HX__SUM_N]) {
    const hx_grad_sync *sync = t->setup.sync;
    if (t->failure == HX_OK) {
        hx__trainer_note(t, run_share(t));
        if (t->failure != HX_OK) hx_tape_reset(t->ctx.tape);
    }
    if (hx__trainer_is_lost(t)) return;
    const bool is_partial = t->failure != HX_OK || t->is_short;
    if (sync != NULL)
        hx__trainer_note(t, HX_TRACED(HX_SPAN_COMM, "gradient sync", sync->finish(sync->self, t->ctx.stream, is_partial)));
    if (t->failure == HX_OK) hx__trainer_note(t, HX_TRACED(HX_SPAN_OPTIMIZER, "norm", measure(t, sums)));
}

/* ---- 5: update or skip ---- */

/* What the loss was multiplied with before it was differentiated. */
static double seed_of(const hx_trainer *t) { return t->seed != NULL ? t->state.loss_scale : 1; }

/* The first parameter whose gradient is not finite, or NULL; for the message only, so failures end the
 * search. */
static const char *find_bad_gradient(hx_trainer *t) {
    for (int64_t i = 0; i < t->params.n_items; i++) {
        const hx_param *param = t->params.items[i];
        double squares;
        if (param->is_frozen) continue;
        HX_AUTO_TENSOR own = NULL;
        if (hx_param_own_grad(param, &own) != HX_OK) return NULL;
        if (own == NULL) continue;
        if (hx_sumsq_into(&t->quiet, own, false, t->sums.sum[HX__SUM_NORM]) != HX_OK) return NULL;
        if (hx_tensor_item(t->ctx.stream, t->sums.sum[HX__SUM_NORM], &squares) != HX_OK) return NULL;
        if (!isfinite(squares)) return param->path;
    }
    return NULL;
}

static void adapt_scale(hx_train_state *state, bool is_clean) {
    hx_scaler scaler = {.scale = state->loss_scale, .n_clean = state->n_clean};
    if (scaler.scale == 0) return; /* this model needs none */
    hx_scaler_update(&scaler, is_clean);
    state->loss_scale = scaler.scale;
    state->n_clean = scaler.n_clean;
}

/* A gradient that overflowed while the loss is finite is mended by a smaller scale, unless there is none. */
static bool is_mended_by_scale(const hx_trainer *t, const double values[HX__RED_N]) {
    return t->state.loss_scale > HX_SCALER_LEAST && isfinite(values[HX__RED_LOSS]) && values[HX__RED_COUNT] > 0;
}

static void skip(hx_trainer *t, const double values[HX__RED_N], double seconds) {
    const double loss = values[HX__RED_LOSS], count = values[HX__RED_COUNT], scale = t->state.loss_scale;
    t->state.n_skipped++;
    t->n_skips_in_row += !is_mended_by_scale(t, values);
    if (values[HX__RED_BAD_NORM] > 0 || !isfinite(loss)) adapt_scale(&t->state, false);
    if (!isfinite(loss)) {
        snprintf(t->event_text, sizeof t->event_text, "the loss is %g", loss);
    } else if (!(count > 0)) {
        snprintf(t->event_text, sizeof t->event_text, "the global batch has no valid targets");
    } else {
        const char *path = find_bad_gradient(t);
        int n = snprintf(t->event_text, sizeof t->event_text, "the gradient of %s is not finite",
                         path ? path : "a parameter on another rank");
        if (scale > 0)
            snprintf(t->event_text + n, sizeof t->event_text - (size_t)n, "; loss scale %g becomes %g", scale,
                     t->state.loss_scale);
    }
    hx__trainer_event(t, HX_EVENT_SKIP, seconds);
    t->event.loss_scale = scale;
    t->event.step++; /* the update that was left out */
    t->event.loss = loss / count;
    t->event.grad_norm = NAN;
    t->event.text = t->event_text;
}

hx_status hx__trainer_check_skips(const hx_trainer *t) {
    const int64_t most = t->setup.config->max_skips;
    if (t->n_skips_in_row == 0 || t->n_skips_in_row < most) return HX_OK;
    return HX_FAIL(HX_ERR_NUMERIC, "update %lld: %s; %lld updates in a row were left out, max_skips is %lld",
                   (long long)t->state.step + 1, t->event_text, (long long)t->n_skips_in_row,
                   (long long)most);
}

static hx_status apply(hx_trainer *t, double norm, double count, double *lr) {
    const hx_optim_config *config = t->setup.optim_config;
    double scale = 1 / (count * seed_of(t));
    if (config->clip > 0) scale *= hx_clip_factor(norm, config->clip);
    /* the gradients are sums over the batch here, times the loss scale; the bound is meant for their mean */
    if (config->clip_value > 0) HX_TRY(hx_clip_grad_value(&t->quiet, &t->params, config->clip_value * count * seed_of(t)));
    HX_TRY(hx_schedule_lr(config, t->state.step + 1, t->n_steps, lr));
    *lr *= t->plateau.scale;
    HX_TRY(hx_tensor_fill(t->ctx.stream, t->gscale, scale));
    return hx_optim_step(t->setup.optim, &t->quiet, t->state.step + 1, *lr, t->gscale);
}

/* The update, after which parameters that were shared out become whole on all ranks, also where it failed on this one. */
static hx_status apply_all(hx_trainer *t, double norm, double count, double *lr) {
    const hx_grad_sync *sync = t->setup.sync;
    hx__trainer_settle(t); /* here and not sooner: a save's copy has forward and backward to be made beside */
    hx__trainer_note(t, HX_TRACED(HX_SPAN_OPTIMIZER, "update", apply(t, norm, count, lr)));
    if (sync != NULL && sync->updated != NULL)
        hx__trainer_note(t, HX_TRACED(HX_SPAN_COMM, "parameter gather", sync->updated(sync->self, t->ctx.stream)));
    if (t->failure == HX_OK && t->ema != NULL)
        hx__trainer_note(t, HX_TRACED(HX_SPAN_OPTIMIZER, "average", hx_ema_update(t->ema, &t->quiet, t->state.step + 1)));
    const hx_status status = hx_error_adopt(t->failure, t->failure_text);
    t->failure = HX_OK;
    return status;
}

/* Share of the given peak that the device reached since the step began. */
static double flops_share(const hx_trainer *t, double seconds) {
    const double peak = t->setup.config->peak_flops;
    hx_device_stats stats;
    hx_device_stats_get(t->ctx.device, &stats);
    return peak > 0 && seconds > 0 ? (stats.flops - t->flops_before) / seconds / peak : 0;
}

static void report_step(hx_trainer *t, double norm, double count, double lr, double scale, double seconds) {
    const hx_grad_sync *sync = t->setup.sync;
    hx__trainer_event(t, HX_EVENT_STEP, seconds);
    t->event.count = count;
    t->event.loss_scale = t->seed != NULL ? scale : 0;
    t->event.lr = lr;
    t->event.grad_norm = norm;
    t->event.tokens_per_s = seconds > 0 ? count / seconds : 0;
    t->event.flops_share = flops_share(t, seconds);
    t->event.data_share = seconds > 0 ? fmin(1, t->data_wait_s / seconds) : 0;
    if (sync != NULL && sync->stats != NULL && seconds > 0) {
        double wait_s = 0;
        int64_t n_bytes = 0;
        sync->stats(sync->self, &wait_s, &n_bytes);
        t->event.comm_share = fmin(1, fmax(0, wait_s / seconds));
    }
}

/* All ranks see the same values here and take the same way. */
static hx_status update(hx_trainer *t, const double values[HX__RED_N], double norm_part, double began) {
    const double count = values[HX__RED_COUNT], loss = values[HX__RED_LOSS] / count,
                 scale = seed_of(t),
                 norm = hx_grad_norm_of_part(hx_clip_norm_p(t->setup.optim_config), norm_part) / (count * scale);
    double lr = 0;
    t->state.cursor += t->n_batch_samples;
    if (!(count > 0) || !isfinite(loss) || values[HX__RED_BAD_NORM] > 0) {
        skip(t, values, hx__seconds_now() - began);
        return HX_OK;
    }
    /* A rank whose update fails goes on like the others until the next reduction. */
    HX_TRY(hx__trainer_defer(t, apply_all(t, norm, count, &lr)));
    t->n_skips_in_row = 0;
    t->state.step++;
    t->state.last_loss = loss;
    adapt_scale(&t->state, true);
    report_step(t, norm, count, lr, scale, hx__seconds_now() - began);
    return hx__trainer_check_copies(t);
}

static void take_wishes(hx_trainer *t, double values[HX__RED_N]) {
    const hx_trainer_setup *s = &t->setup;
    const int wish = t->wish;
    if (wish == HX__WISH_STOP || (s->should_stop != NULL && s->should_stop(s->should_stop_self))) values[HX__RED_STOP] = 1;
    if (wish == HX__WISH_PAUSE) values[HX__RED_PAUSE] = 1;
    if (wish != 0) t->wish = 0;
}

static hx_status run_step(hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    const double began = hx__seconds_now();
    double sums[HX__SUM_N] = {0}, values[HX__RED_N] = {0};
    hx_device_stats stats;
    hx_device_stats_get(t->ctx.device, &stats);
    t->flops_before = stats.flops;
    t->data_wait_s = 0;
    t->settle_wait_s = 0;
    run_local(t, sums);
    if (hx__trainer_is_lost(t)) return hx_error_adopt(t->failure, t->failure_text);
    if (t->failure == HX_OK) {
        values[HX__RED_LOSS] = sums[HX__SUM_LOSS];
        values[HX__RED_COUNT] = sums[HX__SUM_COUNT];
        values[HX__RED_BAD_NORM] = isfinite(sums[HX__SUM_NORM]) ? 0 : 1;
        if (t->norm.is_joint && t->norm.counts) values[HX__RED_NORM] = sums[HX__SUM_NORM];
    } else {
        values[HX__RED_FAILED] = 1;
    }
    take_wishes(t, values);
    /* The state is the same on all ranks, so the time in it is rank 0's. */
    const double reached = hx__seconds_now();
    if (agreement == NULL || agreement->rank == 0)
        values[HX__RED_SECONDS] = t->unbooked_s + (reached - began);
    HX_TRY(hx__trainer_reduce(t, values));
    t->state.elapsed_s += values[HX__RED_SECONDS];
    t->unbooked_s = 0;
    t->stop_wanted = values[HX__RED_STOP] > 0;
    t->pause_wanted = values[HX__RED_PAUSE] > 0;
    double norm_part;
    HX_TRY(hx__norm_join(t, values, sums[HX__SUM_NORM], &norm_part));
    hx_status status = update(t, values, norm_part, began);
    t->unbooked_s = hx__seconds_now() - reached;
    return status;
}

hx_status hx__trainer_update(hx_trainer *t) {
    const int64_t began = hx_span_begin(), number = t->state.step + 1;
    const hx_status status = run_step(t);
    hx_span_end(began, HX_SPAN_STEP, "step", 0, number);
    return status;
}

hx_status hx_trainer_step(hx_trainer *trainer, hx_train_event *event) {
    HX_TRY(hx__trainer_update(trainer));
    HX_TRY(hx__trainer_check_skips(trainer));
    if (event != NULL) *event = trainer->event;
    return HX_OK;
}
