/* Inside of the NCCL provider: a communicator of NCCL, and the watchdog that ends what is stuck. For nccl*.c only.
 *
 * NCCL is used in its non-blocking mode: a call that has to wait for other ranks answers ncclInProgress, and is over when
 * ncclCommGetAsyncError says so. Nothing that NCCL does can then keep a thread from finding the deadline.
 */
#ifndef HX_DIST_COMM_NCCL_IMPL_H
#define HX_DIST_COMM_NCCL_IMPL_H

#include <nccl.h>

#include "dist/comm/comm_impl.h"
#include "dist/comm/nccl.h"

/* The functions that are used. The library is opened when the first communicator wants it, so that the plug-in works
 * without NCCL, and so that a run of one process does not pay for loading it. */
#define HX_NCCL_FUNCTIONS(X)                                                                                       \
    X(GetVersion) X(GetErrorString) X(GetLastError) X(GetUniqueId) X(CommInitRankConfig) X(CommGetAsyncError)      \
    X(CommFinalize) X(CommDestroy) X(CommAbort) X(AllReduce) X(ReduceScatter) X(AllGather) X(Broadcast) X(Send)    \
    X(Recv) X(GroupStart) X(GroupEnd)

typedef struct hx__nccl_api {
#define HX_NCCL_FIELD_(name) __typeof__(&nccl##name) name;
    HX_NCCL_FUNCTIONS(HX_NCCL_FIELD_)
#undef HX_NCCL_FIELD_
} hx__nccl_api;

#define HX_NCCL_OUTSTANDING 64 /* collectives enqueued and not known to be done */

typedef struct hx__nccl_entry {
    hx_event *end;
    hx_collective kind;
    int64_t count;
    hx_dtype dtype;
    double since; /* s: when it was enqueued; nothing before it is counted against it, see is_late */
} hx__nccl_entry;

typedef struct hx__nccl {
    hx__nccl_api api;
    hx_comm *comm; /* that this is the state of */
    hx_comm *base; /* that it serves: the same ranks, over host memory; borrowed */
    hx_device *device;
    int gpu; /* the device's number; the calling thread selects it */
    double timeout_s;

    pthread_mutex_t lock; /* guards what follows, but not the waiting for an event */
    pthread_cond_t changed;
    ncclComm_t handle;                            /* NULL: aborted, or not made yet */
    hx__nccl_entry entries[HX_NCCL_OUTSTANDING]; /* collective i uses entry i mod HX_NCCL_OUTSTANDING */
    int64_t n_begun, n_ended;
    bool has_heard; /* that another rank gave up */
    bool is_closing;
    bool has_watchdog;
    pthread_t watchdog;
} hx__nccl;

/** The status of a call of NCCL, with its error's text. ncclInProgress is no failure. @param call  for the message */
hx_status hx__nccl_check(hx__nccl *n, ncclResult_t result, const char *call);
/** Wait until the communicator is through with the last call. @return HX_ERR_COMM, after the deadline too: the
 *  caller ends the communicator, and decides who is told
 *  @param what  for the message: "all_reduce of 4 f32" */
hx_status hx__nccl_settle(hx__nccl *n, const char *what);
/** End all work of the communicator. Idempotent, from any thread. */
void hx__nccl_abort(hx__nccl *n);
/** Fail for good, end all work, and tell the other ranks unless one of them has told this one. From any thread. */
void hx__nccl_give_up(hx__nccl *n, hx_status why, const char *message);
/** @return HX_ERR_COMM if another rank has told that it gave up */
hx_status hx__nccl_listen(hx__nccl *n);

double hx__nccl_now(void);
void hx__nccl_pause(double seconds);

/* ---- nccl_watch.c ---- */

/** A thread that looks at the outstanding collectives until hx__nccl_watch_stop. @return HX_ERR_DEVICE, HX_ERR_MEMORY */
hx_status hx__nccl_watch_start(hx__nccl *n, hx_device *device);
void hx__nccl_watch_stop(hx__nccl *n);
/** What has just been enqueued on `stream`: from now on it has a deadline. */
hx_status hx__nccl_watch_add(hx__nccl *n, const hx_comm_call *call, hx_stream *stream);
/** "all_reduce of 4 f32 on rank 1 of 2" */
const char *hx__nccl_describe(const hx__nccl *n, hx_collective kind, int64_t count, hx_dtype dtype, char text[96]);

#endif
