/* Streams of a host backend either execute inline, on the calling thread, or are queues with a thread each. */
#include "core/tensor/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "core/base/shared.h"
#include "core/op/op.h"

typedef struct host_stream {
    hx_queue *queue; /* NULL: inline */
} host_stream;

typedef struct host_event {
    hx_signal *signal;
    hx_queue *queue;  /* of the stream it was recorded on; NULL: inline, or fired by hand */
    hx_status status; /* written before the signal is set, read after */
    char message[1024];
} host_event;

hx_status hx_host_init(hx_host *host, hx_status (*check)(hx_host *, const hx_op_call *),
                       hx_status (*run)(hx_host *, const hx_op_call *)) {
    const char *mode = getenv("HELIX_STREAM");
    if (mode != NULL && *mode != '\0' && strcmp(mode, "inline") != 0 && strcmp(mode, "async") != 0)
        return HX_FAIL(HX_ERR_CONFIG, "HELIX_STREAM=%.40s: expected inline or async", mode);
    host->check = check;
    host->run = run;
    host->is_async = mode != NULL && strcmp(mode, "async") == 0;
    return HX_OK;
}

hx_status hx_host_alloc(void *self, hx_pool_kind kind, size_t n_bytes, void **out) {
    (void)self;
    size_t aligned = n_bytes < 256 ? 256 : n_bytes;
    return kind == HX_POOL_COMM ? hx_shared_alloc(aligned, out) : hx_mem_alloc(aligned, out);
}

void hx_host_free(void *self, hx_pool_kind kind, void *p, size_t n_bytes) {
    (void)self;
    (void)n_bytes;
    if (kind == HX_POOL_COMM)
        hx_shared_free(p);
    else
        hx_mem_free(&p);
}

/* ---- streams ---- */

hx_status hx_host_stream_create(void *self, void **out) {
    hx_host *host = self;
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(host_stream), &p));
    if (host->is_async) {
        hx_status status = hx_queue_create("hx-stream", &((host_stream *)p)->queue);
        if (status != HX_OK) {
            hx_mem_free(&p);
            return status;
        }
    }
    *out = p;
    return HX_OK;
}

void hx_host_stream_destroy(void *self, void *stream) {
    (void)self;
    host_stream *s = stream;
    hx_queue_destroy(&s->queue);
    hx_mem_free(&stream);
}

hx_status hx_host_stream_sync(void *self, void *stream) {
    (void)self;
    host_stream *s = stream;
    return s->queue ? hx_queue_sync(s->queue) : HX_OK;
}

hx_status hx_host_stream_poll(void *self, void *stream, bool *idle) {
    (void)self;
    host_stream *s = stream;
    *idle = s->queue == NULL || hx_queue_is_idle(s->queue);
    return s->queue ? hx_queue_error(s->queue, false) : HX_OK;
}

/* Run a job now, or append it to the stream's queue. */
static hx_status submit(host_stream *s, hx_job_fn job, void *arg, size_t n_bytes) {
    if (s->queue == NULL) return job(arg);
    HX_TRY(hx_queue_error(s->queue, false));
    return hx_queue_push(s->queue, job, arg, n_bytes);
}

typedef struct copy_job {
    void *dst;
    const void *src;
    size_t n_bytes;
} copy_job;

static hx_status run_copy(void *arg) {
    copy_job *j = arg;
    memmove(j->dst, j->src, j->n_bytes);
    return HX_OK;
}

hx_status hx_host_copy(void *self, void *stream, void *dst, const void *src, size_t n_bytes, hx_copy_kind kind) {
    (void)self;
    (void)kind;
    copy_job j = {dst, src, n_bytes};
    return submit(stream, run_copy, &j, sizeof j);
}

typedef struct fill_job {
    void *dst;
    unsigned char pattern[16];
    size_t pattern_bytes;
    int64_t n_items;
} fill_job;

static hx_status run_fill(void *arg) {
    fill_job *j = arg;
    unsigned char *dst = j->dst;
    size_t total = (size_t)j->n_items * j->pattern_bytes, done = j->pattern_bytes;
    bool is_byte = true;
    for (size_t i = 1; i < j->pattern_bytes; i++) is_byte = is_byte && j->pattern[i] == j->pattern[0];
    if (is_byte) {
        memset(dst, j->pattern[0], total);
        return HX_OK;
    }
    memcpy(dst, j->pattern, j->pattern_bytes);
    while (done < total) { /* each round doubles what is there, up to pieces that stay in cache */
        size_t n = done < 65536 ? done : 65536;
        if (n > total - done) n = total - done;
        memcpy(dst + done, dst, n);
        done += n;
    }
    return HX_OK;
}

