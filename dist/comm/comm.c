/* The front of all communicators.
 *
 * A collective becomes a job of the communication thread:
 *   1. check the arguments, on the caller's thread;
 *   2. if the producer's stream is busy, record an event on it;
 *   3. arm `done` and push the job; without `done`, wait for the queue;
 *   4. on the communication thread: wait for the producer, let the provider run, fire `done`.
 * Memory that the host does not reach goes another way after the first step: device.c.
 *
 * A rank whose producer failed still takes part with whatever the buffer holds, because the others are waiting for
 * it; its own `done` gets the failure. A failure of the provider is different: the state of the communicator is then
 * unknown, so it is kept and nothing more is sent.
 */
#define _GNU_SOURCE /* gethostname */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/trace.h"
#include "dist/comm/comm_impl.h"

typedef struct comm_job {
    hx_comm *comm;
    hx_comm_call call;
    hx_event *producer; /* NULL: nothing to wait for */
    hx_event *done;     /* NULL: `result` */
    hx__outcome *result;
    hx__outcome given; /* failure of the producer that was known at the call */
    double called;     /* seconds; where times are written */
} comm_job;

/* ---- life ---- */

hx_status hx__comm_engine_create(void (*finish)(void), hx__comm_engine **out) {
    hx__comm_engine *e;
    HX_TRY(hx_mem_alloc_array(1, sizeof *e, (void **)&e));
    hx_status status = hx_queue_create("hx-comm", &e->queue);
    if (status != HX_OK) {
        hx_mem_free((void **)&e);
        return status;
    }
    atomic_store(&e->n_users, 1);
    e->finish = finish;
    *out = e;
    return HX_OK;
}

void hx__comm_engine_release(hx__comm_engine **engine) {
    hx__comm_engine *e = *engine;
    *engine = NULL;
    if (atomic_fetch_sub(&e->n_users, 1) != 1) return;
    void (*finish)(void) = e->finish;
    hx_queue_destroy(&e->queue);
    if (e->times != NULL) fclose(e->times);
    hx_mem_free((void **)&e);
    if (finish != NULL) finish();
}

hx_status hx__comm_create(const hx_comm_ops *ops, hx__comm_engine *engine, int rank, int size, hx_comm **out) {
    hx_comm *comm;
    HX_TRY(hx_mem_alloc_array(1, sizeof *comm, (void **)&comm));
    hx_status status = hx_mem_alloc_array((int64_t)size * HX_COMM_MAX_SUM, sizeof(double), (void **)&comm->gathered);
    if (status != HX_OK) {
        hx_mem_free((void **)&comm);
        return status;
    }
    comm->ops = ops;
    comm->rank = rank;
    comm->size = size;
    comm->max_elems = HX_COMM_MAX_ELEMS;
    if (gethostname(comm->host, sizeof comm->host - 1) != 0 || comm->host[0] == '\0')
        snprintf(comm->host, sizeof comm->host, "localhost");
    pthread_mutex_init(&comm->lock, NULL);
    atomic_fetch_add(&engine->n_users, 1);
    comm->engine = engine;
    *out = comm;
    return HX_OK;
}

/* The queue must be empty. */
static void release_producers(hx__comm_engine *engine) {
    for (int i = 0; i < HX_COMM_PRODUCERS; i++) hx_event_destroy(&engine->producers[i]);
    engine->device = NULL;
}

void hx_comm_close(hx_comm **handle) {
    hx_comm *comm = *handle;
    if (comm == NULL) return;
    (void)hx__comm_device_release(comm->engine);
    (void)hx__comm_wait(comm->engine);
    release_producers(comm->engine);
    hx_status failure = hx_comm_failure(comm); /* the provider on the device may have failed alone */
    if (failure != HX_OK) {
        hx__comm_set_failure(comm, failure, hx_error_message());
        if (comm->on_device != NULL) hx__comm_set_failure(comm->on_device, failure, comm->message);
    }
    hx_comm_close(&comm->on_device);
    comm->ops->destroy(comm);
    hx__comm_engine_release(&comm->engine);
    pthread_mutex_destroy(&comm->lock);
    hx_mem_free((void **)&comm->gathered);
    hx_mem_free((void **)handle);
}

int hx_comm_rank(const hx_comm *comm) { return comm->rank; }

int hx_comm_size(const hx_comm *comm) { return comm->size; }

const char *hx_comm_host(const hx_comm *comm) { return comm->host; }

const char *hx_comm_name(const hx_comm *comm) { return comm->ops->name; }

bool hx_comm_sums_in_tree(const hx_comm *comm) { return comm->sums_in_tree; }

