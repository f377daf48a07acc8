#include "core/optim/ema.h"
#include <math.h>
#include "core/base/mem.h"
#include "core/optim/optim_impl.h"

typedef struct ema_entry {
    hx_param *param;   /* borrowed */
    hx_tensor *shadow; /* owned, hx_dtype_accum of the parameter's dtype */
    hx_tensor *saved;  /* owned: the parameter while its average is in place, else NULL */
} ema_entry;

struct hx_ema {
    double decay;
    bool is_swapped;
    int64_t n_entries;
    ema_entry *entries; /* owned [n_entries] */
};

static hx_status fill_entries(hx_ema *ema, hx_ctx *ctx, const hx_param_list *params) {
    hx_ctx quiet = hx_no_grad(ctx);
    HX_TRY(hx_mem_alloc_array(params->n_items, sizeof *ema->entries, (void **)&ema->entries));
    for (int64_t i = 0; i < params->n_items; i++) {
        hx_param *param = params->items[i];
        if (param->is_frozen) continue;
        ema_entry *entry = &ema->entries[ema->n_entries++];
        entry->param = param;
        HX_TRY(hx_cast(&quiet, param->value, hx_dtype_accum(hx_tensor_dtype(param->value)), &entry->shadow));
    }
    return HX_OK;
}

hx_status hx_ema_create(hx_ctx *ctx, const hx_param_list *params, double decay, hx_ema **out) {
    hx_ema *ema = NULL;
    if (!(decay >= 0 && decay < 1)) return HX_FAIL(HX_ERR_CONFIG, "an average with decay = %g: expected 0 <= decay < 1", decay);
    HX_TRY(hx_mem_alloc_array(1, sizeof *ema, (void **)&ema));
    ema->decay = decay;
    hx_status status = fill_entries(ema, ctx, params);
    if (status != HX_OK) {
        hx_ema_destroy(&ema);
        return status;
    }
    *out = ema;
    return HX_OK;
}

void hx_ema_destroy(hx_ema **ema) {
    hx_ema *e = *ema;
    if (e == NULL) return;
    for (int64_t i = 0; i < e->n_entries; i++) {
        hx_tensor_destroy(&e->entries[i].saved);
        hx_tensor_destroy(&e->entries[i].shadow);
    }
    hx_mem_free((void **)&e->entries);
    hx_mem_free((void **)ema);
}

/* In three passes of existing ops: the average is small beside a step's work. */
static hx_status follow(hx_ctx *ctx, const ema_entry *entry, double decay) {
    HX_AUTO_TENSOR wide = NULL;
    HX_AUTO_TENSOR part = NULL;
    hx_tensor *shadow = entry->shadow;
    HX_TRY(hx_widen(ctx, entry->param->value, &wide));
    HX_TRY(hx_affine(ctx, wide, 1 - decay, 0, &part));
    HX_TRY(hx_op_run(ctx, HX_OP_affine, &shadow, 1, &(hx_op_attr){.affine = {decay, 0}}, 0, &shadow));
    return hx_op_run(ctx, HX_OP_add, (hx_tensor *[]){shadow, part}, 2, NULL, 0, &shadow);
}

hx_status hx_ema_update(hx_ema *ema, hx_ctx *ctx, int64_t step) {
    hx_ctx quiet = hx_no_grad(ctx);
    if (step < 1) return HX_FAIL(HX_ERR_ARG, "step %lld: expected 1 for the first update", (long long)step);
    if (ema->is_swapped)
        return HX_FAIL(HX_ERR_STATE, "the averages are in the parameters' place: swap them back before the next update");
    const double t = (double)(step - 1), decay = fmin(ema->decay, (1 + t) / (10 + t));
    for (int64_t i = 0; i < ema->n_entries; i++) HX_TRY(follow(&quiet, &ema->entries[i], decay));
    return HX_OK;
}

static void drop_saved(hx_ema *ema) {
    for (int64_t i = 0; i < ema->n_entries; i++) hx_tensor_destroy(&ema->entries[i].saved);
}

/* All copies are made before the first parameter changes. */
static hx_status save_all(hx_ema *ema, hx_ctx *ctx) {
    for (int64_t i = 0; i < ema->n_entries; i++) {
        ema_entry *entry = &ema->entries[i];
        HX_TRY(hx_cast(ctx, entry->param->value, hx_tensor_dtype(entry->param->value), &entry->saved));
    }
    return HX_OK;
}

hx_status hx_ema_swap(hx_ema *ema, hx_ctx *ctx) {
    hx_ctx quiet = hx_no_grad(ctx);
    hx_status status = HX_OK;
    if (!ema->is_swapped) HX_TRY_GOTO(save_all(ema, &quiet), done);
    for (int64_t i = 0; i < ema->n_entries; i++) {
        const ema_entry *entry = &ema->entries[i];
        HX_TRY(hx_copy_into(&quiet, ema->is_swapped ? entry->saved : entry->shadow, entry->param->value));
    }
    ema->is_swapped = !ema->is_swapped;
done:
    if (!ema->is_swapped) drop_saved(ema);
    return status;
}

bool hx_ema_is_swapped(const hx_ema *ema) { return ema->is_swapped; }

hx_status hx_ema_state(hx_ema *ema, const hx_agreement *ranks, hx_state_list *list) {
    for (int64_t i = 0; i < ema->n_entries; i++)
        HX_TRY(hx__param_items("/ema/", ema->entries[i].param, ema->entries[i].shadow, NULL, ranks, list));
    return HX_OK;
}
