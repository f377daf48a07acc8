/* The op table: what an op is called, how many operands it has, and the call record that backends execute.
 * Users call the typed functions of core/op/ops.h; this header is for backends, the tape and tests.
 */
#ifndef HX_CORE_OP_OP_H
#define HX_CORE_OP_OP_H

#include "core/base/rng.h"
#include "core/tensor/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum hx_op {
#define HX_OP(name, n_req, n_in, n_out, infer, vjp, saves, flags, doc) HX_OP_##name,
#include "core/op/ops.def"
#undef HX_OP
    HX_OP_COUNT
} hx_op;

#define HX_OP_MAX_IN  8
#define HX_OP_MAX_OUT 5

#define HX_NORM_BLOCK 4096 /* elements whose part of a norm norm_blocks keeps apart */

typedef union hx_op_attr {
    struct {
        double alpha, beta;
    } affine;
    struct {
        hx_dtype dtype;
    } copy;
    struct {
        int n_dims; /* dims to sum over, 0..ndim-1, ascending; the output drops them unless keepdim */
        int dims[HX_MAX_DIMS];
        bool keepdim;
        bool accumulate;
    } reduce;
    struct {
        double p; /* norm_blocks: 1, 2 or HUGE_VAL */
    } blocks;
    struct {
        double alpha;
        bool accumulate;
    } matmul;
    struct {
        int64_t rows;
        bool accumulate;
        int64_t start, total; /* w holds rows [start, start+V) of a table of `total`; total 0: all of them */
    } embedding;
    struct {
        double eps;
        unsigned accumulate; /* backward: bit i: add to output i */
    } norm;
    struct {
        double scale; /* as used: never 0 here */
        bool causal;  /* query t sees keys 0 .. t + S - T */
    } attention;
    struct {
        double base;   /* of the frequencies base^(-2i/D) */
        int64_t start; /* position of the first token */
        bool inverse;  /* turn back: the derivative */
    } rope;
    struct {
        int64_t ignore_index;
        int64_t start, total; /* logits are columns [start, start+V) of `total`; total 0: all of them */
    } cross_entropy;
    struct {
        hx_rng rng;
        int64_t offset; /* element i draws at offset + i (row-major) */
        int64_t inner, stride; /* dropout; where inner > 0, at offset + (i / inner) stride + i % inner */
        double p;       /* dropout */
        double a, b;    /* random_* */
    } random;
    struct {
        double lr, beta1, beta2, eps, weight_decay;
        int64_t step; /* 1 for the first update */
        bool l2;      /* Adam: weight_decay p is added to the gradient */
    } adamw;
    struct {
        double lr, weight_decay, momentum, dampening;
        bool nesterov;
        bool is_first; /* the buffer becomes the gradient, without dampening */
    } sgd;
    struct {
        double lr, alpha, eps, weight_decay, momentum;
    } rmsprop;
    struct {
        double lr, beta1, beta2, weight_decay;
    } lion;
    struct {
        double low, high; /* clamp; low <= high, infinities leave a side open */
    } clamp;
    struct {
        double slope; /* leaky_relu: of the negative side */
    } leaky;
    struct {
        int dim;        /* 0..ndim-1: what cat, gather, argmax and argmin work along */
        int64_t size;   /* gather_bwd: of that dim in the output */
        bool keepdim;   /* argmax, argmin */
    } dim;
    struct {
        int64_t k;
        bool smallest;
    } topk; /* over the last dim */
    struct {
        int n_dims; /* as reduce: pnorm and var */
        int dims[HX_MAX_DIMS];
        bool keepdim;
        double p;          /* pnorm: 1, 2, HUGE_VAL or any number > 0 */
        double correction; /* var: divides by n - correction */
    } stat;
    struct {
        int mode;                                          /* hx_pad_mode */
        int64_t before[HX_MAX_DIMS], after[HX_MAX_DIMS];   /* by dim of x */
        double value;                                      /* of HX_PAD_ZERO */
    } pad;
    struct {
        int n; /* spatial dims, 1 to 3 */
        int64_t stride[3], padding[3], dilation[3];
        int64_t groups;
        int64_t size[3];  /* conv_bwd_w: of the kernel; pools: the window */
        int64_t input[3]; /* conv_bwd_x and the pools' derivatives: x's spatial dims */
        bool count_padding; /* avg_pool: padded zeros count in the mean */
        bool accumulate;    /* conv_bwd_w: add to the output */
    } conv; /* convolutions and pools */
    struct {
        bool inverse;    /* e^(+2 pi i jk/n) */
        double scale;    /* of the result */
        int64_t n;       /* irfft: length of the real output */
        double interior; /* rfft: factor of the output's bins other than 0 and n/2; irfft: of the input's */
    } fft;
    struct {
        unsigned accumulate; /* fftconv_bwd: bit i: add to output i */
    } fftconv;
    struct { /* view ops; derivative only */
        int dim;
        int64_t start, step;
        int perm[HX_MAX_DIMS];
    } view;
} hx_op_attr;

