/* How the gradients of a bucket become their sums over the ranks. Two ways:
 *   whole   the communicator adds: all_reduce; with shares reduce_scatter
 *   parts   each rank sends every other one its part (all_to_all), and who gets the parts adds them: in f32 what went over the
 *           wire in bf16, and in the tree of elastic training (tree.h) where the communicator has no tree
 * and then, once a step: the sums of hosts that share out alike, of tensor-parallel ranks where gradients are partial, and the
 * parts together again where every rank is to have all sums.
 *
 * A flight is a bucket on its way: sent; summed, when the first exchange is there and this rank has added what is to be added;
 * settled, when all is there. By parts and with ZeRO 2 flights need buffers, so four take turns, and sending waits for the second
 * last one to be summed: it depends on counts only, never on time, what is called in which order and how much memory is held. */
#include "core/base/mem.h"
#include "dist/dp/ddp_impl.h"

/* ---- making ---- */

static int part_of(const hx_ddp *ddp) { return hx_comm_rank(ddp->zero > 0 ? ddp->inside : ddp->dp); }

static hx_status create_flight(hx_ddp *ddp, hx__flight *f, const int64_t largest[2]) {
    f->n_events = ddp->n_rounds_sent + 3; /* between hosts, tensor-parallel, gathered */
    HX_TRY(hx_mem_alloc_array(f->n_events, sizeof *f->events, (void **)&f->events));
    for (int i = 0; i < f->n_events; i++) HX_TRY(hx_event_create(ddp->buckets.device, &f->events[i]));
    for (int i = 0; i < 2 && ddp->goes_by_parts; i++) {
        const hx_dtype dtype = i == 1 ? HX_F64 : ddp->is_compressed ? HX_BF16 : HX_F32;
        const hx_shape shape = HX_SHAPE(largest[i] * ddp->n_rounds_sent);
        if (largest[i] > 0) HX_TRY(hx_tensor_create_in(ddp->buckets.device, HX_POOL_COMM, dtype, shape, &f->received[i]));
    }
    if (!ddp->is_compressed || largest[0] == 0) return HX_OK;
    return hx_tensor_create_in(ddp->buckets.device, HX_POOL_COMM, HX_BF16, HX_SHAPE(largest[0]), &f->wire);
}

hx_status hx__exchange_create(hx_ddp *ddp) {
    int64_t largest[2] = {0}, n_bytes = 0; /* elements of buckets in f32 and f64; bytes of any */
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) {
        const hx__bucket *b = &ddp->buckets.items[i];
        const int64_t bytes = b->count * (int64_t)hx_dtype_bytes(b->dtype);
        int64_t *most = &largest[b->dtype == HX_F64];
        if (b->count > *most) *most = b->count;
        if (bytes > n_bytes) n_bytes = bytes;
    }
    ddp->is_windowed = ddp->goes_by_parts || ddp->zero == 2;
    const int64_t n = ddp->is_windowed ? HX__FLIGHTS : ddp->buckets.n_items;
    HX_TRY(hx_mem_alloc_array(n, sizeof *ddp->flights, (void **)&ddp->flights));
    ddp->n_flights = n;
    for (int64_t i = 0; i < n; i++) HX_TRY(create_flight(ddp, &ddp->flights[i], largest));
    if (ddp->zero < 2 && ddp->leaves.n == 0) return HX_OK;
    return hx_tensor_create_in(ddp->buckets.device, HX_POOL_COMM, HX_F64, HX_SHAPE((n_bytes + 7) / 8), &ddp->reserve);
}

void hx__exchange_destroy(hx_ddp *ddp) {
    for (int64_t i = 0; i < ddp->n_flights; i++) {
        hx__flight *f = &ddp->flights[i];
        for (int k = 0; f->events != NULL && k < f->n_events; k++) hx_event_destroy(&f->events[k]);
        hx_mem_free((void **)&f->events);
        hx_tensor_destroy(&f->flat);
        hx_tensor_destroy(&f->wire);
        for (int k = 0; k < 2; k++) hx_tensor_destroy(&f->received[k]);
    }
    hx_mem_free((void **)&ddp->flights);
    hx_tensor_destroy(&ddp->reserve);
}

