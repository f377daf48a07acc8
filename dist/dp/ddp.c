/* Data parallelism, one step:
 *   1. begin(is_last = false): gradients add up in the buckets' slices; ready() does nothing;
 *   2. begin(is_last = true): each ready() counts its bucket down; full buckets are sent, always in the same order,
 *      so that all ranks call the same collectives whatever order their backward passes finish in;
 *   3. finish(): what was not sent is sent now, with zeros where there is no gradient, also after a failure: the
 *      other ranks wait for this one. Then it waits for all sums. */
#include <stdio.h>
#include <time.h>

#include "core/base/mem.h"
#include "dist/dp/ddp_impl.h"
#include "dist/params.h"

#define HX_OPTION_OWNER hx_ddp_config
const hx_option hx_ddp_options[] = HX_OPTIONS_TABLE(HX_DDP_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_ddp_n_options = (int)(sizeof hx_ddp_options / sizeof *hx_ddp_options);

struct hx_ddp {
    hx_comm *comm;
    hx_stream *stream;
    hx__buckets buckets;
    int64_t next;    /* first bucket that has not been sent in this step */
    bool is_sending; /* between begin(is_last) and finish */
    int64_t n_bytes; /* sent so far in this step */
    double last_wait_s; /* of the step before */
    int64_t last_n_bytes;
};

/* The first failure of several things that are all to be done. */
typedef struct first_failure {
    hx_status status;
    char message[1024];
} first_failure;

static void note(first_failure *first, hx_status status) {
    if (status == HX_OK || first->status != HX_OK) return;
    first->status = status;
    snprintf(first->message, sizeof first->message, "%s", hx_error_message());
}

/* ---- making ---- */

static hx_status check_local(const hx_ddp_setup *setup) {
    const hx_ddp_config *config = setup->config;
    const hx_param_list *params = setup->params;
    if (setup->n_leaves > 0) return HX_FAIL(HX_ERR_UNSUPPORTED, "elastic sums of %lld leaves: not offered", (long long)setup->n_leaves);
    if (config->zero < 0 || config->zero > 1)
        return HX_FAIL(HX_ERR_CONFIG, "ddp.zero = %lld: expected 0 or 1", (long long)config->zero);
    if (config->bucket_bytes < 1)
        return HX_FAIL(HX_ERR_CONFIG, "ddp.bucket_bytes = %lld: expected at least 1", (long long)config->bucket_bytes);
    for (int64_t i = 0; i < params->n_items; i++) {
        const hx_tensor *value = params->items[i]->value;
        if (hx_tensor_device(value) != setup->device || !hx_tensor_is_contiguous(value))
            return HX_FAIL(HX_ERR_ARG, "parameter %s: expected a contiguous tensor on device %s", params->items[i]->path,
                           hx_device_name(setup->device));
        if (params->items[i]->is_partial)
            return HX_FAIL(HX_ERR_UNSUPPORTED, "parameter %s: gradients that are parts of a sum over tensor-parallel ranks", params->items[i]->path);
    }
    return HX_OK;
}

/* Collective. Fails on all ranks or on none. */
static hx_status unify(hx_comm *comm, hx_stream *stream, const hx_param_list *params, const hx_ddp_config *config, hx_status mine) {
    HX_TRY(hx_comm_agree(comm, mine));
    HX_TRY(hx_comm_agree_equal(comm, "ddp.bucket_bytes", config->bucket_bytes));
    HX_TRY(hx_comm_agree_equal(comm, "ddp.zero", config->zero));
    HX_TRY(hx_params_same(comm, params));
    return hx_comm_agree(comm, hx_params_broadcast(comm, stream, params, false));
}

hx_status hx_ddp_create(const hx_ddp_setup *setup, hx_ddp **out) {
    hx_comm *comm = setup->dp;
    const hx_ddp_config *config = setup->config;
    hx_ddp *ddp = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *ddp, (void **)&ddp);
    if (status == HX_OK) status = check_local(setup);
    if (status == HX_OK) {
        ddp->comm = comm;
        ddp->stream = setup->stream;
        const hx__share share = {hx_comm_rank(comm), config->zero > 0 ? hx_comm_size(comm) : 1};
        status = hx__buckets_create(&ddp->buckets, setup->device, setup->stream, setup->params, config->bucket_bytes, share);
    }
    status = unify(comm, setup->stream, setup->params, config, status);
    if (status != HX_OK) {
        hx_ddp_destroy(&ddp);
        return status;
    }
    *out = ddp;
    return HX_OK;
}

void hx_ddp_destroy(hx_ddp **ddp) {
    if (*ddp == NULL) return;
    /* Reductions may still use the buckets; their failures have been reported by finish. */
    if ((*ddp)->comm != NULL) (void)hx_comm_release_device((*ddp)->comm);
    hx__buckets_destroy(&(*ddp)->buckets);
    hx_mem_free((void **)ddp);
}

int hx_ddp_n_buckets(const hx_ddp *ddp) {
    return (int)ddp->buckets.n_items;
}

/* ---- a step ---- */

/* A slice without gradient holds what the step before left. */
static void clear_missing(hx_ddp *ddp, const hx__bucket *bucket, hx_stream *stream, first_failure *first) {
    for (int64_t i = bucket->first_slot; i >= 0; i = ddp->buckets.slots[i].next) {
        const hx__slot *slot = &ddp->buckets.slots[i];
        if (!hx__slot_has_gradient(slot)) note(first, hx_tensor_fill(stream, slot->slice, 0));
    }
}

