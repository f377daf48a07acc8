/* Data parallelism, one step. Buckets are closed in turns, always in the same order, so that all ranks call the same collectives
 * whatever order their backward passes finish in:
 *   1. begin(): a micro-batch. Gradients that become final in ready() count their bucket down; a full bucket is closed:
 *        plain, ZeRO 1   on the last micro-batch only: until then gradients add up; it is sent
 *        ZeRO 2          on each: it is sent, and the rank's share of the sum added to those before
 *        elastic         on each: it is a leaf of the rank's tree; after the last one the tree's pieces are sent; with ZeRO 2
 *                        each leaf is, as the ranks' leaves interleave
 *   2. finish(): what was not closed is closed now, with zeros where there is no gradient, also after a failure: the
 *      other ranks wait for this one. Then it waits for all sums, and shows the parameters theirs.
 * With ZeRO 2 flats exist from the first gradient that is written into them (place) until they have been sent. */
#include <stdio.h>

#include "core/base/mem.h"
#include "dist/dp/ddp_impl.h"
#include "dist/params.h"

#define HX_OPTION_OWNER hx_ddp_config
const hx_option hx_ddp_options[] = HX_OPTIONS_TABLE(HX_DDP_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_ddp_n_options = (int)(sizeof hx_ddp_options / sizeof *hx_ddp_options);

#define MOST_LEAVES (1 << 20)

enum { SHARD_ALL, SHARD_HOST }; /* ddp.shard */

/* ---- making ---- */

static hx_status check_params(const hx_ddp_setup *setup) {
    for (int64_t i = 0; i < setup->params->n_items; i++) {
        const hx_param *param = setup->params->items[i];
        if (hx_tensor_device(param->value) != setup->device || !hx_tensor_is_contiguous(param->value))
            return HX_FAIL(HX_ERR_ARG, "parameter %s: expected a contiguous tensor on device %s", param->path, hx_device_name(setup->device));
        if (param->is_partial && setup->tp == NULL)
            return HX_FAIL(HX_ERR_ARG, "parameter %s has a part of its gradient only: expected the ranks with the others, tp", param->path);
    }
    return HX_OK;
}

static hx_status check_local(const hx_ddp_setup *setup) {
    const hx_ddp_config *c = setup->config;
    const int64_t n = setup->n_leaves;
    if (c->zero < 0 || c->zero > 2) return HX_FAIL(HX_ERR_CONFIG, "ddp.zero = %lld: expected 0, 1 or 2", (long long)c->zero);
    if (c->bucket_bytes < 1)
        return HX_FAIL(HX_ERR_CONFIG, "ddp.bucket_bytes = %lld: expected at least 1", (long long)c->bucket_bytes);
    if (n != 0 && (n < hx_comm_size(setup->dp) || n > MOST_LEAVES || (n & (n - 1)) != 0))
        return HX_FAIL(HX_ERR_CONFIG, "%lld leaves on %d data-parallel ranks: expected a power of two from the number of ranks to %d", (long long)n,
                       hx_comm_size(setup->dp), MOST_LEAVES);
    if (c->compress != 0 && (n > 0 || c->shard == SHARD_HOST))
        return HX_FAIL(HX_ERR_CONFIG, "ddp.compress = bf16 with %s: expected none", n > 0 ? "elastic sums, whose bits would depend on the ranks" : "ddp.shard = host");
    if (n > 0 && c->shard == SHARD_HOST)
        return HX_FAIL(HX_ERR_CONFIG, "ddp.shard = host with elastic sums, whose bits would depend on the hosts: expected all");
    return check_params(setup);
}

/* Collective. @param[out] first, number  the lowest rank on this one's host, and how many of its ranks come before this one */
static hx_status find_host(hx_comm *dp, int *first, int *number) {
    int64_t *hosts = NULL; /* [size] */
    hx_status status = hx_comm_agree(dp, hx_mem_alloc_array(hx_comm_size(dp), sizeof *hosts, (void **)&hosts));
    if (status == HX_OK) status = hx__comm_first_on_host(dp, hosts);
    *number = 0;
    for (int r = 0; r < hx_comm_rank(dp) && status == HX_OK; r++) *number += hosts[r] == hosts[hx_comm_rank(dp)];
    *first = status == HX_OK ? (int)hosts[hx_comm_rank(dp)] : 0;
    hx_mem_free((void **)&hosts);
    return status;
}

/* Collective. The ranks of a host share parameters out; those of equal number on all hosts hold the same share. */
static hx_status split_hosts(hx_ddp *ddp) {
    const int rank = hx_comm_rank(ddp->dp);
    int first, number;
    HX_TRY(hx_comm_agree(ddp->dp, find_host(ddp->dp, &first, &number)));
    ddp->inside = NULL; /* owned from here on */
    ddp->has_split = true;
    HX_TRY(hx_comm_agree(ddp->dp, hx_comm_split(ddp->dp, first, rank, &ddp->inside)));
    HX_TRY(hx_comm_agree_equal(ddp->dp, "with ddp.shard = host the number of a host's data-parallel ranks", hx_comm_size(ddp->inside)));
    return hx_comm_agree(ddp->dp, hx_comm_split(ddp->dp, number, rank, &ddp->between));
}

/* A sum of two is a tree; of more, if the communicator says so. */
static bool sums_in_tree(const hx_ddp *ddp, hx_device *device) {
    const int size = hx_comm_size(ddp->dp);
    hx_device_props props;
    hx_device_props_get(device, &props);
    return size <= 2 || ((size & (size - 1)) == 0 && (props.is_host_memory || props.is_dry) && hx_comm_sums_in_tree(ddp->dp));
}

/* The way of the sums, from what was asked for and who is there. */
static void choose(hx_ddp *ddp, const hx_ddp_setup *setup) {
    const int size = hx_comm_size(ddp->inside);
    ddp->zero = size > 1 ? (int)setup->config->zero : 0;
    ddp->is_compressed = size > 1 && setup->config->compress != 0;
    ddp->leaves = (hx_leaves){.n = setup->n_leaves, .rank = hx_comm_rank(ddp->dp), .size = hx_comm_size(ddp->dp), .is_interleaved = ddp->zero == 2};
    ddp->goes_by_parts = ddp->is_compressed || (ddp->leaves.n > 0 && !sums_in_tree(ddp, setup->device));
    ddp->n_rounds_sent = 1;
    for (int r = 0; ddp->leaves.n > 0 && ddp->zero < 2 && r < ddp->leaves.size; r++) {
        const hx_leaves theirs = {.n = ddp->leaves.n, .rank = r, .size = ddp->leaves.size};
        hx__node pieces[HX__TREE_NODES];
        const int n = hx__tree_pieces(hx_leaves_at(&theirs, 0), hx_leaves_at(&theirs, hx_leaves_count(&theirs)), pieces);
        if (n > ddp->n_rounds_sent) ddp->n_rounds_sent = n;
    }
}

/* Buffers of a bucket's tree: of the rank's own leaves; with ZeRO 2 of shares of all leaves, or of all ranks' sums in turn. */
static int count_sums(const hx_ddp *ddp) {
    const hx_leaves *l = &ddp->leaves;
    const int64_t begin = hx_leaves_at(l, 0);
    if (l->n == 0) return 0;
    if (ddp->zero == 2) return hx__tree_most(0, ddp->goes_by_parts ? l->n : l->n / l->size, false);
    return hx__tree_most(begin, begin + hx_leaves_count(l), true);
}

static hx_status create_local(hx_ddp *ddp, const hx_ddp_setup *setup) {
    choose(ddp, setup);
    const bool has_parts = ddp->zero > 0 || ddp->goes_by_parts;
    hx_comm *comm = ddp->zero > 0 ? ddp->inside : ddp->dp;
    /* Elastic: a block of a parameter stays on one rank, so that its part of the norm is one number. */
    const hx__deal deal = {.index = hx_comm_rank(comm), .n_parts = has_parts ? hx_comm_size(comm) : 1, .is_shared = ddp->zero > 0,
                           .unit = ddp->zero > 0 && ddp->leaves.n > 0 ? HX_NORM_BLOCK : 0, .is_transient = ddp->zero == 2,
                           .n_sums = count_sums(ddp)};
    ddp->stream = setup->stream;
    ddp->ctx = (hx_ctx){.device = setup->device, .stream = setup->stream};
    HX_TRY(hx__buckets_create(&ddp->buckets, setup->device, setup->stream, setup->params, setup->config->bucket_bytes, &deal));
    if (ddp->zero > 0) hx_device_trim(setup->device); /* what moved has left its memory behind */
    return hx__exchange_create(ddp);
}

/* Collective. Fails on all ranks or on none. */
static hx_status unify(const hx_ddp_setup *setup) {
    const hx_ddp_config *c = setup->config;
    const struct {
        const char *what;
        int64_t value;
    } same[] = {{"ddp.bucket_bytes", c->bucket_bytes}, {"ddp.zero", c->zero}, {"ddp.compress", c->compress}, {"ddp.shard", c->shard},
                {"the number of leaves", setup->n_leaves}};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) HX_TRY(hx_comm_agree_equal(setup->dp, same[i].what, same[i].value));
    return hx_params_same(setup->dp, setup->params);
}

