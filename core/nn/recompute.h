/* Which layers of a model are run again in backward instead of keeping their activations (hx_checkpoint). One of three
 * policies is applied to a sequence of blocks:
 *
 *     hx_layer *blocks = hx_layer_find(gpt, "blocks");
 *     HX_TRY(hx_recompute_apply(blocks, &(hx_recompute_config){.every_n = 5}, NULL, NULL, &report));
 *     HX_TRY(hx_recompute_apply(blocks, &(hx_recompute_config){.budget_bytes = 2 << 30}, &ctx, x, &report));
 */
#ifndef HX_CORE_NN_RECOMPUTE_H
#define HX_CORE_NN_RECOMPUTE_H

#include "core/nn/layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Exactly one is given; all zero: nothing is recomputed. */
typedef struct hx_recompute_config {
    int64_t every_n;           /* segments of that many consecutive blocks; sqrt of their number needs the least memory */
    const char *const *layers; /* [n_layers] globs of paths from the root of the tree, as hx_layer_freeze has them ('*'
                                  matches dots too): "blocks.*", "blocks.*.mlp", "blocks.[0-3]". The root's path is "".
                                  What is inside a layer that matches is not chosen again */
    int n_layers;
    int64_t budget_bytes; /* of activations; as few of the first blocks as will do are segments of their own: what they
                             save would be kept longest */
} hx_recompute_config;

typedef struct hx_recompute_report {
    int64_t n_blocks;       /* in the sequence; with `layers`: layers in the tree */
    int64_t n_recomputed;   /* of them */
    int64_t plain_bytes;    /* with a budget: what the blocks keep between forward and backward, nothing recomputed */
    int64_t expected_bytes; /* with a budget: the most that is kept at a time, a block run again included; gradients and
                               what a kernel needs while it runs come on top */
} hx_recompute_report;

/** Apply a policy; what an earlier one set in the sequence (with `layers`: in the whole tree) is undone.
 *  @param sequence  made by hx_sequential_create_consume
 *  @param ctx, x    for a budget only, else may be NULL: the sequence is run once on x, an input of the shape that
 *                   training will use, to measure the bytes of each block. On a meta device (a model built there to plan)
 *                   nothing is computed
 *  @param[out] report  may be NULL
 *  @return HX_ERR_CONFIG: a pattern that matches no layer, more than one policy, or a budget below what recomputing all
 *          blocks needs, with that number */
hx_status hx_recompute_apply(hx_layer *sequence, const hx_recompute_config *config, const hx_ctx *ctx, hx_tensor *x,
                             hx_recompute_report *report);

#ifdef __cplusplus
}
#endif
#endif