/* Sends the next bucket, whatever else fails. */
static void launch_next(hx_ddp *ddp, hx_stream *stream, first_failure *first) {
    hx__bucket *bucket = &ddp->buckets.items[ddp->next++];
    clear_missing(ddp, bucket, stream, first);
    if (hx_comm_size(ddp->comm) == 1) return;
    void *data = hx_tensor_data(bucket->flat);
    hx_status status = bucket->values == NULL
                           ? hx_comm_all_reduce(ddp->comm, data, bucket->count, bucket->dtype, HX_SUM, stream, bucket->done)
                           : hx_comm_reduce_scatter(ddp->comm, data, bucket->share, bucket->dtype, HX_SUM, stream, bucket->done);
    bucket->is_in_flight = status == HX_OK;
    note(first, status);
    if (bucket->is_in_flight) ddp->n_bytes += (int64_t)hx_tensor_bytes(bucket->flat);
}

static hx_status ddp_begin(void *self, bool is_last) {
    hx_ddp *ddp = self;
    if (ddp->is_sending)
        return HX_FAIL(HX_ERR_STATE, "a micro-batch begins after the step's last one: expected finish");
    ddp->is_sending = is_last;
    return HX_OK;
}

static hx_status ddp_ready(void *self, hx_tensor *leaf) {
    hx_ddp *ddp = self;
    hx__slot *slot = hx__buckets_find(&ddp->buckets, leaf);
    first_failure first = {.status = HX_OK};
    if (!ddp->is_sending || slot == NULL) return HX_OK; /* a leaf that is no parameter is not ours */
    if (slot->is_ready)
        return HX_FAIL(HX_ERR_STATE, "the gradient of %s became final twice in the last micro-batch: expected one backward",
                       slot->param->path);
    slot->is_ready = true;
    ddp->buckets.items[slot->bucket].n_pending--;
    while (ddp->next < ddp->buckets.n_items && ddp->buckets.items[ddp->next].n_pending == 0)
        launch_next(ddp, ddp->stream, &first);
    return hx_error_adopt(first.status, first.message);
}

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The host waits, and with it all that is enqueued later. Were the wait left to a stream that runs behind, the next
 * step could arm an event again before the stream had looked at it. Returns the seconds. */
static double wait_all(hx_ddp *ddp, first_failure *first) {
    double began = seconds_now();
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) {
        hx__bucket *bucket = &ddp->buckets.items[i];
        if (bucket->is_in_flight) note(first, hx_event_sync(bucket->done));
        bucket->is_in_flight = false;
    }
    note(first, hx_comm_failure(ddp->comm)); /* which the events of a device do not tell */
    return seconds_now() - began;
}

/* In order of registration, as a reader of the model would look for it. */
static const hx_param *find_missing(const hx_ddp *ddp) {
    for (int64_t i = ddp->buckets.n_slots - 1; i >= 0; i--)
        if (!hx__slot_has_gradient(&ddp->buckets.slots[i])) return ddp->buckets.slots[i].param;
    return NULL;
}

static hx_status ddp_finish(void *self, hx_stream *stream, bool failed) {
    hx_ddp *ddp = self;
    first_failure first = {.status = HX_OK};
    const hx_param *missing = failed ? NULL : find_missing(ddp);
    while (ddp->next < ddp->buckets.n_items) launch_next(ddp, stream, &first);
    ddp->last_wait_s = wait_all(ddp, &first);
    for (int64_t i = 0; i < ddp->buckets.n_slots; i++) ddp->buckets.slots[i].is_ready = false;
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) ddp->buckets.items[i].n_pending = ddp->buckets.items[i].n_slots;
    ddp->next = 0;
    ddp->is_sending = false;
    ddp->last_n_bytes = ddp->n_bytes;
    ddp->n_bytes = 0;
    if (first.status != HX_OK) return hx_error_adopt(first.status, first.message);
    if (missing != NULL)
        return HX_FAIL(HX_ERR_STATE, "parameter %s got no gradient on this rank: it took no part in the loss; "
                       "freeze it if that is meant", missing->path);
    return HX_OK;
}

/* Every rank has its shares of the values: all get all of them. */
static hx_status ddp_updated(void *self, hx_stream *stream) {
    hx_ddp *ddp = self;
    first_failure first = {.status = HX_OK};
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) {
        hx__bucket *bucket = &ddp->buckets.items[i];
        hx_status status = hx_comm_all_gather(ddp->comm, hx_tensor_data(bucket->values), bucket->share, bucket->value_dtype, stream,
                                              bucket->done);
        bucket->is_in_flight = status == HX_OK;
        note(&first, status);
        if (bucket->is_in_flight) ddp->last_n_bytes += (int64_t)hx_tensor_bytes(bucket->values);
    }
    ddp->last_wait_s += wait_all(ddp, &first);
    return hx_error_adopt(first.status, first.message);
}

static void ddp_stats(void *self, double *wait_s, int64_t *n_bytes) {
    const hx_ddp *ddp = self;
    *wait_s = ddp->last_wait_s;
    *n_bytes = ddp->last_n_bytes;
}

void hx_ddp_hook(hx_ddp *ddp, hx_grad_sync *out) {
    *out = (hx_grad_sync){
        .self = ddp, .begin = ddp_begin, .ready = ddp_ready, .finish = ddp_finish, .stats = ddp_stats};
    if (ddp->buckets.n_items > 0 && ddp->buckets.items[0].values != NULL) out->updated = ddp_updated;
}
