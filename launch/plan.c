/* 1. a session as the rank would have it, in a dry world on a meta device; 2. model, data, and the training itself, which tells
 * after each stage, and an evaluation; 3. differences between what the allocator, the device and the communicators had counted then.
 * A step of many micro-batches is done with a few: the others repeat the last but one. */
#include "launch/plan.h"

#include "launch/session_impl.h"

/* Counters at one moment; they only rise, but for `live`. */
typedef struct moment {
    int64_t live;
    double flops, moved_bytes;
    hx_comm_dry_count calls[HX_AXIS_COUNT][HX_COLL_KINDS];
} moment;

/* The second finds gradients to add to. ZeRO 2 has sums on their way from up to four micro-batches (dist/dp/exchange.c). */
#define MOST_MICRO 6
static int most_micro(const hx_config *c) { return c->ddp.zero == 2 ? MOST_MICRO : 2; }

typedef struct rehearsal rehearsal;

typedef struct source {
    hx_batch_source inner;
    rehearsal *owner;
} source;

struct rehearsal {
    hx_session *session;
    moment model, data, stages[HX_STAGE_COUNT];
    moment micro[MOST_MICRO]; /* where the micro-batches of the last step began */
    int64_t n_micro, most;    /* of a step, and of a rehearsed one */
    int64_t value_bytes, grad_bytes, buffer_bytes, share_bytes;
    bool is_half; /* a parameter is */
    source train, eval;
};

static void look(const rehearsal *r, moment *out) {
    hx_session *s = r->session;
    hx_device_stats stats;
    hx_device_stats_get(s->device, &stats);
    out->live = stats.live_bytes;
    out->flops = stats.flops;
    out->moved_bytes = (double)*(const int64_t *)hx_device_native(s->device, "moved_bytes", NULL);
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++) hx_comm_dry_counts(hx_mesh_axis(s->mesh, (hx_axis)axis), out->calls[axis]);
}

/* total += n (b - a) */
static void add_difference(hx_plan_use *total, const moment *a, const moment *b, int64_t n) {
    total->flops += (double)n * (b->flops - a->flops);
    total->moved_bytes += (double)n * (b->moved_bytes - a->moved_bytes);
    for (int axis = 0; axis < HX_AXIS_COUNT; axis++)
        for (int kind = 0; kind < HX_COLL_KINDS; kind++) {
            total->calls[axis][kind].n_calls += n * (b->calls[axis][kind].n_calls - a->calls[axis][kind].n_calls);
            total->calls[axis][kind].n_bytes += n * (b->calls[axis][kind].n_bytes - a->calls[axis][kind].n_bytes);
        }
}

/* ---- sources of few micro-batches ---- */

static hx_status count_few(const source *s, int64_t cursor, int64_t *n, int64_t *out) {
    HX_TRY(s->inner.n_micro(s->inner.self, cursor, n));
    *out = *n < s->owner->most ? *n : s->owner->most;
    return HX_OK;
}

static hx_status count_micro(void *self, int64_t cursor, int64_t *out) {
    const source *s = self;
    return count_few(s, cursor, &s->owner->n_micro, out);
}

static hx_status get_micro(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    source *s = self;
    look(s->owner, &s->owner->micro[index]);
    return s->inner.get(s->inner.self, cursor, index, stream, out);
}

static hx_status count_eval(void *self, int64_t cursor, int64_t *out) {
    int64_t n;
    return count_few(self, cursor, &n, out);
}

static hx_status get_eval(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    const source *s = self;
    return s->inner.get(s->inner.self, cursor, index, stream, out);
}

/* Batches are never short: there is no end of an epoch. */
static hx_batch_source shorten(source *s, const hx_batch_source *inner, rehearsal *owner) {
    *s = (source){.inner = *inner, .owner = owner};
    const bool is_train = s == &owner->train;
    return (hx_batch_source){.self = s, .n_global = inner->n_global, .batch = inner->batch,
                             .n_micro = is_train ? count_micro : count_eval, .get = is_train ? get_micro : get_eval};
}

/* ---- the rehearsal ---- */

static int64_t bytes_of(const hx_tensor *x) { return x ? (int64_t)hx_tensor_bytes(x) : 0; }

static void on_stage(void *self, hx_stage stage, const hx_param_list *params) {
    rehearsal *r = self;
    look(r, &r->stages[stage]);
    if (stage != HX_STAGE_FIRST) return;
    for (int64_t i = 0; i < params->n_items; i++) {
        const hx_param *param = params->items[i];
        r->value_bytes += bytes_of(param->value);
        r->is_half = r->is_half || hx_dtype_is_half(hx_tensor_dtype(param->value));
        /* with ZeRO 2 there is no more than the share between steps */
        const hx_tensor *whole = hx_tensor_grad(param->value);
        if (!param->is_frozen) r->grad_bytes += bytes_of(whole ? whole : param->own_grad);
    }
}

