/* Communicators over MPI 3.1.
 *
 * MPI counts in int, and some implementations multiply a block's count by the number of ranks in int. So a call
 * moves at most max_elems elements in all; what is larger is cut:
 *   all_reduce, broadcast, send, recv   into ranges;
 *   reduce_scatter                      into a reduction to each rank, ranges of its block at a time;
 *   all_gather                          into a broadcast from each rank;
 *   all_to_all                          into exchanges with the rank at distance 1, 2, ...
 * The bytes moved stay the same, and no scratch memory is needed. Nothing depends on arrival: a sum has the same bits
 * in each run with the same number of ranks.
 */
#include "dist/comm/mpi_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

#define TAG      17
#define WARN_TAG 18

enum { WARNING_BYTES = 512 }; /* short enough that MPI takes it at once, whether or not somebody receives it */

/* Made when this rank warns the others. */
typedef struct warning {
    char text[WARNING_BYTES];
    MPI_Request sent[]; /* [size] */
} warning;

hx_status hx__mpi_check(int code, const char *call) {
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (code == MPI_SUCCESS) return HX_OK;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) length = 0;
    return HX_FAIL(HX_ERR_COMM, "%s: %.*s (code %d)", call, length, text, code);
}

static MPI_Comm handle_of(const hx_comm *comm) {
    return *(MPI_Comm *)comm->mpi_handle;
}

/* MPI 3.1 knows no half types: they are moved as units of 2 bytes, and the front refuses to reduce them. */
static MPI_Datatype mpi_type(hx_dtype dtype) {
    switch (dtype) {
    case HX_F32: return MPI_FLOAT;
    case HX_F64: return MPI_DOUBLE;
    case HX_I32: return MPI_INT32_T;
    case HX_I64: return MPI_INT64_T;
    case HX_I8: return MPI_INT8_T;
    case HX_U8:
    case HX_BOOL: return MPI_UINT8_T;
    case HX_BF16:
    case HX_F16: return MPI_UINT16_T;
    case HX_C64: return MPI_C_FLOAT_COMPLEX;
    case HX_C128: return MPI_C_DOUBLE_COMPLEX;
    case HX_DTYPE_COUNT: break;
    }
    return MPI_DATATYPE_NULL;
}

static MPI_Op mpi_op(hx_reduce reduce) {
    return reduce == HX_SUM ? MPI_SUM : reduce == HX_MAX ? MPI_MAX : MPI_MIN;
}

static void *element(const void *data, hx_dtype dtype, int64_t index) {
    return (char *)data + (size_t)index * hx_dtype_bytes(dtype);
}

/* The range [at, at+n) of a call's data that goes to, or comes from, `peer`. */
typedef struct range {
    void *data;
    int n;
    int peer;
} range;

typedef hx_status (*range_fn)(hx_comm *comm, const hx_comm_call *call, range r);

/* Do elements [start, start+count) of the call's data, at most max_elems at a time. */
static hx_status in_ranges(hx_comm *comm, const hx_comm_call *call, int64_t start, int64_t count, int peer, range_fn run) {
    for (int64_t at = 0; at < count; at += comm->max_elems) {
        int64_t n = count - at < comm->max_elems ? count - at : comm->max_elems;
        range r = {.data = element(call->data, call->dtype, start + at), .peer = peer};
        HX_TRY(hx_count_to_int(n, &r.n));
        HX_TRY(run(comm, call, r));
    }
    return HX_OK;
}

hx_status hx__mpi_all_reduce(MPI_Comm handle, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce, int64_t max_elems) {
    for (int64_t at = 0; at < count; at += max_elems) {
        int n;
        HX_TRY(hx_count_to_int(count - at < max_elems ? count - at : max_elems, &n));
        MPI_TRY(MPI_Allreduce, MPI_IN_PLACE, element(data, dtype, at), n, mpi_type(dtype), mpi_op(reduce), handle);
    }
    return HX_OK;
}

static hx_status range_reduce(hx_comm *comm, const hx_comm_call *call, range r) {
    bool is_root = comm->rank == r.peer;
    MPI_TRY(MPI_Reduce, is_root ? MPI_IN_PLACE : r.data, is_root ? r.data : NULL, r.n, mpi_type(call->dtype),
            mpi_op(call->reduce), r.peer, handle_of(comm));
    return HX_OK;
}

static hx_status range_broadcast(hx_comm *comm, const hx_comm_call *call, range r) {
    MPI_TRY(MPI_Bcast, r.data, r.n, mpi_type(call->dtype), r.peer, handle_of(comm));
    return HX_OK;
}

