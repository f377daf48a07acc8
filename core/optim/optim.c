#include "core/optim/optim_impl.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include "core/base/mem.h"

#define HX_OPTION_OWNER hx_optim_config
const hx_option hx_optim_options[] = HX_OPTIONS_TABLE(HX_OPTIM_OPTIONS);
#undef HX_OPTION_OWNER
const int hx_optim_n_options = (int)(sizeof hx_optim_options / sizeof *hx_optim_options);

struct hx_optim {
    const hx__optim_type *type;
    hx_optim_config *configs; /* owned [n_groups] */
    int64_t n_entries;
    hx__optim_entry *entries; /* owned [n_entries], in the order of groups and of their parameters */
};

/* ---- configuration ---- */

typedef struct range {
    const char *name;
    double value, most; /* 0 <= value < most, or <= where most is allowed */
    bool most_is_allowed;
} range;

static hx_status check_ranges(const range *ranges, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const range *r = &ranges[i];
        if (r->value >= 0 && (r->value < r->most || (r->most_is_allowed && r->value == r->most))) continue;
        return HX_FAIL(HX_ERR_CONFIG, "%s = %g: expected 0 <= %s %s %g", r->name, r->value, r->name,
                       r->most_is_allowed ? "<=" : "<", r->most);
    }
    return HX_OK;
}

hx_status hx__optim_check_config(const hx_optim_config *c) {
    const range ranges[] = {{"lr", c->lr, INFINITY, false},
                            {"beta1", c->beta1, 1, false},
                            {"beta2", c->beta2, 1, false},
                            {"eps", c->eps, INFINITY, false},
                            {"weight_decay", c->weight_decay, INFINITY, false},
                            {"momentum", c->momentum, 1, false},
                            {"dampening", c->dampening, 1, true},
                            {"alpha", c->alpha, 1, false},
                            {"clip", c->clip, INFINITY, true},
                            {"clip_norm_type", c->clip_norm_type, 2, true},
                            {"clip_value", c->clip_value, INFINITY, true}};
    HX_TRY(check_ranges(ranges, sizeof ranges / sizeof *ranges));
    if (c->optimizer < 0 || c->optimizer >= HX_OPTIM_COUNT)
        return HX_FAIL(HX_ERR_CONFIG, "optimizer = %d: expected 0 to %d", c->optimizer, HX_OPTIM_COUNT - 1);
    if (c->optimizer == HX_OPTIM_SGD && c->nesterov && (c->momentum == 0 || c->dampening != 0))
        return HX_FAIL(HX_ERR_CONFIG, "nesterov with momentum = %g and dampening = %g: expected momentum > 0 and dampening = 0",
                       c->momentum, c->dampening);
    if (c->clip > 0 && c->clip_value > 0)
        return HX_FAIL(HX_ERR_CONFIG, "clip = %g and clip_value = %g: expected one of them to be 0", c->clip, c->clip_value);
    return HX_OK;
}

/* ---- creation ---- */

static hx_status check_groups(const hx_param_group *groups, int n_groups, const hx_optim_config *config) {
    if (n_groups < 1 || groups == NULL)
        return HX_FAIL(HX_ERR_ARG, "%d parameter groups: expected at least 1", n_groups);
    for (int g = 0; g < n_groups; g++) {
        const hx_optim_config *own = groups[g].config ? groups[g].config : config;
        HX_TRY(hx__optim_check_config(own));
        if (own->optimizer != config->optimizer)
            return HX_FAIL(HX_ERR_CONFIG, "group %d: optimizer = %d: expected %d as the others have", g, own->optimizer,
                           config->optimizer);
        if (!(groups[g].lr_scale >= 0 && isfinite(groups[g].lr_scale)) ||
            !(groups[g].weight_decay >= 0 && isfinite(groups[g].weight_decay)))
            return HX_FAIL(HX_ERR_CONFIG,
                           "group %d: lr_scale = %g, weight_decay = %g: expected finite numbers >= 0", g,
                           groups[g].lr_scale, groups[g].weight_decay);
    }
    return HX_OK;
}

static int entry_compare(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (hx_param *const *)a, y = (uintptr_t) * (hx_param *const *)b;
    return (x > y) - (x < y);
}

