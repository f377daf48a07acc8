#include "core/base/mem.h"
#include "io/data/ahead_impl.h"
#include "io/data/batch_impl.h"
#include "io/data/data.h"

#include <string.h>

#define HX_OPTION_OWNER hx_data_config
const hx_option hx_data_options[] = HX_OPTIONS_TABLE(HX_DATA_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_data_n_options = sizeof hx_data_options / sizeof *hx_data_options;

struct hx_loader {
    hx_loader_config config;
    hx_sampler sampler;
    hx_loader_part *parts; /* [n_sources]; owned */
    int64_t *sizes;        /* [n_sources] samples of each; owned */
    uint64_t *sums;        /* [n_sources+1] of weights; owned */
    hx__ahead *ahead;      /* of [2, n, ctx] i32: inputs, targets */
    hx__batch_tensor input;  /* [most, ctx] i32 */
    hx__batch_tensor target; /* [most, ctx] i32 */
};

static hx_status loader_n_micro(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_n_micro(&((hx_loader *)self)->sampler, cursor, out);
}

static hx_status loader_n_samples(void *self, int64_t cursor, int64_t *out) {
    return hx_sampler_batch(&((hx_loader *)self)->sampler, cursor, out);
}

void hx_loader_find(const hx_loader *loader, int64_t position, int *part, int64_t *at) {
    int64_t sample;
    hx_sampler_find(&loader->sampler, position, part, &sample, NULL);
    *at = loader->parts[*part].begin + sample * loader->config.ctx;
}

/* ---- on the thread ---- */

static hx_status make_sample(const hx_loader *l, int64_t position, int32_t *input, int32_t *target) {
    const int64_t ctx = l->config.ctx;
    int part;
    int64_t at;
    hx_loader_find(l, position, &part, &at);
    const hx_tokens *tokens = l->parts[part].tokens;
    HX_TRY(hx_tokens_read(tokens, at, ctx, input));
    memcpy(target, input + 1, (size_t)(ctx - 1) * sizeof *target);
    HX_TRY(hx_tokens_read(tokens, at + ctx, 1, target + ctx - 1));
    return hx_tokens_mask(tokens, at + 1, ctx, target);
}

static hx_status make_micro(void *self, int64_t cursor, int64_t index, void *memory) {
    const hx_loader *l = self;
    const int64_t ctx = l->config.ctx;
    int32_t *ids = memory;
    int64_t base, n;
    HX_TRY(hx_sampler_micro(&l->sampler, cursor, index, &base, &n));
    for (int64_t i = 0; i < n; i++) HX_TRY(make_sample(l, cursor + base + i, ids + i * ctx, ids + (n + i) * ctx));
    return HX_OK;
}

/* An evaluation begins again at 0. */
static void guess(void *self, int64_t cursor, int64_t *n_micro, int64_t *next_cursor) {
    const hx_sampler *s = &((const hx_loader *)self)->sampler;
    int64_t n = 0;
    *n_micro = 1;
    if (hx_sampler_batch(s, cursor, &n) == HX_OK) (void)hx_sampler_n_micro(s, cursor, n_micro);
    const bool is_end = s->last == HX_LAST_SHORT && cursor + n >= s->n_samples;
    *next_cursor = n == 0 || is_end ? 0 : cursor + n;
}

/* ---- on the caller's ---- */

static hx_status send(hx__batch_tensor *batch, const int32_t *ids, int64_t n, int64_t ctx, hx_stream *stream, hx_tensor **out) {
    void *staging;
    HX_TRY(hx__batch_begin(batch, &staging));
    memcpy(staging, ids, (size_t)(n * ctx) * sizeof *ids);
    return hx__batch_fill(batch, stream, n, out);
}

static hx_status loader_get(void *self, int64_t cursor, int64_t index, hx_stream *stream, hx_batch *out) {
    hx_loader *l = self;
    const int64_t ctx = l->config.ctx;
    const void *memory;
    int64_t base, n;
    hx_tensor *input, *target;
    HX_TRY(hx_sampler_micro(&l->sampler, cursor, index, &base, &n));
    HX_TRY(hx__ahead_take(l->ahead, cursor, index, &memory));
    HX_TRY(send(&l->input, memory, n, ctx, stream, &input));
    HX_TRY(send(&l->target, (const int32_t *)memory + n * ctx, n, ctx, stream, &target));
    *out = (hx_batch){.input = input, .target = target, .n_samples = n, .sample_base = base};
    return HX_OK;
}

/* ---- creation ---- */

static hx_status check_part(const hx_loader_part *part, int64_t ctx) {
    hx_tokens_info info;
    hx_tokens_info_get(part->tokens, &info);
    if (part->begin < 0 || part->end < part->begin || part->end > info.n_tokens)
        return HX_FAIL(HX_ERR_CONFIG, "%s: split of tokens [%lld, %lld): expected it within the %lld of the data", info.path,
                       (long long)part->begin, (long long)part->end, (long long)info.n_tokens);
    if (part->end - part->begin <= ctx)
        return HX_FAIL(HX_ERR_CONFIG, "%s: a split of %lld tokens is shorter than one sample: ctx = %lld tokens and the one after them",
                       info.path, (long long)(part->end - part->begin), (long long)ctx);
    return HX_OK;
}

static hx_status check_config(const hx_loader_config *c, const hx_loader_part *parts, int n_parts) {
    int64_t product;
    if (c->ctx < 1) return HX_FAIL(HX_ERR_CONFIG, "ctx = %lld: expected ctx >= 1", (long long)c->ctx);
    if (n_parts < 1) return HX_FAIL(HX_ERR_ARG, "%d parts: expected at least one", n_parts);
    if (c->batch > 0 && __builtin_mul_overflow(c->batch, c->ctx, &product))
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples of %lld tokens is too large", (long long)c->batch,
                       (long long)c->ctx);
    for (int i = 0; i < n_parts; i++) HX_TRY(check_part(&parts[i], c->ctx));
    return HX_OK;
}

