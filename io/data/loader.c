#include "core/base/mem.h"
#include "core/base/rng.h"
#include "io/data/data.h"

#define N_VIEWS 4 /* sizes of micro-batches that are kept: full, the rest of a share, and those of a last batch */

/* The first n samples of the two tensors. */
typedef struct view {
    int64_t n;
    hx_tensor *input, *target; /* owned */
} view;

struct hx_loader {
    hx_loader_config config;
    const uint8_t *bytes; /* of the corpus; borrowed */
    int64_t n_samples;    /* in the split */
    int64_t n_micro_most; /* samples that the tensors have room for */
    hx_tensor *input;     /* [n_micro_most, ctx] i32 */
    hx_tensor *target;    /* [n_micro_most, ctx] i32 */
    int32_t *staging;     /* [n_micro_most * ctx] */
    view views[N_VIEWS];
    int next_view; /* the one that the next new size replaces */
};

/* Samples of the global batch at `cursor`: fewer than configured only at the end of an evaluation. */
static int64_t batch_samples(const hx_loader *l, int64_t cursor) {
    int64_t left = l->n_samples - cursor;
    if (l->config.shuffle || left >= l->config.batch) return l->config.batch;
    return left > 0 ? left : 0;
}

/* Samples [begin, end) of a global batch of n belong to this rank. batch*size was checked to fit. */
static void share(const hx_loader *l, int64_t n, int64_t *begin, int64_t *end) {
    *begin = n * l->config.rank / l->config.size;
    *end = n * (l->config.rank + 1) / l->config.size;
}

static hx_status check_cursor(const hx_loader *l, int64_t cursor) {
    if (cursor < 0 || cursor > INT64_MAX - l->config.batch)
        return HX_FAIL(HX_ERR_ARG, "cursor %lld: expected 0 to 2^63 less a batch", (long long)cursor);
    return HX_OK;
}

static hx_status count_micro(const hx_loader *l, int64_t cursor, int64_t *begin, int64_t *end, int64_t *n_micro) {
    HX_TRY(check_cursor(l, cursor));
    share(l, batch_samples(l, cursor), begin, end);
    *n_micro = (*end - *begin) / l->n_micro_most + ((*end - *begin) % l->n_micro_most != 0);
    return HX_OK;
}

static hx_status loader_n_micro(void *self, int64_t cursor, int64_t *out) {
    int64_t begin, end;
    return count_micro(self, cursor, &begin, &end, out);
}

int64_t hx_loader_offset(const hx_loader *loader, int64_t cursor) {
    int64_t sample = cursor;
    if (loader->config.shuffle) {
        int64_t epoch = cursor / loader->n_samples;
        hx_rng rng = {.seed = loader->config.seed, .stream = hx_rng_stream(HX_RNG_DATA, (uint64_t)epoch)};
        sample = (int64_t)hx_rng_permute(rng, (uint64_t)(cursor % loader->n_samples), (uint64_t)loader->n_samples);
    }
    return loader->config.begin + sample * loader->config.ctx;
}

/* Bytes of n samples from global position `cursor` on, as i32, `shift` bytes further right. */
static hx_status fill(hx_loader *l, int64_t cursor, int64_t n, int shift, hx_stream *stream, hx_tensor *tensor) {
    int64_t ctx = l->config.ctx;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *bytes = l->bytes + hx_loader_offset(l, cursor + i) + shift;
        for (int64_t t = 0; t < ctx; t++) l->staging[i * ctx + t] = bytes[t];
    }
    return hx_tensor_write(stream, tensor, l->staging);
}

static void view_drop(view *v) {
    hx_tensor_destroy(&v->input);
    hx_tensor_destroy(&v->target);
    v->n = 0;
}

/* Training meets two sizes at most, so that after its first step no view is made. */
static hx_status find_view(hx_loader *l, int64_t n, view **out) {
    for (int i = 0; i < N_VIEWS; i++)
        if (l->views[i].n == n) {
            *out = &l->views[i];
            return HX_OK;
        }
    view *v = &l->views[l->next_view];
    view_drop(v);
    HX_TRY(hx_tensor_window(l->input, 0, HX_SHAPE(n, l->config.ctx), &v->input));
    HX_TRY(hx_tensor_window(l->target, 0, HX_SHAPE(n, l->config.ctx), &v->target));
    v->n = n;
    l->next_view = (l->next_view + 1) % N_VIEWS;
    *out = v;
    return HX_OK;
}

