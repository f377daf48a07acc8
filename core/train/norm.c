/* The norm of all gradients, where parameters are whole on every rank, split, or shared out.
 *
 * Each rank adds up what it counts, and the parts are joined; where every rank has all, each takes its own. In elastic training the
 * number of ranks must not show: the parts of fixed blocks of each parameter are kept apart, every rank gets all of them, and adds
 * them from the first to the last. */
#include <math.h>
#include "core/base/mem.h"
#include "core/train/trainer_impl.h"

/* All parameters; where they are split, those that this rank has a part of, and on one rank those that all have. */
static hx_status list_params(hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    const bool has_ranks = agreement != NULL && agreement->sum != NULL, is_split = agreement != NULL && agreement->n_parts > 1;
    hx__norm *norm = &t->norm;
    bool is_shared = false;
    HX_TRY(hx_mem_grow((void **)&norm->params.items, &norm->params.capacity, t->params.n_items, sizeof(hx_param *)));
    for (int64_t i = 0; i < t->params.n_items; i++) {
        hx_param *param = t->params.items[i];
        is_shared = is_shared || param->is_shared;
        if (!is_split || param->is_split || agreement->part == 0) norm->params.items[norm->params.n_items++] = param;
    }
    norm->is_joint = is_split || (is_shared && has_ranks);
    norm->counts = is_shared ? agreement == NULL || agreement->share_copy == 0 : !is_split || agreement->replica == 0;
    return HX_OK;
}

static hx_status check_agreement(const hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    if (!t->norm.is_joint) return HX_OK;
    if (hx__trainer_is_elastic(t) && agreement->join == NULL)
        return HX_FAIL(HX_ERR_ARG, "elastic training with parameters on several ranks: expected an agreement with join");
    if (!hx__trainer_is_elastic(t) && agreement->max == NULL && hx_clip_norm_p(t->setup.optim_config) == HUGE_VAL)
        return HX_FAIL(HX_ERR_ARG, "clip_norm_type = inf with parameters on several ranks: expected an agreement with max");
    return HX_OK;
}

/* ---- elastic: blocks ---- */

static int64_t n_blocks_of(int64_t n) { return n / HX_NORM_BLOCK + (n % HX_NORM_BLOCK != 0); }

/* Of several ranks with the same values one counts them. */
static bool counts_param(const hx_trainer *t, const hx_param *param) {
    const hx_agreement *agreement = t->setup.agreement;
    if (param->is_frozen) return false;
    if (!t->norm.is_joint) return true;
    if (param->is_shared) return agreement->share_copy == 0;
    return agreement->n_parts > 1 ? agreement->replica == 0 : agreement->rank == 0;
}

/* @param at  the place of the parameter's first block */
static hx_status open_place(const hx_trainer *t, const hx_param *param, int64_t at, hx_tensor **place) {
    const int64_t n = param->own_end - param->own_begin;
    if (!counts_param(t, param)) return HX_OK;
    if (n > 0 && param->own_begin % HX_NORM_BLOCK != 0)
        return HX_FAIL(HX_ERR_STATE, "elastic training: this rank's share of %s begins at element %lld: expected a multiple of %d",
                       param->path, (long long)param->own_begin, HX_NORM_BLOCK);
    return hx_tensor_window(t->norm.blocks, n > 0 ? at + param->own_begin / HX_NORM_BLOCK : 0, HX_SHAPE(n_blocks_of(n)), place);
}

