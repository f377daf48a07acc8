/* The typed functions of ops.h over hx_op_run; views are made here. */
#include "core/op/ops.h"

#include <math.h>
#include <string.h>

#include "core/autograd/tape.h"
#include "core/base/mem.h"
#include "core/op/op_impl.h"
#include "core/tensor/tensor_impl.h"

/* ---- elementwise ---- */

static hx_status need_rule(hx_op op, hx_status (*rule)(const hx_op_args *, hx_op_meta *)) {
    if ((unsigned)op < HX_OP_COUNT && hx_op_info_get(op)->infer == rule) return HX_OK;
    return HX_FAIL(HX_ERR_ARG, "op %d is not of this family", (int)op);
}

hx_status hx_binary(hx_ctx *ctx, hx_op op, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    HX_TRY(need_rule(op, hx__infer_binary));
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, op, (hx_tensor *[]){a, b}, 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

static hx_status run1(hx_ctx *ctx, hx_op op, hx_tensor *x, const hx_op_attr *attr, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, op, &x, 1, attr, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_unary(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_tensor **out) {
    HX_TRY(need_rule(op, hx__infer_unary));
    if (op == HX_OP_dropout || op == HX_OP_affine) return HX_FAIL(HX_ERR_ARG, "%s has attributes: use its own function", hx_op_info_get(op)->name);
    return run1(ctx, op, x, NULL, out);
}

hx_status hx_affine(hx_ctx *ctx, hx_tensor *x, double alpha, double beta, hx_tensor **out) {
    return run1(ctx, HX_OP_affine, x, &(hx_op_attr){.affine = {alpha, beta}}, out);
}

hx_status hx_softmax(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    return run1(ctx, HX_OP_softmax, x, NULL, out);
}

hx_status hx_cast(hx_ctx *ctx, hx_tensor *x, hx_dtype dtype, hx_tensor **out) {
    return run1(ctx, HX_OP_copy, x, &(hx_op_attr){.copy = {dtype}}, out);
}

hx_status hx_contiguous(hx_ctx *ctx, hx_tensor *x, hx_tensor **out) {
    if (hx_tensor_is_contiguous(x)) {
        *out = hx_tensor_retain(x);
        return HX_OK;
    }
    return hx_cast(ctx, x, x->array.dtype, out);
}

/* ---- views ---- */

/* Record views that have been made; on failure they are destroyed. */
static hx_status record_view(hx_ctx *ctx, hx_op op, const hx_op_attr *attr, hx_tensor *x, hx_tensor **out, int n_out) {
    hx_status status = HX_OK;
    if (hx__tape_wants(ctx, &x, 1)) status = hx__tape_record(ctx, op, attr, &x, 1, out, n_out);
    for (int i = 0; status != HX_OK && i < n_out; i++) hx_tensor_destroy(&out[i]);
    return status;
}

hx_status hx_reshape(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    HX_AUTO_TENSOR dense = NULL;
    hx_tensor *y;
    HX_TRY(hx_contiguous(ctx, x, &dense));
    HX_TRY(hx_tensor_view(dense, shape, &y));
    HX_TRY(record_view(ctx, HX_OP_view, &(hx_op_attr){0}, dense, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_permute(hx_ctx *ctx, hx_tensor *x, const int *perm, hx_tensor **out) {
    hx_op_attr attr = {0};
    hx_tensor *y;
    HX_TRY(hx_tensor_permute(x, perm, &y));
    memcpy(attr.view.perm, perm, sizeof *perm * (size_t)x->array.ndim);
    HX_TRY(record_view(ctx, HX_OP_permute, &attr, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_transpose(hx_ctx *ctx, hx_tensor *x, int dim0, int dim1, hx_tensor **out) {
    int a, b, perm[HX_MAX_DIMS];
    HX_TRY(hx_shape_dim(x->array.ndim, dim0, &a));
    HX_TRY(hx_shape_dim(x->array.ndim, dim1, &b));
    for (int d = 0; d < x->array.ndim; d++) perm[d] = d == a ? b : d == b ? a : d;
    return hx_permute(ctx, x, perm, out);
}

hx_status hx_slice(hx_ctx *ctx, hx_tensor *x, int dim, int64_t start, int64_t stop, int64_t step, hx_tensor **out) {
    hx_tensor *y;
    int d;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    HX_TRY(hx_tensor_slice(x, d, start, stop, step, &y));
    hx_op_attr attr = {.view = {.dim = d, .start = start, .step = step}};
    HX_TRY(record_view(ctx, HX_OP_slice, &attr, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_expand(hx_ctx *ctx, hx_tensor *x, hx_shape shape, hx_tensor **out) {
    hx_tensor *y;
    HX_TRY(hx_tensor_expand(x, shape, &y));
    HX_TRY(record_view(ctx, HX_OP_expand, &(hx_op_attr){0}, x, &y, 1));
    *out = y;
    return HX_OK;
}

hx_status hx_split(hx_ctx *ctx, hx_tensor *x, int dim, const int64_t *sizes, int n_parts, hx_tensor **out) {
    hx_tensor *part[HX_OP_MAX_OUT] = {NULL};
    hx_status status = HX_OK;
    int64_t start = 0;
    int d, made = 0;
    HX_TRY(hx_shape_dim(x->array.ndim, dim, &d));
    if (n_parts < 1 || n_parts > HX_OP_MAX_OUT) return HX_FAIL(HX_ERR_ARG, "%d parts: expected 1 to %d", n_parts, HX_OP_MAX_OUT);
    for (int i = 0; i < n_parts; i++) {
        int64_t left = x->array.dims[d] - start;
        if (sizes[i] < 0 || sizes[i] > left || (i == n_parts - 1 && sizes[i] != left))
            HX_TRY_GOTO(HX_FAIL(HX_ERR_SHAPE, "sizes[%d] = %lld with %lld left of dim %d: expected sizes that add up to it", i,
                                (long long)sizes[i], (long long)left, d),
                        fail);
        HX_TRY_GOTO(hx_tensor_slice(x, d, start, start + sizes[i], 1, &part[i]), fail);
        made++;
        start += sizes[i];
    }
    HX_TRY(record_view(ctx, HX_OP_split, &(hx_op_attr){.view = {.dim = d, .step = 1}}, x, part, n_parts));
    memcpy(out, part, sizeof *part * (size_t)n_parts);
    return HX_OK;
fail:
    while (made > 0) hx_tensor_destroy(&part[--made]);
    return status;
}

/* ---- reductions ---- */

static hx_status sum_attr(const hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_op_attr *attr) {
    unsigned wanted = 0;
    *attr = (hx_op_attr){.reduce = {.keepdim = keepdim}};
    if (n_dims < 0 || n_dims > x->array.ndim) return HX_FAIL(HX_ERR_SHAPE, "%d dims to sum over of %d", n_dims, x->array.ndim);
    for (int i = 0; i < n_dims; i++) {
        int d;
        HX_TRY(hx_shape_dim(x->array.ndim, dims[i], &d));
        if (wanted >> d & 1) return HX_FAIL(HX_ERR_SHAPE, "dim %d is named twice", d);
        wanted |= 1u << d;
    }
    for (int d = 0; d < x->array.ndim; d++)
        if (n_dims == 0 || (wanted >> d & 1)) attr->reduce.dims[attr->reduce.n_dims++] = d;
    return HX_OK;
}

hx_status hx_sum(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    hx_op_attr attr;
    HX_TRY(sum_attr(x, dims, n_dims, keepdim, &attr));
    return run1(ctx, HX_OP_sum, x, &attr, out);
}

hx_status hx_mean(hx_ctx *ctx, hx_tensor *x, const int *dims, int n_dims, bool keepdim, hx_tensor **out) {
    HX_AUTO_TENSOR sum = NULL;
    HX_TRY(hx_sum(ctx, x, dims, n_dims, keepdim, &sum));
    double parts = (double)hx_tensor_count(x) / (double)hx_tensor_count(sum); /* 0/0: the mean of nothing is NaN */
    if (hx_tensor_count(sum) == 0) parts = 1;
    return hx_affine(ctx, sum, 1 / parts, 0, out);
}

hx_status hx_sumsq_into(hx_ctx *ctx, hx_tensor *x, bool accumulate, hx_tensor *out) {
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    return hx_op_run(&quiet, HX_OP_sumsq, &x, 1, &(hx_op_attr){.reduce = {.accumulate = accumulate}}, 0, &out);
}

/* ---- products ---- */

hx_status hx_matmul(hx_ctx *ctx, hx_tensor *a, hx_tensor *b, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_matmul, (hx_tensor *[]){a, b}, 2, &(hx_op_attr){.matmul = {.alpha = 1}}, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_linear_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *bias, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_linear, (hx_tensor *[]){x, w, bias}, bias ? 3 : 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

hx_status hx_embedding_op(hx_ctx *ctx, hx_tensor *ids, hx_tensor *w, hx_tensor **out) {
    hx_tensor *y = NULL;
    HX_TRY(hx_op_run(ctx, HX_OP_embedding, (hx_tensor *[]){ids, w}, 2, NULL, 0, &y));
    *out = y;
    return HX_OK;
}

/* ---- norms, attention, loss: only the first outputs are the caller's ---- */

/* Run and keep the first n_keep outputs. */
static hx_status run_keep(hx_ctx *ctx, hx_op op, hx_tensor *const *in, int n_in, const hx_op_attr *attr, hx_tensor **out, int n_keep) {
    hx_tensor *y[HX_OP_MAX_OUT] = {NULL};
    HX_TRY(hx_op_run(ctx, op, in, n_in, attr, 0, y));
    memcpy(out, y, sizeof *y * (size_t)n_keep);
    for (int i = n_keep; i < HX_OP_MAX_OUT; i++) hx_tensor_destroy(&y[i]);
    return HX_OK;
}

hx_status hx_layernorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, hx_tensor *b, double eps, hx_tensor **out) {
    return run_keep(ctx, HX_OP_layernorm, (hx_tensor *[]){x, w, b}, b ? 3 : 2, &(hx_op_attr){.norm = {.eps = eps}}, out, 1);
}

hx_status hx_rmsnorm_op(hx_ctx *ctx, hx_tensor *x, hx_tensor *w, double eps, hx_tensor **out) {
    return run_keep(ctx, HX_OP_rmsnorm, (hx_tensor *[]){x, w}, 2, &(hx_op_attr){.norm = {.eps = eps}}, out, 1);
}

hx_status hx_attention_op(hx_ctx *ctx, hx_tensor *q, hx_tensor *k, hx_tensor *v, bool causal, double scale, hx_tensor **out) {
    int64_t head = hx_tensor_dim(q, -1);
    if (scale == 0) scale = head > 0 ? 1 / sqrt((double)head) : 1;
    if (!isfinite(scale)) return HX_FAIL(HX_ERR_ARG, "scale = %g: expected a finite number", scale);
    return run_keep(ctx, HX_OP_attention, (hx_tensor *[]){q, k, v}, 3, &(hx_op_attr){.attention = {scale, causal}}, out, 1);
}

hx_status hx_cross_entropy(hx_ctx *ctx, hx_tensor *logits, hx_tensor *ids, int64_t ignore_index, hx_tensor **loss_sum, hx_tensor **count) {
    hx_tensor *y[2];
    HX_TRY(run_keep(ctx, HX_OP_cross_entropy, (hx_tensor *[]){logits, ids}, 2, &(hx_op_attr){.cross_entropy = {ignore_index}}, y, 2));
    *loss_sum = y[0];
    *count = y[1];
    return HX_OK;
}

/* ---- random ---- */

hx_status hx_dropout_op(hx_ctx *ctx, hx_tensor *x, double p, uint64_t id, hx_tensor **out) {
    if (!(p >= 0 && p < 1)) return HX_FAIL(HX_ERR_ARG, "p = %g: expected 0 <= p < 1", p);
    if (!ctx->training || p == 0) {
        *out = hx_tensor_retain(x);
        return HX_OK;
    }
    int64_t per_sample = x->array.ndim > 0 && x->array.dims[0] > 0 ? hx_tensor_count(x) / x->array.dims[0] : 0;
    hx_op_attr attr = {.random = {.p = p}};
    HX_TRY(hx_count_mul(per_sample, ctx->sample_base, &attr.random.offset));
    /* the stream has 56 bits: layer and step are mixed into them */
    uint64_t stream = (id * 0x9E3779B97F4A7C15ull) ^ (uint64_t)ctx->step * 0xD1342543DE82EF95ull;
    attr.random.rng = (hx_rng){ctx->seed, hx_rng_stream(HX_RNG_DROPOUT, stream)};
    return run1(ctx, HX_OP_dropout, x, &attr, out);
}

static hx_status fill(hx_ctx *ctx, hx_op op, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    hx_op_attr attr = {.random = {.rng = rng, .offset = offset, .a = a, .b = b}};
    return hx_op_run(ctx, op, NULL, 0, &attr, 0, &x);
}

hx_status hx_fill_uniform(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    return fill(ctx, HX_OP_random_uniform, x, rng, offset, a, b);
}

hx_status hx_fill_normal(hx_ctx *ctx, hx_tensor *x, hx_rng rng, int64_t offset, double a, double b) {
    return fill(ctx, HX_OP_random_normal, x, rng, offset, a, b);
}

hx_status hx_copy_into(hx_ctx *ctx, hx_tensor *src, hx_tensor *dst) {
    hx_ctx quiet = *ctx;
    quiet.tape = NULL;
    return hx_op_run(&quiet, HX_OP_copy, &src, 1, &(hx_op_attr){.copy = {dst->array.dtype}}, 0, &dst);
}
