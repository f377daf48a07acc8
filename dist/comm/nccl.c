/* Collectives on GPU memory by NCCL: part of the CUDA plug-in, not of libhelix.
 *
 * Attaching is a collective of the communicator that is there already, which carries the id of the new one. A split gets
 * a communicator of its own in the same way, and not by ncclCommSplit: nothing is shared with the parent, whose abort
 * would end both.
 */
#include "dist/comm/nccl_impl.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"

#define LIBRARY         "libnccl.so.2"
#define DEFAULT_SECONDS 600.0
#define SPIN_S          5e-5 /* most calls that are in progress are so for less: looked at without a pause */
#define SETTLE_STEP_S   2e-4 /* between looks at the others */

double hx__nccl_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void hx__nccl_pause(double seconds) {
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)(1e9 * (seconds - floor(seconds)))};
    nanosleep(&t, NULL);
}

/* ---- the library ---- */

static hx_status find_functions(hx__nccl_api *api) {
#ifdef HX_EMULATED
#define TAKE(name) api->name = nccl##name;
    HX_NCCL_FUNCTIONS(TAKE)
#undef TAKE
#else
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "NCCL cannot be loaded: %s", dlerror());
    /* a pointer to a function in place of one to an object, as POSIX has it */
#define TAKE(name)                                                          \
    *(void **)&api->name = dlsym(library, "nccl" #name);                    \
    if (api->name == NULL) return HX_FAIL(HX_ERR_UNSUPPORTED, "%s has no nccl%s: it is older than NCCL %d.%d", LIBRARY, #name, NCCL_MAJOR, NCCL_MINOR);
    HX_NCCL_FUNCTIONS(TAKE)
#undef TAKE
#endif
    return HX_OK;
}

/* The structures that are handed over are those of the header: a newer library knows them, an older one may not. */
static hx_status open_library(hx__nccl *n) {
    int version = 0;
    HX_TRY(find_functions(&n->api));
    HX_TRY(hx__nccl_check(n, n->api.GetVersion(&version), "ncclGetVersion"));
    if (version < NCCL_VERSION_CODE)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "NCCL %d.%d.%d was found: expected %d.%d.%d, which this was built with, or newer",
                       version / 10000, version / 100 % 100, version % 100, NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH);
    return HX_OK;
}

static hx_status read_timeout(double *seconds) {
    const char *text = getenv("HELIX_NCCL_TIMEOUT");
    char *end = NULL;
    *seconds = DEFAULT_SECONDS;
    if (text == NULL || *text == '\0') return HX_OK;
    *seconds = strtod(text, &end);
    if (*end == '\0' && *seconds > 0 && isfinite(*seconds)) return HX_OK;
    return HX_FAIL(HX_ERR_CONFIG, "HELIX_NCCL_TIMEOUT=%.40s: expected seconds > 0", text);
}

/* ---- calls ---- */

hx_status hx__nccl_check(hx__nccl *n, ncclResult_t result, const char *call) {
    if (result == ncclSuccess || result == ncclInProgress) return HX_OK;
    const char *detail = n->api.GetLastError(NULL);
    return HX_FAIL(HX_ERR_COMM, "%s on rank %d of %d: %s%s%s", call, n->comm->rank, n->comm->size, n->api.GetErrorString(result),
                   detail != NULL && detail[0] != '\0' ? ": " : "", detail != NULL ? detail : "");
}

static hx_status bind_gpu(const hx__nccl *n) {
    cudaError_t error = cudaSetDevice(n->gpu);
    if (error == cudaSuccess) return HX_OK;
    return HX_FAIL(HX_ERR_DEVICE, "cudaSetDevice(%d): %s", n->gpu, cudaGetErrorString(error));
}

/* True if this call did it, and the other ranks may not know. */
static bool abort_first(hx__nccl *n) {
    pthread_mutex_lock(&n->lock);
    bool is_first = n->handle != NULL;
    if (is_first) (void)n->api.CommAbort(n->handle);
    n->handle = NULL;
    is_first = is_first && !n->has_heard;
    pthread_mutex_unlock(&n->lock);
    return is_first;
}

