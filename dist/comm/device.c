/* Collectives on memory that the host does not reach.
 *
 * One stream of the engine's, the side stream, carries them all: their order is that of the calls, on all
 * communicators together. A call
 *   1. lets the side stream wait for the producer's stream;
 *   2. enqueues the collective, by the provider on the device where there is one, else staged;
 *   3. records `done` on the side stream, or waits.
 *
 * Staged: the data go in pieces through two slots of pinned memory, the even pieces through one, the odd ones through
 * the other. The side stream gets, for each piece k,
 *      copy piece k+1 in | call the host: piece k+1 has arrived | wait for the word: piece k is exchanged | copy piece k out
 * and the communication thread a job, which waits for the arrival, lets the provider run on the slot, and stores the
 * piece's number in the word, which lies in pinned memory: piece k+1 is copied while piece k is with the provider. The
 * jobs are queued by the call itself, so that collectives on host memory and on the device's keep one order on all ranks.
 *
 * Nobody waits who is waited for. A driver may let one thread's call (memory, a kernel's first launch) wait for the whole
 * device, and every other thread that calls it wait for that one. So
 *   - the whole of a call is on the stream when it returns: `done` has been recorded, and a later wait for it is one;
 *   - the device waits for the word by itself: a call of the host that waited would occupy the driver's thread;
 *   - the call of the host only counts the arrival and returns;
 *   - the communication thread never calls the device, which may be waiting for it: it sleeps until it is told.
 * Then what the device waits for needs only what was enqueued before it, here and on the other ranks, which make the
 * same calls in the same order: the earliest piece that is not exchanged can always go on.
 * A device that cannot wait for a word has the calling thread wait in its place.
 *
 * A CUDA-aware MPI, which takes pointers of a device, is not given any. It copies by calls of the driver, from the thread that
 * calls MPI: the communication thread, while the device waits for its word. A driver that lets these calls wait for the device would
 * never come back, and without that thread nobody answers the other ranks.
 *
 * A rank on which something fails goes on with what the slots hold, because the others wait for it.
 */
#include <time.h>

#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"

#define PIECE_BYTES ((size_t)4 << 20) /* large enough that PCIe and the network run at their speed */
#define N_SLOTS     2
#define LOST_MS     5000
#define LOOK_MS     50

struct hx__comm_side {
    hx_device *device;
    hx_queue *queue; /* the communication thread; borrowed */
    hx_stream *stream;
    hx_event *order;         /* recorded on producers' streams; a wait keeps what it found, so one is enough */
    void *data[N_SLOTS];     /* [PIECE_BYTES] pinned; NULL until needed */
    void *source[N_SLOTS];   /* the same, of all_to_all */
    uint32_t *exchanged;     /* the word, pinned: number of the last piece that the provider is through with; NULL until needed */
    uint32_t n_pieces;       /* of all calls; they are numbered from 1, modulo 2^32 */

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t n_arrived; /* pieces whose call of the host has come */
    bool is_broken;     /* the device failed: calls may be late or missing, and nobody waits for them */
    bool is_lost;       /* some have not come for LOST_MS */
};

/* ---- arrivals ---- */

/* On a thread of the device's, which it must leave at once. */
static void arrive(void *arg) {
    hx__comm_side *side = arg;
    pthread_mutex_lock(&side->lock);
    side->n_arrived++;
    pthread_cond_signal(&side->changed);
    pthread_mutex_unlock(&side->lock);
}

/* On the communication thread. */
static void wait_for_arrival(hx__comm_side *side, uint32_t piece) {
    pthread_mutex_lock(&side->lock);
    while (!side->is_broken && (int32_t)(side->n_arrived - piece) < 0) pthread_cond_wait(&side->changed, &side->lock);
    pthread_mutex_unlock(&side->lock);
}

static bool all_arrived(hx__comm_side *side) {
    pthread_mutex_lock(&side->lock);
    bool all = side->n_arrived == side->n_pieces;
    pthread_mutex_unlock(&side->lock);
    return all;
}

static void break_side(hx__comm_side *side) {
    pthread_mutex_lock(&side->lock);
    side->is_broken = true;
    pthread_cond_signal(&side->changed);
    pthread_mutex_unlock(&side->lock);
}

void hx__comm_device_look(hx__comm_engine *engine) {
    bool idle;
    if (engine->side == NULL || all_arrived(engine->side)) return;
    if (hx_stream_poll(engine->side->stream, &idle) != HX_OK) break_side(engine->side);
}

static void wait_for_queue(hx__comm_engine *engine, int n_left) {
    while (!hx_queue_wait(engine->queue, n_left, LOOK_MS)) hx__comm_device_look(engine);
}

hx_status hx__comm_wait(hx__comm_engine *engine) {
    wait_for_queue(engine, 0);
    return hx_queue_sync(engine->queue);
}

