/* What the optimizers share: an optimizer is a row of this table and a function that updates one parameter.
 */
#ifndef HX_CORE_OPTIM_OPTIM_IMPL_H
#define HX_CORE_OPTIM_OPTIM_IMPL_H

#include "core/optim/optim.h"

#define HX_OPTIM_MAX_SLOTS 2

/* One trained parameter with its group's hyperparameters. */
typedef struct hx__optim_entry {
    hx_param *param; /* borrowed */
    double lr_scale, weight_decay;
    hx_tensor *slots[HX_OPTIM_MAX_SLOTS]; /* owned, shape and dtype of the parameter */
} hx__optim_entry;

typedef struct hx__optim_type {
    const char *name;
    int n_slots;
    const char *slots[HX_OPTIM_MAX_SLOTS]; /* names in checkpoints: "/optim/<slot>/<path>" */
    /* param, slots <- one update with the gradient times gscale; lr has been scaled for the entry's group */
    hx_status (*update)(hx_ctx *ctx, const hx_optim_config *config, hx__optim_entry *entry, int64_t step,
                        double lr, hx_tensor *gscale);
} hx__optim_type;

/* Build an optimizer of that type with zeroed slots. */
hx_status hx__optim_create(const hx__optim_type *type, hx_device *device, hx_stream *stream,
                           const hx_param_group *groups, int n_groups, const hx_optim_config *config,
                           hx_optim **out);
/* The configuration's numbers are within their ranges. */
hx_status hx__optim_check_config(const hx_optim_config *config);

#endif
