/* Communicators: collectives over ranks behind one vtable.
 *
 * Every collective takes device buffers, a 64-bit count of elements, a dtype and the stream whose earlier work
 * produced the buffers. It enqueues and returns; `done` fires when the result is there. Collectives of one rank
 * start in the order in which they were called, on all communicators together, on a communication thread; every
 * rank must call them in the same order. Errors surface at the event and are sticky in the communicator. An event
 * stands for one collective at a time. A communicator keeps a stream, events and memory of the device whose streams it
 * was given, for later calls: hx_comm_close, or hx_comm_release_device, comes before hx_device_close.
 *
 *     hx_event *done;  HX_TRY(hx_event_create(dev, &done));
 *     HX_TRY(hx_comm_all_reduce(comm, grad, n, HX_F32, HX_SUM, stream, done));
 *     ... other work ...
 *     HX_TRY(hx_event_wait(done, stream));                  // later work on the stream sees the sum
 *
 * Buffers in a device's own memory, which the host does not reach, are moved on a stream of the engine's beside the
 * producer's, in the order of the calls: by the device's own library (NCCL, dist/comm/nccl.h) where it serves the
 * communicator, else staged through pinned memory of the host. Their events are the device's: they say when, but not
 * how it went; a failure is found by hx_comm_failure after the event, by hx_comm_sync, and by the next call. Without a
 * stream a buffer is the host's.
 *
 * Ranks of one host exchange memory of the host through memory that they share, not by messages: buffers from
 * HX_POOL_COMM of a host backend (32 KiB and more, allocated while the communicator is open) are read and summed where they
 * lie, others are staged. Sums are then taken in a fixed tree over ranks, sum(lo..hi) = sum(lo..m) + sum(m..hi) with m - lo
 * the largest power of two below hi - lo: their bits depend on the number of ranks, not on sizes, places or times. On several
 * hosts with equally many ranks all_reduce works so inside each host, and MPI adds up the hosts; the rest is MPI's.
 * HELIX_SHM=off leaves all to MPI, HELIX_SHM=on fails where nothing is shared. Ranks of one host whose calls differ get
 * HX_ERR_COMM, which names them and both calls; with HELIX_COMM_CHECK=1 so do ranks that go by MPI, for an exchange more per
 * call. (Sends, receives and memory of a device that NCCL moves are not compared.) HELIX_TEST_HOSTS=n is for tests: the world's
 * ranks pretend to be on n hosts. HELIX_COMM_TIMES=PREFIX writes when each collective of the host's memory was called, began and
 * ended to PREFIX.<rank>.jsonl.
 *
 * In place is the rule for all_reduce and broadcast; for reduce_scatter the result is the rank's own part of the
 * buffer, for all_gather the rank's own part is the input. `done` may be NULL: the call then returns when it is done.
 */
#ifndef HX_DIST_COMM_COMM_H
#define HX_DIST_COMM_COMM_H

#include "core/tensor/backend.h"
#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_comm hx_comm;

typedef enum hx_reduce { HX_SUM, HX_MAX, HX_MIN } hx_reduce;

typedef enum hx_collective {
    HX_COLL_ALL_REDUCE,
    HX_COLL_REDUCE_SCATTER,
    HX_COLL_ALL_GATHER,
    HX_COLL_BROADCAST,
    HX_COLL_ALL_TO_ALL,
    HX_COLL_SEND,
    HX_COLL_RECV,
    HX_COLL_BARRIER
} hx_collective;

/* One collective, as a provider sees it: counts and displacements have been checked. */
typedef struct hx_comm_call {
    hx_collective kind;
    void *data;         /* all_reduce, broadcast, send, recv: [count]; reduce_scatter, all_gather: [size*count] */
    const void *source; /* all_to_all: [size*count] */
    int64_t count;
    hx_dtype dtype;
    hx_reduce reduce;
    int peer; /* root of broadcast, peer of send and recv */
} hx_comm_call;

/* A provider moves host memory (run, split) or memory of a device (enqueue, follow). */
typedef struct hx_comm_ops {
    const char *name; /* "self", "mpi", "nccl" */
    /** REQUIRED. */
    void (*destroy)(hx_comm *comm);
    /** Execute on the communication thread, blocking until done. */
    hx_status (*run)(hx_comm *comm, const hx_comm_call *call);
    /** Collective: ranks with the same color form a communicator, ordered by key; color < 0: none. */
    hx_status (*split)(hx_comm *comm, int color, int key, hx_comm **out);
    /** Enqueue on a stream of the device; size > 1. Called on the thread that calls the collectives. */
    hx_status (*enqueue)(hx_comm *comm, const hx_comm_call *call, hx_stream *stream);
    /** With enqueue: this rank fails to take part. End what is enqueued, here and on the other ranks, and fail from now on. */
    void (*abandon)(hx_comm *comm, hx_status why, const char *message);
    /** Collective over `child`, which was split from the communicator that `comm` serves: serve it too. */
    hx_status (*follow)(hx_comm *comm, hx_comm *child);
    /** OPTIONAL, both or none, on any thread, and waiting for nobody: tell the other ranks that collectives on the device
     *  will not go on; the first such message that came, if any. */
    void (*warn)(hx_comm *comm, const char *message);
    bool (*heard)(hx_comm *comm, char *message, size_t n_bytes);
} hx_comm_ops;