static hx_status loader_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    hx_loader *l = self;
    int64_t begin, end, n_micro;
    view *v;
    HX_TRY(count_micro(l, cursor, &begin, &end, &n_micro));
    if (index < 0 || index >= n_micro)
        return HX_FAIL(HX_ERR_ARG, "micro-batch %lld at cursor %lld: expected 0 to %lld", (long long)index,
                       (long long)cursor, (long long)n_micro - 1);
    begin += index * l->n_micro_most;
    int64_t n = end - begin < l->n_micro_most ? end - begin : l->n_micro_most;
    HX_TRY(find_view(l, n, &v));
    HX_TRY(fill(l, cursor + begin, n, 0, stream, v->input));
    HX_TRY(fill(l, cursor + begin, n, 1, stream, v->target));
    *out = (hx_batch){.input = v->input, .target = v->target, .n_samples = n, .sample_base = begin};
    return HX_OK;
}

static hx_status check_config(const hx_loader_config *c, int64_t n_bytes) {
    int64_t product;
    if (c->begin < 0 || c->end < c->begin || c->end > n_bytes)
        return HX_FAIL(HX_ERR_CONFIG, "split of bytes [%lld, %lld): expected it within the %lld bytes of data",
                       (long long)c->begin, (long long)c->end, (long long)n_bytes);
    if (c->ctx < 1 || c->micro_batch < 0)
        return HX_FAIL(HX_ERR_CONFIG, "ctx = %lld, micro_batch = %lld: expected ctx >= 1 and micro_batch >= 0",
                       (long long)c->ctx, (long long)c->micro_batch);
    if (c->size < 1 || c->rank < 0 || c->rank >= c->size)
        return HX_FAIL(HX_ERR_CONFIG, "rank %d of %d: expected 0 <= rank < size", c->rank, c->size);
    if (c->batch < c->size)
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples for %d ranks: expected one per rank at least",
                       (long long)c->batch, c->size);
    if (__builtin_mul_overflow(c->batch, (int64_t)c->size, &product) ||
        __builtin_mul_overflow(c->batch, c->ctx, &product))
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples of %lld tokens is too large", (long long)c->batch,
                       (long long)c->ctx);
    if (c->end - c->begin <= c->ctx)
        return HX_FAIL(HX_ERR_CONFIG, "a split of %lld bytes is shorter than one sample: ctx = %lld tokens and the one "
                       "after them", (long long)(c->end - c->begin), (long long)c->ctx);
    return HX_OK;
}

hx_status hx_loader_create(hx_device *device, const hx_corpus *corpus, const hx_loader_config *config, hx_loader **out) {
    HX_CLEANUP(hx_loader_destroy) hx_loader *l = NULL;
    int64_t n_bytes, most = config->size > 0 ? config->batch / config->size : 0;
    const uint8_t *bytes = hx_corpus_bytes(corpus, &n_bytes);
    HX_TRY(check_config(config, n_bytes));
    most += config->batch % config->size != 0; /* the largest share */
    if (config->micro_batch > 0 && config->micro_batch < most) most = config->micro_batch;
    HX_TRY(hx_mem_alloc_array(1, sizeof *l, (void **)&l));
    l->config = *config;
    l->bytes = bytes;
    l->n_samples = (config->end - config->begin - 1) / config->ctx;
    l->n_micro_most = most;
    HX_TRY(hx_mem_alloc_array(most * config->ctx, sizeof *l->staging, (void **)&l->staging));
    HX_TRY(hx_tensor_create(device, HX_I32, HX_SHAPE(most, config->ctx), &l->input));
    HX_TRY(hx_tensor_create(device, HX_I32, HX_SHAPE(most, config->ctx), &l->target));
    *out = l;
    l = NULL; /* handed on */
    return HX_OK;
}

void hx_loader_destroy(hx_loader **loader) {
    if (!loader || !*loader) return;
    for (int i = 0; i < N_VIEWS; i++) view_drop(&(*loader)->views[i]);
    hx_tensor_destroy(&(*loader)->input);
    hx_tensor_destroy(&(*loader)->target);
    hx_mem_free((void **)&(*loader)->staging);
    hx_mem_free((void **)loader);
}

void hx_loader_source(hx_loader *loader, hx_batch_source *out) {
    *out = (hx_batch_source){.self = loader,
                             .n_global = loader->n_samples,
                             .batch = loader->config.batch,
                             .n_micro = loader_n_micro,
                             .get = loader_get};
}
