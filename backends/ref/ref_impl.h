/* Inside of the ref backend: element access, the one iterator over dims, and the ops.
 *
 * Every op reads its operands as float64, computes in float64 and rounds once when it stores a result.
 */
#ifndef HX_BACKENDS_REF_REF_IMPL_H
#define HX_BACKENDS_REF_REF_IMPL_H

#include <math.h>

#include "core/op/op.h"

/* ---- elements: `at` counts elements from a->data ---- */

/** Element as float64, any dtype. */
double hx__ref_get(const hx_array *a, int64_t at);
/** Element of an integer dtype. */
int64_t hx__ref_get_int(const hx_array *a, int64_t at);
/** Store as hx_elem_set does. Does nothing for an absent operand. */
void hx__ref_set(const hx_array *a, int64_t at, double value);
/** Store an integer as hx_elem_set_int does. Does nothing for an absent operand. */
void hx__ref_set_int(const hx_array *a, int64_t at, int64_t value);
/** Store, or add to what is there. */
void hx__ref_put(const hx_array *a, int64_t at, double value, bool accumulate);

/** Copy an element as it is; both arrays have one dtype. */
void hx__ref_move(const hx_array *to, int64_t at_to, const hx_array *from, int64_t at_from);

static inline bool hx__ref_has(const hx_array *a) { return a->data != NULL; }

/* ---- iteration ---- */

#define HX_REF_WALK_MAX 6

/* Visits all indices of a shape in row-major order and keeps each operand's offset. */
typedef struct hx__ref_walk {
    int ndim, n_arrays;
    bool is_done;
    int64_t index; /* row-major number of the position */
    int64_t dims[HX_MAX_DIMS], at_dim[HX_MAX_DIMS];
    int64_t strides[HX_REF_WALK_MAX][HX_MAX_DIMS];
    int64_t at[HX_REF_WALK_MAX]; /* offset of the current element in each operand */
} hx__ref_walk;

/** Walk over arrays[0]'s shape; the others broadcast to it, absent ones stay at offset 0. */
hx__ref_walk hx__ref_walk_start(int n_arrays, const hx_array *const *arrays);
void hx__ref_walk_next(hx__ref_walk *walk);

#define HX_REF_ARRAYS(...)                                                                                   \
    (const hx_array *const[]) { __VA_ARGS__ }

/** The array without its last n dims: an op that loops over those itself walks over the rest. */
static inline hx_array hx__ref_lead(const hx_array *a, int n) {
    hx_array lead = *a;
    lead.ndim -= n;
    return lead;
}

/** Size and stride of a dim counted from the end: 1 is the last. */
static inline int64_t hx__ref_dim(const hx_array *a, int from_end) { return a->dims[a->ndim - from_end]; }
static inline int64_t hx__ref_stride(const hx_array *a, int from_end) {
    return a->strides[a->ndim - from_end];
}

/** Split input 0's dims into those that attr.reduce runs over (attr.stat begins the same) and those that stay; with
 *  keepdim a reduced dim stays as 1. */
void hx__ref_split_dims(const hx_op_call *call, hx_array *kept, hx_array *reduced);

/* ---- sums ---- */

/* Compensated summation (Neumaier 1974): a sum of any length is good to an ulp or two, as what it is compared
 * with may be summed in blocks and thereby better than a plain loop. */
typedef struct hx__ref_total {
    double high, low;
} hx__ref_total;

static inline void hx__ref_add(hx__ref_total *sum, double x) {
    double high = sum->high + x;
    sum->low += fabs(sum->high) >= fabs(x) ? (sum->high - high) + x : (x - high) + sum->high;
    sum->high = high;
}

/* After an infinity or a NaN the correction means nothing. */
static inline double hx__ref_value(const hx__ref_total *sum) {
    return isfinite(sum->high) ? sum->high + sum->low : sum->high;
}

/* ---- the ops, by file ---- */

typedef hx_status (*hx__ref_fn)(const hx_op_call *call);

/** Run an op that is linear over the reals on the real parts of its complex operands, then on the imaginary ones. */
hx_status hx__ref_by_parts(const hx_op_call *call, hx__ref_fn run);

