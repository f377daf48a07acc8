/* One optimizer update:
 *   1. this rank's micro-batches: forward, loss and count added on the device, backward; gradients that
 * become final are handed to the synchronisation while backward goes on
 *   2. the synchronisation finishes: gradients are sums over all ranks
 *   3. their norm, before the root; one copy of three numbers to the host
 *   4. one small reduction: loss, count, flags. From here on all ranks decide alike
 *   5. update with the gradients scaled by 1/count and by clipping, or no update if a number is not finite
 * A rank that fails in 1 to 3 still takes part in 2 and 4. */
#include <math.h>
#include <stdio.h>
#include "core/autograd/tape.h"
#include "core/train/trainer_impl.h"

/* ---- 1: this rank's share ---- */

/* sum += x, by a new tensor and a copy: kernels need not allow that their output is an input. */
static hx_status add_to(hx_trainer *t, hx_tensor *x, hx_tensor *sum) {
    HX_AUTO_TENSOR converted = NULL;
    HX_AUTO_TENSOR added = NULL;
    HX_TRY(hx_cast(&t->quiet, x, HX_F64, &converted));
    HX_TRY(hx_add(&t->quiet, sum, converted, &added));
    return hx_copy_into(&t->quiet, added, sum);
}

static hx_status check_scalar(const char *what, const hx_tensor *x, hx_dtype dtype) {
    char text[HX_SHAPE_TEXT];
    if (x == NULL) return HX_FAIL(HX_ERR_STATE, "the model's loss function gave no %s", what);
    if (hx_tensor_ndim(x) == 0 && hx_tensor_dtype(x) == dtype) return HX_OK;
    hx_shape shape = hx_tensor_shape(x);
    return HX_FAIL(HX_ERR_SHAPE, "the model's %s is %s %s: expected a scalar of %s", what,
                   hx_dtype_name(hx_tensor_dtype(x)), hx_shape_text(&shape, text), hx_dtype_name(dtype));
}

hx_status hx__trainer_loss(hx_trainer *t, hx_ctx *ctx, const hx_batch *batch, hx_tensor **loss) {
    const hx_model *model = &t->setup.model;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR count = NULL;
    HX_TRY(model->loss(model->self, ctx, batch, &sum, &count));
    HX_TRY(check_scalar("loss sum", sum, HX_F64));
    HX_TRY(check_scalar("count", count, HX_I64));
    HX_TRY(add_to(t, sum, t->sum[HX__SUM_LOSS]));
    HX_TRY(add_to(t, count, t->sum[HX__SUM_COUNT]));
    *loss = hx_tensor_move(&sum);
    return HX_OK;
}

static hx_status run_micro(hx_trainer *t, int64_t index, bool is_last) {
    const hx_batch_source *train = t->setup.train;
    const hx_grad_sync *sync = t->setup.sync;
    hx_batch batch;
    HX_AUTO_TENSOR loss = NULL;
    if (sync != NULL) HX_TRY(sync->begin(sync->self, is_last));
    HX_TRY(train->get(train->self, t->state.cursor, index, t->ctx.stream, &batch));
    t->ctx.sample_base = batch.sample_base;
    HX_TRY(hx__trainer_loss(t, &t->ctx, &batch, &loss));
    return hx_backward(&t->ctx, loss, NULL);
}

static hx_status run_share(hx_trainer *t) {
    const hx_train_state *state = &t->state;
    int64_t n_micro;
    if (state->step < 0 || state->cursor < 0 || state->cursor > INT64_MAX - t->setup.train->batch)
        return HX_FAIL(HX_ERR_STATE, "training state: step %lld, cursor %lld: expected counts that can go on",
                       (long long)state->step, (long long)state->cursor);
    HX_TRY(t->setup.train->n_micro(t->setup.train->self, state->cursor, &n_micro));
    if (n_micro < 1)
        return HX_FAIL(HX_ERR_STATE,
                       "this rank got %lld micro-batches of the global batch at %lld: expected at least 1",
                       (long long)n_micro, (long long)state->cursor);
    for (int64_t i = 0; i < t->params.n_items; i++) hx_tensor_grad_reset(t->params.items[i]->value);
    HX_TRY(hx_tensor_fill(t->ctx.stream, t->sums, 0));
    t->ctx.seed = state->seed;
    t->ctx.step = state->step;
    for (int64_t i = 0; i < n_micro; i++) HX_TRY(run_micro(t, i, i == n_micro - 1));
    return HX_OK;
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
    HX_TRY(hx_grad_norm_part(&t->quiet, &t->params, hx_clip_norm_p(t->setup.optim_config), t->sum[HX__SUM_NORM]));
    return hx_tensor_read(t->ctx.stream, t->sums, sums);
}

/* 1 to 3; what fails is noted. */
static void run_local(hx_trainer *t, double sums[HX__SUM_N]) {
    const hx_grad_sync *sync = t->setup.sync;
    if (t->failure == HX_OK) {
        hx__trainer_note(t, run_share(t));
        if (t->failure != HX_OK) hx_tape_reset(t->ctx.tape);
    }
    if (sync != NULL) hx__trainer_note(t, sync->finish(sync->self, t->ctx.stream, t->failure != HX_OK));
    if (t->failure == HX_OK) hx__trainer_note(t, measure(t, sums));
}

