/* Spans as a file of Chrome's trace events, which Perfetto (https://ui.perfetto.dev) and chrome://tracing open: a process is a rank,
 * a track a thread, a bar a span.
 *
 *     HX_TRY(hx_trace_json_write("runs/a/profile/rank-0.json", &spans, &(hx_trace_origin){.rank = 0, .size = 2, .host = "node07", ...}));
 */
#ifndef HX_IO_LOG_TRACE_JSON_H
#define HX_IO_LOG_TRACE_JSON_H

#include "core/base/trace.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whose spans they are, and where on the time line of all ranks they stand. */
typedef struct hx_trace_origin {
    int rank, size;
    const char *host;
    int64_t ahead_ns; /* to be added to this host's CLOCK_MONOTONIC to get that of rank 0's host */
    int64_t zero_ns;  /* the moment of rank 0's clock that the file calls 0 */
} hx_trace_origin;

/** Writes the file, or leaves what was there. Times are microseconds with three decimals; an event's category is its kind, of an op
 *  that of the span it is in (HX_SPAN_KINDS); its args are flops and bytes, a step's its number. The number of spans that were dropped is
 *  in otherData.
 *  @return HX_ERR_IO, HX_ERR_MEMORY */
hx_status hx_trace_json_write(const char *path, const hx_span_list *spans, const hx_trace_origin *origin);

#ifdef __cplusplus
}
#endif
#endif
