/* Where time goes: spans with a name, a kind, a beginning and an end, of any thread.
 *
 *     HX_TRY(hx_trace_create(HX_TRACE_SPANS, &trace));
 *     hx_trace_start(trace);                          // from here on the spans of all threads are kept
 *     const int64_t began = hx_span_begin();
 *     ... work ...
 *     hx_span_end(began, HX_SPAN_DATA, "make batch", 0, n_bytes);
 *     hx_trace_stop();
 *     HX_TRY(hx_trace_spans(trace, &list));           // sorted, each with what was its own
 *
 * A span is kept by one atomic addition and one store into memory that hx_trace_create reserved: no lock, no allocation. When that
 * memory is full later spans are dropped and counted. While nothing is traced hx_span_begin is a load and a branch, and
 * hx_span_end a branch on its result. One trace is active at a time in a process: it is the one global that places all over the
 * library must reach.
 */
#ifndef HX_CORE_BASE_TRACE_H
#define HX_CORE_BASE_TRACE_H

#include "core/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_TRACE_SPANS       ((int64_t)1 << 18) /* a good number to create a trace with: 12 MiB */
#define HX_TRACE_THREADS     32                 /* whose spans are kept */
#define HX_TRACE_NAME_BYTES  16                 /* of a thread, as the system knows it */

/* What a span is. An op belongs to the kind of the innermost other span around it on its thread: a product is forward's or
 * backward's by where it ran. */
#define HX_SPAN_KINDS(X)                                                                                     \
    X(STEP, "step")               /* one update of a training */                                             \
    X(FORWARD, "forward")                                                                                    \
    X(BACKWARD, "backward")                                                                                  \
    X(RECOMPUTE, "recompute")     /* of a segment, within backward */                                        \
    X(OPTIMIZER, "optimizer")     /* the gradients' norm, too */                                             \
    X(COMM, "communication")      /* a collective, or the wait for some */                                   \
    X(DATA, "data")               /* a micro-batch is made or waited for */                                  \
    X(SAVE, "checkpoint")                                                                                    \
    X(EVAL, "evaluation")                                                                                    \
    X(OP, "op")

typedef enum hx_span_kind {
#define HX_SPAN_ENUM_(name, text) HX_SPAN_##name,
    HX_SPAN_KINDS(HX_SPAN_ENUM_)
#undef HX_SPAN_ENUM_
    HX_SPAN_KIND_COUNT
} hx_span_kind;

/** "forward" and so on. */
const char *hx_span_kind_name(hx_span_kind kind);

typedef struct hx_trace hx_trace;

/** Memory for n_spans spans, >= 1; no thread touches it before hx_trace_start. */
hx_status hx_trace_create(int64_t n_spans, hx_trace **out);
/** No other thread may be within a span: those that were have been joined, or waited for. Stops it first. */
void hx_trace_destroy(hx_trace **trace);
/** Keep spans from now on, in place of any other trace; the caller becomes thread 0, "main". To be called once. */
void hx_trace_start(hx_trace *trace);
/** No span begins from now on; one that has begun is kept when it ends. */
void hx_trace_stop(void);

/* ---- what is kept ---- */

typedef struct hx_span {
    const char *name; /* static storage */
    int64_t begin_ns, end_ns; /* CLOCK_MONOTONIC */
    int64_t n_bytes;  /* that it moves; of HX_SPAN_STEP the step's number */
    double flops;
    hx_span_kind kind;
    int thread;
    /* from here on by hx_trace_spans: */
    hx_span_kind owner; /* kind; of an op that of the span it is in, HX_SPAN_OP: in none */
    int64_t own_ns;     /* its time less that of the spans in it */
    int64_t step;       /* index in the list of the HX_SPAN_STEP around it, or itself; -1: none on its thread */
} hx_span;

typedef struct hx_span_list {
    hx_span *spans; /* [n] by thread, then by beginning: a span stands before those in it. Owned */
    int64_t n;
    int64_t n_dropped; /* no room; none of them ended before those that are kept */
    int n_threads;
    char threads[HX_TRACE_THREADS][HX_TRACE_NAME_BYTES]; /* "": none of its spans is kept */
} hx_span_list;

/** After hx_trace_stop: a copy of what has been kept so far. */
hx_status hx_trace_spans(const hx_trace *trace, hx_span_list *out);
void hx_span_list_destroy(hx_span_list *list);

/* ---- the places that are traced ---- */

extern bool hx__trace_is_on;
int64_t hx__trace_now(void);
void hx__trace_add(int64_t began, hx_span_kind kind, const char *name, double flops, int64_t n_bytes);

/** 0: nothing is traced. */
static inline int64_t hx_span_begin(void) {
    return HX_LIKELY(!__atomic_load_n(&hx__trace_is_on, __ATOMIC_RELAXED)) ? 0 : hx__trace_now();
}
/** On the thread of hx_span_begin, in the reverse order of the beginnings. @param name  static storage */
static inline void hx_span_end(int64_t began, hx_span_kind kind, const char *name, double flops, int64_t n_bytes) {
    if (HX_LIKELY(began == 0)) return;
    hx__trace_add(began, kind, name, flops, n_bytes);
}

/** A call that returns a status, as a span: HX_TRY(HX_TRACED(HX_SPAN_FORWARD, "forward", run(model))). */
#define HX_TRACED(kind, name, call)                                                                          \
    ({                                                                                                       \
        const int64_t hx_began_ = hx_span_begin();                                                           \
        const hx_status hx_traced_ = (call);                                                                 \
        hx_span_end(hx_began_, (kind), (name), 0, 0);                                                        \
        hx_traced_;                                                                                          \
    })

#ifdef __cplusplus
}
#endif
#endif
