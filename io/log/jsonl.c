#include "io/log/jsonl.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "core/base/mem.h"

#define LINE_MOST 65536 /* bytes; an event has hundreds */

struct hx_jsonl {
    int fd;
    char *path;  /* owned */
    bool is_cut; /* a write failed, perhaps in the middle of a line */
};

static hx_status write_all(const hx_jsonl *log, const char *text, size_t n_bytes) {
    while (n_bytes > 0) {
        ssize_t n = write(log->fd, text, n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return HX_FAIL(HX_ERR_IO, "writing %s: %s", log->path, strerror(errno));
        text += n;
        n_bytes -= (size_t)n;
    }
    return HX_OK;
}

/* A kill or a full disk may have cut the last line; what follows must not be glued to it. */
static hx_status complete_last_line(const hx_jsonl *log) {
    struct stat st;
    char last;
    if (fstat(log->fd, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size == 0) return HX_OK;
    if (pread(log->fd, &last, 1, st.st_size - 1) == 1 && last == '\n') return HX_OK;
    return write_all(log, "\n", 1);
}

/* A line, or the beginning of one that is longer than any of ours: is it of a later step? @param or_else  what is no event */
static bool is_later(const char *line, size_t n_bytes, int64_t last_step, bool or_else) {
    json_t *object = json_loadb(line, n_bytes, 0, NULL);
    const json_t *step = json_object_get(object, "step");
    const bool is = json_is_integer(step) ? json_integer_value(step) > last_step : or_else;
    json_decref(object);
    return is;
}

/* What a file shall hold: its first n_bytes, and `behind`, the ends of saves that were told between later steps. */
typedef struct kept {
    int64_t n_bytes;
    char *behind; /* [n_behind]; owned */
    int64_t n_behind, capacity;
} kept;

static void kept_free(kept *k) { hx_mem_free((void **)&k->behind); }

static hx_status keep(kept *k, const char *line, size_t n, bool is_behind) {
    if (!is_behind) {
        k->n_bytes += (int64_t)n;
        return HX_OK;
    }
    HX_TRY(hx_mem_grow((void **)&k->behind, &k->capacity, k->n_behind + (int64_t)n, 1));
    memcpy(k->behind + k->n_behind, line, n);
    k->n_behind += (int64_t)n;
    return HX_OK;
}

static hx_status find_kept(FILE *f, int64_t last_step, kept *k) {
    char line[LINE_MOST];
    bool is_begin = true, is_out = false, has_later = false;
    while (fgets(line, sizeof line, f)) {
        const size_t n = strlen(line);
        if (is_begin) is_out = is_later(line, n, last_step, has_later);
        has_later |= is_out;
        is_begin = n == 0 || line[n - 1] == '\n';
        if (!is_out) HX_TRY(keep(k, line, n, has_later));
    }
    return HX_OK;
}

static hx_status read_kept(const char *path, int64_t last_step, kept *k) {
    FILE *f = fopen(path, "re");
    if (!f) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    hx_status status = find_kept(f, last_step, k);
    if (status == HX_OK && ferror(f)) status = HX_FAIL(HX_ERR_IO, "reading %s: %s", path, strerror(errno));
    fclose(f);
    return status;
}

/* What a run did behind the checkpoint that it goes on from did not happen. */
static hx_status cut_later(const hx_jsonl *log, int64_t last_step) {
    struct stat st;
    HX_CLEANUP(kept_free) kept k = {0};
    if (fstat(log->fd, &st) != 0 || !S_ISREG(st.st_mode)) return HX_OK;
    HX_TRY(read_kept(log->path, last_step, &k));
    if (k.n_bytes >= st.st_size) return HX_OK;
    if (ftruncate(log->fd, k.n_bytes) != 0) return HX_FAIL(HX_ERR_IO, "cutting %s: %s", log->path, strerror(errno));
    return write_all(log, k.behind, (size_t)k.n_behind);
}

hx_status hx_jsonl_open(const char *path, int64_t last_step, hx_jsonl **out) {
    HX_CLEANUP(hx_jsonl_close) hx_jsonl *log = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *log, (void **)&log));
    log->fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log->fd < 0) return HX_FAIL(HX_ERR_IO, "opening %s: %s", path, strerror(errno));
    HX_TRY(hx_mem_strdup(path, &log->path));
    HX_TRY(cut_later(log, last_step));
    HX_TRY(complete_last_line(log));
    *out = log;
    log = NULL; /* handed on */
    return HX_OK;
}

void hx_jsonl_close(hx_jsonl **log) {
    if (!log || !*log) return;
    if ((*log)->fd >= 0) close((*log)->fd);
    hx_mem_free((void **)&(*log)->path);
    hx_mem_free((void **)log);
}

/* ---- an event as an object; jansson's failures are found when the object is complete ---- */

static void put_int(json_t *o, const char *key, int64_t value) { json_object_set_new(o, key, json_integer(value)); }