/* A parameter in two groups would be updated twice. */
static hx_status check_unique(const hx_optim *optim) {
    hx_param **sorted = NULL;
    hx_status status = HX_OK;
    HX_TRY(hx_mem_alloc_array(optim->n_entries, sizeof *sorted, (void **)&sorted));
    for (int64_t i = 0; i < optim->n_entries; i++) sorted[i] = optim->entries[i].param;
    if (optim->n_entries > 1) qsort(sorted, (size_t)optim->n_entries, sizeof *sorted, entry_compare);
    for (int64_t i = 1; i < optim->n_entries && status == HX_OK; i++)
        if (sorted[i] == sorted[i - 1])
            status =
                HX_FAIL(HX_ERR_CONFIG, "parameter %s stands in two places of the groups", sorted[i]->path);
    hx_mem_free((void **)&sorted);
    return status;
}

static hx_status create_slots(const hx_optim *optim, hx_device *device, hx_stream *stream, const hx_tensor *value, hx__optim_entry *entry) {
    const unsigned unused = optim->type->unused ? optim->type->unused(entry->config) : 0;
    for (int s = 0; s < optim->type->n_slots; s++) {
        if (unused >> s & 1) continue;
        HX_TRY(hx_tensor_create(device, hx_dtype_accum(hx_tensor_dtype(value)), hx_tensor_shape(value), &entry->slots[s]));
        HX_TRY(hx_tensor_fill(stream, entry->slots[s], 0));
    }
    return HX_OK;
}

static hx_status create_master(hx_device *device, hx_stream *stream, hx_tensor *value, hx__optim_entry *entry) {
    hx_ctx ctx = {.device = device, .stream = stream};
    return hx_cast(&ctx, value, HX_F32, &entry->master);
}

/* Where a share of the storage lies in each logical tensor. */
static hx_status create_shares(hx__optim_entry *entry) {
    const hx_param *param = entry->param;
    const int n = hx_param_n_logical(param);
    if (!param->is_shared) return HX_OK;
    HX_TRY(hx_mem_alloc_array(n, sizeof *entry->shares, (void **)&entry->shares));
    for (int i = 0; i < n; i++) {
        char path[HX_NAME_BYTES];
        const hx_layout *layout;
        hx_param_logical(param, i, path, &layout);
        HX_TRY(hx_layout_restrict(layout, param->own_begin, param->own_end, &entry->shares[i]));
    }
    return HX_OK;
}

static hx_status fill_entry(hx_optim *optim, hx_device *device, hx_stream *stream, const hx_param_group *group,
                            const hx_optim_config *config, hx_param *param) {
    const hx_dtype dtype = hx_tensor_dtype(param->value);
    if (!hx_dtype_is_float(dtype))
        return HX_FAIL(HX_ERR_DTYPE, "parameter %s is %s: expected a floating type; freeze it if it is not trained",
                       param->path, hx_dtype_name(dtype));
    hx__optim_entry *entry = &optim->entries[optim->n_entries++];
    *entry = (hx__optim_entry){
        .param = param, .lr_scale = group->lr_scale, .weight_decay = group->weight_decay, .config = config};
    HX_AUTO_TENSOR own = NULL;
    HX_TRY(hx_param_own(param, param->value, &own));
    HX_TRY(create_slots(optim, device, stream, own, entry));
    if (hx_dtype_is_half(dtype)) HX_TRY(create_master(device, stream, own, entry));
    return create_shares(entry);
}

static hx_status fill_entries(hx_optim *optim, hx_device *device, hx_stream *stream, const hx_param_group *groups,
                              int n_groups, const hx_optim_config *config) {
    int64_t n = 0;
    for (int g = 0; g < n_groups; g++) n += groups[g].n_params;
    HX_TRY(hx_mem_alloc_array(n_groups, sizeof *optim->configs, (void **)&optim->configs));
    HX_TRY(hx_mem_alloc_array(n, sizeof *optim->entries, (void **)&optim->entries));
    for (int g = 0; g < n_groups; g++) {
        optim->configs[g] = groups[g].config ? *groups[g].config : *config;
        for (int64_t i = 0; i < groups[g].n_params; i++)
            if (!groups[g].params[i]->is_frozen)
                HX_TRY(fill_entry(optim, device, stream, &groups[g], &optim->configs[g], groups[g].params[i]));
    }
    return check_unique(optim);
}