const char *hx_comm_transport(const hx_comm *comm) { return comm->transport ? comm->transport : comm->ops->name; }

const char *hx_comm_device_name(const hx_comm *comm) { return comm->on_device ? comm->on_device->ops->name : "staged"; }

void *hx_comm_mpi_handle(hx_comm *comm) { return comm->mpi_handle; }

void hx__comm_set_max_elems(hx_comm *comm, int64_t n) {
    comm->max_elems = n < 1 ? 1 : n > HX_COMM_MAX_ELEMS ? HX_COMM_MAX_ELEMS : n;
}

/* ---- the sticky failure ---- */

void hx__comm_set_failure(hx_comm *comm, hx_status status, const char *message) {
    pthread_mutex_lock(&comm->lock);
    if (comm->failure == HX_OK) {
        snprintf(comm->message, sizeof comm->message, "%s", message);
        comm->failure = status;
    }
    pthread_mutex_unlock(&comm->lock);
}

hx_status hx_comm_failure(hx_comm *comm) {
    pthread_mutex_lock(&comm->lock);
    hx_status status = comm->failure;
    if (status != HX_OK) hx_error_adopt(status, comm->message);
    pthread_mutex_unlock(&comm->lock);
    return status != HX_OK || comm->on_device == NULL ? status : hx_comm_failure(comm->on_device);
}

void hx__outcome_note(hx__outcome *outcome, hx_status status) {
    if (status == HX_OK || outcome->status != HX_OK) return;
    outcome->status = status;
    snprintf(outcome->message, sizeof outcome->message, "%s", hx_error_message());
}

/* The failure of the communicator, else that of the device. */
static hx_status drain(hx_comm *comm, hx_status device) {
    hx__outcome side = {.status = HX_OK};
    hx__outcome_note(&side, device);
    HX_TRY(hx__comm_wait(comm->engine));
    HX_TRY(hx_comm_failure(comm));
    return hx_error_adopt(side.status, side.message);
}

hx_status hx_comm_sync(hx_comm *comm) { return drain(comm, hx__comm_device_sync(comm->engine)); }

hx_status hx_comm_release_device(hx_comm *comm) {
    hx_status status = drain(comm, hx__comm_device_release(comm->engine));
    release_producers(comm->engine);
    return status;
}

hx_status hx_comm_split(hx_comm *comm, int color, int key, hx_comm **out) {
    /* The provider's split is itself a collective of the parent: it must not overtake what is queued. */
    HX_TRY(hx_comm_sync(comm));
    hx_comm *child = NULL;
    HX_TRY(comm->ops->split(comm, color, key, &child));
    if (child != NULL && child->size > 1 && comm->on_device != NULL) {
        hx_status status = comm->on_device->ops->follow(comm->on_device, child);
        if (status != HX_OK) {
            hx_comm_close(&child);
            return status;
        }
    }
    *out = child;
    return HX_OK;
}

/* ---- the communication thread ---- */

hx_status hx__comm_execute(hx_comm *comm, const hx_comm_call *call) {
    hx_status status = hx_comm_failure(comm);
    if (status != HX_OK) return status;
    status = comm->ops->run(comm, call);
    if (status != HX_OK) hx__comm_set_failure(comm, status, hx_error_message());
    return status;
}

/* Always HX_OK: the queue is shared, and a failure belongs to one communicator or one event. */
static hx_status run_job(void *arg) {
    comm_job *job = arg;
    hx__outcome *given = &job->given;
    if (job->producer != NULL) {
        hx__outcome_note(given, hx_event_sync(job->producer));
        atomic_fetch_add(&job->comm->engine->n_released, 1);
    }
    FILE *times = job->comm->engine->times;
    const double began = times != NULL ? hx__times_now() : 0;
    const int64_t span = hx_span_begin();
    hx_status status = hx__comm_execute(job->comm, &job->call);
    hx_span_end(span, HX_SPAN_COMM, hx__collective_name(job->call.kind), 0, hx__comm_call_bytes(job->comm, &job->call));
    if (times != NULL) hx__times_write(times, job->comm, &job->call, job->called, began);
    const char *message = hx_error_message();
    if (status == HX_OK) {
        status = given->status;
        message = given->message;
    }
    if (job->done != NULL) {
        hx_event_fire(job->done, status, status == HX_OK ? NULL : message);
    } else {
        job->result->status = status;
        if (status != HX_OK) snprintf(job->result->message, sizeof job->result->message, "%s", message);
    }
    return HX_OK;
}

/* ---- the caller's thread ---- */

