/* The watchdog of a communicator of NCCL.
 *
 * A collective whose ranks do not all come never ends, and neither does whoever waits for its event. So each has an event
 * of its own, recorded behind it, and a thread looks:
 *   1. while nothing is outstanding it sleeps;
 *   2. else, some fifty times a second, it asks for the oldest one's event, NCCL for errors (a peer that died), and the
 *      communicator over host memory for ranks that have given up;
 *   3. what is done is crossed off. An error, or a deadline that has passed, becomes the failure of the communicator, and
 *      its work is aborted: the events fire, and those who waited find the failure.
 * The order matters: the failure is kept before the abort lets anybody go on.
 */
#include <stdio.h>

#include "core/base/thread.h"
#include "dist/comm/nccl_impl.h"

#define LOOK_S 0.02

static const char *const names[] = {
    [HX_COLL_ALL_REDUCE] = "all_reduce", [HX_COLL_REDUCE_SCATTER] = "reduce_scatter", [HX_COLL_ALL_GATHER] = "all_gather",
    [HX_COLL_BROADCAST] = "broadcast",   [HX_COLL_ALL_TO_ALL] = "all_to_all",         [HX_COLL_SEND] = "send",
    [HX_COLL_RECV] = "recv",             [HX_COLL_BARRIER] = "barrier"};

const char *hx__nccl_describe(const hx__nccl *n, hx_collective kind, int64_t count, hx_dtype dtype, char text[96]) {
    snprintf(text, 96, "nccl %s of %lld %s on rank %d of %d", names[kind], (long long)count, hx_dtype_name(dtype), n->comm->rank,
             n->comm->size);
    return text;
}

static void fail(hx__nccl *n, const hx__nccl_entry *entry, const char *why) {
    char what[96], text[HX_COMM_TEXT_BYTES];
    hx__nccl_describe(n, entry->kind, entry->count, entry->dtype, what);
    snprintf(text, sizeof text, "%s: %.800s: the communicator was aborted", what, why);
    hx__nccl_give_up(n, HX_ERR_COMM, text);
}

/* What NCCL itself has noticed. */
static hx_status ask_nccl(hx__nccl *n) {
    ncclResult_t result = ncclSuccess;
    pthread_mutex_lock(&n->lock);
    ncclResult_t asked = n->handle != NULL ? n->api.CommGetAsyncError(n->handle, &result) : ncclSuccess;
    pthread_mutex_unlock(&n->lock);
    HX_TRY(hx__nccl_check(n, asked, "ncclCommGetAsyncError"));
    return hx__nccl_check(n, result, "NCCL");
}

/* Looks at the oldest collective, number `at`; true if it is over. The clock of the next one starts then. */
static bool look(hx__nccl *n, int64_t at) {
    hx__nccl_entry *entry = &n->entries[at % HX_NCCL_OUTSTANDING], copy;
    char why[64];
    bool done = false;
    hx_status asked = ask_nccl(n); /* first: what it finds after the event's poll may be the next collective's */
    hx_status status = hx_event_poll(entry->end, &done);
    if (status == HX_OK && !done) status = asked;
    if (status == HX_OK && !done) status = hx__nccl_listen(n);
    pthread_mutex_lock(&n->lock);
    double now = hx__nccl_now();
    bool is_oldest = n->n_ended == at; /* else it was done: the enqueuing thread needed its room */
    bool is_late = status == HX_OK && !done && now - entry->since > n->timeout_s;
    bool is_over = done || is_late || status != HX_OK;
    copy = *entry;
    if (is_oldest && is_over) n->n_ended++;
    if (is_oldest && is_over && n->n_ended < n->n_begun) n->entries[n->n_ended % HX_NCCL_OUTSTANDING].since = now;
    pthread_mutex_unlock(&n->lock);
    if (!is_oldest) return true;
    snprintf(why, sizeof why, "not done after %.1f s", now - copy.since);
    if (status != HX_OK || is_late) fail(n, &copy, is_late ? why : hx_error_message());
    return is_over;
}

static void *watch(void *arg) {
    hx__nccl *n = arg;
    for (;;) {
        pthread_mutex_lock(&n->lock);
        while (!n->is_closing && n->n_ended == n->n_begun) pthread_cond_wait(&n->changed, &n->lock);
        bool is_over = n->is_closing;
        int64_t at = n->n_ended;
        pthread_mutex_unlock(&n->lock);
        if (is_over) return NULL;
        if (!look(n, at)) hx__nccl_pause(LOOK_S);
    }
}

hx_status hx__nccl_watch_start(hx__nccl *n, hx_device *device) {
    for (int i = 0; i < HX_NCCL_OUTSTANDING; i++) HX_TRY(hx_event_create(device, &n->entries[i].end));
    const int error = hx_thread_start("hx-nccl", watch, n, &n->watchdog);
    if (error != 0) return HX_FAIL(HX_ERR_MEMORY, "no thread for the watchdog of NCCL (error %d)", error);
    n->has_watchdog = true;
    return HX_OK;
}

void hx__nccl_watch_stop(hx__nccl *n) {
    pthread_mutex_lock(&n->lock);
    n->is_closing = true;
    pthread_cond_signal(&n->changed);
    pthread_mutex_unlock(&n->lock);
    if (n->has_watchdog) pthread_join(n->watchdog, NULL);
    n->has_watchdog = false;
    for (int i = 0; i < HX_NCCL_OUTSTANDING; i++) hx_event_destroy(&n->entries[i].end);
}

hx_status hx__nccl_watch_add(hx__nccl *n, const hx_comm_call *call, hx_stream *stream) {
    hx__nccl_entry *entry = &n->entries[n->n_begun % HX_NCCL_OUTSTANDING];
    pthread_mutex_lock(&n->lock);
    bool is_full = n->n_begun - n->n_ended == HX_NCCL_OUTSTANDING;
    pthread_mutex_unlock(&n->lock);
    if (is_full) {
        HX_TRY(hx_event_sync(entry->end));
        pthread_mutex_lock(&n->lock);
        if (n->n_begun - n->n_ended == HX_NCCL_OUTSTANDING) n->n_ended++; /* the watchdog has not looked yet */
        pthread_mutex_unlock(&n->lock);
    }
    HX_TRY(hx_event_record(entry->end, stream));
    pthread_mutex_lock(&n->lock);
    entry->kind = call->kind;
    entry->count = call->count;
    entry->dtype = call->dtype;
    entry->since = hx__nccl_now();
    n->n_begun++;
    pthread_cond_signal(&n->changed);
    pthread_mutex_unlock(&n->lock);
    return HX_OK;
}