/* ---- opening ---- */

/** One process. */
hx_status hx_comm_self_open(hx_comm **out);
/** The world of MPI. Initialises MPI (THREAD_MULTIPLE) if nobody has; hx_comm_close of this communicator then
 *  finalises it. @return HX_ERR_COMM if MPI does not offer the thread level, or HELIX_SHM=on and no memory is shared;
 *  HX_ERR_CONFIG: HELIX_SHM or HELIX_COMM_CHECK has another value than it may */
hx_status hx_comm_mpi_open(hx_comm **out);
/** True if the environment shows that a launcher (mpirun, srun with PMIx) started this process. No MPI call. */
bool hx_comm_was_launched(void);
/** Ranks that share this host's memory, and this one's number among them; known from the launcher's environment
 *  before MPI is initialised, 1 and 0 without a launcher. */
void hx_comm_local(int *local_rank, int *local_size);
void hx_comm_close(hx_comm **comm);

int hx_comm_rank(const hx_comm *comm);
int hx_comm_size(const hx_comm *comm);
const char *hx_comm_host(const hx_comm *comm);
const char *hx_comm_name(const hx_comm *comm);
/** What moves memory of the host, in words: "shared memory", "mpi", ... Static storage. */
const char *hx_comm_transport(const hx_comm *comm);
/** True if sums of host memory are taken in the tree over ranks that is described above. */
bool hx_comm_sums_in_tree(const hx_comm *comm);
/** What moves memory of a device: "nccl", or "staged". */
const char *hx_comm_device_name(const hx_comm *comm);
/** Pointer to the MPI_Comm, for parallel HDF5; NULL if there is none ("self"). Use it only from a thread that has
 *  called hx_comm_sync, and only while no collective is queued. */
void *hx_comm_mpi_handle(hx_comm *comm);
/** Collective. See hx_comm_ops.split. Shares the parent's communication thread. */
hx_status hx_comm_split(hx_comm *comm, int color, int key, hx_comm **out);

/* ---- collectives (all ranks of the communicator, same order, same arguments) ----
 *
 * Every dtype is moved. Reductions are of f32, f64 and the integer types, sums of the complex types too; any other is
 * refused with HX_ERR_UNSUPPORTED before anything is sent: on all ranks alike, and the communicator goes on. */

/** data[i] = reduction over ranks of data[i]. @param data [count] */
hx_status hx_comm_all_reduce(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce, hx_stream *stream, hx_event *done);
/** @param data [size*count]; on return data[rank*count + i] holds the reduction; the rest is undefined */
hx_status hx_comm_reduce_scatter(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce, hx_stream *stream, hx_event *done);
/** @param data [size*count]; rank r contributes data[r*count ..] */
hx_status hx_comm_all_gather(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_stream *stream, hx_event *done);
/** @param data [count] */
hx_status hx_comm_broadcast(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, int root, hx_stream *stream, hx_event *done);
/** Block j of source goes to rank j, block i of data comes from rank i. @param source, data [size*count], disjoint */
hx_status hx_comm_all_to_all(hx_comm *comm, const void *source, void *data, int64_t count, hx_dtype dtype, hx_stream *stream, hx_event *done);
hx_status hx_comm_send(hx_comm *comm, const void *data, int64_t count, hx_dtype dtype, int peer, hx_stream *stream, hx_event *done);
hx_status hx_comm_recv(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, int peer, hx_stream *stream, hx_event *done);
/** Returns when all ranks have called it. */
hx_status hx_comm_barrier(hx_comm *comm);
/** Wait until this rank's queued collectives are done. @return the sticky failure, or that of the device which moved them */
hx_status hx_comm_sync(hx_comm *comm);
/** The same, and give back what is kept of a device; all communicators that were split from one another share it. */
hx_status hx_comm_release_device(hx_comm *comm);
/** The sticky failure so far, described on the calling thread. Waits for nothing. */
hx_status hx_comm_failure(hx_comm *comm);

/** Collective. What is to be added to CLOCK_MONOTONIC of this rank's host to get that of rank 0's, in nanoseconds; 0 on rank 0's host.
 *  As exact as barriers between the hosts are: some tens of microseconds. */
hx_status hx_comm_clock_ahead(hx_comm *comm, int64_t *out);

/* ---- agreement ---- */

/** Collective. All ranks return HX_OK, or all fail: the ones that failed with their own status, the others with
 *  HX_ERR_REMOTE naming the lowest failing rank, its host and its message. Use: return hx_comm_agree(comm, status). */
hx_status hx_comm_agree(hx_comm *comm, hx_status mine);
/** Collective. Fails on all ranks, naming two values and their ranks, unless `value` is the same on all. @param what  for the message */
hx_status hx_comm_agree_equal(hx_comm *comm, const char *what, int64_t value);
/** The trainer's hook over this communicator; borrows it. */
void hx_comm_agreement(hx_comm *comm, hx_agreement *out);

#ifdef __cplusplus
}
#endif
#endif
