/* The optimizers: slots, and the way from a configuration to the attributes of an update. */
#include "core/optim/optim_impl.h"

static void adamw_attr(const hx__optim_entry *entry, int64_t step, double lr, hx_op_attr *out) {
    const hx_optim_config *c = entry->config;
    *out = (hx_op_attr){.adamw = {.lr = lr,
                                  .beta1 = c->beta1,
                                  .beta2 = c->beta2,
                                  .eps = c->eps,
                                  .weight_decay = entry->weight_decay,
                                  .step = step,
                                  .l2 = c->optimizer == HX_OPTIM_ADAM}};
}

static void sgd_attr(const hx__optim_entry *entry, int64_t step, double lr, hx_op_attr *out) {
    const hx_optim_config *c = entry->config;
    *out = (hx_op_attr){.sgd = {.lr = lr,
                                .weight_decay = entry->weight_decay,
                                .momentum = c->momentum,
                                .dampening = c->dampening,
                                .nesterov = c->nesterov,
                                .is_first = step == 1}};
}

static unsigned sgd_unused(const hx_optim_config *c) { return c->momentum > 0 ? 0 : 1; }

static void rmsprop_attr(const hx__optim_entry *entry, int64_t step, double lr, hx_op_attr *out) {
    const hx_optim_config *c = entry->config;
    (void)step;
    *out = (hx_op_attr){.rmsprop = {.lr = lr,
                                    .alpha = c->alpha,
                                    .eps = c->eps,
                                    .weight_decay = entry->weight_decay,
                                    .momentum = c->momentum}};
}

static unsigned rmsprop_unused(const hx_optim_config *c) {
    return (c->centered ? 0u : 2u) | (c->momentum > 0 ? 0u : 4u);
}

static void lion_attr(const hx__optim_entry *entry, int64_t step, double lr, hx_op_attr *out) {
    const hx_optim_config *c = entry->config;
    (void)step;
    *out = (hx_op_attr){
        .lion = {.lr = lr, .beta1 = c->beta1, .beta2 = c->beta2, .weight_decay = entry->weight_decay}};
}

const hx__optim_type hx__optim_types[HX_OPTIM_COUNT] = {
    [HX_OPTIM_ADAMW] = {HX_OP_adamw, 2, {"m", "v"}, NULL, adamw_attr},
    [HX_OPTIM_ADAM] = {HX_OP_adamw, 2, {"m", "v"}, NULL, adamw_attr},
    [HX_OPTIM_SGD] = {HX_OP_sgd, 1, {"momentum"}, sgd_unused, sgd_attr},
    [HX_OPTIM_RMSPROP] = {HX_OP_rmsprop, 3, {"v", "mean", "momentum"}, rmsprop_unused, rmsprop_attr},
    [HX_OPTIM_LION] = {HX_OP_lion, 1, {"m"}, NULL, lion_attr},
};
