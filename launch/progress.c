#include "launch/session_impl.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"

#define REDRAW_SECONDS 0.1
#define MAX_COLUMNS    400

enum { MODE_AUTO, MODE_BAR, MODE_LINES, MODE_NONE }; /* the words of run.progress */

struct hx_progress {
    int mode;
    int64_t log_every;
    char unit_name[32];
    double unit_per_count;
    bool is_drawn; /* a bar stands on the terminal's last line */
    double drawn_at, started_at;
    int64_t first_step; /* of this process, for the estimate of the time left */
};

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

hx_status hx_progress_create(int mode, int64_t log_every, const char *unit_name, double unit_per_count, hx_progress **out) {
    hx_progress *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof *p, (void **)&p));
    bool is_terminal = isatty(STDOUT_FILENO) && isatty(STDERR_FILENO);
    p->mode = mode == MODE_AUTO ? (is_terminal ? MODE_BAR : MODE_LINES) : mode;
    p->log_every = log_every > 0 ? log_every : 1;
    if (unit_name && unit_per_count > 0) {
        snprintf(p->unit_name, sizeof p->unit_name, "%s", unit_name);
        p->unit_per_count = unit_per_count;
    }
    p->started_at = now_s();
    p->first_step = -1;
    *out = p;
    return HX_OK;
}

/* ---- texts ---- */

