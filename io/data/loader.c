#include "core/base/mem.h"
#include "io/data/batch_impl.h"
#include "io/data/data.h"

struct hx_loader {
    hx_loader_config config;
    hx_sampler sampler;
    const uint8_t *bytes;    /* of the corpus; borrowed */
    hx__batch_tensor input;  /* [most, ctx] i32 */
    hx__batch_tensor target; /* [most, ctx] i32 */
};

static hx_status loader_n_micro(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_n_micro(&((hx_loader *)self)->sampler, cursor, out);
}

static hx_status loader_n_samples(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_batch(&((hx_loader *)self)->sampler, cursor, out);
}

int64_t hx_loader_offset(const hx_loader *loader, int64_t cursor) {
    return loader->config.begin + hx_sampler_sample(&loader->sampler, cursor) * loader->config.ctx;
}

/* Bytes of n samples from global position `from` on, as i32, `shift` bytes further right. */
static hx_status fill(hx_loader *l, int64_t from, int64_t n, int shift, hx_stream *stream, hx__batch_tensor *batch,
                      hx_tensor **out) {
    const int64_t ctx = l->config.ctx;
    void *staging;
    HX_TRY(hx__batch_begin(batch, &staging));
    int32_t *ids = staging;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *bytes = l->bytes + hx_loader_offset(l, from + i) + shift;
        for (int64_t t = 0; t < ctx; t++) ids[i * ctx + t] = bytes[t];
    }
    return hx__batch_fill(batch, stream, n, out);
}

static hx_status loader_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    hx_loader *l = self;
    int64_t base, n;
    hx_tensor *input, *target;
    HX_TRY(hx_sampler_micro(&l->sampler, cursor, index, &base, &n));
    HX_TRY(fill(l, cursor + base, n, 0, stream, &l->input, &input));
    HX_TRY(fill(l, cursor + base, n, 1, stream, &l->target, &target));
    *out = (hx_batch){.input = input, .target = target, .n_samples = n, .sample_base = base};
    return HX_OK;
}

static hx_status check_config(const hx_loader_config *c, int64_t n_bytes) {
    int64_t product;
    if (c->begin < 0 || c->end < c->begin || c->end > n_bytes)
        return HX_FAIL(HX_ERR_CONFIG, "split of bytes [%lld, %lld): expected it within the %lld bytes of data",
                       (long long)c->begin, (long long)c->end, (long long)n_bytes);
    if (c->ctx < 1) return HX_FAIL(HX_ERR_CONFIG, "ctx = %lld: expected ctx >= 1", (long long)c->ctx);
    if (c->batch > 0 && __builtin_mul_overflow(c->batch, c->ctx, &product))
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples of %lld tokens is too large", (long long)c->batch,
                       (long long)c->ctx);
    if (c->end - c->begin <= c->ctx)
        return HX_FAIL(HX_ERR_CONFIG, "a split of %lld bytes is shorter than one sample: ctx = %lld tokens and the one "
                       "after them", (long long)(c->end - c->begin), (long long)c->ctx);
    return HX_OK;
}

hx_status hx_loader_create(hx_device *device, const hx_corpus *corpus, const hx_loader_config *config, hx_loader **out) {
    HX_CLEANUP(hx_loader_destroy) hx_loader *l = NULL;
    int64_t n_bytes;
    const uint8_t *bytes = hx_corpus_bytes(corpus, &n_bytes);
    HX_TRY(check_config(config, n_bytes));
    HX_TRY(hx_mem_alloc_array(1, sizeof *l, (void **)&l));
    l->config = *config;
    l->bytes = bytes;
    l->sampler = (hx_sampler){.n_samples = (config->end - config->begin - 1) / config->ctx,
                              .batch = config->batch,
                              .micro_batch = config->micro_batch,
                              .shuffle = config->shuffle,
                              .last = config->last,
                              .seed = config->seed,
                              .rank = config->rank,
                              .size = config->size};
    HX_TRY(hx_sampler_check(&l->sampler));
    const hx_shape shape = HX_SHAPE(hx_sampler_most(&l->sampler), config->ctx);
    HX_TRY(hx__batch_create(device, HX_I32, shape, &l->input));
    HX_TRY(hx__batch_create(device, HX_I32, shape, &l->target));
    *out = l;
    l = NULL; /* handed on */
    return HX_OK;
}

void hx_loader_destroy(hx_loader **loader) {
    if (!loader || !*loader) return;
    hx__batch_destroy(&(*loader)->input);
    hx__batch_destroy(&(*loader)->target);
    hx_mem_free((void **)loader);
}

void hx_loader_source(hx_loader *loader, hx_batch_source *out) {
    *out = (hx_batch_source){.self = loader,
                             .n_global = hx_sampler_epoch(&loader->sampler),
                             .batch = loader->config.batch,
                             .n_samples = loader->config.last == HX_LAST_SHORT ? loader_n_samples : NULL,
                             .n_micro = loader_n_micro,
                             .get = loader_get};
}