/* An entry of the ring that no queued job uses. */
static hx_status take_producer(hx__comm_engine *engine, hx_device *device, hx_event **out) {
    if (engine->n_recorded - atomic_load(&engine->n_released) >= HX_COMM_PRODUCERS) HX_TRY(hx__comm_wait(engine));
    hx_event **entry = &engine->producers[engine->n_recorded % HX_COMM_PRODUCERS];
    if (*entry == NULL) HX_TRY(hx_event_create(device, entry));
    *out = *entry;
    return HX_OK;
}

/* The ring holds events of one device at a time. */
static hx_status use_device(hx__comm_engine *engine, hx_device *device) {
    if (device == engine->device) return HX_OK;
    HX_TRY(hx__comm_wait(engine)); /* jobs may hold events of the other device */
    release_producers(engine);
    engine->device = device;
    return HX_OK;
}

/* Makes the job wait for the stream's earlier work; a failed stream is noted in the job. */
static hx_status await_stream(comm_job *job, hx_stream *stream) {
    hx__comm_engine *engine = job->comm->engine;
    bool idle = false;
    HX_TRY(use_device(engine, hx_stream_device(stream)));
    hx_status status = hx_stream_poll(stream, &idle);
    if (status == HX_OK && idle) return HX_OK;
    hx_event *event = NULL;
    if (status == HX_OK) {
        /* Without memory for an event the host waits itself: the others count on this rank's part. */
        bool has_event = take_producer(engine, hx_stream_device(stream), &event) == HX_OK;
        status = has_event ? hx_event_record(event, stream) : hx_stream_sync(stream);
        if (status == HX_OK && !has_event) return HX_OK;
    }
    if (status != HX_OK) {
        hx__outcome_note(&job->given, status);
        return HX_OK;
    }
    engine->n_recorded++;
    job->producer = event;
    return HX_OK;
}

static bool is_host_memory(const hx_stream *stream) {
    hx_device_props props;
    hx_device_props_get(hx_stream_device(stream), &props);
    return props.is_host_memory;
}

static hx_status submit(hx_comm *comm, const hx_comm_call *call, hx_stream *stream, hx_event *done) {
    comm_job job = {.comm = comm, .call = *call, .done = done, .called = comm->engine->times != NULL ? hx__times_now() : 0};
    hx__outcome result = {.status = HX_OK};
    HX_TRY(hx_comm_failure(comm));
    const char *name = hx__collective_name(call->kind);
    if (stream != NULL && !is_host_memory(stream)) return HX_TRACED(HX_SPAN_COMM, name, hx__comm_device_run(comm, call, stream, done));
    if (stream != NULL) HX_TRY(await_stream(&job, stream));
    hx__comm_device_look(comm->engine);
    if (done != NULL)
        HX_TRY(hx_event_arm(done));
    else
        job.result = &result;
    hx_status status = hx__comm_push(comm->engine, run_job, &job, sizeof job);
    if (status != HX_OK && done != NULL) hx_event_fire(done, status, hx_error_message());
    if (status != HX_OK || done != NULL) return status;
    HX_TRY(HX_TRACED(HX_SPAN_COMM, name, hx__comm_wait(comm->engine)));
    return hx_error_adopt(result.status, result.message);
}
_Static_assert(sizeof(comm_job) <= HX_QUEUE_JOB_BYTES, "a collective must fit into a queue's slot");

/* What a collective asks for beyond a valid count and dtype. */
static const struct {
    const char *name;
    bool has_blocks, has_source, has_reduce, has_peer, is_pair;
} kinds[] = {
    [HX_COLL_ALL_REDUCE] = {.name = "all_reduce", .has_reduce = true},
    [HX_COLL_REDUCE_SCATTER] = {.name = "reduce_scatter", .has_blocks = true, .has_reduce = true},
    [HX_COLL_ALL_GATHER] = {.name = "all_gather", .has_blocks = true},
    [HX_COLL_BROADCAST] = {.name = "broadcast", .has_peer = true},
    [HX_COLL_ALL_TO_ALL] = {.name = "all_to_all", .has_blocks = true, .has_source = true},
    [HX_COLL_SEND] = {.name = "send", .has_peer = true, .is_pair = true},
    [HX_COLL_RECV] = {.name = "recv", .has_peer = true, .is_pair = true},
    [HX_COLL_BARRIER] = {.name = "barrier"},
};

const char *hx__collective_name(hx_collective kind) {
    return (size_t)kind < sizeof kinds / sizeof *kinds ? kinds[kind].name : "no collective";
}

int64_t hx__comm_call_bytes(const hx_comm *comm, const hx_comm_call *call) {
    return call->count * (kinds[call->kind].has_blocks ? comm->size : 1) * (int64_t)hx_dtype_bytes(call->dtype);
}

