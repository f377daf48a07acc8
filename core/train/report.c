/* How failures of one rank become failures of all, and how events are made. */
#include <math.h>
#include <stdio.h>
#include <time.h>
#include "core/train/trainer_impl.h"

double hx__seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- failures ---- */

static bool is_alone(const hx_trainer *t) {
    return t->setup.agreement == NULL || t->setup.agreement->agree == NULL;
}

void hx__trainer_note(hx_trainer *t, hx_status status) {
    if (status == HX_OK || t->failure != HX_OK) return;
    t->failure = status;
    snprintf(t->failure_text, sizeof t->failure_text, "%s", hx_error_message());
}

hx_status hx__trainer_defer(hx_trainer *t, hx_status status) {
    if (is_alone(t)) return status;
    hx__trainer_note(t, status);
    return HX_OK;
}

bool hx__trainer_is_lost(const hx_trainer *t) {
    return t->failure != HX_OK && t->setup.agreement != NULL && t->setup.agreement->n_parts > 1;
}

hx_status hx__trainer_share(hx_trainer *t) {
    hx_status mine = hx_error_adopt(t->failure, t->failure_text);
    t->failure = HX_OK;
    if (is_alone(t)) return mine;
    return t->setup.agreement->agree(t->setup.agreement->self, mine);
}

hx_status hx__trainer_reduce(hx_trainer *t, double values[HX__RED_N]) {
    const hx_agreement *agreement = t->setup.agreement;
    if (agreement != NULL && agreement->sum != NULL) {
        if (agreement->part != 0) values[HX__RED_LOSS] = values[HX__RED_COUNT] = 0; /* the same samples as part 0's */
        hx_status status = agreement->sum(agreement->self, values, HX__RED_N);
        /* A rank that failed first tells its own story rather than that of the communication it then lost. */
        if (status != HX_OK)
            return t->failure != HX_OK ? hx_error_adopt(t->failure, t->failure_text) : status;
    }
    if (values[HX__RED_FAILED] == 0) return HX_OK;
    HX_TRY(hx__trainer_share(t));
    return HX_FAIL(HX_ERR_INTERNAL,
                   "%g ranks reported a failure in the reduction, and none when asked for it",
                   values[HX__RED_FAILED]);
}

/* ---- events ---- */

void hx__trainer_event(hx_trainer *t, hx_event_kind kind, double seconds) {
    hx_device_stats stats;
    hx_device_stats_get(t->ctx.device, &stats);
    t->event = (hx_train_event){.kind = kind,
                                .step = t->state.step,
                                .n_steps = t->n_steps,
                                .cursor = t->state.cursor,
                                .epoch = (double)t->state.cursor / (double)t->setup.train->n_global,
                                .loss = t->state.last_loss,
                                .seconds = seconds,
                                .elapsed_s = t->state.elapsed_s + t->unbooked_s,
                                .step_s = NAN,
                                .step_s_before = NAN,
                                .memory_bytes = stats.peak_bytes};
}

hx_status hx__trainer_emit(hx_trainer *t) {
    if (t->setup.on_event == NULL) return HX_OK;
    return hx__trainer_defer(t, t->setup.on_event(t->setup.on_event_self, &t->event));
}
