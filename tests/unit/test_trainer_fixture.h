/* A trainer over samples in memory, with everything that happened written down. */
#ifndef HX_TESTS_UNIT_TEST_TRAINER_FIXTURE_H
#define HX_TESTS_UNIT_TEST_TRAINER_FIXTURE_H

#include "core/train/trainer.h"
#include "tests/unit/test_layer_fixture.h"

/* Samples of n_in and n_out numbers (or class ids), dealt out in order, again and again. */
typedef struct samples {
    hx_batch_source source;
    int64_t n, n_in, n_out, batch, micro;
    const double *x;          /* [n,n_in] */
    const double *y;          /* [n,n_out], or NULL */
    const int32_t *ids;       /* [n]: targets are class ids [B] instead of y */
    int64_t nan_from, nan_to; /* cursors of which the first input is NaN */
    int64_t fail_at;          /* cursor at which get fails; -1: never */
    bool wraps;
    hx_tensor *input, *target;
} samples;

__attribute__((unused)) static int64_t share_of(const samples *s, int64_t cursor) {
    return s->wraps || s->n - cursor > s->batch ? s->batch : s->n - cursor;
}

__attribute__((unused)) static hx_status samples_n_micro(void *self, int64_t cursor, int64_t *out) {
    const samples *s = self;
    *out = (share_of(s, cursor) + s->micro - 1) / s->micro;
    return HX_OK;
}

__attribute__((unused)) static hx_status samples_get(void *self, int64_t cursor, int64_t index, hx_stream *st,
                                                     hx_batch *out) {
    samples *s = self;
    const int64_t left = share_of(s, cursor) - index * s->micro, B = left < s->micro ? left : s->micro;
    double *x = malloc(sizeof *x * (size_t)(B * s->n_in)), *y = malloc(sizeof *y * (size_t)(B * s->n_out));
    int32_t *ids = malloc(sizeof *ids * (size_t)B);
    for (int64_t b = 0; b < B; b++) {
        const int64_t i = (cursor + index * s->micro + b) % s->n;
        memcpy(x + b * s->n_in, s->x + i * s->n_in, sizeof *x * (size_t)s->n_in);
        if (s->y != NULL) memcpy(y + b * s->n_out, s->y + i * s->n_out, sizeof *y * (size_t)s->n_out);
        if (s->ids != NULL) ids[b] = s->ids[i];
    }
    if (cursor >= s->nan_from && cursor < s->nan_to) x[0] = NAN;
    hx_tensor_destroy(&s->input);
    hx_tensor_destroy(&s->target);
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_tensor_create(dev, HX_F64, HX_SHAPE(B, s->n_in), &s->input), done);
    HX_TRY_GOTO(hx_tensor_write(st, s->input, x), done);
    if (s->ids != NULL)
        HX_TRY_GOTO(hx_tensor_create(dev, HX_I32, HX_SHAPE(B), &s->target), done);
    else
        HX_TRY_GOTO(hx_tensor_create(dev, HX_F64, HX_SHAPE(B, s->n_out), &s->target), done);
    HX_TRY_GOTO(hx_tensor_write(st, s->target, s->ids ? (const void *)ids : (const void *)y), done);
    *out = (hx_batch){s->input, s->target, B, index * s->micro};
    if (cursor == s->fail_at) status = HX_FAIL(HX_ERR_IO, "sample %lld is unreadable", (long long)cursor);
done:
    free(x);
    free(y);
    free(ids);
    return status;
}

__attribute__((unused)) static void samples_open(samples *s) {
    if (s->n_out == 0) s->n_out = 1;
    if (s->micro == 0) s->micro = s->batch;
    if (s->nan_to == 0) s->nan_from = -1;
    if (s->fail_at == 0) s->fail_at = -1;
    s->source = (hx_batch_source){
        .self = s, .n_global = s->n, .batch = s->batch, .n_micro = samples_n_micro, .get = samples_get};
}

__attribute__((unused)) static void samples_close(samples *s) {
    hx_tensor_destroy(&s->input);
    hx_tensor_destroy(&s->target);
}

__attribute__((unused)) static hx_status sample_count(hx_ctx *c, int64_t n, hx_tensor **count) {
    HX_TRY(hx_tensor_create(c->device, HX_I64, HX_SCALAR, count));
    return hx_tensor_fill(c->stream, *count, (double)n);
}

/* sum (f(x) - y)^2, counted per sample */
__attribute__((unused)) static hx_status square_loss(void *self, hx_ctx *c, const hx_batch *batch,
                                                     hx_tensor **loss, hx_tensor **count) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR d = NULL;
    HX_AUTO_TENSOR dd = NULL;
    HX_TRY(hx_layer_forward(self, c, batch->input, &y));
    HX_TRY(hx_sub(c, y, batch->target, &d));
    HX_TRY(hx_mul(c, d, d, &dd));
    HX_TRY(hx_sum(c, dd, NULL, 0, false, loss));
    return sample_count(c, batch->n_samples, count);
}

