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
    hx_optim_config config;
    int64_t n_entries;
    hx__optim_entry *entries; /* owned [n_entries], in the order of groups and of their parameters */
};

hx_status hx__optim_check_config(const hx_optim_config *c) {
    if (!(c->lr >= 0 && isfinite(c->lr)))
        return HX_FAIL(HX_ERR_CONFIG, "lr = %g: expected a finite number >= 0", c->lr);
    if (!(c->beta1 >= 0 && c->beta1 < 1) || !(c->beta2 >= 0 && c->beta2 < 1))
        return HX_FAIL(HX_ERR_CONFIG, "beta1 = %g, beta2 = %g: expected 0 <= beta < 1", c->beta1, c->beta2);
    if (!(c->eps >= 0 && isfinite(c->eps)))
        return HX_FAIL(HX_ERR_CONFIG, "eps = %g: expected a finite number >= 0", c->eps);
    if (!(c->weight_decay >= 0 && isfinite(c->weight_decay)))
        return HX_FAIL(HX_ERR_CONFIG, "weight_decay = %g: expected a finite number >= 0", c->weight_decay);
    if (!(c->clip >= 0)) return HX_FAIL(HX_ERR_CONFIG, "clip = %g: expected a number >= 0", c->clip);
    return HX_OK;
}

/* ---- creation ---- */

static hx_status check_groups(const hx_param_group *groups, int n_groups) {
    if (n_groups < 1 || groups == NULL)
        return HX_FAIL(HX_ERR_ARG, "%d parameter groups: expected at least 1", n_groups);
    for (int g = 0; g < n_groups; g++)
        if (!(groups[g].lr_scale >= 0 && isfinite(groups[g].lr_scale)) ||
            !(groups[g].weight_decay >= 0 && isfinite(groups[g].weight_decay)))
            return HX_FAIL(HX_ERR_CONFIG,
                           "group %d: lr_scale = %g, weight_decay = %g: expected finite numbers >= 0", g,
                           groups[g].lr_scale, groups[g].weight_decay);
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

static hx_status fill_entry(hx_optim *optim, hx_device *device, hx_stream *stream,
                            const hx_param_group *group, hx_param *param) {
    hx__optim_entry *entry = &optim->entries[optim->n_entries++];
    *entry =
        (hx__optim_entry){.param = param, .lr_scale = group->lr_scale, .weight_decay = group->weight_decay};
    for (int s = 0; s < optim->type->n_slots; s++) {
        HX_TRY(hx_tensor_create(device, hx_tensor_dtype(param->value), hx_tensor_shape(param->value),
                                &entry->slots[s]));
        HX_TRY(hx_tensor_fill(stream, entry->slots[s], 0));
    }
    return HX_OK;
}

hx_status hx__optim_create(const hx__optim_type *type, hx_device *device, hx_stream *stream,
                           const hx_param_group *groups, int n_groups, const hx_optim_config *config,
                           hx_optim **out) {
    hx_optim *optim = NULL;
    hx_status status;
    int64_t n = 0;
    HX_TRY(hx__optim_check_config(config));
    HX_TRY(check_groups(groups, n_groups));
    for (int g = 0; g < n_groups; g++) n += groups[g].n_params;
    HX_TRY(hx_mem_alloc_array(1, sizeof *optim, (void **)&optim));
    optim->type = type;
    optim->config = *config;
    HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *optim->entries, (void **)&optim->entries), done);
    for (int g = 0; g < n_groups; g++)
        for (int64_t i = 0; i < groups[g].n_params; i++)
            if (!groups[g].params[i]->is_frozen)
                HX_TRY_GOTO(fill_entry(optim, device, stream, &groups[g], groups[g].params[i]), done);
    HX_TRY_GOTO(check_unique(optim), done);
    *out = optim;
    return HX_OK;
done:
    hx_optim_destroy(&optim);
    return status;
}

void hx_optim_destroy(hx_optim **optim) {
    hx_optim *o = *optim;
    if (o == NULL) return;
    for (int64_t i = 0; i < o->n_entries; i++)
        for (int s = 0; s < HX_OPTIM_MAX_SLOTS; s++) hx_tensor_destroy(&o->entries[i].slots[s]);
    hx_mem_free((void **)&o->entries);
    hx_mem_free((void **)optim);
}

/* ---- update ---- */

hx_status hx_optim_step(hx_optim *optim, hx_ctx *ctx, int64_t step, double lr, hx_tensor *gscale) {
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    if (step < 1) return HX_FAIL(HX_ERR_ARG, "step %lld: expected 1 for the first update", (long long)step);
    if (!isfinite(lr)) return HX_FAIL(HX_ERR_ARG, "lr = %g: expected a finite number", lr);
    /* All gradients are looked for first: a failure leaves no parameter updated. */
    for (int64_t i = 0; i < optim->n_entries; i++)
        if (hx_tensor_grad(optim->entries[i].param->value) == NULL)
            return HX_FAIL(HX_ERR_STATE,
                           "parameter %s has no gradient: it took no part in the loss; freeze it if that "
                           "is meant",
                           optim->entries[i].param->path);
    for (int64_t i = 0; i < optim->n_entries; i++) {
        hx__optim_entry *entry = &optim->entries[i];
        HX_TRY(optim->type->update(&quiet, &optim->config, entry, step, lr * entry->lr_scale, gscale));
    }
    return HX_OK;
}

/* ---- state ---- */

/* A tensor that shares a parameter's layout, as one item per logical tensor: "<prefix><path>". */
static hx_status add_items(const char *prefix, const hx_param *param, const hx_tensor *data, int replica,
                           int n_replicas, hx_state_list *list) {
    hx_device_props props;
    hx_device_props_get(hx_tensor_device(data), &props);
    if (!props.is_host_memory)
        return HX_FAIL(HX_ERR_UNSUPPORTED,
                       "parameter %s lies on device %s, whose memory the host cannot read", param->path,
                       props.name);
    for (int k = 0; k < hx_param_n_logical(param); k++) {
        char path[HX_NAME_BYTES];
        hx_state_item item = {.dtype = hx_tensor_dtype(data),
                              .data = hx_tensor_data(data),
                              .replica = replica,
                              .n_replicas = n_replicas};
        hx_param_logical(param, k, path, &item.layout);
        snprintf(item.name, sizeof item.name, "%s%s", prefix, path);
        HX_TRY(hx_state_list_add(list, &item));
    }
    return HX_OK;
}

hx_status hx_optim_state(hx_optim *optim, int replica, int n_replicas, hx_state_list *list) {
    for (int s = 0; s < optim->type->n_slots; s++) {
        char prefix[64];
        snprintf(prefix, sizeof prefix, "/optim/%s/", optim->type->slots[s]);
        for (int64_t i = 0; i < optim->n_entries; i++)
            HX_TRY(add_items(prefix, optim->entries[i].param, optim->entries[i].slots[s], replica, n_replicas,
                             list));
    }
    return HX_OK;
}

hx_status hx_params_state(const hx_param_list *params, int replica, int n_replicas, hx_state_list *list) {
    for (int64_t i = 0; i < params->n_items; i++)
        HX_TRY(add_items("/model/", params->items[i], params->items[i]->value, replica, n_replicas, list));
    return HX_OK;
}
