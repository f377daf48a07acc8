/* What the files of core/nn share. */
#ifndef HX_CORE_NN_NN_IMPL_H
#define HX_CORE_NN_NN_IMPL_H

#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/nn/shard.h"

/* FNV-1a, 64 bits, of "<path of the layer>." ("" for the root), continued by `text`: with a logical tensor's
 * relative name it is the hash of that tensor's path. Follows the tree as it is now, allocates nothing. */
uint64_t hx__layer_hash(const hx_layer *layer, const char *text);

/* Run fn, whose `arg` is the layer, as the layer's forward is run: ctx->where is its path, and a layer that is recomputed
 * is a segment. For layers that take or give more than one tensor. */
hx_status hx__layer_run(hx_layer *layer, hx_ctx *ctx, hx_checkpoint_fn fn, hx_tensor *const *in, int n_in, hx_tensor **out, int n_out);

/* Attach *child, made a moment ago, to parent, and remember it in *slot (borrowed). */
hx_status hx__layer_adopt(hx_layer *parent, const char *name, hx_layer **child, hx_layer **slot);

/* Name consecutive blocks of rows (dim 0) of a fused parameter as logical tensors of their own. They must add up
 * to its rows; n <= HX__MAX_FUSED. */
#define HX__MAX_FUSED 3
hx_status hx__param_name_rows(hx_param *param, int n, const int64_t *rows, const char *const *names);

/* y = enter(x) w^T + bias: the first of a pair of products, whose outputs `shard` deals out; NULL: it is whole. */
hx_status hx__linear_columns(const hx_shard *shard, hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **y);

/* HX_ERR_ARG unless the layer is of that type. */
hx_status hx__layer_check_type(const hx_layer *layer, const hx_layer_type *type);

/* Sizes that count something: HX_ERR_CONFIG unless n >= 1. */
hx_status hx__layer_check_size(const char *layer, const char *what, int64_t n);

/* One pre-norm transformer block: x + drop(attn(norm1(x))), then the same with mlp and norm2. Children:
 * norm1, attn, norm2, mlp (in, out; or a SwiGLU). The configuration has been checked. */
hx_status hx__gpt_block_create(hx_device *device, const hx_gpt_config *config, hx_layer **out);
/* What hx_gpt_set_shard does with each block. */
hx_status hx__gpt_block_set_shard(hx_layer *layer, const hx_shard *shard);
hx_dtype hx__gpt_dtype(const hx_gpt_config *config);
/* The normalisation that the configuration names. */
hx_status hx__gpt_norm_create(hx_device *device, const hx_gpt_config *config, hx_layer **out);

#endif