struct hx_op_call {
    hx_op op;
    int n_in, n_out;
    hx_op_attr attr;
    hx_array in[HX_OP_MAX_IN];   /* absent optional operands have data == NULL and ndim == -1 */
    hx_array out[HX_OP_MAX_OUT]; /* outputs not wanted likewise */
};

enum { HX_OP_VIEW = 1, HX_OP_INOUT = 2 };

/* What an operand holds of a vocabulary: rows or columns [start, start+n) of `total`. */
typedef struct hx_part {
    int64_t start, n, total;
} hx_part;

/** Of an operand with n rows or columns, by the attributes of that name. */
static inline hx_part hx_part_of(int64_t start, int64_t total, int64_t n) {
    hx_part part = {start, n, total > 0 ? total : n};
    return part;
}
/** Whether an id is one at all, and whether the part has it. */
static inline bool hx_part_knows(hx_part part, int64_t id) { return id >= 0 && id < part.total; }
static inline bool hx_part_has(hx_part part, int64_t id) { return id >= part.start && id - part.start < part.n; }

/* Operand records for shape rules. */
typedef struct hx_op_meta {
    hx_shape shape;
    hx_dtype dtype;
    bool present;
} hx_op_meta;

typedef struct hx_op_args {
    hx_op op;
    const char *name;
    int n_in;
    hx_op_meta in[HX_OP_MAX_IN];
    const hx_op_attr *attr;
} hx_op_args;

typedef struct hx_vjp hx_vjp; /* core/autograd/tape.h */

typedef struct hx_op_info {
    const char *name;
    int n_required, n_in, n_out;
    hx_status (*infer)(const hx_op_args *args, hx_op_meta *out);
    hx_status (*vjp)(hx_vjp *v); /* NULL: no derivative */
    unsigned saves;              /* bit i: input i; bit 8+i: output i */
    int flags;
    const char *doc;
} hx_op_info;

/** The table's row. */
const hx_op_info *hx_op_info_get(hx_op op);

/** Floating point operations of a call (2mnk for products, a small count per element otherwise); for
 *  statistics and plans. */
double hx_op_flops(const hx_op_call *call);
/** Bytes that a call moves at least: every operand is read once, every output written once; of a table that is looked up, the rows
 *  that are. What repeats (stride 0) counts once. */
int64_t hx_op_bytes(const hx_op_call *call);

/** Fill a call's operand from a tensor (NULL: absent). */
hx_array hx_op_operand(const hx_tensor *tensor);

struct hx_ctx;
/** Run an op: check the operands, create the outputs that are NULL, execute, record on the tape.
 *  @param in   [n_in], NULL for absent optional operands
 *  @param out  [n_out of the row]; an entry that is not NULL is written in place, must have the right shape and dtype
 *              (f32 for a half type too, but for where, cat, gather and pad: the result is then not rounded), and
 *              repeat no element (stride 0); for elementwise ops, and from logits to their gradient, it may be an
 *              input itself, otherwise overlapping one is HX_ERR_ARG; entries of `skip` (bit i) are neither created
 *              nor written, and an op that updates its outputs works without them where its row says so; what
 *              backward needs (saves) cannot be skipped while the tape records: HX_ERR_ARG
 *  On failure no new output is left behind. */
hx_status hx_op_run(struct hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, const hx_op_attr *attr,
                    unsigned skip, hx_tensor **out);

#ifdef __cplusplus
}
#endif
#endif
