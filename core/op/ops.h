/* Operations on tensors, recorded for differentiation when the context has a tape.
 *
 * Conventions: operands are borrowed; the result is a new tensor that the caller destroys; `ctx` names the
 * device, the stream and the tape. Shapes are checked before anything is enqueued. Operands may be strided views
 * unless said otherwise. Kernels compute in f64 for f64, else in f32 with one rounding when they store; statistics
 * (mean, rstd, logsumexp) of half types are f32. Errors of all: HX_ERR_SHAPE,
 * HX_ERR_DTYPE (operands whose dtypes do not go together), HX_ERR_UNSUPPORTED (a dtype without arithmetic, as integers in
 * add, or without a kernel on this device), HX_ERR_MEMORY.
 *
 *     HX_AUTO_TENSOR h = NULL;
 *     HX_TRY(hx_linear_op(ctx, x, w, b, &h));
 *     HX_TRY(hx_unary(ctx, HX_OP_gelu_tanh, h, &y));
 */
#ifndef HX_CORE_OP_OPS_H
#define HX_CORE_OP_OPS_H

#include "core/op/op.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hx_tape hx_tape;

/* Where ops run. A plain value; the pointers are borrowed. */
typedef struct hx_ctx {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;       /* NULL: nothing is recorded */
    bool training;       /* dropout acts */
    uint64_t seed;       /* of the run */
    int64_t step;        /* optimizer steps done */
    int64_t sample_base; /* position in the step's global batch of this micro-batch's first sample, so that
                            random masks do not depend on how the batch is divided */
    int64_t seq_first, seq_total; /* likewise for a sequence that ranks share: dim 1 of activations [B,T,C] holds the
                            tokens from seq_first on, of seq_total; seq_total 0: all of them */
    bool is_recompute;   /* a segment is run again for backward: layers leave running statistics alone */
    bool anomaly;        /* check every output: the first op with a number that is not finite fails with HX_ERR_NUMERIC
                            and names itself and `where`; waits for each op */
    const char *where;   /* path of the layer that is running, "blocks.0.mlp"; set by hx_layer_forward; may be NULL */
} hx_ctx;

/** The same context with recording off. */
static inline hx_ctx hx_no_grad(const hx_ctx *ctx) {
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    return quiet;
}

/* ---- elementwise ---- */

/** Two operands of one dtype, with broadcasting: add sub mul div (complex too: add sub mul), pow maximum minimum. */
hx_status hx_binary(hx_ctx *ctx, hx_op op, hx_tensor *a, hx_tensor *b, hx_tensor **out);
static inline hx_status hx_add(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_add, a, b, out);
}
static inline hx_status hx_sub(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_sub, a, b, out);
}
static inline hx_status hx_mul(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_mul, a, b, out);
}
static inline hx_status hx_div(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    return hx_binary(ctx, HX_OP_div, a, b, out);
}
/** Comparisons with broadcasting, any dtype but complex, the same on both sides: equal not_equal less less_equal.
 *  @param[out] out  bool. No gradient flows. */
hx_status hx_compare(hx_ctx *ctx, hx_op op, hx_tensor *a, hx_tensor *b, hx_tensor **out);
/** a where cond (bool) is true, else b; all three broadcast. NaN on the side not taken does not come through, nor
 *  does its gradient. */
hx_status hx_where(hx_ctx *ctx, hx_tensor *cond, hx_tensor *a, hx_tensor *b, hx_tensor **out);
/** One operand: exp expm1 log log1p sqrt abs sign square reciprocal floor ceil round (half to even) sin cos tan asin
 *  acos atan sinh cosh tanh asinh acosh atanh erf sigmoid softplus relu silu gelu_tanh gelu_erf; conj of a complex x. */