void hx__nccl_abort(hx__nccl *n) { (void)abort_first(n); }

void hx__nccl_give_up(hx__nccl *n, hx_status why, const char *message) {
    hx__comm_set_failure(n->comm, why, message); /* before the abort lets anybody go on */
    if (abort_first(n) && n->base->ops->warn != NULL) n->base->ops->warn(n->base, message);
}

/* NCCL does not notice a rank that has left where the two share memory. */
hx_status hx__nccl_listen(hx__nccl *n) {
    char text[HX_COMM_TEXT_BYTES];
    if (n->base->ops->heard == NULL || !n->base->ops->heard(n->base, text, sizeof text)) return HX_OK;
    pthread_mutex_lock(&n->lock);
    n->has_heard = true;
    pthread_mutex_unlock(&n->lock);
    return HX_FAIL(HX_ERR_COMM, "%s", text);
}

hx_status hx__nccl_settle(hx__nccl *n, const char *what) {
    double began = hx__nccl_now();
    for (;;) {
        ncclResult_t result = ncclSuccess;
        pthread_mutex_lock(&n->lock);
        ncclResult_t asked = n->handle != NULL ? n->api.CommGetAsyncError(n->handle, &result) : ncclInvalidUsage;
        pthread_mutex_unlock(&n->lock);
        HX_TRY(hx_comm_failure(n->comm)); /* the watchdog was faster */
        HX_TRY(hx__nccl_check(n, asked, what));
        if (result != ncclInProgress) return hx__nccl_check(n, result, what);
        double waited = hx__nccl_now() - began;
        if (waited < SPIN_S) continue;
        HX_TRY(hx__nccl_listen(n));
        if (waited > n->timeout_s)
            return HX_FAIL(HX_ERR_COMM, "%s: the ranks did not meet within %g s: the communicator was aborted", what, waited);
        hx__nccl_pause(SETTLE_STEP_S);
    }
}

/* What NCCL cannot reduce the front has refused, and what is moved only is bytes. A complex number is a pair. */
static ncclDataType_t reduced_type(hx_dtype dtype) {
    switch (dtype) {
    case HX_F64:
    case HX_C128: return ncclFloat64;
    case HX_I8: return ncclInt8;
    case HX_U8: return ncclUint8;
    case HX_I32: return ncclInt32;
    case HX_I64: return ncclInt64;
    default: return ncclFloat32;
    }
}

static ncclRedOp_t reduction(hx_reduce reduce) {
    return reduce == HX_SUM ? ncclSum : reduce == HX_MAX ? ncclMax : ncclMin;
}

static ncclResult_t all_to_all(hx__nccl *n, const hx_comm_call *call, size_t n_bytes, cudaStream_t stream) {
    ncclResult_t first = n->api.GroupStart(), result;
    if (first != ncclSuccess) return first;
    for (int peer = 0; peer < n->comm->size; peer++) {
        size_t at = (size_t)peer * n_bytes;
        result = n->api.Send((const char *)call->source + at, n_bytes, ncclUint8, peer, n->handle, stream);
        if (first == ncclSuccess || first == ncclInProgress) first = result;
        result = n->api.Recv((char *)call->data + at, n_bytes, ncclUint8, peer, n->handle, stream);
        if (first == ncclSuccess || first == ncclInProgress) first = result;
    }
    result = n->api.GroupEnd();
    return first == ncclSuccess || first == ncclInProgress ? result : first;
}

