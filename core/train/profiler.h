/* What the spans of a trace say about training steps: a row for each op and for each wait, and what is left.
 *
 *     HX_TRY(hx_trace_spans(trace, &spans));
 *     HX_TRY(hx_profile_of(&spans, &profile));
 *     for (int64_t i = 0; i < profile.n_rows; i++) ... profile.rows[i].seconds / profile.n_steps ...
 *     profile.rest_s                                  // of the steps, in none of the rows
 */
#ifndef HX_CORE_TRAIN_PROFILER_H
#define HX_CORE_TRAIN_PROFILER_H

#include "core/base/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Spans of one name under one owner. Times are a span's own: without what runs within it. */
typedef struct hx_profile_row {
    hx_span_kind owner; /* HX_SPAN_STEP: ops of a step outside of all else */
    const char *name;   /* static storage */
    int thread;         /* of rows outside of steps; -1: within them */
    int64_t n_calls;
    double seconds, flops, n_bytes;
} hx_profile_row;

typedef struct hx_profile {
    int64_t n_steps, first_step, last_step; /* whole ones; their numbers */
    double seconds;                         /* of all steps together: of the rows within them, and rest_s */
    double rest_s;                          /* in no op, wait or work on data: the steps' own time, and that of their phases */
    hx_profile_row *rows;                   /* [n_rows] within steps by owner, the longest first; then outside. Owned */
    int64_t n_rows, n_within;
} hx_profile;

/** Names are borrowed from the spans' static storage. Outside of steps are other threads, and what a step's thread does between two. */
hx_status hx_profile_of(const hx_span_list *spans, hx_profile *out);
void hx_profile_destroy(hx_profile *profile);

#ifdef __cplusplus
}
#endif
#endif