hx_status hx__comm_push(hx__comm_engine *engine, hx_job_fn job, const void *arg, size_t n_bytes) {
    wait_for_queue(engine, HX_QUEUE_JOBS - 1);
    return hx_queue_push(engine->queue, job, arg, n_bytes);
}

/* ---- life ---- */

static void side_destroy(hx__comm_side **handle) {
    hx__comm_side *side = *handle;
    for (int i = 0; i < N_SLOTS; i++) {
        hx_device_free(side->device, HX_POOL_HOST, side->data[i], PIECE_BYTES);
        hx_device_free(side->device, HX_POOL_HOST, side->source[i], PIECE_BYTES);
    }
    hx_device_free(side->device, HX_POOL_HOST, side->exchanged, sizeof *side->exchanged);
    hx_event_destroy(&side->order);
    hx_stream_destroy(&side->stream);
    pthread_cond_destroy(&side->changed);
    pthread_mutex_destroy(&side->lock);
    hx_mem_free((void **)handle);
}

static hx_status side_create(hx_device *device, hx_queue *queue, hx__comm_side **out) {
    hx__comm_side *side;
    hx_status status;
    HX_TRY(hx_mem_alloc_array(1, sizeof *side, (void **)&side));
    side->device = device;
    side->queue = queue;
    pthread_mutex_init(&side->lock, NULL);
    pthread_cond_init(&side->changed, NULL);
    HX_TRY_GOTO(hx_stream_create(device, &side->stream), failed);
    HX_TRY_GOTO(hx_event_create(device, &side->order), failed);
    *out = side;
    return HX_OK;
failed:
    side_destroy(&side);
    return status;
}

/* Until the side stream is idle and every call of the host has come. A device that has failed may call late or never: after
 * LOST_MS the side counts as lost, and stays as it is for ever, because a late call would use it. */
static hx_status settle(hx__comm_side *side) {
    const struct timespec millisecond = {.tv_nsec = 1000000};
    hx_status status = hx_stream_sync(side->stream);
    if (status == HX_OK || side->is_lost) return status;
    break_side(side);
    (void)hx_queue_sync(side->queue);
    for (int ms = 0; ms < LOST_MS && !all_arrived(side); ms++) nanosleep(&millisecond, NULL);
    side->is_lost = !all_arrived(side);
    return hx_stream_sync(side->stream); /* the failure, described once more */
}

hx_status hx__comm_device_sync(hx__comm_engine *engine) { return engine->side != NULL ? settle(engine->side) : HX_OK; }

hx_status hx__comm_device_release(hx__comm_engine *engine) {
    hx__comm_side *side = engine->side;
    hx__outcome outcome = {.status = HX_OK};
    if (side == NULL) return HX_OK;
    hx__outcome_note(&outcome, settle(side));
    engine->side = NULL;
    if (!side->is_lost) side_destroy(&side);
    return hx_error_adopt(outcome.status, outcome.message);
}

static hx_status side_of(hx__comm_engine *engine, hx_device *device, hx__comm_side **out) {
    if (engine->side != NULL && engine->side->device != device) HX_TRY(hx__comm_device_release(engine));
    if (engine->side == NULL) HX_TRY(side_create(device, engine->queue, &engine->side));
    *out = engine->side;
    return HX_OK;
}

/* ---- how a collective's data are cut ---- */

typedef enum share { NONE, OWN, ALL } share; /* of the blocks */

/* What goes into the slot before, and out of it after. Calls without blocks have one. */
static const struct {
    share in, out;
    bool has_blocks;
} moves[] = {
    [HX_COLL_ALL_REDUCE] = {ALL, ALL, false},    [HX_COLL_REDUCE_SCATTER] = {ALL, OWN, true},
    [HX_COLL_ALL_GATHER] = {OWN, ALL, true},     [HX_COLL_BROADCAST] = {ALL, ALL, false},
    [HX_COLL_ALL_TO_ALL] = {ALL, ALL, true},     [HX_COLL_SEND] = {ALL, NONE, false},
    [HX_COLL_RECV] = {NONE, ALL, false},
};

typedef struct staging {
    hx_comm *comm;
    const hx_comm_call *call;
    hx__comm_side *side;
    int64_t n_blocks;
    int64_t n_elems; /* of a block in a piece */
    int64_t n_pieces;
    uint32_t first_number; /* piece i has this number + i */
    hx__outcome outcome;
} staging;