/* ---- collectives of a flight ---- */

static void enqueue(hx_ddp *ddp, hx__flight *f, hx_comm *comm, const hx_comm_call *call, hx__outcome *first) {
    if (comm == NULL || hx_comm_size(comm) == 1) return;
    const hx_status status = hx__comm_start(comm, call, ddp->stream, f->events[f->n_waiting]);
    hx__outcome_note(first, status);
    if (status != HX_OK) return;
    f->n_waiting++;
    ddp->n_bytes += hx__comm_call_bytes(comm, call);
}

/* The host waits, and with it all that is enqueued later. Were the wait left to a stream that runs behind, the next
 * step could arm an event again before the stream had looked at it. */
static void await(hx_ddp *ddp, hx__flight *f, hx__outcome *first) {
    const double began = hx__times_now();
    for (int i = 0; i < f->n_waiting; i++) hx__outcome_note(first, hx_event_sync(f->events[i]));
    f->n_waiting = 0;
    ddp->wait_s += hx__times_now() - began;
}

/* ---- pieces of buffers ---- */

static void *at(hx_tensor *x, int64_t index) {
    return (char *)hx_tensor_data(x) + index * (int64_t)hx_dtype_bytes(hx_tensor_dtype(x));
}

/* Bytes to send, also where a failure left nothing to be sent. */
static void *data_of(const hx_ddp *ddp, hx_tensor *x) { return hx_tensor_data(x != NULL ? x : ddp->reserve); }

hx_tensor *hx__exchange_sums(const hx_ddp *ddp, const hx__bucket *b) {
    if (ddp->leaves.n > 0) return b->tree.n_nodes == 1 ? b->tree.nodes[0].sum : NULL;
    return ddp->zero == 2 ? b->shard : b->flat;
}

/* Of which this rank's part begins at: */
static int64_t own_begin(const hx_ddp *ddp, const hx__bucket *b) { return ddp->zero == 2 ? 0 : part_of(ddp) * b->share; }

static hx_status part(hx_tensor *x, int64_t begin, int64_t count, hx_tensor **out) { return hx_tensor_window(x, begin, HX_SHAPE(count), out); }

static bool is_compressed(const hx_ddp *ddp, const hx__bucket *b) { return ddp->is_compressed && b->dtype == HX_F32; }

static bool is_last_round(const hx_ddp *ddp, int64_t flight) {
    return ddp->zero < 2 || flight / ddp->buckets.n_items == ddp->n_rounds - 1;
}

/* ---- 1: sent ---- */

/* Once a step, on the sums of the dp ranks: all of them, or this rank's share. */
static void send_sums(hx_ddp *ddp, const hx__bucket *b, hx__flight *f, void *data, int64_t count, hx__outcome *first) {
    const hx_comm_call call = {.kind = HX_COLL_ALL_REDUCE, .data = data, .count = count, .dtype = b->dtype};
    if (ddp->zero > 0) enqueue(ddp, f, ddp->between, &call, first);
    if (b->is_partial) enqueue(ddp, f, ddp->tp, &call, first);
}

static void send_whole(hx_ddp *ddp, const hx__bucket *b, hx__flight *f, hx__outcome *first) {
    hx_tensor *x = ddp->zero == 2 ? f->flat : hx__exchange_sums(ddp, b);
    char *data = data_of(ddp, x);
    const hx_comm_call reduce = {.kind = HX_COLL_ALL_REDUCE, .data = data, .count = b->count, .dtype = b->dtype};
    const hx_comm_call scatter = {.kind = HX_COLL_REDUCE_SCATTER, .data = data, .count = b->share, .dtype = b->dtype};
    enqueue(ddp, f, ddp->zero > 0 ? ddp->inside : ddp->dp, ddp->zero > 0 ? &scatter : &reduce, first);
    if (ddp->zero == 0) send_sums(ddp, b, f, data, b->count, first);
    if (ddp->zero == 1) send_sums(ddp, b, f, data + own_begin(ddp, b) * (int64_t)hx_dtype_bytes(b->dtype), b->share, first);
}

