#include "io/data/sampler.h"

#include "core/base/rng.h"

hx_status hx_sampler_check(const hx_sampler *s) {
    int64_t product;
    if (s->n_samples < 1) return HX_FAIL(HX_ERR_CONFIG, "%lld samples: expected at least one", (long long)s->n_samples);
    if (s->micro_batch < 0)
        return HX_FAIL(HX_ERR_CONFIG, "micro_batch = %lld: expected >= 0", (long long)s->micro_batch);
    if (s->size < 1 || s->rank < 0 || s->rank >= s->size)
        return HX_FAIL(HX_ERR_CONFIG, "rank %d of %d: expected 0 <= rank < size", s->rank, s->size);
    if (s->batch < s->size)
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples for %d ranks: expected one per rank at least",
                       (long long)s->batch, s->size);
    if (__builtin_mul_overflow(s->batch, (int64_t)s->size, &product))
        return HX_FAIL(HX_ERR_CONFIG, "a global batch of %lld samples is too large", (long long)s->batch);
    if (s->last == HX_LAST_DROP && s->n_samples < s->batch)
        return HX_FAIL(HX_ERR_CONFIG, "%lld samples do not fill a global batch of %lld, and drop_last leaves out what "
                       "does not", (long long)s->n_samples, (long long)s->batch);
    return HX_OK;
}

int64_t hx_sampler_epoch(const hx_sampler *s) {
    return s->last == HX_LAST_DROP ? s->n_samples - s->n_samples % s->batch : s->n_samples;
}

int64_t hx_sampler_most(const hx_sampler *s) {
    int64_t most = s->batch / s->size + (s->batch % s->size != 0); /* the largest share */
    return s->micro_batch > 0 && s->micro_batch < most ? s->micro_batch : most;
}

hx_status hx_sampler_batch(const hx_sampler *s, int64_t cursor, int64_t *n) {
    if (cursor < 0 || cursor > INT64_MAX - s->batch)
        return HX_FAIL(HX_ERR_ARG, "cursor %lld: expected 0 to 2^63 less a batch", (long long)cursor);
    int64_t left = s->n_samples - cursor % s->n_samples;
    *n = s->last == HX_LAST_SHORT && left < s->batch ? left : s->batch;
    return HX_OK;
}

/* Positions [begin, end) of the global batch at `cursor` belong to this rank. batch*size was checked to fit. */
static hx_status share(const hx_sampler *s, int64_t cursor, int64_t *begin, int64_t *end) {
    int64_t n;
    HX_TRY(hx_sampler_batch(s, cursor, &n));
    *begin = n * s->rank / s->size;
    *end = n * (s->rank + 1) / s->size;
    return HX_OK;
}

hx_status hx_sampler_n_micro(const hx_sampler *s, int64_t cursor, int64_t *n) {
    const int64_t most = hx_sampler_most(s);
    int64_t begin, end;
    HX_TRY(share(s, cursor, &begin, &end));
    *n = (end - begin) / most + ((end - begin) % most != 0);
    return HX_OK;
}

hx_status hx_sampler_micro(const hx_sampler *s, int64_t cursor, int64_t index, int64_t *base, int64_t *n) {
    const int64_t most = hx_sampler_most(s);
    int64_t begin, end, n_micro;
    HX_TRY(hx_sampler_n_micro(s, cursor, &n_micro));
    if (index < 0 || index >= n_micro)
        return HX_FAIL(HX_ERR_ARG, "micro-batch %lld at cursor %lld: expected 0 to %lld", (long long)index,
                       (long long)cursor, (long long)n_micro - 1);
    HX_TRY(share(s, cursor, &begin, &end));
    begin += index * most;
    *base = begin;
    *n = end - begin < most ? end - begin : most;
    return HX_OK;
}

int64_t hx_sampler_sample(const hx_sampler *s, int64_t position) {
    const int64_t length = hx_sampler_epoch(s), epoch = position / length, i = position % length;
    if (!s->shuffle) return i;
    hx_rng rng = {.seed = s->seed, .stream = hx_rng_stream(HX_RNG_DATA, (uint64_t)epoch)};
    return (int64_t)hx_rng_permute(rng, (uint64_t)i, (uint64_t)s->n_samples);
}