static void put_real(json_t *o, const char *key, double value) {
    json_object_set_new(o, key, isfinite(value) ? json_real(value) : json_null());
}

/* A number of targets as an integer; a sum of weights may have a fraction. */
static void put_count(json_t *o, const char *key, double value) {
    if (fabs(value) < 0x1p53 && value == trunc(value))
        put_int(o, key, (int64_t)value);
    else
        put_real(o, key, value);
}

static void put_text(json_t *o, const char *key, const char *text) {
    json_t *string = json_string(text);
    if (!string) { /* not UTF-8, e.g. a path in a message: keep what can be read */
        char ascii[1024];
        size_t n = 0;
        for (; text[n] && n + 1 < sizeof ascii; n++) ascii[n] = (text[n] & 0x80) ? '?' : text[n];
        ascii[n] = 0;
        string = json_string(ascii);
    }
    json_object_set_new(o, key, string);
}

static const char *kind_name(hx_event_kind kind) {
    switch (kind) {
    case HX_EVENT_STEP: return "step";
    case HX_EVENT_EVAL: return "eval";
    case HX_EVENT_SAVE: return "save";
    case HX_EVENT_SKIP: return "skip";
    case HX_EVENT_STOP: return "stop";
    case HX_EVENT_SAVE_END: return "save_end";
    }
    return "?";
}

static void put_loss(json_t *o, const hx_train_event *e, const char *unit_name, double unit_per_count) {
    put_real(o, "loss", e->loss);
    if (unit_name && unit_per_count != 0) put_real(o, unit_name, e->loss * unit_per_count);
    put_count(o, "count", e->count);
}

static void put_metrics(json_t *o, const hx_metrics *metrics) {
    json_t *values = json_object();
    for (int i = 0; i < hx_metrics_n_values(metrics); i++) {
        const char *name;
        const double value = hx_metrics_value(metrics, i, &name);
        put_real(values, name, value);
    }
    json_object_set_new(o, "metrics", values);
}

static const char *save_name(hx_save_result result) {
    switch (result) {
    case HX_SAVE_WRITTEN: return "written";
    case HX_SAVE_BEGUN: return "begun";
    case HX_SAVE_SKIPPED: return "skipped";
    }
    return "?";
}

static json_t *event_object(const hx_train_event *e, const char *unit_name, double unit_per_count) {
    json_t *o = json_object();
    if (!o) return NULL;
    put_text(o, "event", kind_name(e->kind));
    put_int(o, "step", e->step);
    put_int(o, "n_steps", e->n_steps);
    put_int(o, "cursor", e->cursor);
    put_real(o, "epoch", e->epoch);
    if (e->kind == HX_EVENT_STEP || e->kind == HX_EVENT_EVAL) put_loss(o, e, unit_name, unit_per_count);
    if (e->kind == HX_EVENT_STEP || e->kind == HX_EVENT_SKIP) {
        put_real(o, "lr", e->lr);
        put_real(o, "grad_norm", e->grad_norm);
    }
    if (e->loss_scale > 0) put_real(o, "loss_scale", e->loss_scale);
    if (e->flops_share > 0) put_real(o, "flops_share", e->flops_share);
    if (e->metrics) put_metrics(o, e->metrics);
    if (e->kind == HX_EVENT_STEP) {
        put_real(o, "tokens_per_s", e->tokens_per_s);
        put_real(o, "comm_share", e->comm_share);
        put_real(o, "data_share", e->data_share);
        put_int(o, "memory_bytes", e->memory_bytes);
    }
    if (e->kind != HX_EVENT_STEP && e->kind != HX_EVENT_SKIP && e->kind != HX_EVENT_STOP)
        json_object_set_new(o, "is_best", json_boolean(e->is_best));
    if (e->kind == HX_EVENT_SAVE) put_text(o, "save", save_name(e->save));
    if (e->kind == HX_EVENT_SAVE_END) {
        put_real(o, "stall_s", e->stall_s);
        put_real(o, "step_s", e->step_s);
        put_real(o, "step_s_before", e->step_s_before);
    }
    if (e->text) put_text(o, "text", e->text);
    put_real(o, "seconds", e->seconds);
    put_real(o, "elapsed_s", e->elapsed_s);
    return o;
}

hx_status hx_jsonl_event(hx_jsonl *log, const hx_train_event *event, const char *unit_name, double unit_per_count) {
    json_t *object = event_object(event, unit_name, unit_per_count);
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    if (!text) return HX_FAIL(HX_ERR_MEMORY, "no memory for a line of %s", log->path);
    /* one write per line: a reader, or a kill, never sees half of it */
    size_t n = strlen(text);
    text[n] = '\n'; /* in the place of the final zero */
    hx_status status = log->is_cut ? complete_last_line(log) : HX_OK;
    if (status == HX_OK) status = write_all(log, text, n + 1);
    log->is_cut = status != HX_OK;
    free(text);
    return status;
}