static ncclResult_t issue(hx__nccl *n, const hx_comm_call *call, cudaStream_t stream) {
    const hx__nccl_api *api = &n->api;
    size_t n_bytes = (size_t)call->count * hx_dtype_bytes(call->dtype);
    size_t n_reduced = (size_t)call->count * (hx_dtype_is_complex(call->dtype) ? 2 : 1);
    char *own = (char *)call->data + (size_t)n->comm->rank * n_bytes;
    ncclDataType_t type = reduced_type(call->dtype);
    ncclRedOp_t op = reduction(call->reduce);
    switch (call->kind) {
    case HX_COLL_ALL_REDUCE: return api->AllReduce(call->data, call->data, n_reduced, type, op, n->handle, stream);
    case HX_COLL_REDUCE_SCATTER: return api->ReduceScatter(call->data, own, n_reduced, type, op, n->handle, stream);
    case HX_COLL_ALL_GATHER: return api->AllGather(own, call->data, n_bytes, ncclUint8, n->handle, stream);
    case HX_COLL_BROADCAST: return api->Broadcast(call->data, call->data, n_bytes, ncclUint8, call->peer, n->handle, stream);
    case HX_COLL_ALL_TO_ALL: return all_to_all(n, call, n_bytes, stream);
    case HX_COLL_SEND: return api->Send(call->data, n_bytes, ncclUint8, call->peer, n->handle, stream);
    case HX_COLL_RECV: return api->Recv(call->data, n_bytes, ncclUint8, call->peer, n->handle, stream);
    default: return ncclInvalidArgument;
    }
}

static hx_status nccl_enqueue(hx_comm *comm, const hx_comm_call *call, hx_stream *stream) {
    hx__nccl *n = comm->state;
    cudaStream_t native = hx_stream_native(stream);
    char text[96];
    HX_TRY(bind_gpu(n));
    hx__nccl_describe(n, call->kind, call->count, call->dtype, text);
    pthread_mutex_lock(&n->lock);
    ncclResult_t result = n->handle != NULL ? issue(n, call, native) : ncclSuccess; /* else settle tells the failure */
    pthread_mutex_unlock(&n->lock);
    HX_TRY(hx__nccl_check(n, result, text));
    HX_TRY(hx__nccl_settle(n, text));
    return hx__nccl_watch_add(n, call, stream);
}

static void nccl_abandon(hx_comm *comm, hx_status why, const char *message) { hx__nccl_give_up(comm->state, why, message); }

/* ---- life ---- */

/* The front has waited for the work. After a failure the other ranks may be gone: NCCL then only clears up here. */
static void nccl_destroy(hx_comm *comm) {
    hx__nccl *n = comm->state;
    if (n == NULL) return;
    hx__nccl_watch_stop(n);
    if (n->handle != NULL) (void)bind_gpu(n); /* else no GPU may have been chosen, and binding makes a context */
    if (n->handle != NULL && comm->failure == HX_OK &&
        hx__nccl_check(n, n->api.CommFinalize(n->handle), "ncclCommFinalize") == HX_OK &&
        hx__nccl_settle(n, "ncclCommFinalize") == HX_OK) {
        (void)n->api.CommDestroy(n->handle);
        n->handle = NULL;
    }
    hx__nccl_abort(n);
    pthread_cond_destroy(&n->changed);
    pthread_mutex_destroy(&n->lock);
    hx_mem_free(&comm->state);
}

static hx_status attach(hx_comm *comm, hx_device *device);

static hx_status nccl_follow(hx_comm *comm, hx_comm *child) {
    hx__nccl *n = comm->state;
    return attach(child, n->device);
}

static const hx_comm_ops nccl_ops = {
    .name = "nccl", .destroy = nccl_destroy, .enqueue = nccl_enqueue, .abandon = nccl_abandon, .follow = nccl_follow};

static void init_sync(hx__nccl *n) {
    pthread_condattr_t attr;
    pthread_mutex_init(&n->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&n->changed, &attr);
    pthread_condattr_destroy(&attr);
}

/* Local: everything that one rank may lack. `device` has been used on this thread, and so its GPU is the current one. */
static hx_status prepare(hx_comm *comm, hx_device *device, hx_comm **out) {
    hx_comm *made;
    hx__nccl *n;
    HX_TRY(hx__comm_create(&nccl_ops, comm->engine, comm->rank, comm->size, &made));
    hx_status status = hx_mem_alloc_array(1, sizeof *n, &made->state);
    if (status == HX_OK) {
        n = made->state;
        n->comm = made;
        n->base = comm;
        n->device = device;
        init_sync(n);
        status = read_timeout(&n->timeout_s);
        if (status == HX_OK) status = open_library(n);
        if (status == HX_OK) status = hx__nccl_watch_start(n, device);
        cudaError_t error = status == HX_OK ? cudaGetDevice(&n->gpu) : cudaSuccess;
        if (error != cudaSuccess) status = HX_FAIL(HX_ERR_DEVICE, "cudaGetDevice: %s", cudaGetErrorString(error));
    }
    if (status == HX_OK)
        *out = made;
    else
        hx_comm_close(&made);
    return status;
}