/* ---- 5: update or skip ---- */

/* The first parameter whose gradient is not finite, or NULL; for the message only, so failures end the
 * search. */
static const char *find_bad_gradient(hx_trainer *t) {
    for (int64_t i = 0; i < t->params.n_items; i++) {
        const hx_param *param = t->params.items[i];
        hx_tensor *grad = hx_tensor_grad(param->value);
        double squares;
        if (param->is_frozen || grad == NULL) continue;
        if (hx_sumsq_into(&t->quiet, grad, false, t->sum[HX__SUM_NORM]) != HX_OK) return NULL;
        if (hx_tensor_item(t->ctx.stream, t->sum[HX__SUM_NORM], &squares) != HX_OK) return NULL;
        if (!isfinite(squares)) return param->path;
    }
    return NULL;
}

static void skip(hx_trainer *t, const double values[HX__RED_N], double seconds) {
    const double loss = values[HX__RED_LOSS], count = values[HX__RED_COUNT];
    t->state.n_skipped++;
    t->n_skips_in_row++;
    if (!isfinite(loss)) {
        snprintf(t->event_text, sizeof t->event_text, "the loss is %g", loss);
    } else if (!(count > 0)) {
        snprintf(t->event_text, sizeof t->event_text, "the global batch has no valid targets");
    } else {
        const char *path = find_bad_gradient(t);
        snprintf(t->event_text, sizeof t->event_text, "the gradient of %s is not finite",
                 path ? path : "a parameter on another rank");
    }
    hx__trainer_event(t, HX_EVENT_SKIP, seconds);
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
    double scale = 1 / count;
    if (config->clip > 0) scale *= hx_clip_factor(norm, config->clip);
    /* the gradients are sums over the batch here, the bound is meant for their mean */
    if (config->clip_value > 0) HX_TRY(hx_clip_grad_value(&t->quiet, &t->params, config->clip_value * count));
    HX_TRY(hx_schedule_lr(config, t->state.step + 1, t->n_steps, lr));
    *lr *= t->plateau.scale;
    HX_TRY(hx_tensor_fill(t->ctx.stream, t->gscale, scale));
    return hx_optim_step(t->setup.optim, &t->quiet, t->state.step + 1, *lr, t->gscale);
}

static void report_step(hx_trainer *t, double norm, double count, double lr, double seconds) {
    const hx_grad_sync *sync = t->setup.sync;
    hx__trainer_event(t, HX_EVENT_STEP, seconds);
    t->event.count = (int64_t)count;
    t->event.lr = lr;
    t->event.grad_norm = norm;
    t->event.tokens_per_s = seconds > 0 ? count / seconds : 0;
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
                 norm = hx_grad_norm_of_part(hx_clip_norm_p(t->setup.optim_config), norm_part) / count;
    double lr = 0;
    t->state.cursor += t->setup.train->batch;
    if (!(count > 0) || !isfinite(loss) || values[HX__RED_BAD_NORM] > 0) {
        skip(t, values, hx__seconds_now() - began);
        return HX_OK;
    }
    /* A rank whose update fails goes on like the others until the next reduction. */
    HX_TRY(hx__trainer_defer(t, apply(t, norm, count, &lr)));
    t->n_skips_in_row = 0;
    t->state.step++;
    t->state.last_loss = loss;
    report_step(t, norm, count, lr, hx__seconds_now() - began);
    return HX_OK;
}

hx_status hx__trainer_update(hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    const double began = hx__seconds_now();
    double sums[HX__SUM_N] = {0}, values[HX__RED_N] = {0};
    run_local(t, sums);
    if (t->failure == HX_OK) {
        values[HX__RED_LOSS] = sums[HX__SUM_LOSS];
        values[HX__RED_COUNT] = sums[HX__SUM_COUNT];
        values[HX__RED_BAD_NORM] = isfinite(sums[HX__SUM_NORM]) ? 0 : 1;
    } else {
        values[HX__RED_FAILED] = 1;
    }
    if (t->setup.should_stop != NULL)
        values[HX__RED_STOP] = t->setup.should_stop(t->setup.should_stop_self) ? 1 : 0;
    /* The state is the same on all ranks, so the time in it is rank 0's. */
    const double reached = hx__seconds_now();
    if (agreement == NULL || agreement->rank == 0)
        values[HX__RED_SECONDS] = t->unbooked_s + (reached - began);
    HX_TRY(hx__trainer_reduce(t, values));
    t->state.elapsed_s += values[HX__RED_SECONDS];
    t->unbooked_s = 0;
    t->stop_wanted = values[HX__RED_STOP] > 0;
    hx_status status = update(t, values, sums[HX__SUM_NORM], began);
    t->unbooked_s = hx__seconds_now() - reached;
    return status;
}

hx_status hx_trainer_step(hx_trainer *trainer, hx_train_event *event) {
    HX_TRY(hx__trainer_update(trainer));
    HX_TRY(hx__trainer_check_skips(trainer));
    if (event != NULL) *event = trainer->event;
    return HX_OK;
}