/* Parts of a split parameter are equal, so that each rank knows the ranges of all. */
static hx_status open_blocks(hx_trainer *t) {
    const hx_agreement *agreement = t->setup.agreement;
    const bool is_split = agreement != NULL && agreement->n_parts > 1;
    hx__norm *norm = &t->norm;
    int64_t each = 0, at = 0;
    for (int64_t i = 0; i < t->params.n_items; i++) each += n_blocks_of(hx_tensor_count(t->params.items[i]->value));
    norm->n_blocks = each * (is_split ? agreement->n_parts : 1);
    HX_TRY(hx_mem_alloc_array(norm->n_blocks, sizeof *norm->joined, (void **)&norm->joined));
    HX_TRY(hx_mem_alloc_array(norm->params.n_items, sizeof(hx_tensor *), (void **)&norm->places));
    HX_TRY(hx_tensor_create(t->ctx.device, HX_F64, HX_SHAPE(norm->n_blocks), &norm->blocks));
    HX_TRY(hx_tensor_fill(t->ctx.stream, norm->blocks, 0));
    if (is_split) at = agreement->part * each;
    for (int64_t i = 0; i < norm->params.n_items; i++) {
        const hx_param *param = norm->params.items[i];
        HX_TRY(open_place(t, param, at, &norm->places[i]));
        at += n_blocks_of(hx_tensor_count(param->value));
    }
    return HX_OK;
}

/* A device that computes nothing leaves the norm at 0. */
static bool is_dry(const hx_trainer *t) {
    hx_device_props props;
    hx_device_props_get(t->ctx.device, &props);
    return props.is_dry;
}

/* A block that is not finite is told by itself: whether a sum of finite ones overflows would depend on the number of ranks. */
static hx_status measure_blocks(hx_trainer *t, double *part) {
    hx__norm *norm = &t->norm;
    HX_TRY(hx_grad_norm_blocks(&t->quiet, &norm->params, hx_clip_norm_p(t->setup.optim_config), norm->places));
    if (!is_dry(t)) HX_TRY(hx_tensor_read(t->ctx.stream, norm->blocks, norm->joined));
    *part = 0;
    for (int64_t i = 0; i < norm->n_blocks; i++)
        if (!isfinite(norm->joined[i])) *part = NAN;
    return HX_OK;
}

/* ---- all of it ---- */

hx_status hx__norm_open(hx_trainer *t) {
    HX_TRY(list_params(t));
    HX_TRY(check_agreement(t));
    return hx__trainer_is_elastic(t) ? open_blocks(t) : HX_OK;
}

void hx__norm_close(hx__norm *norm) {
    for (int64_t i = 0; norm->places != NULL && i < norm->params.n_items; i++) hx_tensor_destroy(&norm->places[i]);
    hx_mem_free((void **)&norm->places);
    hx_mem_free((void **)&norm->joined);
    hx_tensor_destroy(&norm->blocks);
    hx_param_list_destroy(&norm->params);
}

hx_status hx__norm_measure(hx_trainer *t, double sums[HX__SUM_N]) {
    const double p = hx_clip_norm_p(t->setup.optim_config);
    const bool is_elastic = hx__trainer_is_elastic(t);
    if (!is_elastic) HX_TRY(hx_grad_norm_part(&t->quiet, &t->norm.params, p, t->sums.sum[HX__SUM_NORM]));
    HX_TRY(hx__loss_sums_read(&t->sums, t->ctx.stream, sums));
    return is_elastic ? measure_blocks(t, &sums[HX__SUM_NORM]) : HX_OK;
}

hx_status hx__norm_join(hx_trainer *t, const double values[HX__RED_N], double own, double *out) {
    const hx_agreement *agreement = t->setup.agreement;
    const double p = hx_clip_norm_p(t->setup.optim_config);
    hx__norm *norm = &t->norm;
    if (hx__trainer_is_elastic(t)) {
        if (norm->is_joint) HX_TRY(agreement->join(agreement->self, norm->joined, norm->n_blocks));
        *out = hx_grad_norm_join(p, norm->joined, norm->n_blocks);
    } else if (norm->is_joint && p == HUGE_VAL) {
        *out = own;
        return agreement->max(agreement->self, out);
    } else {
        *out = norm->is_joint ? values[HX__RED_NORM] : own;
    }
    return HX_OK;
}
