/* Spans lie in one array that all threads fill: a thread takes the next place by an atomic addition, writes it, and marks it as whole.
 * A thread's number is given at its first span and remembered by the thread, beside the run of the trace that gave it. */
#define _GNU_SOURCE /* names of threads */
#include "core/base/trace.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"

typedef struct place {
    const char *name;
    int64_t begin_ns, end_ns, n_bytes;
    double flops;
    uint8_t kind, thread;
    atomic_bool is_whole;
} place;
_Static_assert(HX_TRACE_THREADS <= UINT8_MAX && HX_SPAN_KIND_COUNT <= UINT8_MAX, "a place holds them in a byte");

struct hx_trace {
    int64_t capacity;
    unsigned run; /* of this process's traces */
    atomic_int_least64_t n_taken; /* places; beyond capacity: dropped */
    atomic_int_least64_t n_strange; /* spans of threads beyond HX_TRACE_THREADS */
    atomic_int n_threads;
    char threads[HX_TRACE_THREADS][HX_TRACE_NAME_BYTES];
    place places[]; /* [capacity] */
};

bool hx__trace_is_on;
static _Atomic(hx_trace *) active;
static atomic_uint n_runs;

/* This thread's number in a run; HX_TRACE_THREADS: it came too late. */
static _Thread_local struct {
    unsigned run;
    int thread;
} self;

static const char *const kind_names[] = {
#define KIND_NAME(name, text) [HX_SPAN_##name] = text,
    HX_SPAN_KINDS(KIND_NAME)
#undef KIND_NAME
};

const char *hx_span_kind_name(hx_span_kind kind) { return kind_names[kind]; }

hx_status hx_trace_create(int64_t n_spans, hx_trace **out) {
    size_t n_bytes;
    if (n_spans < 1) return HX_FAIL(HX_ERR_ARG, "a trace of %lld spans: expected at least 1", (long long)n_spans);
    HX_TRY(hx_mem_mul((size_t)n_spans, sizeof(place), &n_bytes));
    /* zeroed, so that the first spans do not pay for the memory's first touch */
    HX_TRY(hx_mem_alloc_array(1, sizeof(hx_trace) + n_bytes, (void **)out));
    (*out)->capacity = n_spans;
    return HX_OK;
}

void hx_trace_destroy(hx_trace **trace) {
    if (*trace != NULL && atomic_load(&active) == *trace) {
        hx_trace_stop();
        atomic_store(&active, NULL);
    }
    hx_mem_free((void **)trace);
}

/* ---- recording ---- */

int64_t hx__trace_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void join(hx_trace *trace, const char *name) {
    self.run = trace->run;
    self.thread = atomic_fetch_add(&trace->n_threads, 1);
    if (self.thread >= HX_TRACE_THREADS) {
        self.thread = HX_TRACE_THREADS;
        return;
    }
    char *own = trace->threads[self.thread];
    if (name != NULL)
        snprintf(own, HX_TRACE_NAME_BYTES, "%s", name);
    else if (pthread_getname_np(pthread_self(), own, HX_TRACE_NAME_BYTES) != 0)
        snprintf(own, HX_TRACE_NAME_BYTES, "thread");
}

void hx_trace_start(hx_trace *trace) {
    trace->run = atomic_fetch_add(&n_runs, 1) + 1;
    join(trace, "main");
    atomic_store(&active, trace);
    __atomic_store_n(&hx__trace_is_on, true, __ATOMIC_RELEASE);
}

void hx_trace_stop(void) {
    __atomic_store_n(&hx__trace_is_on, false, __ATOMIC_RELEASE); /* the trace stays: some spans have begun */
}

void hx__trace_add(int64_t began, hx_span_kind kind, const char *name, double flops, int64_t n_bytes) {
    const int64_t now = hx__trace_now();
    hx_trace *trace = atomic_load_explicit(&active, memory_order_acquire);
    if (trace == NULL) return; /* it is gone */
    if (self.run != trace->run) join(trace, NULL);
    if (self.thread == HX_TRACE_THREADS) {
        atomic_fetch_add_explicit(&trace->n_strange, 1, memory_order_relaxed);
        return;
    }
    const int64_t at = atomic_fetch_add_explicit(&trace->n_taken, 1, memory_order_relaxed);
    if (at >= trace->capacity) return;
    place *p = &trace->places[at];
    p->name = name;
    p->begin_ns = began;
    p->end_ns = now;
    p->n_bytes = n_bytes;
    p->flops = flops;
    p->kind = (uint8_t)kind;
    p->thread = (uint8_t)self.thread;
    atomic_store_explicit(&p->is_whole, true, memory_order_release);
}