static hx_status compress(hx_ddp *ddp, const hx__bucket *b, hx__flight *f, hx_tensor *x) {
    HX_AUTO_TENSOR wire = NULL;
    if (x == NULL) return HX_OK; /* told already */
    HX_TRY(part(f->wire, 0, b->count, &wire));
    return hx_copy_into(&ddp->ctx, x, wire);
}

static void send_parts(hx_ddp *ddp, const hx__bucket *b, hx__flight *f, hx__outcome *first) {
    const bool is_narrow = is_compressed(ddp, b), is_f64 = b->dtype == HX_F64;
    const int n_sent = ddp->zero == 2 ? 1 : ddp->n_rounds_sent;
    hx_tensor *x = ddp->zero == 2 ? f->flat : b->flat;
    if (is_narrow) hx__outcome_note(first, compress(ddp, b, f, x));
    for (int i = 0; i < n_sent; i++) {
        if (ddp->leaves.n > 0 && ddp->zero < 2) x = i < b->tree.n_nodes ? b->tree.nodes[i].sum : NULL;
        const hx_comm_call call = {.kind = HX_COLL_ALL_TO_ALL, .source = is_narrow ? hx_tensor_data(f->wire) : data_of(ddp, x),
                                   .data = at(f->received[is_f64], i * b->count), .count = b->share,
                                   .dtype = hx_tensor_dtype(f->received[is_f64])};
        enqueue(ddp, f, ddp->dp, &call, first);
    }
}

/* ---- 2: summed ---- */

/* sum = or += x */
static hx_status add_up(hx_ddp *ddp, hx_tensor *x, bool is_first, hx_tensor *sum) {
    return is_first ? hx_copy_into(&ddp->ctx, x, sum) : hx__tree_add(&ddp->ctx, sum, x);
}

/* ZeRO 2, whole: this rank's share of a micro-batch's sums, or of as many leaves as there are ranks. */
static hx_status take_share(hx_ddp *ddp, hx__bucket *b, hx__flight *f, int64_t round) {
    HX_AUTO_TENSOR own = NULL;
    if (f->flat == NULL) return HX_OK; /* told already */
    HX_TRY(part(f->flat, part_of(ddp) * b->share, b->share, &own));
    if (ddp->leaves.n == 0) return add_up(ddp, own, round == 0, b->shard);
    return hx__tree_push(&b->tree, &ddp->ctx, 0, round, own); /* the tree above the ranks: its leaves are rounds */
}

/* Elastic ZeRO 2: leaf `round` x size + r came from rank r. */
static hx_status take_leaves(hx_ddp *ddp, hx__bucket *b, hx_tensor *received, int64_t round) {
    const int size = hx_comm_size(ddp->dp);
    for (int64_t r = 0; r < size && round * size + r < ddp->leaves.n; r++) {
        HX_AUTO_TENSOR leaf = NULL;
        HX_TRY(part(received, r * b->share, b->share, &leaf));
        HX_TRY(hx__tree_push(&b->tree, &ddp->ctx, 0, round * size + r, leaf));
    }
    return HX_OK;
}

/* Elastic, all leaves at once: rank r has sent the pieces of its range, from left to right. */
static hx_status join_pieces(hx_ddp *ddp, const hx__bucket *b, hx_tensor *received, hx__tree *tree) {
    for (int r = 0; r < hx_comm_size(ddp->dp); r++) {
        const hx_leaves theirs = {.n = ddp->leaves.n, .rank = r, .size = ddp->leaves.size};
        hx__node pieces[HX__TREE_NODES];
        const int64_t begin = hx_leaves_at(&theirs, 0);
        const int n = hx__tree_pieces(begin, begin + hx_leaves_count(&theirs), pieces);
        for (int i = 0; i < n; i++) {
            hx_tensor *piece = NULL;
            HX_TRY(part(received, i * b->count + r * b->share, b->share, &piece));
            HX_TRY(hx__tree_push_consume(tree, &ddp->ctx, pieces[i].level, pieces[i].index, &piece));
        }
    }
    return HX_OK;
}