static hx_status create(hx_ddp *ddp, const hx_ddp_setup *setup) {
    HX_TRY(unify(setup));
    if (setup->config->shard == SHARD_HOST && setup->config->zero > 0) HX_TRY(split_hosts(ddp));
    HX_TRY(hx_comm_agree(setup->dp, create_local(ddp, setup)));
    return hx_comm_agree(setup->dp, hx_params_broadcast(setup->dp, setup->stream, setup->params, false));
}

hx_status hx_ddp_create(const hx_ddp_setup *setup, hx_ddp **out) {
    hx_ddp *ddp = NULL;
    hx_status status = hx_mem_alloc_array(1, sizeof *ddp, (void **)&ddp);
    if (status == HX_OK) {
        ddp->dp = ddp->inside = setup->dp;
        ddp->tp = setup->tp;
        status = check_local(setup);
    }
    status = hx_comm_agree(setup->dp, status);
    if (status == HX_OK) status = create(ddp, setup);
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
    (void)hx_comm_release_device((*ddp)->dp);
    hx__exchange_destroy(*ddp);
    hx__buckets_destroy(&(*ddp)->buckets);
    if ((*ddp)->has_split) {
        hx_comm_close(&(*ddp)->between);
        hx_comm_close(&(*ddp)->inside);
    }
    hx_mem_free((void **)ddp);
}