/* sum f(x) y, whose gradient is known at sight */
__attribute__((unused)) static hx_status dot_loss(void *self, hx_ctx *c, const hx_batch *batch,
                                                  hx_tensor **loss, hx_tensor **count) {
    HX_AUTO_TENSOR y = NULL;
    HX_AUTO_TENSOR d = NULL;
    HX_TRY(hx_layer_forward(self, c, batch->input, &y));
    HX_TRY(hx_mul(c, y, batch->target, &d));
    HX_TRY(hx_sum(c, d, NULL, 0, false, loss));
    return sample_count(c, batch->n_samples, count);
}

/* ---- a whole training ---- */

typedef struct training {
    hx_layer *layer;
    hx_param_list params;
    hx_optim *optim;
    hx_optim_config oc;
    hx_train_config tc;
    hx_trainer_setup setup;
    hx_trainer *trainer;
    hx_train_event events[512];
    char texts[512][160];
    int n_events;
    hx_event_kind fail_on; /* the callback fails at this kind of event, from fail_from on */
    int fail_from;
} training;

__attribute__((unused)) static hx_status write_down(void *self, const hx_train_event *event) {
    training *r = self;
    cr_assert_lt(r->n_events, 512);
    r->events[r->n_events] = *event;
    snprintf(r->texts[r->n_events], sizeof r->texts[0], "%s", event->text ? event->text : "");
    r->n_events++;
    if (r->fail_from > 0 && r->n_events >= r->fail_from && event->kind == r->fail_on)
        return HX_FAIL(HX_ERR_IO, "the log is full");
    return HX_OK;
}

__attribute__((unused)) static int count_events(const training *r, hx_event_kind kind) {
    int n = 0;
    for (int i = 0; i < r->n_events; i++) n += r->events[i].kind == kind;
    return n;
}

__attribute__((unused)) static const hx_train_event *event_of(const training *r, hx_event_kind kind,
                                                              int nth) {
    for (int i = 0; i < r->n_events; i++)
        if (r->events[i].kind == kind && nth-- == 0) return &r->events[i];
    return NULL;
}

/* Defaults that tests then change before training_start: a constant rate and no clipping. */
__attribute__((unused)) static void training_open(training *r, hx_layer *layer, const samples *s) {
    memset(r, 0, sizeof *r);
    r->layer = layer;
    r->oc = (hx_optim_config)HX_OPTIM_DEFAULT;
    r->oc.schedule = 1;
    r->oc.warmup = 0;
    r->oc.clip = 0;
    r->oc.weight_decay = 0;
    r->oc.lr = 0.01;
    r->tc = (hx_train_config)HX_TRAIN_DEFAULT;
    r->tc.eval_every = -1;
    r->tc.patience = 0;
    r->setup = (hx_trainer_setup){.ctx = {.device = dev, .stream = stream, .tape = tape},
                                  .model = {.self = layer, .root = layer, .loss = square_loss},
                                  .optim_config = &r->oc,
                                  .config = &r->tc,
                                  .train = &s->source,
                                  .on_event = write_down,
                                  .on_event_self = r};
    OK(hx_layer_params(layer, &r->params));
}

__attribute__((unused)) static void training_start(training *r) {
    OK(hx_optim_create_default(dev, stream, &r->params, &r->oc, &r->optim));
    r->setup.optim = r->optim;
    OK(hx_trainer_create(&r->setup, &r->trainer));
}

__attribute__((unused)) static void training_close(training *r) {
    hx_trainer_destroy(&r->trainer);
    hx_optim_destroy(&r->optim);
    hx_param_list_destroy(&r->params);
    hx_layer_destroy(&r->layer);
}

/* All parameters one after the other; free with free. */
__attribute__((unused)) static double *weights_of(const training *r) {
    double *all = malloc(sizeof *all * (size_t)(hx_param_list_count(&r->params) + 1));
    int64_t at = 0;
    for (int64_t i = 0; i < r->params.n_items; i++) {
        OK(hx_tensor_read(stream, r->params.items[i]->value, all + at));
        at += hx_tensor_count(r->params.items[i]->value);
    }
    return all;
}

__attribute__((unused)) static hx_layer *linear_layer(int64_t n_in, int64_t n_out, bool bias) {
    hx_layer *layer;
    OK(hx_linear_create(dev, HX_F64, n_in, n_out, bias, &layer));
    init_all(layer, 0.1);
    return layer;
}

#endif