static hx_status sum_pieces(hx_ddp *ddp, hx__bucket *b, hx_tensor *received) {
    HX_CLEANUP(hx__tree_destroy) hx__tree tree = {.n_nodes = 0};
    HX_AUTO_TENSOR own = NULL;
    if (b->tree.n_nodes == 0) return HX_OK; /* told already */
    HX_TRY(join_pieces(ddp, b, received, &tree));
    while (b->tree.n_nodes > 1) hx__tree_give_consume(&b->tree, &b->tree.nodes[--b->tree.n_nodes].sum); /* they have been sent */
    HX_TRY(part(b->tree.nodes[0].sum, own_begin(ddp, b), b->share, &own));
    return hx_copy_into(&ddp->ctx, tree.nodes[0].sum, own);
}

/* Compressed: parts of all ranks in the order of ranks. A flat that has been sent is room for them. */
static hx_status sum_narrow(hx_ddp *ddp, hx__bucket *b, hx__flight *f, int64_t round) {
    hx_tensor *flat = ddp->zero == 2 ? f->flat : b->flat;
    HX_AUTO_TENSOR all = NULL;
    HX_AUTO_TENSOR sum = NULL;
    HX_AUTO_TENSOR own = NULL;
    if (flat == NULL) return HX_OK; /* told already */
    HX_TRY(part(f->received[b->dtype == HX_F64], 0, b->count, &all));
    HX_TRY(hx_copy_into(&ddp->ctx, all, flat));
    HX_TRY(part(flat, 0, b->share, &sum));
    for (int64_t r = 1; r < hx_comm_size(ddp->dp); r++) {
        HX_AUTO_TENSOR theirs = NULL;
        HX_TRY(part(flat, r * b->share, b->share, &theirs));
        HX_TRY(add_up(ddp, theirs, false, sum));
    }
    if (ddp->zero == 2) return add_up(ddp, sum, round == 0, b->shard);
    if (part_of(ddp) == 0) return HX_OK;
    HX_TRY(part(flat, own_begin(ddp, b), b->share, &own));
    return hx_copy_into(&ddp->ctx, sum, own);
}

static hx_status sum(hx_ddp *ddp, hx__bucket *b, hx__flight *f, int64_t round) {
    hx_tensor *received = f->received[b->dtype == HX_F64];
    if (!ddp->goes_by_parts) return ddp->zero == 2 ? take_share(ddp, b, f, round) : HX_OK;
    if (ddp->leaves.n == 0) return sum_narrow(ddp, b, f, round);
    return ddp->zero == 2 ? take_leaves(ddp, b, received, round) : sum_pieces(ddp, b, received);
}

/* Every rank gets all sums: of compressed buckets as they are in bf16, on their owner too. */
static void send_gather(hx_ddp *ddp, const hx__bucket *b, hx__flight *f, hx_tensor *sums, hx__outcome *first) {
    hx_comm_call call = {.kind = HX_COLL_ALL_GATHER, .data = data_of(ddp, sums), .count = b->share, .dtype = b->dtype};
    if (is_compressed(ddp, b)) {
        HX_AUTO_TENSOR from = NULL;
        HX_AUTO_TENSOR to = NULL;
        await(ddp, f, first); /* for tensor-parallel ranks, whose sum is rounded */
        hx_status status = part(sums, own_begin(ddp, b), b->share, &from);
        if (status == HX_OK) status = part(f->wire, own_begin(ddp, b), b->share, &to);
        if (status == HX_OK) status = hx_copy_into(&ddp->ctx, from, to);
        hx__outcome_note(first, status);
        call.data = hx_tensor_data(f->wire);
        call.dtype = HX_BF16;
    }
    enqueue(ddp, f, ddp->dp, &call, first);
}