/* ---- reading ---- */

/* Of two spans with the same bounds the one that was kept later is around the other. */
static int by_place(const void *a, const void *b) {
    const hx_span *x = a, *y = b;
    if (x->thread != y->thread) return x->thread < y->thread ? -1 : 1;
    if (x->begin_ns != y->begin_ns) return x->begin_ns < y->begin_ns ? -1 : 1;
    if (x->end_ns != y->end_ns) return x->end_ns > y->end_ns ? -1 : 1;
    return x->own_ns > y->own_ns ? -1 : 1; /* where they were kept: see copy_places */
}

/* A name was written before the thread's first place was whole. */
static void note_thread(const hx_trace *trace, int thread, hx_span_list *list) {
    memcpy(list->threads[thread], trace->threads[thread], HX_TRACE_NAME_BYTES);
    if (thread >= list->n_threads) list->n_threads = thread + 1;
}

static void copy_places(const hx_trace *trace, int64_t n_taken, hx_span_list *list) {
    for (int64_t i = 0; i < n_taken; i++) {
        const place *p = &trace->places[i];
        if (!atomic_load_explicit(&p->is_whole, memory_order_acquire)) continue; /* its thread is at it still */
        note_thread(trace, p->thread, list);
        list->spans[list->n++] = (hx_span){.name = p->name, .begin_ns = p->begin_ns, .end_ns = p->end_ns, .n_bytes = p->n_bytes, .flops = p->flops,
                                           .kind = (hx_span_kind)p->kind, .thread = p->thread, .own_ns = i};
    }
}

/* The innermost span of those before number i that goes on when it begins, -1: none. `around` of each names its own. */
static int64_t find_around(const hx_span_list *list, const int64_t *around, int64_t i) {
    const hx_span *s = &list->spans[i];
    int64_t at = i - 1;
    if (at < 0 || list->spans[at].thread != s->thread) return -1;
    while (at >= 0 && list->spans[at].end_ns < s->end_ns) at = around[at];
    return at;
}

static hx_status nest(hx_span_list *list) {
    int64_t *around;
    HX_TRY(hx_mem_alloc_array(list->n, sizeof *around, (void **)&around));
    for (int64_t i = 0; i < list->n; i++) {
        hx_span *s = &list->spans[i];
        const int64_t at = around[i] = find_around(list, around, i);
        s->own_ns = s->end_ns - s->begin_ns;
        s->owner = s->kind != HX_SPAN_OP || at < 0 ? s->kind : list->spans[at].owner;
        s->step = s->kind == HX_SPAN_STEP ? i : at < 0 ? -1 : list->spans[at].step;
        if (at >= 0) list->spans[at].own_ns -= s->end_ns - s->begin_ns;
    }
    hx_mem_free((void **)&around);
    return HX_OK;
}

hx_status hx_trace_spans(const hx_trace *trace, hx_span_list *out) {
    hx_span_list list = {0};
    const int64_t n = atomic_load(&trace->n_taken), n_taken = n < trace->capacity ? n : trace->capacity;
    HX_TRY(hx_mem_alloc_array(n_taken, sizeof *list.spans, (void **)&list.spans));
    note_thread(trace, 0, &list); /* the one that started it, whatever it did */
    copy_places(trace, n_taken, &list);
    qsort(list.spans, (size_t)list.n, sizeof *list.spans, by_place);
    const hx_status status = nest(&list);
    if (status != HX_OK) {
        hx_span_list_destroy(&list);
        return status;
    }
    list.n_dropped = n - n_taken + atomic_load(&trace->n_strange);
    *out = list;
    return HX_OK;
}

void hx_span_list_destroy(hx_span_list *list) {
    hx_mem_free((void **)&list->spans);
    *list = (hx_span_list){0};
}
