/* What batchnorm.c, statistics of a rank's own samples, and batchnorm_sync.c, of those of all ranks, share. */
#ifndef HX_CORE_NN_BATCHNORM_IMPL_H
#define HX_CORE_NN_BATCHNORM_IMPL_H

#include "core/nn/nn_impl.h"

typedef struct hx__batchnorm {
    hx_layer base;
    hx_param *weight, *bias; /* NULL: 1 and 0 */
    hx_param *running_mean, *running_var;
    hx_batchnorm_config config;
    int64_t n_channels;
    const hx_batch_sync *sync; /* borrowed; NULL: statistics of this rank's samples */
    int which;
} hx__batchnorm;

/* running = (1 - momentum) running + momentum (factor batch + shift), in place */
hx_status hx__batchnorm_move(hx_ctx *ctx, hx_tensor *running, double momentum, double factor, double shift, hx_tensor *batch);
/* One step of a formula: x op v with v [C], rounded to x's dtype, along the channels of x. Consumes *x. */
hx_status hx__batchnorm_along(hx_ctx *ctx, hx_op op, hx_tensor **x, hx_tensor *v);
/* Training with l->sync. */
hx_status hx__batchnorm_sync_forward(const hx__batchnorm *l, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);

#endif