int hx_ddp_n_buckets(const hx_ddp *ddp) {
    return (int)ddp->buckets.n_items;
}

void hx_ddp_copies(const hx_ddp *ddp, int *copy, int *n_copies) {
    *copy = ddp->between != NULL ? hx_comm_rank(ddp->between) : 0;
    *n_copies = ddp->between != NULL ? hx_comm_size(ddp->between) : 1;
}

/* ---- a micro-batch ---- */

static bool is_elastic(const hx_ddp *ddp) { return ddp->leaves.n > 0; }

/* Buckets are closed in every micro-batch; else in the last one, until which gradients add up. */
static bool closes_each(const hx_ddp *ddp) { return is_elastic(ddp) || ddp->zero == 2; }

/* Where an elastic bucket's gradients are written: a buffer that the tree does without for the moment. */
static hx_status open_leaf(hx_ddp *ddp, hx__bucket *bucket) {
    if (bucket->flat == NULL) bucket->flat = hx__tree_take(&bucket->tree);
    if (bucket->flat == NULL) return HX_FAIL(HX_ERR_INTERNAL, "a bucket's tree of %d nodes has no spare buffer", bucket->tree.n_nodes);
    return hx__bucket_place(&ddp->buckets, bucket);
}

/* Buffers that are there for a micro-batch: not those of ZeRO 2. */
static hx_status open_micro(hx_ddp *ddp) {
    for (int64_t i = 0; i < ddp->buckets.n_slots; i++) ddp->buckets.slots[i].is_ready = false;
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) {
        hx__bucket *bucket = &ddp->buckets.items[i];
        bucket->n_pending = bucket->n_slots;
        if (is_elastic(ddp) && ddp->zero < 2) HX_TRY(open_leaf(ddp, bucket));
    }
    return HX_OK;
}