hx_status hx_optim_create(hx_device *device, hx_stream *stream, const hx_param_group *groups, int n_groups,
                          const hx_optim_config *config, hx_optim **out) {
    hx_optim *optim = NULL;
    HX_TRY(hx__optim_check_config(config));
    HX_TRY(check_groups(groups, n_groups, config));
    HX_TRY(hx_mem_alloc_array(1, sizeof *optim, (void **)&optim));
    optim->type = &hx__optim_types[config->optimizer];
    hx_status status = fill_entries(optim, device, stream, groups, n_groups, config);
    if (status != HX_OK) {
        hx_optim_destroy(&optim);
        return status;
    }
    *out = optim;
    return HX_OK;
}

hx_status hx_optim_create_default(hx_device *device, hx_stream *stream, const hx_param_list *params,
                                  const hx_optim_config *config, hx_optim **out) {
    hx_param **sorted = NULL; /* those that decay from the front, the others from the back */
    hx_status status;
    int64_t n_decay = 0, n_plain = 0, n = params->n_items;
    HX_TRY(hx_mem_alloc_array(n, sizeof *sorted, (void **)&sorted));
    for (int64_t i = 0; i < n; i++) n_decay += params->items[i]->decays;
    for (int64_t i = 0, at = 0; i < n; i++) {
        hx_param *param = params->items[i];
        if (param->decays)
            sorted[at++] = param;
        else
            sorted[n_decay + n_plain++] = param;
    }
    const hx_param_group groups[2] = {
        {.params = sorted, .n_params = n_decay, .lr_scale = 1, .weight_decay = config->weight_decay},
        {.params = sorted + n_decay, .n_params = n_plain, .lr_scale = 1, .weight_decay = 0}};
    status = hx_optim_create(device, stream, groups, 2, config, out);
    hx_mem_free((void **)&sorted);
    return status;
}

void hx_optim_destroy(hx_optim **optim) {
    hx_optim *o = *optim;
    if (o == NULL) return;
    for (int64_t i = 0; i < o->n_entries; i++) {
        for (int s = 0; s < HX_OPTIM_MAX_SLOTS; s++) hx_tensor_destroy(&o->entries[i].slots[s]);
        hx_tensor_destroy(&o->entries[i].master);
        for (int k = 0; o->entries[i].shares != NULL && k < hx_param_n_logical(o->entries[i].param); k++)
            hx_layout_destroy(&o->entries[i].shares[k]);
        hx_mem_free((void **)&o->entries[i].shares);
    }
    hx_mem_free((void **)&o->entries);
    hx_mem_free((void **)&o->configs);
    hx_mem_free((void **)optim);
}

/* ---- update ---- */

static hx_status update(const hx_optim *optim, hx_ctx *ctx, hx__optim_entry *entry, int64_t step, double lr,
                        hx_tensor *gscale) {
    HX_AUTO_TENSOR value = NULL;
    HX_AUTO_TENSOR grad = NULL;
    HX_TRY(hx_param_own(entry->param, entry->param->value, &value));
    HX_TRY(hx_param_own_grad(entry->param, &grad));
    hx_tensor *const in[2] = {grad, gscale};
    hx_tensor *out[HX_OP_MAX_OUT] = {entry->master ? entry->master : value};
    unsigned skip = 0;
    const int rounded = 1 + optim->type->n_slots; /* the last output */
    hx_op_attr attr;
    for (int s = 0; s < optim->type->n_slots; s++) {
        out[1 + s] = entry->slots[s];
        if (entry->slots[s] == NULL) skip |= 2u << s;
    }
    optim->type->attr(entry, step, lr, &attr);
    if (entry->master) out[rounded] = value;
    else skip |= 1u << rounded;
    return hx_op_run(ctx, optim->type->op, in, 2, &attr, skip, out);
}

static hx_status update_all(const hx_optim *optim, hx_ctx *ctx, int64_t step, double lr, hx_tensor *gscale) {
    for (int64_t i = 0; i < optim->n_entries; i++) {
        hx__optim_entry *entry = &optim->entries[i];
        HX_TRY(update(optim, ctx, entry, step, lr * entry->lr_scale, gscale));
    }
    return HX_OK;
}

