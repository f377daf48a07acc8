/* --profile: a window of steps is traced, and told about as soon as it is over, so that a run that is killed later keeps it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/mem.h"
#include "core/train/profiler.h"
#include "io/fs.h"
#include "io/log/trace_json.h"
#include "launch/session_impl.h"

#define WARM_UP 4 /* steps: the first ones make what later ones have */

struct hx_profiler {
    hx_trace *trace; /* owned */
    int64_t n_before, n_left; /* steps until it begins, and until it ends */
    int n_saves;               /* that were begun beside training within the window, and have not ended */
    bool is_told;
    hx_trace_origin origin;
    char folder[HX_PATH_BYTES];
};

/* ---- the window ---- */

static hx_status create(const hx_session *s, int64_t n_left, hx_profiler **out) {
    HX_CLEANUP(hx__profiler_destroy) hx_profiler *p = NULL;
    const int64_t n = s->config.run.profile, spare = n_left > n ? n_left - n : 0;
    HX_TRY(hx_mem_alloc_array(1, sizeof *p, (void **)&p));
    p->n_left = n;
    p->n_before = spare < WARM_UP ? spare : WARM_UP;
    p->origin = (hx_trace_origin){.rank = hx_comm_rank(s->world), .size = hx_comm_size(s->world), .host = hx_comm_host(s->world)};
    HX_TRY(hx__path_join(s->config.run.out, "profile", p->folder));
    HX_TRY(hx_trace_create(HX_TRACE_SPANS, &p->trace));
    *out = p;
    p = NULL; /* handed on */
    return HX_OK;
}

static hx_status align_clocks(const hx_session *s, hx_trace_origin *origin) {
    hx_agreement ranks;
    hx_comm_agreement(s->world, &ranks);
    HX_TRY(hx_comm_clock_ahead(s->world, &origin->ahead_ns));
    origin->zero_ns = hx__trace_now();
    return ranks.broadcast(ranks.self, &origin->zero_ns, sizeof origin->zero_ns);
}

hx_status hx__profiler_open(hx_session *s, int64_t n_left, hx_profiler **out) {
    hx_profiler *p = NULL;
    *out = NULL;
    if (s->config.run.profile == 0 || n_left <= 0) return HX_OK;
    hx_status status = hx_comm_agree(s->world, create(s, n_left, &p));
    if (status == HX_OK) status = align_clocks(s, &p->origin);
    if (status != HX_OK) {
        hx__profiler_destroy(&p);
        return status;
    }
    if (p->n_before == 0) hx_trace_start(p->trace);
    *out = p;
    return HX_OK;
}

void hx__profiler_destroy(hx_profiler **profiler) {
    if (*profiler == NULL) return;
    hx_trace_destroy(&(*profiler)->trace);
    hx_mem_free((void **)profiler);
}

static void count_step(hx_profiler *p) {
    if (p->n_before > 0) {
        if (--p->n_before == 0) hx_trace_start(p->trace);
    } else if (p->n_left > 0 && --p->n_left == 0) {
        hx_trace_stop();
    }
}

/* A save that began within the window is waited for: it may take longer than many steps. */
void hx__profiler_event(hx_profiler *p, const hx_train_event *event, hx_progress *progress) {
    if (p == NULL || p->is_told) return;
    const bool is_within = p->n_before == 0 && p->n_left > 0;
    if (event->kind == HX_EVENT_STEP || event->kind == HX_EVENT_SKIP) count_step(p);
    if (event->kind == HX_EVENT_SAVE && event->save == HX_SAVE_BEGUN && is_within) p->n_saves++;
    if (event->kind == HX_EVENT_SAVE_END && p->n_saves > 0) p->n_saves--;
    if (p->n_left == 0 && p->n_saves == 0) hx__profiler_finish(p, progress);
}

/* ---- the table ---- */

/* "%9.1f", or a dash where there is nothing to tell. */
static const char *rate_text(double amount, double seconds, char text[32]) {
    if (amount > 0 && seconds > 0)
        snprintf(text, 32, "%.1f", amount / seconds / 1e9);
    else
        snprintf(text, 32, "-");
    return text;
}

static void tell_row(hx_progress *progress, const hx_profile *p, const hx_profile_row *row) {
    char flops[32], bytes[32];
    hx_progress_note(progress, "  %-13s %-20s %9.1f %10.3f %6.1f %% %9s %8s", row->owner == HX_SPAN_STEP ? "other" : hx_span_kind_name(row->owner), row->name,
                     (double)row->n_calls / (double)p->n_steps, 1e3 * row->seconds / (double)p->n_steps, 100 * row->seconds / p->seconds,
                     rate_text(row->flops, row->seconds, flops), rate_text(row->n_bytes, row->seconds, bytes));
}