/* elementwise.c */
hx_status hx__ref_unary(const hx_op_call *call);
hx_status hx__ref_binary(const hx_op_call *call);
hx_status hx__ref_affine(const hx_op_call *call);
hx_status hx__ref_bounded(const hx_op_call *call);
hx_status hx__ref_bounded_bwd(const hx_op_call *call);
hx_status hx__ref_swiglu(const hx_op_call *call);
hx_status hx__ref_swiglu_bwd(const hx_op_call *call);
hx_status hx__ref_compare(const hx_op_call *call);
hx_status hx__ref_where(const hx_op_call *call);
/* complex.c */
hx_status hx__ref_complex(const hx_op_call *call);
/* pad.c */
hx_status hx__ref_pad(const hx_op_call *call);
hx_status hx__ref_pad_bwd(const hx_op_call *call);
/* stat.c */
hx_status hx__ref_stat(const hx_op_call *call);
/* order.c */
hx_status hx__ref_arg(const hx_op_call *call);
hx_status hx__ref_topk(const hx_op_call *call);
/* movement.c */
hx_status hx__ref_copy(const hx_op_call *call);
hx_status hx__ref_cat(const hx_op_call *call);
hx_status hx__ref_gather(const hx_op_call *call);
hx_status hx__ref_gather_bwd(const hx_op_call *call);
hx_status hx__ref_embedding(const hx_op_call *call);
hx_status hx__ref_embedding_bwd(const hx_op_call *call);
/* reduce.c */
hx_status hx__ref_sum(const hx_op_call *call);
hx_status hx__ref_sumsq(const hx_op_call *call);
hx_status hx__ref_softmax(const hx_op_call *call);
hx_status hx__ref_softmax_bwd(const hx_op_call *call);
hx_status hx__ref_log_softmax_bwd(const hx_op_call *call);
/* matmul.c */
hx_status hx__ref_matmul(const hx_op_call *call);
hx_status hx__ref_linear(const hx_op_call *call);
/* norm.c */
hx_status hx__ref_layernorm(const hx_op_call *call);
hx_status hx__ref_layernorm_bwd(const hx_op_call *call);
hx_status hx__ref_add_layernorm(const hx_op_call *call);
hx_status hx__ref_rmsnorm(const hx_op_call *call);
hx_status hx__ref_rmsnorm_bwd(const hx_op_call *call);
hx_status hx__ref_add_rmsnorm(const hx_op_call *call);
hx_status hx__ref_batchnorm(const hx_op_call *call);
hx_status hx__ref_batchnorm_bwd(const hx_op_call *call);
/* conv.c */
hx_status hx__ref_conv(const hx_op_call *call);
hx_status hx__ref_conv_bwd_x(const hx_op_call *call);
hx_status hx__ref_conv_bwd_w(const hx_op_call *call);
hx_status hx__ref_max_pool(const hx_op_call *call);
hx_status hx__ref_max_pool_bwd(const hx_op_call *call);
hx_status hx__ref_avg_pool(const hx_op_call *call);
hx_status hx__ref_avg_pool_bwd(const hx_op_call *call);
/* attention.c */
hx_status hx__ref_attention(const hx_op_call *call);
hx_status hx__ref_attention_bwd(const hx_op_call *call);
hx_status hx__ref_rope(const hx_op_call *call);
/* fft.c */
hx_status hx__ref_fft(const hx_op_call *call);
hx_status hx__ref_rfft(const hx_op_call *call);
hx_status hx__ref_irfft(const hx_op_call *call);
hx_status hx__ref_fftconv(const hx_op_call *call);
hx_status hx__ref_fftconv_bwd(const hx_op_call *call);
/* loss.c */
hx_status hx__ref_cross_entropy(const hx_op_call *call);
hx_status hx__ref_cross_entropy_bwd(const hx_op_call *call);
/* random.c */
hx_status hx__ref_dropout(const hx_op_call *call);
hx_status hx__ref_random(const hx_op_call *call);
/* optim.c */
hx_status hx__ref_adamw(const hx_op_call *call);
hx_status hx__ref_sgd(const hx_op_call *call);
hx_status hx__ref_rmsprop(const hx_op_call *call);
hx_status hx__ref_lion(const hx_op_call *call);
hx_status hx__ref_sumabs(const hx_op_call *call);
hx_status hx__ref_maxabs(const hx_op_call *call);
hx_status hx__ref_norm_blocks(const hx_op_call *call);

#endif
