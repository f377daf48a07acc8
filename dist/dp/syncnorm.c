/* All exchanges are of one kind and size, so that a rank which does not know where the others are can answer:
 *   table [size, 1 + widest] f64, a row of each rank; its first number says what the others may do with it:
 *       0  nothing: the rank has no batch left      1  it is at work      2 + k  and this moves layer k's running statistics
 *   hx_sync_norm_finish goes on until all first numbers are 0. */
#include "dist/dp/syncnorm.h"

#include "core/base/mem.h"
#include "dist/comm/comm_impl.h"

enum { IS_DONE, IS_AT_WORK, FIRST_LAYER };

struct hx_sync_norm {
    hx_comm *comm;
    hx_batch_sync hook;
    hx_layer **layers; /* that are batch norms; owned list */
    int64_t n_layers, capacity;
    int64_t widest;   /* numbers in a row of the widest layer */
    hx_tensor *table; /* [size, 1 + widest], owned: made before the first exchange, so that a rank which is short of memory can answer */
    hx_tensor *mine;  /* its row of this rank; owned */
    double *copy;     /* of the table, on the host; owned */
    hx_grad_sync inner;
    bool is_last;        /* the micro-batch that goes on is this rank's last */
    hx_tensor **ready;   /* leaves whose gradients are final, retained; owned list */
    int64_t n_ready, ready_capacity;
};

/* ---- the exchange ---- */

static int64_t row_width(const hx_sync_norm *s) { return 1 + s->widest; }

/* Collective. This rank's row is in the table. */
static hx_status exchange(const hx_sync_norm *s, hx_stream *stream) {
    return hx_comm_all_gather(s->comm, hx_tensor_data(s->table), row_width(s), HX_F64, stream, NULL);
}

static hx_status write_row(const hx_sync_norm *s, hx_ctx *ctx, int state, hx_tensor *row) {
    HX_AUTO_TENSOR first = NULL;
    HX_AUTO_TENSOR body = NULL;
    HX_TRY(hx_tensor_window(s->mine, 0, HX_SCALAR, &first));
    HX_TRY(hx_tensor_window(s->mine, 1, hx_tensor_shape(row), &body));
    HX_TRY(hx_tensor_fill(ctx->stream, s->mine, 0));
    HX_TRY(hx_tensor_fill(ctx->stream, first, state));
    return hx_copy_into(ctx, row, body);
}

/* What is given is a part of the table, which the next exchange writes anew. */
static hx_status gather(void *self, hx_ctx *ctx, int which, hx_tensor *row, hx_tensor **all) {
    const hx_sync_norm *s = self;
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(write_row(s, &quiet, which < 0 ? IS_AT_WORK : FIRST_LAYER + which, row));
    HX_TRY(exchange(s, ctx->stream));
    return hx_tensor_slice(s->table, 1, 1, 1 + hx_tensor_count(row), 1, all);
}

/* What the others are at: the largest of their first numbers. They are at the same, or done. */
static hx_status read_state(const hx_sync_norm *s, hx_stream *stream, int *state) {
    HX_TRY(hx_tensor_read(stream, s->table, s->copy));
    *state = IS_DONE;
    for (int64_t rank = 0; rank < hx_comm_size(s->comm); rank++) {
        const double theirs = s->copy[rank * row_width(s)];
        if (theirs > *state) *state = (int)theirs;
    }
    return HX_OK;
}

static hx_status follow(const hx_sync_norm *s, hx_ctx *ctx, int which) {
    HX_AUTO_TENSOR rows = NULL;
    hx_layer *layer = s->layers[which];
    HX_TRY(hx_tensor_slice(s->table, 1, 1, 2 + 2 * hx_batchnorm_channels(layer), 1, &rows));
    return hx_batchnorm_follow(layer, ctx, rows);
}

hx_status hx_sync_norm_finish(hx_sync_norm *s, hx_stream *stream) {
    hx_ctx ctx = {.device = hx_stream_device(stream), .stream = stream};
    hx__outcome first = {.status = HX_OK};
    for (int state = s->n_layers > 0 ? IS_AT_WORK : IS_DONE; state != IS_DONE;) {
        HX_TRY(hx_tensor_fill(stream, s->mine, IS_DONE));
        HX_TRY(exchange(s, stream));
        HX_TRY(read_state(s, stream, &state));
        if (state >= FIRST_LAYER) hx__outcome_note(&first, follow(s, &ctx, state - FIRST_LAYER));
    }
    return hx_error_adopt(first.status, first.message);
}

/* ---- making ---- */

static hx_status find_layers(hx_sync_norm *s, hx_layer *layer) {
    const int64_t n_channels = hx_batchnorm_channels(layer);
    if (n_channels > 0) {
        HX_TRY(hx_mem_grow((void **)&s->layers, &s->capacity, s->n_layers + 1, sizeof(hx_layer *)));
        HX_TRY(hx_batchnorm_set_sync(layer, &s->hook, (int)s->n_layers));
        s->layers[s->n_layers++] = layer;
        if (1 + 2 * n_channels > s->widest) s->widest = 1 + 2 * n_channels;
    }
    for (int i = 0; i < layer->n_children; i++) HX_TRY(find_layers(s, layer->children[i]));
    return HX_OK;
}