static void tell_steps(hx_progress *progress, const hx_profile *p) {
    hx_progress_note(progress, "  %-13s %-20s %9s %10s %8s %9s %8s", "", "", "calls", "ms", "share", "GFLOP/s", "GB/s");
    for (int64_t i = 0; i < p->n_within; i++) tell_row(progress, p, &p->rows[i]);
    hx_progress_note(progress, "  %-34s %9s %10.3f %6.1f %%", "not in any op", "", 1e3 * p->rest_s / (double)p->n_steps, 100 * p->rest_s / p->seconds);
    hx_progress_note(progress, "  %-34s %9s %10.3f %6.1f %%", "a step", "", 1e3 * p->seconds / (double)p->n_steps, 100.0);
}

/* What goes on beside steps, and between them, has no share of them: its time is that of the whole window. */
static void tell_rest(hx_progress *progress, const hx_profile *p, const hx_span_list *spans) {
    char bytes[32];
    if (p->n_rows == p->n_within) return;
    hx_progress_note(progress, "outside of steps, in all:");
    for (int64_t i = p->n_within; i < p->n_rows; i++) {
        const hx_profile_row *row = &p->rows[i];
        hx_progress_note(progress, "  %-13s %-20s %9lld %10.3f %8s %9s %8s  thread %s", hx_span_kind_name(row->owner), row->name, (long long)row->n_calls,
                         1e3 * row->seconds, "", "", rate_text(row->n_bytes, row->seconds, bytes), spans->threads[row->thread]);
    }
}

static void tell(hx_progress *progress, const hx_profiler *profiler, const hx_profile *p, const hx_span_list *spans) {
    if (p->n_steps == 0) {
        hx_progress_note(progress, "profile: no whole step was recorded; what there is: %s", profiler->folder);
    } else {
        hx_progress_note(progress, "profile of steps %lld to %lld%s, of each step; time line: %s/rank-%s.json", (long long)p->first_step,
                         (long long)p->last_step, profiler->origin.size > 1 ? " on rank 0" : "", profiler->folder,
                         profiler->origin.size > 1 ? "*" : "0");
        tell_steps(progress, p);
    }
    tell_rest(progress, p, spans);
    if (spans->n_dropped > 0)
        hx_progress_note(progress, "profile: WARNING: %lld spans were dropped, the last ones: %lld are kept; profile fewer steps", (long long)spans->n_dropped,
                         (long long)HX_TRACE_SPANS);
}

/* ---- the end ---- */

/* Of a run that had more ranks: their time lines would be taken for this one's. */
static hx_status remove_older(const hx_profiler *p) {
    char name[32], path[HX_PATH_BYTES];
    for (int rank = p->origin.size; p->origin.rank == 0; rank++) {
        snprintf(name, sizeof name, "rank-%d.json", rank);
        HX_TRY(hx__path_join(p->folder, name, path));
        if (access(path, F_OK) != 0) break;
        HX_TRY(hx__fs_unlink(path));
    }
    return HX_OK;
}

static hx_status write_file(const hx_profiler *p, const hx_span_list *spans) {
    char name[32], path[HX_PATH_BYTES];
    snprintf(name, sizeof name, "rank-%d.json", p->origin.rank);
    HX_TRY(hx__path_join(p->folder, name, path));
    HX_TRY(hx__fs_mkdirs(p->folder));
    HX_TRY(remove_older(p));
    return hx_trace_json_write(path, spans, &p->origin);
}

static hx_status report(const hx_profiler *p, hx_progress *progress) {
    HX_CLEANUP(hx_span_list_destroy) hx_span_list spans = {0};
    HX_CLEANUP(hx_profile_destroy) hx_profile profile = {0};
    HX_TRY(hx_trace_spans(p->trace, &spans));
    HX_TRY(write_file(p, &spans));
    if (progress == NULL) return HX_OK;
    HX_TRY(hx_profile_of(&spans, &profile));
    tell(progress, p, &profile, &spans);
    return HX_OK;
}

void hx__profiler_finish(hx_profiler *p, hx_progress *progress) {
    if (p == NULL || p->is_told) return;
    p->is_told = true;
    hx_trace_stop();
    if (report(p, progress) != HX_OK) HX_LOG(HX_LOG_WARN, "PROFILE NOT WRITTEN, training goes on: %s", hx_error_message());
}
