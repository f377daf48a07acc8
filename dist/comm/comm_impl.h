/* Inside of a communicator: for the providers in dist/comm and for tests.
 *
 * A provider fills hx_comm_ops, and makes communicators with hx__comm_create. The front in comm.c checks arguments,
 * waits for producers, queues, fires events and keeps the first failure; a provider only executes.
 */
#ifndef HX_DIST_COMM_COMM_IMPL_H
#define HX_DIST_COMM_COMM_IMPL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "core/base/threads.h"
#include "dist/comm/comm.h"

#define HX_COMM_HOST_BYTES 64
#define HX_COMM_TEXT_BYTES 1024 /* of a failure's message that is kept or sent */
#define HX_COMM_PRODUCERS  64   /* events in use at once */

#define HX_COMM_MAX_SUM    64   /* doubles of an agreement's sum; core/train/hooks.h */

/* Elements of one provider call: well below MPI's int, and size*count of implementations that multiply in int. */
#define HX_COMM_MAX_ELEMS ((int64_t)1 << 30)

/* A failure that is reported later than it was met: the first one of several. */
typedef struct hx__outcome {
    hx_status status;
    char message[HX_COMM_TEXT_BYTES];
} hx__outcome;

typedef struct hx__comm_side hx__comm_side; /* device.c */

/* The communication thread, shared by a world and all that was split from it; counted. */
typedef struct hx__comm_engine {
    hx_queue *queue;
    atomic_int n_users;
    hx__comm_side *side; /* for memory of a device; NULL: not used, or given back */
    void (*finish)(void); /* when the last user is gone; may be NULL */
    FILE *times;          /* what HELIX_COMM_TIMES writes; NULL: nothing */

    /* Events recorded on producers' streams, made when a stream is first found busy. Record k uses entry
     * k mod HX_COMM_PRODUCERS, which is free when n_released > k - HX_COMM_PRODUCERS. */
    hx_device *device; /* of the events; NULL: there are none */
    hx_event *producers[HX_COMM_PRODUCERS];
    int64_t n_recorded;
    atomic_llong n_released;
} hx__comm_engine;

struct hx_comm {
    const hx_comm_ops *ops;
    void *state;      /* the provider's own */
    void *mpi_handle; /* MPI_Comm *, or NULL */
    void *warning;    /* what this rank has sent the others over MPI before it gave up; NULL: nothing */
    bool sums_in_tree; /* what hx_comm_sums_in_tree says */
    const char *transport; /* what hx_comm_transport says; NULL: the provider's name */
    hx__comm_engine *engine;
    hx_comm *on_device; /* the same ranks, by a provider that moves memory of a device; owned; NULL: staged */
    int rank, size;
    char host[HX_COMM_HOST_BYTES];
    int64_t max_elems;

    pthread_mutex_t lock; /* guards the failure, which the communication thread writes */
    hx_status failure;
    char message[HX_COMM_TEXT_BYTES];

    double *gathered; /* [size*HX_COMM_MAX_SUM] room of the agreement's sum: a step allocates nothing */
};

/** A thread with one user. @param finish  called when the last user is gone; may be NULL */
hx_status hx__comm_engine_create(void (*finish)(void), hx__comm_engine **out);
/** A communicator of a provider; takes a share of `engine`. */
hx_status hx__comm_create(const hx_comm_ops *ops, hx__comm_engine *engine, int rank, int size, hx_comm **out);
/** Give a share up; the last one ends the thread. */
void hx__comm_engine_release(hx__comm_engine **engine);

/** Keep what the calling thread has just failed with, unless there is a failure already or status is HX_OK. */
void hx__outcome_note(hx__outcome *outcome, hx_status status);
/** Let the provider run on the communication thread; a failure becomes sticky. */
hx_status hx__comm_execute(hx_comm *comm, const hx_comm_call *call);
/** What the collectives of comm.h do, of any kind: check the call, enqueue it, and wait for it if `done` is NULL. */
hx_status hx__comm_start(hx_comm *comm, const hx_comm_call *call, hx_stream *stream, hx_event *done);
/** Bytes of this rank's buffer: count elements, or size*count where each rank has a block. */
int64_t hx__comm_call_bytes(const hx_comm *comm, const hx_comm_call *call);
/** Collective. @param[out] first  [size] for each rank the lowest one on its host */
hx_status hx__comm_first_on_host(hx_comm *comm, int64_t *first);

/** hx_comm_clock_ahead of any clock, in nanoseconds. */
hx_status hx__comm_clock_ahead(hx_comm *comm, int64_t (*now)(void), int64_t *out);

/* ---- times.c ---- */

double hx__times_now(void);
/** The file that HELIX_COMM_TIMES names; NULL: it names none. */
hx_status hx__times_open(int rank, FILE **out);
void hx__times_write(FILE *file, const hx_comm *comm, const hx_comm_call *call, double called, double began);

/* ---- device.c ---- */

/** A checked collective on memory that only the device reaches. Takes part whatever has failed on this rank.
 *  @param done  NULL: returns when it is done. @return the first failure that is known at return */
hx_status hx__comm_device_run(hx_comm *comm, const hx_comm_call *call, hx_stream *stream, hx_event *done);
/** Wait for such collectives. @return the stream's failure */
hx_status hx__comm_device_sync(hx__comm_engine *engine);
/** The same, and give their stream, event and pinned memory back. */
hx_status hx__comm_device_release(hx__comm_engine *engine);
/** A device that is found lost does not keep the communication thread waiting for what it will not bring. */
void hx__comm_device_look(hx__comm_engine *engine);
/** hx_queue_sync of the communication thread, with a look at the device from time to time: it may be lost meanwhile. */
hx_status hx__comm_wait(hx__comm_engine *engine);
/** hx_queue_push to it, likewise while the queue is full. */
hx_status hx__comm_push(hx__comm_engine *engine, hx_job_fn job, const void *arg, size_t n_bytes);

/** Let providers see at most n elements per call, 1 <= n <= HX_COMM_MAX_ELEMS, so that small tests cover the loops
 *  for large counts. The same on all ranks. */
void hx__comm_set_max_elems(hx_comm *comm, int64_t n);
/** Fail as a provider does: sticky, and later collectives are refused. For tests. */
void hx__comm_set_failure(hx_comm *comm, hx_status status, const char *message);

/** "all_reduce"; static storage. */
const char *hx__collective_name(hx_collective kind);

/** Processes that the launcher's environment announces; 0: it says nothing. */
int hx__launch_size(void);
/** True for a task of srun which was started without PMI or PMIx: MPI would take it for a lonely process. */
bool hx__launch_lacks_pmi(void);

#endif
