#include "io/data/sampler.h"

#include <math.h>
#include "core/base/rng.h"

#define SOURCE_SHIFT 40 /* of a source's number in the key of its permutation: its epochs stay below */

hx_status hx_sampler_weigh(int n, const int64_t *sizes, const double *weights, uint64_t *sums) {
    double total = 0;
    for (int i = 0; weights != NULL && i < n; i++) total += weights[i];
    sums[0] = 0;
    for (int i = 0; i < n; i++) {
        const double share = weights != NULL ? ldexp(weights[i] / total, 32) : 0;
        if (weights != NULL && !(weights[i] > 0 && isfinite(total) && share >= 2))
            return HX_FAIL(HX_ERR_CONFIG, "weight %d of %d is %g, %g in all: expected positive numbers, none below 2^-31 of all", i + 1, n,
                           weights[i], total);
        sums[i + 1] = sums[i] + (weights != NULL ? (uint64_t)llround(share) : (uint64_t)sizes[i]);
    }
    return HX_OK;
}

static hx_status check_sources(const hx_sampler *s) {
    int64_t total = 0;
    for (int i = 0; i < s->n_sources; i++)
        if (s->sizes[i] < 1 || s->sums[i + 1] <= s->sums[i] || __builtin_add_overflow(total, s->sizes[i], &total))
            return HX_FAIL(HX_ERR_CONFIG, "source %d of %d has %lld samples: expected at least one each, and less than 2^62 in all", i + 1,
                           s->n_sources, (long long)s->sizes[i]);
    if (s->n_sources > 0 && total != s->n_samples)
        return HX_FAIL(HX_ERR_CONFIG, "%lld samples: expected %lld, as many as the sources hold", (long long)s->n_samples, (long long)total);
    return HX_OK;
}

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
    if (s->n_samples > INT64_C(1) << 62) return HX_FAIL(HX_ERR_CONFIG, "%lld samples: expected at most 2^62", (long long)s->n_samples);
    return check_sources(s);
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

/* Of the first p of the positions that weight b has, those of weight a. a < b < 2^63, p < 2^64 */
static uint64_t part_of(uint64_t p, uint64_t a, uint64_t b) {
    return (uint64_t)(((unsigned __int128)p * a + b / 2) / b);
}

/* The source of position *p; *p becomes its number among that source's positions. */
static int find_source(const hx_sampler *s, uint64_t *p) {
    int low = 0, high = s->n_sources > 0 ? s->n_sources : 1;
    while (high - low > 1) {
        const int mid = low + (high - low) / 2;
        const uint64_t a = s->sums[mid] - s->sums[low], b = s->sums[high] - s->sums[low], before = part_of(*p, a, b);
        if (part_of(*p + 1, a, b) > before) {
            *p = before;
            high = mid;
        } else {
            *p -= before;
            low = mid;
        }
    }
    return low;
}

void hx_sampler_find(const hx_sampler *s, int64_t position, int *source, int64_t *sample, int64_t *epoch) {
    const int64_t length = hx_sampler_epoch(s);
    /* with what drop leaves out of the epochs before; length > n_samples / 2, so that 64 bits do */
    uint64_t p = (uint64_t)(position / length) * (uint64_t)s->n_samples + (uint64_t)(position % length);
    const int found = find_source(s, &p);
    const uint64_t n = (uint64_t)(s->n_sources > 0 ? s->sizes[found] : s->n_samples), e = p / n, i = p % n;
    const hx_rng rng = {.seed = s->seed, .stream = hx_rng_stream(HX_RNG_DATA, e ^ (uint64_t)found << SOURCE_SHIFT)};
    *source = found;
    *sample = (int64_t)(s->shuffle ? hx_rng_permute(rng, i, n) : i);
    if (epoch != NULL) *epoch = (int64_t)e;
}

int64_t hx_sampler_sample(const hx_sampler *s, int64_t position) {
    int source;
    int64_t sample;
    hx_sampler_find(s, position, &source, &sample, NULL);
    return sample;
}
