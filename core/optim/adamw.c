#include "core/base/mem.h"
#include "core/optim/optim_impl.h"

static hx_status adamw_update(hx_ctx *ctx, const hx_optim_config *config, hx__optim_entry *entry,
                              int64_t step, double lr, hx_tensor *gscale) {
    hx_tensor *value = entry->param->value;
    hx_tensor *const in[2] = {hx_tensor_grad(value), gscale};
    hx_tensor *out[HX_OP_MAX_OUT] = {value, entry->slots[0], entry->slots[1]};
    const hx_op_attr attr = {.adamw = {.lr = lr,
                                       .beta1 = config->beta1,
                                       .beta2 = config->beta2,
                                       .eps = config->eps,
                                       .weight_decay = entry->weight_decay,
                                       .step = step}};
    return hx_op_run(ctx, HX_OP_adamw, in, 2, &attr, 0, out);
}

static const hx__optim_type adamw_type = {
    .name = "adamw", .n_slots = 2, .slots = {"m", "v"}, .update = adamw_update};

hx_status hx_adamw_create(hx_device *device, hx_stream *stream, const hx_param_group *groups, int n_groups,
                          const hx_optim_config *config, hx_optim **out) {
    return hx__optim_create(&adamw_type, device, stream, groups, n_groups, config, out);
}

hx_status hx_adamw_create_default(hx_device *device, hx_stream *stream, const hx_param_list *params,
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
    status = hx_adamw_create(device, stream, groups, 2, config, out);
    hx_mem_free((void **)&sorted);
    return status;
}
