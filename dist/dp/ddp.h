/* Data parallelism: gradients live in flat buckets and are summed over the dp axis while backward goes on.
 *
 * With ZeRO (Rajbhandari et al. 2020) stage 1 a rank gets the sums of its equal share of each bucket only, updates the
 * parameters, or pieces of parameters, that lie in it, and keeps the optimizer's state of those alone; the new values are then
 * gathered. As much is sent as without, and the state's memory is divided by the number of ranks. With stage 2 it keeps the
 * gradients of its share alone, too: a bucket's other gradients exist from the first that backward writes until they have been sent,
 * after every micro-batch. With ddp.shard = host the ranks of each host share out among themselves, and hosts hold copies: less goes
 * over the network, more memory is used.
 *
 * Buckets are filled in reverse order of registration, the order in which backward finishes them. A bucket whose
 * last gradient is final starts its reduction on the communication thread; buckets always start in the same
 * order. Gradients are sums over samples: whoever updates divides by the global count. On micro-batches other
 * than the last nothing is sent, but with stage 2.
 *
 * Elastic (n_leaves > 0): the gradients are sums of numbered micro-batches in one binary tree, the same bits on any number of ranks
 * and in any stage (hx_leaves). Memory: a rank with c leaves holds up to log2(c) + 2 times its gradients, with stage 2 log2(n_leaves)
 * times its share.
 *
 *     hx_ddp *ddp; HX_TRY(hx_ddp_create(&setup, &ddp));   // also broadcasts the parameters
 *     hx_grad_sync sync; hx_ddp_hook(ddp, &sync);                                  // give this to the trainer
 */
#ifndef HX_DIST_DP_DDP_H
#define HX_DIST_DP_DDP_H

#include "core/base/options.h"
#include "dist/comm/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HX_DDP_OPTIONS(X)                                                                                    \
    X(INT, bucket_bytes, 4 << 20, 1, 1ll << 40, "bytes of a gradient bucket")                                \
    X(INT, zero, 0, 0, 2, "ZeRO stage: 1 shares the optimizer's state out over data-parallel ranks, 2 gradients too") \
    X(CHOICE, shard, 0, "all|host", 0, "who shares out with ddp.zero: all ranks, or those of each host, which then hold copies") \
    X(CHOICE, compress, 0, "none|bf16", 0, "bf16 halves what is sent of f32 gradients; sums are in f32") \
    X(BOOL, sync_batchnorm, false, 0, 0, "batch norm in training over the samples of all data-parallel ranks")

HX_OPTIONS_STRUCT(hx_ddp_config, HX_DDP_OPTIONS);
#define HX_DDP_DEFAULT HX_OPTIONS_DEFAULT(HX_DDP_OPTIONS)
extern const hx_option hx_ddp_options[];
extern const int hx_ddp_n_options;

typedef struct hx_ddp hx_ddp;

typedef struct hx_ddp_setup {
    hx_comm *dp; /* ranks with the same parameters and other samples */
    hx_comm *tp; /* ranks that sum gradients of hx_param.is_partial before; NULL: there are none */
    hx_device *device;
    hx_stream *stream;
    const hx_param_list *params;
    const hx_ddp_config *config;
    int64_t n_leaves; /* of the global batch, in elastic training (hx_leaves); else 0 */
} hx_ddp_setup;

/** Collective over dp. Gives every trained parameter a gradient in a bucket, checks that all ranks have the same
 *  parameters (name, shape, dtype), and broadcasts rank 0's values. Everything is borrowed. With zero, parameters are shared
 *  out (hx_param.is_shared) from now on, and their values are new tensors: make the optimizer afterwards. */
hx_status hx_ddp_create(const hx_ddp_setup *setup, hx_ddp **out);
void hx_ddp_destroy(hx_ddp **ddp);
void hx_ddp_hook(hx_ddp *ddp, hx_grad_sync *out);
int hx_ddp_n_buckets(const hx_ddp *ddp);
/** Which of how many ranks with the same share this one is: with ddp.shard = host there is one on each host, else 0 of 1. */
void hx_ddp_copies(const hx_ddp *ddp, int *copy, int *n_copies);

#ifdef __cplusplus
}
#endif
#endif
