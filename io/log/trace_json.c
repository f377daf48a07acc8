/* The text is made by hand, in pieces of a buffer: there may be hundreds of thousands of events, and numbers are to have neither a
 * locale's decimal comma nor an exponent. Names of ops and kinds are our own; names of hosts and threads go through jansson. */
#include "io/log/trace_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "io/fs.h"

#define BUFFER_BYTES (256 << 10)
#define EVENT_BYTES  1024 /* of one event at most */

typedef struct text_out {
    const hx_span_list *spans;
    const hx_trace_origin *origin;
    const char *path;
    int fd;
    int64_t at; /* written so far */
    bool has_event;
    size_t n;   /* in the buffer */
    char *text; /* [BUFFER_BYTES] owned */
} text_out;

static hx_status flush(text_out *o) {
    HX_TRY(hx__fs_write(o->fd, o->path, o->text, o->n, o->at));
    o->at += (int64_t)o->n;
    o->n = 0;
    return HX_OK;
}

static hx_status put(text_out *o, const char *format, ...) HX_PRINTF(2, 3);

static hx_status put(text_out *o, const char *format, ...) {
    va_list args;
    if (BUFFER_BYTES - o->n < EVENT_BYTES) HX_TRY(flush(o));
    va_start(args, format);
    const int n = vsnprintf(o->text + o->n, EVENT_BYTES, format, args);
    va_end(args);
    if (n < 0 || n >= EVENT_BYTES) return HX_FAIL(HX_ERR_INTERNAL, "an event of %d bytes: expected fewer than %d", n, EVENT_BYTES);
    o->n += (size_t)n;
    return HX_OK;
}

/* What stands before an event. */
static const char *comma(text_out *o) {
    const bool is_first = !o->has_event;
    o->has_event = true;
    return is_first ? "" : ",\n";
}

/* ---- names ---- */

/* {"name":"process_name",...}: what the viewer calls a process or a thread, and in which order it shows it. */
static hx_status put_name(text_out *o, const char *what, int tid, const char *name) {
    json_t *string = json_string(name);
    char *quoted = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    const char *text = quoted ? quoted : "\"?\""; /* not UTF-8 */
    hx_status status = put(o, "%s{\"ph\":\"M\",\"name\":\"%s_name\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":%s}}", comma(o), what, o->origin->rank,
                           tid, text);
    free(quoted);
    json_decref(string);
    HX_TRY(status);
    return put(o, "%s{\"ph\":\"M\",\"name\":\"%s_sort_index\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%d}}", comma(o), what, o->origin->rank,
               tid, strcmp(what, "thread") == 0 ? tid : o->origin->rank);
}

static hx_status put_names(text_out *o) {
    char name[256];
    snprintf(name, sizeof name, "rank %d of %d on %.200s", o->origin->rank, o->origin->size, o->origin->host);
    HX_TRY(put_name(o, "process", 0, name));
    for (int i = 0; i < o->spans->n_threads; i++)
        if (o->spans->threads[i][0]) HX_TRY(put_name(o, "thread", i, o->spans->threads[i]));
    return HX_OK;
}

/* ---- events ---- */

/* "-12.345": microseconds of so many nanoseconds. */
static const char *micro_text(int64_t ns, char text[32]) {
    const uint64_t most = ns < 0 ? -(uint64_t)ns : (uint64_t)ns;
    snprintf(text, 32, "%s%" PRIu64 ".%03" PRIu64, ns < 0 ? "-" : "", most / 1000, most % 1000);
    return text;
}

static hx_status put_args(text_out *o, const hx_span *s) {
    if (s->kind == HX_SPAN_STEP) return put(o, "{\"step\":%" PRId64 "}", s->n_bytes);
    if (s->flops > 0) return put(o, "{\"flops\":%.0f,\"bytes\":%" PRId64 "}", s->flops, s->n_bytes);
    return s->n_bytes > 0 ? put(o, "{\"bytes\":%" PRId64 "}", s->n_bytes) : put(o, "{}");
}

static hx_status put_span(text_out *o, const hx_span *s) {
    char ts[32], duration[32];
    micro_text(s->begin_ns + o->origin->ahead_ns - o->origin->zero_ns, ts);
    micro_text(s->end_ns - s->begin_ns, duration);
    HX_TRY(put(o, "%s{\"ph\":\"X\",\"name\":\"%.100s\",\"cat\":\"%s\",\"pid\":%d,\"tid\":%d,\"ts\":%s,\"dur\":%s,\"args\":", comma(o),
               s->name, hx_span_kind_name(s->owner), o->origin->rank, s->thread, ts, duration));
    HX_TRY(put_args(o, s));
    return put(o, "}");
}

static hx_status fill(void *arg, int fd, const char *path) {
    text_out *o = arg;
    const hx_span_list *list = o->spans;
    o->fd = fd;
    o->path = path;
    HX_TRY(put(o, "{\"displayTimeUnit\":\"ms\",\"otherData\":{\"rank\":%d,\"ranks\":%d,\"spans\":%" PRId64 ",\"dropped\":%" PRId64
                  ",\"clock_ahead_ns\":%" PRId64 "},\n\"traceEvents\":[\n",
               o->origin->rank, o->origin->size, list->n, list->n_dropped, o->origin->ahead_ns));
    HX_TRY(put_names(o));
    for (int64_t i = 0; i < list->n; i++) HX_TRY(put_span(o, &list->spans[i]));
    HX_TRY(put(o, "\n]}\n"));
    return flush(o);
}

hx_status hx_trace_json_write(const char *path, const hx_span_list *spans, const hx_trace_origin *origin) {
    text_out o = {.spans = spans, .origin = origin};
    HX_TRY(hx_mem_alloc(BUFFER_BYTES, (void **)&o.text));
    const hx_status status = hx__fs_replace(path, fill, &o);
    hx_mem_free((void **)&o.text);
    return status;
}
