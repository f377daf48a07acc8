/* Checkpoints, written while training stands still or beside it, and their events. */
#include <math.h>
#include <stdio.h>
#include "core/base/trace.h"
#include "core/train/trainer_impl.h"

static void note_result(hx_trainer *t, hx_status status, const char *text) {
    t->save_status = status;
    snprintf(t->save_text, sizeof t->save_text, "%s", status != HX_OK ? text : "");
}

void hx__trainer_settle(hx_trainer *t) {
    const hx_checkpoint_hook *hook = t->setup.checkpoint;
    if (hook == NULL || hook->settle == NULL) return;
    const double began = hx__seconds_now();
    const int64_t span = hx_span_begin();
    hook->settle(hook->self);
    hx_span_end(span, HX_SPAN_SAVE, "wait for copy", 0, 0);
    const double seconds = hx__seconds_now() - began;
    t->settle_wait_s += seconds;
    t->save_stall_s += seconds;
}

/* A step of a process's first ones makes what later ones have. What it waited for a save's copy is the save's. */
void hx__trainer_time_step(hx_trainer *t) {
    if (t->n_timed++ == 0) return;
    t->pace.seconds += t->event.seconds - t->settle_wait_s;
    t->pace.n_steps++;
}

static double mean_seconds(const hx__pace *pace) { return pace->n_steps > 0 ? pace->seconds / (double)pace->n_steps : NAN; }

/* One that is left out did not happen: the next that is due tries again. */
static void note_save(hx_trainer *t, hx_save_result result, double seconds) {
    if (result == HX_SAVE_SKIPPED) return;
    t->saved_step = t->state.step;
    t->saved_epoch = hx__trainer_epoch(t);
    if (result != HX_SAVE_BEGUN || t->save_status != HX_OK) return;
    t->save_stall_s = seconds;
    if (t->pace.n_steps > 0) t->pace_before = t->pace;
    t->pace = (hx__pace){0};
}

static bool next_end(const hx_trainer *t, hx_save_end *end) {
    const hx_checkpoint_hook *hook = t->setup.checkpoint;
    return hook != NULL && hook->ended != NULL && hook->ended(hook->self, end);
}

static hx_status report_end(hx_trainer *t, const hx_save_end *end) {
    note_result(t, end->status, end->text);
    hx__trainer_event(t, HX_EVENT_SAVE_END, end->seconds);
    t->event.step = end->step;
    t->event.is_best = end->is_best;
    t->event.stall_s = t->save_stall_s;
    t->event.step_s = mean_seconds(&t->pace);
    t->event.step_s_before = mean_seconds(&t->pace_before);
    t->event.text = end->status != HX_OK ? t->save_text : NULL;
    t->pace = (hx__pace){0};
    return hx__trainer_emit(t);
}

hx_status hx__trainer_report_saves(hx_trainer *t) {
    hx_save_end end;
    while (next_end(t, &end)) HX_TRY(report_end(t, &end));
    return HX_OK;
}

/* Ends of saves before this one, which may have waited for them. @param[out] own  its own, which may have come as well: false if not */
static hx_status report_earlier(hx_trainer *t, hx_save_end *own, bool *has_own) {
    for (*has_own = false; !*has_own && next_end(t, own);) {
        *has_own = own->step == t->state.step;
        if (!*has_own) HX_TRY(report_end(t, own));
    }
    return HX_OK;
}

static hx_status emit_save(hx_trainer *t, hx_save_result result, hx_status status, const char *text, double seconds) {
    if (result != HX_SAVE_SKIPPED) note_result(t, status, text);
    note_save(t, result, seconds);
    hx__trainer_event(t, HX_EVENT_SAVE, seconds);
    t->event.is_best = t->is_best && t->state.eval_step == t->state.step;
    t->event.save = result;
    t->event.text = status != HX_OK ? t->save_text : NULL;
    return hx__trainer_emit(t);
}

/* A save that fails (a full disk) is reported and training goes on: earlier checkpoints are untouched. Before
 * it all ranks make sure that none of them holds a failed update. */
hx_status hx__trainer_save(hx_trainer *t) {
    const hx_checkpoint_hook *hook = t->setup.checkpoint;
    const double began = hx__seconds_now();
    hx_save_result result = HX_SAVE_WRITTEN;
    hx_save_end end;
    bool has_ended;
    char text[sizeof t->save_text];
    if (hook == NULL || t->saved_step == t->state.step) return HX_OK;
    HX_TRY(hx__trainer_mean_buffers(t));
    hx__trainer_note(t, hx_stream_sync(t->ctx.stream)); /* the hook reads memory the stream writes */
    HX_TRY(hx__trainer_share(t));
    const bool is_best = t->is_best && t->state.eval_step == t->state.step;
    const hx_status status = HX_TRACED(HX_SPAN_SAVE, "checkpoint", hook->save(hook->self, &t->state, &t->items, is_best, &result));
    snprintf(text, sizeof text, "%s", hx_error_message());
    const double seconds = hx__seconds_now() - began;
    t->unbooked_s += seconds;
    HX_TRY(report_earlier(t, &end, &has_ended));
    HX_TRY(emit_save(t, result, status, text, seconds));
    return has_ended ? report_end(t, &end) : HX_OK;
}

hx_status hx__trainer_finish_saves(hx_trainer *t) {
    const hx_checkpoint_hook *hook = t->setup.checkpoint;
    const double began = hx__seconds_now();
    if (hook == NULL || hook->finish == NULL) return HX_OK;
    const int64_t span = hx_span_begin();
    hook->finish(hook->self);
    hx_span_end(span, HX_SPAN_SAVE, "wait for checkpoint", 0, 0);
    t->unbooked_s += hx__seconds_now() - began;
    return hx__trainer_report_saves(t);
}
