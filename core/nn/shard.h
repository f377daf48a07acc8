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
 *
 * With sequence parallelism (is_sequence; Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer
 * Models", section 4.2) what lies between the pairs, norms and dropouts and the residual stream, is not computed and kept by all
 * ranks alike: of a stream [B,T,..] each has the positions [rank T/size, (rank+1) T/size). enter gathers them, leave scatters
 * the sums: together as much is sent as without, and in backward the inputs of columns once more, of which only parts are kept. A
 * model of your own tells ops on its part of the stream where it lies by hx_ctx.seq_first and seq_total, as random masks depend
 * on it, and marks the parameters that meet the stream there (hx_layer_set_partial).
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
    bool is_sequence; /* between leave and enter a rank has its part of dim 1 */
    /** Collective, in backward. x, the same on all ranks, goes on into different computations: the identity; backward sums the
     *  gradient over the ranks. @param[out] y  another handle on x's memory
     *  is_sequence: collective in both. x [B,T/size,..] of each rank -> y [B,T,..]; backward is leave's forward */
    hx_status (*enter)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    /** Collective, in forward. y is the sum of x over the ranks, the same bits on all; backward passes the gradient on. Half
     *  types are summed in f32.
     *  is_sequence: collective in both. x [B,T,..] -> y [B,T/size,..], the rank's part of the sum; backward is enter's forward.
     *  @return HX_ERR_SHAPE: size does not divide T */
    hx_status (*leave)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    /** leave without is_sequence: for what has no positions. */
    hx_status (*sum)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
    /** Collective. x of all ranks [size,..], in the order of ranks; not differentiable. */
    hx_status (*gather)(void *self, hx_ctx *ctx, hx_tensor *x, hx_tensor **y);
} hx_shard;

/* How a linear layer is cut: by outputs (and its bias with them), or by inputs. */
typedef enum hx_cut { HX_CUT_COLUMNS, HX_CUT_ROWS } hx_cut;

/* Each of these makes an existing layer hold its rank's part: before initialisation, as values are lost, and once. `shard` is
 * borrowed as long as the layer lives. @return HX_ERR_CONFIG: the ranks do not divide what is cut, both numbers named;
 * HX_ERR_STATE: cut already; HX_ERR_ARG: a layer of another type. After a failure a layer of several parameters may be cut in
 * part: it is of use for destruction only.
 * Where x or a result is said to be the same on all ranks, with is_sequence it is the rank's positions [B,T/size,..] of it */

/** HX_CUT_COLUMNS: x [..,in] the same on all ranks -> [..,out/size]. HX_CUT_ROWS: x [..,in/size] -> [..,out], the same on all
 *  ranks; the bias, which all ranks hold, is added once; with is_sequence its gradient is partial.
 *  Memory: with is_sequence columns keep x [B,T/size,in] for backward, which gathers it once more */
hx_status hx_linear_set_shard(hx_layer *linear, const hx_shard *shard, hx_cut cut);
/** Rows of the table are dealt out; a rank looks up those it has, and the sum over ranks is the result. */
hx_status hx_embedding_set_shard(hx_layer *embedding, const hx_shard *shard);
/** Heads are dealt out, key-value heads too. x and the result are the same on all ranks. */
hx_status hx_attention_set_shard(hx_layer *attention, const hx_shard *shard);
/** Hidden elements are dealt out. x and the result are the same on all ranks. */
hx_status hx_swiglu_set_shard(hx_layer *swiglu, const hx_shard *shard);
/** Attention, feed-forward, token embedding and output projection; norms, positions and biases of what is cut by rows are
 *  whole on all ranks. The logits are the rank's columns [B,T,vocab/size]: hx_lm_loss compares them with the targets without
 *  gathering them. With is_sequence gradients of what is whole are partial (norms, learned positions, biases).
 *  @return also HX_ERR_CONFIG: with is_sequence the ranks do not divide ctx; its forward takes T that they divide */
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
/** The layer's own parameters, whole on all ranks, meet the stream between pairs. With is_sequence that is the rank's positions
 *  of it, and their gradients are parts of a sum over the ranks: hx_param.is_partial, which hx_ddp_create acts on. Else nothing
 *  happens. For layers of your own. */
void hx_layer_set_partial(hx_layer *layer, const hx_shard *shard);

#ifdef __cplusplus
}
#endif
#endif