/* What every provider reduces; "self" refuses the rest too, so that a program does not learn it on its second rank.
 * Half types are not among it: a sum would be rounded once per rank, where gradients are f32. */
static hx_status check_reduce(const hx_comm_call *call) {
    const char *name = kinds[call->kind].name;
    if ((unsigned)call->reduce > HX_MIN) return HX_FAIL(HX_ERR_ARG, "%s: %d is no reduction", name, (int)call->reduce);
    bool is_reducible = !hx_dtype_is_half(call->dtype) && call->dtype != HX_BOOL &&
                        (call->reduce == HX_SUM || !hx_dtype_is_complex(call->dtype));
    if (is_reducible) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s: no %s of %s: expected f32, f64 or an integer type, or a sum of a complex one", name,
                   call->reduce == HX_SUM ? "sum" : call->reduce == HX_MAX ? "maximum" : "minimum", hx_dtype_name(call->dtype));
}

static hx_status check_call(const hx_comm *comm, const hx_comm_call *call) {
    const char *name = kinds[call->kind].name;
    int64_t total;
    size_t n_bytes;
    if (call->count < 0) return HX_FAIL(HX_ERR_ARG, "%s: count %lld: expected >= 0", name, (long long)call->count);
    if (hx_dtype_bytes(call->dtype) == 0)
        return HX_FAIL(HX_ERR_DTYPE, "%s: %d is no dtype", name, (int)call->dtype);
    if (kinds[call->kind].has_reduce) HX_TRY(check_reduce(call));
    HX_TRY(hx_count_mul(call->count, kinds[call->kind].has_blocks ? comm->size : 1, &total));
    HX_TRY(hx_mem_mul((size_t)total, hx_dtype_bytes(call->dtype), &n_bytes));
    if (n_bytes > 0 && (call->data == NULL || (kinds[call->kind].has_source && call->source == NULL)))
        return HX_FAIL(HX_ERR_ARG, "%s: no buffer for %lld %s", name, (long long)total, hx_dtype_name(call->dtype));
    if (!kinds[call->kind].has_peer) return HX_OK;
    if (call->peer < 0 || call->peer >= comm->size)
        return HX_FAIL(HX_ERR_ARG, "%s: rank %d: expected 0 to %d", name, call->peer, comm->size - 1);
    if (kinds[call->kind].is_pair && call->peer == comm->rank)
        return HX_FAIL(HX_ERR_ARG, "%s: peer %d is this rank itself: it would wait for ever", name, call->peer);
    return HX_OK;
}

hx_status hx__comm_start(hx_comm *comm, const hx_comm_call *call, hx_stream *stream, hx_event *done) {
    HX_TRY(check_call(comm, call));
    return submit(comm, call, stream, done);
}

hx_status hx_comm_all_reduce(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce, hx_stream *stream,
                             hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_ALL_REDUCE, .data = data, .count = count, .dtype = dtype, .reduce = reduce};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_reduce_scatter(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_reduce reduce,
                                 hx_stream *stream, hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_REDUCE_SCATTER, .data = data, .count = count, .dtype = dtype, .reduce = reduce};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_all_gather(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, hx_stream *stream, hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_ALL_GATHER, .data = data, .count = count, .dtype = dtype};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_broadcast(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, int root, hx_stream *stream,
                            hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_BROADCAST, .data = data, .count = count, .dtype = dtype, .peer = root};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_all_to_all(hx_comm *comm, const void *source, void *data, int64_t count, hx_dtype dtype,
                             hx_stream *stream, hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_ALL_TO_ALL, .source = source, .data = data, .count = count, .dtype = dtype};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_send(hx_comm *comm, const void *data, int64_t count, hx_dtype dtype, int peer, hx_stream *stream,
                       hx_event *done) {
    /* The record has one pointer for both directions; a provider only reads what it sends. */
    hx_comm_call call = {.kind = HX_COLL_SEND, .data = (void *)(uintptr_t)data, .count = count, .dtype = dtype, .peer = peer};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_recv(hx_comm *comm, void *data, int64_t count, hx_dtype dtype, int peer, hx_stream *stream,
                       hx_event *done) {
    hx_comm_call call = {.kind = HX_COLL_RECV, .data = data, .count = count, .dtype = dtype, .peer = peer};
    return hx__comm_start(comm, &call, stream, done);
}

hx_status hx_comm_barrier(hx_comm *comm) {
    hx_comm_call call = {.kind = HX_COLL_BARRIER, .dtype = HX_U8};
    return submit(comm, &call, NULL, NULL);
}
