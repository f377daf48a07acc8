/* What the optimizers share: an optimizer is a row of a table: an op that updates one parameter, its slots, and how
 * its attributes are filled.
 */
#ifndef HX_CORE_OPTIM_OPTIM_IMPL_H
#define HX_CORE_OPTIM_OPTIM_IMPL_H

#include "core/optim/optim.h"

#define HX_OPTIM_MAX_SLOTS (HX_OP_MAX_OUT - 2) /* the first output is the parameter, the last the one rounded to a half type */

/* One trained parameter with its group's hyperparameters. */
typedef struct hx__optim_entry {
    hx_param *param; /* borrowed */
    double lr_scale, weight_decay;
    const hx_optim_config *config;        /* of its group, borrowed from the optimizer */
    hx_tensor *slots[HX_OPTIM_MAX_SLOTS]; /* owned, of what this rank updates (hx_param_own); NULL: not needed */
    hx_tensor *master;                    /* owned, likewise, f32; NULL unless the parameter is of half type */
    hx_layout *shares;                    /* owned [hx_param_n_logical]: where that lies; NULL: all of it is here */
} hx__optim_entry;

typedef struct hx__optim_type {
    hx_op op; /* g, gscale; parameter, slots, rounded parameter */
    int n_slots;
    const char *slots[HX_OPTIM_MAX_SLOTS]; /* names in checkpoints: "/optim/<slot>/<path>" */
    /* slots (bit s) that this configuration does without; NULL: none */
    unsigned (*unused)(const hx_optim_config *config);
    /* lr has been scaled for the entry's group */
    void (*attr)(const hx__optim_entry *entry, int64_t step, double lr, hx_op_attr *out);
} hx__optim_type;

extern const hx__optim_type hx__optim_types[HX_OPTIM_COUNT];

/* Ops between the two are a batch of the context's stream, but in anomaly mode, which looks at the outputs of each. The
 * batch is ended whatever came of them: hx__optim_batch_end gives back the end's own failure, else `status`, that of the ops. */
hx_status hx__optim_batch_begin(const hx_ctx *ctx);
hx_status hx__optim_batch_end(const hx_ctx *ctx, hx_status status);
/* The configuration's numbers are within their ranges. */
hx_status hx__optim_check_config(const hx_optim_config *config);
/* A tensor of a parameter's elements as one item per logical tensor: "<prefix><path>".
 * @param shares  [hx_param_n_logical] of what this rank updates, if `data` is that alone; NULL: it is the whole */
hx_status hx__param_items(const char *prefix, const hx_param *param, const hx_tensor *data, const hx_layout *shares,
                          const hx_agreement *ranks, hx_state_list *list);
/* A number of the host's, f64 or i64, as an item of shape [1]. */
hx_status hx__scalar_item(const char *name, hx_dtype dtype, void *data, const hx_agreement *ranks, hx_state_list *list);

#endif