/* The sums of the step before are not needed any more. */
static void open_step(hx_ddp *ddp) {
    if (ddp->is_open) return;
    for (int64_t i = 0; i < ddp->buckets.n_slots; i++) ddp->buckets.slots[i].was_given = false;
    for (int64_t i = 0; i < ddp->buckets.n_items && is_elastic(ddp); i++) {
        hx__bucket *bucket = &ddp->buckets.items[i];
        hx__bucket_take_away(&ddp->buckets, bucket);
        if (ddp->zero < 2) hx__tree_give_consume(&bucket->tree, &bucket->flat);
        hx__tree_clear(&bucket->tree);
    }
    ddp->is_open = true;
    ddp->is_last = false;
    ddp->round = ddp->next = ddp->n_bytes = 0;
    ddp->wait_s = 0;
    ddp->n_rounds = -1;
}

/* Collective with ZeRO 2. Every rank closes its buckets as often as any of them has micro-batches. */
static hx_status find_rounds(hx_ddp *ddp, int64_t n_micro) {
    const hx_leaves *l = &ddp->leaves;
    if (ddp->n_rounds >= 0) return HX_OK;
    ddp->n_rounds = ddp->zero == 2 ? n_micro : 1;
    if (is_elastic(ddp)) ddp->n_rounds = ddp->zero == 2 ? (l->n + l->size - 1) / l->size : hx_leaves_count(l);
    if (ddp->zero < 2 || is_elastic(ddp)) return HX_OK;
    HX_TRY(hx_comm_all_reduce(ddp->dp, &ddp->n_rounds, 1, HX_I64, HX_MAX, NULL, NULL));
    if (ddp->n_rounds < 1) ddp->n_rounds = 1;
    return HX_OK;
}

static hx_status ddp_start(void *self, int64_t n_micro) {
    hx_ddp *ddp = self;
    open_step(ddp);
    return find_rounds(ddp, n_micro);
}

/* A slice without gradient holds what was there before. */
static void complete(hx_ddp *ddp, hx__bucket *bucket, hx__outcome *first) {
    if (bucket->flat == NULL) {
        hx_status status = HX_OK;
        if (is_elastic(ddp) && ddp->zero < 2) bucket->flat = hx__tree_take(&bucket->tree);
        else status = hx__bucket_flat(&ddp->buckets, bucket, &bucket->flat);
        if (status == HX_OK && bucket->flat != NULL) status = hx_tensor_fill(ddp->stream, bucket->flat, 0);
        hx__outcome_note(first, status);
        return;
    }
    for (int64_t i = bucket->first_slot; i >= 0; i = ddp->buckets.slots[i].next) {
        hx__slot *slot = &ddp->buckets.slots[i];
        if (hx__slot_has_gradient(slot)) slot->was_given = true;
        else if (slot->slice != NULL) hx__outcome_note(first, hx_tensor_fill(ddp->stream, slot->slice, 0));
    }
}