static void time_text(double seconds, char out[32]) {
    if (!(seconds >= 0 && seconds < 1e8)) {
        snprintf(out, 32, "?");
        return;
    }
    long s = lround(seconds);
    if (s >= 3600) {
        snprintf(out, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    } else {
        snprintf(out, 32, "%ld:%02ld", s / 60, s % 60);
    }
}

static void rate_text(double rate, char out[32]) {
    if (rate >= 1e6) {
        snprintf(out, 32, "%.2fM", rate / 1e6);
    } else if (rate >= 1e4) {
        snprintf(out, 32, "%.1fk", rate / 1e3);
    } else {
        snprintf(out, 32, "%.0f", rate);
    }
}

/* "1.8700 (2.698 bits/byte)" */
static void loss_text(const hx_progress *p, double loss, char out[96]) {
    int n = snprintf(out, 96, "%.4f", loss);
    if (p->unit_per_count > 0) snprintf(out + n, 96 - (size_t)n, " (%.3f %s)", loss * p->unit_per_count, p->unit_name);
}

/* Time left from the steps of this process, its own start-up and evaluations included. */
static double seconds_left(const hx_progress *p, const hx_train_event *e) {
    int64_t done = e->step - p->first_step;
    return done > 0 ? (now_s() - p->started_at) / (double)done * (double)(e->n_steps - e->step) : NAN;
}

static void step_text(const hx_progress *p, const hx_train_event *e, char *out, size_t n_bytes) {
    char loss[96], rate[32], left[32], peak[32] = "";
    loss_text(p, e->loss, loss);
    rate_text(e->tokens_per_s, rate);
    time_text(seconds_left(p, e), left);
    if (e->flops_share > 0) snprintf(peak, sizeof peak, "  peak %.1f%%", 100 * e->flops_share);
    snprintf(out, n_bytes, "loss %s  lr %.2e  grad %.2f  %s tok/s%s  comm %.0f%%  data %.0f%%  mem %.0f MB  left %s", loss, e->lr,
             e->grad_norm, rate, peak, 100 * e->comm_share, 100 * e->data_share, (double)e->memory_bytes / 1e6, left);
}

/* ---- showing ---- */

static void wipe_bar(hx_progress *p) {
    if (!p->is_drawn) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    p->is_drawn = false;
}

static int terminal_columns(void) {
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col < MAX_COLUMNS ? size.ws_col : MAX_COLUMNS;
}

/* One line, cut to the terminal's width, because a wrapped line cannot be redrawn. */
static void draw_bar(hx_progress *p, const hx_train_event *e) {
    double now = now_s();
    if (p->is_drawn && now - p->drawn_at < REDRAW_SECONDS && e->step < e->n_steps) return;
    enum { WIDTH = 16 };
    char text[MAX_COLUMNS], line[2 * MAX_COLUMNS], bar[WIDTH + 1];
    double share = e->n_steps > 0 ? (double)e->step / (double)e->n_steps : 0;
    for (int i = 0; i < WIDTH; i++) bar[i] = i < share * WIDTH ? '#' : '.';
    bar[WIDTH] = '\0';
    step_text(p, e, text, sizeof text);
    snprintf(line, sizeof line, "[%s] %lld/%lld  %s", bar, (long long)e->step, (long long)e->n_steps, text);
    fprintf(stderr, "\r%.*s\033[K", terminal_columns() - 1, line);
    fflush(stderr);
    p->is_drawn = true;
    p->drawn_at = now;
}

static void say(hx_progress *p, const char *text) {
    if (p->mode == MODE_NONE) return;
    wipe_bar(p);
    puts(text);
    fflush(stdout);
}

static void show_step(hx_progress *p, const hx_train_event *e) {
    char text[MAX_COLUMNS], line[2 * MAX_COLUMNS];
    if (p->mode == MODE_BAR) {
        draw_bar(p, e);
        return;
    }
    if (e->step % p->log_every != 0 && e->step != 1 && e->step != e->n_steps) return;
    step_text(p, e, text, sizeof text);
    snprintf(line, sizeof line, "step %lld/%lld  %s", (long long)e->step, (long long)e->n_steps, text);
    say(p, line);
}

static void show_eval(hx_progress *p, const hx_train_event *e) {
    char loss[96], line[512];
    loss_text(p, e->loss, loss);
    int n = snprintf(line, sizeof line, "step %lld  held-out loss %s over %.15g targets%s, %.1f s", (long long)e->step, loss, e->count,
             e->is_best ? ", the best so far" : "", e->seconds);
    for (int i = 0; e->metrics && i < hx_metrics_n_values(e->metrics) && n < (int)sizeof line; i++) {
        const char *name;
        const double value = hx_metrics_value(e->metrics, i, &name);
        n += snprintf(line + n, sizeof line - (size_t)n, ", %s %.4g", name, value);
    }
    say(p, line);
}

static void save_text(const hx_train_event *e, char *out, size_t n_bytes) {
    if (e->text) {
        snprintf(out, n_bytes, "step %lld  CHECKPOINT NOT WRITTEN, training goes on: %.400s", (long long)e->step, e->text);
        return;
    }
    switch (e->save) {
    case HX_SAVE_WRITTEN: snprintf(out, n_bytes, "step %lld  checkpoint written in %.2f s", (long long)e->step, e->seconds); return;
    case HX_SAVE_BEGUN:
        snprintf(out, n_bytes, "step %lld  checkpoint begun in %.3f s", (long long)e->step, e->seconds);
        return;
    case HX_SAVE_SKIPPED:
        snprintf(out, n_bytes, "step %lld  checkpoint left out: the last one is still being written", (long long)e->step);
    }
}

static void save_end_text(const hx_train_event *e, char *out, size_t n_bytes) {
    int n;
    if (e->text) {
        snprintf(out, n_bytes, "step %lld  CHECKPOINT NOT WRITTEN, found out after %.2f s beside training: %.400s", (long long)e->step, e->seconds, e->text);
        return;
    }
    n = snprintf(out, n_bytes, "step %lld  checkpoint written beside training in %.2f s", (long long)e->step, e->seconds);
    if (isfinite(e->stall_s)) n += snprintf(out + n, n_bytes - (size_t)n, ", of which it stood still for %.3f s", e->stall_s);
    if (isfinite(e->step_s)) n += snprintf(out + n, n_bytes - (size_t)n, "; a step took %.4f s meanwhile", e->step_s);
    if (isfinite(e->step_s) && isfinite(e->step_s_before)) snprintf(out + n, n_bytes - (size_t)n, ", %.4f s before", e->step_s_before);
}

void hx_progress_event(hx_progress *p, const hx_train_event *e) {
    char line[512];
    if (p->first_step < 0) p->first_step = e->kind == HX_EVENT_STEP && e->step > 0 ? e->step - 1 : e->step;
    switch (e->kind) {
    case HX_EVENT_STEP: show_step(p, e); return;
    case HX_EVENT_EVAL: show_eval(p, e); return;
    case HX_EVENT_SAVE:
        save_text(e, line, sizeof line);
        break;
    case HX_EVENT_SKIP:
        snprintf(line, sizeof line, "step %lld  update left out: %s", (long long)e->step, e->text ? e->text : "not finite");
        break;
    case HX_EVENT_STOP:
        if (e->step == e->n_steps) return; /* the usual end needs no reason */
        snprintf(line, sizeof line, "step %lld  stopped: %s", (long long)e->step, e->text ? e->text : "");
        break;
    case HX_EVENT_SAVE_END: save_end_text(e, line, sizeof line); break;
    default: return;
    }
    say(p, line);
}

void hx_progress_note(hx_progress *p, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    say(p, text);
}

void hx_progress_destroy(hx_progress **progress) {
    hx_progress *p = *progress;
    if (!p) return;
    if (p->is_drawn) fputs("\n", stderr); /* the last state stays readable */
    hx_mem_free((void **)progress);
}