static hx_status make_slots(hx__comm_side *side, bool has_source) {
    for (int i = 0; i < N_SLOTS; i++) {
        if (side->data[i] == NULL) HX_TRY(hx_device_alloc(side->device, HX_POOL_HOST, PIECE_BYTES, &side->data[i]));
        if (has_source && side->source[i] == NULL)
            HX_TRY(hx_device_alloc(side->device, HX_POOL_HOST, PIECE_BYTES, &side->source[i]));
    }
    if (side->exchanged != NULL) return HX_OK;
    HX_TRY(hx_device_alloc(side->device, HX_POOL_HOST, sizeof *side->exchanged, (void **)&side->exchanged));
    *side->exchanged = side->n_pieces;
    return HX_OK;
}

/* The same on all ranks. */
static hx_status cut(staging *s) {
    const hx_comm_call *call = s->call;
    int64_t most = (int64_t)(PIECE_BYTES / hx_dtype_bytes(call->dtype));
    if (most > s->comm->max_elems) most = s->comm->max_elems;
    s->n_blocks = moves[call->kind].has_blocks ? s->comm->size : 1;
    s->n_elems = most / s->n_blocks > 0 ? most / s->n_blocks : 1;
    if ((size_t)s->n_blocks * hx_dtype_bytes(call->dtype) > PIECE_BYTES)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "%lld ranks: one %s of each does not fit into %zu bytes", (long long)s->n_blocks,
                       hx_dtype_name(call->dtype), PIECE_BYTES);
    if (s->n_elems > call->count) s->n_elems = call->count;
    s->n_pieces = (call->count + s->n_elems - 1) / s->n_elems;
    return HX_OK;
}

static int64_t piece_count(const staging *s, int64_t piece) {
    int64_t left = s->call->count - piece * s->n_elems;
    return left < s->n_elems ? left : s->n_elems;
}

/* The range of a piece in each of some blocks, between device and slot. */
static hx_status copy_blocks(const staging *s, int64_t piece, share which, const void *on_device, void *in_slot, hx_copy_kind kind) {
    size_t item = hx_dtype_bytes(s->call->dtype);
    int64_t n = piece_count(s, piece);
    for (int64_t block = 0; block < s->n_blocks; block++) {
        if (which == NONE || (which == OWN && block != s->comm->rank)) continue;
        char *far = (char *)(uintptr_t)on_device + (size_t)(block * s->call->count + piece * s->n_elems) * item;
        char *near = (char *)in_slot + (size_t)(block * n) * item;
        bool to_host = kind == HX_COPY_TO_HOST;
        HX_TRY(hx_stream_copy(s->side->stream, to_host ? near : far, to_host ? far : near, (size_t)n * item, kind));
    }
    return HX_OK;
}

static hx_status copy_in(const staging *s, int64_t piece) {
    const hx_comm_call *call = s->call;
    bool is_source = call->kind == HX_COLL_ALL_TO_ALL, is_idle = call->kind == HX_COLL_BROADCAST && s->comm->rank != call->peer;
    void *const *slots = is_source ? s->side->source : s->side->data;
    return copy_blocks(s, piece, is_idle ? NONE : moves[call->kind].in, is_source ? call->source : call->data,
                       slots[piece % N_SLOTS], HX_COPY_TO_HOST);
}

static hx_status copy_out(const staging *s, int64_t piece) {
    return copy_blocks(s, piece, moves[s->call->kind].out, s->call->data, s->side->data[piece % N_SLOTS], HX_COPY_TO_DEVICE);
}

/* ---- a piece ---- */

typedef struct piece_job {
    hx_comm *comm;
    hx_comm_call call;   /* on the slot */
    hx__comm_side *side; /* NULL: the data are there, and nobody waits for the word */
    uint32_t number;
} piece_job;

/* On the communication thread. A failure of the provider is kept in the communicator, one of the copies in the stream. */
static hx_status run_piece(void *arg) {
    piece_job *job = arg;
    if (job->side != NULL) wait_for_arrival(job->side, job->number);
    (void)hx__comm_execute(job->comm, &job->call);
    if (job->side != NULL) __atomic_store_n(job->side->exchanged, job->number, __ATOMIC_RELEASE);
    return HX_OK;
}
_Static_assert(sizeof(piece_job) <= HX_QUEUE_JOB_BYTES, "a piece must fit into a queue's slot");

/* Where the device cannot call, this thread waits for the copy. */
static void begin_piece(staging *s, int64_t piece) {
    hx__comm_side *side = s->side;
    hx__outcome_note(&s->outcome, copy_in(s, piece));
    side->n_pieces++;
    hx_status called = hx_stream_host_call(side->stream, arrive, side);
    hx__outcome_note(&s->outcome, called);
    if (called == HX_OK) return;
    if (hx_stream_sync(side->stream) != HX_OK) break_side(side);
    arrive(side);
}