static hx_status range_send(hx_comm *comm, const hx_comm_call *call, range r) {
    MPI_TRY(MPI_Send, r.data, r.n, mpi_type(call->dtype), r.peer, TAG, handle_of(comm));
    return HX_OK;
}

static hx_status range_recv(hx_comm *comm, const hx_comm_call *call, range r) {
    MPI_Status received;
    int n = 0;
    MPI_TRY(MPI_Recv, r.data, r.n, mpi_type(call->dtype), r.peer, TAG, handle_of(comm), &received);
    MPI_TRY(MPI_Get_count, &received, mpi_type(call->dtype), &n);
    if (n != r.n)
        return HX_FAIL(HX_ERR_COMM, "recv from rank %d: %d %s came, expected %d", r.peer, n, hx_dtype_name(call->dtype), r.n);
    return HX_OK;
}

static bool fits_one_call(const hx_comm *comm, const hx_comm_call *call) {
    return call->count <= comm->max_elems / comm->size;
}

static hx_status run_reduce_scatter(hx_comm *comm, const hx_comm_call *call) {
    if (!fits_one_call(comm, call)) {
        for (int root = 0; root < comm->size; root++)
            HX_TRY(in_ranges(comm, call, root * call->count, call->count, root, range_reduce));
        return HX_OK;
    }
    int n;
    HX_TRY(hx_count_to_int(call->count, &n));
    MPI_TRY(MPI_Reduce_scatter_block, MPI_IN_PLACE, call->data, n, mpi_type(call->dtype), mpi_op(call->reduce),
            handle_of(comm));
    /* MPI leaves the result at the start of the buffer. */
    memmove(element(call->data, call->dtype, comm->rank * call->count), call->data,
            (size_t)call->count * hx_dtype_bytes(call->dtype));
    return HX_OK;
}

static hx_status run_all_gather(hx_comm *comm, const hx_comm_call *call) {
    if (!fits_one_call(comm, call)) {
        for (int root = 0; root < comm->size; root++)
            HX_TRY(in_ranges(comm, call, root * call->count, call->count, root, range_broadcast));
        return HX_OK;
    }
    int n;
    HX_TRY(hx_count_to_int(call->count, &n));
    MPI_TRY(MPI_Allgather, MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, call->data, n, mpi_type(call->dtype), handle_of(comm));
    return HX_OK;
}

/* Block `to` goes to that rank while block `from` arrives from that one. */
static hx_status exchange(hx_comm *comm, const hx_comm_call *call, int to, int from) {
    MPI_Datatype type = mpi_type(call->dtype);
    for (int64_t at = 0; at < call->count; at += comm->max_elems) {
        int n;
        HX_TRY(hx_count_to_int(call->count - at < comm->max_elems ? call->count - at : comm->max_elems, &n));
        MPI_TRY(MPI_Sendrecv, element(call->source, call->dtype, to * call->count + at), n, type, to, TAG,
                element(call->data, call->dtype, from * call->count + at), n, type, from, TAG, handle_of(comm),
                MPI_STATUS_IGNORE);
    }
    return HX_OK;
}

static hx_status run_all_to_all(hx_comm *comm, const hx_comm_call *call) {
    if (!fits_one_call(comm, call)) {
        for (int distance = 0; distance < comm->size; distance++)
            HX_TRY(exchange(comm, call, (comm->rank + distance) % comm->size,
                            (comm->rank - distance + comm->size) % comm->size));
        return HX_OK;
    }
    int n;
    HX_TRY(hx_count_to_int(call->count, &n));
    MPI_TRY(MPI_Alltoall, call->source, n, mpi_type(call->dtype), call->data, n, mpi_type(call->dtype), handle_of(comm));
    return HX_OK;
}

static hx_status mpi_run(hx_comm *comm, const hx_comm_call *call) {
    bool is_done;
    HX_TRY(hx__hosts_run(comm, call, &is_done));
    if (is_done) return HX_OK;
    if (call->kind == HX_COLL_BARRIER) {
        MPI_TRY(MPI_Barrier, handle_of(comm));
        return HX_OK;
    }
    if (call->count == 0) return HX_OK; /* on all ranks alike */
    switch (call->kind) {
    case HX_COLL_ALL_REDUCE:
        return hx__mpi_all_reduce(handle_of(comm), call->data, call->count, call->dtype, call->reduce, comm->max_elems);
    case HX_COLL_REDUCE_SCATTER: return run_reduce_scatter(comm, call);
    case HX_COLL_ALL_GATHER: return run_all_gather(comm, call);
    case HX_COLL_BROADCAST: return in_ranges(comm, call, 0, call->count, call->peer, range_broadcast);
    case HX_COLL_ALL_TO_ALL: return run_all_to_all(comm, call);
    case HX_COLL_SEND: return in_ranges(comm, call, 0, call->count, call->peer, range_send);
    case HX_COLL_RECV: return in_ranges(comm, call, 0, call->count, call->peer, range_recv);
    default: return HX_FAIL(HX_ERR_INTERNAL, "collective %d is none", (int)call->kind);
    }
}

