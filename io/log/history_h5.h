/* The history of a run as columns in an HDF5 file, for plots and notebooks, beside the JSON lines:
 *
 *   /steps/step, loss, lr, grad_norm, tokens_per_s, ...   one value per logged update: f64, counters i64
 *   /evals/step, loss, count, is_best, ...                one per evaluation; also a column for each metric
 *   /saves/step, stall_s, seconds, is_beside, is_failed, step_s, step_s_before, ...   one per checkpoint: what training stood still
 *                                                         for in the call and before the next update, what it took in all, and the
 *                                                         mean step beside it, without that, and before
 *
 * Rows are kept in memory and appended when the trainer does anything but a step, or after a second. In between the file
 * is closed: whole, readable at any time, and safe from a kill. A run that is resumed first drops the rows behind its
 * checkpoint. A file that is damaged, or no file, is set aside as `<path>.damaged` and a new one begun: the JSON lines hold everything.
 *
 *     hx_history *h; HX_TRY(hx_history_open("runs/a/history.h5", step_of_the_checkpoint, &h));
 *     HX_TRY(hx_history_event(h, &event));
 */
#ifndef HX_IO_LOG_HISTORY_H5_H
#define HX_IO_LOG_HISTORY_H5_H

#include "core/train/trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_history hx_history;

/** Local; one process writes. @param last_step  rows of later steps are dropped
 *  @return HX_ERR_IO with HDF5's reason */
hx_status hx_history_open(const char *path, int64_t last_step, hx_history **out);
/** Rows not yet appended are lost: see hx_history_flush. */
void hx_history_close(hx_history **history);
/** Steps, evaluations and saves that have ended become rows, other kinds only cause an append. Rows of a failed append are kept for the next,
 *  as many as there is room for. @return HX_ERR_IO */
hx_status hx_history_event(hx_history *history, const hx_train_event *event);
/** Append now. @return HX_ERR_IO */
hx_status hx_history_flush(hx_history *history);

#ifdef __cplusplus
}
#endif
#endif
