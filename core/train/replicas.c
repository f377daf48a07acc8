/* Ranks that hold the same numbers should go on to hold the same bits: every rank updates its copy from the same sums. Memory
 * that loses a bit, a device that miscomputes and an op whose bits depend on chance break this in silence. The check:
 *   1. each rank hashes all it holds in copy, parameters and what the optimizer keeps for them, into one number; with tensor
 *      parallelism into two: of what all ranks hold whole, and of its part of the rest
 *   2. the numbers are gathered; all ranks compare the first, those that hold the same part the second. Healthy runs end here
 *   3. else the tensors are gone through one by one until one differs, in the order of registration, whole ones first
 *   4. of that one the majority is right, and every rank describes the failure in the same words
 * Not compared are the optimizer's state of shares (ZeRO; where hosts hold copies of them, the parameters tell), and running
 * statistics, which are each rank's own. */
#include <stdio.h>
#include <string.h>
#include "core/base/mem.h"
#include "core/train/trainer_impl.h"

enum {
    PIECE = 4 << 20, /* bytes that are copied to the host at once; the hash depends on it, so it is the same on all ranks */
    HOST = 64,       /* bytes of a host's name */
    MOST_NAMED = 8   /* ranks in a message */
};

/* What a rank says about the tensors that are looked at. */
typedef struct vote {
    uint64_t hash;
    int32_t part;       /* ranks with the same one hold copies of one another: of the model; 0 of what is whole */
    int32_t has_failed; /* it cannot read its memory, or has failed before: the hash is none */
} vote;

/* ---- what is compared ---- */

/* Tensors of which each of `ranks` has a copy: not shares, and with tensor parallelism not parts. */
static hx_status list_copies(hx_trainer *t, const hx_agreement *ranks, hx_state_list *list) {
    int64_t n = 0;
    HX_TRY(hx_params_state(&t->params, ranks, list));
    HX_TRY(hx_optim_state(t->setup.optim, ranks, list));
    if (t->ema != NULL) HX_TRY(hx_ema_state(t->ema, ranks, list));
    for (int64_t i = 0; i < list->n_items; i++)
        if (list->items[i].n_replicas == ranks->size) list->items[n++] = list->items[i];
    list->n_items = n;
    return HX_OK;
}

/* Behind the whole ones, what is only among ranks with the same part: both lists are in the order of registration. */
static hx_status add_parts(hx_trainer *t, const hx_state_list *among_same) {
    for (int64_t i = 0, whole = 0; i < among_same->n_items; i++) {
        if (whole < t->n_whole_copies && t->copies.items[whole].data == among_same->items[i].data) whole++;
        else HX_TRY(hx_state_list_add(&t->copies, &among_same->items[i]));
    }
    return HX_OK;
}

hx_status hx__trainer_open_copies(hx_trainer *t) {
    const hx_agreement *ranks = t->setup.agreement;
    hx_state_list among_same = {0};
    if (ranks == NULL || ranks->size <= 1) return HX_OK;
    if (ranks->gather == NULL || ranks->hash == NULL) return HX_FAIL(HX_ERR_ARG, "check_replicas: expected an agreement with gather and hash");
    HX_TRY(list_copies(t, ranks, &t->copies));
    t->n_whole_copies = t->copies.n_items;
    if (ranks->n_parts > 1 && ranks->n_replicas > 1) { /* as if there were no ranks with other parts */
        const hx_agreement same = {.rank = ranks->replica, .size = ranks->n_replicas};
        hx_status status = list_copies(t, &same, &among_same);
        if (status == HX_OK) status = add_parts(t, &among_same);
        hx_state_list_destroy(&among_same);
        HX_TRY(status);
    }
    return hx_mem_alloc_array(ranks->size, sizeof(vote) + HOST, &t->votes); /* now, so that no rank is short of it later */
}

/* Room for a host's name of each rank, behind that for the votes. */
static char (*hosts_of(const hx_trainer *t))[HOST] { return (char (*)[HOST])((vote *)t->votes + t->setup.agreement->size); }

/* ---- hashes ---- */

/* @param buffer  [PIECE] of the host's memory for what the host cannot read in place; NULL: it can */
static hx_status hash_span(const hx_trainer *t, const char *data, size_t n_bytes, void *buffer, uint64_t *hash) {
    for (size_t at = 0, n; at < n_bytes; at += n) {
        n = n_bytes - at < PIECE ? n_bytes - at : PIECE;
        if (buffer != NULL) {
            HX_TRY(hx_stream_copy(t->ctx.stream, buffer, data + at, n, HX_COPY_TO_HOST));
            HX_TRY(hx_stream_sync(t->ctx.stream));
        }
        *hash = t->setup.agreement->hash(*hash, buffer != NULL ? buffer : data + at, n);
    }
    return HX_OK;
}

static hx_status hash_item(const hx_trainer *t, const hx_state_item *item, void *buffer, uint64_t *hash) {
    const size_t size = hx_dtype_bytes(item->dtype);
    for (int b = 0; b < item->layout->n_boxes; b++) {
        const hx_box *box = &item->layout->boxes[b];
        const size_t n = (size_t)hx_box_count(box, item->layout->shape.ndim);
        HX_TRY(hash_span(t, (const char *)item->data + (size_t)box->local * size, n * size, buffer, hash));
    }
    return HX_OK;
}

