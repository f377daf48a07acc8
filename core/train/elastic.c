/* Elastic training: one run's bits at any number of data-parallel ranks. What it asks of configuration, synchronisation and model. */
#include "core/train/trainer_impl.h"

static const char asked[] = "deterministic = elastic";

hx_status hx_train_n_leaves(const hx_train_config *c, int n_ranks, int64_t *out) {
    const long long batch = c->batch, micro = c->micro_batch, n = micro > 0 ? batch / micro : 0;
    if (c->deterministic != HX_DETERMINISTIC_ELASTIC) {
        *out = 0;
        return HX_OK;
    }
    if (micro < 1)
        return HX_FAIL(HX_ERR_CONFIG, "%s: micro_batch = %lld: expected the size of a micro-batch that any number of ranks computes, such "
                       "that batch / micro_batch is a power of two; batch = %lld", asked, micro, batch);
    if (n < 1 || n * micro != batch || (n & (n - 1)) != 0)
        return HX_FAIL(HX_ERR_CONFIG, "%s: batch = %lld in micro-batches of micro_batch = %lld makes %g of them: expected a power of two",
                       asked, batch, micro, (double)batch / (double)micro);
    if (n < n_ranks)
        return HX_FAIL(HX_ERR_CONFIG, "%s: batch = %lld in micro-batches of micro_batch = %lld makes %lld of them for %d ranks: expected "
                       "one for each rank at least", asked, batch, micro, n, n_ranks);
    *out = n;
    return HX_OK;
}

bool hx__trainer_is_elastic(const hx_trainer *t) { return t->setup.config->deterministic == HX_DETERMINISTIC_ELASTIC; }

/* Both sides of the hook count the same leaves. */
static hx_status check_leaves(const hx_trainer_setup *s) {
    const hx_leaves none = {0}, *leaves = s->sync != NULL ? &s->sync->leaves : &none;
    int64_t n;
    HX_TRY(hx_train_n_leaves(s->config, leaves->n > 0 ? leaves->size : 1, &n));
    if (leaves->n != n)
        return HX_FAIL(HX_ERR_ARG, "deterministic = %s, but the gradient synchronisation %s %lld leaves: expected %lld",
                       n > 0 ? "elastic" : "ranks", s->sync != NULL ? "has" : "is NULL and has", (long long)leaves->n, (long long)n);
    if (n > 0 && s->train->batch != s->config->batch)
        return HX_FAIL(HX_ERR_CONFIG, "%s: batch = %lld, but the training data come in batches of %lld: expected the same", asked,
                       (long long)s->config->batch, (long long)s->train->batch);
    return HX_OK;
}

hx_status hx__trainer_check_elastic(const hx_trainer *t) {
    HX_TRY(check_leaves(&t->setup));
    if (hx__trainer_is_elastic(t) && t->buffers.n_items > 0)
        return HX_FAIL(HX_ERR_CONFIG, "%s: the model keeps running statistics, %s the first, which depend on how samples are dealt out to "
                       "ranks: expected a model without, or deterministic = ranks", asked, t->buffers.items[0]->path);
    return HX_OK;
}