static void close_next(hx_ddp *ddp, hx__outcome *first) {
    hx__bucket *bucket = &ddp->buckets.items[ddp->next++];
    complete(ddp, bucket, first);
    if (closes_each(ddp)) hx__bucket_take_away(&ddp->buckets, bucket);
    if (is_elastic(ddp) && ddp->zero < 2 && bucket->flat != NULL)
        hx__outcome_note(first, hx__tree_push_consume(&bucket->tree, &ddp->ctx, 0, hx_leaves_at(&ddp->leaves, ddp->round), &bucket->flat));
    if (ddp->zero == 2 || ddp->round == ddp->n_rounds - 1) hx__exchange_send(ddp, bucket, first);
}

static void close_round(hx_ddp *ddp, hx__outcome *first) {
    while (ddp->next < ddp->buckets.n_items) close_next(ddp, first);
    ddp->next = 0;
    ddp->round++;
}

static hx_status ddp_begin(void *self, bool is_last) {
    hx_ddp *ddp = self;
    hx__outcome first = {.status = HX_OK};
    const bool goes_on = ddp->is_open && ddp->n_begun > 0;
    if (ddp->is_open && ddp->is_last)
        return HX_FAIL(HX_ERR_STATE, "a micro-batch begins after the step's last one: expected finish");
    open_step(ddp);
    HX_TRY(find_rounds(ddp, 1));
    if (closes_each(ddp) && ddp->n_begun == ddp->n_rounds)
        return HX_FAIL(HX_ERR_STATE, "micro-batch %lld of a step begins: expected %lld", (long long)ddp->n_begun + 1, (long long)ddp->n_rounds);
    if (goes_on && closes_each(ddp)) close_round(ddp, &first);
    ddp->n_begun++;
    ddp->is_last = is_last;
    if (closes_each(ddp) || !goes_on) hx__outcome_note(&first, open_micro(ddp));
    return hx_error_adopt(first.status, first.message);
}

static hx_status ddp_place(void *self, hx_tensor *leaf) {
    hx_ddp *ddp = self;
    hx__slot *slot = ddp->is_open ? hx__buckets_find(&ddp->buckets, leaf) : NULL;
    if (slot == NULL) return HX_OK; /* a leaf that is no parameter is not ours */
    hx__bucket *bucket = &ddp->buckets.items[slot->bucket];
    if (bucket->flat != NULL) return HX_FAIL(HX_ERR_STATE, "the gradient of %s was taken away in the middle of a micro-batch", slot->param->path);
    HX_TRY(hx__bucket_flat(&ddp->buckets, bucket, &bucket->flat));
    return hx__bucket_place(&ddp->buckets, bucket);
}

static hx_status ddp_ready(void *self, hx_tensor *leaf) {
    hx_ddp *ddp = self;
    hx__slot *slot = hx__buckets_find(&ddp->buckets, leaf);
    hx__outcome first = {.status = HX_OK};
    if (!ddp->is_open || !(ddp->is_last || closes_each(ddp)) || slot == NULL) return HX_OK;
    if (slot->is_ready)
        return HX_FAIL(HX_ERR_STATE, "the gradient of %s became final twice in a micro-batch: expected one backward", slot->param->path);
    slot->is_ready = true;
    ddp->buckets.items[slot->bucket].n_pending--;
    while (ddp->next < ddp->buckets.n_items && ddp->buckets.items[ddp->next].n_pending == 0) close_next(ddp, &first);
    return hx_error_adopt(first.status, first.message);
}

/* ---- the sums ---- */

/* In order of registration, as a reader of the model would look for it. */
static const hx_param *find_missing(const hx_ddp *ddp) {
    for (int64_t i = ddp->buckets.n_slots - 1; i >= 0; i--)
        if (!ddp->buckets.slots[i].was_given) return ddp->buckets.slots[i].param;
    return NULL;
}