hx_status hx_unary(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_tensor **out);
/** alpha x + beta; complex x too. */
hx_status hx_affine(hx_ctx *ctx, hx_tensor *x, double alpha, double beta, hx_tensor **out);
static inline hx_status hx_neg(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    return hx_affine(ctx, x, -1, 0, out);
}
/** min(max(x, low), high); derivative 1 within and on the bounds. @return HX_ERR_ARG if low > high or one is NaN */
hx_status hx_clamp(hx_ctx *ctx, hx_tensor *x, double low, double high, hx_tensor **out);
/** x where x > 0, else slope x (Maas et al. 2013). */
hx_status hx_leaky_relu(hx_ctx *ctx, hx_tensor *x, double slope, hx_tensor **out);
/** silu(gate) up of x [..,2H], whose last dim holds gate [H], then up [H]; half types are rounded once, at the end
 *  (Shazeer 2020, eq. 5). @param[out] out [..,H] @return HX_ERR_SHAPE if the last dim is odd
 *  Memory: x is saved for backward */
hx_status hx_swiglu(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);
/** Conversion to another dtype; differentiable between floating types. Same dtype: a contiguous copy. */
hx_status hx_cast(hx_ctx *ctx, hx_tensor *x, hx_dtype dtype, hx_tensor **out);
/** A floating x of a half type as f32 (hx_dtype_accum), for a computation of several ops that rounds once at its end;
 *  x itself (retained) otherwise. */
hx_status hx_widen(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);
/** A new tensor [] of `value`, which broadcasts against anything. */
hx_status hx_scalar(hx_ctx *ctx, hx_dtype dtype, double value, hx_tensor **out);
/** x itself (retained) if row-major without gaps, else a copy that is. */
hx_status hx_contiguous(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);

/* ---- views and movement ---- */

