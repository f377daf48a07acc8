/* Tensor parallelism as layers see it: a group of ranks that hold a part of each layer's weights and compute the same
 * samples together (Shoeybi et al. 2019, "Megatron-LM", section 3). Declared here, implemented over communicators in
 * dist/model/tensor.h.
 *
 * A pair of products is cut so that one sum over the ranks is all they exchange: the first by columns, whose outputs (hidden
 * elements, heads) a rank computes from the whole input, the second by rows, whose outputs are partial sums.
 *
 *     x -> enter -> [columns] -> activation -> [rows] -> leave -> + bias
 *
 * Parameters keep their names and initial values: their layouts say which part of the global tensor is here, so that
 * checkpoints and initialisation do not depend on the number of ranks.
 */
#ifndef HX_CORE_NN_SHARD_H
#define HX_CORE_NN_SHARD_H

#include "core/nn/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_shard {
    void *self;
    int rank, size;
    /** Collective, in backward. x, the same on all ranks, goes on into different computations: the identity; backward sums the
     *  gradient over the ranks. @param[out] y  another handle on x's memory */
    hx_status (*enter)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    /** Collective, in forward. y is the sum of x over the ranks, the same bits on all; backward passes the gradient on. Half
     *  types are summed in f32. */
    hx_status (*leave)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    /** Collective. x of all ranks [size,..], in the order of ranks; not differentiable. */
    hx_status (*gather)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
} hx_shard;

/* How a linear layer is cut: by outputs (and its bias with them), or by inputs. */
typedef enum hx_cut { HX_CUT_COLUMNS, HX_CUT_ROWS } hx_cut;

/* Each of these makes an existing layer hold its rank's part: before initialisation, as values are lost, and once. `shard` is
 * borrowed as long as the layer lives. @return HX_ERR_CONFIG: the ranks do not divide what is cut, both numbers named;
 * HX_ERR_STATE: cut already; HX_ERR_ARG: a layer of another type. After a failure a layer of several parameters may be cut in
 * part: it is of use for destruction only */

/** HX_CUT_COLUMNS: x [..,in] the same on all ranks -> [..,out/size]. HX_CUT_ROWS: x [..,in/size] -> [..,out], the same on all
 *  ranks; the bias, which all ranks hold, is added once. */
hx_status hx_linear_set_shard(hx_layer *linear, const hx_shard *shard, hx_cut cut);
/** Rows of the table are dealt out; a rank looks up those it has, and the sum over ranks is the result. */
hx_status hx_embedding_set_shard(hx_layer *embedding, const hx_shard *shard);
/** Heads are dealt out, key-value heads too. x and the result are the same on all ranks. */
hx_status hx_attention_set_shard(hx_layer *attention, const hx_shard *shard);
/** Hidden elements are dealt out. x and the result are the same on all ranks. */
hx_status hx_swiglu_set_shard(hx_layer *swiglu, const hx_shard *shard);
/** Attention, feed-forward, token embedding and output projection; norms, positions and biases of what is cut by rows are
 *  whole on all ranks. The logits are the rank's columns [B,T,vocab/size]: hx_lm_loss compares them with the targets without
 *  gathering them. */
hx_status hx_gpt_set_shard(hx_layer *gpt, const hx_shard *shard);
/** What the GPT was cut by; NULL: it is whole. */
const hx_shard *hx_gpt_shard(const hx_layer *gpt);

/** Sum over targets of -log softmax of logits whose last dim is this rank's equal part of the vocabulary; the whole row is on no
 *  rank. Collective over the shard's ranks.
 *  @param logits [..,V/size]; @param targets [..] ids of the whole vocabulary
 *  @param[out] loss_sum f64 scalar, the same on all ranks; @param[out] count i64 scalar
 *  Formula: lse = log sum_r e^(lse_r), loss = sum_r sum over the rank's targets of (lse - logit) */
hx_status hx_shard_cross_entropy(const hx_shard *shard, hx_ctx *ctx, hx_tensor *logits, hx_tensor *targets, int64_t ignore_index,
                                 hx_tensor **loss_sum, hx_tensor **count);

/** Cut each logical tensor of a parameter (buffer) along `dim` into `shard->size` equal parts, of which the rank's is kept: new
 *  storage without values, and layouts to match. For layers of your own. @return as above */
hx_status hx_param_set_shard(hx_param *param, int dim, const hx_shard *shard);

#ifdef __cplusplus
}
#endif
#endif