/* What of a parameter this rank updates, in a buffer that begins `base` elements into the bucket. */
static hx_status show_own(hx__slot *slot, hx_tensor *sums, int64_t base) {
    hx_param *param = slot->param;
    const int64_t n = param->own_end - param->own_begin;
    param->own_grad = NULL;
    hx_tensor_destroy(&slot->own);
    HX_TRY(hx_tensor_window(sums, n > 0 ? slot->offset + param->own_begin - base : 0, HX_SHAPE(n), &slot->own));
    param->own_grad = slot->own;
    return HX_OK;
}

static hx_status show(hx_ddp *ddp, hx__bucket *bucket) {
    hx_tensor *sums = hx__exchange_sums(ddp, bucket);
    if (sums == NULL) return HX_FAIL(HX_ERR_INTERNAL, "a bucket has no sum: its tree has %d nodes", bucket->tree.n_nodes);
    if (ddp->zero == 0 && is_elastic(ddp)) {
        bucket->flat = hx_tensor_move(&bucket->tree.nodes[--bucket->tree.n_nodes].sum);
        return hx__bucket_place(&ddp->buckets, bucket);
    }
    const int64_t base = ddp->zero == 2 ? hx_comm_rank(ddp->inside) * bucket->share : 0;
    for (int64_t i = bucket->first_slot; i >= 0 && ddp->zero > 0; i = ddp->buckets.slots[i].next)
        HX_TRY(show_own(&ddp->buckets.slots[i], sums, base));
    return HX_OK;
}

static void close_rest(hx_ddp *ddp, hx__outcome *first) {
    open_step(ddp);
    hx__outcome_note(first, find_rounds(ddp, 0)); /* of a rank that never came to start */
    if (ddp->n_begun == 0) hx__outcome_note(first, open_micro(ddp));
    while (ddp->round < ddp->n_rounds) close_round(ddp, first);
}

static hx_status ddp_finish(void *self, hx_stream *stream, bool partial) {
    hx_ddp *ddp = self;
    hx__outcome first = {.status = HX_OK};
    (void)stream; /* the host waits */
    close_rest(ddp, &first);
    hx__exchange_finish(ddp, &first);
    const hx_param *missing = partial ? NULL : find_missing(ddp);
    for (int64_t i = 0; i < ddp->buckets.n_items && first.status == HX_OK; i++) hx__outcome_note(&first, show(ddp, &ddp->buckets.items[i]));
    ddp->is_open = ddp->is_last = false;
    ddp->n_begun = 0;
    ddp->last_wait_s = ddp->wait_s;
    ddp->last_n_bytes = ddp->n_bytes;
    if (first.status != HX_OK) return hx_error_adopt(first.status, first.message);
    if (missing != NULL)
        return HX_FAIL(HX_ERR_STATE, "parameter %s got no gradient on this rank: it took no part in the loss; "
                       "freeze it if that is meant", missing->path);
    return HX_OK;
}

/* Every rank has its shares of the values: all get all of them. */
static hx_status ddp_updated(void *self, hx_stream *stream) {
    hx_ddp *ddp = self;
    hx__outcome first = {.status = HX_OK};
    (void)stream;
    ddp->wait_s = 0;
    ddp->n_bytes = 0;
    hx__exchange_values(ddp, &first);
    ddp->last_wait_s += ddp->wait_s;
    ddp->last_n_bytes += ddp->n_bytes;
    return hx_error_adopt(first.status, first.message);
}

static void ddp_stats(void *self, double *wait_s, int64_t *n_bytes) {
    const hx_ddp *ddp = self;
    *wait_s = ddp->last_wait_s;
    *n_bytes = ddp->last_n_bytes;
}

void hx_ddp_hook(hx_ddp *ddp, hx_grad_sync *out) {
    *out = (hx_grad_sync){.self = ddp, .leaves = ddp->leaves, .start = ddp_start, .begin = ddp_begin, .ready = ddp_ready,
                          .finish = ddp_finish, .stats = ddp_stats};
    if (ddp->zero > 0) out->updated = ddp_updated;
    if (ddp->zero == 2) out->place = ddp_place;
}
