/* Operations on tensors, recorded for differentiation when the context has a tape.
 *
 * Conventions: operands are borrowed; the result is a new tensor that the caller destroys; `ctx` names the
 * device, the stream and the tape. Shapes are checked before anything is enqueued. Operands may be strided views
 * unless said otherwise. Kernels work in the operand's dtype: f32 or f64. Errors of all: HX_ERR_SHAPE,
 * HX_ERR_DTYPE, HX_ERR_UNSUPPORTED (no kernel for the dtype on this device), HX_ERR_MEMORY.
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
} hx_ctx;

/** Elementwise with broadcasting: add sub mul div maximum minimum. Same dtype on both sides. */
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
/** Elementwise: exp log sqrt abs sign tanh sigmoid relu silu gelu_tanh gelu_erf. */
hx_status hx_unary(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_tensor **out);
/** alpha x + beta */
hx_status hx_affine(hx_ctx *ctx, hx_tensor *x, double alpha, double beta, hx_tensor **out);
/** Conversion to another dtype; differentiable between floating types. Same dtype: a contiguous copy. */
hx_status hx_cast(hx_ctx *ctx, hx_tensor *x, hx_dtype dtype, hx_tensor **out);
/** x itself (retained) if row-major without gaps, else a copy that is. */
hx_status hx_contiguous(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);

/** View under another shape (one dim may be -1); copies first if x is not contiguous. */
hx_status hx_reshape(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out);
hx_status hx_permute(hx_ctx *ctx, hx_tensor *x, const int *perm, hx_tensor **out);
hx_status hx_transpose(hx_ctx *ctx, hx_tensor *x, int dim0, int dim1, hx_tensor **out);
hx_status hx_slice(hx_ctx *ctx, hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out);
hx_status hx_expand(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out);
/** n_parts (1 to 4) consecutive views along dim; sizes [n_parts] must add up to the dim. */
hx_status hx_split(hx_ctx *ctx, hx_tensor *x, int dim, const int64_t *sizes, int n_parts, hx_tensor **out);

/** Sum over dims [n_dims] (n_dims 0: over all). */
hx_status hx_sum(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Sum divided by the number of elements summed. */
hx_status hx_mean(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out);
/** Softmax over the last dim. */
hx_status hx_softmax(hx_ctx *ctx, hx_tensor *x, hx_tensor **out);

/** [..,M,K] x [..,K,N] -> [..,M,N]; at least 2-D; batch dims broadcast; transposed views cost nothing. */
hx_status hx_matmul(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out);
/** x [..,K] w^T + bias. @param w [N,K]; @param bias [N] or NULL; @param[out] out [..,N] */
hx_status hx_linear_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **out);
/** Rows of w [V,C] at ids [..] (i32 or i64) -> [..,C]. Ids outside [0,V) yield rows of NaN. */
hx_status hx_embedding_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, hx_tensor **out);
/** Layer normalisation over the last dim (Ba et al. 2016). @param b [C] or NULL */
hx_status hx_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out);
/** Root-mean-square normalisation over the last dim (Zhang & Sennrich 2019). */
hx_status hx_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, double eps, hx_tensor **out);

/** Scaled dot-product attention, computed in blocks: T x S scores never exist for all heads at once.
 *  @param q   [B,T,H,D], strided views of a fused projection are fine as long as the last dim is dense
 *  @param k   [B,S,G,D]; @param v [B,S,G,D]; H a multiple of G (grouped-query attention, Ainslie et al. 2023)
 *  @param causal  query t sees keys 0 .. t + S - T
 *  @param scale   0 means 1/sqrt(D)
 *  @param[out] out [B,T,H,D]
 *  Formula: out = softmax(scale q k^T + mask) v
 *  Memory: the logsumexp [B,H,T] and out are saved for backward
 *  Source: Vaswani et al. 2017, eq. 1; Dao et al. 2022 for the blocked backward */
hx_status hx_attention_op(hx_ctx *ctx, hx_tensor *q, hx_tensor *k, hx_tensor *v, bool causal, double scale,
                          hx_tensor **out);

#define HX_IGNORE_INDEX (-100)
/** Cross-entropy of class ids, summed. @param logits [..,V]; @param ids [..] i32|i64
 *  @param[out] loss_sum f64 scalar; @param[out] count i64 scalar: targets that are not ignore_index */
hx_status hx_cross_entropy(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index,
                           hx_tensor **loss_sum, hx_tensor **count);

/** Inverted dropout; x itself (retained) when the context is not training or p is 0.
 *  The mask is a function of (seed, id, step, global sample, element): dim 0 of x counts samples from
 *  ctx->sample_base, so the mask is the same however the batch is spread over ranks.
 *  @param p  in [0,1); @param id  tells layers apart */
hx_status hx_dropout_op(hx_ctx *ctx, hx_tensor *x, double p, uint64_t id, hx_tensor **out);
/** Overwrite x (contiguous): element i = a + b draw(offset + i), uniform in [0,1) or standard normal. */
hx_status hx_fill_uniform(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b);
hx_status hx_fill_normal(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b);

/** dst = src with conversion, same shape; not recorded. */
hx_status hx_copy_into(hx_ctx *ctx, hx_tensor *src, hx_tensor *dst);
/** out (f64 scalar, existing) = or += sum of x^2; not recorded. */
hx_status hx_sumsq_into(hx_ctx *ctx, hx_tensor *x, bool accumulate, hx_tensor *out);

#ifdef __cplusplus
}
#endif
#endif
