/* Metrics as JSON lines: one object per line, appended, flushed line by line, so that a killed run loses nothing.
 *
 *     hx_jsonl *log; HX_TRY(hx_jsonl_open("runs/a/metrics.jsonl", step_of_the_checkpoint, &log));
 *     HX_TRY(hx_jsonl_event(log, &event));
 */
#ifndef HX_IO_LOG_JSONL_H
#define HX_IO_LOG_JSONL_H

#include "core/train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_jsonl hx_jsonl;

/** Append to a file (created if absent) from which events of later steps, and what is no event behind the first of them, are removed
 *  before, as rows of history.h5 are: each step stands there once. The end of a save counts to the step that it was begun at. A last
 *  line that was cut short is completed by a newline first. @param last_step  0: a run that starts */
hx_status hx_jsonl_open(const char *path, int64_t last_step, hx_jsonl **out);
void hx_jsonl_close(hx_jsonl **log);
/** {"event":"step","step":..,"loss":..,...}; numbers that are not finite become null.
 *  @param unit_name, unit_per_count  second unit of the loss (hx_model), NULL: none */
hx_status hx_jsonl_event(hx_jsonl *log, const hx_train_event *event, const char *unit_name, double unit_per_count);

#ifdef __cplusplus
}
#endif
#endif