hx_status hx__optim_batch_begin(const hx_ctx *ctx) { return ctx->anomaly ? HX_OK : hx_stream_batch(ctx->stream, true); }

hx_status hx__optim_batch_end(const hx_ctx *ctx, hx_status status) {
    if (!ctx->anomaly) HX_TRY(hx_stream_batch(ctx->stream, false));
    return status;
}

hx_status hx_optim_step(hx_optim *optim, hx_ctx *ctx, int64_t step, double lr, hx_tensor *gscale) {
    hx_ctx quiet = hx_no_grad(ctx);
    if (step < 1) return HX_FAIL(HX_ERR_ARG, "step %lld: expected 1 for the first update", (long long)step);
    if (!isfinite(lr)) return HX_FAIL(HX_ERR_ARG, "lr = %g: expected a finite number", lr);
    /* All gradients are looked for first: a failure leaves no parameter updated. */
    for (int64_t i = 0; i < optim->n_entries; i++)
        if (hx_tensor_grad(optim->entries[i].param->value) == NULL && optim->entries[i].param->own_grad == NULL)
            return HX_FAIL(HX_ERR_STATE,
                           "parameter %s has no gradient: it took no part in the loss; freeze it if that "
                           "is meant",
                           optim->entries[i].param->path);
    HX_TRY(hx__optim_batch_begin(&quiet));
    return hx__optim_batch_end(&quiet, update_all(optim, &quiet, step, lr, gscale));
}

/* ---- state ---- */

hx_status hx__param_items(const char *prefix, const hx_param *param, const hx_tensor *data, const hx_layout *shares,
                          const hx_agreement *ranks, hx_state_list *list) {
    for (int k = 0; k < hx_param_n_logical(param); k++) {
        char path[HX_NAME_BYTES];
        hx_state_item item = {.dtype = hx_tensor_dtype(data), .data = hx_tensor_data(data), .device = hx_tensor_device(data),
                              .is_steady = !param->is_buffer}; /* buffers change in forward, all else in the update */
        hx_agreement_copies(ranks, param->is_split, shares != NULL, &item.replica, &item.n_replicas);
        hx_param_logical(param, k, path, &item.layout);
        if (shares != NULL) item.layout = &shares[k];
        snprintf(item.name, sizeof item.name, "%s%s", prefix, path);
        HX_TRY(hx_state_list_add(list, &item));
    }
    return HX_OK;
}

hx_status hx__scalar_item(const char *name, hx_dtype dtype, void *data, const hx_agreement *ranks, hx_state_list *list) {
    static const hx_box box = {.extent = {1}};
    static const hx_layout layout = {.shape = {.ndim = 1, .dims = {1}}, .n_boxes = 1, .boxes = (hx_box *)&box};
    hx_state_item item = {.dtype = dtype, .layout = &layout, .data = data};
    hx_agreement_copies(ranks, false, false, &item.replica, &item.n_replicas);
    snprintf(item.name, sizeof item.name, "%s", name);
    return hx_state_list_add(list, &item);
}

hx_status hx_optim_state(hx_optim *optim, const hx_agreement *ranks, hx_state_list *list) {
    for (int s = 0; s <= optim->type->n_slots; s++) {
        const bool is_master = s == optim->type->n_slots;
        char prefix[64];
        snprintf(prefix, sizeof prefix, "/optim/%s/", is_master ? "master" : optim->type->slots[s]);
        for (int64_t i = 0; i < optim->n_entries; i++) {
            const hx__optim_entry *entry = &optim->entries[i];
            const hx_tensor *data = is_master ? entry->master : entry->slots[s];
            if (data != NULL) HX_TRY(hx__param_items(prefix, entry->param, data, entry->shares, ranks, list));
        }
    }
    return HX_OK;
}

hx_status hx_params_state(const hx_param_list *params, const hx_agreement *ranks, hx_state_list *list) {
    for (int64_t i = 0; i < params->n_items; i++)
        HX_TRY(hx__param_items("/model/", params->items[i], params->items[i]->value, NULL, ranks, list));
    return HX_OK;
}
