/* The thread pool, and FIFO queues with events on a thread of their own.
 *
 * The pool runs independent tasks 0..n-1; which thread runs which task is not defined, so a task must write
 * only what belongs to its index, and results cannot depend on the number of threads. Sums are made over
 * blocks whose bounds depend on the problem alone.
 *
 *     static void task(void *arg, int64_t i, int worker) { ... }
 *     hx_pool_run(pool, n_blocks, task, &args);          // returns when all are done
 *
 * A queue executes jobs in order on one thread, as a device stream or a communication stream does.
 */
#ifndef HX_CORE_BASE_THREADS_H
#define HX_CORE_BASE_THREADS_H

#include "core/base/status.h"
#include "core/base/thread.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_pool hx_pool;

typedef void (*hx_task_fn)(void *arg, int64_t index, int worker);

/** A pool of as many threads as there are usable cores (hx_usable_cores) keeps each thread to one of them, and the caller to the first
 *  until the pool is destroyed: the system would at times leave two threads on one core for a long run of short tasks, at half the speed.
 *  With fewer threads it is left the choice, since other processes may use the same cores.
 *  @param n_threads  >= 1, the caller included: 1 starts no thread */
hx_status hx_pool_create(int n_threads, hx_pool **out);
void hx_pool_destroy(hx_pool **pool);
int hx_pool_size(const hx_pool *pool);
/** Run task(arg, i, worker) for i in [0, n_tasks); worker is in [0, size) and unique among those running.
 *  The caller takes part. Not reentrant: one run at a time, and a task must not call it. No allocation. */
void hx_pool_run(hx_pool *pool, int64_t n_tasks, hx_task_fn task, void *arg);

/* ---- events and queues ---- */

/* One-shot completion flag that several threads may wait for; reusable after hx_signal_reset. */
typedef struct hx_signal hx_signal;
hx_status hx_signal_create(hx_signal **out);
void hx_signal_destroy(hx_signal **signal);
void hx_signal_reset(hx_signal *signal);
void hx_signal_set(hx_signal *signal);
bool hx_signal_is_set(const hx_signal *signal);
/** Block until set. */
void hx_signal_wait(hx_signal *signal);

typedef struct hx_queue hx_queue;

#define HX_QUEUE_JOBS      256  /* that have not run: a queue holds no more */
#define HX_QUEUE_JOB_BYTES 4096 /* a job's argument is copied into the queue */

typedef hx_status (*hx_job_fn)(void *arg);

/** A queue with its own thread. @param name  up to 15 bytes, shown by debuggers */
hx_status hx_queue_create(const char *name, hx_queue **out);
/** Runs what is queued, then ends the thread. */
void hx_queue_destroy(hx_queue **queue);
/** Append a job; blocks while the queue is full (HX_QUEUE_JOBS). Thread-safe. No allocation.
 *  After a job failed, later jobs are skipped until the failure has been taken by hx_queue_error.
 *  @param arg  n_bytes <= HX_QUEUE_JOB_BYTES, copied */
hx_status hx_queue_push(hx_queue *queue, hx_job_fn job, const void *arg, size_t n_bytes);
/** Append a job that sets `signal`; it runs even after a failure, so that no waiter hangs. */
hx_status hx_queue_push_signal(hx_queue *queue, hx_signal *signal);
/** Append a wait for `signal`, which may be set by any thread. */
hx_status hx_queue_push_wait(hx_queue *queue, hx_signal *signal);
/** Wait until all jobs pushed so far have run. Returns the sticky failure and keeps it. */
hx_status hx_queue_sync(hx_queue *queue);
/** Wait, but no longer than timeout_ms, until at most n_left of the jobs pushed so far have not run: 0 as hx_queue_sync does,
 *  HX_QUEUE_JOBS - 1 as hx_queue_push does. For a caller who has to look at something else meanwhile.
 *  @return whether that is so; true on the queue's own thread, which cannot wait: hx_queue_sync and hx_queue_push tell */
bool hx_queue_wait(hx_queue *queue, int n_left, int timeout_ms);
/** True when nothing is queued or running. */
bool hx_queue_is_idle(hx_queue *queue);
/** The sticky failure, described on the calling thread; HX_OK when there is none.
 *  @param clear  forget it, so that jobs run again */
hx_status hx_queue_error(hx_queue *queue, bool clear);

#ifdef __cplusplus
}
#endif
#endif