/* On the device of the layers. */
static hx_status create_table(hx_sync_norm *s) {
    const int64_t n_ranks = hx_comm_size(s->comm), width = row_width(s);
    if (s->n_layers == 0) return HX_OK;
    hx_device *device = hx_tensor_device(s->layers[0]->buffers[0]->value);
    HX_TRY(hx_mem_alloc_array(n_ranks * width, sizeof *s->copy, (void **)&s->copy));
    HX_TRY(hx_tensor_create(device, HX_F64, HX_SHAPE(n_ranks, width), &s->table));
    return hx_tensor_window(s->table, hx_comm_rank(s->comm) * width, HX_SHAPE(width), &s->mine);
}

hx_status hx_sync_norm_create(hx_comm *dp, hx_layer *root, hx_sync_norm **out) {
    HX_CLEANUP(hx_sync_norm_destroy) hx_sync_norm *s = NULL;
    HX_TRY(hx_mem_alloc_array(1, sizeof *s, (void **)&s));
    s->comm = dp;
    s->hook = (hx_batch_sync){.self = s, .gather = gather};
    HX_TRY(find_layers(s, root));
    HX_TRY(create_table(s));
    *out = s;
    s = NULL;
    return HX_OK;
}

static void forget_ready(hx_sync_norm *s) {
    for (int64_t i = 0; i < s->n_ready; i++) hx_tensor_destroy(&s->ready[i]);
    s->n_ready = 0;
}

void hx_sync_norm_destroy(hx_sync_norm **norm) {
    hx_sync_norm *s = *norm;
    if (s == NULL) return;
    for (int64_t i = 0; i < s->n_layers; i++) (void)hx_batchnorm_set_sync(s->layers[i], NULL, 0); /* it is of that type */
    forget_ready(s);
    hx_mem_free((void **)&s->ready);
    hx_mem_free((void **)&s->layers);
    hx_tensor_destroy(&s->mine);
    hx_tensor_destroy(&s->table);
    hx_mem_free((void **)&s->copy);
    hx_mem_free((void **)norm);
}

/* ---- around a gradient synchronisation ---- */

static hx_status start(void *self, int64_t n_micro) {
    const hx_grad_sync *inner = &((hx_sync_norm *)self)->inner;
    return inner->start(inner->self, n_micro);
}

/* None of them is the last as far as sending goes. */
static hx_status begin(void *self, bool is_last) {
    hx_sync_norm *s = self;
    s->is_last = is_last;
    return s->inner.begin(s->inner.self, false);
}

static hx_status ready(void *self, hx_tensor *leaf) {
    hx_sync_norm *s = self;
    if (!s->is_last) return HX_OK;
    HX_TRY(hx_mem_grow((void **)&s->ready, &s->ready_capacity, s->n_ready + 1, sizeof(hx_tensor *)));
    s->ready[s->n_ready++] = hx_tensor_retain(leaf);
    return HX_OK;
}

static hx_status finish(void *self, hx_stream *stream, bool partial) {
    hx_sync_norm *s = self;
    hx__outcome first = {.status = HX_OK};
    hx__outcome_note(&first, hx_sync_norm_finish(s, stream));
    hx__outcome_note(&first, s->inner.begin(s->inner.self, true));
    for (int64_t i = 0; i < s->n_ready; i++) hx__outcome_note(&first, s->inner.ready(s->inner.self, s->ready[i]));
    forget_ready(s);
    hx__outcome_note(&first, s->inner.finish(s->inner.self, stream, partial));
    return hx_error_adopt(first.status, first.message);
}

static hx_status updated(void *self, hx_stream *stream) {
    const hx_grad_sync *inner = &((hx_sync_norm *)self)->inner;
    return inner->updated(inner->self, stream);
}

static void stats(void *self, double *wait_s, int64_t *n_bytes) {
    const hx_grad_sync *inner = &((hx_sync_norm *)self)->inner;
    inner->stats(inner->self, wait_s, n_bytes);
}

hx_status hx_sync_norm_hook(hx_sync_norm *norm, hx_grad_sync *sync) {
    if (norm->n_layers == 0) return HX_OK;
    if (sync->leaves.n > 0)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "batch norm over ranks with elastic sums of %lld leaves: expected one of the two", (long long)sync->leaves.n);
    if (sync->place != NULL)
        return HX_FAIL(HX_ERR_UNSUPPORTED, "batch norm over ranks with gradients that are sent after every micro-batch, as ddp.zero = 2 does: expected 0 or 1");
    norm->inner = *sync;
    *sync = (hx_grad_sync){.self = norm, .start = sync->start != NULL ? start : NULL, .begin = begin, .ready = ready, .finish = finish,
                           .updated = sync->updated != NULL ? updated : NULL, .stats = sync->stats != NULL ? stats : NULL};
    return HX_OK;
}