/** View under another shape (one dim may be -1); copies first if x's strides do not allow it. */
hx_status hx_reshape(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out);
/** Drop dim, which has size 1; add a dim of size 1 before `dim` (-1: at the end). */
hx_status hx_squeeze(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
hx_status hx_unsqueeze(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
hx_status hx_permute(hx_ctx *ctx, hx_tensor *x, const int *perm, hx_tensor **out);
hx_status hx_transpose(hx_ctx *ctx, hx_tensor *x, int dim0, int dim1, hx_tensor **out);
hx_status hx_slice(hx_ctx *ctx, hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out);
hx_status hx_expand(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out);
/** n_parts (1 to 4) consecutive views along dim; sizes [n_parts] must add up to the dim. */
hx_status hx_split(hx_ctx *ctx, hx_tensor *x, int dim, const int64_t *sizes, int n_parts, hx_tensor **out);
/** A complex [..] as reals [..,2] and back; views. as_complex needs a last dim of 2 with stride 1 and even offsets. */
hx_status hx_view_as_real(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);
hx_status hx_view_as_complex(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);
/** The tensors [n], n >= 1, one after the other along dim; equal in dtype and in the other dims. */
hx_status hx_cat(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out);
/** The tensors [n] of one shape along a new dim. */
hx_status hx_stack(hx_ctx *ctx, hx_tensor *const *x, int n, int dim, hx_tensor **out);
/** out[..,j,..] = x[..,index[..,j,..],..] along dim; index (i32|i64) has x's shape but for that dim. An index outside
 *  [0, size) gives NaN (0 in integer dtypes) and receives no gradient. */
hx_status hx_gather(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor *index, hx_tensor **out);
typedef enum hx_pad_mode { HX_PAD_ZERO, HX_PAD_REFLECT, HX_PAD_REPLICATE, HX_PAD_CIRCULAR } hx_pad_mode;
/** x with before[d] elements ahead of and after[d] behind each dim d. ZERO fills with `value`; REFLECT mirrors without
 *  repeating the edge and needs less than the dim's size, CIRCULAR at most it. @param before, after  [ndim], >= 0 */
hx_status hx_pad(hx_ctx *ctx, hx_tensor *x, const int64_t *before, const int64_t *after, hx_pad_mode mode, double value,
                 hx_tensor **out);

/* ---- reductions; dims [n_dims], n_dims 0: all ---- */

hx_status hx_sum(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Sum divided by the number of elements summed; half types are summed as f32, so that the sum does not overflow. */
hx_status hx_mean(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Largest and smallest (NaN wins); the gradient is divided evenly among ties. @return HX_ERR_SHAPE over no elements */
hx_status hx_max(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
hx_status hx_min(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Sum of squared deviations from the mean over max(n - correction, 0), in two passes; 0/0 is NaN. std is its
 *  root, taken in f32 for half types; the gradient is 0 where it is 0.
 *  @param correction  >= 0 */
hx_status hx_var(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, double correction, bool keepdim, hx_tensor **out);
hx_status hx_std(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, double correction, bool keepdim, hx_tensor **out);
/** (sum |x|^p)^(1/p), p > 0; HUGE_VAL: largest |x|. Gradient 0 where the norm is 0. */
hx_status hx_norm(hx_ctx *ctx, hx_tensor *x, double p, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Index (i64) of the first largest or smallest along dim; a NaN counts as the extreme. */
hx_status hx_argmax(hx_ctx *ctx, hx_tensor *x, int dim, bool keepdim, hx_tensor **out);
hx_status hx_argmin(hx_ctx *ctx, hx_tensor *x, int dim, bool keepdim, hx_tensor **out);
/** The k largest (smallest) along the last dim, in falling (rising) order, equal ones by index, NaN first.
 *  @param[out] values [..,k]; @param[out] indices [..,k] i64 */
hx_status hx_topk(hx_ctx *ctx, hx_tensor *x, int64_t k, bool smallest, hx_tensor **values, hx_tensor **indices);
hx_status hx_softmax(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
hx_status hx_log_softmax(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);

/* ---- products ---- */

/** [..,M,K] x [..,K,N] -> [..,M,N]; batch dims broadcast; transposed views cost nothing. A 1-D operand is a row on the
 *  left, a column on the right, and its dim is dropped from the result. */
hx_status hx_matmul(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out);
/** x [..,K] w^T + bias. @param w [N,K]; @param bias [N] or NULL; @param[out] out [..,N] */
hx_status hx_linear_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **out);
/** Rows of w [V,C] at ids [..] (i32 or i64) -> [..,C]. Ids outside [0,V) yield rows of NaN. */
hx_status hx_embedding_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, hx_tensor **out);
/** The same with w [V,C] being rows [start, start+V) of a table of `total` rows (0: the whole table): an id of another row
 *  yields zeros, so that the sum over the parts of a table is what the whole one yields; ids outside [0,total) yield NaN.
 *  @return HX_ERR_SHAPE unless 0 <= start and start + V <= total
 *  Source: Shoeybi et al. 2019, "Megatron-LM", section 3 */
hx_status hx_embedding_part_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, int64_t start, int64_t total, hx_tensor **out);

/* How a window moves over n = 1 to 3 spatial dims; an entry 0 of stride or dilation means 1, groups 0 means 1. */
typedef struct hx_conv_config {
    int64_t stride[3], padding[3], dilation[3]; /* padding: zeros on both sides; other modes by hx_pad before */
    int64_t groups;
} hx_conv_config;
/** Cross-correlation. @param x [B,C,L..] with 1 to 3 spatial dims; @param w [O,C/groups,K..]; @param bias [O] or NULL
 *  @param[out] out [B,O,M..], M = floor((L + 2 padding - dilation (K-1) - 1) / stride) + 1
 *  @return HX_ERR_SHAPE: channels not divisible by groups, a kernel longer than the padded input */
hx_status hx_conv(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, const hx_conv_config *config, hx_tensor **out);
/** Largest of each window; padding never wins, NaN does; the gradient goes to the first largest.
 *  @param window  [spatial dims]; a stride of 0 means the window; padding at most half the window. groups must be 0
 *                 or 1. A window with all elements in the padding, which dilation makes possible, gives -inf
 *  @return HX_ERR_SHAPE: an empty spatial dim, a window longer than the padded input */
hx_status hx_max_pool(hx_ctx *ctx, hx_tensor *x, const int64_t *window, const hx_conv_config *config, hx_tensor **out);
/** Mean of each window; window, stride and padding as above, no dilation.
 *  @param count_padding  padded zeros count as elements */
hx_status hx_avg_pool(hx_ctx *ctx, hx_tensor *x, const int64_t *window, const hx_conv_config *config, bool count_padding,
                      hx_tensor **out);

/* ---- Fourier transforms along one dim, any length >= 1; f32 and c64, f64 and c128 ---- */

/** X_k = sum_j x_j e^(-2 pi i jk/n) of a complex tensor; ifft has the opposite sign and divides by n. */
hx_status hx_fft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
hx_status hx_ifft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
/** Real x of n elements along dim -> the n/2 + 1 first bins. */
hx_status hx_rfft(hx_ctx *ctx, hx_tensor *x, int dim, hx_tensor **out);
/** The inverse: n/2 + 1 bins -> n reals. The imaginary parts of bin 0, and of bin n/2 for even n, are taken as 0. */
hx_status hx_irfft(hx_ctx *ctx, hx_tensor *x, int dim, int64_t n, hx_tensor **out);

/** Causal convolution of each channel with a kernel as long as the signal, in O(L log L): the layer of S4 and Hyena.
 *  @param x  [B,C,L]; @param h  [C,K], any K: elements from L on are not read; @param d  [C]: adds d x; NULL: nothing
 *  @param[out] out  [B,C,L]
 *  Formula: y_t = sum over s <= t of h_s x_{t-s}, + d x_t
 *  Error: about the dtype's epsilon times |h| |x|, the 2-norms of kernel and row, at every t; so where an element is not
 *  finite, all of its row is not (row b,c of x; channel c of h and d)
 *  Memory: x and h saved for backward, no spectra; on cpu a few rows for each thread
 *  @return HX_ERR_UNSUPPORTED on cuda
 *  Source: Poli et al. 2023, "Hyena Hierarchy", eq. 2; Fu et al. 2023, "FlashFFTConv" */
hx_status hx_fftconv(hx_ctx *ctx, hx_tensor *x, hx_tensor *h, hx_tensor *d, hx_tensor **out);

/* ---- norms and attention ---- */

/** Layer normalisation over the last dim (Ba et al. 2016). @param b [C] or NULL */
hx_status hx_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out);
/** Root-mean-square normalisation over the last dim (Zhang & Sennrich 2019). */
hx_status hx_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, double eps, hx_tensor **out);
/** A residual sum and its norm in one pass: the bits of hx_add and hx_layernorm_op (hx_rmsnorm_op) one after the other
 *  (on cuda where x and r begin on 16 bytes, as tensors of their own do).
 *  @param x, r [..,C] of one shape; @param w [C]; @param b [C] or NULL
 *  @param[out] y  [..,C] the norm of s
 *  @param[out] s  [..,C] x + r, rounded to their dtype before its norm is taken; gradients flow from both results
 *  Memory: as the norm alone: s takes the place of its operand in what is saved for backward
 *  @return HX_ERR_SHAPE: x and r differ (they do not broadcast), w or b is not [C]; otherwise as hx_layernorm_op */
hx_status hx_add_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **y, hx_tensor **s);
hx_status hx_add_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *r, hx_tensor *w, double eps, hx_tensor **y, hx_tensor **s);
/** Batch normalisation over all dims but dim 1 (Ioffe & Szegedy 2015), with the statistics of x itself.
 *  @param x [B,C,..]; @param w, b [C]; NULL: 1 and 0
 *  @param[out] mean, rstd  [C] of this batch, f32 for half types, for running averages, which no gradient flows from; may
 *              be NULL
 *  Formula: out = (x - mean) rstd w + b, rstd = 1/sqrt(mean((x - mean)^2) + eps)
 *  @return HX_ERR_SHAPE if a channel has no element */
hx_status hx_batchnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out, hx_tensor **mean,
                          hx_tensor **rstd);