static void on_share(void *self, int64_t n_bytes) { ((rehearsal *)self)->share_bytes = n_bytes; }

static hx_status measure_buffers(rehearsal *r, hx_layer *root) {
    hx_param_list buffers = {0};
    HX_TRY(hx_layer_buffers(root, &buffers));
    for (int64_t i = 0; i < buffers.n_items; i++) r->buffer_bytes += bytes_of(buffers.items[i]->value);
    hx_param_list_destroy(&buffers);
    return HX_OK;
}

static hx_status run(rehearsal *r) {
    hx_session *s = r->session;
    hx_model model = {0};
    hx_session_data data = {0};
    hx_batch_source train, eval;
    hx_train_parts parts = {.train = &train};
    const hx_rehearsal told = {.self = r, .reached = on_stage, .shared = on_share};
    hx_status status;
    HX_TRY_GOTO(hx_session_gpt(s, &model), done);
    HX_TRY_GOTO(measure_buffers(r, model.root), done);
    look(r, &r->model);
    HX_TRY_GOTO(hx__session_data_open(s, true, true, false, &data), done);
    look(r, &r->data);
    train = shorten(&r->train, &data.train, r);
    if (data.eval_loader) { /* else nothing is held out */
        eval = shorten(&r->eval, &data.eval, r);
        parts.eval = &eval;
    }
    status = hx__session_rehearse(s, &model, &parts, &told);
done:
    hx__session_data_close(&data);
    hx_layer_destroy(&model.root);
    return status;
}

/* ---- what came out ---- */

/* Without data parallelism nobody communicates gradients, and what is not the values themselves is rounding. With it, parameters and
 * gradients are pieces of buckets, and the rest of these is what communication takes. */
static void divide(const rehearsal *r, hx_plan_use *out) {
    const moment *m = r->stages;
    const int64_t rest = m[HX_STAGE_SECOND].live;
    const bool is_parallel = hx_comm_size(hx_mesh_axis(r->session->mesh, HX_AXIS_DP)) > 1;
    hx_plan_bytes *b = &out->bytes;
    b->buffers = r->data.live - r->model.live + r->buffer_bytes;
    b->optimizer = m[HX_STAGE_OPTIM].live - m[HX_STAGE_SYNC].live;
    b->activations = out->arena - rest;
    b->parameters = is_parallel ? r->value_bytes : r->model.live - r->buffer_bytes;
    b->gradients = is_parallel ? r->grad_bytes : rest - b->buffers - b->optimizer - b->parameters;
    b->communication = rest - b->buffers - b->optimizer - b->parameters - b->gradients;
}

static void collect(const rehearsal *r, hx_plan_use *out) {
    hx_device_stats stats;
    hx_device_stats_get(r->session->device, &stats);
    *out = (hx_plan_use){.rank = hx_comm_rank(r->session->world), .arena = stats.peak_bytes, .held = stats.held_bytes, .is_half = r->is_half};
    if (r->session->config.ckpt.async != 0) out->share = r->share_bytes;
    divide(r, out);
    add_difference(out, &r->stages[HX_STAGE_FIRST], &r->stages[HX_STAGE_SECOND], 1);
    if (r->n_micro > r->most) add_difference(out, &r->micro[r->most - 2], &r->micro[r->most - 1], r->n_micro - r->most);
}

/* What only a run that is really there needs: where it goes on from, how long it lasts, and that copies hold the same. Batches of
 * an evaluation take no more than its first. */
static hx_config rehearsed(const hx_config *config) {
    hx_config c = *config;
    c.run = (hx_run_config)HX_RUN_DEFAULT;
    c.train.check_replicas = 0;
    c.train.eval_batches = 1;
    if (c.train.steps == 0) c.train.steps = 1000000; /* epochs of data that need not be here */
    return c;
}

hx_status hx__plan_rehearse(const hx_config *config, int rank, int size, bool shares_memory, hx_plan_use *out) {
    const hx_config own = rehearsed(config);
    rehearsal r = {.most = most_micro(&own)};
    HX_TRY(hx__session_open_dry(&own, rank, size, shares_memory, &r.session));
    hx_status status = run(&r);
    if (status == HX_OK) collect(&r, out);
    hx_session_close(&r.session);
    return status;
}