/* ---- warnings ---- */

/* The front lets one thread warn, once. What cannot be sent is not: the others then have their deadline. */
static void mpi_warn(hx_comm *comm, const char *message) {
    void *made;
    size_t n_bytes = sizeof(warning) + (size_t)comm->size * sizeof(MPI_Request);
    if (hx_mem_alloc_array((int64_t)n_bytes, 1, &made) != HX_OK) return;
    warning *w = made;
    comm->warning = made;
    snprintf(w->text, sizeof w->text, "rank %d of %d on %s gave up: %s", comm->rank, comm->size, comm->host, message);
    for (int peer = 0; peer < comm->size; peer++) {
        w->sent[peer] = MPI_REQUEST_NULL;
        if (peer != comm->rank) (void)MPI_Isend(w->text, WARNING_BYTES, MPI_CHAR, peer, WARN_TAG, handle_of(comm), &w->sent[peer]);
    }
}

static bool mpi_heard(hx_comm *comm, char *message, size_t n_bytes) {
    char text[WARNING_BYTES];
    int is_there = 0;
    MPI_Message found;
    if (MPI_Improbe(MPI_ANY_SOURCE, WARN_TAG, handle_of(comm), &is_there, &found, MPI_STATUS_IGNORE) != MPI_SUCCESS || !is_there) return false;
    if (MPI_Mrecv(text, WARNING_BYTES, MPI_CHAR, &found, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    snprintf(message, n_bytes, "%.*s", WARNING_BYTES - 1, text);
    return true;
}

/* What MPI has not taken yet it may still read. */
static void destroy_warning(hx_comm *comm) {
    warning *w = comm->warning;
    int is_sent = 0;
    if (w != NULL && MPI_Testall(comm->size, w->sent, &is_sent, MPI_STATUSES_IGNORE) == MPI_SUCCESS && is_sent) hx_mem_free(&comm->warning);
}

/* ---- communicators ---- */

static const hx_comm_ops mpi_ops;

/* Takes over `handle`, also on failure. */
static hx_status wrap_consume(MPI_Comm handle, hx__comm_engine *engine, hx_comm **out) {
    int rank, size;
    hx_comm *comm;
    MPI_Comm *kept = NULL;
    hx_status status;
    HX_TRY_GOTO(hx__mpi_check(MPI_Comm_set_errhandler(handle, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler"), failed);
    HX_TRY_GOTO(hx__mpi_check(MPI_Comm_rank(handle, &rank), "MPI_Comm_rank"), failed);
    HX_TRY_GOTO(hx__mpi_check(MPI_Comm_size(handle, &size), "MPI_Comm_size"), failed);
    HX_TRY_GOTO(hx_mem_alloc_array(1, sizeof *kept, (void **)&kept), failed);
    HX_TRY_GOTO(hx__comm_create(&mpi_ops, engine, rank, size, &comm), failed);
    *kept = handle;
    comm->mpi_handle = kept;
    *out = comm;
    return HX_OK;
failed:
    hx_mem_free((void **)&kept);
    (void)MPI_Comm_free(&handle);
    return status;
}

static hx_status mpi_split(hx_comm *comm, int color, int key, hx_comm **out) {
    MPI_Comm handle;
    MPI_TRY(MPI_Comm_split, handle_of(comm), color < 0 ? MPI_UNDEFINED : color, key, &handle);
    if (handle == MPI_COMM_NULL) {
        *out = NULL;
        return HX_OK;
    }
    hx_comm *child;
    HX_TRY(wrap_consume(handle, comm->engine, &child));
    hx_status status = hx__hosts_open_child(comm, child);
    if (status != HX_OK)
        hx_comm_close(&child);
    else
        *out = child;
    return status;
}

static void mpi_destroy(hx_comm *comm) {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) destroy_warning(comm);
    hx__hosts_close(comm, !finalized && comm->failure == HX_OK);
    /* After a failure the other ranks may be gone: freeing, which may wait for them, is left to the end of the process. */
    if (!finalized && comm->failure == HX_OK) (void)MPI_Comm_free(comm->mpi_handle);
    hx_mem_free(&comm->mpi_handle);
}

static const hx_comm_ops mpi_ops = {
    .name = "mpi", .run = mpi_run, .split = mpi_split, .destroy = mpi_destroy, .warn = mpi_warn, .heard = mpi_heard};

/* ---- the world ---- */

static const char *level_name(int level) {
    switch (level) {
    case MPI_THREAD_SINGLE: return "MPI_THREAD_SINGLE";
    case MPI_THREAD_FUNNELED: return "MPI_THREAD_FUNNELED";
    case MPI_THREAD_SERIALIZED: return "MPI_THREAD_SERIALIZED";
    case MPI_THREAD_MULTIPLE: return "MPI_THREAD_MULTIPLE";
    default: return "an unknown level";
    }
}

static void finalize(void) {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (!finalized) (void)MPI_Finalize();
}

/* Initialise MPI unless somebody has. @param[out] is_ours  MPI is ours to finalise; set on failure too */
static hx_status start_mpi(bool *is_ours) {
    int initialized = 0, finalized = 0, level = MPI_THREAD_SINGLE;
    *is_ours = false;
    if (hx__launch_lacks_pmi())
        return HX_FAIL(HX_ERR_COMM,
                       "srun started this task without PMIx, so that MPI cannot find the others: "
                       "use `srun --mpi=pmix`, or mpirun inside the job");
    MPI_TRY(MPI_Initialized, &initialized);
    MPI_TRY(MPI_Finalized, &finalized);
    if (finalized) return HX_FAIL(HX_ERR_STATE, "MPI has been finalised in this process and cannot be started again");
    if (initialized) {
        MPI_TRY(MPI_Query_thread, &level);
    } else {
        /* Open MPI only, and only where nobody chose: its own file layer can deadlock under parallel HDF5, which a program of yours may
         * use; copies between processes by the kernel are refused in many containers; and a communication thread that waits
         * without yielding takes half of the core that it shares with the computing thread. */
        (void)setenv("OMPI_MCA_io", "romio321", 0);
        (void)setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
        (void)setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
        MPI_TRY(MPI_Init_thread, NULL, NULL, MPI_THREAD_MULTIPLE, &level);
        *is_ours = true;
    }
    if (level < MPI_THREAD_MULTIPLE)
        return HX_FAIL(HX_ERR_COMM, "MPI gives %s: expected MPI_THREAD_MULTIPLE (%s)", level_name(level),
                       initialized ? "ask for it in the program's MPI_Init_thread" : "use an MPI built with it");
    return HX_OK;
}

/* A launcher of another MPI leaves every process alone in a world of its own. */
static hx_status check_world_size(void) {
    int size, announced = hx__launch_size();
    MPI_TRY(MPI_Comm_size, MPI_COMM_WORLD, &size);
    if (size == 1 && announced > 1)
        return HX_FAIL(HX_ERR_COMM,
                       "the launcher started %d processes, but MPI sees one: "
                       "start with the mpirun of the MPI that this program was built with, or `srun --mpi=pmix`",
                       announced);
    return HX_OK;
}

/* All ranks go on, or none: one that gave up alone would finalise MPI while the others wait for it. */
static hx_status all_ready(hx_status mine) {
    int ready = mine == HX_OK, all = 0;
    int code = MPI_Allreduce(&ready, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (mine != HX_OK) return mine;
    HX_TRY(hx__mpi_check(code, "MPI_Allreduce"));
    if (!all) return HX_FAIL(HX_ERR_REMOTE, "another rank could not start its communication thread");
    return HX_OK;
}

hx_status hx_comm_mpi_open(hx_comm **out) {
    bool is_ours;
    hx__comm_engine *engine = NULL;
    MPI_Comm handle;
    hx_comm *world = NULL;
    hx__shm_mode mode;
    bool checks_calls;
    hx_status status;
    HX_TRY(hx__hosts_read_environment(&mode, &checks_calls));
    HX_TRY_GOTO(start_mpi(&is_ours), failed);
    HX_TRY_GOTO(check_world_size(), failed);
    HX_TRY_GOTO(all_ready(hx__comm_engine_create(NULL, &engine)), failed);
    /* A communicator of our own keeps our messages apart from the program's. */
    HX_TRY_GOTO(hx__mpi_check(MPI_Comm_dup(MPI_COMM_WORLD, &handle), "MPI_Comm_dup"), failed);
    HX_TRY_GOTO(wrap_consume(handle, engine, &world), failed);
    HX_TRY_GOTO(hx__hosts_open(world, mode, checks_calls), failed);
    HX_TRY_GOTO(hx_comm_agree(world, hx__times_open(world->rank, &engine->times)), failed);
    engine->finish = is_ours ? finalize : NULL;
    hx__comm_engine_release(&engine); /* the communicator has a share of its own */
    *out = world;
    return HX_OK;
failed:
    hx_comm_close(&world);
    if (engine != NULL) hx__comm_engine_release(&engine);
    if (is_ours) finalize();
    return status;
}