/** Scaled dot-product attention, computed in blocks: T x S scores never exist for all heads at once.
 *  @param q   [B,T,H,D], strided views of a fused projection are fine as long as the last dim is dense
 *  @param k   [B,S,G,D]; @param v [B,S,G,D]; H a multiple of G (grouped-query attention, Ainslie et al. 2023)
 *  @param mask  bool, broadcast to [B,H,T,S]: true where query t may see key s; NULL: everywhere. A query that may see
 *              no key gets 0
 *  @param causal  query t sees keys 0 .. t + S - T, on top of the mask
 *  @param scale   0 means 1/sqrt(D)
 *  @param[out] out [B,T,H,D]
 *  Formula: out = softmax(scale q k^T + mask) v
 *  Memory: the logsumexp [B,H,T] and out are saved for backward
 *  Source: Vaswani et al. 2017, eq. 1; Dao et al. 2022 for the blocked backward */
hx_status hx_attention_op(hx_ctx *ctx, hx_tensor *q, hx_tensor *k, hx_tensor *v, hx_tensor *mask, bool causal, double scale,
                          hx_tensor **out);
/** Rotary positions (Su et al. 2021): pairs (x_i, x_{i+D/2}) turned by (start + t) base^(-2i/D), the half-split layout of
 *  LLaMA's published weights. @param x [B,T,H,D], D even */