static void sum_next(hx_ddp *ddp, hx__outcome *first) {
    const int64_t number = ddp->n_summed++;
    hx__flight *f = &ddp->flights[number % ddp->n_flights];
    hx__bucket *b = &ddp->buckets.items[f->bucket];
    const bool sends_more = (ddp->goes_by_parts || ddp->zero == 2) && is_last_round(ddp, number);
    await(ddp, f, first);
    hx__outcome_note(first, sum(ddp, b, f, number / ddp->buckets.n_items));
    hx_tensor_destroy(&f->flat);
    if (!sends_more) return;
    hx_tensor *sums = hx__exchange_sums(ddp, b);
    send_sums(ddp, b, f, sums != NULL ? at(sums, own_begin(ddp, b)) : data_of(ddp, NULL), b->share, first);
    if (ddp->zero == 0) send_gather(ddp, b, f, sums, first);
}

/* ---- 3: settled ---- */

static hx_status widen(hx_ddp *ddp, const hx__bucket *b, hx__flight *f) {
    HX_AUTO_TENSOR wire = NULL;
    HX_TRY(part(f->wire, 0, b->count, &wire));
    return hx_copy_into(&ddp->ctx, wire, b->flat);
}

static void settle_next(hx_ddp *ddp, hx__outcome *first) {
    hx__flight *f = &ddp->flights[ddp->n_settled++ % ddp->n_flights];
    const hx__bucket *b = &ddp->buckets.items[f->bucket];
    await(ddp, f, first);
    if (ddp->zero == 0 && is_compressed(ddp, b)) hx__outcome_note(first, widen(ddp, b, f));
}

void hx__exchange_send(hx_ddp *ddp, hx__bucket *b, hx__outcome *first) {
    while (ddp->is_windowed && ddp->n_sent - ddp->n_summed >= HX__FLIGHTS / 2) sum_next(ddp, first);
    while (ddp->is_windowed && ddp->n_sent - ddp->n_settled >= HX__FLIGHTS) settle_next(ddp, first);
    hx__flight *f = &ddp->flights[ddp->n_sent++ % ddp->n_flights];
    f->bucket = b - ddp->buckets.items;
    if (ddp->zero == 2) f->flat = hx_tensor_move(&b->flat);
    if (ddp->goes_by_parts) send_parts(ddp, b, f, first);
    else send_whole(ddp, b, f, first);
}

/* What the events of a device do not tell. */
static void note_failures(const hx_ddp *ddp, hx__outcome *first) {
    hx_comm *const comms[] = {ddp->dp, ddp->inside, ddp->between, ddp->tp};
    for (size_t i = 0; i < sizeof comms / sizeof *comms; i++)
        if (comms[i] != NULL) hx__outcome_note(first, hx_comm_failure(comms[i]));
}

void hx__exchange_finish(hx_ddp *ddp, hx__outcome *first) {
    while (ddp->n_summed < ddp->n_sent) sum_next(ddp, first);
    while (ddp->n_settled < ddp->n_sent) settle_next(ddp, first);
    ddp->n_sent = ddp->n_summed = ddp->n_settled = 0;
    note_failures(ddp, first);
}

void hx__exchange_values(hx_ddp *ddp, hx__outcome *first) {
    for (int64_t i = 0; i < ddp->buckets.n_items; i++) {
        const hx__bucket *b = &ddp->buckets.items[i];
        hx__flight *f = &ddp->flights[i % ddp->n_flights];
        await(ddp, f, first);
        enqueue(ddp, f, ddp->inside,
                &(hx_comm_call){.kind = HX_COLL_ALL_GATHER, .data = hx_tensor_data(b->values), .count = b->share, .dtype = b->value_dtype}, first);
    }
    for (int64_t i = 0; i < ddp->n_flights; i++) await(ddp, &ddp->flights[i], first);
    note_failures(ddp, first);
}