/* Where the device cannot wait for the word, this thread waits for the provider. */
static void end_piece(staging *s, int64_t piece) {
    hx__comm_engine *engine = s->comm->engine;
    piece_job job = {.comm = s->comm, .call = *s->call, .side = s->side, .number = s->first_number + (uint32_t)piece};
    job.call.data = s->side->data[piece % N_SLOTS];
    job.call.source = s->side->source[piece % N_SLOTS];
    job.call.count = piece_count(s, piece);
    hx_status pushed = hx__comm_push(engine, run_piece, &job, sizeof job);
    hx__outcome_note(&s->outcome, pushed);
    if (pushed == HX_OK) {
        hx_status waits = hx_stream_wait_word(s->side->stream, s->side->exchanged, job.number);
        if (waits != HX_ERR_UNSUPPORTED) hx__outcome_note(&s->outcome, waits);
        if (waits != HX_OK) (void)hx__comm_wait(engine);
    }
    hx__outcome_note(&s->outcome, copy_out(s, piece));
}

static hx_status run_staged(hx_comm *comm, const hx_comm_call *call, hx__comm_side *side) {
    staging s = {.comm = comm, .call = call, .side = side, .outcome = {.status = HX_OK}};
    HX_TRY(cut(&s));
    s.first_number = side->n_pieces + 1;
    for (int64_t piece = 0; piece <= s.n_pieces; piece++) {
        if (piece < s.n_pieces) begin_piece(&s, piece);
        if (piece > 0) end_piece(&s, piece - 1);
    }
    return hx_error_adopt(s.outcome.status, s.outcome.message);
}

/* Without a stream, or pinned memory, this rank takes part with zeros: the others wait for it. */
static hx_status run_blank(hx_comm *comm, const hx_comm_call *call) {
    staging s = {.comm = comm, .call = call};
    piece_job job = {.comm = comm, .call = *call};
    void *blank = NULL;
    if (call->count == 0 || comm->size == 1 || comm->on_device != NULL) return HX_OK;
    HX_TRY(cut(&s));
    HX_TRY(hx_mem_alloc_array(2, PIECE_BYTES, &blank));
    job.call.data = blank;
    job.call.source = (char *)blank + PIECE_BYTES;
    for (int64_t piece = 0; piece < s.n_pieces; piece++) {
        job.call.count = piece_count(&s, piece);
        (void)hx__comm_push(comm->engine, run_piece, &job, sizeof job);
    }
    (void)hx__comm_wait(comm->engine);
    hx_mem_free(&blank);
    return HX_OK;
}

/* ---- a call ---- */

static hx_status run_alone(const hx_comm_call *call, hx__comm_side *side) {
    if (call->kind != HX_COLL_ALL_TO_ALL) return HX_OK;
    return hx_stream_copy(side->stream, call->data, call->source, (size_t)call->count * hx_dtype_bytes(call->dtype),
                          HX_COPY_ON_DEVICE);
}

static hx_status run_call(hx_comm *comm, const hx_comm_call *call, hx__comm_side *side) {
    if (call->count == 0) return HX_OK; /* on all ranks alike */
    if (comm->size == 1) return run_alone(call, side);
    if (comm->on_device == NULL) return run_staged(comm, call, side);
    return comm->on_device->ops->enqueue(comm->on_device, call, side->stream);
}

/* What the device's provider did not get, the other ranks would wait for: it gives up, here and there. */
static hx_status fail_call(hx_comm *comm, hx_status status) {
    hx__outcome outcome = {.status = HX_OK};
    if (status == HX_OK || comm->on_device == NULL) return status;
    hx__outcome_note(&outcome, status);
    hx__comm_set_failure(comm, status, outcome.message);
    comm->on_device->ops->abandon(comm->on_device, status, outcome.message);
    return hx_error_adopt(status, outcome.message);
}

hx_status hx__comm_device_run(hx_comm *comm, const hx_comm_call *call, hx_stream *stream, hx_event *done) {
    hx__outcome outcome = {.status = HX_OK};
    hx__comm_side *side = NULL;
    hx__outcome_note(&outcome, side_of(comm->engine, hx_stream_device(stream), &side));
    if (outcome.status == HX_OK && comm->size > 1 && comm->on_device == NULL)
        hx__outcome_note(&outcome, make_slots(side, call->kind == HX_COLL_ALL_TO_ALL));
    if (outcome.status != HX_OK) {
        (void)run_blank(comm, call);
        (void)hx_error_adopt(outcome.status, outcome.message);
        return fail_call(comm, outcome.status);
    }
    hx_status produced = hx_event_record(side->order, stream);
    if (produced == HX_OK) produced = hx_event_wait(side->order, side->stream);
    hx__outcome_note(&outcome, produced);
    hx__outcome_note(&outcome, fail_call(comm, run_call(comm, call, side)));
    hx__outcome_note(&outcome, done != NULL ? hx_event_record(done, side->stream) : settle(side));
    if (done == NULL) hx__outcome_note(&outcome, hx_comm_failure(comm));
    return hx_error_adopt(outcome.status, outcome.message);
}