hx_status hx_rope(hx_ctx *ctx, hx_tensor *x, double base, int64_t start, hx_tensor **out);

#define HX_IGNORE_INDEX (-100)
/** Cross-entropy of class ids, summed. @param logits [..,V]; @param ids [..] i32|i64
 *  @param[out] loss_sum f64 scalar; @param[out] count i64 scalar: targets that are not ignore_index */
hx_status hx_cross_entropy(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index,
                           hx_tensor **loss_sum, hx_tensor **count);
/** The same with logits [..,V] being columns [start, start+V) of `total` (0: all of them), V = 0 included.
 *  @param lse  [..] f32, f64 for f64: logsumexp over all the columns, put together from those of the parts
 *  @param[out] loss_sum  over the targets in this part of lse - logit: the loss is the sum over the parts
 *  @param[out] count  all targets that are not ignore_index, in whichever part
 *  Formula: loss = sum_t [start <= y_t < start + V] (lse_t - z_t,y_t)
 *  Derivative: dz_c = dloss (e^(z_c - lse) - [start + c = y_t]), that of the sum over all parts if lse follows the logits of
 *  all of them. lse gets no gradient: it is the caller's to see that it is of these logits, and that every part runs
 *  backward from the same dloss.
 *  @return HX_ERR_SHAPE unless 0 <= start and start + V <= total
 *  Source: Shoeybi et al. 2019, section 3 */
hx_status hx_cross_entropy_part(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index, int64_t start, int64_t total,
                                hx_tensor *lse, hx_tensor **loss_sum, hx_tensor **count);
/** logsumexp [..] over the columns of this part, f32 (f64 for f64): -inf where there are none. A constant: not recorded.
 *  The whole's is the logsumexp of those of the parts. @param ids  as above; they do not matter */
hx_status hx_logsumexp_part(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t start, int64_t total, hx_tensor **lse);

/* ---- random ---- */

/** Inverted dropout; x itself (retained) when the context is not training or p is 0.
 *  The mask is a function of (seed, id, step, global sample, element): dim 0 of x counts samples from
 *  ctx->sample_base, so the mask is the same however the batch is spread over ranks. With ctx->seq_total dim 1 of an x with
 *  3 dims or more counts tokens from ctx->seq_first, so it is the same however the sequence is.
 *  @param p  in [0,1); @param id  tells layers apart
 *  @return HX_ERR_SHAPE if x has tokens outside [0, seq_total) */
hx_status hx_dropout_op(hx_ctx *ctx, hx_tensor *x, double p, uint64_t id, hx_tensor **out);
/** Overwrite x (contiguous): element i = a + b draw(offset + i), uniform in [0,1) or standard normal. */
hx_status hx_fill_uniform(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b);
hx_status hx_fill_normal(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b);
/** 1 with probability p, else 0: where the uniform draw of offset + i is below p. */
hx_status hx_fill_bernoulli(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double p);

/* ---- not recorded ---- */

/** dst = src with conversion, same shape. */
hx_status hx_copy_into(hx_ctx *ctx, hx_tensor *src, hx_tensor *dst);
/** out (f64 scalar, existing) = or += sum of x^2. */
hx_status hx_sumsq_into(hx_ctx *ctx, hx_tensor *x, bool accumulate, hx_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