hx_status hx_host_fill(void *self, void *stream, void *dst, const void *pattern, size_t pattern_bytes, int64_t n_items) {
    (void)self;
    fill_job j = {.dst = dst, .pattern_bytes = pattern_bytes, .n_items = n_items};
    memcpy(j.pattern, pattern, pattern_bytes);
    return submit(stream, run_fill, &j, sizeof j);
}

typedef struct exec_job {
    hx_host *host;
    hx_op_call call;
} exec_job;
_Static_assert(sizeof(exec_job) <= HX_QUEUE_JOB_BYTES, "an op call must fit into a queue's slot");

static hx_status run_exec(void *arg) {
    exec_job *j = arg;
    return j->host->run(j->host, &j->call);
}

hx_status hx_host_exec(void *self, void *stream, const hx_op_call *call) {
    hx_host *host = self;
    host_stream *s = stream;
    if (host->check) HX_TRY(host->check(host, call));
    if (s->queue == NULL) return host->run(host, call);
    exec_job j = {host, *call};
    return submit(s, run_exec, &j, sizeof j);
}

/* ---- events ---- */

hx_status hx_host_event_create(void *self, void **out) {
    (void)self;
    void *p;
    HX_TRY(hx_mem_alloc_array(1, sizeof(host_event), &p));
    host_event *e = p;
    hx_status status = hx_signal_create(&e->signal);
    if (status != HX_OK) {
        hx_mem_free(&p);
        return status;
    }
    hx_signal_set(e->signal); /* an event that was never recorded has happened */
    *out = e;
    return HX_OK;
}

void hx_host_event_destroy(void *self, void *event) {
    (void)self;
    host_event *e = event;
    hx_signal_destroy(&e->signal);
    hx_mem_free(&event);
}

hx_status hx_host_event_record(void *self, void *event, void *stream) {
    (void)self;
    host_event *e = event;
    host_stream *s = stream;
    e->status = HX_OK;
    e->queue = s->queue;
    if (s->queue == NULL) {
        hx_signal_set(e->signal);
        return HX_OK;
    }
    hx_signal_reset(e->signal);
    return hx_queue_push_signal(s->queue, e->signal);
}

/* After the signal: the failure of the work that the event stands for. */
static hx_status event_status(host_event *e) {
    if (e->status != HX_OK) return hx_error_adopt(e->status, e->message);
    return e->queue ? hx_queue_error(e->queue, false) : HX_OK;
}

static hx_status check_event(void *arg) {
    host_event *e = *(host_event **)arg;
    return event_status(e);
}

hx_status hx_host_event_stream_wait(void *self, void *event, void *stream) {
    (void)self;
    host_event *e = event;
    host_stream *s = stream;
    if (s->queue == e->queue && s->queue != NULL) return HX_OK; /* in order anyway */
    if (s->queue == NULL) {
        hx_signal_wait(e->signal);
        return event_status(e);
    }
    HX_TRY(hx_queue_push_wait(s->queue, e->signal));
    return hx_queue_push(s->queue, check_event, &e, sizeof e);
}

hx_status hx_host_event_sync(void *self, void *event) {
    (void)self;
    host_event *e = event;
    hx_signal_wait(e->signal);
    return event_status(e);
}

hx_status hx_host_event_poll(void *self, void *event, bool *done) {
    (void)self;
    host_event *e = event;
    *done = hx_signal_is_set(e->signal);
    return *done ? event_status(e) : HX_OK;
}

hx_status hx_host_event_arm(void *self, void *event) {
    (void)self;
    host_event *e = event;
    hx_signal_reset(e->signal);
    e->queue = NULL;
    e->status = HX_OK;
    return HX_OK;
}

void hx_host_event_fire(void *self, void *event, hx_status status, const char *message) {
    (void)self;
    host_event *e = event;
    e->status = status;
    snprintf(e->message, sizeof e->message, "%s", message ? message : hx_status_text(status));
    hx_signal_set(e->signal);
}