static hx_status set_sources(hx_loader *l, const hx_loader_part *parts, int n_parts, const double *weights) {
    HX_TRY(hx_mem_alloc_array(n_parts, sizeof *l->parts, (void **)&l->parts));
    HX_TRY(hx_mem_alloc_array(n_parts, sizeof *l->sizes, (void **)&l->sizes));
    HX_TRY(hx_mem_alloc_array(n_parts + 1, sizeof *l->sums, (void **)&l->sums));
    for (int i = 0; i < n_parts; i++) {
        l->parts[i] = parts[i];
        l->sizes[i] = (parts[i].end - parts[i].begin - 1) / l->config.ctx;
        if (__builtin_add_overflow(l->sampler.n_samples, l->sizes[i], &l->sampler.n_samples))
            return HX_FAIL(HX_ERR_OVERFLOW, "%d sources hold too many samples", n_parts);
    }
    HX_TRY(hx_sampler_weigh(n_parts, l->sizes, weights, l->sums));
    l->sampler.n_sources = n_parts;
    l->sampler.sizes = l->sizes;
    l->sampler.sums = l->sums;
    return hx_sampler_check(&l->sampler);
}

static hx_status create_memory(hx_loader *l, hx_device *device) {
    const hx_shape shape = HX_SHAPE(hx_sampler_most(&l->sampler), l->config.ctx);
    HX_TRY(hx__batch_create(device, HX_I32, shape, &l->input));
    HX_TRY(hx__batch_create(device, HX_I32, shape, &l->target));
    const hx__ahead_maker maker = {.self = l, .n_bytes = 2 * hx_tensor_bytes(l->input.whole), .make = make_micro, .guess = guess};
    return hx__ahead_create(&maker, l->config.prefetch, &l->ahead);
}

hx_status hx_loader_create(hx_device *device, const hx_loader_part *parts, int n_parts, const double *weights,
                           const hx_loader_config *config, hx_loader **out) {
    HX_CLEANUP(hx_loader_destroy) hx_loader *l = NULL;
    HX_TRY(check_config(config, parts, n_parts));
    HX_TRY(hx_mem_alloc_array(1, sizeof *l, (void **)&l));
    l->config = *config;
    l->sampler = (hx_sampler){.batch = config->batch,
                              .micro_batch = config->micro_batch,
                              .shuffle = config->shuffle,
                              .last = config->last,
                              .seed = config->seed,
                              .rank = config->rank,
                              .size = config->size};
    HX_TRY(set_sources(l, parts, n_parts, weights));
    HX_TRY(create_memory(l, device));
    *out = l;
    l = NULL; /* handed on */
    return HX_OK;
}

void hx_loader_destroy(hx_loader **loader) {
    hx_loader *l;
    if (!loader || !(l = *loader)) return;
    hx__ahead_destroy(&l->ahead); /* its thread reads the rest */
    hx__batch_destroy(&l->input);
    hx__batch_destroy(&l->target);
    hx_mem_free((void **)&l->sums);
    hx_mem_free((void **)&l->sizes);
    hx_mem_free((void **)&l->parts);
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