/* Of the copies [begin, end), once what the stream does to them is done. */
static hx_status hash_copies(const hx_trainer *t, int64_t begin, int64_t end, uint64_t *hash) {
    hx_device_props props;
    void *buffer = NULL;
    hx_status status;
    hx_device_props_get(t->ctx.device, &props);
    if (!props.is_host_memory) HX_TRY(hx_device_alloc(t->ctx.device, HX_POOL_HOST, PIECE, &buffer));
    HX_TRY_GOTO(hx_stream_sync(t->ctx.stream), done);
    for (int64_t i = begin; i < end; i++) HX_TRY_GOTO(hash_item(t, &t->copies.items[i], buffer, hash), done);
done:
    hx_device_free(t->ctx.device, HX_POOL_HOST, buffer, PIECE);
    return status;
}

/* Collective. The hashes of all ranks of copies that are whole, or that are parts; a rank that has none fails all of them. */
static hx_status gather_votes(hx_trainer *t, int64_t begin, int64_t end, vote *votes) {
    const hx_agreement *ranks = t->setup.agreement;
    vote mine = {.part = begin < t->n_whole_copies ? 0 : ranks->part};
    hx__trainer_note(t, hash_copies(t, begin, end, &mine.hash));
    mine.has_failed = t->failure != HX_OK;
    HX_TRY(ranks->gather(ranks->self, &mine, sizeof mine, votes));
    for (int rank = 0; rank < ranks->size; rank++)
        if (votes[rank].has_failed) return hx__trainer_share(t);
    return HX_OK;
}

/* ---- verdict ---- */

/* No majority of the ranks with its part has what it has. Where any two differ there is one such rank at least. */
static bool is_suspect(const vote *votes, int n, int rank) {
    int n_part = 0, n_equal = 0;
    for (int i = 0; i < n; i++) {
        if (votes[i].part != votes[rank].part) continue;
        n_part++;
        n_equal += votes[i].hash == votes[rank].hash;
    }
    return 2 * n_equal <= n_part;
}

static int count_suspects(const vote *votes, int n) {
    int n_suspects = 0;
    for (int rank = 0; rank < n; rank++) n_suspects += is_suspect(votes, n, rank);
    return n_suspects;
}

/* Some rank is right that holds the part of one that is not. */
static bool has_majority(const vote *votes, int n) {
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            if (is_suspect(votes, n, i) && votes[i].part == votes[k].part && !is_suspect(votes, n, k)) return true;
    return false;
}

/* "rank 2 (node03), rank 5 (node07)" */
static void list_suspects(const vote *votes, int n, const char (*hosts)[HOST], char *text, size_t n_bytes) {
    int n_named = 0;
    size_t at = 0;
    text[0] = '\0';
    for (int rank = 0; rank < n && n_named < MOST_NAMED && at < n_bytes; rank++)
        if (is_suspect(votes, n, rank))
            at += (size_t)snprintf(text + at, n_bytes - at, "%srank %d (%.*s)", n_named++ ? ", " : "", rank, HOST - 1, hosts[rank]);
    const int n_more = count_suspects(votes, n) - n_named;
    if (n_more > 0 && at < n_bytes) snprintf(text + at, n_bytes - at, " and %d more", n_more);
}

/* Collective. The same words on all ranks. */
static hx_status accuse(const hx_trainer *t, const char *name, const vote *votes) {
    const hx_agreement *ranks = t->setup.agreement;
    char mine[HOST] = "", text[MOST_NAMED * (HOST + 24)], (*hosts)[HOST] = hosts_of(t);
    if (ranks->host != NULL) snprintf(mine, sizeof mine, "%s", ranks->host);
    HX_TRY(ranks->gather(ranks->self, mine, sizeof mine, hosts));
    list_suspects(votes, ranks->size, (const char (*)[HOST])hosts, text, sizeof text);
    return HX_FAIL(HX_ERR_CORRUPT, "update %lld: %s differs on %s%s: expected the same bits on all ranks that hold it",
                   (long long)t->state.step, name, text,
                   has_majority(votes, ranks->size) ? " from the majority" : ", none of which has a majority");
}

/* Collective. Of copies [begin, end), all whole or all parts. */
static hx_status check_range(hx_trainer *t, int64_t begin, int64_t end) {
    vote *votes = t->votes;
    const int n = t->setup.agreement->size;
    if (begin == end) return HX_OK;
    HX_TRY(gather_votes(t, begin, end, votes));
    if (count_suspects(votes, n) == 0) return HX_OK;
    for (int64_t i = begin; i < end; i++) {
        HX_TRY(gather_votes(t, i, i + 1, votes));
        if (count_suspects(votes, n) > 0) return accuse(t, t->copies.items[i].name, votes);
    }
    return HX_FAIL(HX_ERR_CORRUPT, "update %lld: what ranks hold alike differed, and did not when it was read again: expected the same bits each time",
                   (long long)t->state.step);
}

hx_status hx__trainer_check_copies(hx_trainer *t) {
    if (t->copies.n_items == 0 || t->state.step % t->setup.config->check_replicas != 0) return HX_OK;
    HX_TRY(check_range(t, 0, t->n_whole_copies));
    return check_range(t, t->n_whole_copies, t->copies.n_items);
}