/* A GPU, named so that no other in the cluster is: its address on the bus, and the host. */
typedef struct gpu_name {
    char host[HX_COMM_HOST_BYTES];
    char bus[64];
} gpu_name;

/* Collective. NCCL refuses two ranks on one GPU; here it is known which. */
static hx_status check_gpus(hx_comm *comm, const hx__nccl *n, hx_status mine) {
    gpu_name *all = NULL;
    hx_status status = mine == HX_OK ? hx_mem_alloc_array(comm->size, sizeof *all, (void **)&all) : mine;
    if (status == HX_OK) {
        gpu_name *own = &all[comm->rank];
        const char *host = getenv("NCCL_HOSTID"); /* what NCCL itself goes by */
        snprintf(own->host, sizeof own->host, "%s", host != NULL && *host != '\0' ? host : comm->host);
        cudaError_t error = cudaDeviceGetPCIBusId(own->bus, (int)sizeof own->bus, n->gpu);
        if (error != cudaSuccess) status = HX_FAIL(HX_ERR_DEVICE, "cudaDeviceGetPCIBusId: %s", cudaGetErrorString(error));
    }
    status = hx_comm_agree(comm, status);
    if (status == HX_OK) status = hx_comm_all_gather(comm, all, (int64_t)sizeof *all, HX_U8, NULL, NULL);
    for (int b = 1; status == HX_OK && b < comm->size; b++)
        for (int a = 0; a < b && status == HX_OK; a++)
            if (memcmp(&all[a], &all[b], sizeof all[a]) == 0)
                status = HX_FAIL(HX_ERR_UNSUPPORTED, "ranks %d and %d share GPU %s of %s: NCCL wants one for each", a, b, all[a].bus,
                                 all[a].host);
    hx_mem_free((void **)&all);
    return status;
}

/* Collective. */
static hx_status connect(hx_comm *comm, hx__nccl *n) {
    ncclUniqueId id = {.internal = ""};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    HX_TRY(hx_comm_agree(comm, comm->rank == 0 ? hx__nccl_check(n, n->api.GetUniqueId(&id), "ncclGetUniqueId") : HX_OK));
    HX_TRY(hx_comm_broadcast(comm, &id, (int64_t)sizeof id, HX_U8, 0, NULL, NULL));
    ncclResult_t result = n->api.CommInitRankConfig(&n->handle, comm->size, id, comm->rank, &config);
    hx_status status = hx__nccl_check(n, result, "ncclCommInitRankConfig");
    if (status == HX_OK) status = hx__nccl_settle(n, "ncclCommInitRankConfig");
    if (status != HX_OK) hx__nccl_abort(n); /* the others see this rank leave, and need not wait for their deadline */
    return hx_comm_agree(comm, status);
}

static hx_status attach(hx_comm *comm, hx_device *device) {
    hx__outcome outcome = {.status = HX_OK};
    hx_comm *made = NULL;
    hx_status status = prepare(comm, device, &made);
    HX_TRY_GOTO(check_gpus(comm, made ? made->state : NULL, status), failed);
    HX_TRY_GOTO(connect(comm, made->state), failed);
    comm->on_device = made;
    return HX_OK;
failed:
    hx__outcome_note(&outcome, status);
    if (made != NULL) hx__comm_set_failure(made, status, outcome.message); /* it is aborted, not finalized with ranks that are gone */
    hx_comm_close(&made);
    return hx_error_adopt(outcome.status, outcome.message);
}

hx_status hx_comm_nccl_attach(hx_comm *comm, hx_stream *stream) {
    if (comm->size == 1) return HX_OK;
    if (comm->on_device != NULL) return HX_FAIL(HX_ERR_STATE, "the communicator has %s already", comm->on_device->ops->name);
    return attach(comm, hx_stream_device(stream));
}
