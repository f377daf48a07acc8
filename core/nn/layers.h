/* The layers: linear, embedding, norms, convolutions, pools, attention, feed-forward, GPT block, GPT. Each create
 * function builds the layer with uninitialised parameters; hx_layer_init, the model's own (hx_gpt_init) or hx_param_init
 * fills them.
 */
#ifndef HX_CORE_NN_LAYERS_H
#define HX_CORE_NN_LAYERS_H

#include "core/base/options.h"
#include "core/nn/layer.h"

#ifdef __cplusplus
extern "C" {
#endif

/** y = x w^T + b. Parameters: weight [out,in], bias [out]. x [..,in] -> [..,out]
 *  hx_layer_init: weight Kaiming-normal, deviation sqrt(2/in) (He et al. 2015), bias 0 */
hx_status hx_linear_create(hx_device *device, hx_dtype dtype, int64_t n_in, int64_t n_out, bool has_bias, hx_layer **out);
/** ids [..] -> [..,dim]. Parameters: weight [n,dim]; hx_layer_init: N(0,1) */
hx_status hx_embedding_create(hx_device *device, hx_dtype dtype, int64_t n, int64_t dim, hx_layer **out);
/** Ba et al. 2016. Parameters: weight [dim], bias [dim]; hx_layer_init: 1, 0. @param eps 0 means 1e-5 */
hx_status hx_layernorm_create(hx_device *device, hx_dtype dtype, int64_t dim, double eps, hx_layer **out);
/** Zhang & Sennrich 2019. Parameters: weight [dim]; hx_layer_init: 1. @param eps 0 means 1e-5 */
hx_status hx_rmsnorm_create(hx_device *device, hx_dtype dtype, int64_t dim, double eps, hx_layer **out);
/** The norm of a residual sum, s = x + r and y = norm(s) in one pass, instead of hx_add and hx_layer_forward: the same bits.
 *  Runs as the layer's forward does: named by its path, and recomputed as a segment of x and r where it is set to be.
 *  @param norm  of hx_layernorm_create or hx_rmsnorm_create; @param x, r [..,dim] of one shape
 *  @param[out] y, s [..,dim]
 *  @return HX_ERR_ARG: NULL, or no such layer; HX_ERR_SHAPE: x and r differ, or their last dim is not dim */
hx_status hx_norm_add(hx_layer *norm, hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor **y, hx_tensor **s);
/** Inverted dropout. @param p in [0,1) */
hx_status hx_dropout_create(hx_device *device, double p, hx_layer **out);
/** An activation: op is one of HX_OP_relu, silu, gelu_tanh, gelu_erf, softplus, tanh, sigmoid. */
hx_status hx_activation_create(hx_device *device, hx_op op, hx_layer **out);
/** x where x > 0, else slope x (Maas et al. 2013; 0.01 is usual). */
hx_status hx_leaky_relu_create(hx_device *device, double slope, hx_layer **out);
/** Children run one after the other. Takes ownership of layers [n] (entries become NULL), named "0", "1", ... */
hx_status hx_sequential_create_consume(hx_device *device, hx_layer **layers, int n, hx_layer **out);
/** Recompute in segments of n consecutive children (hx_checkpoint), the last one shorter; 0: not. About sqrt(L) of L
 *  children needs the least memory. See core/nn/recompute.h for policies. @return HX_ERR_ARG: not a sequence, n < 0 */
hx_status hx_sequential_set_recompute(hx_layer *sequence, int64_t n);

/* ---- convolutions, pools and batch norm; x [B,C,L..] with 1 to 3 spatial dims ---- */

typedef struct hx_conv_layer_config {
    int64_t n_in, n_out;                                   /* channels */
    int64_t kernel[3], stride[3], padding[3], dilation[3]; /* by spatial dim; 0 of stride or dilation means 1 */
    int64_t groups;                                        /* 0 means 1 */
    bool has_bias;
    hx_pad_mode pad_mode; /* what stands outside x */
} hx_conv_layer_config;
/** Cross-correlation, [B,n_in,L..] -> [B,n_out,M..]; see hx_conv. Parameters: weight [n_out,n_in/groups,kernel..], bias
 *  [n_out]. @param n_spatial  1 to 3
 *  @return HX_ERR_CONFIG names the number that is out of range */
hx_status hx_conv_create(hx_device *device, hx_dtype dtype, int n_spatial, const hx_conv_layer_config *config, hx_layer **out);
/** Pools; see hx_max_pool and hx_avg_pool. @param window  [n_spatial]; @param config  copied, NULL: the window's own stride
 *  @param count_padding  padded zeros count in the mean */
hx_status hx_max_pool_create(hx_device *device, int n_spatial, const int64_t *window, const hx_conv_config *config, hx_layer **out);
hx_status hx_avg_pool_create(hx_device *device, int n_spatial, const int64_t *window, const hx_conv_config *config,
                             bool count_padding, hx_layer **out);
/** [B,..] -> [B,rest] */
hx_status hx_flatten_create(hx_device *device, hx_layer **out);

typedef struct hx_batchnorm_config {
    double momentum; /* share of the newest batch in the running statistics, 0 to 1 */
    double eps;      /* added to the variance */
    bool is_affine;  /* has weight and bias */
} hx_batchnorm_config;
#define HX_BATCHNORM_DEFAULT ((hx_batchnorm_config){.momentum = 0.1, .eps = 1e-5, .is_affine = true})
/** Ioffe & Szegedy 2015, with PyTorch's semantics: in training, the statistics of the batch normalise x and move the
 *  running ones by `momentum` (the variance with the unbiased estimate, if a channel has more than one element);
 *  otherwise the running ones normalise x. A segment run again for backward does not move them.
 *  Parameters: weight [n_channels], bias [n_channels]. Buffers: running_mean 0 and running_var 1 at first, [n_channels],
 *  f32 for half types; every rank gathers its own, of which the trainer takes the mean (but see hx_batchnorm_set_sync).
 *  @param config  NULL: HX_BATCHNORM_DEFAULT */
hx_status hx_batchnorm_create(hx_device *device, hx_dtype dtype, int64_t n_channels, const hx_batchnorm_config *config,
                              hx_layer **out);

/* Ranks whose samples make one batch for batch norm; implemented over communicators in dist/dp/syncnorm.h. */
typedef struct hx_batch_sync {
    void *self;
    /** Collective, in forward and in backward. Not differentiable.
     *  @param which  number of the layer whose running statistics the rows move; -1: nobody's
     *  @param row  [n] f64; @param[out] all [n_ranks,n] that of each rank, 0 of a rank that has no samples left; holds until
     *  the next call */
    hx_status (*gather)(void *self, hx_ctx *ctx, int which, hx_tensor *row, hx_tensor **all);
} hx_batch_sync;

/** From the next forward on, a batch in training is what all ranks feed the layer at a time, however many samples each:
 *  normalisation, its gradient and the running statistics are those of one process that has all of them, and the running
 *  statistics the same on all ranks. Gradients of weight and bias stay the rank's own part of a sum, as data parallelism has it.
 *  Every rank runs the same layers in the same order; one that has fewer batches, or fails, goes on answering as
 *  hx_batch_sync.gather says.
 *  Formula: with n_r, mean_r, var_r of rank r's elements and N = sum n_r:  mean = sum n_r mean_r / N,
 *      var = sum n_r (var_r + (mean_r - mean)^2) / N;  z = (x - mean) rstd;  with sums over all ranks' elements
 *      dx = rstd w (dy - sum dy / N - z sum(dy z) / N)
 *  Memory: x is saved for backward, and statistics; in between some copies of x in f32 (f64)
 *  @param sync  borrowed; NULL: statistics of this rank's samples again; @param which  number of the layer, told to gather
 *  @return HX_ERR_ARG for a layer of another type
 *  Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances", eq. 2.1, of
 *  several groups: squares are of deviations only, so nothing cancels however large the mean */
hx_status hx_batchnorm_set_sync(hx_layer *layer, const hx_batch_sync *sync, int which);
/** Channels of a batch norm; 0: the layer is none. */
int64_t hx_batchnorm_channels(const hx_layer *layer);
/** Move the running statistics as the forward did that gathered these rows, on a rank that had no samples for it.
 *  @param rows  [n_ranks, 1 + 2 n_channels] */
hx_status hx_batchnorm_follow(hx_layer *layer, hx_ctx *ctx, hx_tensor *rows);

/** Causal multi-head self-attention, x [B,T,dim] -> [B,T,dim]. Parameters: a fused weight [(H+2G)*D, dim] with bias,
 *  stored in checkpoints as q.weight, k.weight, v.weight (and biases), and proj.weight, proj.bias.
 *  @param n_kv_heads  G; 0 means H. @return HX_ERR_CONFIG if dim % H or H % G */
hx_status hx_attention_create(hx_device *device, hx_dtype dtype, int64_t dim, int64_t n_heads, int64_t n_kv_heads,
                              bool has_bias, hx_layer **out);
/** Turn queries and keys by their positions 0 .. T-1 (hx_rope; Su et al. 2021). @param base  e.g. 10000; 0: no longer
 *  @return HX_ERR_CONFIG if a head has an odd number of elements; HX_ERR_ARG if the layer is no attention */
hx_status hx_attention_set_rotary(hx_layer *attention, double base);
/** From the next forward on, query t sees key s only where the mask is true.
 *  @param mask  bool, broadcast to [B,H,T,T]; retained until it is replaced; NULL: none
 *  @param is_causal  keys behind the query are hidden as well (so at creation) */
hx_status hx_attention_set_mask(hx_layer *attention, hx_tensor *mask, bool is_causal);

/** Gated feed-forward (Shazeer 2020), x [..,dim] -> [..,dim]: out(silu(gate(x)) * up(x)). Parameters: a fused weight
 *  [2*hidden, dim] with bias, stored in checkpoints as gate.weight, up.weight (and biases), and out.weight, out.bias. */
hx_status hx_swiglu_create(hx_device *device, hx_dtype dtype, int64_t dim, int64_t hidden, bool has_bias, hx_layer **out);

/* kind, field, default, min, max, help */
#define HX_GPT_OPTIONS(X)                                                                                    \
    X(INT, vocab, 256, 2, 1 << 24, "number of token ids; 256 for bytes")                                     \
    X(INT, ctx, 128, 1, 1 << 20, "tokens in a training sequence, and the longest context")                   \
    X(INT, layers, 4, 1, 1000, "transformer blocks")                                                         \
    X(INT, dim, 192, 1, 1 << 20, "width of the residual stream")                                             \
    X(INT, heads, 6, 1, 4096, "attention heads; must divide dim")                                            \
    X(INT, kv_heads, 0, 0, 4096, "key-value heads (grouped-query attention); must divide heads; 0: heads")   \
    X(CHOICE, positions, 0, "learned|rotary|none", 0, "how tokens know their position")                      \
    X(REAL, rope_base, 10000, 1, 1e12, "rotary positions: base of the frequencies")                          \
    X(CHOICE, mlp, 0, "plain|swiglu", 0, "feed-forward: out(act(in x)), or out(silu(gate x) * up x)")        \
    X(INT, mlp_ratio, 4, 1, 64, "feed-forward width as a multiple of dim")                                   \
    X(INT, mlp_dim, 0, 0, 1 << 24, "feed-forward width; 0: mlp_ratio * dim")                                 \
    X(REAL, dropout, 0.0, 0, 0.99, "dropout probability in embedding, attention output and feed-forward")    \
    X(CHOICE, norm, 0, "layernorm|rmsnorm", 0, "normalisation before each sub-layer")                        \
    X(REAL, norm_eps, 1e-5, 1e-12, 1, "added to the variance in normalisations")                             \
    X(CHOICE, activation, 0, "gelu_tanh|gelu_erf|silu|relu", 0, "non-linearity of the plain feed-forward")   \
    X(BOOL, bias, true, 0, 0, "biases in linear layers")                                                     \
    X(BOOL, tied, true, 0, 0, "the output projection is the token embedding")                                \
    X(CHOICE, dtype, 0, "f32|f64|bf16|f16", 0, "element type of parameters and activations")                 \
    X(INT, recompute, 0, 0, 1000, "blocks in a segment whose activations are computed again in backward; 0: keep all") \
    X(TEXT, recompute_layers, "", 0, 0, "instead: globs of layers that are, e.g. blocks.*.mlp,blocks.0")     \
    X(INT, recompute_budget_mb, 0, 0, 1 << 30, "instead: as few blocks as keep activations within so many MB; 0: no")

HX_OPTIONS_STRUCT(hx_gpt_config, HX_GPT_OPTIONS);
#define HX_GPT_DEFAULT HX_OPTIONS_DEFAULT(HX_GPT_OPTIONS)
extern const hx_option hx_gpt_options[];
extern const int hx_gpt_n_options;
/** Ranges of all options, and what of them must fit together. @return as hx_gpt_create */
hx_status hx_gpt_config_check(const hx_gpt_config *config);

/* The policies recompute_layers and recompute_budget_mb need the whole model, and the size of a batch: hx_session_train
 * applies them; elsewhere call hx_recompute_apply. */

/** ids i32 [B,T] -> logits [B,T,vocab]: embedding, pre-norm blocks, final norm, output projection. By default GPT-2
 *  (Radford et al. 2019: learned positions, layer norm, GELU); LLaMA (Touvron et al. 2023) is {.norm = rmsnorm,
 *  .positions = rotary, .mlp = swiglu, .bias = false, .tied = false}, with .kv_heads as of LLaMA 2.
 *  @return HX_ERR_CONFIG with both numbers if heads does not divide dim or kv_heads does not divide heads, or if
 *          rotary positions meet an odd number of elements per head */
hx_status hx_gpt_create(hx_device *device, const hx_gpt_config *config, hx_layer **out);
/** Normal(0, 0.02), output projections of residual branches divided by sqrt(2 layers), norms 1, biases 0. */
hx_status hx_gpt_init(hx_layer *gpt, hx_stream *stream, uint64_t seed);

#ifdef __cplusplus
}
#endif
#endif
